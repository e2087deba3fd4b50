//! Products of dense matrices on the CPU: `c = a b` in single or double precision.
//!
//! The right operand is packed first: panels of as many columns as a tile has, each panel row by row. A
//! task takes `BLOCK_ROWS` rows of the left operand and multiplies tile by tile, for as many terms as a block has. It reads
//! the rows of the left operand where they lie; only a transposed one is packed. The sums of a tile stay in registers.
//! [`MatRef::transpose`] costs nothing.
//!
//! A value of the product is a sum in ascending order of the inner index, cut into equal blocks of at most `BLOCK_DEPTH`
//! terms. So its bits depend neither on its place, nor on the number of threads, nor on the width of the registers: equal
//! rows give equal products. Only a machine without fused multiply-add instructions rounds otherwise.
//!
//! No call allocates once the memory of a [`Packed`] has its size.

#[cfg_attr(not(target_arch = "x86_64"), path = "no_amx.rs")]
mod amx;
mod element;
mod pack;
mod task;
mod tile;
mod view;

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

pub use amx::{Amx, PackedBf16};
pub use element::Element;
pub use view::{MatMut, MatRef, prefetch};

use pack::pack;
use task::Task;
use tile::{
    LARGE_TILE, PackedRows, Rows, SMALL_TILE, Vectors, lanes, prefetch_tile, requested_bytes, store, sums,
    tile_size, tiles_are_large,
};

/// Largest number of rows of a block, a multiple of the rows of both tiles. The block stays in the second-level cache.
const BLOCK_ROWS: usize = 72;
/// Largest number of terms summed in registers before they are added to the product. More terms mean fewer passes over the
/// product. A panel may exceed the first-level cache: the second delivers it fast enough.
const BLOCK_DEPTH: usize = 576;
/// Number of panels that are packed together, so that neighbouring values are read together.
const PACK_PANELS: usize = 8;

/// What a product does with the values that `c` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// `c = a b`
    Replace,
    /// `c += a b`
    Add,
}

/// `c = a b` or `c += a b` on all of rayon's threads. `memory` holds the packed right operand.
pub fn matmul<T: Element>(
    memory: &mut Packed<T>,
    c: MatMut<'_, T>,
    accumulate: Accumulate,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
) {
    memory.pack(b);
    memory.multiply_in_parallel(c, accumulate, a);
}

/// The right operand `[depth, columns]` of products.
#[derive(Clone, Debug, Default)]
pub struct Packed<T> {
    /// Block after block of terms; in a block panel after panel, `[terms, panel width]` each. Columns beyond the last one
    /// are zeros.
    lines: Vec<Line>,
    depth: usize,
    columns: usize,
    element: PhantomData<T>,
}

/// Memory of one cache line, aligned for every vector.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Ranges of terms, one per block. All but the last one have the same length.
fn depth_blocks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    let step = block_depth(depth);
    (0..depth).step_by(step).map(move |first| first..depth.min(first + step))
}

/// Number of terms of a block.
fn block_depth(depth: usize) -> usize {
    depth.div_ceil(depth.div_ceil(BLOCK_DEPTH).max(1)).max(1)
}

impl<T: Element> Packed<T> {
    /// Packs `b` on all of rayon's threads.
    pub fn of(b: MatRef<'_, T>) -> Self {
        let mut packed = Packed::default();
        packed.pack(b);
        packed
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Packs `b` in place of what was packed before, on all of rayon's threads.
    pub fn pack(&mut self, b: MatRef<'_, T>) {
        let (_, width) = T::tile_size();
        (self.depth, self.columns) = (b.rows(), b.columns());
        let padded = self.columns.next_multiple_of(width);
        let lines = (self.depth * padded * size_of::<T>()).div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::zeroed());
        }
        if lines == 0 {
            return;
        }
        let values: &mut [T] = bytemuck::cast_slice_mut(&mut self.lines[..lines]);
        let step = block_depth(self.depth);
        values[..self.depth * padded].par_chunks_mut(step * padded).enumerate().for_each(
            |(block, values)| {
                let terms = block * step..b.rows().min((block + 1) * step);
                let group = PACK_PANELS * width;
                values.par_chunks_mut(terms.len() * group).enumerate().for_each(|(index, panels)| {
                    let columns = index * group..b.columns().min((index + 1) * group);
                    let b = b.row_range(terms.clone()).column_range(columns);
                    T::pack_panels(PackPanels { b, panels });
                });
            },
        );
    }

    /// `c = a b` or `c += a b` on the calling thread.
    pub fn multiply(&self, c: MatMut<'_, T>, accumulate: Accumulate, a: MatRef<'_, T>) {
        self.product(c, accumulate, a, None).alone();
    }

    /// `c = a b` or `c += a b` on all of rayon's threads.
    pub fn multiply_in_parallel(&self, c: MatMut<'_, T>, accumulate: Accumulate, a: MatRef<'_, T>) {
        self.product(c, accumulate, a, None).in_parallel();
    }

    /// `c = a b` on all of rayon's threads. `finish` completes each row, given its index, while it is in the cache.
    pub fn multiply_and_finish(
        &self,
        c: MatMut<'_, T>,
        a: MatRef<'_, T>,
        finish: impl Fn(usize, &mut [T]) + Sync,
    ) {
        self.product(c, Accumulate::Replace, a, Some(&finish)).in_parallel();
    }

    fn product<'a>(
        &'a self,
        c: MatMut<'a, T>,
        accumulate: Accumulate,
        a: MatRef<'a, T>,
        finish: Option<Finish<'a, T>>,
    ) -> Multiply<'a, T> {
        assert_eq!((a.columns(), c.columns()), (self.depth, self.columns), "columns of a and of c");
        assert_eq!(a.rows(), c.rows(), "rows of a and of c");
        Multiply { c, accumulate, a, b: self, first_row: 0, finish }
    }
}

/// Completes a row of the product, given its index.
type Finish<'a, T> = &'a (dyn Fn(usize, &mut [T]) + Sync);

/// Numbers of rows and columns of a tile.
struct TileSize<T>(PhantomData<T>);

impl<T: Element> WithSimd for TileSize<T> {
    type Output = (usize, usize);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> (usize, usize) {
        tile_size::<T, S>()
    }
}

/// Packs panels of one block: `panels[p][k][i] = b[k, p width + i]`.
#[doc(hidden)]
#[derive(Debug)]
pub struct PackPanels<'a, T> {
    b: MatRef<'a, T>,
    panels: &'a mut [T],
}

impl<T: Element> WithSimd for PackPanels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (b, panels) = (self.b.transpose(), self.panels);
        // Tiles of all registers, as constants.
        match tile_size::<T, S>().1 {
            48 => pack::<T, 48>(b, bytemuck::cast_slice_mut(panels)),
            24 => pack::<T, 24>(b, bytemuck::cast_slice_mut(panels)),
            16 => pack::<T, 16>(b, bytemuck::cast_slice_mut(panels)),
            12 => pack::<T, 12>(b, bytemuck::cast_slice_mut(panels)),
            8 => pack::<T, 8>(b, bytemuck::cast_slice_mut(panels)),
            6 => pack::<T, 6>(b, bytemuck::cast_slice_mut(panels)),
            4 => pack::<T, 4>(b, bytemuck::cast_slice_mut(panels)),
            2 => pack::<T, 2>(b, bytemuck::cast_slice_mut(panels)),
            width => unreachable!("tiles of {width} columns"),
        }
    }
}

/// A product on one thread.
#[doc(hidden)]
pub struct Multiply<'a, T> {
    c: MatMut<'a, T>,
    accumulate: Accumulate,
    a: MatRef<'a, T>,
    b: &'a Packed<T>,
    /// Number of rows before those of `c`.
    first_row: usize,
    finish: Option<Finish<'a, T>>,
}

impl<T: Element> Multiply<'_, T> {
    fn in_parallel(self) {
        if rayon::current_num_threads() == 1 {
            return self.alone();
        }
        let Multiply { c, accumulate, a, b, first_row, finish } = self;
        Task { c, a, first_row }.in_parts(T::tile_size().0, BLOCK_ROWS, &|Task { c, a, first_row }| {
            Multiply { c, accumulate, a, b, first_row, finish }.alone();
        });
    }

    /// Multiplies on this thread. Inlined, its block of the left operand would lie on the stack once for each level of the division.
    #[inline(never)]
    fn alone(self) {
        T::multiply(self);
    }
}

impl<T: Element> WithSimd for Multiply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if tiles_are_large::<S>() {
            self.blocks::<S, { LARGE_TILE.0 }, { LARGE_TILE.1 }>(simd);
        } else {
            self.blocks::<S, { SMALL_TILE.0 }, { SMALL_TILE.1 }>(simd);
        }
    }
}

impl<T: Element> Multiply<'_, T> {
    #[inline(always)]
    fn blocks<S: Simd, const ROWS: usize, const PANEL: usize>(self, simd: S) {
        let Multiply { mut c, accumulate, a, b, first_row, finish } = self;
        let rows = c.rows();
        let complete = |c: &mut MatMut<'_, T>, rows: Range<usize>| {
            if let Some(finish) = finish {
                rows.for_each(|row| finish(first_row + row, c.row_mut(row)));
            }
        };
        if b.depth == 0 {
            if accumulate == Accumulate::Replace {
                (0..rows).for_each(|row| c.row_mut(row).fill(T::ZERO));
            }
            complete(&mut c, 0..rows);
        }
        let right: &[Vectors<T, S, PANEL>] = bytemuck::cast_slice(&b.lines);
        let width = PANEL * lanes::<T, S>();
        let panels = b.columns.div_ceil(width);
        let step = rows.div_ceil(rows.div_ceil(BLOCK_ROWS).max(1)).next_multiple_of(ROWS).max(ROWS);
        // Whole tiles are read where they lie, if a row does.
        let reads_rows = a.contiguous_rows().is_some();
        let most_packed = if reads_rows { ROWS } else { step };
        let mut memory = MaybeUninit::<[T; BLOCK_ROWS * BLOCK_DEPTH]>::uninit();
        let memory = zeroed(&mut memory, most_packed * block_depth(b.depth));
        for terms in depth_blocks(b.depth) {
            let to = if terms.start == 0 { accumulate } else { Accumulate::Add };
            let right = &right[panels * terms.start..][..panels * terms.len()];
            for first in (0..rows).step_by(step) {
                let block = a.row_range(first..rows.min(first + step)).column_range(terms.clone());
                let in_place = if reads_rows { block.rows() / ROWS * ROWS } else { 0 };
                let rest = (block.rows() - in_place).next_multiple_of(ROWS);
                let packed: &mut [[T; ROWS]] = bytemuck::cast_slice_mut(&mut memory[..rest * terms.len()]);
                pack(block.row_range(in_place..block.rows()), packed);
                let whole = block.row_range(0..in_place);
                for (column, right) in (0..).step_by(width).zip(right.chunks_exact(terms.len())) {
                    let to = To { c: &mut c, row: first, column, accumulate: to };
                    // Vectors of the last panel may lie beyond the last column.
                    match (b.columns - column).div_ceil(lanes::<T, S>()) {
                        1 => panel::<T, S, ROWS, PANEL, 1>(simd, to, whole, packed, right),
                        2 => panel::<T, S, ROWS, PANEL, 2>(simd, to, whole, packed, right),
                        _ => panel::<T, S, ROWS, PANEL, PANEL>(simd, to, whole, packed, right),
                    }
                }
                if terms.end == b.depth {
                    complete(&mut c, first..first + block.rows());
                }
            }
        }
    }
}

/// Where the product of a block and a panel goes.
struct To<'a, 'c, T> {
    c: &'a mut MatMut<'c, T>,
    /// First row and column.
    row: usize,
    column: usize,
    accumulate: Accumulate,
}

/// Multiplies a block of the left operand, first `whole` tiles where they lie and then `packed` ones, with the first `VECTORS`
/// vectors of a panel.
#[inline(always)]
fn panel<T: Element, S: Simd, const ROWS: usize, const PANEL: usize, const VECTORS: usize>(
    simd: S,
    to: To<'_, '_, T>,
    whole: MatRef<'_, T>,
    packed: &[[T; ROWS]],
    right: &[Vectors<T, S, PANEL>],
) {
    let To { c, row, column, accumulate } = to;
    let width = VECTORS * lanes::<T, S>();
    // The next panel follows this one. Read only when its first tile needs it, it would come too late.
    let next = right.as_ptr_range().end.cast::<u8>();
    let soon = |tile: usize| next.wrapping_add(tile * requested_bytes(right.len()));
    for tile in (0..whole.rows()).step_by(ROWS) {
        let at = (row + tile, column);
        prefetch_tile::<_, ROWS>(c, at, width);
        let left = whole.row_range(tile..tile + ROWS).contiguous_rows().expect("rows in place");
        let sums = sums::<T, S, _, ROWS, PANEL, VECTORS>(simd, Rows::new(left), right, soon(tile / ROWS));
        store::<T, S, ROWS, VECTORS>(simd, c, at, sums, accumulate);
    }
    for (tile, left) in (whole.rows() / ROWS..).zip(packed.chunks_exact(right.len())) {
        let at = (row + tile * ROWS, column);
        prefetch_tile::<_, ROWS>(c, at, width);
        let sums = sums::<T, S, _, ROWS, PANEL, VECTORS>(simd, PackedRows(left), right, soon(tile));
        store::<T, S, ROWS, VECTORS>(simd, c, at, sums, accumulate);
    }
}

/// The first `len` values of `memory`, as zeros. A large array that is seldom used is thus not cleared as a whole.
fn zeroed<T: Element>(memory: &mut MaybeUninit<[T; BLOCK_ROWS * BLOCK_DEPTH]>, len: usize) -> &mut [T] {
    assert!(len <= BLOCK_ROWS * BLOCK_DEPTH, "{len} values of a block");
    let first: *mut T = memory.as_mut_ptr().cast();
    // SAFETY: `memory` has room for `len` values, which the first line sets: zero bytes are a `T`. The result borrows `memory`.
    unsafe {
        first.write_bytes(0, len);
        std::slice::from_raw_parts_mut(first, len)
    }
}

#[cfg(test)]
mod tests;
