//! l2_normalise: rows of relu(norm(z)) at unit length, and their backward (`kernels/l2_normalise.cu`).

use super::batch_norm::Norm;
use super::buffer::{Slice, SliceMut};
use super::device::{Arguments, Device, Grid, check_len};
use super::rows::Rows;
use crate::error::Result;

pub(super) const KERNELS: &[&str] = &["l2_normalise_forward", "l2_normalise_backward"];

/// As in the kernel.
const THREADS: u32 = 128;

/// `x [R, C] = y / max(|y|, eps)`, `y = relu(norm(z))`.
pub fn l2_normalise_forward(
    device: &Device,
    x: &mut SliceMut<'_, f32>,
    z: Slice<'_, f32>,
    norm: Norm<'_>,
    rows: Rows<'_>,
) -> Result<()> {
    let columns = norm.mean.len();
    norm.check(columns);
    check_len("l2_normalise_forward: x", x.len(), rows.bound * columns);
    check_len("l2_normalise_forward: z", z.len(), rows.bound * columns);
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = Arguments::default().add(x).add(z).add_norm(norm).add(rows).add(columns);
    // SAFETY: as in kernels/l2_normalise.cu; lengths were checked; x is borrowed mutably.
    unsafe { device.launch("l2_normalise_forward", Grid::rows(rows.bound, THREADS), &arguments) }
}

/// `d_y [R, C]` of `d_x [R, C]`, with x and z as forward had them.
pub fn l2_normalise_backward(
    device: &Device,
    d_y: &mut SliceMut<'_, f32>,
    d_x: Slice<'_, f32>,
    x: Slice<'_, f32>,
    z: Slice<'_, f32>,
    norm: Norm<'_>,
    rows: Rows<'_>,
) -> Result<()> {
    let columns = norm.mean.len();
    norm.check(columns);
    check_len("l2_normalise_backward: d_y", d_y.len(), rows.bound * columns);
    for (name, slice) in [("d_x", d_x), ("x", x), ("z", z)] {
        check_len(name, slice.len(), rows.bound * columns);
    }
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments =
        Arguments::default().add(d_y).add(d_x).add(x).add(z).add_norm(norm).add(rows).add(columns);
    // SAFETY: as in kernels/l2_normalise.cu; lengths were checked; d_y is borrowed mutably.
    unsafe { device.launch("l2_normalise_backward", Grid::rows(rows.bound, THREADS), &arguments) }
}
