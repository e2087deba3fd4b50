//! Matrix products: rayon splits the rows of the result, `faer` multiplies each part on one thread.
//!
//! The order of every sum is independent of how rows are split, so the bits do not depend on the number of
//! threads. The exception is a single row, which `faer` multiplies as a vector, in another order. A part is
//! that small only if the whole product is.

pub use faer::Accum;
use faer::{MatMut, MatRef, Par};
use rayon::prelude::*;

/// View of a dense row-major `[rows, columns]` matrix in the first values of `values`.
pub fn matrix(values: &[f32], rows: usize, columns: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(&values[..rows * columns], rows, columns)
}

/// Mutable [`matrix`].
pub fn matrix_mut(values: &mut [f32], rows: usize, columns: usize) -> MatMut<'_, f32> {
    MatMut::from_row_major_slice_mut(&mut values[..rows * columns], rows, columns)
}

/// Least number of rows per part. More than one keeps the bits independent of the split; a few more make a
/// thread worth its cost.
const PART_ROWS: usize = 8;

/// `c = a b`, or `c += a b`. A transposed operand is passed as a transposed view.
pub fn matmul(c: MatMut<'_, f32>, accumulate: Accum, a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let parts = rayon::current_num_threads().min(c.nrows() / PART_ROWS).max(1);
    c.par_row_partition_mut(parts).zip(a.par_row_partition(parts)).for_each(|(c, a)| {
        faer::linalg::matmul::matmul(c, accumulate, a, b, 1.0, Par::Seq);
    });
}

/// Runs one product on each of rayon's threads. The first product of a thread allocates its packing buffer,
/// which is as large as two L3 caches. Doing it here keeps that allocation out of the training steps.
pub fn prepare_threads() {
    /// Rows and columns of a product large enough to be packed.
    const PACKED: usize = 64;
    rayon::broadcast(|_| {
        let operand = MatRef::from_repeated_ref(&1.0, PACKED, PACKED);
        let mut product = vec![0.0; PACKED * PACKED];
        let c = matrix_mut(&mut product, PACKED, PACKED);
        faer::linalg::matmul::matmul(c, Accum::Replace, operand, operand, 1.0, Par::Seq);
    });
}
