//! Checks before a training starts: whether there is anything to learn, and whether a folder can be used.

use std::path::Path;

use rayon::prelude::*;

use super::checkpoint::{self, Checkpoint, LAST, RunConfig, TrainProgress};
use super::config::TrainConfig;
use crate::batch::triples::TripleSampler;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;

/// Checks that the first epoch has a triple. Otherwise the training would take no step.
///
/// Stops at the first triple, so this is cheap for usual similarities.
pub(super) fn check_trainable(sampler: &TripleSampler<'_>, config: &TrainConfig) -> Result<()> {
    let images = sampler.images();
    if images.clone().into_par_iter().any(|image| sampler.draw(0, image as u32).is_some()) {
        return Ok(());
    }
    let path = config.supervision().unwrap_or(Path::new("similarities of captions"));
    Err(Error::invalid(
        path,
        "training images",
        format!(
            "no triple can be drawn: to each of the {} images all others are equally similar, or not similar at all",
            images.len()
        ),
        "give similarities that differ between images, or another --sampling",
    ))
}

/// Checks that `run` holds no run. Requires its lock.
pub(super) fn check_fresh(run: &Path) -> Result<()> {
    match run.join(LAST).exists() {
        false => Ok(()),
        true => Err(Error::invalid(
            run,
            "run folder",
            "already holds a run",
            "continue it with --resume, or choose another folder",
        )),
    }
}

/// Checks that `checkpoint` is still the last one of `run`, can be continued on `dataset`, and is accompanied by the best one.
/// Requires the lock of the folder.
pub(super) fn check_resume(
    run: &Path,
    mut checkpoint: Checkpoint,
    dataset: &Dataset,
    config: &RunConfig,
) -> Result<Checkpoint> {
    let last = run.join(LAST);
    if !config.is_same_run(&checkpoint.config) {
        let problem = match config.supervision == checkpoint.config.supervision {
            true => "is of a run with other options or other data",
            false => "is of a run with another similarity matrix or other caption vectors",
        };
        let remedy = "continue with the options and files of the run, or train a new one";
        return Err(Error::invalid(last, "metadata \"config\"", problem, remedy));
    }
    let TrainProgress { epoch, position, steps, .. } = checkpoint.progress;
    if checkpoint.moments.is_none() {
        let remedy = format!("continue from {LAST}");
        return Err(Error::invalid(last, "tensors", "holds no optimizer moments", remedy));
    }
    let stored: TrainProgress = TensorFile::read_metadata(&last, "progress")?;
    if stored != checkpoint.progress {
        let problem = "was replaced by another process while this one read it";
        return Err(Error::invalid(last, "file", problem, "run again"));
    }
    let anchors = dataset.split(Split::Train).len();
    let most_steps = (epoch as u128 * anchors as u128) + position as u128;
    if position > anchors || u128::from(steps) > most_steps {
        let problem =
            format!("is at anchor {position} of {anchors} and step {steps}, of at most {most_steps}");
        let remedy = "the file is damaged; use another checkpoint";
        return Err(Error::invalid(last, "metadata \"progress\"", problem, remedy));
    }
    if let Some(TrainProgress { best, kept, .. }) = checkpoint::check_best(run, &checkpoint)? {
        checkpoint.progress = TrainProgress { best, kept, ..checkpoint.progress };
    }
    Ok(checkpoint)
}
