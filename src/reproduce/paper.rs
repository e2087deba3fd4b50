//! Numbers of the paper, read from `paper.toml`.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::batch::triples::Sampling;
use crate::loss::LossKind;

/// Tables 2 and 3 of the paper, and one number of Figure 2.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Paper {
    /// Agreement: Kendall, Spearman, Pearson by row, then over all pairs.
    table_2: ByLoss<[f64; 6]>,
    /// Agreement of features without a graph network.
    pub table_2_features: FeatureRows,
    /// Retrieval with 12 removed edges: MRR, R@1, R@5.
    table_3: ByLoss<[f64; 3]>,
    /// Distribution of the similarities.
    pub figure_2: Figure2,
}

/// Last rows of Table 2.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureRows {
    /// Features drawn from a normal distribution.
    pub normal: [f64; 6],
    /// Features of ResNet-152.
    pub classification: [f64; 6],
}

/// Numbers about Figure 2 in the text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Figure2 {
    /// 99th percentile of |s_AX - s_AY|.
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
    /// Numbers of the paper, parsed once.
    pub fn get() -> &'static Paper {
        static PAPER: LazyLock<Paper> =
            LazyLock::new(|| toml::from_str(include_str!("paper.toml")).expect("paper.toml is ours"));
        &PAPER
    }

    /// Row of a model in Table 2.
    pub fn agreement(&self, loss: LossKind, sampling: Sampling) -> [f64; 6] {
        self.table_2.get(loss, sampling)
    }

    /// Row of a model in Table 3.
    pub fn retrieval(&self, loss: LossKind, sampling: Sampling) -> [f64; 3] {
        self.table_3.get(loss, sampling)
    }
}
