//! Rows of embeddings as they are stored, in single or half precision, and their inner products with one query.
//!
//! Products of two f32 values (f16 values are some of those) are exact in f64, and every row's are summed in the same
//! order on every machine: equal rows score the same to the last bit, wherever they lie.

use std::borrow::Cow;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::rows::vectorised;
use crate::files::npy::StoredValues;

/// Rows per task: some 100 µs of work.
const ROWS_PER_TASK: usize = 1024;

/// Partial sums of an inner product: two of the widest vector registers, four of most.
const SUMS: usize = 16;

/// `[rows, width]`, row-major; every value is finite.
#[derive(Clone, Copy, Debug)]
pub struct StoredRows<'a> {
    values: StoredValues<'a>,
    width: usize,
}

impl<'a> StoredRows<'a> {
    /// Whole rows of finite values, as the caller knows them to be.
    pub(crate) fn checked(values: StoredValues<'a>, width: usize) -> Self {
        assert!(width > 0 && values.len().is_multiple_of(width), "whole rows of {width}");
        StoredRows { values, width }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Values per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Its values in single precision, without a copy where they are.
    pub(crate) fn to_single(self) -> Cow<'a, [f32]> {
        match self.values {
            StoredValues::Single(values) => Cow::Borrowed(values),
            StoredValues::Half(values) => Cow::Owned(values.to_f32_vec()),
        }
    }

    /// All rows in parts, to be scored on all threads.
    pub(crate) fn tasks(self) -> impl IndexedParallelIterator<Item = Range<usize>> {
        let tasks = (0..self.len().div_ceil(ROWS_PER_TASK)).into_par_iter();
        tasks.map(move |task| task * ROWS_PER_TASK..self.len().min((task + 1) * ROWS_PER_TASK))
    }

    /// Gives `each` the index and the inner product with `query [width]` of every one of `rows`, in order.
    pub(crate) fn scores(&self, query: &[f32], rows: Range<usize>, mut each: impl FnMut(usize, f64)) {
        let values = rows.start * self.width..rows.end * self.width;
        let indices = rows.start..;
        // + 0.0 turns -0 into 0, which total_cmp would put above it.
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

/// Inner product with a fixed number of partial sums, so that it vectorises and its order is fixed.
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
