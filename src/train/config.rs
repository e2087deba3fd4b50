//! Configuration of a training run, and the options that set it: typed, or read from a TOML file.
//!
//! Every option is defined once, as an entry of the list under `training_options`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::device::{Arithmetic, Device, Precision};
use crate::backend::kernels::Kernels;
use crate::batch::triples::Sampling;
use crate::error::{Error, Result};
use crate::files::text::read_toml;
use crate::loss::{Loss, LossKind};
use crate::network::config::ModelConfig;
use crate::optimizer::Adam;
use crate::optimizer::schedule::{Course, Schedule};

/// Limits far beyond practical use; they catch typing errors that would exhaust the memory.
const MOST_LAYERS: usize = 100;
const MOST_WIDTH: usize = 1 << 14;
const MOST_KEPT: usize = 1000;

/// Headings that group the options in the help text.
const OPTIMIZATION: &str = "Optimization";
const VALIDATION: &str = "Validation";
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
        /// Divisor of the differences of cosines: nu of the ranking loss, lambda of InfoNCE. A lower one makes the loss react
        /// to smaller differences; the triplet loss does not use it [default: 1].
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
        /// Batch norm after every linear layer. If false, each column is only multiplied by its learnt weight and shifted by
        /// its learnt bias [default: true].
        #[arg(long, value_name = "BOOL", help_heading = MODEL)]
        batch_norm: bool = true,
        /// Whether node states are l2-normalised between layers; embeddings always are [default: true].
        #[arg(long, value_name = "BOOL", help_heading = MODEL)]
        l2_norm: bool = true,
        /// Count the image node, to which every object is connected, in the mean of a graph's node states, which is the graph's
        /// embedding. If false, only objects count [default: true].
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
        /// Number from which the initial parameters, the order of images and the triples are drawn. The same seed and options
        /// give the same bits; another seed shows the spread of results [default: 1].
        #[arg(long, help_heading = OPTIMIZATION)]
        seed: u64 = 1,
        /// Course of the learning rate after the warm-up. With cosine or linear it falls to --final-learning-rate over the steps
        /// of all --epochs [default: constant].
        #[arg(long, value_enum, help_heading = OPTIMIZATION)]
        schedule: Course = Course::Constant,
        /// Number of first steps in which the learning rate rises along a line [default: 0].
        #[arg(long, value_name = "STEPS", help_heading = OPTIMIZATION)]
        warmup_steps: u64 = 0,
        /// Learning rate at the end of a cosine or linear schedule [default: 0].
        #[arg(long, value_name = "RATE", help_heading = OPTIMIZATION)]
        final_learning_rate: f64 = 0.0,
        /// Weight decay of AdamW, on linear weights and embedding tables but not on batch norm's parameters [default: 0].
        #[arg(long, value_name = "DECAY", help_heading = OPTIMIZATION)]
        weight_decay: f64 = 0.0,
        /// Largest norm of the whole gradient; a longer one is scaled down to it. 0 for no limit [default: 0].
        #[arg(long, value_name = "NORM", help_heading = OPTIMIZATION)]
        clip_norm: f64 = 0.0,
        /// End after this number of validations without a better Kendall tau. 0 for never [default: 0].
        #[arg(long, value_name = "VALIDATIONS", help_heading = VALIDATION)]
        patience: usize = 0,
        /// Validate after every so many steps too, not only after each epoch. 0 for never [default: 0].
        #[arg(long, value_name = "STEPS", help_heading = VALIDATION)]
        validate_every: u64 = 0,
        /// Number of best models to keep; with more than one, each is also a file step-STEPS.safetensors [default: 1].
        #[arg(long, value_name = "K", help_heading = VALIDATION)]
        keep_best: usize = 1,
        /// Number format of the computation [default: fp32].
        #[arg(long, value_enum, help_heading = COMPUTATION)]
        precision: Precision = Precision::Fp32,
        /// Instructions of the products in bf16. The family that was used stands in the run's record, and --resume keeps
        /// it [default: auto].
        #[arg(long, value_enum, help_heading = COMPUTATION)]
        kernels: Kernels = Kernels::Auto,
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
    pub fn read(path: &Path) -> Result<Self> {
        let remedy = "use the names of the command line without dashes in front, such as batch-size = 16";
        read_toml(path, remedy)
    }

    /// Configuration from these options; those not given come from `base`.
    pub fn resolve(self, base: &TrainConfig) -> Result<TrainConfig> {
        let mut config = self.over(base.clone());
        config.check()?;
        if config.kernels == Kernels::Auto {
            config.kernels = base.kernels;
        }
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
            ("--epochs", self.epochs, usize::MAX),
            ("--keep-best", self.keep_best, MOST_KEPT),
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
        for (name, value) in [
            ("--final-learning-rate", self.final_learning_rate),
            ("--weight-decay", self.weight_decay),
            ("--clip-norm", self.clip_norm),
        ] {
            if !(0.0..=f64::from(f32::MAX)).contains(&value) {
                let remedy = "give 0 or a positive number within single precision";
                return Err(Error::argument(name, format!("is {}", number(value)), remedy));
            }
        }
        if self.final_learning_rate > 0.0 && self.schedule == Course::Constant {
            let problem = "is only used by a learning rate that falls";
            return Err(Error::argument("--final-learning-rate", problem, "add --schedule cosine or linear"));
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

    /// This configuration with everything that a continued run may change as in `now`: the number of epochs, the learning
    /// rate, the patience, the device, and the places of its files, whose content is compared elsewhere. The family of products
    /// may be named if none is recorded and it is the one that was used.
    pub fn continued_as(&self, now: &TrainConfig) -> TrainConfig {
        let TrainConfig { epochs, learning_rate, patience, device, .. } = *now;
        let mut continued = TrainConfig { epochs, learning_rate, patience, device, ..self.clone() };
        if [self.kernels, now.kernels].iter().all(|&kernels| kernels != Kernels::Wgmma) {
            continued.kernels = now.kernels;
        }
        for (path, now) in [
            (&mut continued.similarity, &now.similarity),
            (&mut continued.caption_vectors, &now.caption_vectors),
        ] {
            if path.is_some() && now.is_some() {
                path.clone_from(now);
            }
        }
        continued
    }

    /// Options whose values differ: name, value here, value in `other`.
    pub fn differences(&self, other: &TrainConfig) -> Vec<(String, Value, Value)> {
        let [here, there] = [self, other].map(|config| serde_json::to_value(config).expect("plain fields"));
        let here = here.as_object().into_iter().flatten();
        here.filter_map(|(name, value)| {
            let other = there.get(name).unwrap_or(&Value::Null);
            (value != other).then(|| (name.clone(), value.clone(), other.clone()))
        })
        .collect()
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

    /// Number format and family of the computation.
    pub fn arithmetic(&self) -> Arithmetic {
        Arithmetic { triples: self.batch_size, ..Arithmetic::new(self.precision, self.kernels) }
    }

    /// Optimizer with its constants, for a training set of this number of images: a schedule ends with the last epoch.
    pub fn adam(&self, images: usize) -> Adam {
        Adam {
            weight_decay: self.weight_decay,
            clip_norm: (self.clip_norm > 0.0).then_some(self.clip_norm),
            schedule: Schedule {
                course: self.schedule,
                warmup: self.warmup_steps,
                steps: (images.div_ceil(self.batch_size) as u64).saturating_mul(self.epochs as u64),
                last: self.final_learning_rate,
            },
            ..Adam::new(self.learning_rate)
        }
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

    #[test]
    fn a_device_chooses_for_the_batch_size() {
        let config = TrainConfig { batch_size: 64, ..TrainConfig::default() };
        assert_eq!(config.arithmetic().triples, 64);
    }
}
