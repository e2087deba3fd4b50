//! Matrix products: rayon splits the rows of the result, `faer` multiplies each part on one thread.
//!
//! How the rows are split does not enter the order of any sum, so the result's bits do not depend on the number of
//! threads: but for a single row, which `faer` multiplies as a vector, in another order. No part is that small unless the
//! whole product is.

pub use faer::Accum;
use faer::{MatMut, MatRef, Par};
use rayon::prelude::*;

/// A dense row-major `[rows, columns]` matrix in the first values of `values`.
pub fn matrix(values: &[f32], rows: usize, columns: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(&values[..rows * columns], rows, columns)
}

/// [`matrix`], to be written.
pub fn matrix_mut(values: &mut [f32], rows: usize, columns: usize) -> MatMut<'_, f32> {
    MatMut::from_row_major_slice_mut(&mut values[..rows * columns], rows, columns)
}

/// Rows of a part, at least: more than one for the bits' sake; below a few a thread costs more than it saves.
const PART_ROWS: usize = 8;

/// `c = a b`, or `c += a b`; a transposed operand is a transposed view.
pub fn matmul(c: MatMut<'_, f32>, accumulate: Accum, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let parts = rayon::current_num_threads().min(c.nrows() / PART_ROWS).max(1);
    c.par_row_partition_mut(parts).zip(a.par_row_partition(parts)).for_each(|(c, a)| {
        faer::linalg::matmul::matmul(c, accumulate, a, b, 1.0, Par::Seq);
    });
}

/// Does one product on each of rayon's threads. The first product of a thread allocates its packing buffer, of the size of
/// two L3 caches: better before the first step than in whichever step first hands that thread a product.
pub fn prepare_threads() {
    /// A product of this many rows and columns is packed.
    const PACKED: usize = 64;
    rayon::broadcast(|_| {
        let operand = MatRef::from_repeated_ref(&1.0, PACKED, PACKED);
        let mut product = vec![0.0; PACKED * PACKED];
        let c = matrix_mut(&mut product, PACKED, PACKED);
        faer::linalg::matmul::matmul(c, Accum::Replace, operand, operand, 1.0, Par::Seq);
    });
}
