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

/// `d_y [R, C]` of `d_x [R, C]`, with z as forward had it; and the first part of the backward of y, as
/// [`super::batch_norm::batch_norm_backward_sums`] of d_y.
pub fn l2_normalise_backward<T: StoredElement>(
    device: &Device,
    d_y: &mut SliceMut<'_, T>,
    gradient: NormGradient<'_>,
    d_x: Slice<'_, T>,
    z: Slice<'_, T>,
    norm: Norm<'_>,
    rows: Rows<'_>,
) -> Result<()> {
    let columns = norm.mean.len();
    norm.check(columns);
    let stride = T::stride(columns);
    check_len("l2_normalise_backward: d_y", d_y.len(), rows.bound * stride);
    check_len("l2_normalise_backward: d_x", d_x.len(), rows.bound * stride);
    check_len("l2_normalise_backward: z", z.len(), rows.bound * stride);
    let arguments = Arguments::default().add(d_y);
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
