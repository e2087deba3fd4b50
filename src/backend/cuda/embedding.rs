//! embedding: rows of a table by type, and the table's gradient (`kernels/embedding.cu`).

use super::buffer::{Slice, SliceMut};
use super::device::{Device, Grid, check_len};
use super::rows::Rows;
use crate::error::Result;

pub(super) const KERNELS: &[&str] = &["embedding_forward", "embedding_backward"];

const THREADS: u32 = 128;

/// `to [U, D]`: the rows of `table [V, D]` of `types [U]`, which lie below V; `rows` are U.
pub fn embedding_forward(
    device: &Device,
    to: &mut SliceMut<'_, f32>,
    table: Slice<'_, f32>,
    types: Slice<'_, i32>,
    rows: Rows<'_>,
    width: usize,
) -> Result<()> {
    check_len("embedding_forward: to", to.len(), rows.bound * width);
    check_len("embedding_forward: types", types.len(), rows.bound);
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = [to.into(), table.into(), types.into(), rows.into(), width.into()];
    // SAFETY: as in kernels/embedding.cu; a batch's types lie below the vocabulary's size; `to` is borrowed mutably.
    unsafe { device.launch("embedding_forward", Grid::rows(rows.bound, THREADS), &arguments) }
}

/// `d_table [V, D]`, written whole: `d_rows [U, D]` at the rows `types [U]`, each named once, and zeros elsewhere.
pub fn embedding_backward(
    device: &Device,
    mut d_table: SliceMut<'_, f32>,
    d_rows: Slice<'_, f32>,
    types: Slice<'_, i32>,
    rows: Rows<'_>,
    width: usize,
) -> Result<()> {
    check_len("embedding_backward: d_rows", d_rows.len(), rows.bound * width);
    check_len("embedding_backward: types", types.len(), rows.bound);
    let whole = d_table.len();
    device.zero(d_table.slice_mut(0..whole))?;
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = [(&mut d_table).into(), d_rows.into(), types.into(), rows.into(), width.into()];
    // SAFETY: as in kernels/embedding.cu; a batch's types lie below the vocabulary's size; d_table is borrowed mutably.
    unsafe { device.launch("embedding_backward", Grid::rows(rows.bound, THREADS), &arguments) }
}
