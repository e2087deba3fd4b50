//! l2_normalise: scales the rows of relu(norm(z)) to unit length, and its backward
//! (`kernels/l2_normalise.cu`).

use half::bf16;

use super::batch_norm::{COLUMNS_EACH, Norm, NormGradient, STRIP_THREADS, strips};
use super::norm_arguments::{NormArguments, NormGradientArguments};
use super::stored::{StoredElement, stored_kernel};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;

kernel_arguments! {
    struct L2NormaliseForward<T> {
        /// `[R, columns]` rows of unit length, overwritten.
        x: PointerMut<T>,
        /// `[R, columns]` input of the batch norm.
        z: Pointer<T>,
        norm: NormArguments,
        /// `[1]` number of rows R.
        row_count: Pointer<i32>,
        columns: i32,
        stride: i32,
    }

    struct L2NormaliseBackward<T> {
        /// `[R, columns]` gradient with respect to relu(norm(z)), overwritten.
        d_y: PointerMut<T>,
        /// `[R, columns]` gradient with respect to x.
        d_x: Pointer<T>,
        /// `[R, columns]` input of the batch norm.
        z: Pointer<T>,
        norm: NormArguments,
        gradient: NormGradientArguments,
        /// `[1]` number of rows R.
        row_count: Pointer<i32>,
        columns: i32,
        stride: i32,
    }
}

/// Threads per block, and columns of a strip, as in the kernels.
const THREADS: u32 = 128;

impl<T: StoredElement> L2NormaliseForward<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("l2_normalise_forward", T), [THREADS, 1, 1]);
}

impl<T: StoredElement> L2NormaliseBackward<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("l2_normalise_backward", T), STRIP_THREADS);
}

/// Kernels of `kernels/l2_normalise.cu`.
pub(crate) const FILE: KernelFile = KernelFile {
    name: "l2_normalise",
    kernels: &[
        L2NormaliseForward::<f32>::KERNEL.info(),
        L2NormaliseForward::<bf16>::KERNEL.info(),
        L2NormaliseBackward::<f32>::KERNEL.info(),
        L2NormaliseBackward::<bf16>::KERNEL.info(),
    ],
};

/// Writes `x [R, C] = y / max(|y|, eps)`, where `y = relu(norm(z))`.
pub fn l2_normalise_forward<T: StoredElement>(
    device: &Device,
    x: &mut SliceMut<'_, T>,
    z: Slice<'_, T>,
    norm: Norm<'_>,
    rows: Rows<'_>,
) -> Result<()> {
    let columns = norm.mean.len();
    norm.check(columns);
    let stride = T::stride(columns);
    check_len("l2_normalise_forward: x", x.len(), rows.bound * stride);
    check_len("l2_normalise_forward: z", z.len(), rows.bound * stride);
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = L2NormaliseForward {
        x: x.into(),
        z: z.into(),
        norm: norm.into(),
        row_count: rows.into(),
        columns: int(columns),
        stride: int(stride),
    };
    // SAFETY: lengths were checked; only x is written, which is borrowed mutably.
    unsafe { device.launch(&L2NormaliseForward::KERNEL, Blocks::rows(rows.bound), &arguments) }
}

/// Gradients of [`l2_normalise_forward`].
pub struct UnitRowsBackward<'a, T> {
    /// `[R, C]` gradient with respect to y, overwritten.
    pub d_y: SliceMut<'a, T>,
    /// `[R, C]` gradient with respect to x.
    pub d_x: Slice<'a, T>,
    /// `[R, C]` input of the batch norm, as in the forward pass.
    pub z: Slice<'a, T>,
    /// `[C]` batch norm of z.
    pub norm: Norm<'a>,
}

/// Computes `d_y`, and the first part of the backward of y: the sums of
/// [`super::batch_norm::batch_norm_backward_sums`] over d_y.
pub fn l2_normalise_backward<T: StoredElement>(
    device: &Device,
    of: UnitRowsBackward<'_, T>,
    gradient: NormGradient<'_>,
    rows: Rows<'_>,
) -> Result<()> {
    let UnitRowsBackward { mut d_y, d_x, z, norm } = of;
    let columns = norm.mean.len();
    norm.check(columns);
    let stride = T::stride(columns);
    check_len("l2_normalise_backward: d_y", d_y.len(), rows.bound * stride);
    check_len("l2_normalise_backward: d_x", d_x.len(), rows.bound * stride);
    check_len("l2_normalise_backward: z", z.len(), rows.bound * stride);
    let arguments = L2NormaliseBackward {
        d_y: (&mut d_y).into(),
        d_x: d_x.into(),
        z: z.into(),
        norm: norm.into(),
        gradient: NormGradientArguments::new(device, Some(gradient), norm, rows.bound)?,
        row_count: rows.into(),
        columns: int(columns),
        stride: int(stride),
    };
    // At least one block per strip, since the sums must be written even without rows.
    let blocks = strips(rows.bound, columns.div_ceil(COLUMNS_EACH));
    // SAFETY: lengths were checked, and the sums have room; all that is written is borrowed mutably.
    unsafe { device.launch(&L2NormaliseBackward::KERNEL, blocks, &arguments) }
}
