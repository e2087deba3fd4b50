//! `scenerank reproduce`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use scenerank::Result;
use scenerank::report::table::plain_table;
use scenerank::reproduce::plan::Ablation;
use scenerank::reproduce::report::{Report, Table};
use scenerank::reproduce::{Reproduction, reproduce};
use scenerank::train::config::TrainOptions;
use serde_json::json;

use super::DeviceArguments;
use super::train::{INTERRUPTED, stop_on_ctrl_c};

const EXAMPLES: &str = "\
Examples:
  scenerank reproduce vg.data --out reproduction
  scenerank reproduce vg.data --out quick --subset 1200 --epochs 3
  scenerank reproduce vg.data --out reproduction --seeds 3 --budget 8h --ablations layers temperature
  scenerank reproduce vg.data --out reproduction --images VG_100K

The same command again goes on where it stopped: finished runs are skipped, interrupted ones continue.";

/// Run what the paper ran, and write a report with ours beside theirs.
///
/// Trains 3 losses x 4 strategies, measures them and the baselines (Tables 2 and 3, Figures 2 to 4), and writes
/// report.html, report.md, report.json, CSV tables and SVG figures into --out; the runs lie in its folder runs/.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ReproduceArguments {
    /// A data file that `prepare` wrote.
    data: PathBuf,
    /// The report's folder.
    #[arg(long, value_name = "REPORT")]
    out: PathBuf,
    /// Runs of each model: with more than one, tables hold mean and standard deviation.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seeds: u64,
    /// Passes over the training images.
    #[arg(long, default_value_t = 100)]
    epochs: usize,
    /// Take only this many of the data's images, the same ones each time.
    #[arg(long, value_name = "IMAGES")]
    subset: Option<usize>,
    /// Stop training after this time, such as 30m or 8h; the report says what is missing.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    budget: Option<Duration>,
    /// Runs at a time, which share the CPU's threads [default: one per thread on a CPU, one on a GPU].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Vary this in the paper's model as well.
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',', value_name = "WHAT")]
    ablations: Vec<Ablation>,
    /// Features of the same images, such as a classifier's: a .npy file with one row per test image, or per image.
    #[arg(long, value_name = "NPY")]
    features: Option<PathBuf>,
    /// Train the paper's model by another sentence encoder's caption vectors as well: a .npy file, [images, d] in the
    /// data's order, each row the mean of its captions' unit vectors.
    #[arg(long, value_name = "NPY")]
    caption_vectors: Option<PathBuf>,
    /// Photographs for the gallery, named by Visual Genome or COCO ids, such as 2405110.jpg.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Let the gallery show the photographs from the addresses that the data has; the page then needs a network for
    /// them, and shows the drawing where one does not load. --images comes first.
    #[arg(long)]
    link_photographs: bool,
    /// Graph convolution layers [default: 5].
    #[arg(long)]
    layers: Option<usize>,
    /// Width of node states, edge states and embeddings [default: 300].
    #[arg(long)]
    state_width: Option<usize>,
    /// Width of hidden layers and messages [default: 512].
    #[arg(long)]
    hidden_width: Option<usize>,
    /// Triples per step [default: 16].
    #[arg(long)]
    batch_size: Option<usize>,
    /// Adam's learning rate [default: 1e-4].
    #[arg(long)]
    learning_rate: Option<f64>,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print the report's tables as JSON.
    #[arg(long)]
    json: bool,
}

impl ReproduceArguments {
    pub fn run(self) -> Result<()> {
        let options = TrainOptions {
            layers: self.layers,
            state_width: self.state_width,
            hidden_width: self.hidden_width,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
            epochs: Some(self.epochs),
            device: Some(self.device.device),
            precision: Some(self.device.precision),
            ..Default::default()
        };
        let reproduction = Reproduction {
            data: self.data,
            out: self.out,
            base: options.resolve(&Default::default())?,
            seeds: self.seeds,
            subset: self.subset,
            budget: self.budget,
            jobs: self.jobs,
            ablations: self.ablations,
            features: self.features,
            caption_vectors: self.caption_vectors,
            photographs: self.images,
            link_photographs: self.link_photographs,
            command: command_line(std::env::args().skip(1)),
        };
        let stop = stop_on_ctrl_c()?;
        let out = reproduction.out.display();
        let Some(report) = reproduce(&reproduction, &stop)? else {
            eprintln!("stopped; the same command goes on from here");
            std::process::exit(INTERRUPTED);
        };
        if self.json {
            let tables = json!({
                "missing": report.missing,
                "table_2": report.table_2,
                "table_3": report.table_3,
                "ablations": report.ablations,
            });
            println!("{tables:#}");
            return Ok(());
        }
        report.tables().iter().for_each(|(_, table)| print_table(table));
        print_missing(&report);
        println!("{out}/report.html");
        Ok(())
    }
}

/// What was typed, quoted where a shell needs it.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let plain = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,+%@".contains(c))
    };
    let quoted =
        words.map(|word| if plain(&word) { word } else { format!("'{}'", word.replace('\'', r"'\''")) });
    std::iter::once("scenerank".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}

/// Ours alone; the paper's numbers beside them are in the report.
fn print_table(table: &Table) {
    let mut plain = plain_table(std::iter::once("").chain(table.metrics.iter().map(String::as_str)));
    for row in &table.rows {
        let numbers = row.cells.iter().map(|cell| match &cell.ours {
            None => "-".to_owned(),
            Some(ours) => match ours.spread {
                None => format!("{:.3}", ours.mean),
                Some(spread) => format!("{:.3} ± {spread:.3}", ours.mean),
            },
        });
        plain.add_row(std::iter::once(row.name.clone()).chain(numbers));
    }
    println!("{}\n{plain}\n", table.title);
}

fn print_missing(report: &Report) {
    if !report.missing.is_empty() {
        println!("{} runs are missing; the same command goes on:", report.missing.len());
        for run in &report.missing {
            println!("  {}: {} of {} epochs", run.name, run.epochs, run.of);
        }
    }
}
