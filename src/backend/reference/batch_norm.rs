//! batch_norm: batch normalisation of columns (normalise, scale, shift), followed by ReLU.
//!
//! `xhat = (z - mean) rstd`, `rstd = 1 / sqrt(variance + eps)`, `norm(z) = weight xhat + bias`. The variance
//! is biased; the running variance uses the unbiased one. Without rows the running statistics do not change.
//! With a single row the unbiased variance does not exist, and the running variance uses the biased one, 0.

use num_traits::Float;

use crate::backend::{NORM_EPSILON, NORM_MOMENTUM};

/// Batch norm of a block, by column.
#[derive(Clone, Copy)]
pub struct Norm<'a, F> {
    /// `[C]` weight.
    pub weight: &'a [F],
    /// `[C]` bias.
    pub bias: &'a [F],
    /// `[C]` mean.
    pub mean: &'a [F],
    /// `[C]` 1 / sqrt(variance + eps).
    pub rstd: &'a [F],
}

impl<F: Float> Norm<'_, F> {
    /// norm(z) in column `c`.
    pub fn apply(&self, z: F, c: usize) -> F {
        (z - self.mean[c]) * self.rstd[c] * self.weight[c] + self.bias[c]
    }

    /// relu(norm(z)) in column `c`.
    pub fn relu(&self, z: F, c: usize) -> F {
        let y = self.apply(z, c);
        // Keeps NaN, which `max` would drop.
        if y <= F::zero() { F::zero() } else { y }
    }

    /// relu(norm(z)) of all `z [R, C]`.
    pub fn relu_rows(&self, z: &[F]) -> Vec<F> {
        let columns = self.weight.len();
        z.iter().enumerate().map(|(i, &value)| self.relu(value, i % columns)).collect()
    }
}

/// Computes the statistics of `z [R, C]` into `mean` and `rstd`, and updates the running statistics.
pub fn train_statistics<F: Float>(
    z: &[F],
    mean: &mut [F],
    rstd: &mut [F],
    running_mean: &mut [F],
    running_var: &mut [F],
) {
    let constant = |value: f64| F::from(value).expect("a float");
    let columns = mean.len();
    let rows = z.len() / columns;
    let count = constant(rows.max(1) as f64);
    let unbiased = constant(rows as f64 / (rows as f64 - 1.0).max(1.0));
    let momentum = constant(NORM_MOMENTUM);
    for c in 0..columns {
        let column = || z.iter().skip(c).step_by(columns);
        let m = column().fold(F::zero(), |sum, &v| sum + v) / count;
        let variance = column().fold(F::zero(), |sum, &v| sum + (v - m) * (v - m)) / count;
        mean[c] = m;
        rstd[c] = F::one() / (variance + constant(NORM_EPSILON)).sqrt();
        if rows > 0 {
            running_mean[c] = running_mean[c] + momentum * (m - running_mean[c]);
            running_var[c] = running_var[c] + momentum * (variance * unbiased - running_var[c]);
        }
    }
}

/// Without batch norm: mean 0 and rstd 1, the identity.
pub fn no_statistics<F: Float>(mean: &mut [F], rstd: &mut [F]) {
    mean.fill(F::zero());
    rstd.fill(F::one());
}

/// Writes the running statistics to `mean` and `rstd`.
pub fn running_statistics<F: Float>(running_mean: &[F], running_var: &[F], mean: &mut [F], rstd: &mut [F]) {
    let epsilon = F::from(NORM_EPSILON).expect("a float");
    mean.copy_from_slice(running_mean);
    for (r, &variance) in rstd.iter_mut().zip(running_var) {
        *r = F::one() / (variance + epsilon).sqrt();
    }
}

/// Backward of relu(norm(z)): overwrites `d_y [R, C]`, the gradient with respect to its output, with `d_z`.
///
/// With `d = d_y` where the ReLU passed and 0 elsewhere: `d_bias = sum d`, `d_weight = sum d xhat`. If the
/// statistics are those of the batch, they depend on z: `d_z = weight rstd (d - d_bias / R - xhat d_weight /
/// R)`. If they are constants, `d_z = weight rstd d`.
pub fn batch_norm_backward<F: Float>(
    z: &[F],
    norm: Norm<'_, F>,
    batch_statistics: bool,
    d_y: &mut [F],
    d_weight: &mut [F],
    d_bias: &mut [F],
) {
    let columns = norm.weight.len();
    let rows = F::from((z.len() / columns).max(1)).expect("a float");
    for c in 0..columns {
        let (mut sum, mut sum_xhat) = (F::zero(), F::zero());
        for i in (c..z.len()).step_by(columns) {
            if norm.relu(z[i], c) == F::zero() {
                d_y[i] = F::zero();
            }
            sum = sum + d_y[i];
            sum_xhat = sum_xhat + d_y[i] * (z[i] - norm.mean[c]) * norm.rstd[c];
        }
        let (mean_d, mean_d_xhat) = match batch_statistics {
            true => (sum / rows, sum_xhat / rows),
            false => (F::zero(), F::zero()),
        };
        for i in (c..z.len()).step_by(columns) {
            let xhat = (z[i] - norm.mean[c]) * norm.rstd[c];
            d_y[i] = norm.weight[c] * norm.rstd[c] * (d_y[i] - mean_d - xhat * mean_d_xhat);
        }
        d_weight[c] = sum_xhat;
        d_bias[c] = sum;
    }
}
