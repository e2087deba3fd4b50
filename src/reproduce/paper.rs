//! The paper's numbers, as `paper.toml` holds them.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::batch::triples::Sampling;
use crate::loss::LossKind;

/// The paper's Tables 2 and 3, and a number of Figure 2.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Paper {
    /// Agreement: Kendall, Spearman, Pearson by row, then over all pairs.
    table_2: ByLoss<[f64; 6]>,
    /// The same of features that no graph network made.
    pub table_2_features: FeatureRows,
    /// Retrieval at 12 removed edges: MRR, R@1, R@5.
    table_3: ByLoss<[f64; 3]>,
    /// Similarities.
    pub figure_2: Figure2,
}

/// Table 2's last rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureRows {
    /// Drawn from a normal distribution.
    pub normal: [f64; 6],
    /// ResNet-152's.
    pub classification: [f64; 6],
}

/// What the text says of Figure 2.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Figure2 {
    /// Of |s_AX - s_AY|.
    pub difference_99th_percentile: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByLoss<T> {
    triplet: BySampling<T>,
    infonce: BySampling<T>,
    ranking: BySampling<T>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BySampling<T> {
    random: T,
    extreme: T,
    probability: T,
    reject: T,
}

impl<T: Copy> ByLoss<T> {
    fn get(&self, loss: LossKind, sampling: Sampling) -> T {
        let row = match loss {
            LossKind::Triplet => &self.triplet,
            LossKind::InfoNce => &self.infonce,
            LossKind::Ranking => &self.ranking,
        };
        match sampling {
            Sampling::Random => row.random,
            Sampling::Extreme => row.extreme,
            Sampling::Probability => row.probability,
            Sampling::Reject => row.reject,
        }
    }
}

impl Paper {
    /// The numbers.
    pub fn get() -> &'static Paper {
        static PAPER: LazyLock<Paper> =
            LazyLock::new(|| toml::from_str(include_str!("paper.toml")).expect("paper.toml is ours"));
        &PAPER
    }

    /// Table 2's row of a model.
    pub fn agreement(&self, loss: LossKind, sampling: Sampling) -> [f64; 6] {
        self.table_2.get(loss, sampling)
    }

    /// Table 3's row of a model.
    pub fn retrieval(&self, loss: LossKind, sampling: Sampling) -> [f64; 3] {
        self.table_3.get(loss, sampling)
    }
}
