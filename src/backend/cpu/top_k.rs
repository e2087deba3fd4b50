//! top_k: exact search for the rows with the greatest inner products with a query; every row is compared.
//!
//! Each block of rows keeps its k best rows in a heap with the worst of them on top. Most rows then cost one
//! dot product and one comparison. Cost: one pass over the rows, limited by memory bandwidth.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::ops::Range;

use rayon::prelude::*;

use super::stored_rows::StoredRows;
use crate::files::npy::StoredValues;

/// A row with its score. Ordered by score; among equal scores the lower index is greater.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Scored {
    pub score: f64,
    index: usize,
}

/// The best rows of a query, with the worst of them on top.
pub(super) type Best = BinaryHeap<Reverse<Scored>>;

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

/// Returns the `k` rows (or all, if fewer) of `embeddings [n, D]` with the greatest inner product with `query
/// [D]`, best first; ties go to the lower index. Each comes with its inner product, summed in double
/// precision. All values are finite.
pub fn top_k(query: &[f32], embeddings: &[f32], k: usize) -> Vec<(usize, f32)> {
    top_k_stored(query, StoredRows::checked(StoredValues::Single(embeddings), query.len()), k)
}

/// Like [`top_k`], for stored rows.
pub fn top_k_stored(query: &[f32], rows: StoredRows<'_>, k: usize) -> Vec<(usize, f32)> {
    let best_of_task = |task: Range<usize>| {
        let mut best = Best::new();
        offer(query, rows, task, (k, &mut best));
        best
    };
    let best: Vec<Reverse<Scored>> = rows.tasks().flat_map_iter(best_of_task).collect();
    ranked(best.into_iter(), k)
}

/// Scores a range of rows; each that is one of the `k` best so far enters them.
pub(super) fn offer(query: &[f32], rows: StoredRows<'_>, range: Range<usize>, (k, best): (usize, &mut Best)) {
    rows.scores(query, range, |index, score| {
        let scored = Scored { score, index };
        if best.len() < k {
            best.push(Reverse(scored));
        } else if let Some(mut worst) = best.peek_mut()
            && scored > worst.0
        {
            *worst = Reverse(scored);
        }
    });
}

/// The `k` best of these rows, best first, with their scores.
pub(super) fn ranked(rows: impl Iterator<Item = Reverse<Scored>>, k: usize) -> Vec<(usize, f32)> {
    let mut best: Vec<Scored> = rows.map(|Reverse(scored)| scored).collect();
    best.sort_unstable_by_key(|&scored| Reverse(scored));
    best.truncate(k);
    best.into_iter().map(|scored| (scored.index, scored.score as f32)).collect()
}
