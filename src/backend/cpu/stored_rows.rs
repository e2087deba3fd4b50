//! Stored embedding rows, in single or half precision, and their inner products with one query.
//!
//! The product of two f32 values (or f16 values, a subset of these) is exact in f64. Every row's products are
//! summed in the same order on every machine, so equal rows have exactly equal scores wherever they lie.

use std::borrow::Cow;
use std::ops::Range;

use half::f16;
use rayon::prelude::*;
use scenerank_matmul::prefetch;

use super::rows::vectorised;
use crate::files::npy::StoredValues;

/// Rows per task: about 100 µs of work.
const ROWS_PER_TASK: usize = 1024;

/// Partial sums of an inner product: two of the widest vector registers, four on most machines.
const SUMS: usize = 16;

/// Rows whose inner products are computed before any of them is used.
const ROWS_AT_ONCE: usize = 64;

/// Values between a row that is scored and those that the processor brings into its cache.
const AHEAD: usize = 2048;

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
            StoredValues::Half(_) => {
                let mut widened = Vec::new();
                self.single(0..self.len(), &mut widened);
                Cow::Owned(widened)
            }
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
                    || widened.iter_mut().zip(&values[range]).for_each(|(to, &value)| *to = widen(value)),
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
        let mut scores = [0.0; ROWS_AT_ONCE];
        for first in rows.clone().step_by(ROWS_AT_ONCE) {
            let scores = &mut scores[..ROWS_AT_ONCE.min(rows.end - first)];
            let values = first * self.width..(first + scores.len()) * self.width;
            match self.values {
                StoredValues::Single(stored) => single_products(query, &stored[values], scores),
                StoredValues::Half(stored) => half_products(query, &stored[values], scores),
            }
            (first..).zip(&*scores).for_each(|(row, &score)| each(row, score));
        }
    }
}

/// Inner products of `rows [n, D]` with `query [D]`. Compiled here once for all callers, other crates included.
fn single_products(query: &[f32], rows: &[f32], to: &mut [f64]) {
    products(query, rows, |value| value, to);
}

/// The same in half precision.
fn half_products(query: &[f32], rows: &[f16], to: &mut [f64]) {
    products(query, rows, widen, to);
}

/// `single` gives the value of an element.
#[inline(always)]
fn products<T: Copy>(query: &[f32], rows: &[T], single: impl Fn(T) -> f32 + Copy, to: &mut [f64]) {
    vectorised(
        #[inline(always)]
        || {
            for (row, product) in rows.chunks_exact(query.len()).zip(to) {
                prefetch(row.as_ptr().wrapping_add(AHEAD), row.len());
                // + 0.0 turns -0 into 0; total_cmp would order them differently.
                *product = dot(query, row, single) + 0.0;
            }
        },
    );
}

/// A finite value in single precision, exactly. Shifts and one product compile to vectors of every width; the conversion of `half` is
/// a call for each few values.
#[inline(always)]
fn widen(value: f16) -> f32 {
    /// 2^112, the ratio of the powers of two that the same exponent stands for.
    const EXPONENTS: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(value.to_bits());
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * EXPONENTS;
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

/// Inner product with a fixed number of partial sums, which vectorises and fixes the order of summation.
#[inline(always)]
fn dot<T: Copy>(a: &[f32], b: &[T], single: impl Fn(T) -> f32) -> f64 {
    let mut sums = [0.0f64; SUMS];
    let (a_chunks, b_chunks) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
    let product = |x: f32, y: T| f64::from(x) * f64::from(single(y));
    let tail: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(&x, &y)| product(x, y)).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..SUMS {
            sums[lane] += product(x[lane], y[lane]);
        }
    }
    sums.iter().sum::<f64>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_half_is_widened_exactly() {
        let all = (0..=u16::MAX).map(f16::from_bits).filter(|value| value.is_finite());
        let mut count = 0;
        for value in all {
            assert_eq!(widen(value).to_bits(), value.to_f32().to_bits(), "{value:?}");
            count += 1;
        }
        assert_eq!(count, 2 * 0x7c00);
    }
}
