//! Time of a training: how fast it is, and how long it will still take.

use std::time::Instant;

use super::checkpoint::TrainProgress;
use super::config::TrainConfig;

/// Graphs of a triple.
const GRAPHS: usize = 3;

/// Clock of a training.
pub(super) struct Pace {
    /// Seconds that earlier commands have trained this run.
    before: f64,
    /// Start of this command's training.
    started: Instant,
    /// Number of anchors processed by this command.
    anchors: usize,
    /// Start of the epoch, or of this command within it.
    epoch_started: Instant,
    /// Number of triples since then.
    triples: usize,
    /// Number of anchors of all epochs.
    of_run: usize,
    /// Number of anchors of one epoch.
    of_epoch: usize,
}

impl Pace {
    /// Clock of a run that has trained for `before` seconds; an epoch has `of_epoch` anchors.
    pub(super) fn new(before: f64, train: &TrainConfig, of_epoch: usize) -> Self {
        let now = Instant::now();
        Pace {
            before,
            started: now,
            anchors: 0,
            epoch_started: now,
            triples: 0,
            of_run: of_epoch.saturating_mul(train.epochs),
            of_epoch,
        }
    }

    /// Begins an epoch.
    pub(super) fn begin_epoch(&mut self) {
        self.epoch_started = Instant::now();
        self.triples = 0;
    }

    /// Leaves the time since `from` out of the epoch's graphs per second.
    pub(super) fn pause(&mut self, from: Instant) {
        self.epoch_started += from.elapsed();
    }

    /// Adds a batch.
    pub(super) fn trained(&mut self, anchors: usize, triples: usize) {
        self.anchors += anchors;
        self.triples += triples;
    }

    /// Seconds that the run has trained, over all commands.
    pub(super) fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// Graphs per second of this epoch's steps; `None` if there were none.
    pub(super) fn graphs_per_second(&self) -> Option<f64> {
        let graphs = (GRAPHS * self.triples) as f64;
        (graphs > 0.0).then(|| graphs / self.epoch_started.elapsed().as_secs_f64().max(1e-9))
    }

    /// Seconds until the last epoch ends, at the mean pace of this command, validations included.
    pub(super) fn seconds_left(&self, progress: &TrainProgress) -> Option<f64> {
        let done = progress.epoch * self.of_epoch + progress.position;
        let left = self.of_run.saturating_sub(done) as f64;
        (self.anchors > 0).then(|| self.started.elapsed().as_secs_f64() / self.anchors as f64 * left)
    }
}
