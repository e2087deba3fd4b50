//! Rows of embeddings as they are stored, in single or half precision, and their inner products with one query.
//!
//! Products of two f32 values (f16 values are some of those) are exact in f64, and every row's are summed in the same
//! order on every machine: equal rows score the same to the last bit, wherever they lie.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::Embeddings;
use crate::npy::StoredValues;
use crate::{Error, Result};

/// Rows per task: some 100 µs of work.
pub(super) const ROWS_PER_TASK: usize = 1024;

/// Partial sums of an inner product: two of the widest vector registers, four of most.
const SUMS: usize = 16;

/// `[rows, width]`, row-major; every value is finite.
#[derive(Clone, Copy, Debug)]
pub struct StoredRows<'a> {
    values: StoredValues<'a>,
    width: usize,
}

impl<'a> From<Embeddings<'a>> for StoredRows<'a> {
    fn from(embeddings: Embeddings<'a>) -> Self {
        StoredRows { values: StoredValues::Single(embeddings.values()), width: embeddings.width() }
    }
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

    /// That `query` is one row of as many values.
    pub(super) fn check_query(&self, query: Embeddings<'_>) -> Result<()> {
        if query.len() == 1 && query.width() == self.width {
            return Ok(());
        }
        Err(Error::argument(
            "query",
            format!(
                "{} rows of {} values, where one row of {} is compared",
                query.len(),
                query.width(),
                self.width
            ),
            "embed the query with the model that embedded the images",
        ))
    }

    /// Gives `each` the index and the inner product with `query [width]` of every one of `rows`, in order.
    pub(super) fn scores(&self, query: &[f32], rows: Range<usize>, mut each: impl FnMut(usize, f64)) {
        let values = rows.start * self.width..rows.end * self.width;
        let indices = rows.start..;
        // + 0.0 turns -0 into 0, which total_cmp would put above it.
        match self.values {
            StoredValues::Single(stored) => pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (row, index) in stored[values].chunks_exact(self.width).zip(indices) {
                        each(index, dot(query, row) + 0.0);
                    }
                },
            ),
            StoredValues::Half(stored) => {
                let mut widened = vec![0.0f32; self.width];
                pulp::Arch::new().dispatch(
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

/// The rank, from 1, of row `target` among `rows` by inner product with `query`, one row; rows that score the same rank
/// before it, as in [`ranks`](super::ranks).
pub fn rank<'a>(
    query: Embeddings<'_>,
    rows: impl Into<StoredRows<'a>>,
    target: usize,
) -> Result<(usize, f32)> {
    let rows = rows.into();
    rows.check_query(query)?;
    if target >= rows.len() {
        return Err(Error::argument(
            "target",
            format!("is row {target}, there are {}", rows.len()),
            "a target is the row of an indexed image, from 0",
        ));
    }
    let mut own = 0.0;
    rows.scores(query.values(), target..target + 1, |_, score| own = score);
    let tasks = rows.len().div_ceil(ROWS_PER_TASK);
    let rank = (0..tasks)
        .into_par_iter()
        .map(|task| {
            let mut count = 0;
            let start = task * ROWS_PER_TASK;
            rows.scores(query.values(), start..rows.len().min(start + ROWS_PER_TASK), |_, score| {
                count += usize::from(score >= own);
            });
            count
        })
        .sum();
    Ok((rank, own as f32))
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
