//! Whether a kernel is right: it is asked before its time is.

use crate::backend::cuda::device::Device;
use crate::bench::case::{Arrays, Prepared};
use crate::error::Result;

/// Runs a case once on outputs that begin as NaN and gives its error: the largest deviation of an output from what is
/// expected, over the largest magnitude that is expected of it. Infinite where a value is NaN or missing.
///
/// Over the largest magnitude, since a sum that happens to be near zero is as far off as its neighbours.
pub fn largest_error(device: &Device, prepared: &Prepared) -> Result<f64> {
    let mut arrays = Arrays::upload(device, &prepared.host)?;
    (prepared.launch)(device, &mut arrays)?;
    let (got, want) = (arrays.written(device)?, (prepared.expected)(&prepared.host));
    if got.len() != want.len() {
        return Ok(f64::INFINITY);
    }
    Ok(got.iter().zip(&want).map(|(got, want)| deviation(got, want)).fold(0.0, f64::max))
}

fn deviation(got: &[f32], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let scale = want.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    let off = got.iter().zip(want).fold(0.0f64, |most, (&got, &want)| {
        let off = (f64::from(got) - want).abs();
        if off.is_nan() { f64::INFINITY } else { most.max(off) }
    });
    if off == 0.0 { 0.0 } else { off / scale }
}

#[cfg(test)]
mod tests {
    use super::deviation;

    #[test]
    fn deviations_are_over_the_largest_magnitude_and_nan_is_infinite() {
        assert_eq!(deviation(&[1.0, -4.5], &[1.0, -4.0]), 0.125);
        assert_eq!(deviation(&[0.0], &[0.0]), 0.0);
        assert_eq!(deviation(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(deviation(&[f32::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(deviation(&[1.0], &[1.0, 1.0]), f64::INFINITY);
    }
}
