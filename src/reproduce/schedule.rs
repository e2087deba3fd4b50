//! The runs of a reproduction one by one, as the scheduler of a cluster starts them: what there is to do, and one run of it.
//!
//! Each process opens the data for itself and locks the folder of its run only, so any number of them can work at once.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::material::Material;
use super::plan::Plan;
use super::training::{Trained, folder, state, train_one};
use super::{Reproduction, grid};
use crate::error::{Error, Result};
use crate::files::folder_lock::is_held;
use crate::train::checkpoint::LAST;
use crate::train::config::TrainConfig;

/// State of a planned run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Trained and measured.
    Done,
    /// Begun and not finished; training continues from the last checkpoint.
    Resumable,
    /// Not begun.
    Missing,
    /// Diverged; training would diverge again.
    Diverged,
    /// A process works on it.
    Locked,
}

/// A planned run and its state.
#[derive(Clone, Debug, Serialize)]
pub struct ScheduledRun {
    /// Position in the plan, from 0.
    pub index: usize,
    /// Name of the run.
    pub name: String,
    /// Folder of the run.
    pub folder: PathBuf,
    /// State of the run.
    pub status: Status,
    /// Number of finished epochs in the last checkpoint.
    pub epoch: usize,
    /// Why it diverged, if it did.
    pub reason: Option<String>,
    /// All settings of the training.
    pub settings: TrainConfig,
}

impl ScheduledRun {
    fn new(reproduction: &Reproduction, plan: &Plan, index: usize, trained: &Trained) -> Self {
        let run = &plan.runs[index];
        let folder = folder(&reproduction.out, run);
        let (status, epoch, reason) = match trained {
            Trained::Finished(result) => (Status::Done, result.outcome.epochs, None),
            Trained::Diverged(message) => (Status::Diverged, 0, Some(message.clone())),
            Trained::Unfinished { epochs } if folder.join(LAST).exists() => {
                (Status::Resumable, *epochs, None)
            }
            Trained::Unfinished { epochs } => (Status::Missing, *epochs, None),
        };
        let (name, settings) = (run.name.clone(), run.config.clone());
        ScheduledRun { index, name, folder, status, epoch, reason, settings }
    }
}

/// All runs of the reproduction, or of the grid in this file, in the order of the plan. Trains nothing; with a subset it writes the
/// subset's data.
pub fn scheduled_runs(reproduction: &Reproduction, grid: Option<&Path>) -> Result<Vec<ScheduledRun>> {
    let (material, plan) = open(reproduction, grid)?;
    let runs = plan.runs.iter().enumerate().map(|(index, run)| {
        let trained = state(reproduction, &material.dataset, run)?;
        let scheduled = ScheduledRun::new(reproduction, &plan, index, &trained);
        let status = if is_held(&scheduled.folder) { Status::Locked } else { scheduled.status };
        Ok(ScheduledRun { status, ..scheduled })
    });
    runs.collect()
}

/// Trains and measures the run that `which` names, by name or index, from its current state. Does nothing if it is done or has
/// diverged. Returns its state: resumable or missing if `stop` was set or the time was up.
pub fn reproduce_one(
    reproduction: &Reproduction,
    grid: Option<&Path>,
    which: &str,
    stop: &AtomicBool,
) -> Result<ScheduledRun> {
    let (material, plan) = open(reproduction, grid)?;
    let index = find(&plan, which)?;
    let trained = train_one(reproduction, &material.dataset, &plan, index, stop)?;
    Ok(ScheduledRun::new(reproduction, &plan, index, &trained))
}

fn open(reproduction: &Reproduction, grid: Option<&Path>) -> Result<(Material, Plan)> {
    reproduction.check()?;
    let of_grid = grid.map(|file| grid::plan(reproduction, file)).transpose()?;
    if reproduction.subset.is_some() {
        std::fs::create_dir_all(&reproduction.out).map_err(Error::file("create", &reproduction.out))?;
    }
    let material = Material::open(reproduction)?;
    let plan = of_grid.unwrap_or_else(|| reproduction.plan(&material));
    Ok((material, plan))
}

/// Index of the run with this name, or with this index.
fn find(plan: &Plan, which: &str) -> Result<usize> {
    let by_name = plan.runs.iter().position(|run| run.name == which);
    let by_index = || which.parse().ok().filter(|&index| index < plan.runs.len());
    by_name.or_else(by_index).ok_or_else(|| {
        let problem = format!("is {which}; the {} runs of the plan have other names", plan.runs.len());
        let remedy = format!("give a name that --plan lists, or an index from 0 to {}", plan.runs.len() - 1);
        Error::argument("--only", problem, remedy)
    })
}
