//! Training. Here its inputs are checked and its folder is opened; `training.rs` has the loop.
//!
//! An epoch uses every training image as an anchor once, in an order of its own, `batch_size` at a time:
//! triples are drawn, their graphs become a batch, and the model takes a step. A backend that stores the
//! training set draws the triples at the start of an epoch and assembles the batches within the steps. For
//! other backends this happens here, step by step. Both give the same batches. After each epoch the
//! validation images are embedded, and the epoch with the best row-wise Kendall tau is kept. All random
//! numbers depend only on the seed, the epoch and the anchor, so a checkpoint needs to store no more than the
//! position in an epoch.
//!
//! Several ranks may train together ([`Ranks`]): each takes its share of the anchors of every batch. Rank 0 alone validates,
//! and writes the run's folder and the log. The others wait for it in the next exchange.
//!
//! [`config`] defines the options, [`checkpoint`] the saved state.

pub mod checkpoint;
mod checkpoint_writer;
pub mod config;
mod pace;
pub mod run_record;
mod shares;
mod start;
mod training;
mod validation;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::backend::device::BackendTask;
use crate::backend::kernels::Kernels;
use crate::batch::triples::TripleSampler;
use crate::data::supervision::Supervision;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::files::folder_lock::FolderLock;
use crate::network::config::ModelConfig;
use crate::network::parameters::{TypeVectors, initial_parameters};
use crate::network::tensors::NamedTensors;
use crate::ranks::Ranks;

use checkpoint::{Checkpoint, RunConfig};
use config::TrainConfig;
use shares::{agreed, check_batch};
use start::{check_fresh, check_resume, check_trainable};
use training::Training;

/// Result of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOutcome {
    /// Number of finished epochs.
    pub epochs: usize,
    /// Number of optimizer steps taken.
    pub steps: u64,
    /// Best validation result: epoch, finished or not, and row-wise Kendall tau.
    pub best: Option<(usize, f64)>,
    /// Whether the run was stopped before its end.
    pub interrupted: bool,
}

/// Trains on `dataset` in the folder `run`, from the start or from `resume`, until the last epoch ends, the patience is
/// used up, or `stop` is set.
pub fn train(
    dataset: &Dataset,
    config: TrainConfig,
    run: &Path,
    resume: Option<Checkpoint>,
    stop: &AtomicBool,
) -> Result<TrainOutcome> {
    train_on_ranks(dataset, config, run, resume, Control::alone(stop))
}

/// What steers a training from outside.
#[derive(Clone)]
pub struct Control<'a> {
    /// Ends the training after the step, with the state saved, once any rank sets it.
    pub stop: &'a AtomicBool,
    /// Ranks that train together.
    pub ranks: Ranks,
}

impl<'a> Control<'a> {
    /// One rank, which `stop` stops.
    fn alone(stop: &'a AtomicBool) -> Self {
        Control { stop, ranks: Ranks::default() }
    }
}

/// Like [`train`], as one of the ranks of `control`. All ranks call this with the same arguments.
pub fn train_on_ranks(
    dataset: &Dataset,
    config: TrainConfig,
    run: &Path,
    resume: Option<Checkpoint>,
    control: Control<'_>,
) -> Result<TrainOutcome> {
    let device = config.device.of_rank(&control.ranks);
    prepare(dataset, config, Folder::Open(run), resume, control, |training| {
        let arithmetic = training.arithmetic();
        let ranks = &training.control.ranks;
        let of_all =
            if ranks.is_one() { arithmetic } else { agreed(arithmetic, device.family(arithmetic)?, ranks) };
        device.run(of_all, training)
    })
}

/// Like [`train`], in a folder that the caller has locked.
pub fn train_locked(
    dataset: &Dataset,
    config: TrainConfig,
    run: &FolderLock,
    resume: Option<Checkpoint>,
    stop: &AtomicBool,
) -> Result<TrainOutcome> {
    let (device, control) = (config.device, Control::alone(stop));
    prepare(dataset, config, Folder::Locked(run), resume, control, |training| {
        device.run(training.arithmetic(), training)
    })
}

/// Like [`train`], on this backend, whatever device the configuration names.
pub fn train_on<B: Backend>(
    backend: B,
    dataset: &Dataset,
    config: TrainConfig,
    run: &Path,
    resume: Option<Checkpoint>,
    stop: &AtomicBool,
) -> Result<TrainOutcome> {
    let control = Control::alone(stop);
    prepare(dataset, config, Folder::Open(run), resume, control, |training| training.run(backend))
}

/// Folder of a run.
#[derive(Clone, Copy)]
enum Folder<'a> {
    /// Created and locked by the training.
    Open(&'a Path),
    /// Locked by the caller.
    Locked(&'a FolderLock),
}

fn prepare(
    dataset: &Dataset,
    mut config: TrainConfig,
    folder: Folder<'_>,
    resume: Option<Checkpoint>,
    control: Control<'_>,
    start: impl FnOnce(Training) -> Result<TrainOutcome>,
) -> Result<TrainOutcome> {
    let supervision =
        Supervision::open(config.similarity.as_deref(), config.caption_vectors.as_deref(), dataset)?;
    let similarity = supervision.view(dataset);
    let sampler = TripleSampler::new(similarity, dataset.split(Split::Train), config.sampling, config.seed)?;
    check_batch(&config, &control.ranks)?;
    match &resume {
        Some(checkpoint) if config.kernels == Kernels::Auto => {
            config.kernels = checkpoint.config.train.kernels;
        }
        Some(_) => {}
        None => check_trainable(&sampler, &config)?,
    }
    let config = RunConfig::new(config, dataset)?;
    let writes = control.ranks.is_first();
    let (run, _lock) = match folder {
        Folder::Open(run) if !writes => (run, None),
        Folder::Open(run) => {
            std::fs::create_dir_all(run).map_err(Error::file("create", run))?;
            (run, Some(FolderLock::take(run)?))
        }
        Folder::Locked(lock) => (lock.folder(), None),
    };
    let resume = match resume {
        Some(checkpoint) => Some(check_resume(run, checkpoint, dataset, &config)?),
        None if writes => {
            check_fresh(run)?;
            None
        }
        None => None,
    };
    let supervision = &supervision;
    start(Training { dataset, supervision, similarity, sampler, config, run, resume, control })
}

/// Initial parameters for training on `dataset`.
pub fn first_parameters(dataset: &Dataset, model: ModelConfig, seed: u64) -> NamedTensors {
    let vectors = |vectors, known| TypeVectors { vectors, width: dataset.word_width(), known };
    initial_parameters(
        model,
        vectors(dataset.object_vectors(), &|t| dataset.object_known(t)),
        vectors(dataset.predicate_vectors(), &|t| dataset.predicate_known(t)),
        seed,
    )
}
