//! Rank of one row for many queries: each row is read once for all of them.
//!
//! Products in single precision (`many_queries`) decide nearly all comparisons with the row's own score. The others are made in
//! double precision, so the ranks are those of a comparison of each query alone, ties included.

use std::ops::Range;

use rayon::prelude::*;

use super::many_queries::{ManyQueries, Products, all_below};
use super::stored_rows::StoredRows;

/// For each of `queries [n, D]`, the number of rows whose inner product with it is at least that of row `target`, and the inner
/// product of that row. All sums are in double precision; all values are finite.
pub fn rank_many(queries: &[f32], rows: StoredRows<'_>, target: usize) -> Vec<(usize, f64)> {
    let queries = ManyQueries::new(queries, rows.width());
    let own: Vec<f64> = (0..queries.len()).map(|query| score(queries.query(query), rows, target)).collect();
    let tasks = queries.tasks(rows.len()).into_par_iter();
    let counts: Vec<Vec<usize>> = tasks.map(|task| count_in_task(&queries, rows, task, &own)).collect();
    let rank = |query: usize| counts.iter().map(|counts| counts[query]).sum();
    own.iter().enumerate().map(|(query, &own)| (rank(query), own)).collect()
}

fn score(query: &[f32], rows: StoredRows<'_>, row: usize) -> f64 {
    let mut found = 0.0;
    rows.scores(query, row..row + 1, |_, score| found = score);
    found
}

/// For each query, the number of `task`'s rows that score at least `own`.
fn count_in_task(
    queries: &ManyQueries<'_>,
    rows: StoredRows<'_>,
    task: Range<usize>,
    own: &[f64],
) -> Vec<usize> {
    let mut counts = vec![0; queries.len()];
    let (mut least, mut enough) = (Vec::new(), Vec::new());
    queries.for_each_product(rows, task, |Products { rows: block, first_query, values, errors }| {
        let bounds = || own[first_query..].iter().zip(errors);
        least.clear();
        least.extend(bounds().map(|(own, error)| ((own - error) as f32).next_down()));
        enough.clear();
        enough.extend(bounds().map(|(own, error)| ((own + error) as f32).next_up()));
        for (row, products) in block.zip(values.chunks_exact(errors.len())) {
            if all_below(products, &least) {
                continue;
            }
            for (query, &product) in products.iter().enumerate() {
                let number = first_query + query;
                // A product that is not a number, or infinite, decides nothing.
                let at_least = match product {
                    product if product < least[query] => false,
                    product if product > enough[query] => true,
                    _ => score(queries.query(number), rows, row) >= own[number],
                };
                counts[number] += usize::from(at_least);
            }
        }
    });
    counts
}
