//! The k nearest images of one query by inner product, exactly: every image is compared.
//!
//! Each block of images keeps its own k best in a heap whose top is the worst of them, so most images cost one dot
//! product and one comparison. Cost: one pass over the embeddings, so the memory's bandwidth.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::Embeddings;
use super::stored_rows::{ROWS_PER_TASK, StoredRows};
use crate::Result;

/// An image with its score; the greater score is greater, among equals the lower index.
#[derive(Clone, Copy, PartialEq)]
struct Scored {
    score: f64,
    index: usize,
}

impl Eq for Scored {}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The `k` images (or all, if fewer) with the greatest inner product with `query`, best first, ties by the lower
/// index; with their inner products, which are summed in double precision.
pub fn nearest<'a>(
    query: Embeddings<'_>,
    rows: impl Into<StoredRows<'a>>,
    k: usize,
) -> Result<Vec<(usize, f32)>> {
    let rows = rows.into();
    rows.check_query(query)?;
    let mut best: Vec<Scored> = (0..rows.len().div_ceil(ROWS_PER_TASK))
        .into_par_iter()
        .flat_map_iter(|task| best_of_task(query.values(), rows, task * ROWS_PER_TASK, k))
        .map(|Reverse(scored)| scored)
        .collect();
    best.sort_unstable_by_key(|&scored| Reverse(scored));
    best.truncate(k);
    Ok(best.into_iter().map(|scored| (scored.index, scored.score as f32)).collect())
}

fn best_of_task(query: &[f32], rows: StoredRows<'_>, start: usize, k: usize) -> BinaryHeap<Reverse<Scored>> {
    let mut heap = BinaryHeap::new();
    rows.scores(query, start..rows.len().min(start + ROWS_PER_TASK), |index, score| {
        let scored = Scored { score, index };
        if heap.len() < k {
            heap.push(Reverse(scored));
        } else if let Some(mut worst) = heap.peek_mut()
            && scored > worst.0
        {
            *worst = Reverse(scored);
        }
    });
    heap
}
