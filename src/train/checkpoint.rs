//! A run's checkpoints: `best.safetensors` (the model) and `last.safetensors` (the model and all that continues it).
//!
//! Parameters and running statistics have the names of model.md; Adam's moments those names under
//! `adam.first_moment.` and `adam.second_moment.`. The metadata holds JSON: `config`, the run's configuration and its
//! data, and `progress`, its position. Files are written beside their place and renamed, so a failed write loses
//! nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files::atomic_file::write_atomically;
use crate::files::tensor_file::{TensorData, TensorFile, to_safetensors};
use crate::model::{finite_tensor, read_tensors};
use crate::network::config::ModelConfig;
use crate::network::parameters::{Layout, Storage};
use crate::network::tensors::NamedTensors;
use crate::train::config::TrainConfig;

/// The model of the best epoch.
pub const BEST: &str = "best.safetensors";
/// The model, optimizer and position of the last save.
pub const LAST: &str = "last.safetensors";

const FIRST_MOMENT: &str = "adam.first_moment.";
const SECOND_MOMENT: &str = "adam.second_moment.";

/// What a run is: its configuration, the network and the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunConfig {
    /// The training configuration.
    pub train: TrainConfig,
    /// The network's sizes and switches.
    pub model: ModelConfig,
    /// The data file.
    pub data: PathBuf,
    /// [`Dataset::fingerprint`], in hexadecimal.
    pub fingerprint: String,
}

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainProgress {
    /// Epochs finished.
    pub epoch: usize,
    /// Anchors of the current epoch that are done.
    pub position: usize,
    /// Optimizer steps done.
    pub steps: u64,
    /// Sum of the current epoch's losses over its triples.
    pub loss_sum: f64,
    /// Triples of the current epoch.
    pub triples: u64,
    /// Anchors of the current epoch that no triple could be drawn for.
    pub skipped: u64,
    /// Epochs finished when the validation was best, and its row-wise Kendall tau.
    pub best: Option<(usize, f64)>,
}

/// A checkpoint as read.
pub struct Checkpoint {
    /// What the run is.
    pub config: RunConfig,
    /// How far it had come.
    pub progress: TrainProgress,
    /// Parameters and running statistics.
    pub tensors: NamedTensors,
    /// Adam's moments, in a [`LAST`] file.
    pub moments: Option<(NamedTensors, NamedTensors)>,
}

impl RunConfig {
    /// The configuration of a run on `dataset`.
    pub fn new(train: TrainConfig, dataset: &Dataset) -> Result<Self> {
        let path = dataset.path();
        Ok(RunConfig {
            model: train.model(dataset.object_count(), dataset.predicate_count()),
            train,
            data: path.canonicalize().map_err(Error::file("read", path))?,
            fingerprint: fingerprint(dataset),
        })
    }

    /// What is wrong with a configuration that was read.
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
        Ok(())
    }
}

fn fingerprint(dataset: &Dataset) -> String {
    format!("{:016x}", dataset.fingerprint())
}

/// Writes a checkpoint; with `moments` one that training can continue from.
pub fn save(
    path: &Path,
    config: &RunConfig,
    progress: &TrainProgress,
    tensors: NamedTensors,
    moments: Option<(NamedTensors, NamedTensors)>,
) -> Result<()> {
    let (first, second) = moments.unwrap_or_default();
    let mut all = Vec::new();
    for (prefix, tensors) in [("", tensors), (FIRST_MOMENT, first), (SECOND_MOMENT, second)] {
        all.extend(
            tensors
                .into_iter()
                .map(|(name, t)| (format!("{prefix}{name}"), t.shape, TensorData::F32(t.values))),
        );
    }
    let json = |value: serde_json::Result<String>| value.expect("plain fields");
    let metadata = HashMap::from([
        ("config".to_string(), json(serde_json::to_string(config))),
        ("progress".to_string(), json(serde_json::to_string(progress))),
    ]);
    let bytes = to_safetensors(&all, metadata);
    write_atomically(path, |writer| writer.write_all(&bytes))
}

/// Reads and checks a checkpoint.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let file = TensorFile::read(path)?;
    let config: RunConfig = file.metadata("config")?;
    config.check().map_err(|problem| {
        file.invalid("metadata \"config\"", problem, "the file is damaged; use another checkpoint")
    })?;
    let progress = file.metadata("progress")?;
    let tensors = read_tensors(&file, "", config.model)?;
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

/// The data of a run: at `path`, or where the run found it; it must be the data that the run was trained on.
pub fn open_data(config: &RunConfig, path: Option<&Path>) -> Result<Dataset> {
    let path = path.unwrap_or(&config.data);
    let dataset = Dataset::open(path)?;
    if fingerprint(&dataset) != config.fingerprint {
        return Err(Error::invalid(
            path,
            "fingerprint",
            format!(
                "is {}, but the run was trained on data of {}",
                fingerprint(&dataset),
                config.fingerprint
            ),
            "give the run's own data with --data, or train a run on this data",
        ));
    }
    Ok(dataset)
}
