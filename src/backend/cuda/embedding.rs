//! embedding: rows of a table by type, and the table's gradient (`kernels/embedding.cu`).

use super::buffer::{Slice, SliceMut};
use super::device::{Device, Grid, check_len};
use crate::error::Result;

pub(super) const KERNELS: &[&str] = &["embedding_forward", "embedding_backward"];

const THREADS: u32 = 128;

/// `rows [U, D]`: the rows of `table [V, D]` of `types [U]`, which lie below V.
pub fn embedding_forward(
    device: &Device,
    rows: &mut SliceMut<'_, f32>,
    table: Slice<'_, f32>,
    types: Slice<'_, i32>,
    width: usize,
) -> Result<()> {
    check_len("embedding_forward: rows", rows.len(), types.len() * width);
    if types.is_empty() {
        return Ok(());
    }
    let arguments = [rows.into(), table.into(), types.into(), width.into()];
    // SAFETY: as in kernels/embedding.cu; a batch's types lie below the vocabulary's size; rows is borrowed mutably.
    unsafe { device.launch("embedding_forward", Grid::rows(types.len(), THREADS), &arguments) }
}

/// `d_table [V, D]`, written whole: `d_rows [U, D]` at the rows `types [U]`, each named once, and zeros elsewhere.
pub fn embedding_backward(
    device: &Device,
    mut d_table: SliceMut<'_, f32>,
    d_rows: Slice<'_, f32>,
    types: Slice<'_, i32>,
    width: usize,
) -> Result<()> {
    check_len("embedding_backward: d_rows", d_rows.len(), types.len() * width);
    let whole = d_table.len();
    device.zero(d_table.slice_mut(0..whole))?;
    if types.is_empty() {
        return Ok(());
    }
    let arguments = [(&mut d_table).into(), d_rows.into(), types.into(), width.into()];
    // SAFETY: as in kernels/embedding.cu; a batch's types lie below the vocabulary's size; d_table is borrowed mutably.
    unsafe { device.launch("embedding_backward", Grid::rows(types.len(), THREADS), &arguments) }
}
