//! What a training run is made of: options as typed or read from a TOML file, and the configuration they give.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::backend::device::{Device, Precision};
use crate::batch::triples::Sampling;
use crate::error::{Error, Result};
use crate::loss::{Loss, LossKind};
use crate::network::config::{ModelConfig, on};
use crate::optimizer::Adam;

/// Far beyond any use; a slip of the keyboard should not ask for all memory.
const MOST_LAYERS: usize = 100;
const MOST_WIDTH: usize = 1 << 14;

/// Training options; what is not given has the paper's value. The same names serve the command line and TOML files.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainOptions {
    /// Loss of a triple [default: ranking].
    #[arg(long, value_enum)]
    pub loss: Option<LossKind>,
    /// How positives and negatives are drawn [default: probability].
    #[arg(long, value_enum)]
    pub sampling: Option<Sampling>,
    /// nu of the ranking loss, lambda of InfoNCE [default: 1].
    #[arg(long)]
    pub temperature: Option<f64>,
    /// m of the triplet loss [default: 0.5].
    #[arg(long)]
    pub margin: Option<f64>,
    /// Graph convolution layers [default: 5].
    #[arg(long)]
    pub layers: Option<usize>,
    /// Width of node states, edge states and embeddings [default: 300].
    #[arg(long)]
    pub state_width: Option<usize>,
    /// Width of hidden layers and messages [default: 512].
    #[arg(long)]
    pub hidden_width: Option<usize>,
    /// Whether blocks normalise their columns; else only scale and shift them [default: true].
    #[arg(long, value_name = "BOOL")]
    pub batch_norm: Option<bool>,
    /// Whether node states are l2-normalised between layers; embeddings always are [default: true].
    #[arg(long, value_name = "BOOL")]
    pub l2_norm: Option<bool>,
    /// Whether a graph's embedding is the mean of its image node, too, or of its objects alone [default: true].
    #[arg(long, value_name = "BOOL")]
    pub image_node_in_mean: Option<bool>,
    /// Triples per step [default: 16].
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Adam's learning rate [default: 1e-4].
    #[arg(long)]
    pub learning_rate: Option<f64>,
    /// Passes over the training images as anchors [default: 100].
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Seed of the first parameters and of all drawing [default: 1].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Number format of the computation [default: fp32].
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// auto, cpu, reference, emulated, cuda or cuda:INDEX [default: auto].
    #[arg(long)]
    pub device: Option<Device>,
    /// Similarities of your own instead of the captions': a .npy file, [images, images] in the data's order, f16 or f32.
    #[arg(long, value_name = "NPY")]
    pub similarity: Option<PathBuf>,
    /// Another sentence encoder's caption vectors instead of GloVe's: a .npy file, [images, d] in the data's order, each
    /// row the mean of its captions' unit vectors.
    #[arg(long, value_name = "NPY", conflicts_with = "similarity")]
    pub caption_vectors: Option<PathBuf>,
}

/// The configuration of a training run; the defaults are the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainConfig {
    /// Loss of a triple.
    pub loss: LossKind,
    /// How triples are drawn.
    pub sampling: Sampling,
    /// nu or lambda.
    pub temperature: f64,
    /// m.
    pub margin: f64,
    /// L.
    pub layers: usize,
    /// D.
    pub state_width: usize,
    /// H.
    pub hidden_width: usize,
    /// [`ModelConfig::batch_norm`].
    #[serde(default = "on")]
    pub batch_norm: bool,
    /// [`ModelConfig::l2_norm`].
    #[serde(default = "on")]
    pub l2_norm: bool,
    /// [`ModelConfig::image_node_in_mean`].
    #[serde(default = "on")]
    pub image_node_in_mean: bool,
    /// B.
    pub batch_size: usize,
    /// Adam's.
    pub learning_rate: f64,
    /// Passes over the training images.
    pub epochs: usize,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Number format.
    pub precision: Precision,
    /// Where to compute.
    pub device: Device,
    /// A user's own similarities.
    pub similarity: Option<PathBuf>,
    /// Another encoder's caption vectors.
    pub caption_vectors: Option<PathBuf>,
}

impl TrainOptions {
    /// Reads a TOML file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            let remedy = "use the names of the command line without dashes in front, such as batch-size = 16";
            Error::invalid(path, format!("line {line}"), error.message(), remedy)
        })
    }

    /// These options, and where one is not given, `other`'s.
    pub fn or(self, other: TrainOptions) -> Self {
        TrainOptions {
            loss: self.loss.or(other.loss),
            sampling: self.sampling.or(other.sampling),
            temperature: self.temperature.or(other.temperature),
            margin: self.margin.or(other.margin),
            layers: self.layers.or(other.layers),
            state_width: self.state_width.or(other.state_width),
            hidden_width: self.hidden_width.or(other.hidden_width),
            batch_norm: self.batch_norm.or(other.batch_norm),
            l2_norm: self.l2_norm.or(other.l2_norm),
            image_node_in_mean: self.image_node_in_mean.or(other.image_node_in_mean),
            batch_size: self.batch_size.or(other.batch_size),
            learning_rate: self.learning_rate.or(other.learning_rate),
            epochs: self.epochs.or(other.epochs),
            seed: self.seed.or(other.seed),
            precision: self.precision.or(other.precision),
            device: self.device.or(other.device),
            similarity: self.similarity.or(other.similarity),
            caption_vectors: self.caption_vectors.or(other.caption_vectors),
        }
    }

    /// The configuration that they give over `base`.
    pub fn resolve(self, base: &TrainConfig) -> Result<TrainConfig> {
        let config = TrainConfig {
            loss: self.loss.unwrap_or(base.loss),
            sampling: self.sampling.unwrap_or(base.sampling),
            temperature: self.temperature.unwrap_or(base.temperature),
            margin: self.margin.unwrap_or(base.margin),
            layers: self.layers.unwrap_or(base.layers),
            state_width: self.state_width.unwrap_or(base.state_width),
            hidden_width: self.hidden_width.unwrap_or(base.hidden_width),
            batch_norm: self.batch_norm.unwrap_or(base.batch_norm),
            l2_norm: self.l2_norm.unwrap_or(base.l2_norm),
            image_node_in_mean: self.image_node_in_mean.unwrap_or(base.image_node_in_mean),
            batch_size: self.batch_size.unwrap_or(base.batch_size),
            learning_rate: self.learning_rate.unwrap_or(base.learning_rate),
            epochs: self.epochs.unwrap_or(base.epochs),
            seed: self.seed.unwrap_or(base.seed),
            precision: self.precision.unwrap_or(base.precision),
            device: self.device.unwrap_or(base.device),
            similarity: self.similarity.or_else(|| base.similarity.clone()),
            caption_vectors: self.caption_vectors.or_else(|| base.caption_vectors.clone()),
        };
        config.check()?;
        // Whole, so that the run's checkpoints find them from any folder.
        let whole = |path: &PathBuf| std::path::absolute(path).map_err(Error::file("read", path));
        Ok(TrainConfig {
            similarity: config.similarity.as_ref().map(whole).transpose()?,
            caption_vectors: config.caption_vectors.as_ref().map(whole).transpose()?,
            ..config
        })
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            loss: LossKind::Ranking,
            sampling: Sampling::Probability,
            temperature: 1.0,
            margin: 0.5,
            layers: 5,
            state_width: 300,
            hidden_width: 512,
            batch_norm: true,
            l2_norm: true,
            image_node_in_mean: true,
            batch_size: 16,
            learning_rate: 1e-4,
            epochs: 100,
            seed: 1,
            precision: Precision::Fp32,
            device: Device::Auto,
            similarity: None,
            caption_vectors: None,
        }
    }
}

impl TrainConfig {
    /// Whether every value can be used.
    pub fn check(&self) -> Result<()> {
        for (name, size, most) in [
            ("--layers", self.layers, MOST_LAYERS),
            ("--state-width", self.state_width, MOST_WIDTH),
            ("--hidden-width", self.hidden_width, MOST_WIDTH),
            ("--batch-size", self.batch_size, usize::MAX),
        ] {
            if size == 0 {
                return Err(Error::argument(name, "is 0", "give a positive number"));
            }
            if size > most {
                return Err(Error::argument(name, format!("is {size}"), format!("give at most {most}")));
            }
        }
        for (name, value) in [("--temperature", self.temperature), ("--learning-rate", self.learning_rate)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::argument(name, format!("is {value}"), "give a positive number"));
            }
        }
        if !self.margin.is_finite() {
            return Err(Error::argument("--margin", format!("is {}", self.margin), "give a finite number"));
        }
        Ok(())
    }

    /// The network with this vocabulary.
    pub fn model(&self, object_types: usize, predicate_types: usize) -> ModelConfig {
        ModelConfig {
            object_types,
            predicate_types,
            layers: self.layers,
            state_width: self.state_width,
            hidden_width: self.hidden_width,
            batch_norm: self.batch_norm,
            l2_norm: self.l2_norm,
            image_node_in_mean: self.image_node_in_mean,
        }
    }

    /// The loss with its constants.
    pub fn loss(&self) -> Loss {
        Loss { kind: self.loss, temperature: self.temperature, margin: self.margin }
    }

    /// The optimizer.
    pub fn adam(&self) -> Adam {
        Adam::new(self.learning_rate)
    }
}
