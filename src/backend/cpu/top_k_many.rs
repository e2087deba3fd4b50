//! top_k of many queries at once: each row is read once for all of them.
//!
//! A row's products with all queries are one row of a matrix product in single precision, which is much faster than inner products
//! in double precision. These products only reject rows: a row is rejected if its product plus the bound on its error is below the
//! k-th best score so far. The few rows that remain are scored as [`top_k_stored`](super::top_k::top_k_stored) scores them. So the
//! rows, their order and their scores are those of a search for each query alone, ties included.
//!
//! ```text
//! for each block of rows:
//!     product[row, query] = row . query                                     single precision
//!     error[query] = D 2^-23 max |row| |query| + D 2^-126                   any order of summation, fused or not
//!     for each row and query with product >= worst of the k best - error:
//!         score = row . query                                               double precision; enters the k best if it belongs there
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use rayon::prelude::*;

use super::rows::{length, vectorised};
use super::stored_rows::StoredRows;
use super::top_k::{Best, offer, ranked};
use crate::matmul::{Accumulate, MatMut, MatRef, Packed};

/// Rows per block: some 100 kB of products for 100 queries, which stay in the second-level cache.
const BLOCK_ROWS: usize = 288;
/// Queries per product, so that the products of a block stay in the cache.
const GROUP_QUERIES: usize = 256;
/// Tasks per thread. Each task finds its own k best rows, so more tasks mean more rows that are scored twice.
const TASKS_PER_THREAD: usize = 4;
/// Values below this vanish in a sum of squares in single precision.
const VANISHING: f64 = 1e-18;

/// Queries `[queries, D]`, packed for products.
struct Group<'a> {
    /// `[queries, D]`
    queries: &'a [f32],
    /// `[D, queries]`
    packed: Packed<f32>,
    /// `[queries]` upper bounds of the norms.
    norms: Vec<f64>,
}

/// For each of `queries [n, D]`, the `k` rows (or all, if fewer) with the greatest inner products, best first; ties go to the lower
/// index. Each comes with its inner product, summed in double precision. All values are finite.
pub fn top_k_many(queries: &[f32], rows: StoredRows<'_>, k: usize) -> Vec<Vec<(usize, f32)>> {
    let width = rows.width();
    let count = queries.len() / width;
    if k == 0 {
        return vec![Vec::new(); count];
    }
    let group = |queries| Group::new(queries, width);
    let groups: Vec<Group<'_>> = queries.chunks(GROUP_QUERIES * width).map(group).collect();
    let tasks = rayon::current_num_threads() * TASKS_PER_THREAD;
    let step = rows.len().div_ceil(tasks).next_multiple_of(BLOCK_ROWS);
    let tasks = (0..rows.len().div_ceil(step.max(1))).into_par_iter();
    let found: Vec<Vec<Best>> = tasks
        .map(|task| best_of_task(&groups, rows, task * step..rows.len().min((task + 1) * step), k))
        .collect();
    let of_query = |query: usize| ranked(found.iter().flat_map(|best| best[query].iter().copied()), k);
    (0..count).into_par_iter().map(of_query).collect()
}

impl<'a> Group<'a> {
    fn new(queries: &'a [f32], width: usize) -> Self {
        let matrix = MatRef::new(queries, queries.len() / width, width);
        let norms = queries.chunks_exact(width).map(greatest_norm).collect();
        Group { queries, packed: Packed::of(matrix.transpose()), norms }
    }
}

/// Upper bound of the norm of a row, whose sum of squares may round, vanish or become infinite.
fn greatest_norm(row: &[f32]) -> f64 {
    let terms = row.len() as f64;
    f64::from(length(row)) * (1.0 + terms * f64::from(f32::EPSILON)) + terms * VANISHING
}

/// The `k` best of `task`'s rows for each query of all groups.
fn best_of_task(groups: &[Group<'_>], rows: StoredRows<'_>, task: Range<usize>, k: usize) -> Vec<Best> {
    let width = rows.width();
    let mut best: Vec<Best> =
        groups.iter().flat_map(|group| &group.norms).map(|_| BinaryHeap::new()).collect();
    let (mut widened, mut products) = (Vec::new(), Vec::new());
    let mut least = Vec::new();
    for first in task.clone().step_by(BLOCK_ROWS) {
        let block = first..task.end.min(first + BLOCK_ROWS);
        let values = rows.single(block.clone(), &mut widened);
        let greatest = values.chunks_exact(width).map(greatest_norm).fold(0.0, f64::max);
        let mut best = best.as_mut_slice();
        for group in groups {
            let queries = group.norms.len();
            let (of_group, others) = best.split_at_mut(queries);
            best = others;
            products.resize(block.len() * queries, 0.0f32);
            let to = MatMut::new(&mut products, block.len(), queries);
            group.packed.multiply(to, Accumulate::Replace, MatRef::new(values, block.len(), width));
            let errors: Vec<f64> =
                group.norms.iter().map(|norm| error_bound(width, greatest * norm)).collect();
            least.clear();
            least.extend(of_group.iter().zip(&errors).map(|(best, &error)| least_product(best, k, error)));
            for (row, products) in block.clone().zip(products.chunks_exact(queries)) {
                if none_reaches(products, &least) {
                    continue;
                }
                for query in 0..queries {
                    if products[query] < least[query] {
                        continue;
                    }
                    let of_query = &group.queries[query * width..][..width];
                    offer(of_query, rows, row..row + 1, (k, &mut of_group[query]));
                    least[query] = least_product(&of_group[query], k, errors[query]);
                }
            }
        }
    }
    best
}

/// Bound on the error of a product of `terms` terms in single precision, for vectors with this product of norms. Infinite if a
/// partial sum may overflow.
fn error_bound(terms: usize, norms: f64) -> f64 {
    if norms >= f64::from(f32::MAX) / 4.0 {
        return f64::INFINITY;
    }
    let terms = terms as f64;
    terms * (f64::from(f32::EPSILON) * norms + f64::from(f32::MIN_POSITIVE))
}

/// Least product in single precision that may belong to one of the `k` best rows.
fn least_product(best: &Best, k: usize, error: f64) -> f32 {
    match best.peek() {
        Some(Reverse(worst)) if best.len() == k => ((worst.score - error) as f32).next_down(),
        _ => f32::NEG_INFINITY,
    }
}

/// Whether all products are below the least ones. A product that is not a number is not.
fn none_reaches(products: &[f32], least: &[f32]) -> bool {
    vectorised(
        #[inline(always)]
        || {
            let pairs = products.iter().zip(least);
            pairs.fold(true, |below, (product, least)| below & (product < least))
        },
    )
}
