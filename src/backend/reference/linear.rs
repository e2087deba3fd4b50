//! linear: `y = x W^T`, without bias.

use num_traits::Float;

/// `y [R, outputs] = x W^T` of `x [R, inputs]` and `weight [outputs, inputs]`.
pub fn linear<F: Float>(x: &[F], weight: &[F], inputs: usize, outputs: usize) -> Vec<F> {
    let mut y = Vec::with_capacity(x.len() / inputs * outputs);
    for row in x.chunks_exact(inputs) {
        for weight_row in weight.chunks_exact(inputs) {
            y.push(row.iter().zip(weight_row).fold(F::zero(), |sum, (&a, &b)| sum + a * b));
        }
    }
    y
}

/// `d_x [R, inputs] = d_y W`.
pub fn linear_backward_input<F: Float>(d_y: &[F], weight: &[F], inputs: usize, outputs: usize) -> Vec<F> {
    let mut d_x = vec![F::zero(); d_y.len() / outputs * inputs];
    for (d_row, row) in d_y.chunks_exact(outputs).zip(d_x.chunks_exact_mut(inputs)) {
        for (&d, weight_row) in d_row.iter().zip(weight.chunks_exact(inputs)) {
            for (x, &w) in row.iter_mut().zip(weight_row) {
                *x = *x + d * w;
            }
        }
    }
    d_x
}

/// `d_weight [outputs, inputs] = d_y^T x`.
pub fn linear_backward_weight<F: Float>(
    d_y: &[F],
    x: &[F],
    inputs: usize,
    outputs: usize,
    d_weight: &mut [F],
) {
    d_weight.fill(F::zero());
    for (d_row, row) in d_y.chunks_exact(outputs).zip(x.chunks_exact(inputs)) {
        for (&d, weight_row) in d_row.iter().zip(d_weight.chunks_exact_mut(inputs)) {
            for (w, &a) in weight_row.iter_mut().zip(row) {
                *w = *w + d * a;
            }
        }
    }
}
