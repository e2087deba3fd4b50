//! A training run's configuration, and the options that give it: typed, or read from a TOML file.
//!
//! Every option is defined once: an entry of the list under `training_options`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::backend::device::{Device, Precision};
use crate::batch::triples::Sampling;
use crate::error::{Error, Result};
use crate::loss::{Loss, LossKind};
use crate::network::config::ModelConfig;
use crate::optimizer::Adam;

/// Far beyond any use; a slip of the keyboard should not ask for all memory.
const MOST_LAYERS: usize = 100;
const MOST_WIDTH: usize = 1 << 14;

/// Makes [`TrainOptions`] and [`TrainConfig`] of one list of options.
///
/// An entry under `values` is the help text, clap's attribute, and `name: Type = default`. One under `files` is the path of
/// a file that need not be given, so it has neither type nor default. The name in snake case becomes the option and the key
/// of TOML and JSON in kebab case.
macro_rules! training_options {
    (
        values { $($(#[doc = $help:literal])+ #[arg($($arg:tt)+)] $name:ident: $type:ty = $default:expr,)+ }
        files { $($(#[doc = $file_help:literal])+ #[arg($($file_arg:tt)+)] $file:ident,)+ }
    ) => {
        /// Training options as they are typed or read; `None` where one is not given.
        #[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
        pub struct TrainOptions {
            $($(#[doc = $help])+ #[arg($($arg)+)] pub $name: Option<$type>,)+
            $($(#[doc = $file_help])+ #[arg($($file_arg)+)] pub $file: Option<PathBuf>,)+
        }

        /// The configuration of a training run. An option that an older file lacks has its default.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
        pub struct TrainConfig {
            $($(#[doc = $help])+ pub $name: $type,)+
            $($(#[doc = $file_help])+ pub $file: Option<PathBuf>,)+
        }

        impl Default for TrainConfig {
            fn default() -> Self {
                TrainConfig { $($name: $default,)+ $($file: None,)+ }
            }
        }

        impl TrainOptions {
            /// These options, and `other`'s where one is not given.
            pub fn or(self, other: TrainOptions) -> Self {
                TrainOptions { $($name: self.$name.or(other.$name),)+ $($file: self.$file.or(other.$file),)+ }
            }

            /// These options, and `base`'s where one is not given.
            fn over(self, base: TrainConfig) -> TrainConfig {
                TrainConfig {
                    $($name: self.$name.unwrap_or(base.$name),)+
                    $($file: self.$file.or(base.$file),)+
                }
            }
        }

        impl TrainConfig {
            /// The paths under `files`.
            fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
                [$(&mut self.$file),+].into_iter().flatten()
            }
        }
    };
}

// The defaults are the paper's.
training_options! {
    values {
        /// Loss of a triple [default: ranking].
        #[arg(long, value_enum)]
        loss: LossKind = LossKind::Ranking,
        /// How positives and negatives are drawn [default: probability].
        #[arg(long, value_enum)]
        sampling: Sampling = Sampling::Probability,
        /// nu of the ranking loss, lambda of InfoNCE [default: 1].
        #[arg(long)]
        temperature: f64 = 1.0,
        /// m of the triplet loss [default: 0.5].
        #[arg(long)]
        margin: f64 = 0.5,
        /// Graph convolution layers [default: 5].
        #[arg(long)]
        layers: usize = 5,
        /// Width of node states, edge states and embeddings [default: 300].
        #[arg(long)]
        state_width: usize = 300,
        /// Width of hidden layers and messages [default: 512].
        #[arg(long)]
        hidden_width: usize = 512,
        /// Whether blocks normalise their columns; else only scale and shift them [default: true].
        #[arg(long, value_name = "BOOL")]
        batch_norm: bool = true,
        /// Whether node states are l2-normalised between layers; embeddings always are [default: true].
        #[arg(long, value_name = "BOOL")]
        l2_norm: bool = true,
        /// Whether a graph's embedding is the mean of its image node, too, or of its objects alone [default: true].
        #[arg(long, value_name = "BOOL")]
        image_node_in_mean: bool = true,
        /// Triples per step [default: 16].
        #[arg(long)]
        batch_size: usize = 16,
        /// Adam's learning rate [default: 1e-4].
        #[arg(long)]
        learning_rate: f64 = 1e-4,
        /// Passes over the training images as anchors [default: 100].
        #[arg(long)]
        epochs: usize = 100,
        /// Seed of the first parameters and of all drawing [default: 1].
        #[arg(long)]
        seed: u64 = 1,
        /// Number format of the computation [default: fp32].
        #[arg(long, value_enum)]
        precision: Precision = Precision::Fp32,
        /// auto, cpu, reference, emulated, cuda or cuda:INDEX [default: auto].
        #[arg(long)]
        device: Device = Device::Auto,
    }
    files {
        /// Similarities of your own instead of the captions': a .npy file, [images, images] in the data's order, f16 or f32.
        #[arg(long, value_name = "NPY")]
        similarity,
        /// Another sentence encoder's caption vectors instead of GloVe's: a .npy file, [images, d] in the data's order, each
        /// row the mean of its captions' unit vectors.
        #[arg(long, value_name = "NPY", conflicts_with = "similarity")]
        caption_vectors,
    }
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

    /// The configuration that they give over `base`.
    pub fn resolve(self, base: &TrainConfig) -> Result<TrainConfig> {
        let mut config = self.over(base.clone());
        config.check()?;
        // Checkpoints must find the files from any working directory.
        for file in config.files_mut() {
            *file = std::path::absolute(&*file).map_err(Error::file("read", &*file))?;
        }
        Ok(config)
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

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    #[test]
    fn help_tells_every_default_as_it_is() {
        let command = TrainOptions::augment_args(Command::new("train"));
        let default = TrainConfig::default();
        let mut told = 0;
        for argument in command.get_arguments() {
            let help = argument.get_help().unwrap().to_string();
            let Some((_, value)) = help.split_once("[default: ") else { continue };
            let value = value.strip_suffix(']').unwrap();
            let option = format!("--{}", argument.get_long().unwrap());
            let matches = command.clone().try_get_matches_from(["train", &option, value]).unwrap();
            let options = TrainOptions::from_arg_matches(&matches).unwrap();
            assert_eq!(options.over(default.clone()), default, "{option}");
            told += 1;
        }
        // All but the files, which have none.
        assert_eq!(told + 2, command.get_arguments().count());
    }
}
