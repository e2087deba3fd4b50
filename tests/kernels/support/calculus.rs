//! Gradients by central differences: `(f(x + h) - f(x - h)) / 2 h`, coordinate by coordinate.
//!
//! f is the reference's forward in double precision. A kernel's output in single precision would add noise of 6e-8 / h
//! to an error of h^2 f''' / 6: three correct digits at the best h. The reference gives eight. Other tests compare the
//! forward kernels with that reference.

/// Step. Rounding adds an error of 1e-16 f / h = 1e-11 f, and the third derivative one of 2e-11 f'''. For values and
/// derivatives below 100 that is less than 1e-8, far below the resolution of single precision.
const STEP: f64 = 1e-5;

/// Gradient of `f` at `x`.
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

/// Scalar `weights . values`. Its gradient with respect to the values is `weights`, which a backward kernel receives.
pub fn weighted_sum(weights: &[f64], values: &[f64]) -> f64 {
    assert_eq!(weights.len(), values.len());
    weights.iter().zip(values).map(|(weight, value)| weight * value).sum()
}
