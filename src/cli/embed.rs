//! `scenerank embed`.

use std::path::PathBuf;

use clap::Args;
use scenerank::Result;
use scenerank::atomic_file::write_atomically;
use scenerank::data::Split;
use scenerank::npy::write_npy;

use super::run_arguments::RunArguments;

const EXAMPLES: &str = "\
Examples:
  scenerank embed runs/paper --out all.npy --ids all.txt
  scenerank embed runs/paper --split test --out test.npy --caption-vectors captions.npy";

/// Write the embeddings of images as a .npy file, one row of unit length per image.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct EmbedArguments {
    #[command(flatten)]
    run: RunArguments,
    /// The .npy file to write: [images, width], f32.
    #[arg(long, value_name = "NPY")]
    out: PathBuf,
    /// Which images.
    #[arg(long, value_enum, default_value_t = Split::All)]
    split: Split,
    /// Write the Visual Genome ids of the rows to this text file, one a line.
    #[arg(long, value_name = "TXT")]
    ids: Option<PathBuf>,
    /// Write the images' caption vectors to this .npy file, in the same order.
    #[arg(long, value_name = "NPY")]
    caption_vectors: Option<PathBuf>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

impl EmbedArguments {
    pub fn run(self) -> Result<()> {
        let run = self.run.open()?;
        let (dataset, width) = (&run.dataset, run.width());
        let images = dataset.split(self.split);
        write_npy(&self.out, &run.embed_split(self.split)?, width)?;
        if let Some(path) = &self.ids {
            write_atomically(path, |writer| {
                images.clone().try_for_each(|image| writeln!(writer, "{}", dataset.image_id(image)))
            })?;
        }
        if let Some(path) = &self.caption_vectors {
            let words = dataset.word_width();
            write_npy(path, &dataset.caption_vectors()[images.start * words..images.end * words], words)?;
        }
        match self.json {
            true => {
                println!(
                    "{}",
                    serde_json::json!({ "out": self.out, "images": images.len(), "width": width })
                );
            }
            false => println!("{}: {} images of {width} values", self.out.display(), images.len()),
        }
        Ok(())
    }
}
