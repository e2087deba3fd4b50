//! top_k: finds the rows with the greatest inner products with a query, best first, ties to the lower index.

use std::cmp::Ordering;

/// Returns `(row, inner product)` for the `k` best rows of `embeddings [n, D]` for `query [D]`, or for all
/// rows if there are fewer.
pub fn top_k(query: &[f64], embeddings: &[f64], k: usize) -> Vec<(usize, f64)> {
    let score = |row: &[f64]| row.iter().zip(query).map(|(x, y)| x * y).sum::<f64>();
    let mut scored: Vec<_> = embeddings.chunks_exact(query.len()).map(score).enumerate().collect();
    // NaN sorts after all numbers. The sort is stable, so equal scores keep their order.
    scored.sort_by(|&(_, a), &(_, b)| {
        a.is_nan().cmp(&b.is_nan()).then(b.partial_cmp(&a).unwrap_or(Ordering::Equal))
    });
    scored.truncate(k);
    scored
}
