//! Retrieval: the rank of each query's own image, and metrics of the ranks.

use serde::{Deserialize, Serialize};

use super::Embeddings;
use crate::backend::Backend;
use crate::backend::device::{Arithmetic, BackendTask, Device};
use crate::{Error, Result};

/// recall@k is reported for k = 1..=RECALL_DEPTH (paper, Figure 4a).
pub const RECALL_DEPTH: usize = 100;

/// Rank, from 1, of image `targets[q]` among all of `index`, by inner product with query q (the cosine for
/// normalised rows). Computed on `device`, with sums in double precision on all devices.
///
/// Images with the same score as the target rank before it, so constant embeddings get the worst ranks. Cost:
/// queries x images x width multiply-adds.
pub fn ranks(
    device: Device,
    arithmetic: impl Into<Arithmetic>,
    queries: Embeddings<'_>,
    index: Embeddings<'_>,
    targets: &[u32],
) -> Result<Vec<u32>> {
    if queries.width() != index.width() {
        return Err(Error::argument(
            "queries",
            format!("{} values per query, {} per image", queries.width(), index.width()),
            "embed both with one model",
        ));
    }
    if targets.len() != queries.len() {
        return Err(Error::argument(
            "targets",
            format!("{} targets for {} queries", targets.len(), queries.len()),
            "give each query one target",
        ));
    }
    if let Some(query) = targets.iter().position(|&target| target as usize >= index.len()) {
        return Err(Error::argument(
            "targets",
            format!("query {query} looks for image {}, there are {}", targets[query], index.len()),
            "a target is the row of an indexed image, from 0",
        ));
    }
    device.run(arithmetic, Ranks { queries, index, targets })
}

struct Ranks<'a> {
    queries: Embeddings<'a>,
    index: Embeddings<'a>,
    targets: &'a [u32],
}

impl BackendTask for Ranks<'_> {
    type Output = Vec<u32>;

    fn run<B: Backend>(self, mut backend: B) -> Result<Self::Output> {
        let (queries, index) = (self.queries.upload(&mut backend)?, self.index.upload(&mut backend)?);
        backend.cosine_ranks(&queries, &index, self.index.len(), self.index.width(), self.targets)
    }
}

/// Metrics of a list of ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalMetrics {
    /// Mean reciprocal rank.
    pub mrr: f64,
    /// Share of queries whose image ranks first.
    pub recall_at_1: f64,
    /// Share of queries whose image is among the first five.
    pub recall_at_5: f64,
    /// Share of queries whose image is among the first ten.
    #[serde(default)]
    pub recall_at_10: f64,
    /// `[RECALL_DEPTH]` recall, where `recall[k - 1]` = recall@k.
    pub recall: Vec<f64>,
}

impl RetrievalMetrics {
    /// Computes the metrics from ranks that start at 1; zeros if there are none.
    pub fn new(ranks: &[u32]) -> Self {
        let queries = ranks.len().max(1) as f64;
        let mut at_rank = [0u64; RECALL_DEPTH];
        for &rank in ranks.iter().filter(|&&rank| rank as usize <= RECALL_DEPTH) {
            at_rank[rank as usize - 1] += 1;
        }
        let recall: Vec<f64> = at_rank
            .iter()
            .scan(0, |found, &count| {
                *found += count;
                Some(*found as f64 / queries)
            })
            .collect();
        RetrievalMetrics {
            mrr: ranks.iter().map(|&rank| 1.0 / f64::from(rank)).sum::<f64>() / queries,
            recall_at_1: recall[0],
            recall_at_5: recall[4],
            recall_at_10: recall[9],
            recall,
        }
    }
}
