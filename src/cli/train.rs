//! `scenerank train`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use scenerank::data::Dataset;
use scenerank::ranks::{self, Ranks};
use scenerank::report::plots::{TrainingCurve, training_plot};
use scenerank::train::checkpoint::{self, LAST};
use scenerank::train::config::{TrainConfig, TrainOptions};
use scenerank::train::{Control, TrainOutcome, train_on_ranks};
use scenerank::{Error, Result};
use tracing::subscriber::{NoSubscriber, set_default};

use super::interrupt::{INTERRUPTED, on_interrupt, quit};

const EXAMPLES: &str = "\
Examples:
  scenerank train vg.data --out runs/paper
  scenerank train vg.data --out runs/triplet --loss triplet \\
      --sampling random --epochs 20
  scenerank train vg.data --out runs/mine --config mine.toml \\
      --learning-rate 3e-4
  scenerank train vg.data --out runs/paper --resume
  scenerank train vg.data --out runs/paper --resume-if-any

Ctrl-C finishes the step and saves a checkpoint. --resume continues from it, with
the results of an uninterrupted run.";

/// Heading of the options for output in the help text.
const OUTPUT: &str = "Output";

/// Train a model. The defaults are those of the paper.
///
/// A training example is a triple of images: an anchor, a positive, and a negative. The positive's captions resemble those
/// of the anchor more than the negative's do. Each training image is the anchor of one triple per epoch.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct TrainArguments {
    /// Data file written by `prepare`.
    data: PathBuf,
    #[command(flatten)]
    options: TrainOptions,
    /// Folder for the run: checkpoints, metrics.jsonl, TensorBoard events, training.svg.
    #[arg(long, value_name = "RUN", help_heading = OUTPUT)]
    out: PathBuf,
    /// Read options from a TOML file, such as `learning-rate = 3e-4`; options on the command line take precedence.
    #[arg(long, value_name = "TOML")]
    config: Option<PathBuf>,
    /// Continue the run in --out from its last checkpoint, with its options and its family of products. Only --epochs,
    /// --learning-rate, --patience and --device may change, and the places of its files.
    #[arg(long, conflicts_with = "config", help_heading = OUTPUT)]
    resume: bool,
    /// Like --resume if --out holds a checkpoint; otherwise start the run. The same command then serves for each attempt
    /// of a scheduler.
    #[arg(long, conflicts_with = "resume", help_heading = OUTPUT)]
    resume_if_any: bool,
    /// Print the result as JSON.
    #[arg(long, help_heading = OUTPUT)]
    json: bool,
}

impl TrainArguments {
    pub fn run(self) -> Result<()> {
        let ranks = Ranks::started()?;
        let first = ranks.is_first();
        if !first {
            scenerank::progress::hide();
        }
        // Ranks but the first print errors only.
        let _quiet = (!first).then(|| set_default(NoSubscriber::new()));
        let last = self.out.join(LAST);
        let from_file = self.config.as_deref().map(TrainOptions::read).transpose()?.unwrap_or_default();
        let options = self.options.or(from_file);
        let (config, resume, data) = if self.resume || self.resume_if_any && last.exists() {
            let checkpoint = checkpoint::load(&last)?;
            let before = &checkpoint.config.train;
            let config = options.resolve(before)?;
            only_what_may_change(before, &config)?;
            let data = checkpoint::open_data(&checkpoint.config, Some(&self.data))?;
            (config, Some(checkpoint), data)
        } else {
            (options.resolve(&TrainConfig::default())?, None, Dataset::open(&self.data)?)
        };
        let stop = stop_on_signal(first)?;
        let outcome = train_on_ranks(&data, config, &self.out, resume, Control { stop: &stop, ranks })?;
        let code = if outcome.interrupted { INTERRUPTED } else { 0 };
        if !first {
            ranks::exit(code, false);
        }
        plot_training(&self.out)?;
        if self.json {
            println!("{}", serde_json::to_string(&outcome).expect("plain fields"));
        } else {
            print_outcome(&self.data, &self.out, &outcome);
        }
        ranks::exit(code, false)
    }
}

/// Checks that only options that may change differ from those of the run.
fn only_what_may_change(before: &TrainConfig, after: &TrainConfig) -> Result<()> {
    let differences = before.continued_as(after).differences(after);
    if differences.is_empty() {
        return Ok(());
    }
    let words =
        differences.iter().map(|(name, before, now)| format!("--{name} is {before} in the run, now {now}"));
    Err(Error::argument(
        "--resume",
        words.collect::<Vec<_>>().join(", "),
        "only --epochs, --learning-rate, --patience and --device may change; train a new run for other options",
    ))
}

/// Returns a flag that the first Ctrl-C (or termination signal) sets; a second one ends the program.
pub fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    stop_on_signal(true)
}

/// Like [`stop_on_ctrl_c`]; says what happens if `says`.
fn stop_on_signal(says: bool) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    on_interrupt(move || {
        if raised.swap(true, Ordering::Relaxed) {
            quit();
        }
        // Ctrl-C has also ended `tee`, if there was one. The step must be finished anyway, so a failed write
        // is ignored.
        if says {
            eprintln!("finishing the step and saving; press Ctrl-C again to quit at once");
        }
    })?;
    Ok(stop)
}

/// Writes `training.svg` from the records of the run.
pub fn plot_training(run: &Path) -> Result<()> {
    let label = run.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned());
    training_plot(&run.join("training.svg"), &[TrainingCurve::read(run, label)?])
}

fn print_outcome(data: &Path, run: &Path, outcome: &TrainOutcome) {
    let (data, run) = (data.display(), run.display());
    println!("{run}: {} epochs, {} steps", outcome.epochs, outcome.steps);
    if let Some((epoch, tau)) = outcome.best {
        println!("best: epoch {epoch}, validation Kendall tau {tau:.4}");
    }
    match outcome.interrupted {
        true => println!("stopped; continue with: scenerank train {} --out {run} --resume", data),
        false => println!("next: scenerank evaluate {run}"),
    }
}
