//! top_k: the rows that have the greatest inner products with a query, exactly: every row is compared.
//!
//! Each block of rows keeps its own k best in a heap whose top is the worst of them, so most rows cost one dot product
//! and one comparison. Cost: one pass over the rows, so the memory's bandwidth.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use rayon::prelude::*;

/// Rows per task.
const BLOCK: usize = 1024;

/// A row with its score; the greater score is greater, among equals the lower index.
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

/// The `k` rows (or all, if fewer) of `embeddings [n, D]` with the greatest inner product with `query [D]`, best first,
/// ties by the lower index; with their inner products, which are summed in double precision. All values are finite.
pub fn top_k(query: &[f32], embeddings: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut best: Vec<Scored> = embeddings
        .par_chunks(BLOCK * query.len())
        .enumerate()
        .flat_map_iter(|(block, rows)| best_of_block(query, rows, block * BLOCK, k))
        .map(|Reverse(scored)| scored)
        .collect();
    best.sort_unstable_by_key(|&scored| Reverse(scored));
    best.truncate(k);
    best.into_iter().map(|scored| (scored.index, scored.score as f32)).collect()
}

fn best_of_block(query: &[f32], rows: &[f32], start: usize, k: usize) -> BinaryHeap<Reverse<Scored>> {
    let mut heap = BinaryHeap::new();
    for (row, index) in rows.chunks_exact(query.len()).zip(start..) {
        // + 0.0 turns -0 into 0, which total_cmp would put above it.
        let scored = Scored { score: dot(query, row) + 0.0, index };
        if heap.len() < k {
            heap.push(Reverse(scored));
        } else if let Some(mut worst) = heap.peek_mut()
            && scored > worst.0
        {
            *worst = Reverse(scored);
        }
    }
    heap
}

/// Inner product with eight partial sums, so that it vectorises and its order is fixed.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f64 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(&x, &y)| f64::from(x) * f64::from(y))
        .sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += f64::from(x[lane]) * f64::from(y[lane]);
        }
    }
    sums.iter().sum::<f64>() + tail
}
