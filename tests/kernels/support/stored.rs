//! Matrices as kernels store them, in either element type.
//!
//! Their padding holds NaN, and so do rows beyond those that there are: no kernel may use either, nor write them.

use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::device::buffer::Buffer;
use scenerank::backend::cuda::launchers::stored::StoredElement;

use super::to_device;

/// What is left of `values` where they are stored: what a reference reads.
pub fn rounded<T: StoredElement>(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|value| T::narrow(value).widen()).collect()
}

/// `values [R, columns]`, which T holds exactly, and room for `spare` rows more.
pub fn stored<T: StoredElement>(device: &Device, values: &[f32], columns: usize, spare: usize) -> Buffer<T> {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    let stride = T::stride(columns);
    let mut padded = vec![T::narrow(f32::NAN); (rows + spare) * stride];
    for row in 0..rows {
        for (to, &value) in padded[row * stride..].iter_mut().zip(&values[row * columns..][..columns]) {
            *to = T::narrow(value);
            assert_eq!(to.widen().to_bits(), value.to_bits(), "a value that is rounded already");
        }
    }
    to_device(device, &padded)
}

/// Rows that a kernel must write.
pub fn unwritten<T: StoredElement>(device: &Device, rows: usize, columns: usize) -> Buffer<T> {
    to_device(device, &vec![T::narrow(f32::NAN); rows * T::stride(columns)])
}

/// The first `rows` rows, dense; nothing was written between them nor beyond.
#[track_caller]
pub fn stored_to_host<T: StoredElement>(
    device: &Device,
    buffer: &Buffer<T>,
    rows: usize,
    columns: usize,
) -> Vec<f32> {
    let values = device.download(buffer, 0..buffer.len()).expect("a download");
    let stride = T::stride(columns).max(1);
    let untouched = T::narrow(f32::NAN).widen().to_bits();
    for (at, value) in values.iter().enumerate() {
        let inside = at / stride < rows && at % stride < columns;
        assert!(inside || value.widen().to_bits() == untouched, "value {at} was written: {}", value.widen());
    }
    T::dense(&values[..rows * T::stride(columns)], columns)
}
