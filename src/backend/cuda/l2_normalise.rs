//! l2_normalise: rows of relu(norm(z)) at unit length, and their backward (`kernels/l2_normalise.cu`).

use super::batch_norm::Norm;
use super::buffer::{Slice, SliceMut};
use super::device::{Arguments, Device, Grid, check_len};
use super::rows::Rows;
use super::stored::{StoredElement, stored_kernel, stored_kernels};
use crate::error::Result;

pub(super) const KERNELS: &[&str] = stored_kernels!["l2_normalise_forward", "l2_normalise_backward"];

/// As in the kernel.
const THREADS: u32 = 128;

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
        device.launch(stored_kernel!("l2_normalise_forward", T), Grid::rows(rows.bound, THREADS), &arguments)
    }
}

/// `d_y [R, C]` of `d_x [R, C]`, with z as forward had it.
pub fn l2_normalise_backward<T: StoredElement>(
    device: &Device,
    d_y: &mut SliceMut<'_, T>,
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
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments =
        Arguments::default().add(d_y).add(d_x).add(z).add_norm(norm).add(rows).add(columns).add(stride);
    // SAFETY: as in kernels/l2_normalise.cu; lengths were checked; d_y is borrowed mutably.
    unsafe {
        device.launch(stored_kernel!("l2_normalise_backward", T), Grid::rows(rows.bound, THREADS), &arguments)
    }
}
