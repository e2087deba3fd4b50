//! Products: their formats, how matrices are given to them, and how far they may be off.

use scenerank::backend::cuda::device::buffer::Buffer;
use scenerank::backend::cuda::launchers::linear::{Format, Matrix, MatrixMut};
use scenerank::backend::cuda::launchers::stored::StoredElement;

use super::{all, all_mut};

/// All of them.
pub const FORMATS: [Format; 3] = [Format::Fp32, Format::Bf16, Format::Bf16x3];

/// What the rounding of operands may move a product of, of the sum of its terms' magnitudes; `made` operands are made on
/// the way of what is stored.
pub fn operand_error(format: Format, made: i32) -> f64 {
    let both = |bits: i32| 2.0 * 2f64.powi(-bits) + 2f64.powi(-2 * bits);
    match format {
        Format::Fp32 => 0.0,
        Format::Bf16 => (1.0 + 2f64.powi(-8)).powi(made) - 1.0,
        // Each operand's rest is at most 2^-17 of it, and the product of the two lows, left out, 2^-16 of the product.
        Format::Bf16x3 => both(17) + 2f64.powi(-16),
    }
}

/// What the additions of `terms` products may, each of an eps of a partial sum: tensor cores may truncate, and the format of
/// two bf16 adds three times a term.
pub fn addition_error(format: Format, terms: usize) -> f64 {
    let additions = if format == Format::Bf16x3 { 3 * terms } else { terms };
    f64::from(f32::EPSILON) * (additions as f64 + 4.0)
}

/// An error where a product is stored, which in bf16 rounds it once more.
pub fn stored_error(format: Format, error: f64) -> f64 {
    if format == Format::Bf16 { error + 2f64.powi(-8) * (1.0 + error) } else { error }
}

/// Panics where `got` is further from `want` than `error` of `magnitude`, value by value (NaN is).
#[track_caller]
pub fn assert_near(name: &str, got: &[f32], want: &[f64], magnitude: &[f64], error: f64) {
    assert_eq!(got.len(), want.len(), "{name}: length");
    for (i, (&got, (want, magnitude))) in got.iter().zip(want.iter().zip(magnitude)).enumerate() {
        let (off, limit) = ((f64::from(got) - want).abs(), error * magnitude);
        assert!(
            off <= limit,
            "{name}[{i}]: {got} where {want} is expected: off by {off:.3e}, limit {limit:.3e}"
        );
    }
}

/// All of a buffer.
pub fn matrix<T: StoredElement>(buffer: &Buffer<T>, rows: usize, columns: usize) -> Matrix<'_, T> {
    Matrix::new(all(buffer), rows, columns)
}

/// All of a buffer, to write.
pub fn matrix_mut<T: StoredElement>(buffer: &mut Buffer<T>, rows: usize, columns: usize) -> MatrixMut<'_, T> {
    MatrixMut::new(all_mut(buffer), rows, columns)
}

/// Of each value.
pub fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.abs()).collect()
}
