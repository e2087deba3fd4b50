//! Checkpoints of a run: `best.safetensors` (the model) and `last.safetensors` (the model and all state
//! needed to continue).
//!
//! Parameters and running statistics have the names of docs/model.md; Adam's moments have those names with the
//! prefixes `adam.first_moment.` and `adam.second_moment.`. The metadata holds JSON: `config`, the configuration, vocabulary and
//! data of the run, `model`, the identity of the model, and `progress`, the run's position. A checksum covers the whole file and is verified when it
//! is read. The same training gives the same bytes. Files are written under a temporary name and renamed, so a failed write
//! loses nothing.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use crate::data::Dataset;
use crate::data::supervision::Supervision;
use crate::data::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::files::atomic_file::write_atomically;
use crate::files::origin::checksum;
use crate::files::tensor_file::{TensorData, TensorFile, to_sealed_safetensors};
use crate::model::{finite_tensor, read_tensors};
use crate::network::config::ModelConfig;
use crate::network::parameters::{Layout, Storage};
use crate::network::tensors::NamedTensors;
use crate::train::config::TrainConfig;

/// File name of the model of the best epoch.
pub const BEST: &str = "best.safetensors";
/// File name of the latest model, optimizer state and position.
pub const LAST: &str = "last.safetensors";

/// Beginning and end of the file name of one of several kept models; the number of steps is between them.
const STEP: (&str, &str) = ("step-", ".safetensors");

const FIRST_MOMENT: &str = "adam.first_moment.";
const SECOND_MOMENT: &str = "adam.second_moment.";

/// Identity of a run: its configuration, the network and the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunConfig {
    /// Configuration of the training.
    pub train: TrainConfig,
    /// Sizes and switches of the network.
    pub model: ModelConfig,
    /// Path of the data file.
    pub data: PathBuf,
    /// Fingerprint of the data ([`Dataset::fingerprint`]), in hexadecimal.
    pub fingerprint: String,
    /// Checksum of the similarity matrix or the caption vectors from a file, if there is one: 128 bits in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervision: Option<String>,
    /// Names of the types that the model knows. Checkpoints of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<Vocabulary>,
}

/// Position of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainProgress {
    /// Number of finished epochs.
    pub epoch: usize,
    /// Number of processed anchors in the current epoch.
    pub position: usize,
    /// Number of optimizer steps taken.
    pub steps: u64,
    /// Sum of the losses in the current epoch, over its triples.
    pub loss_sum: f64,
    /// Number of triples in the current epoch.
    pub triples: u64,
    /// Number of anchors in the current epoch for which no triple could be drawn.
    pub skipped: u64,
    /// Best validation result: epoch, finished or not, and row-wise Kendall tau.
    pub best: Option<(usize, f64)>,
    /// Best validation results, at most [`TrainConfig::keep_best`], the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Validated>,
    /// Number of validations since the best one.
    #[serde(default)]
    pub validations_since_best: usize,
}

/// A validated model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validated {
    /// Number of optimizer steps taken.
    pub steps: u64,
    /// Row-wise Kendall tau of the validation images.
    pub kendall: f64,
}

/// Content of a checkpoint.
pub struct Checkpoint {
    /// Identity of the run.
    pub config: RunConfig,
    /// Position of the run.
    pub progress: TrainProgress,
    /// Parameters and running statistics.
    pub tensors: NamedTensors,
    /// Moments of Adam, in a [`LAST`] file.
    pub moments: Option<(NamedTensors, NamedTensors)>,
}

impl Checkpoint {
    /// Identity of the model in hexadecimal: a checksum of its sizes, switches, parameters and running statistics. The best and
    /// the last checkpoint of an epoch have the same.
    pub fn model_id(&self) -> String {
        model_id(&self.config.model, &self.tensors)
    }
}

fn model_id(model: &ModelConfig, tensors: &NamedTensors) -> String {
    let mut hash = Xxh3Default::new();
    hash.update(&serde_json::to_vec(model).expect("plain fields"));
    for (name, tensor) in tensors {
        hash.update(name.as_bytes());
        tensor.shape.iter().for_each(|&size| hash.update(&(size as u64).to_le_bytes()));
        hash.update(bytemuck::cast_slice(&tensor.values));
    }
    format!("{:032x}", hash.digest128())
}

impl RunConfig {
    /// Configuration of a run on `dataset`.
    pub fn new(train: TrainConfig, dataset: &Dataset) -> Result<Self> {
        let path = dataset.path();
        let data = path.canonicalize().map_err(Error::file("read", path))?;
        // Checkpoints store paths as JSON.
        let given = [&train.similarity, &train.caption_vectors].into_iter().flatten();
        if let Some(path) = given.chain([&data]).find(|path| path.to_str().is_none()) {
            return Err(Error::invalid(path, "path", "is not UTF-8", "rename the file or its folder"));
        }
        let supervision = train.supervision().map(checksum).transpose()?;
        Ok(RunConfig {
            model: train.model(dataset.object_count(), dataset.predicate_count()),
            train,
            data,
            fingerprint: dataset.fingerprint_digits(),
            supervision,
            vocabulary: Some(dataset.vocabulary().clone()),
        })
    }

    /// Whether `other` is a configuration of the same run, apart from what [`TrainConfig::continued_as`] may change. The
    /// content of its files is compared by the checksum.
    pub fn is_same_run(&self, other: &RunConfig) -> bool {
        let train = self.train.continued_as(&other.train);
        // The fingerprint covers the vocabulary, which older versions left out.
        let (data, vocabulary) = (other.data.clone(), other.vocabulary.clone());
        RunConfig { train, data, vocabulary, ..self.clone() } == *other
    }

    /// Checks a configuration that was read.
    fn check(&self) -> std::result::Result<(), String> {
        self.train.check().map_err(|error| error.to_string())?;
        let ModelConfig { object_types, predicate_types, .. } = self.model;
        let types = 1..=u32::MAX as usize;
        if !(types.contains(&object_types) && types.contains(&predicate_types)) {
            return Err(format!("has {object_types} object types and {predicate_types} predicate types"));
        }
        if self.model != self.train.model(object_types, predicate_types) {
            return Err("its model has other layers, widths or switches than its training".into());
        }
        if let Some(vocabulary) = &self.vocabulary {
            let names = (vocabulary.objects().len(), vocabulary.predicates().len());
            if names != (object_types, predicate_types) {
                let (objects, predicates) = names;
                return Err(format!(
                    "has names of {objects} object types and {predicates} predicate types, and its model has \
                     {object_types} and {predicate_types}"
                ));
            }
        }
        Ok(())
    }
}

impl TrainProgress {
    /// Whether nothing is left to train: all epochs are done, or the patience is used up.
    pub fn is_finished(&self, train: &TrainConfig) -> bool {
        self.epoch >= train.epochs || (train.patience > 0 && self.validations_since_best >= train.patience)
    }

    /// Adds a validation result of the current step, in `epoch`. Returns whether it is the best so far. A run that continues
    /// from before its best validation finds that result again, and it counts as the best again.
    pub fn validated(&mut self, epoch: usize, kendall: f64, keep_best: usize) -> bool {
        let now = Validated { steps: self.steps, kendall };
        let better = match (self.best, self.kept.first()) {
            (Some(_), Some(&best)) if best == now => true,
            (Some((_, best)), _) => kendall > best,
            (None, _) => true,
        };
        self.kept.retain(|kept| kept.steps != now.steps);
        let at = self.kept.partition_point(|kept| kept.kendall >= kendall);
        self.kept.insert(if better { 0 } else { at }, now);
        self.kept.truncate(keep_best);
        self.validations_since_best += 1;
        if better {
            self.best = Some((epoch, kendall));
            self.validations_since_best = 0;
        }
        better
    }

    /// Number of epochs begun; the last one may be unfinished.
    fn epochs_begun(&self) -> usize {
        self.epoch + usize::from(self.position > 0)
    }

    /// Checks a position that was read, as far as it is known without the data.
    fn check(&self, train: &TrainConfig) -> std::result::Result<(), String> {
        let TrainProgress { epoch, position, steps, loss_sum, triples, skipped, best, .. } = *self;
        if epoch > train.epochs || (position > 0 && epoch == train.epochs) {
            return Err(format!("is in epoch {} of {}", self.epochs_begun(), train.epochs));
        }
        if triples.checked_add(skipped) != Some(position as u64) {
            return Err(format!("has {triples} triples and {skipped} skipped anchors of {position}"));
        }
        // A step has at least one triple.
        if steps == 0 && triples > 0 {
            return Err(format!("has {triples} triples in {steps} steps"));
        }
        if !loss_sum.is_finite() {
            return Err(format!("has the sum of losses {loss_sum}"));
        }
        let begun = self.epochs_begun();
        let is_tau = |tau: f64| (-1.0..=1.0).contains(&tau);
        // A kept model may be of a later step: see `check_best`.
        if let Some(kept) = self.kept.iter().find(|kept| !is_tau(kept.kendall)) {
            return Err(format!("keeps a model with tau {}", kept.kendall));
        }
        match best {
            Some((best, tau)) if !(1..=begun).contains(&best) || !is_tau(tau) => {
                Err(format!("names the best epoch {best} with tau {tau}, of {begun} epochs begun"))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a checkpoint; with `moments`, training can continue from it.
pub fn save(
    path: &Path,
    config: &RunConfig,
    progress: &TrainProgress,
    tensors: NamedTensors,
    moments: Option<(NamedTensors, NamedTensors)>,
) -> Result<()> {
    let (first, second) = moments.unwrap_or_default();
    let model = model_id(&config.model, &tensors);
    let mut all = Vec::new();
    for (prefix, tensors) in [("", tensors), (FIRST_MOMENT, first), (SECOND_MOMENT, second)] {
        all.extend(
            tensors
                .into_iter()
                .map(|(name, t)| (format!("{prefix}{name}"), t.shape, TensorData::F32(t.values))),
        );
    }
    let json = |value: serde_json::Result<String>| value.expect("plain fields");
    let metadata = [
        ("config".to_string(), json(serde_json::to_string(config))),
        ("model".to_string(), json(serde_json::to_string(&model))),
        ("progress".to_string(), json(serde_json::to_string(progress))),
    ];
    let bytes = to_sealed_safetensors(&all, metadata);
    write_atomically(path, |writer| writer.write_all(&bytes))
}

/// File name of one of several kept models, after this number of steps.
pub fn step_file(steps: u64) -> String {
    let (first, last) = STEP;
    format!("{first}{steps:06}{last}")
}

/// Removes the files of models that are no longer kept. Other files stay.
pub fn remove_others(folder: &Path, kept: &[Validated]) -> Result<()> {
    let (first, last) = STEP;
    for entry in std::fs::read_dir(folder).map_err(Error::file("read", folder))? {
        let path = entry.map_err(Error::file("read", folder))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let steps = name.strip_prefix(first).and_then(|name| name.strip_suffix(last));
        let Some(steps) = steps.and_then(|steps| steps.parse::<u64>().ok()) else { continue };
        if name == step_file(steps) && kept.iter().all(|kept| kept.steps != steps) {
            std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
    }
    Ok(())
}

/// Reads and checks a checkpoint.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let file = TensorFile::read_sealed(path)?;
    let invalid = |key: &str, problem| {
        file.invalid(format!("metadata \"{key}\""), problem, "the file is damaged; use another checkpoint")
    };
    let config: RunConfig = file.metadata("config")?;
    config.check().map_err(|problem| invalid("config", problem))?;
    let progress: TrainProgress = file.metadata("progress")?;
    progress.check(&config.train).map_err(|problem| invalid("progress", problem))?;
    let tensors = read_tensors(&file, "", config.model)?;
    if config.vocabulary.is_some() && file.metadata::<String>("model")? != model_id(&config.model, &tensors) {
        return Err(invalid("model", "is not the identity of the tensors".into()));
    }
    let has_moments = file.names().iter().any(|name| name.starts_with(FIRST_MOMENT));
    let moments = |prefix: &str| -> Result<NamedTensors> {
        let layouts = Layout::new(config.model).tensors().into_iter();
        layouts
            .filter(|layout| layout.storage == Storage::Parameters)
            .map(|layout| {
                let tensor = finite_tensor(&file, prefix, &layout.name, &layout.shape)?;
                Ok((layout.name, tensor))
            })
            .collect()
    };
    let moments = match has_moments {
        true => Some((moments(FIRST_MOMENT)?, moments(SECOND_MOMENT)?)),
        false => None,
    };
    Ok(Checkpoint { config, progress, tensors, moments })
}

/// Checks that the best checkpoint in the folder `run` belongs to the run of the last one, `last`. Returns its progress if that
/// is later than `last`, because the process died between writing the two.
pub fn check_best(run: &Path, last: &Checkpoint) -> Result<Option<TrainProgress>> {
    let path = run.join(BEST);
    let at = |progress: &TrainProgress| (progress.epoch, progress.position);
    let TrainProgress { epoch, best, .. } = last.progress;
    if !path.exists() {
        if epoch == 0 && best.is_none() {
            return Ok(None);
        }
        let problem = format!("is missing, although {LAST} has finished {epoch} epochs");
        let remedy = "restore it, or train a new run in another folder";
        return Err(Error::invalid(path, "file", problem, remedy));
    }
    let found = load(&path)?;
    is_of_run(&path, &found.config, &last.config)?;
    if at(&found.progress) > at(&last.progress) {
        return Ok(Some(found.progress));
    }
    let expected = best.map_or(epoch, |(epoch, _)| epoch);
    let found_epoch = found.progress.epochs_begun();
    if found_epoch != expected {
        let problem = format!("is of epoch {found_epoch}, but {LAST} names epoch {expected} as the best");
        return Err(Error::invalid(path, "metadata \"progress\"", problem, "restore the file of this run"));
    }
    Ok(None)
}

/// Checks that the other checkpoint in the folder, if there is one, is of the same run as the one at `path`. Reads only its
/// metadata; an unreadable one is not used, so it is no error.
pub fn check_neighbour(path: &Path, config: &RunConfig) -> Result<()> {
    let other = path.with_file_name(if path.ends_with(BEST) { LAST } else { BEST });
    match TensorFile::read_metadata::<RunConfig>(&other, "config") {
        Ok(neighbour) => is_of_run(path, config, &neighbour),
        Err(_) => Ok(()),
    }
}

fn is_of_run(path: &Path, config: &RunConfig, other: &RunConfig) -> Result<()> {
    if config.is_same_run(other) {
        return Ok(());
    }
    let problem = format!(
        "{BEST} and {LAST} are of different runs, with the seeds {} and {}",
        config.train.seed, other.train.seed
    );
    Err(Error::invalid(path, "metadata \"config\"", problem, "restore the files of one run"))
}

/// Opens the supervision of a run, at `path` or at its recorded path. A file must have the content that it had in training,
/// unless `dataset` is another collection than the run's.
pub fn open_supervision(config: &RunConfig, path: Option<&Path>, dataset: &Dataset) -> Result<Supervision> {
    let TrainConfig { similarity, caption_vectors, .. } = &config.train;
    let is_own_data = dataset.fingerprint_digits() == config.fingerprint;
    let recorded = config.train.supervision();
    if !is_own_data && path.is_none() && recorded.is_some() {
        let problem = "the run was supervised by a file about its own data, and --data is another collection";
        return Err(Error::argument("--supervision", problem, "give the file of the other collection"));
    }
    let Some(path) = path.or(recorded) else { return Ok(Supervision::Captions) };
    if similarity.is_none() && caption_vectors.is_none() {
        let problem = "the run was supervised by the captions in its data";
        return Err(Error::argument("--supervision", problem, "leave it out"));
    }
    let open = || match similarity {
        Some(_) => Supervision::open(Some(path), None, dataset),
        None => Supervision::open(None, Some(path), dataset),
    };
    if !is_own_data {
        return open();
    }
    let found = checksum(path).map_err(|error| match error {
        Error::File { source, .. } => {
            let remedy = "give its new place with --supervision";
            Error::invalid(path, "file", format!("cannot read the supervision of the run: {source}"), remedy)
        }
        other => other,
    })?;
    if config.supervision.as_ref() != Some(&found) {
        let problem = "is not the supervision of the run: its content differs";
        return Err(Error::invalid(path, "content", problem, "give the run's own file with --supervision"));
    }
    open()
}

/// Opens the data of a run, at `path` or at its recorded path. It must be the data on which the run was trained.
pub fn open_data(config: &RunConfig, path: Option<&Path>) -> Result<Dataset> {
    let dataset = Dataset::open(path.unwrap_or(&config.data))?;
    match dataset.fingerprint_digits() == config.fingerprint {
        true => Ok(dataset),
        false => Err(other_data(
            config,
            &dataset,
            "give the run's own data with --data, or train a run on this data",
        )),
    }
}

/// Opens the data of a run like [`open_data`]. Data at `path` may also be another collection in the types of the run.
pub fn open_collection(config: &RunConfig, path: Option<&Path>) -> Result<Dataset> {
    let Some(path) = path else { return open_data(config, None) };
    let dataset = Dataset::open(path)?;
    let is_own = dataset.fingerprint_digits() == config.fingerprint;
    let has_types = config.vocabulary.as_ref().is_some_and(|types| types.has_types_of(dataset.vocabulary()));
    match is_own || has_types {
        true => Ok(dataset),
        false => {
            let remedy =
                "give the run's own data, or prepare this collection with --vocabulary-from and the run";
            Err(other_data(config, &dataset, remedy))
        }
    }
}

fn other_data(config: &RunConfig, dataset: &Dataset, remedy: &str) -> Error {
    let (found, expected) = (dataset.fingerprint_digits(), &config.fingerprint);
    let problem = format!("is {found}, but the run was trained on data of {expected}");
    Error::invalid(dataset.path(), "fingerprint", problem, remedy)
}
