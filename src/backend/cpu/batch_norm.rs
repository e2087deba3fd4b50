//! batch_norm: statistics, relu(norm(z)) and their backward, in fused passes over chunks of rows.
//!
//! A pass splits the rows into chunks of a fixed size. Each chunk reduces its columns independently, and the
//! results of the chunks are merged in order in `f64`. The bits therefore do not depend on the number of
//! threads.
//!
//! Every pass evaluates the ReLU condition with the same expression, `(z - mean) * scale + bias > 0` with
//! `scale = rstd * weight`: forward, backward and the masks for checking agree to the bit.

use std::ops::Range;

use rayon::prelude::*;

use super::rows::{behind, each_segment};
use crate::backend::{NORM_EPSILON, NORM_MOMENTUM};
use crate::ranks::Ranks;

/// Rows per chunk: enough to amortise a merge, few enough that the running sums stay accurate in `f32`.
pub const CHUNK_ROWS: usize = 64;

/// Normalisation by column: `norm(z) = (z - mean) scale + bias`.
#[derive(Debug, Default)]
pub struct Columns {
    /// `[C]` mean of each column.
    pub mean: Vec<f32>,
    /// `[C]` scale, rstd * weight.
    pub scale: Vec<f32>,
    /// `[C]` bias.
    pub bias: Vec<f32>,
}

impl Columns {
    /// Sets the columns from a block's statistics and parameters.
    pub fn set(&mut self, mean: &[f32], rstd: &[f32], weight: &[f32], bias: &[f32]) {
        self.mean.clear();
        self.mean.extend_from_slice(mean);
        self.scale.clear();
        self.scale.extend(rstd.iter().zip(weight).map(|(r, w)| r * w));
        self.bias.clear();
        self.bias.extend_from_slice(bias);
    }

    /// All columns.
    pub fn all(&self) -> ColumnsPart<'_> {
        ColumnsPart { mean: &self.mean, scale: &self.scale, bias: &self.bias }
    }
}

/// A range of [`Columns`].
#[derive(Clone, Copy, Debug)]
pub struct ColumnsPart<'a> {
    mean: &'a [f32],
    scale: &'a [f32],
    bias: &'a [f32],
}

impl<'a> ColumnsPart<'a> {
    /// A range of these columns.
    #[inline(always)]
    pub fn part(&self, range: Range<usize>) -> Self {
        ColumnsPart {
            mean: &self.mean[range.clone()],
            scale: &self.scale[range.clone()],
            bias: &self.bias[range],
        }
    }

    /// `y = relu(norm(z))` of one row. The z at `soon` are read next.
    #[inline]
    pub fn relu(&self, z: &[f32], soon: *const f32, y: &mut [f32]) {
        each_segment(
            y.len(),
            [soon],
            #[inline(always)]
            |part| {
                let (norm, z, y) = (self.part(part.clone()), &z[part.clone()], &mut y[part]);
                for c in 0..y.len() {
                    y[c] = relu((z[c] - norm.mean[c]) * norm.scale[c] + norm.bias[c]);
                }
            },
        );
    }

    /// `sum += relu(norm(z))` of one row. The z at `soon` are read next.
    #[inline]
    pub fn add_relu(&self, z: &[f32], soon: *const f32, sum: &mut [f32]) {
        each_segment(
            sum.len(),
            [soon],
            #[inline(always)]
            |part| {
                let (norm, z, sum) = (self.part(part.clone()), &z[part.clone()], &mut sum[part]);
                for c in 0..sum.len() {
                    sum[c] += relu((z[c] - norm.mean[c]) * norm.scale[c] + norm.bias[c]);
                }
            },
        );
    }

    /// Adds one row to the backward sums: `sum += d`, `product += d (z - mean)`, with `d = factor d_y` where the
    /// ReLU passed.
    #[inline]
    pub fn add_backward_sums(
        &self,
        z: &[f32],
        d_y: &[f32],
        factor: f32,
        sum: &mut [f32],
        product: &mut [f32],
    ) {
        each_segment(
            sum.len(),
            [behind(z), behind(d_y)],
            #[inline(always)]
            |part| {
                let (norm, z, d_y) = (self.part(part.clone()), &z[part.clone()], &d_y[part.clone()]);
                let (sum, product) = (&mut sum[part.clone()], &mut product[part]);
                for c in 0..sum.len() {
                    let centred = z[c] - norm.mean[c];
                    let d_y = factor * d_y[c];
                    let d = if centred * norm.scale[c] + norm.bias[c] > 0.0 { d_y } else { 0.0 };
                    sum[c] += d;
                    product[c] += d * centred;
                }
            },
        );
    }

    /// One row of `d_z = scale d - constant - (z - mean) slope`, with d as in
    /// [`ColumnsPart::add_backward_sums`].
    #[inline]
    pub fn backward(&self, z: &[f32], d_y: &[f32], factor: f32, terms: TermsPart<'_>, d_z: &mut [f32]) {
        each_segment(
            d_z.len(),
            [behind(z), behind(d_z)],
            #[inline(always)]
            |part| {
                let (norm, z, d_y) = (self.part(part.clone()), &z[part.clone()], &d_y[part.clone()]);
                let (terms, d_z) = (terms.part(part.clone()), &mut d_z[part]);
                for c in 0..d_z.len() {
                    d_z[c] = norm.d_z(c, z[c], factor * d_y[c], &terms);
                }
            },
        );
    }

    /// Like [`ColumnsPart::backward`], in place: overwrites a row of d_y with d_z.
    #[inline]
    pub fn backward_in_place(&self, z: &[f32], terms: TermsPart<'_>, d: &mut [f32]) {
        each_segment(
            d.len(),
            [behind(z), behind(d)],
            #[inline(always)]
            |part| {
                let (norm, z) = (self.part(part.clone()), &z[part.clone()]);
                let (terms, d) = (terms.part(part.clone()), &mut d[part]);
                for c in 0..d.len() {
                    d[c] = norm.d_z(c, z[c], d[c], &terms);
                }
            },
        );
    }

    /// Gradient with respect to z in column c.
    #[inline(always)]
    fn d_z(&self, c: usize, z: f32, d_y: f32, terms: &TermsPart<'_>) -> f32 {
        let centred = z - self.mean[c];
        let d = if centred * self.scale[c] + self.bias[c] > 0.0 { d_y } else { 0.0 };
        self.scale[c] * d - terms.constant[c] - centred * terms.slope[c]
    }

    /// ReLU mask of a row: 1 where the ReLU passes z, 0 elsewhere.
    pub fn mask(&self, z: &[f32]) -> impl Iterator<Item = u8> {
        z.iter().enumerate().map(|(c, z)| u8::from((z - self.mean[c]) * self.scale[c] + self.bias[c] > 0.0))
    }
}

/// max(y, 0), keeping NaN.
#[inline(always)]
pub fn relu(y: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { y }
}

/// Terms that the backward of batch norm subtracts, by column.
#[derive(Debug, Default)]
pub struct Terms {
    constant: Vec<f32>,
    slope: Vec<f32>,
}

/// A range of columns of [`Terms`].
#[derive(Clone, Copy, Debug)]
pub struct TermsPart<'a> {
    constant: &'a [f32],
    slope: &'a [f32],
}

impl<'a> TermsPart<'a> {
    /// The terms of a range of these columns.
    #[inline(always)]
    pub fn part(&self, range: Range<usize>) -> Self {
        TermsPart { constant: &self.constant[range.clone()], slope: &self.slope[range] }
    }
}

impl Terms {
    /// The terms of all columns.
    pub fn all(&self) -> TermsPart<'_> {
        TermsPart { constant: &self.constant, slope: &self.slope }
    }
}

/// Two sums per column and chunk.
#[derive(Debug, Default)]
pub struct Partials {
    /// `[chunks, 2, C]` sums of each chunk.
    values: Vec<f32>,
    /// `[C, 2]` sums over the chunks of this rank, then over all ranks.
    merged: Vec<[f64; 2]>,
    /// Ranks whose rows the sums run over.
    pub ranks: Ranks,
}

impl Partials {
    /// Resizes to `rows` rows of `columns` columns, zeroed, and returns one slice per chunk.
    fn chunks(&mut self, rows: usize, columns: usize) -> rayon::slice::ChunksMut<'_, f32> {
        self.values.clear();
        self.values.resize(rows.div_ceil(CHUNK_ROWS) * 2 * columns, 0.0);
        self.values.par_chunks_mut(2 * columns)
    }

    /// Reduces `z [R, C]` to mean and rstd, and updates the running statistics. `prepare` first fills each
    /// chunk of rows; it receives the index of the chunk's first row and the rows.
    pub fn statistics(
        &mut self,
        z: &mut [f32],
        statistics: Statistics<'_>,
        prepare: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let columns = statistics.mean.len();
        let rows = z.len() / columns;
        self.chunks(rows, columns).zip(z.par_chunks_mut(CHUNK_ROWS * columns)).enumerate().for_each(
            |(chunk, (partial, z))| {
                prepare(chunk * CHUNK_ROWS, z);
                let (mean, deviation) = partial.split_at_mut(columns);
                chunk_statistics(z, mean, deviation);
            },
        );
        self.merge_statistics(rows, statistics);
    }

    /// Merges means and squared deviations of the chunks (Chan et al.): `M2 = sum M2_i + sum n_i (mean_i -
    /// mean)^2`.
    fn merge_statistics(&mut self, rows: usize, to: Statistics<'_>) {
        let columns = to.mean.len();
        let count = rows.max(1) as f64;
        let chunk_rows = |chunk: usize| CHUNK_ROWS.min(rows - chunk * CHUNK_ROWS) as f64;
        self.merged.clear();
        self.merged.resize(columns, [0.0; 2]);
        for (chunk, partial) in self.values.chunks_exact(2 * columns).enumerate() {
            for (merged, &mean) in self.merged.iter_mut().zip(partial) {
                merged[0] += chunk_rows(chunk) * f64::from(mean) / count;
            }
        }
        for (chunk, partial) in self.values.chunks_exact(2 * columns).enumerate() {
            let (means, deviations) = partial.split_at(columns);
            for ((merged, &mean), &deviation) in self.merged.iter_mut().zip(means).zip(deviations) {
                let offset = f64::from(mean) - merged[0];
                merged[1] += f64::from(deviation) + chunk_rows(chunk) * offset * offset;
            }
        }
        let rows = self.ranks.merge_statistics(rows, &mut self.merged);
        let count = rows.max(1) as f64;
        let unbiased = rows as f64 / (rows as f64 - 1.0).max(1.0);
        for (c, &[mean, deviation]) in self.merged.iter().enumerate() {
            let variance = deviation / count;
            to.mean[c] = mean as f32;
            to.rstd[c] = (1.0 / (variance + NORM_EPSILON).sqrt()) as f32;
            if rows > 0 {
                let toward = |running: f32, seen: f64| {
                    (f64::from(running) + NORM_MOMENTUM * (seen - f64::from(running))) as f32
                };
                to.running_mean[c] = toward(to.running_mean[c], mean);
                to.running_var[c] = toward(to.running_var[c], variance * unbiased);
            }
        }
    }

    /// Backward sums over `rows` rows. `add` adds a chunk of rows to its sums of d and of d (z - mean).
    /// Writes the gradients of the parameters and the terms to subtract.
    pub fn backward_sums(
        &mut self,
        rows: usize,
        columns: &Columns,
        rstd: &[f32],
        to: BackwardSums<'_>,
        add: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        let width = rstd.len();
        self.chunks(rows, width).enumerate().for_each(|(chunk, partial)| {
            let (sum, product) = partial.split_at_mut(width);
            add(chunk * CHUNK_ROWS, sum, product);
        });
        self.merge_backward(rows, columns, rstd, to);
    }

    /// Like [`Partials::backward_sums`], but first computes the gradient rows in place.
    pub fn backward_sums_of(
        &mut self,
        d_y: &mut [f32],
        columns: &Columns,
        rstd: &[f32],
        to: BackwardSums<'_>,
        make_and_add: impl Fn(usize, &mut [f32], &mut [f32], &mut [f32]) + Sync,
    ) {
        let width = rstd.len();
        let rows = d_y.len() / width;
        self.chunks(rows, width).zip(d_y.par_chunks_mut(CHUNK_ROWS * width)).enumerate().for_each(
            |(chunk, (partial, d_y))| {
                let (sum, product) = partial.split_at_mut(width);
                make_and_add(chunk * CHUNK_ROWS, d_y, sum, product);
            },
        );
        self.merge_backward(rows, columns, rstd, to);
    }

    fn merge_backward(&mut self, rows: usize, columns: &Columns, rstd: &[f32], to: BackwardSums<'_>) {
        let width = rstd.len();
        self.merged.clear();
        self.merged.resize(width, [0.0; 2]);
        for partial in self.values.chunks_exact(2 * width) {
            let (sums, products) = partial.split_at(width);
            for ((merged, &sum), &product) in self.merged.iter_mut().zip(sums).zip(products) {
                merged[0] += f64::from(sum);
                merged[1] += f64::from(product);
            }
        }
        for (c, &[sum, product]) in self.merged.iter().enumerate() {
            to.d_bias[c] = sum as f32;
            to.d_weight[c] = (product * f64::from(rstd[c])) as f32;
        }
        to.terms.constant.clear();
        to.terms.slope.clear();
        if to.batch_statistics {
            let count = self.ranks.sum_columns(rows, &mut self.merged).max(1) as f64;
            for (c, &[sum, product]) in self.merged.iter().enumerate() {
                let (rstd, scale) = (f64::from(rstd[c]), f64::from(columns.scale[c]));
                to.terms.constant.push((scale * sum / count) as f32);
                to.terms.slope.push((scale * rstd * rstd * product / count) as f32);
            }
        }
        to.terms.constant.resize(width, 0.0);
        to.terms.slope.resize(width, 0.0);
    }
}

/// Outputs of [`Partials::statistics`].
pub struct Statistics<'a> {
    /// `[C]` batch mean, overwritten.
    pub mean: &'a mut [f32],
    /// `[C]` 1 / sqrt(batch variance + eps), overwritten.
    pub rstd: &'a mut [f32],
    /// `[C]` running mean, updated.
    pub running_mean: &'a mut [f32],
    /// `[C]` running variance, updated.
    pub running_var: &'a mut [f32],
}

/// Outputs of [`Partials::backward_sums`].
pub struct BackwardSums<'a> {
    /// `[C]` gradient with respect to the weight, over this rank's rows; overwritten.
    pub d_weight: &'a mut [f32],
    /// `[C]` gradient with respect to the bias, over this rank's rows; overwritten.
    pub d_bias: &'a mut [f32],
    /// Terms to subtract; zeros if the statistics are constants.
    pub terms: &'a mut Terms,
    /// Whether the statistics are those of the batch and therefore depend on z.
    pub batch_statistics: bool,
}

/// Means and squared deviations of a chunk's columns, in one pass. Sums are taken around the first row to
/// avoid cancellation.
fn chunk_statistics(z: &[f32], mean: &mut [f32], deviation: &mut [f32]) {
    let columns = mean.len();
    let rows = (z.len() / columns) as f32;
    let (first, rest) = z.split_at(columns);
    for row in rest.chunks_exact(columns) {
        add_around(row, first, mean, deviation);
    }
    for ((mean, deviation), &first) in mean.iter_mut().zip(deviation).zip(first) {
        let offset = *mean / rows;
        *deviation = (*deviation - *mean * offset).max(0.0);
        *mean = first + offset;
    }
}

#[inline]
fn add_around(row: &[f32], around: &[f32], sum: &mut [f32], squares: &mut [f32]) {
    each_segment(
        sum.len(),
        [behind(row)],
        #[inline(always)]
        |part| {
            let (row, around) = (&row[part.clone()], &around[part.clone()]);
            let (sum, squares) = (&mut sum[part.clone()], &mut squares[part]);
            for c in 0..sum.len() {
                let offset = row[c] - around[c];
                sum[c] += offset;
                squares[c] += offset * offset;
            }
        },
    );
}
