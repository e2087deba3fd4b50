//! Stored embedding rows, in single or half precision, and their inner products with one query.
//!
//! The product of two f32 values (or f16 values, a subset of these) is exact in f64. Every row's products are
//! summed in the same order on every machine, so equal rows have exactly equal scores wherever they lie.

use std::borrow::Cow;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::rows::vectorised;
use crate::files::npy::StoredValues;

/// Rows per task: about 100 µs of work.
const ROWS_PER_TASK: usize = 1024;

/// Partial sums of an inner product: two of the widest vector registers, four on most machines.
const SUMS: usize = 16;

/// `[rows, width]`, row-major; every value is finite.
#[derive(Clone, Copy, Debug)]
pub struct StoredRows<'a> {
    values: StoredValues<'a>,
    width: usize,
}

impl<'a> StoredRows<'a> {
    /// Wraps whole rows of values that the caller has checked to be finite.
    pub(crate) fn checked(values: StoredValues<'a>, width: usize) -> Self {
        assert!(width > 0 && values.len().is_multiple_of(width), "whole rows of {width}");
        StoredRows { values, width }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of values per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Values in single precision; borrowed if they are stored that way.
    pub(crate) fn to_single(self) -> Cow<'a, [f32]> {
        match self.values {
            StoredValues::Single(values) => Cow::Borrowed(values),
            StoredValues::Half(values) => Cow::Owned(values.to_f32_vec()),
        }
    }

    /// `[range, width]` in single precision: borrowed if they are stored that way, otherwise written to `widened`.
    pub(crate) fn single<'b>(&self, range: Range<usize>, widened: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        let range = range.start * self.width..range.end * self.width;
        match self.values {
            StoredValues::Single(values) => &values[range],
            StoredValues::Half(values) => {
                widened.resize(range.len(), 0.0);
                vectorised(
                    #[inline(always)]
                    || values[range].convert_to_f32_slice(widened),
                );
                widened
            }
        }
    }

    /// Splits the rows into ranges for parallel scoring.
    pub(crate) fn tasks(self) -> impl IndexedParallelIterator<Item = Range<usize>> {
        let tasks = (0..self.len().div_ceil(ROWS_PER_TASK)).into_par_iter();
        tasks.map(move |task| task * ROWS_PER_TASK..self.len().min((task + 1) * ROWS_PER_TASK))
    }

    /// Calls `each` with the index of each of `rows`, in order, and its inner product with `query [width]`.
    pub(crate) fn scores(&self, query: &[f32], rows: Range<usize>, mut each: impl FnMut(usize, f64)) {
        let values = rows.start * self.width..rows.end * self.width;
        let indices = rows.start..;
        // + 0.0 turns -0 into 0; total_cmp would order them differently.
        match self.values {
            StoredValues::Single(stored) => vectorised(
                #[inline(always)]
                || {
                    for (row, index) in stored[values].chunks_exact(self.width).zip(indices) {
                        each(index, dot(query, row) + 0.0);
                    }
                },
            ),
            StoredValues::Half(stored) => {
                let mut widened = vec![0.0f32; self.width];
                vectorised(
                    #[inline(always)]
                    || {
                        for (row, index) in stored[values].chunks_exact(self.width).zip(indices) {
                            row.convert_to_f32_slice(&mut widened);
                            each(index, dot(query, &widened) + 0.0);
                        }
                    },
                );
            }
        }
    }
}

/// Inner product with a fixed number of partial sums, which vectorises and fixes the order of summation.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; SUMS];
    let (a_chunks, b_chunks) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
    let tail: f64 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(&x, &y)| f64::from(x) * f64::from(y))
        .sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..SUMS {
            sums[lane] += f64::from(x[lane]) * f64::from(y[lane]);
        }
    }
    sums.iter().sum::<f64>() + tail
}
