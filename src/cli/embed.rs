//! `scenerank embed`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use scenerank::Result;
use scenerank::data::Split;
use scenerank::files::arrow::write_arrow;
use scenerank::files::atomic_file::write_atomically;
use scenerank::files::npy::{write_npy, write_npy_half};
use scenerank::files::origin::Origin;
use scenerank::files::outputs::{Kind, Output, check_outputs};
use scenerank::run::Run;

use super::run_arguments::RunArguments;

const EXAMPLES: &str = "\
Examples:
  scenerank embed runs/paper --out all.npy --ids all.txt
  scenerank embed runs/paper --split test --out test.npy \\
      --caption-vectors captions.npy
  scenerank embed runs/paper --out all.arrow";

/// File format of the embeddings.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A .npy file, [images, width], in single precision.
    Npy,
    /// A .npy file in half precision, half as large.
    NpyF16,
    /// An Arrow IPC file (Feather 2): image_id (u64), split (string), embedding (fixed-size list of f32).
    Arrow,
}

/// Write the embeddings of images, one row of unit length per image.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct EmbedArguments {
    #[command(flatten)]
    run: RunArguments,
    /// File to write. Beside a .npy file, FILE.json tells its model, its data and the ids of its rows.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// File format [default: arrow if the file ends in .arrow, .feather or .ipc, else npy].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Images to embed.
    #[arg(long, value_enum, default_value_t = Split::All)]
    split: Split,
    /// Write the Visual Genome ids of the rows to this text file, one per line.
    #[arg(long, value_name = "TXT")]
    ids: Option<PathBuf>,
    /// Write the images' caption vectors to this .npy file, in the same order.
    #[arg(long, value_name = "NPY")]
    caption_vectors: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl EmbedArguments {
    /// The format asked for, or the one that the file's ending names.
    fn format(&self) -> Format {
        let ending = self.out.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        self.format.unwrap_or(match ending.as_deref() {
            Some("arrow" | "feather" | "ipc") => Format::Arrow,
            _ => Format::Npy,
        })
    }

    pub fn run(self) -> Result<()> {
        let run = self.run.open()?;
        let (dataset, width) = (&run.dataset, run.width());
        let images = dataset.split(self.split);
        self.check_outputs(&run)?;
        self.write(&run, &run.embed_split(self.split)?)?;
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
                    serde_json::json!({ "out": self.out.display().to_string(), "images": images.len(), "width": width })
                );
            }
            false => println!("{}: {} images of {width} values", self.out.display(), images.len()),
        }
        Ok(())
    }

    /// Checks that nothing that the run needs, and no file of another kind, would be replaced.
    fn check_outputs(&self, run: &Run) -> Result<()> {
        let beside = Origin::beside(&self.out);
        let kind = match self.format() {
            Format::Npy | Format::NpyF16 => Kind::NPY,
            Format::Arrow => Kind::ARROW,
        };
        let mut outputs = vec![Output { option: "--out", path: &self.out, kind }];
        if kind == Kind::NPY {
            outputs.push(Output { option: "--out", path: &beside, kind: Kind::JSON });
        }
        outputs.extend(self.ids.iter().map(|path| Output { option: "--ids", path, kind: Kind::Ids }));
        let vectors = self.caption_vectors.iter();
        outputs.extend(vectors.map(|path| Output { option: "--caption-vectors", path, kind: Kind::NPY }));
        check_outputs(&outputs, &run.inputs())
    }

    fn write(&self, run: &Run, values: &[f32]) -> Result<()> {
        let (dataset, width) = (&run.dataset, run.width());
        let images = dataset.split(self.split);
        let origin = run.origin(images.clone());
        match self.format() {
            Format::Npy => write_npy(&self.out, values, width)?,
            Format::NpyF16 => write_npy_half(&self.out, values, width)?,
            Format::Arrow => {
                let parts = [Split::Train, Split::Validation, Split::Test];
                let names = parts.map(|part| (part.to_string(), dataset.split(part)));
                let splits: Vec<&str> = images
                    .map(|image| names.iter().find(|(_, part)| part.contains(&image)))
                    .map(|part| part.expect("an image is of one split").0.as_str())
                    .collect();
                return write_arrow(&self.out, &origin, &splits, values, width);
            }
        }
        origin.write_beside(&self.out)
    }
}
