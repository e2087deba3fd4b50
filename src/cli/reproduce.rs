//! `scenerank reproduce`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use scenerank::Result;
use scenerank::compare::HTML;
use scenerank::evaluation::measure::Measure;
use scenerank::report::table::plain_table;
use scenerank::reproduce::grid::reproduce_grid;
use scenerank::reproduce::plan::Ablation;
use scenerank::reproduce::report::{MissingRun, Table};
use scenerank::reproduce::schedule::{ScheduledRun, Status, reproduce_one, scheduled_runs};
use scenerank::reproduce::{Reproduction, reproduce};
use scenerank::terminal::{command_line, shorten, wrap};
use scenerank::train::config::TrainOptions;
use serde_json::{Map, Value, json};

use super::DeviceArguments;
use super::compare::print_comparison;
use super::interrupt::INTERRUPTED;
use super::train::stop_on_ctrl_c;

const EXAMPLES: &str = "\
Examples:
  scenerank reproduce vg.data --out reproduction
  scenerank reproduce vg.data --out quick --subset 1200 --epochs 3
  scenerank reproduce vg.data --out reproduction --seeds 3 --budget 8h \\
      --ablations layers temperature
  scenerank reproduce vg.data --out reproduction --images VG_100K
  scenerank reproduce vg.data --out rates --grid rates.toml
  scenerank reproduce vg.data --out reproduction --plan
  scenerank reproduce vg.data --out reproduction --only ranking-reject-seed1
  scenerank reproduce vg.data --out reproduction --collect

Run the same command again to continue: finished runs are skipped, interrupted
ones resume. Runs that diverged are not trained again.

Exit code of --only: 0 if the run is done, 2 after an error, 3 if the run
diverged, 130 if it was stopped before its end.";

/// Exit code of `--only` for a run that diverged: another attempt would diverge too.
const DIVERGED: i32 = 3;

/// Heading of the options that divide the work in the help text.
const CLUSTER: &str = "Several processes or machines";

/// Heading of the options of all models in the help text.
const MODEL: &str = "Every model";

/// Run the experiments of the paper, and write a report that compares the results.
///
/// Trains the paper's 12 models, which are 3 losses x 4 sampling strategies. Measures them and the baselines for
/// Tables 2 and 3 and Figures 2 to 4. Writes report.html, report.md, report.json, CSV tables and SVG figures to
/// --out, and the runs to its folder runs/.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ReproduceArguments {
    /// Data file written by `prepare`.
    data: PathBuf,
    /// Folder for the report.
    #[arg(long, value_name = "REPORT")]
    out: PathBuf,
    /// Train all combinations of the values in this TOML file, such as `learning-rate = [1e-4, 3e-4]`, instead of the paper's
    /// models, and compare them in compare.html. Keys are options of `train`.
    #[arg(long, value_name = "TOML", conflicts_with_all = ["ablations", "features", "caption_vectors", "images", "link_photographs"])]
    grid: Option<PathBuf>,
    /// Number of runs of each model, with different seeds. With more than one, tables hold mean and standard deviation.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seeds: u64,
    /// Number of passes over the training images.
    #[arg(long, default_value_t = 100)]
    epochs: usize,
    /// Use only this number of images, the same ones each time.
    #[arg(long, value_name = "IMAGES")]
    subset: Option<usize>,
    /// Stop training after this time, such as 30m or 8h; the report lists the missing runs.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    budget: Option<Duration>,
    /// Number of concurrent runs, which share the CPU's threads [default: one per thread on a CPU, one on a
    /// GPU].
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Settings to vary, one at a time, in the paper's best model (ranking loss, probability sampling).
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',', value_name = "WHAT")]
    ablations: Vec<Ablation>,
    /// Features of the same images, such as those of a classifier: a .npy file with one row per test image,
    /// or per image.
    #[arg(long, value_name = "NPY")]
    features: Option<PathBuf>,
    /// Comparison of two rows of --features.
    #[arg(long, value_enum, default_value_t, requires = "features")]
    measure: Measure,
    /// Also train the paper's best model with the caption vectors of another sentence encoder: a .npy file,
    /// [images, d] in the order of the data; each row is the mean of the unit vectors of the captions.
    #[arg(long, value_name = "NPY")]
    caption_vectors: Option<PathBuf>,
    /// Folder with photographs for the gallery, named by Visual Genome or COCO id, such as 2405110.jpg.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Show photographs in the gallery from their web addresses in the data. The page then needs a network, and shows
    /// a drawing if a photograph does not load. Photographs of --images take precedence.
    #[arg(long)]
    link_photographs: bool,
    /// Number of graph convolution layers [default: 5].
    #[arg(long, help_heading = MODEL)]
    layers: Option<usize>,
    /// Width of node states, edge states and embeddings [default: 300].
    #[arg(long, help_heading = MODEL)]
    state_width: Option<usize>,
    /// Width of hidden layers and messages [default: 512].
    #[arg(long, help_heading = MODEL)]
    hidden_width: Option<usize>,
    /// Number of triples per step [default: 16].
    #[arg(long, help_heading = MODEL)]
    batch_size: Option<usize>,
    /// Learning rate of Adam [default: 1e-4].
    #[arg(long, help_heading = MODEL)]
    learning_rate: Option<f64>,
    /// List all runs with their state and their settings, and train nothing.
    #[arg(long, help_heading = CLUSTER, conflicts_with_all = ["only", "collect", "budget", "jobs"])]
    plan: bool,
    /// Train or resume this run alone and measure it; no report is written. Does nothing if the run is done.
    #[arg(long, value_name = "NAME|INDEX", help_heading = CLUSTER, conflicts_with_all = ["collect", "jobs"])]
    only: Option<String>,
    /// Write the report of the runs that are done, and train nothing.
    #[arg(long, help_heading = CLUSTER, conflicts_with_all = ["budget", "jobs"])]
    collect: bool,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print the tables of the report as JSON; with --plan the runs, with --only the run.
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
            kernels: Some(self.device.kernels),
            ..Default::default()
        };
        let reproduction = Reproduction {
            data: self.data,
            out: self.out,
            base: options.resolve(&Default::default())?,
            seeds: self.seeds,
            subset: self.subset,
            train: !self.collect,
            budget: self.budget,
            jobs: self.jobs,
            ablations: self.ablations,
            features: self.features,
            measure: self.measure,
            caption_vectors: self.caption_vectors,
            photographs: self.images,
            link_photographs: self.link_photographs,
            command: command_line(std::env::args_os().map(|word| word.to_string_lossy().into_owned())),
        };
        let grid = self.grid.as_deref();
        if self.plan {
            print_plan(&scheduled_runs(&reproduction, grid)?, self.json);
            return Ok(());
        }
        let stop = stop_on_ctrl_c()?;
        if let Some(which) = &self.only {
            let run = reproduce_one(&reproduction, grid, which, &stop)?;
            print_run(&run, self.json);
            std::process::exit(exit_code(run.status));
        }
        if let Some(grid) = grid {
            return run_grid(&reproduction, grid, &stop, self.json);
        }
        let out = reproduction.out.display();
        let report = reproduce(&reproduction, &stop)?;
        if stop.load(Ordering::Relaxed) {
            eprintln!(
                "stopped; {out}/report.html shows what is finished; run the same command again to continue"
            );
            std::process::exit(INTERRUPTED);
        }
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
        print_missing(&report.missing);
        println!("{out}/report.html");
        Ok(())
    }
}

/// Exit code of `--only`.
fn exit_code(status: Status) -> i32 {
    match status {
        Status::Done => 0,
        Status::Diverged => DIVERGED,
        Status::Resumable | Status::Missing | Status::Locked => INTERRUPTED,
    }
}

/// Prints the outcome of `--only`.
fn print_run(run: &ScheduledRun, json: bool) {
    if json {
        println!("{:#}", json!(run));
        return;
    }
    let (name, epochs) = (&run.name, run.settings.epochs);
    match run.status {
        Status::Done => println!("{name}: done; {}", run.folder.display()),
        Status::Diverged => eprintln!("{name}: diverged: {}", run.reason.as_deref().unwrap_or_default()),
        Status::Resumable | Status::Missing | Status::Locked => eprintln!(
            "{name}: stopped after {} of {epochs} epochs; run the same command again to continue",
            run.epoch
        ),
    }
}

/// Prints the runs of a plan: their states with the settings in which they differ, then the settings of all.
fn print_plan(runs: &[ScheduledRun], json: bool) {
    if json {
        println!("{:#}", json!(runs));
        return;
    }
    let settings: Vec<Map<String, Value>> = runs.iter().map(settings).collect();
    let varies = |name: &String| settings.iter().any(|of| of.get(name) != settings[0].get(name));
    let (varied, shared): (Vec<&String>, Vec<&String>) =
        settings.first().into_iter().flat_map(Map::keys).partition(|name| varies(name));
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let header =
        ["run", "index", "state", "epoch"].into_iter().chain(varied.iter().map(|name| name.as_str()));
    let mut table = plain_table(header);
    for (run, settings) in runs.iter().zip(&settings) {
        let epoch = format!("{}/{}", run.epoch, run.settings.epochs);
        let state = [shorten(&run.name, NAME_WIDTH), run.index.to_string(), word(run.status), epoch];
        table.add_row(state.into_iter().chain(varied.iter().map(|&name| plain(&settings[name]))));
    }
    println!("{table}\n");
    let shared = shared.into_iter().map(|name| format!("{name} {}", plain(&settings[0][name])));
    println!("{}", wrap(&format!("all runs: {}", shared.collect::<Vec<_>>().join(", ")), 0, 2));
}

/// Settings of a run by the names of their options.
fn settings(run: &ScheduledRun) -> Map<String, Value> {
    match json!(run.settings) {
        Value::Object(settings) => settings,
        _ => Map::new(),
    }
}

/// Name of a state in the plan.
fn word(status: Status) -> String {
    json!(status).as_str().unwrap_or_default().to_owned()
}

/// Trains a grid and prints the comparison of its runs.
fn run_grid(reproduction: &Reproduction, grid: &Path, stop: &AtomicBool, json: bool) -> Result<()> {
    let out = reproduction.out.display();
    let (comparison, missing) = reproduce_grid(reproduction, grid, stop)?;
    if stop.load(Ordering::Relaxed) {
        eprintln!("stopped; {out}/{HTML} compares what was begun; run the same command again to continue");
        std::process::exit(INTERRUPTED);
    }
    if json {
        println!("{:#}", json!({ "missing": missing, "comparison": comparison }));
        return Ok(());
    }
    print_comparison(&comparison);
    print_missing(&missing);
    println!("{out}/{HTML}");
    Ok(())
}

/// Columns for a row's name beside three values with their deviation, such as `-0.304 ± 0.003`.
const NAME_WIDTH: usize = 52;

/// Prints the results; the report also shows the numbers of the paper.
fn print_table(table: &Table) {
    println!("{}\n{}\n", wrap(&table.title, 0, 0), wrap(&table.note, 0, 0));
    let mut first = 0;
    // One table per group of columns, so that values with their deviation fit.
    for (group, count) in &table.groups {
        let columns = first..first + count;
        first = columns.end;
        let metrics = table.metrics[columns.clone()].iter().map(String::as_str);
        let mut plain = plain_table(std::iter::once(group.as_str()).chain(metrics));
        for row in &table.rows {
            let numbers = row.cells[columns.clone()].iter().map(|cell| match &cell.ours {
                None => "-".to_owned(),
                Some(ours) => match ours.spread {
                    None => format!("{:.3}", ours.mean),
                    Some(spread) => format!("{:.3} ± {spread:.3}", ours.mean),
                },
            });
            plain.add_row(std::iter::once(shorten(&row.name, NAME_WIDTH)).chain(numbers));
        }
        println!("{plain}\n");
    }
}

fn print_missing(missing: &[MissingRun]) {
    if !missing.is_empty() {
        println!("{} runs are missing; continue with:", missing.len());
        for run in missing {
            match &run.reason {
                None => println!("  {}: {} of {} epochs", run.name, run.epochs, run.of),
                Some(reason) => println!("  {}: {reason}", run.name),
            }
        }
    }
}
