//! Gradients by central differences: `(f(x + h) - f(x - h)) / 2 h`, coordinate by coordinate.
//!
//! What is differenced is the reference's forward in double precision. A kernel's own output in single precision would
//! leave 6e-8 / h of noise against an error of h^2 f''' / 6, three digits at the best h; the reference leaves eight. The
//! chain is closed by the tests that compare the forward kernels with that reference.

/// Rounding leaves 1e-16 f / h = 1e-11 f, the third derivative 2e-11 f''': for values and derivatives below 100 less than
/// 1e-8, far below what single precision resolves.
const STEP: f64 = 1e-5;

/// The gradient of `f` at `x`.
pub fn central_differences(x: &[f64], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let above = f(&x);
            x[i] = at - STEP;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// `weights . values`: a scalar. Its gradient with respect to the values is the weights, as a backward kernel receives it.
pub fn weighted_sum(weights: &[f64], values: &[f64]) -> f64 {
    assert_eq!(weights.len(), values.len());
    weights.iter().zip(values).map(|(weight, value)| weight * value).sum()
}
