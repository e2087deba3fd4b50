//! embedding: rows of the two tables by type, and the tables' gradients (`kernels/embedding.cu`).

use super::stored::{StoredElement, stored_kernel, stored_kernels};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Arguments, Device, Grid, check_len, dimension};
use crate::error::Result;

pub(crate) const KERNELS: &[&str] = stored_kernels!["embedding_forward", "embedding_backward"];

const THREADS: u32 = 128;

/// The types of a table that occur in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Occurring<'a> {
    /// `[U]`, ascending, each once.
    pub types: Slice<'a, i32>,
    /// U.
    pub rows: Rows<'a>,
}

/// A table, and its rows that are looked up.
pub struct Lookup<'a, T> {
    /// `[U, D]`, written.
    pub rows: SliceMut<'a, T>,
    /// `[V, D]`.
    pub table: Slice<'a, f32>,
    /// Types below V.
    pub of: Occurring<'a>,
}

/// A table's gradient, and that by the rows that were looked up.
pub struct LookupGradient<'a, T> {
    /// `[V, D]`, written whole: zeros where no type occurs.
    pub d_table: SliceMut<'a, f32>,
    /// `[U, D]`.
    pub d_rows: Slice<'a, T>,
    /// Types below V.
    pub of: Occurring<'a>,
}

/// A block for each row of either of two tables, at least one of each.
fn grid(of: [Occurring<'_>; 2]) -> Grid {
    let rows = of.map(|of| of.rows.bound).into_iter().fold(1, usize::max);
    Grid { blocks: [dimension(rows), 2, 1], threads: [THREADS, 1, 1] }
}

impl Occurring<'_> {
    #[track_caller]
    fn check<T: StoredElement>(&self, rows: usize, width: usize) {
        check_len("embedding: rows", rows, self.rows.bound * T::stride(width));
        check_len("embedding: types", self.types.len(), self.rows.bound);
    }
}

/// The rows of both tables that occur.
pub fn embedding_forward<T: StoredElement>(
    device: &Device,
    lookups: [Lookup<'_, T>; 2],
    width: usize,
) -> Result<()> {
    let grid = grid(lookups.each_ref().map(|lookup| lookup.of));
    let arguments = lookups.into_iter().fold(Arguments::default(), |arguments, mut lookup| {
        lookup.of.check::<T>(lookup.rows.len(), width);
        let arguments = arguments.add(&mut lookup.rows).add(lookup.table);
        arguments.add(lookup.of.types).add(lookup.of.rows)
    });
    let arguments = arguments.add(width).add(T::stride(width));
    // SAFETY: as in kernels/embedding.cu; lengths were checked; a batch's types lie below the vocabulary's size; what is
    // written is borrowed mutably.
    unsafe { device.launch_positional(stored_kernel!("embedding_forward", T), grid, &arguments) }
}

/// The gradients of both tables.
pub fn embedding_backward<T: StoredElement>(
    device: &Device,
    lookups: [LookupGradient<'_, T>; 2],
    width: usize,
) -> Result<()> {
    let grid = grid(lookups.each_ref().map(|lookup| lookup.of));
    let arguments = lookups.into_iter().fold(Arguments::default(), |arguments, mut lookup| {
        lookup.of.check::<T>(lookup.d_rows.len(), width);
        let types = lookup.d_table.len() / width;
        let arguments = arguments.add(&mut lookup.d_table).add(lookup.d_rows);
        arguments.add(lookup.of.types).add(lookup.of.rows).add(types)
    });
    let arguments = arguments.add(width).add(T::stride(width));
    // SAFETY: as in kernels/embedding.cu; lengths were checked; a batch's types lie below the vocabulary's size; what is
    // written is borrowed mutably.
    unsafe { device.launch_positional(stored_kernel!("embedding_backward", T), grid, &arguments) }
}
