//! l2_normalise: rows of relu(norm(z)) at unit length, and their backward (`kernels/l2_normalise.cu`).

use super::batch_norm::{CHUNK_ROWS, Norm, NormGradient};
use super::stored::{StoredElement, stored_kernel, stored_kernels};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Arguments, Device, Grid, check_len, dimension};
use crate::error::Result;

pub(crate) const KERNELS: &[&str] = stored_kernels!["l2_normalise_forward", "l2_normalise_backward"];

/// As in the kernels.
const THREADS: u32 = 128;
const STRIP: usize = 128;
const BACKWARD_THREADS: u32 = 256;

/// `x [R, C] = y / max(|y|, eps)`, `y = relu(norm(z))`.
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
    let arguments = Arguments::default().add(x).add(z).add_norm(norm).add(rows).add(columns).add(stride);
    // SAFETY: as in kernels/l2_normalise.cu; lengths were checked; x is borrowed mutably.
    unsafe {
        device.launch_positional(
            stored_kernel!("l2_normalise_forward", T),
            Grid::rows(rows.bound, THREADS),
            &arguments,
        )
    }
}

/// The gradients of [`l2_normalise_forward`].
pub struct UnitRowsBackward<'a, T> {
    /// `[R, C]` gradient with respect to y, written.
    pub d_y: SliceMut<'a, T>,
    /// `[R, C]` gradient with respect to x.
    pub d_x: Slice<'a, T>,
    /// `[R, C]` input of the batch norm, as in the forward pass.
    pub z: Slice<'a, T>,
    /// `[C]` the batch norm of z.
    pub norm: Norm<'a>,
}

/// Computes `d_y`, and the first part of the backward of y: the same sums over d_y as
/// [`super::batch_norm::batch_norm_backward_sums`].
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
    let arguments = Arguments::default().add(&mut d_y);
    let arguments = arguments.add_norm_gradient(device, Some(gradient), rows.bound, columns)?;
    let arguments = arguments.add(d_x).add(z).add_norm(norm).add(rows).add(columns).add(stride);
    // At least one block for each strip, for what there is without rows.
    let blocks = [columns.div_ceil(STRIP), rows.bound.div_ceil(CHUNK_ROWS).max(1), 1].map(dimension);
    let (kernel, grid) =
        (stored_kernel!("l2_normalise_backward", T), Grid { blocks, threads: [BACKWARD_THREADS, 1, 1] });
    // SAFETY: as in kernels/l2_normalise.cu; lengths were checked, the sums have room; all that is written is borrowed
    // mutably.
    unsafe { device.launch_positional(kernel, grid, &arguments) }
}
