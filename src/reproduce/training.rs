//! Trains the runs, each in its own folder under REPORT/runs, several at a time, until all are done or the
//! time is up. Finished runs are skipped, interrupted ones continue.
//!
//! The bits of a run do not depend on the number of threads, so they do not depend on the number of
//! concurrent runs either.
//!
//! A run's folder is locked from the look at its state to the end of its measurement, so several processes can share the runs.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::ThreadPoolBuilder;
use serde::{Deserialize, Serialize};

use super::Reproduction;
use super::measure::{Measurement, Method};
use super::plan::{Plan, PlannedRun};
use crate::backend::cuda::launchers;
use crate::backend::device::Device;
use crate::compare::results::RESULT;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files::atomic_file::write_atomically;
use crate::files::folder_lock::FolderLock;
use crate::files::text::read_json;
use crate::progress::owned_by;
use crate::run::{Run, Which};
use crate::terminal::rough_duration;
use crate::train::checkpoint::{self, LAST, RunConfig};
use crate::train::{TrainOutcome, train_locked};

/// Interval for checking whether the time is up; a signal handler can only set a flag.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// Result of a finished run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunResult {
    /// Configuration of the run.
    pub config: RunConfig,
    /// Outcome of the training.
    pub outcome: TrainOutcome,
    /// Measurement of the epoch with the best validation.
    pub measurement: Measurement,
}

/// File name of the record of a diverged run.
pub(super) const DIVERGED: &str = "diverged.json";

/// Content of [`DIVERGED`]. Training is deterministic, so the same run would diverge again.
#[derive(Serialize, Deserialize)]
struct DivergedRun {
    /// Configuration of the run.
    config: RunConfig,
    /// Message of the error.
    message: String,
}

/// Final state of a run.
#[derive(Clone, Debug)]
pub(super) enum Trained {
    /// Trained and measured.
    Finished(Box<RunResult>),
    /// Stopped after this number of epochs, or not started.
    Unfinished { epochs: usize },
    /// Diverged, with the message of the error.
    Diverged(String),
}

impl Trained {
    /// The result, if there is one.
    pub fn result(&self) -> Option<&RunResult> {
        match self {
            Trained::Finished(result) => Some(result),
            Trained::Unfinished { .. } | Trained::Diverged(_) => None,
        }
    }
}

/// A run that is missing in the tables.
#[derive(Clone, Debug, Serialize)]
pub struct MissingRun {
    /// Name of its folder.
    pub name: String,
    /// Number of finished epochs.
    pub epochs: usize,
    /// Number of requested epochs.
    pub of: usize,
    /// Reason why it ended, if it ended by itself.
    pub reason: Option<String>,
}

/// Runs of the plan without a result.
pub(super) fn missing(plan: &Plan, trained: &[Trained]) -> Vec<MissingRun> {
    let runs = plan.runs.iter().zip(trained);
    runs.filter_map(|(run, trained)| {
        let (epochs, reason) = match trained {
            Trained::Finished(_) => return None,
            Trained::Unfinished { epochs } => (*epochs, None),
            Trained::Diverged(words) => (0, Some(words.clone())),
        };
        Some(MissingRun { name: run.name.clone(), epochs, of: run.config.epochs, reason })
    })
    .collect()
}

/// Folder of a run.
pub(super) fn folder(out: &Path, run: &PlannedRun) -> PathBuf {
    out.join("runs").join(&run.name)
}

/// What is called after a finished run, with the state of all runs.
pub(super) type OnFinished<'a> = dyn Fn(&[Trained]) -> Result<()> + Sync + 'a;

/// What is called after each run of a queue, with its index and its state.
type OnEnded<'a> = dyn Fn(usize, Trained) -> Result<()> + Sync + 'a;

/// State of all runs of the plan. With `reproduction.train`, trains those that are not finished before.
pub(super) fn train_all(
    reproduction: &Reproduction,
    dataset: &Dataset,
    plan: &Plan,
    stop: &AtomicBool,
    on_finished: &OnFinished<'_>,
) -> Result<Vec<Trained>> {
    // Checks every folder before spending hours on the first.
    let mut trained = Vec::with_capacity(plan.runs.len());
    let mut queue = VecDeque::new();
    for (index, run) in plan.runs.iter().enumerate() {
        let found = state(reproduction, dataset, run)?;
        if matches!(found, Trained::Unfinished { .. }) {
            queue.push_back(index);
        }
        trained.push(found);
    }
    let trained = Mutex::new(trained);
    if reproduction.train {
        train_queue(reproduction, dataset, plan, stop, queue, &|index, state| {
            let ended = matches!(state, Trained::Finished(_) | Trained::Diverged(_));
            let states = {
                let mut all = trained.lock().expect("no worker panics with the states");
                all[index] = state;
                all.clone()
            };
            if ended { on_finished(&states) } else { Ok(()) }
        })?;
    }
    Ok(trained.into_inner().expect("no worker panics with the states"))
}

/// Trains the run at `index` of the plan if it is not finished, and returns its state.
pub(super) fn train_one(
    reproduction: &Reproduction,
    dataset: &Dataset,
    plan: &Plan,
    index: usize,
    stop: &AtomicBool,
) -> Result<Trained> {
    let found = state(reproduction, dataset, &plan.runs[index])?;
    if !matches!(found, Trained::Unfinished { .. }) {
        return Ok(found);
    }
    let made = Mutex::new(found);
    train_queue(reproduction, dataset, plan, stop, VecDeque::from([index]), &|_, state| {
        *made.lock().expect("no worker panics with the state") = state;
        Ok(())
    })?;
    Ok(made.into_inner().expect("no worker panics with the state"))
}

/// Trains the runs of `queue`, several at a time, until all are made, `stop` is set or the time is up.
fn train_queue(
    reproduction: &Reproduction,
    dataset: &Dataset,
    plan: &Plan,
    stop: &AtomicBool,
    queue: VecDeque<usize>,
    on_ended: &OnEnded<'_>,
) -> Result<()> {
    let deadline = reproduction.budget.and_then(|budget| Instant::now().checked_add(budget));
    let jobs = job_count(reproduction).min(queue.len());
    tracing::info!("{} of {} runs to be made, {jobs} at a time", queue.len(), plan.runs.len());
    let threads = rayon::current_num_threads();
    let queue = Mutex::new(queue);
    let time_is_up = || deadline.is_some_and(|at| Instant::now() >= at);
    let (halt, done) = (AtomicBool::new(time_is_up()), AtomicBool::new(false));
    let pace = Pace::new(plan.runs.len(), queue.lock().expect("no worker has begun").len());
    let (halt, queue, done, pace) = (&halt, &queue, &done, &pace);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|job| {
                // Uses all threads, even if they do not divide evenly.
                let threads = (threads * (job + 1) / jobs - threads * job / jobs).max(1);
                let shared = Shared { reproduction, dataset, plan, queue, pace, halt, on_ended };
                scope.spawn(move || work(shared, threads))
            })
            .collect();
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                if stop.load(Ordering::Relaxed) || time_is_up() {
                    halt.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(WATCH_INTERVAL);
            }
        });
        let joined: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        joined.into_iter().try_for_each(|made| made.expect("a worker returns its errors"))
    })
}

/// What the workers share.
#[derive(Clone, Copy)]
struct Shared<'a> {
    reproduction: &'a Reproduction,
    dataset: &'a Dataset,
    plan: &'a Plan,
    /// Indices of the runs that no worker has begun.
    queue: &'a Mutex<VecDeque<usize>>,
    pace: &'a Pace,
    halt: &'a AtomicBool,
    on_ended: &'a OnEnded<'a>,
}

/// How many runs are finished, and how long the others will take.
struct Pace {
    /// Number of all runs.
    all: usize,
    /// Number of runs that this command has to make.
    to_make: usize,
    made: AtomicUsize,
    started: Instant,
}

impl Pace {
    fn new(all: usize, to_make: usize) -> Self {
        Pace { all, to_make, made: AtomicUsize::new(0), started: Instant::now() }
    }

    /// Counts a run and prints how many are done.
    fn finished(&self) {
        let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        let left = self.to_make - made;
        let done = self.all - left;
        match left {
            0 => tracing::info!("{done} of {} runs", self.all),
            _ => {
                let seconds = self.started.elapsed().as_secs_f64() / made as f64 * left as f64;
                tracing::info!("{done} of {} runs, about {} left", self.all, rough_duration(seconds));
            }
        }
    }
}

/// Number of concurrent runs.
///
/// On a CPU one per thread, so that the serial parts of a step keep no thread waiting. On a GPU one.
fn job_count(reproduction: &Reproduction) -> usize {
    let on_gpu = match reproduction.base.device {
        Device::Auto => launchers::gpu(0).is_ok(),
        Device::Cuda(_) => true,
        Device::Cpu | Device::Reference | Device::Emulated | Device::Ptx { .. } => false,
    };
    reproduction.jobs.unwrap_or(if on_gpu { 1 } else { rayon::current_num_threads() })
}

/// Trains runs from the queue on `threads` threads until it is empty or `halt` is set. An error stops the
/// other workers too.
fn work(shared: Shared<'_>, threads: usize) -> Result<()> {
    let Shared { reproduction, dataset, plan, queue, pace, halt, on_ended } = shared;
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    while !halt.load(Ordering::Relaxed) {
        let next = queue.lock().expect("no worker panics with the queue").pop_front();
        let Some(index) = next else { break };
        let run = &plan.runs[index];
        let result = pool.install(|| {
            let _span = tracing::info_span!("run", name = %run.name).entered();
            owned_by(&run.name, || make(reproduction, dataset, run, halt))
        });
        let recorded = result.and_then(|state| {
            if matches!(state, Trained::Finished(_) | Trained::Diverged(_)) {
                pace.finished();
            }
            pool.install(|| on_ended(index, state))
        });
        if recorded.is_err() {
            halt.store(true, Ordering::Relaxed);
            return recorded;
        }
    }
    Ok(())
}

/// Trains one run from its current state, and measures it. A run that diverges is a result, not an error.
fn make(
    reproduction: &Reproduction,
    dataset: &Dataset,
    run: &PlannedRun,
    halt: &AtomicBool,
) -> Result<Trained> {
    let folder = folder(&reproduction.out, run);
    std::fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    let lock = FolderLock::take(&folder)?;
    // Another process may have finished the run before this one had the lock.
    let found = state(reproduction, dataset, run)?;
    if !matches!(found, Trained::Unfinished { .. }) {
        return Ok(found);
    }
    let last = folder.join(LAST);
    let resume = if last.exists() { Some(checkpoint::load(&last)?) } else { None };
    let config = RunConfig::new(run.config.clone(), dataset)?;
    let outcome = match train_locked(dataset, run.config.clone(), &lock, resume, halt) {
        Err(error @ Error::Diverged { .. }) => {
            tracing::warn!("{}: {error}", run.name);
            let message = error.to_string();
            write_json(&folder.join(DIVERGED), &DivergedRun { config, message: message.clone() })?;
            return Ok(Trained::Diverged(message));
        }
        outcome => outcome?,
    };
    if outcome.interrupted {
        return Ok(Trained::Unfinished { epochs: outcome.epochs });
    }
    let (device, arithmetic) = (run.config.device, run.config.arithmetic());
    let opened = Run::open(&folder, Which::Best, Some(dataset.path()), device, arithmetic)?;
    let result =
        RunResult { config, measurement: method_of(&opened, run.name.clone()).measure(dataset)?, outcome };
    write_json(&folder.join(RESULT), &result)?;
    let tau = result.measurement.agreement.per_image.kendall;
    tracing::info!("done: row-wise Kendall tau {tau:.4} on the test images");
    Ok(Trained::Finished(Box::new(result)))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value).expect("plain fields");
    write_atomically(path, |file| file.write_all(json.as_bytes()))
}

/// Turns a trained model into a method.
pub(super) fn method_of(run: &Run, name: String) -> Method<'_> {
    Method { name, width: run.width(), place: run.place(), embed: Box::new(|graphs| run.embed(graphs)) }
}

/// State of a run, as its folder tells it; an error if it has other settings or other data.
pub(super) fn state(reproduction: &Reproduction, dataset: &Dataset, run: &PlannedRun) -> Result<Trained> {
    let folder = &folder(&reproduction.out, run);
    let planned = RunConfig::new(run.config.clone(), dataset)?;
    let [result, diverged, last] = [RESULT, DIVERGED, LAST].map(|name| folder.join(name));
    if result.exists() {
        let found: RunResult = read_json(&result, "remove the file: the run is measured again")?;
        same_settings(folder, &found.config, &planned)?;
        return Ok(Trained::Finished(Box::new(found)));
    }
    if diverged.exists() {
        let found: DivergedRun = read_json(&diverged, "remove the file: the run is trained again")?;
        same_settings(folder, &found.config, &planned)?;
        return Ok(Trained::Diverged(found.message));
    }
    if last.exists() {
        let found = checkpoint::load(&last)?;
        same_settings(folder, &found.config, &planned)?;
        return Ok(Trained::Unfinished { epochs: found.progress.epoch });
    }
    Ok(Trained::Unfinished { epochs: 0 })
}

/// Checks that a continued run keeps its settings; only its device and the path of its data may change. Its products keep
/// their family.
fn same_settings(folder: &Path, before: &RunConfig, now: &RunConfig) -> Result<()> {
    let mut before = before.clone();
    before.train.device = now.train.device;
    if before.train.kernels.may_continue_as(now.train.kernels) {
        before.train.kernels = now.train.kernels;
    }
    before.data.clone_from(&now.data);
    // The fingerprint covers the vocabulary, which older versions left out.
    before.vocabulary.clone_from(&now.vocabulary);
    if before == *now {
        return Ok(());
    }
    let remedy =
        "give the settings and the data that it was made with, choose another --out, or remove the folder";
    let difference = match before.fingerprint == now.fingerprint {
        true => first_difference(&before, now),
        false => "was made on other data (or on another --subset)".into(),
    };
    Err(Error::invalid(folder, "run", difference, remedy))
}

fn first_difference(before: &RunConfig, now: &RunConfig) -> String {
    match before.train.differences(&now.train).first() {
        Some((name, before, now)) => format!("was made with {name} = {before}, now it is {now}"),
        None => "was made with a network of other sizes or switches".into(),
    }
}
