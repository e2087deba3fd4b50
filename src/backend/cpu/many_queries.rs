//! Inner products of rows with many queries, in single precision and with bounds on their errors.
//!
//! A row's products with all queries are one row of a matrix product, which is much faster than inner products in double
//! precision. A search takes those that the bound decides as they are, and computes the few others in double precision.
//!
//! ```text
//! for each block of rows:
//!     product[row, query] = row . query                                     single precision
//!     error[query] = D 2^-23 max |row| |query| + D 2^-126                   any order of summation, fused or not
//! ```

use std::ops::Range;

use scenerank_matmul::{Accumulate, MatMut, MatRef, Packed};

use super::rows::{length, vectorised};
use super::stored_rows::StoredRows;

/// Rows per block: some 100 kB of products for 100 queries, which stay in the second-level cache.
const BLOCK_ROWS: usize = 288;
/// Queries per product, so that the products of a block stay in the cache.
const GROUP_QUERIES: usize = 256;
/// Tasks per thread.
const TASKS_PER_THREAD: usize = 4;
/// Values below this vanish in a sum of squares in single precision.
const VANISHING: f64 = 1e-18;

/// Queries, packed for products.
pub(super) struct ManyQueries<'a> {
    groups: Vec<Group<'a>>,
    width: usize,
}

struct Group<'a> {
    /// `[queries, D]`
    queries: &'a [f32],
    /// `[D, queries]`
    packed: Packed<f32>,
    /// `[queries]` upper bounds of the norms.
    norms: Vec<f64>,
}

/// Products of a block of rows with a group of queries.
pub(super) struct Products<'a> {
    pub rows: Range<usize>,
    /// Number of the group's first query.
    pub first_query: usize,
    /// `[rows, queries of the group]`
    pub values: &'a [f32],
    /// `[queries of the group]` upper bounds of the errors of the products.
    pub errors: &'a [f64],
}

impl<'a> ManyQueries<'a> {
    /// `queries [n, width]`; all values are finite.
    pub fn new(queries: &'a [f32], width: usize) -> Self {
        let groups = queries.chunks(GROUP_QUERIES * width).map(|queries| Group::new(queries, width));
        ManyQueries { groups: groups.collect(), width }
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.norms.len()).sum()
    }

    /// One query.
    pub fn query(&self, query: usize) -> &'a [f32] {
        &self.groups[query / GROUP_QUERIES].queries[query % GROUP_QUERIES * self.width..][..self.width]
    }

    /// Ranges of whole blocks of `rows` rows, for parallel tasks: few, because each has memory of its own.
    pub fn tasks(&self, rows: usize) -> Vec<Range<usize>> {
        let tasks = rayon::current_num_threads() * TASKS_PER_THREAD;
        let step = rows.div_ceil(tasks).next_multiple_of(BLOCK_ROWS).max(BLOCK_ROWS);
        (0..rows).step_by(step).map(|first| first..rows.min(first + step)).collect()
    }

    /// Calls `each` with the products of `task`'s rows, block after block and group after group.
    pub fn for_each_product(
        &self,
        rows: StoredRows<'_>,
        task: Range<usize>,
        mut each: impl FnMut(Products<'_>),
    ) {
        let (mut widened, mut products, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for first in task.clone().step_by(BLOCK_ROWS) {
            let block = first..task.end.min(first + BLOCK_ROWS);
            let values = rows.single(block.clone(), &mut widened);
            let greatest = values.chunks_exact(self.width).map(greatest_norm).fold(0.0, f64::max);
            let mut first_query = 0;
            for group in &self.groups {
                let queries = group.norms.len();
                products.resize(block.len() * queries, 0.0f32);
                let to = MatMut::new(&mut products, block.len(), queries);
                group.packed.multiply(to, Accumulate::Replace, MatRef::new(values, block.len(), self.width));
                errors.clear();
                errors.extend(group.norms.iter().map(|norm| error_bound(self.width, greatest * norm)));
                each(Products { rows: block.clone(), first_query, values: &products, errors: &errors });
                first_query += queries;
            }
        }
    }
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

/// Bound on the error of a product of `terms` terms in single precision, for vectors with this product of norms. Infinite if a
/// partial sum may overflow.
fn error_bound(terms: usize, norms: f64) -> f64 {
    if norms >= f64::from(f32::MAX) / 4.0 {
        return f64::INFINITY;
    }
    let terms = terms as f64;
    terms * (f64::from(f32::EPSILON) * norms + f64::from(f32::MIN_POSITIVE))
}

/// Whether all products are below these bounds, one for each query. A product that is not a number is not.
pub(super) fn all_below(products: &[f32], bounds: &[f32]) -> bool {
    vectorised(
        #[inline(always)]
        || {
            let pairs = products.iter().zip(bounds);
            pairs.fold(true, |below, (product, bound)| below & (product < bound))
        },
    )
}
