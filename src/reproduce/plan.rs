//! Plan of the runs: their settings, their order, and the rows of the tables that use them.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use crate::batch::triples::Sampling;
use crate::loss::LossKind;
use crate::train::config::TrainConfig;

/// Losses, in the order of the paper's tables.
pub const LOSSES: [LossKind; 3] = [LossKind::Triplet, LossKind::InfoNce, LossKind::Ranking];
/// Strategies, in the order of the paper's tables.
pub const STRATEGIES: [Sampling; 4] =
    [Sampling::Random, Sampling::Extreme, Sampling::Probability, Sampling::Reject];
/// The paper's model, on which ablations are based.
pub const PROPOSED: (LossKind, Sampling) = (LossKind::Ranking, Sampling::Probability);

/// Order of the runs, so that a limited budget leaves out the least important ones.
const LOSSES_BY_WEIGHT: [LossKind; 3] = [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce];
const STRATEGIES_BY_WEIGHT: [Sampling; 4] =
    [Sampling::Probability, Sampling::Random, Sampling::Reject, Sampling::Extreme];

/// Settings that can be varied, one at a time, in the paper's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Ablation {
    /// 1 to 5 graph convolution layers.
    Layers,
    /// nu = 0.1, 0.3, 1, 3.
    Temperature,
    /// 4, 16, 64 triples per step.
    BatchSize,
    /// L2 normalisation of node states between layers, on or off.
    L2Norm,
    /// Batch norm in every block, on or off.
    BatchNorm,
    /// The image node in the mean of a graph, on or off.
    ImageNode,
}

const LAYERS: [usize; 5] = [1, 2, 3, 4, 5];
const TEMPERATURES: [f64; 4] = [0.1, 0.3, 1.0, 3.0];
const BATCH_SIZES: [usize; 3] = [4, 16, 64];
/// Values of a switch and their names; the paper's value comes first.
const SWITCH: [(bool, &str); 2] = [(true, "on"), (false, "off")];

/// A planned run.
#[derive(Clone, Debug)]
pub struct PlannedRun {
    /// Name of its folder.
    pub name: String,
    /// Settings of the run.
    pub config: TrainConfig,
}

/// One of the 12 models.
#[derive(Clone, Debug)]
pub struct Model {
    /// Loss of the model.
    pub loss: LossKind,
    /// Sampling strategy of the model.
    pub sampling: Sampling,
    /// Runs as indices of [`Plan::runs`], one per seed.
    pub runs: Vec<usize>,
}

/// A row of the ablation table.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Name of the varied setting.
    pub what: &'static str,
    /// Value of the setting in this row.
    pub value: String,
    /// Runs as indices of [`Plan::runs`], one per seed.
    pub runs: Vec<usize>,
}

/// All planned runs, and the models and ablations that use them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Runs in the order of execution.
    pub runs: Vec<PlannedRun>,
    /// Models in the order of the paper's tables.
    pub models: Vec<Model>,
    /// Variants of the ablations.
    pub variants: Vec<Variant>,
}

impl Plan {
    /// Plans `seeds` runs of each model: the first seed of all models, then the second, and so on; then the
    /// ablations in the same way.
    pub fn new(
        base: &TrainConfig,
        seeds: u64,
        ablations: &[Ablation],
        caption_vectors: Option<PathBuf>,
    ) -> Self {
        let mut plan = Plan { runs: Vec::new(), models: Vec::new(), variants: Vec::new() };
        for (loss, sampling) in pairs(&LOSSES, &STRATEGIES) {
            plan.models.push(Model { loss, sampling, runs: Vec::new() });
        }
        let of = |loss, sampling, seed| TrainConfig { loss, sampling, seed, ..base.clone() };
        for seed in 1..=seeds {
            for (loss, sampling) in pairs(&LOSSES_BY_WEIGHT, &STRATEGIES_BY_WEIGHT) {
                let name = format!("{}-{}-seed{seed}", word(&loss), word(&sampling));
                let run = plan.add(name, of(loss, sampling, seed));
                let model =
                    plan.models.iter_mut().find(|model| (model.loss, model.sampling) == (loss, sampling));
                model.expect("all pairs are there").runs.push(run);
            }
        }
        let mut settings = Vec::new();
        for ablation in ablations {
            settings.extend(ablation.settings(base));
        }
        if let Some(path) = caption_vectors {
            let config = TrainConfig { caption_vectors: Some(path), ..base.clone() };
            settings.push(("similarity", "GloVe captions".into(), "glove-captions".into(), base.clone()));
            settings.push(("similarity", "given caption vectors".into(), "caption-vectors".into(), config));
        }
        let (loss, sampling) = PROPOSED;
        for seed in 1..=seeds {
            for (row, (what, value, name, config)) in settings.iter().enumerate() {
                let config = TrainConfig { loss, sampling, seed, ..config.clone() };
                let run = plan.add(format!("{name}-seed{seed}"), config);
                if seed == 1 {
                    plan.variants.push(Variant { what, value: value.clone(), runs: Vec::new() });
                }
                plan.variants[row].runs.push(run);
            }
        }
        plan
    }

    /// Index of the run with these settings, which is planned only once.
    fn add(&mut self, name: String, config: TrainConfig) -> usize {
        self.runs.iter().position(|run| run.config == config).unwrap_or_else(|| {
            self.runs.push(PlannedRun { name, config });
            self.runs.len() - 1
        })
    }
}

/// Varied setting, its value, name of the folder, settings of the run.
type Setting = (&'static str, String, String, TrainConfig);

impl Ablation {
    fn settings(self, base: &TrainConfig) -> Vec<Setting> {
        match self {
            Ablation::Layers => LAYERS
                .map(|layers| {
                    let config = TrainConfig { layers, ..base.clone() };
                    ("layers", layers.to_string(), format!("layers{layers}"), config)
                })
                .into(),
            Ablation::Temperature => TEMPERATURES
                .map(|temperature| {
                    let config = TrainConfig { temperature, ..base.clone() };
                    ("temperature", temperature.to_string(), format!("temperature{temperature}"), config)
                })
                .into(),
            Ablation::BatchSize => BATCH_SIZES
                .map(|batch_size| {
                    let config = TrainConfig { batch_size, ..base.clone() };
                    ("batch size", batch_size.to_string(), format!("batch{batch_size}"), config)
                })
                .into(),
            Ablation::L2Norm => {
                switch("l2 norm of node states", "l2-norm", |l2_norm| TrainConfig { l2_norm, ..base.clone() })
            }
            Ablation::BatchNorm => {
                switch("batch norm", "batch-norm", |batch_norm| TrainConfig { batch_norm, ..base.clone() })
            }
            Ablation::ImageNode => switch("image node in the mean", "image-node", |image_node_in_mean| {
                TrainConfig { image_node_in_mean, ..base.clone() }
            }),
        }
    }
}

/// Both values of the switch `what`; folders are named `word-on` and `word-off`.
fn switch(what: &'static str, word: &str, config: impl Fn(bool) -> TrainConfig) -> Vec<Setting> {
    SWITCH.map(|(on, value)| (what, value.into(), format!("{word}-{value}"), config(on))).into()
}

fn pairs<const M: usize, const N: usize>(
    losses: &'static [LossKind; M],
    strategies: &'static [Sampling; N],
) -> impl Iterator<Item = (LossKind, Sampling)> {
    losses.iter().flat_map(|&loss| strategies.iter().map(move |&sampling| (loss, sampling)))
}

/// Name of a value on the command line.
pub fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

/// Name of a model in tables and legends.
pub fn model_name(loss: LossKind, sampling: Sampling) -> String {
    format!("{} + {}", word(&loss), word(&sampling))
}
