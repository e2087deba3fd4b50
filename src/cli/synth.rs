//! `scenerank synth`: writes a synthetic collection.

use std::path::PathBuf;

use clap::Args;
use scenerank::Result;
use scenerank::synth::{SynthConfig, write_collection};

/// Write a synthetic collection: scene graphs, captions and word vectors in the public formats.
#[derive(Args)]
#[command(after_help = "\
Examples:
  scenerank synth demo/raw
  scenerank synth large/raw --images 100000 --seed 7 --gzip

Writes scene_graphs.json and image_data.json (Visual Genome), captions.json (COCO)
and glove.txt (GloVe), about 4 kB per image, and prints their paths. The same options
give the same bytes on any number of threads.")]
pub struct SynthArguments {
    /// Folder to write to; created if necessary.
    out: PathBuf,
    /// Number of images.
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().images)]
    images: u64,
    /// Seed that selects the images; a larger collection with the same seed begins with the same images.
    #[arg(long, value_name = "S", default_value_t = SynthConfig::default().seed)]
    seed: u64,
    /// Width of the word vectors.
    #[arg(long, value_name = "WIDTH", default_value_t = SynthConfig::default().word_width)]
    word_width: usize,
    /// Compress the files; their names end in .gz.
    #[arg(long)]
    gzip: bool,
    /// Replace existing files.
    #[arg(long)]
    force: bool,
}

impl SynthArguments {
    pub fn run(self) -> Result<()> {
        let SynthArguments { out, images, seed, word_width, gzip, force } = self;
        let files = write_collection(&out, &SynthConfig { images, seed, word_width, gzip, force })?;
        for path in [files.scene_graphs, files.image_data, files.captions, files.glove] {
            println!("{}", path.display());
        }
        Ok(())
    }
}
