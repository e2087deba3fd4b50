//! Element types in which activations and their gradients are stored between kernels (`kernels/stored.cuh`).
//!
//! Kernels compute in single precision and round once, to nearest even, when they store. Rows of bf16 are
//! padded to a multiple of 16 bytes; the padding may hold anything.

use half::bf16;

use crate::backend::cuda::device::buffer::{Buffer, Element, Slice, SliceMut};

/// Element type of stored activations: `f32` or `bf16`.
pub trait StoredElement: Element {
    /// Rows begin at multiples of this number of values.
    const ROW_MULTIPLE: usize;
    /// Whether products read a copy of the weights in this type ([`super::weight_copy`]) instead of the
    /// parameters.
    const PRODUCTS_READ_COPY: bool;

    /// Largest relative error of one rounding.
    const ROUNDING: f64;

    /// Stride of rows of `columns` values.
    fn stride(columns: usize) -> usize {
        columns.next_multiple_of(Self::ROW_MULTIPLE)
    }

    /// Whether stored rows may begin at this column.
    fn begins_row(column: usize) -> bool {
        column.is_multiple_of(Self::ROW_MULTIPLE)
    }

    /// Whether this is `bf16`; kernel names end in `_bf16` or `_f32`.
    const IS_BF16: bool;

    /// Calls whichever of the two functions returns values of this type.
    fn choose<'a>(
        single: impl FnOnce() -> Slice<'a, f32>,
        half: impl FnOnce() -> Slice<'a, bf16>,
    ) -> Slice<'a, Self>;

    /// Rounds a value to nearest even.
    fn narrow(value: f32) -> Self;

    /// Converts a value to single precision, exactly.
    fn widen(self) -> f32;

    /// Converts `values [rows, columns]` to stored form, with zeros as padding.
    fn padded(values: &[f32], columns: usize) -> Vec<Self> {
        let padding = std::iter::repeat_n(Self::narrow(0.0), Self::stride(columns) - columns);
        let rows = values.chunks_exact(columns.max(1));
        rows.flat_map(|row| row.iter().map(|&value| Self::narrow(value)).chain(padding.clone())).collect()
    }

    /// Removes the padding from stored rows.
    fn dense(stored: &[Self], columns: usize) -> Vec<f32> {
        let rows = stored.chunks_exact(Self::stride(columns).max(1));
        rows.flat_map(|row| row[..columns].iter().map(|&value| value.widen())).collect()
    }
}

impl<T: StoredElement> Buffer<T> {
    /// First `rows` rows of a stored matrix with `columns` columns.
    #[track_caller]
    pub fn rows(&self, rows: usize, columns: usize) -> Slice<'_, T> {
        self.slice(0..rows * T::stride(columns))
    }

    /// First `rows` rows of a stored matrix, for writing.
    #[track_caller]
    pub fn rows_mut(&mut self, rows: usize, columns: usize) -> SliceMut<'_, T> {
        self.slice_mut(0..rows * T::stride(columns))
    }
}

impl StoredElement for f32 {
    const ROW_MULTIPLE: usize = 1;
    const PRODUCTS_READ_COPY: bool = false;
    const IS_BF16: bool = false;
    const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

    fn choose<'a>(
        single: impl FnOnce() -> Slice<'a, f32>,
        _: impl FnOnce() -> Slice<'a, bf16>,
    ) -> Slice<'a, f32> {
        single()
    }

    fn narrow(value: f32) -> f32 {
        value
    }

    fn widen(self) -> f32 {
        self
    }
}

impl StoredElement for bf16 {
    const ROW_MULTIPLE: usize = 8;
    const PRODUCTS_READ_COPY: bool = true;
    const IS_BF16: bool = true;
    const ROUNDING: f64 = 1.0 / 256.0;

    fn choose<'a>(
        _: impl FnOnce() -> Slice<'a, f32>,
        half: impl FnOnce() -> Slice<'a, bf16>,
    ) -> Slice<'a, bf16> {
        half()
    }

    fn narrow(value: f32) -> bf16 {
        bf16::from_f32(value)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Name of a kernel for one of the two element types, as a constant.
macro_rules! stored_kernel {
    ($name:literal, $element:ty) => {
        if <$element as $crate::backend::cuda::launchers::stored::StoredElement>::IS_BF16 {
            concat!($name, "_bf16")
        } else {
            concat!($name, "_f32")
        }
    };
}

pub(crate) use stored_kernel;
