//! top_k of many queries at once: each row is read once for all of them.
//!
//! Products in single precision (`many_queries`) only reject rows: a row is rejected if its product plus the bound on its error
//! is below the k-th best score so far. The few rows that remain are scored as [`top_k_stored`](super::top_k::top_k_stored) scores
//! them. So the rows, their order and their scores are those of a search for each query alone, ties included.
//!
//! ```text
//! for each row and query with product >= worst of the k best - error:
//!     score = row . query                                               double precision; enters the k best if it belongs there
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rayon::prelude::*;

use super::many_queries::{ManyQueries, Products, all_below};
use super::stored_rows::StoredRows;
use super::top_k::{Best, offer, ranked};

/// For each of `queries [n, D]`, the `k` rows (or all, if fewer) with the greatest inner products, best first; ties go to the lower
/// index. Each comes with its inner product, summed in double precision. All values are finite.
pub fn top_k_many(queries: &[f32], rows: StoredRows<'_>, k: usize) -> Vec<Vec<(usize, f32)>> {
    let queries = ManyQueries::new(queries, rows.width());
    let count = queries.len();
    if k == 0 {
        return vec![Vec::new(); count];
    }
    let tasks = queries.tasks(rows.len()).into_par_iter();
    let found: Vec<Vec<Best>> = tasks.map(|task| best_of_task(&queries, rows, task, k)).collect();
    let of_query = |query: usize| ranked(found.iter().flat_map(|best| best[query].iter().copied()), k);
    (0..count).into_par_iter().map(of_query).collect()
}

/// The `k` best of `task`'s rows for each query.
fn best_of_task(queries: &ManyQueries<'_>, rows: StoredRows<'_>, task: Range<usize>, k: usize) -> Vec<Best> {
    let mut best: Vec<Best> = (0..queries.len()).map(|_| BinaryHeap::new()).collect();
    let mut least = Vec::new();
    queries.for_each_product(rows, task, |Products { rows: block, first_query, values, errors }| {
        let best = &mut best[first_query..][..errors.len()];
        least.clear();
        least.extend(best.iter().zip(errors).map(|(best, &error)| least_product(best, k, error)));
        for (row, products) in block.zip(values.chunks_exact(errors.len())) {
            if all_below(products, &least) {
                continue;
            }
            for query in 0..errors.len() {
                if products[query] < least[query] {
                    continue;
                }
                offer(queries.query(first_query + query), rows, row..row + 1, (k, &mut best[query]));
                least[query] = least_product(&best[query], k, errors[query]);
            }
        }
    });
    best
}

/// Least product in single precision that may belong to one of the `k` best rows.
fn least_product(best: &Best, k: usize, error: f64) -> f32 {
    match best.peek() {
        Some(Reverse(worst)) if best.len() == k => ((worst.score - error) as f32).next_down(),
        _ => f32::NEG_INFINITY,
    }
}
