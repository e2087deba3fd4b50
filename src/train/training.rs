//! The training loop: epochs of steps, validations, and what each leaves in the folder of the run.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use indicatif::HumanCount;
use rayon::prelude::*;

use super::checkpoint::{self, BEST, Checkpoint, LAST, RunConfig, TrainProgress};
use super::checkpoint_writer::CheckpointWriter;
use super::config::TrainConfig;
use super::pace::Pace;
use super::run_record::OpenRecord;
use super::shares::{check_ranks, losses_of_all, own_anchors};
use super::{Control, TrainOutcome, first_parameters};
use crate::backend::Backend;
use crate::backend::device::{Arithmetic, BackendTask};
use crate::backend::kernels::Kernels;
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::batch::triples::{Triple, TripleSampler};
use crate::data::similarity::Similarity;
use crate::data::supervision::Supervision;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::model::{LOSS_STEPS, Model, TrainingState};
use crate::network::tensors::NamedTensors;
use crate::progress::Progress;
use crate::report::run_log::{Record, RunLog};
use crate::terminal::{duration, rough_duration};

/// Number of steps between two records of the loss. In between nothing is downloaded, and the host runs ahead
/// of the device.
const RECORD_STEPS: u64 = LOSS_STEPS as u64;
/// Values per task in a check.
const FINITE_CHUNK: usize = 1 << 16;

/// First and second moments of Adam.
type Moments = (NamedTensors, NamedTensors);

/// A training that may begin: its inputs are checked, and its folder is locked.
pub(super) struct Training<'a> {
    pub dataset: &'a Dataset,
    pub supervision: &'a Supervision,
    pub similarity: Similarity<'a>,
    pub sampler: TripleSampler<'a>,
    pub config: RunConfig,
    pub run: &'a Path,
    pub resume: Option<Checkpoint>,
    pub control: Control<'a>,
}

impl BackendTask for Training<'_> {
    type Output = TrainOutcome;

    fn run<B: Backend>(mut self, mut backend: B) -> Result<TrainOutcome> {
        let description = backend.description()?;
        // The checkpoints record the family that is used.
        self.config.train.kernels = description.kernels;
        let ranks = &self.control.ranks;
        check_ranks::<B>(ranks, &self.config, self.resume.as_ref())?;
        backend.join(ranks)?;
        if !ranks.is_first() {
            return self.train(backend);
        }
        let record = OpenRecord::begin(self.run, &self.config, self.dataset, description)?;
        let outcome = self.train(backend);
        let recorded = record.end(&outcome);
        outcome.and_then(|outcome| recorded.map(|()| outcome))
    }
}

/// A training in progress.
pub(super) struct Running<B: Backend> {
    pub model: Model<B>,
    state: TrainingState<B>,
    pub progress: TrainProgress,
    /// Log of the run, on rank 0.
    log: Option<RunLog>,
    writer: CheckpointWriter,
    pace: Pace,
    /// `[images, D]` embeddings of the validation images, from the last validation of this command.
    pub validated: Vec<f32>,
}

impl Training<'_> {
    /// How the device computes. A continued run that recorded no family used mma.sync if it used tensor cores.
    pub(super) fn arithmetic(&self) -> Arithmetic {
        let train = &self.config.train;
        let arithmetic = train.arithmetic();
        match arithmetic.kernels {
            Kernels::Auto if self.resume.is_some() && train.device.has_families(train.precision) => {
                Arithmetic { kernels: Kernels::Mma, ..arithmetic }
            }
            _ => arithmetic,
        }
    }

    fn train<B: Backend>(&mut self, backend: B) -> Result<TrainOutcome> {
        let resume = self.resume.take();
        let fresh = resume.is_none();
        let (mut model, state, progress) = self.start(backend, resume)?;
        let training_images = 0..self.dataset.split(Split::Train).end;
        let kept =
            model.load_training_set(training_images.map(|image| self.dataset.graph(image)), &self.sampler)?;
        let log = match self.control.ranks.is_first() {
            true => Some(self.open_log(&progress)?),
            false => None,
        };
        let before = log.as_ref().map_or(0.0, RunLog::seconds);
        let pace = Pace::new(before, &self.config.train, self.anchors());
        let writer = CheckpointWriter::default();
        let mut running = Running { model, state, progress, log, writer, pace, validated: Vec::new() };
        if fresh {
            let tensors = self.tensors(&mut running)?;
            self.save(&mut running, tensors, false)?;
        }
        let train = &self.config.train;
        let nothing_left = running.progress.is_finished(train);
        let mut interrupted = false;
        while !interrupted && !running.progress.is_finished(train) {
            interrupted = !self.epoch(&mut running, kept)?;
        }
        running.writer.finish()?;
        let Some(log) = &mut running.log else { return Ok(outcome(&running.progress, interrupted)) };
        log.end()?;
        // A command that trained nothing leaves the files of the command before it.
        if !interrupted && !nothing_left {
            self.project(&mut running)?;
        }
        if !interrupted && running.progress.epoch < train.epochs {
            tracing::info!("{} validations without a better Kendall tau: training ends", train.patience);
        }
        Ok(outcome(&running.progress, interrupted))
    }

    /// Log of the run, continued after `progress`.
    fn open_log(&self, progress: &TrainProgress) -> Result<RunLog> {
        let mut log = RunLog::open(self.run, progress.epoch, progress.steps)?;
        log.begin(&serde_json::to_value(&self.config.train).expect("plain fields"))?;
        Ok(log)
    }

    /// Creates the model and its state: those of the checkpoint, or the initial ones.
    fn start<B: Backend>(
        &self,
        backend: B,
        resume: Option<Checkpoint>,
    ) -> Result<(Model<B>, TrainingState<B>, TrainProgress)> {
        let dataset = self.dataset;
        let graphs = (0..dataset.image_count()).map(|image| dataset.graph(image));
        let most_triples = self.config.train.batch_size.min(dataset.split(Split::Train).len());
        let most_triples = self.control.ranks.share(most_triples).len().max(1);
        let capacity = BatchSize::bound(graphs, 3 * most_triples);
        let Some(checkpoint) = resume else {
            let tensors = first_parameters(dataset, self.config.model, self.config.train.seed);
            let model = Model::new(backend, self.config.model, &tensors, capacity)?;
            let state = TrainingState::new(&model)?;
            return Ok((model, state, TrainProgress::default()));
        };
        let mut model = Model::new(backend, self.config.model, &checkpoint.tensors, capacity)?;
        let mut state = TrainingState::new(&model)?;
        let (first, second) = checkpoint.moments.expect("checked before the start");
        state.restore(&mut model, checkpoint.progress.steps, &first, &second)?;
        Ok((model, state, checkpoint.progress))
    }

    /// Trains to the end of an epoch, or until the patience is used up. Returns false if `stop` was set before, with the
    /// state saved.
    fn epoch<B: Backend>(&self, running: &mut Running<B>, kept: bool) -> Result<bool> {
        let train = &self.config.train;
        let (loss, adam) = (train.loss(), train.adam(self.anchors()));
        let epoch = running.progress.epoch;
        let order = self.sampler.anchor_order(epoch as u32);
        let bar = Progress::new(
            format!("epoch {}/{}", epoch + 1, train.epochs),
            Some(order.len() as u64),
            "anchors",
        );
        bar.advance(running.progress.position as u64);
        let ranks = &self.control.ranks;
        if kept {
            let (order, position) = own_anchors(ranks, &order, running.progress.position, train.batch_size);
            running.model.begin_epoch(&self.sampler, epoch as u32, &order, position)?;
        }
        let mut batch = GraphBatch::default();
        let mut loss_now = String::new();
        for anchors in order[running.progress.position..].chunks(train.batch_size) {
            let own = match kept {
                true => running.model.next_batch()?,
                false => self.load(
                    epoch as u32,
                    &anchors[ranks.share(anchors.len())],
                    &mut batch,
                    &mut running.model,
                )?,
            };
            let triples = ranks.total(own);
            if triples > 0 && own == 0 {
                self.fill(&[], &mut batch);
                running.model.load_batch(&batch)?;
            }
            // Before the batch changes the model.
            self.check_files()?;
            running.progress.position += anchors.len();
            running.progress.skipped += (anchors.len() - triples) as u64;
            running.pace.trained(anchors.len(), triples);
            bar.advance(anchors.len() as u64);
            if triples > 0 {
                running.model.share_step(triples);
                running.model.train_step(&loss, &adam, &mut running.state)?;
                if running.state.steps.is_multiple_of(RECORD_STEPS) {
                    let last = self.record(running)?;
                    let left = running.pace.seconds_left(&running.progress).map(rough_duration);
                    loss_now = last.map_or(String::new(), |loss| format!("loss {loss:.4}"));
                    let left = left.map_or(String::new(), |left| format!(", {left} left of the run"));
                    bar.message(format!("{loss_now}{left}"));
                }
            }
            let ends = running.progress.position == order.len();
            let every = train.validate_every;
            if triples > 0 && every > 0 && running.state.steps.is_multiple_of(every) && !ends {
                self.record(running)?; // waits for the steps
                let from = Instant::now();
                self.validate_within(running)?;
                running.pace.pause(from);
                if running.progress.is_finished(train) {
                    bar.finish();
                    return Ok(true);
                }
            }
            if ranks.any(self.control.stop.load(Ordering::Relaxed)) {
                bar.finish();
                self.record(running)?;
                let tensors = self.tensors(running)?;
                self.save(running, tensors, false)?;
                return Ok(false);
            }
        }
        bar.message(loss_now);
        bar.finish();
        self.record(running)?;
        self.end_epoch(running)?;
        Ok(true)
    }

    /// Validates the model within an epoch, records the result and saves the model.
    fn validate_within<B: Backend>(&self, running: &mut Running<B>) -> Result<()> {
        let tensors = self.tensors(running)?;
        let Some(tau) = self.validate(running)? else { return Ok(()) };
        let Running { progress, log, pace, .. } = running;
        let epoch = progress.epoch + 1;
        let seconds = pace.seconds();
        if let Some(log) = log {
            log.write(&Record::Validation { epoch, step: progress.steps, validation_kendall: tau, seconds })?;
        }
        let better = progress.validated(epoch, tau, self.config.train.keep_best);
        self.save(running, tensors, better)
    }

    /// Validates the model after an epoch, records the epoch and saves the model.
    fn end_epoch<B: Backend>(&self, running: &mut Running<B>) -> Result<()> {
        let rate = running.pace.graphs_per_second();
        let tensors = self.tensors(running)?;
        let tau = self.validate(running)?;
        let Running { progress, log, pace, .. } = running;
        let epoch = progress.epoch + 1;
        let record = Record::Epoch {
            epoch,
            step: progress.steps,
            loss: progress.loss_sum / progress.triples.max(1) as f64,
            validation_kendall: tau,
            skipped_anchors: progress.skipped,
            graphs_per_second: rate,
            seconds: pace.seconds(),
        };
        if let Some(log) = log {
            log.write(&record)?;
        }
        let better = tau.is_none_or(|tau| progress.validated(epoch, tau, self.config.train.keep_best));
        let TrainProgress { steps, best, validations_since_best, .. } = *progress;
        let kept = std::mem::take(&mut progress.kept);
        *progress = TrainProgress {
            epoch,
            steps,
            best: tau.and(best),
            kept,
            validations_since_best,
            ..Default::default()
        };
        pace.begin_epoch();
        if self.control.ranks.is_first() {
            report(&record, progress, &self.config.train, pace);
        }
        self.save(running, tensors, better)
    }

    /// Number of anchors of an epoch.
    fn anchors(&self) -> usize {
        self.dataset.split(Split::Train).len()
    }

    /// Loads the batch of the anchors' triples and returns their number; anchors without a triple are left
    /// out.
    fn load<B: Backend>(
        &self,
        epoch: u32,
        anchors: &[u32],
        batch: &mut GraphBatch,
        model: &mut Model<B>,
    ) -> Result<usize> {
        let triples: Vec<Triple> =
            anchors.par_iter().filter_map(|&anchor| self.sampler.draw(epoch, anchor)).collect();
        if !triples.is_empty() {
            self.fill(&triples, batch);
            model.load_batch(batch)?;
        }
        Ok(triples.len())
    }

    /// Builds the batch of the triples' graphs: anchors, then positives, then negatives.
    fn fill(&self, triples: &[Triple], batch: &mut GraphBatch) {
        batch.clear();
        let roles: [fn(&Triple) -> u32; 3] = [|t| t.anchor, |t| t.positive, |t| t.negative];
        for role in roles {
            triples.iter().for_each(|triple| batch.push_graph(self.dataset.graph(role(triple) as usize)));
        }
        batch.similarity_positive.extend(triples.iter().map(|triple| triple.similarity_positive));
        batch.similarity_negative.extend(triples.iter().map(|triple| triple.similarity_negative));
        batch.index(self.config.model.object_types, self.config.model.predicate_types);
    }

    /// Adds the losses of the steps since the last call to the progress; returns the loss of the last step.
    fn record<B: Backend>(&self, running: &mut Running<B>) -> Result<Option<f32>> {
        let mut last = None;
        let own = running.model.take_losses(&mut running.state)?;
        for (loss, triples) in losses_of_all(&self.control.ranks, own) {
            let progress = &mut running.progress;
            progress.steps += 1;
            self.check_finite("the loss", [&loss], progress)?;
            progress.loss_sum += f64::from(loss) * triples as f64;
            progress.triples += triples as u64;
            last = Some(loss);
        }
        let step = running.progress.steps;
        debug_assert_eq!(step, running.state.steps);
        if let Some(loss) = last
            && step.is_multiple_of(RECORD_STEPS)
        {
            let gradient_norm = running.model.gradient_norm(&mut running.state)?;
            if let Some(log) = &mut running.log {
                log.write(&Record::Step {
                    epoch: running.progress.epoch + 1,
                    step,
                    loss,
                    learning_rate: Some(self.config.train.adam(self.anchors()).rate_at(step)),
                    gradient_norm: Some(gradient_norm),
                    seconds: running.pace.seconds(),
                })?;
            }
        }
        Ok(last)
    }

    /// Ends the run if a value is not finite. The last checkpoint stays unchanged: its values were still
    /// finite.
    pub(super) fn check_finite<'v>(
        &self,
        quantity: &str,
        values: impl IntoIterator<Item = &'v f32>,
        progress: &TrainProgress,
    ) -> Result<()> {
        match values.into_iter().find(|value| !value.is_finite()) {
            None => Ok(()),
            Some(&value) => Err(Error::Diverged {
                quantity: quantity.into(),
                value,
                epoch: progress.epoch + 1,
                step: progress.steps,
                checkpoint: self.last(),
            }),
        }
    }

    /// An error if another process has written to the data.
    pub(super) fn check_files(&self) -> Result<()> {
        self.dataset.check_unchanged()?;
        self.supervision.check_unchanged()
    }

    fn last(&self) -> PathBuf {
        self.run.join(LAST)
    }

    /// Tensors of a checkpoint, checked to be finite; `None` on ranks that write none. A ReLU turns NaN into 0, so the loss
    /// alone does not show that training has diverged.
    fn tensors<B: Backend>(&self, running: &mut Running<B>) -> Result<Option<(NamedTensors, Moments)>> {
        if !self.control.ranks.is_first() {
            return Ok(None);
        }
        let Running { model, state, progress, .. } = running;
        let tensors = model.tensors()?;
        let (first, second) = model.moments(state)?;
        for (moment, tensors) in
            [("", &tensors), ("first moment of ", &first), ("second moment of ", &second)]
        {
            for (name, tensor) in tensors {
                // The sequential search is only needed for the message.
                if !tensor.values.par_chunks(FINITE_CHUNK).all(|chunk| chunk.iter().all(|v| v.is_finite())) {
                    self.check_finite(&format!("{moment}{name}"), &tensor.values, progress)?;
                }
            }
        }
        Ok(Some((tensors, (first, second))))
    }

    /// Writes the last checkpoint in the background. If its validation is the best so far, writes the best checkpoint
    /// first; if it is one of several to be kept, its own file too.
    fn save<B: Backend>(
        &self,
        running: &mut Running<B>,
        tensors: Option<(NamedTensors, Moments)>,
        better: bool,
    ) -> Result<()> {
        let Some((tensors, moments)) = tensors else { return Ok(()) };
        let Running { progress, writer, .. } = running;
        let (config, progress) = (self.config.clone(), progress.clone());
        let (folder, several) = (self.run.to_path_buf(), self.config.train.keep_best > 1);
        writer.start(move || {
            if better {
                checkpoint::save(&folder.join(BEST), &config, &progress, tensors.clone(), None)?;
            }
            let steps = progress.steps;
            if several && progress.kept.iter().any(|kept| kept.steps == steps) {
                let path = folder.join(checkpoint::step_file(steps));
                checkpoint::save(&path, &config, &progress, tensors.clone(), None)?;
            }
            checkpoint::save(&folder.join(LAST), &config, &progress, tensors, Some(moments))?;
            if several { checkpoint::remove_others(&folder, &progress.kept) } else { Ok(()) }
        })
    }
}

fn outcome(progress: &TrainProgress, interrupted: bool) -> TrainOutcome {
    TrainOutcome { epochs: progress.epoch, steps: progress.steps, best: progress.best, interrupted }
}

/// Prints an epoch as one line: its pace, the loss, the best result so far, and the time left.
fn report(record: &Record, progress: &TrainProgress, train: &TrainConfig, pace: &Pace) {
    let Record::Epoch { epoch, loss, validation_kendall, graphs_per_second, .. } = record else { return };
    let mut parts = vec![format!("epoch {epoch}/{}", train.epochs)];
    parts.extend(graphs_per_second.map(|rate| format!("{} graphs/s", HumanCount(rate.round() as u64))));
    parts.push(format!("loss {loss:.4}"));
    parts.extend(validation_kendall.map(|tau| format!("tau {tau:.3}")));
    parts.extend(progress.best.map(|(epoch, tau)| format!("best tau {tau:.3} @{epoch}")));
    match progress.is_finished(train) {
        true => parts.push(format!("{} in all", duration(pace.seconds()))),
        false => {
            parts.extend(pace.seconds_left(progress).map(|left| format!("{} left", rough_duration(left))))
        }
    }
    tracing::info!("{}", parts.join(" · "));
}
