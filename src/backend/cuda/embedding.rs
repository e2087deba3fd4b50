//! embedding: rows of a table by type, and the table's gradient (`kernels/embedding.cu`).

use super::buffer::{Slice, SliceMut};
use super::device::{Device, Grid, check_len};
use super::rows::Rows;
use super::stored::{StoredElement, stored_kernel, stored_kernels};
use crate::error::Result;

pub(super) const KERNELS: &[&str] = stored_kernels!["embedding_forward", "embedding_backward"];

const THREADS: u32 = 128;

/// `to [U, D]`: the rows of `table [V, D]` of `types [U]`, which lie below V; `rows` are U.
pub fn embedding_forward<T: StoredElement>(
    device: &Device,
    to: &mut SliceMut<'_, T>,
    table: Slice<'_, f32>,
    types: Slice<'_, i32>,
    rows: Rows<'_>,
    width: usize,
) -> Result<()> {
    check_len("embedding_forward: to", to.len(), rows.bound * T::stride(width));
    check_len("embedding_forward: types", types.len(), rows.bound);
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments =
        [to.into(), table.into(), types.into(), rows.into(), width.into(), T::stride(width).into()];
    // SAFETY: as in kernels/embedding.cu; a batch's types lie below the vocabulary's size; `to` is borrowed mutably.
    unsafe {
        device.launch(stored_kernel!("embedding_forward", T), Grid::rows(rows.bound, THREADS), &arguments)
    }
}

/// `d_table [V, D]`, written whole: `d_rows [U, D]` at the rows `types [U]`, each named once, and zeros elsewhere.
pub fn embedding_backward<T: StoredElement>(
    device: &Device,
    mut d_table: SliceMut<'_, f32>,
    d_rows: Slice<'_, T>,
    types: Slice<'_, i32>,
    rows: Rows<'_>,
    width: usize,
) -> Result<()> {
    check_len("embedding_backward: d_rows", d_rows.len(), rows.bound * T::stride(width));
    check_len("embedding_backward: types", types.len(), rows.bound);
    let whole = d_table.len();
    device.zero(d_table.slice_mut(0..whole))?;
    if rows.bound == 0 {
        return Ok(());
    }
    let stride = T::stride(width);
    let arguments =
        [(&mut d_table).into(), d_rows.into(), types.into(), rows.into(), width.into(), stride.into()];
    // SAFETY: as in kernels/embedding.cu; a batch's types lie below the vocabulary's size; d_table is borrowed mutably.
    unsafe {
        device.launch(stored_kernel!("embedding_backward", T), Grid::rows(rows.bound, THREADS), &arguments)
    }
}
