//! l2_normalise: `x = y / max(|y|, eps)`, row by row.

use num_traits::Float;

use crate::backend::L2_EPSILON;

/// Normalises the rows of `y [R, D]` in place.
pub fn l2_normalise<F: Float>(y: &mut [F], width: usize) {
    for row in y.chunks_exact_mut(width) {
        let (norm, _) = divisor(row);
        row.iter_mut().for_each(|value| *value = *value / norm);
    }
}

/// Computes `d_y` from the rows `y [R, D]` before normalisation and `d_x`, the gradient with respect to the
/// normalised rows x: `d_y = (d_x - x (x . d_x)) / |y|`, and `d_x / eps` where |y| < eps.
pub fn l2_normalise_backward<F: Float>(y: &[F], d_x: &[F], width: usize) -> Vec<F> {
    let mut d_y = Vec::with_capacity(y.len());
    for (row, d_row) in y.chunks_exact(width).zip(d_x.chunks_exact(width)) {
        let (norm, clamped) = divisor(row);
        let dot = row.iter().zip(d_row).fold(F::zero(), |sum, (&a, &b)| sum + a / norm * b);
        let along = if clamped { F::zero() } else { dot };
        d_y.extend(row.iter().zip(d_row).map(|(&a, &d)| (d - a / norm * along) / norm));
    }
    d_y
}

/// Returns max(|y|, eps), and whether it is eps.
fn divisor<F: Float>(row: &[F]) -> (F, bool) {
    let epsilon = F::from(L2_EPSILON).expect("a float");
    let norm = row.iter().fold(F::zero(), |sum, &value| sum + value * value).sqrt();
    if norm < epsilon { (epsilon, true) } else { (norm, false) }
}
