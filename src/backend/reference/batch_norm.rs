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

fn constant<F: Float>(value: f64) -> F {
    F::from(value).expect("a float")
}

/// Mean, and sum of squared deviations from it, of each column of `z [R, C]`.
pub fn column_statistics<F: Float>(z: &[F], columns: usize) -> Vec<[F; 2]> {
    let count = constant((z.len() / columns).max(1) as f64);
    let of_column = |c: usize| {
        let column = || z.iter().skip(c).step_by(columns);
        let mean = column().fold(F::zero(), |sum, &v| sum + v) / count;
        [mean, column().fold(F::zero(), |sum, &v| sum + (v - mean) * (v - mean))]
    };
    (0..columns).map(of_column).collect()
}

/// Writes the statistics of [`column_statistics`] over `rows` rows to `mean` and `rstd`, and updates the running statistics.
pub fn set_statistics<F: Float>(
    rows: usize,
    statistics: &[[F; 2]],
    [mean, rstd]: [&mut [F]; 2],
    [running_mean, running_var]: [&mut [F]; 2],
) {
    let count = constant::<F>(rows.max(1) as f64);
    let unbiased = constant::<F>(rows as f64 / (rows as f64 - 1.0).max(1.0));
    let momentum = constant::<F>(NORM_MOMENTUM);
    for (c, &[m, deviation]) in statistics.iter().enumerate() {
        let variance = deviation / count;
        mean[c] = m;
        rstd[c] = F::one() / (variance + constant(NORM_EPSILON)).sqrt();
        if rows > 0 {
            running_mean[c] = running_mean[c] + momentum * (m - running_mean[c]);
            running_var[c] = running_var[c] + momentum * (variance * unbiased - running_var[c]);
        }
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
    let columns = mean.len();
    let statistics = column_statistics(z, columns);
    set_statistics(z.len() / columns, &statistics, [mean, rstd], [running_mean, running_var]);
}

/// Without batch norm: mean 0 and rstd 1, the identity.
pub fn no_statistics<F: Float>(mean: &mut [F], rstd: &mut [F]) {
    mean.fill(F::zero());
    rstd.fill(F::one());
}

/// Writes the running statistics to `mean` and `rstd`.
pub fn running_statistics<F: Float>(running_mean: &[F], running_var: &[F], mean: &mut [F], rstd: &mut [F]) {
    let epsilon = constant(NORM_EPSILON);
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
    let sums = backward_sums(z, norm, d_y);
    backward_rows(z, norm, batch_statistics.then_some((z.len() / norm.weight.len(), &sums)), d_y);
    for (c, [sum, sum_xhat]) in sums.into_iter().enumerate() {
        d_weight[c] = sum_xhat;
        d_bias[c] = sum;
    }
}

/// First part of [`batch_norm_backward`]: sets `d_y` to 0 where the ReLU did not pass, and returns the sums of d and of d xhat
/// of each column.
pub fn backward_sums<F: Float>(z: &[F], norm: Norm<'_, F>, d_y: &mut [F]) -> Vec<[F; 2]> {
    let columns = norm.weight.len();
    let mut of_column = |c: usize| {
        let (mut sum, mut sum_xhat) = (F::zero(), F::zero());
        for i in (c..z.len()).step_by(columns) {
            if norm.relu(z[i], c) == F::zero() {
                d_y[i] = F::zero();
            }
            sum = sum + d_y[i];
            sum_xhat = sum_xhat + d_y[i] * (z[i] - norm.mean[c]) * norm.rstd[c];
        }
        [sum, sum_xhat]
    };
    (0..columns).map(&mut of_column).collect()
}

/// Second part of [`batch_norm_backward`]: overwrites `d` with `d_z`. `batch` has the number of rows of the statistics and the
/// sums over them; `None` if the statistics are constants.
pub fn backward_rows<F: Float>(
    z: &[F],
    norm: Norm<'_, F>,
    batch: Option<(usize, &Vec<[F; 2]>)>,
    d: &mut [F],
) {
    let columns = norm.weight.len();
    for c in 0..columns {
        let [mean_d, mean_d_xhat] = match batch {
            Some((rows, sums)) => sums[c].map(|sum| sum / constant(rows.max(1) as f64)),
            None => [F::zero(); 2],
        };
        for i in (c..z.len()).step_by(columns) {
            let xhat = (z[i] - norm.mean[c]) * norm.rstd[c];
            d[i] = norm.weight[c] * norm.rstd[c] * (d[i] - mean_d - xhat * mean_d_xhat);
        }
    }
}
