//! Configuration of a training run, and the options that set it: typed, or read from a TOML file.
//!
//! Every option is defined once, as an entry of the list under `training_options`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::backend::device::{Device, Precision};
use crate::batch::triples::Sampling;
use crate::error::{Error, Result};
use crate::files::text::read_text;
use crate::loss::{Loss, LossKind};
use crate::network::config::ModelConfig;
use crate::optimizer::Adam;

/// Limits far beyond practical use; they catch typing errors that would exhaust the memory.
const MOST_LAYERS: usize = 100;
const MOST_WIDTH: usize = 1 << 14;

/// Headings that group the options in the help text.
const OPTIMIZATION: &str = "Optimization";
const MODEL: &str = "Model";
const COMPUTATION: &str = "Computation";
const DATA: &str = "Data";

/// Defines [`TrainOptions`] and [`TrainConfig`] from one list of options.
///
/// An entry under `values` consists of the help text, clap's attribute, and `name: Type = default`. An entry
/// under `files` is an optional path, so it has neither type nor default. The option, and the key in TOML and
/// JSON, is the name in kebab case.
macro_rules! training_options {
    (
        values { $($(#[doc = $help:literal])+ #[arg($($arg:tt)+)] $name:ident: $type:ty = $default:expr,)+ }
        files { $($(#[doc = $file_help:literal])+ #[arg($($file_arg:tt)+)] $file:ident,)+ }
    ) => {
        /// Training options as typed or read; `None` for those not given.
        #[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
        pub struct TrainOptions {
            $($(#[doc = $help])+ #[arg($($arg)+)] pub $name: Option<$type>,)+
            $($(#[doc = $file_help])+ #[arg($($file_arg)+)] pub $file: Option<PathBuf>,)+
        }

        /// Configuration of a training run. An option that is missing in an older file has its default.
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
            /// These options; those not given come from `other`.
            pub fn or(self, other: TrainOptions) -> Self {
                TrainOptions { $($name: self.$name.or(other.$name),)+ $($file: self.$file.or(other.$file),)+ }
            }

            /// These options; those not given come from `base`.
            fn over(self, base: TrainConfig) -> TrainConfig {
                TrainConfig {
                    $($name: self.$name.unwrap_or(base.$name),)+
                    $($file: self.$file.or(base.$file),)+
                }
            }
        }

        impl TrainConfig {
            /// Paths of the entries under `files`.
            fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
                [$(&mut self.$file),+].into_iter().flatten()
            }
        }
    };
}

// The defaults are those of the paper.
training_options! {
    values {
        /// Loss of a triple [default: ranking].
        #[arg(long, value_enum, help_heading = OPTIMIZATION)]
        loss: LossKind = LossKind::Ranking,
        /// Strategy for drawing positives and negatives [default: probability].
        #[arg(long, value_enum, help_heading = OPTIMIZATION)]
        sampling: Sampling = Sampling::Probability,
        /// Temperature: nu of the ranking loss, lambda of InfoNCE [default: 1].
        #[arg(long, help_heading = OPTIMIZATION)]
        temperature: f64 = 1.0,
        /// Margin m of the triplet loss [default: 0.5].
        #[arg(long, help_heading = OPTIMIZATION)]
        margin: f64 = 0.5,
        /// Number of graph convolution layers [default: 5].
        #[arg(long, help_heading = MODEL)]
        layers: usize = 5,
        /// Width of node states, edge states and embeddings [default: 300].
        #[arg(long, help_heading = MODEL)]
        state_width: usize = 300,
        /// Width of hidden layers and messages [default: 512].
        #[arg(long, help_heading = MODEL)]
        hidden_width: usize = 512,
        /// Whether blocks normalise their columns; if false, they only scale and shift them [default: true].
        #[arg(long, value_name = "BOOL", help_heading = MODEL)]
        batch_norm: bool = true,
        /// Whether node states are l2-normalised between layers; embeddings always are [default: true].
        #[arg(long, value_name = "BOOL", help_heading = MODEL)]
        l2_norm: bool = true,
        /// Whether the mean of a graph's node states includes the image node [default: true].
        #[arg(long, value_name = "BOOL", help_heading = MODEL)]
        image_node_in_mean: bool = true,
        /// Number of triples per step [default: 16].
        #[arg(long, help_heading = OPTIMIZATION)]
        batch_size: usize = 16,
        /// Learning rate of Adam [default: 1e-4].
        #[arg(long, help_heading = OPTIMIZATION)]
        learning_rate: f64 = 1e-4,
        /// Number of passes over the training images [default: 100].
        #[arg(long, help_heading = OPTIMIZATION)]
        epochs: usize = 100,
        /// Seed of the initial parameters and of the triples [default: 1].
        #[arg(long, help_heading = OPTIMIZATION)]
        seed: u64 = 1,
        /// Number format of the computation [default: fp32].
        #[arg(long, value_enum, help_heading = COMPUTATION)]
        precision: Precision = Precision::Fp32,
        /// Device to compute on: auto, cpu, reference, emulated, ptx, cuda or cuda:INDEX [default: auto].
        #[arg(long, help_heading = COMPUTATION)]
        device: Device = Device::Auto,
    }
    files {
        /// Similarities from 0 to 1 to learn instead of those of the captions: a .npy file, [images, images] in
        /// the order of the data, f16 or f32.
        #[arg(long, value_name = "NPY", help_heading = DATA)]
        similarity,
        /// Caption vectors of another sentence encoder instead of GloVe's: a .npy file, [images, d] in the
        /// order of the data; each row is the mean of the unit vectors of the captions.
        #[arg(long, value_name = "NPY", conflicts_with = "similarity", help_heading = DATA)]
        caption_vectors,
    }
}

impl TrainOptions {
    /// Reads a TOML file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = read_text(path)?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            let remedy = "use the names of the command line without dashes in front, such as batch-size = 16";
            Error::invalid(path, format!("line {line}"), error.message(), remedy)
        })
    }

    /// Configuration from these options; those not given come from `base`.
    pub fn resolve(self, base: &TrainConfig) -> Result<TrainConfig> {
        let mut config = self.over(base.clone());
        config.check()?;
        // Checkpoints store absolute paths, so they work from any directory.
        for file in config.files_mut() {
            *file = std::path::absolute(&*file).map_err(Error::file("read", &*file))?;
        }
        Ok(config)
    }
}

impl TrainConfig {
    /// Checks that every value is valid.
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
            // The kernels compute in single precision.
            if !(f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&value) {
                let remedy = "give a positive number within single precision";
                return Err(Error::argument(name, format!("is {}", number(value)), remedy));
            }
        }
        if !(self.margin as f32).is_finite() {
            return Err(Error::argument(
                "--margin",
                format!("is {}", number(self.margin)),
                "give a finite number",
            ));
        }
        Ok(())
    }

    /// File of the supervision, if it is not the captions.
    pub fn supervision(&self) -> Option<&Path> {
        self.similarity.as_deref().or(self.caption_vectors.as_deref())
    }

    /// Network configuration for a vocabulary of this size.
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

    /// Loss with its constants.
    pub fn loss(&self) -> Loss {
        Loss { kind: self.loss, temperature: self.temperature, margin: self.margin }
    }

    /// Optimizer with its constants.
    pub fn adam(&self) -> Adam {
        Adam::new(self.learning_rate)
    }
}

/// A number as typed, or in short if it has many digits.
fn number(value: f64) -> String {
    let digits = value.to_string();
    if digits.len() > 20 { format!("{value:e}") } else { digits }
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
        // All options but the two files have a default.
        assert_eq!(told + 2, command.get_arguments().count());
    }
}
