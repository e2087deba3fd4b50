//! The training loop.
//!
//! An epoch uses every training image as an anchor once, in an order of its own, `batch_size` at a time:
//! triples are drawn, their graphs become a batch, and the model takes a step. A backend that stores the
//! training set draws the triples at the start of an epoch and assembles the batches within the steps. For
//! other backends this happens here, step by step. Both give the same batches. After each epoch the
//! validation images are embedded, and the epoch with the best row-wise Kendall tau is kept. All random
//! numbers depend only on the seed, the epoch and the anchor, so a checkpoint needs to store no more than the
//! position in an epoch.
//!
//! [`config`] defines the options, [`checkpoint`] the saved state.

pub mod checkpoint;
mod checkpoint_writer;
pub mod config;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::backend::device::BackendTask;
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::batch::triples::{Triple, TripleSampler};
use crate::data::similarity::Similarity;
use crate::data::supervision::Supervision;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::evaluation::embed::embed_on_device;
use crate::evaluation::{Embeddings, row_kendall};
use crate::files::folder_lock::FolderLock;
use crate::files::tensor_file::TensorFile;
use crate::model::{LOSS_STEPS, Model, TrainingState};
use crate::network::config::ModelConfig;
use crate::network::parameters::{TypeVectors, initial_parameters};
use crate::network::tensors::NamedTensors;
use crate::progress::Progress;
use crate::report::run_log::{Record, RunLog};
use crate::terminal::duration;

use checkpoint::{BEST, Checkpoint, LAST, RunConfig, TrainProgress};
use checkpoint_writer::CheckpointWriter;
use config::TrainConfig;

/// Number of steps between two records of the loss. In between nothing is downloaded, and the host runs ahead
/// of the device.
const RECORD_STEPS: u64 = LOSS_STEPS as u64;
/// Values per task in a check.
const FINITE_CHUNK: usize = 1 << 16;
/// Least number of images for a rank correlation on the validation split.
const LEAST_VALIDATION_IMAGES: usize = 3;

/// Result of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOutcome {
    /// Number of finished epochs.
    pub epochs: usize,
    /// Number of optimizer steps taken.
    pub steps: u64,
    /// Best validation result: number of finished epochs, and row-wise Kendall tau.
    pub best: Option<(usize, f64)>,
    /// Whether the run was stopped before the last epoch.
    pub interrupted: bool,
}

/// Trains on `dataset` in the folder `run`, from the start or from `resume`, until the last epoch or until
/// `stop` is set.
pub fn train(
    dataset: &Dataset,
    config: TrainConfig,
    run: &Path,
    resume: Option<Checkpoint>,
    stop: &AtomicBool,
) -> Result<TrainOutcome> {
    let (device, precision) = (config.device, config.precision);
    prepare(dataset, config, run, resume, stop, |training| device.run(precision, training))
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
    prepare(dataset, config, run, resume, stop, |training| training.run(backend))
}

fn prepare(
    dataset: &Dataset,
    config: TrainConfig,
    run: &Path,
    resume: Option<Checkpoint>,
    stop: &AtomicBool,
    start: impl FnOnce(Training) -> Result<TrainOutcome>,
) -> Result<TrainOutcome> {
    let started = Instant::now();
    let supervision =
        Supervision::open(config.similarity.as_deref(), config.caption_vectors.as_deref(), dataset)?;
    let similarity = supervision.view(dataset);
    let sampler = TripleSampler::new(similarity, dataset.split(Split::Train), config.sampling, config.seed)?;
    if resume.is_none() {
        check_trainable(&sampler, &config)?;
    }
    let config = RunConfig::new(config, dataset)?;
    std::fs::create_dir_all(run).map_err(Error::file("create", run))?;
    let _lock = FolderLock::take(run)?;
    let resume = match resume {
        Some(checkpoint) => Some(check_resume(run, checkpoint, dataset, &config)?),
        None => {
            check_fresh(run)?;
            None
        }
    };
    let supervision = &supervision;
    start(Training { dataset, supervision, similarity, sampler, config, run, resume, stop, started })
}

/// Checks that the first epoch has a triple. Otherwise the training would take no step.
///
/// Stops at the first triple, so this is cheap for usual similarities.
fn check_trainable(sampler: &TripleSampler<'_>, config: &TrainConfig) -> Result<()> {
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
fn check_fresh(run: &Path) -> Result<()> {
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
fn check_resume(
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
    checkpoint.progress.best = checkpoint::check_best(run, &checkpoint)?;
    Ok(checkpoint)
}

/// First and second moments of Adam.
type Moments = (NamedTensors, NamedTensors);

struct Training<'a> {
    dataset: &'a Dataset,
    supervision: &'a Supervision,
    similarity: Similarity<'a>,
    sampler: TripleSampler<'a>,
    config: RunConfig,
    run: &'a Path,
    resume: Option<Checkpoint>,
    stop: &'a AtomicBool,
    started: Instant,
}

impl BackendTask for Training<'_> {
    type Output = TrainOutcome;

    fn run<B: Backend>(mut self, backend: B) -> Result<TrainOutcome> {
        let resume = self.resume.take();
        let fresh = resume.is_none();
        let (mut model, mut state, mut progress) = self.start(backend, resume)?;
        let training_images = 0..self.dataset.split(Split::Train).end;
        let kept =
            model.load_training_set(training_images.map(|image| self.dataset.graph(image)), &self.sampler)?;
        let mut log = RunLog::open(self.run, progress.epoch, progress.steps)?;
        let mut writer = CheckpointWriter::default();
        if fresh {
            let tensors = self.tensors(&mut model, &state, &progress)?;
            writer.start(self.save(&progress, tensors, false))?;
        }
        let train = &self.config.train;
        let (loss, adam) = (train.loss(), train.adam());
        let mut batch = GraphBatch::default();
        while progress.epoch < train.epochs {
            let order = self.sampler.anchor_order(progress.epoch as u32);
            let bar = Progress::new(
                format!("epoch {}/{}", progress.epoch + 1, train.epochs),
                Some(order.len() as u64),
                "anchors",
            );
            bar.advance(progress.position as u64);
            if kept {
                model.begin_epoch(&self.sampler, progress.epoch as u32, &order, progress.position)?;
            }
            for anchors in order[progress.position..].chunks(train.batch_size) {
                let triples = match kept {
                    true => model.next_batch()?,
                    false => self.load(progress.epoch as u32, anchors, &mut batch, &mut model)?,
                };
                // Before the batch changes the model.
                self.check_files()?;
                progress.position += anchors.len();
                progress.skipped += (anchors.len() - triples) as u64;
                bar.advance(anchors.len() as u64);
                if triples > 0 {
                    model.train_step(&loss, &adam, &mut state)?;
                    if state.steps.is_multiple_of(RECORD_STEPS) {
                        let last = self.record(&mut model, &mut state, &mut progress, &mut log)?;
                        bar.message(last.map_or(String::new(), |loss| format!("loss {loss:.4}")));
                    }
                }
                if self.stop.load(Ordering::Relaxed) {
                    bar.finish();
                    self.record(&mut model, &mut state, &mut progress, &mut log)?;
                    let tensors = self.tensors(&mut model, &state, &progress)?;
                    writer.start(self.save(&progress, tensors, false))?;
                    writer.finish()?;
                    return Ok(outcome(&progress, true));
                }
            }
            bar.finish();
            self.record(&mut model, &mut state, &mut progress, &mut log)?;
            let tensors = self.tensors(&mut model, &state, &progress)?;
            let tau = self.validate(&mut model, &progress)?;
            self.check_files()?;
            let record = Record::Epoch {
                epoch: progress.epoch + 1,
                step: progress.steps,
                loss: progress.loss_sum / progress.triples.max(1) as f64,
                validation_kendall: tau,
                skipped_anchors: progress.skipped,
                seconds: self.started.elapsed().as_secs_f64(),
            };
            report(&record);
            log.write(&record)?;
            let better = match (tau, progress.best) {
                (Some(tau), Some((_, best))) => tau > best,
                _ => true,
            };
            progress = TrainProgress {
                epoch: progress.epoch + 1,
                steps: progress.steps,
                best: if better { tau.map(|tau| (progress.epoch + 1, tau)) } else { progress.best },
                ..Default::default()
            };
            writer.start(self.save(&progress, tensors, better))?;
        }
        writer.finish()?;
        Ok(outcome(&progress, false))
    }
}

impl Training<'_> {
    /// Creates the model and its state: those of the checkpoint, or the initial ones.
    fn start<B: Backend>(
        &self,
        backend: B,
        resume: Option<Checkpoint>,
    ) -> Result<(Model<B>, TrainingState<B>, TrainProgress)> {
        let dataset = self.dataset;
        let graphs = (0..dataset.image_count()).map(|image| dataset.graph(image));
        let most_triples = self.config.train.batch_size.min(dataset.split(Split::Train).len());
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

    /// Adds the losses of the steps since the last call to `progress`; returns the loss of the last step.
    fn record<B: Backend>(
        &self,
        model: &mut Model<B>,
        state: &mut TrainingState<B>,
        progress: &mut TrainProgress,
        log: &mut RunLog,
    ) -> Result<Option<f32>> {
        let mut last = None;
        for (loss, triples) in model.take_losses(state)? {
            progress.steps += 1;
            self.check_finite("the loss", [&loss], progress)?;
            progress.loss_sum += f64::from(loss) * triples as f64;
            progress.triples += triples as u64;
            if progress.steps.is_multiple_of(RECORD_STEPS) {
                log.write(&Record::Step {
                    epoch: progress.epoch + 1,
                    step: progress.steps,
                    loss,
                    seconds: self.started.elapsed().as_secs_f64(),
                })?;
            }
            last = Some(loss);
        }
        debug_assert_eq!(progress.steps, state.steps);
        Ok(last)
    }

    /// Row-wise Kendall tau of the validation images; `None` if there are too few.
    fn validate<B: Backend>(&self, model: &mut Model<B>, progress: &TrainProgress) -> Result<Option<f64>> {
        let images = self.dataset.split(Split::Validation);
        if images.len() < LEAST_VALIDATION_IMAGES {
            return Ok(None);
        }
        let bar = Progress::new("validation", Some(images.len() as u64), "images");
        let graphs = images.clone().map(|image| self.dataset.graph(image));
        let on_device = embed_on_device(model, graphs, |count| bar.advance(count as u64))?;
        let width = self.config.model.state_width;
        let embeddings = model.backend().download(&on_device, 0..images.len() * width)?;
        self.check_finite("an embedding", &embeddings, progress)?;
        let embeddings = Embeddings::new(&embeddings, width)?;
        let tau = row_kendall(model.backend(), embeddings, &on_device, self.similarity, images)?;
        bar.finish();
        Ok(Some(tau))
    }

    /// Ends the run if a value is not finite. The last checkpoint stays unchanged: its values were still
    /// finite.
    fn check_finite<'v>(
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
    fn check_files(&self) -> Result<()> {
        self.dataset.check_unchanged()?;
        self.supervision.check_unchanged()
    }

    fn last(&self) -> PathBuf {
        self.run.join(LAST)
    }

    /// Tensors of a checkpoint, checked to be finite. A ReLU turns NaN into 0, so the loss alone does not
    /// show that training has diverged.
    fn tensors<B: Backend>(
        &self,
        model: &mut Model<B>,
        state: &TrainingState<B>,
        progress: &TrainProgress,
    ) -> Result<(NamedTensors, Moments)> {
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
        Ok((tensors, (first, second)))
    }

    /// Writes the last checkpoint. If the result is `better` than all before, writes the best checkpoint
    /// first.
    fn save(
        &self,
        progress: &TrainProgress,
        (tensors, moments): (NamedTensors, Moments),
        better: bool,
    ) -> impl FnOnce() -> Result<()> + Send + 'static {
        let (config, progress) = (self.config.clone(), progress.clone());
        let (best, last) = (self.run.join(BEST), self.last());
        move || {
            if better {
                checkpoint::save(&best, &config, &progress, tensors.clone(), None)?;
            }
            checkpoint::save(&last, &config, &progress, tensors, Some(moments))
        }
    }
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

fn outcome(progress: &TrainProgress, interrupted: bool) -> TrainOutcome {
    TrainOutcome { epochs: progress.epoch, steps: progress.steps, best: progress.best, interrupted }
}

fn report(record: &Record) {
    if let Record::Epoch { epoch, step, loss, validation_kendall, seconds, .. } = record {
        let tau = validation_kendall.map_or("none".to_string(), |tau| format!("{tau:.4}"));
        let time = duration(*seconds);
        tracing::info!("epoch {epoch}: step {step}, loss {loss:.4}, validation Kendall tau {tau}, {time}");
    }
}
