//! Products of dense matrices on the CPU: `c = a b` in single or double precision.
//!
//! The right operand is packed first: panels of as many columns as two vector registers hold, each panel row by row. A
//! task takes `BLOCK_ROWS` rows of the left operand, packs `BLOCK_DEPTH` columns of them at a time, and multiplies tile
//! by tile. The sums of a tile stay in registers. [`MatRef::transpose`] costs nothing: packing reads through strides.
//!
//! A value of the product is a sum in ascending order of the inner index, cut every `BLOCK_DEPTH` terms. So its bits
//! depend neither on its place, nor on the number of threads, nor on the width of the registers: equal rows give equal
//! products. Only a machine without fused multiply-add instructions rounds otherwise.
//!
//! No call allocates once the memory of a [`Packed`] has its size.

mod element;
mod tile;
mod view;

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

pub use element::Element;
pub use view::{MatMut, MatRef};

use tile::{SHORT_TILE, TALL_TILE, Vectors, interleave, tile_width};

/// Number of rows of a task, a multiple of the rows of both tiles. The packed rows stay in the second-level cache.
const BLOCK_ROWS: usize = 48;
/// Number of terms that are summed in registers before they are added to the product. That much of a panel stays in the
/// first-level cache.
const BLOCK_DEPTH: usize = 384;

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
    /// Panel after panel, `[depth, panel width]` each. Columns beyond the last one are zeros.
    lines: Vec<Line>,
    depth: usize,
    columns: usize,
    element: PhantomData<T>,
}

/// Memory of one cache line, aligned for every vector.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

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
        let arch = Arch::new();
        let width = arch.dispatch(TileWidth::<T>(PhantomData));
        (self.depth, self.columns) = (b.rows(), b.columns());
        let (panel, panels) = (self.depth * width, self.columns.div_ceil(width));
        let lines = (panels * panel * size_of::<T>()).div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::zeroed());
        }
        if panel == 0 {
            return;
        }
        let values: &mut [T] = bytemuck::cast_slice_mut(&mut self.lines[..lines]);
        values[..panels * panel].par_chunks_mut(panel).enumerate().for_each(|(index, panel)| {
            let columns = index * width..self.columns.min((index + 1) * width);
            arch.dispatch(PackPanel { rows: b.column_range(columns).transpose(), panel });
        });
    }

    /// `c = a b` or `c += a b` on the calling thread.
    pub fn multiply(&self, c: MatMut<'_, T>, accumulate: Accumulate, a: MatRef<'_, T>) {
        assert_eq!((a.columns(), c.columns()), (self.depth, self.columns), "columns of a and of c");
        assert_eq!(a.rows(), c.rows(), "rows of a and of c");
        Arch::new().dispatch(Multiply { c, accumulate, a, b: self });
    }

    /// `c = a b` or `c += a b` on all of rayon's threads.
    pub fn multiply_in_parallel(&self, c: MatMut<'_, T>, accumulate: Accumulate, a: MatRef<'_, T>) {
        let blocks = c.rows().div_ceil(BLOCK_ROWS);
        if blocks <= 1 {
            return self.multiply(c, accumulate, a);
        }
        let middle = blocks / 2 * BLOCK_ROWS;
        let (c_top, c_bottom) = c.split_at_row(middle);
        let (a_top, a_bottom) = (a.row_range(0..middle), a.row_range(middle..a.rows()));
        rayon::join(
            || self.multiply_in_parallel(c_top, accumulate, a_top),
            || self.multiply_in_parallel(c_bottom, accumulate, a_bottom),
        );
    }
}

/// Number of columns of a tile.
struct TileWidth<T>(PhantomData<T>);

impl<T: Element> WithSimd for TileWidth<T> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        tile_width::<T, S>()
    }
}

/// Packs one panel: `panel[k][i] = rows[i, k]`.
struct PackPanel<'a, T> {
    rows: MatRef<'a, T>,
    panel: &'a mut [T],
}

impl<T: Element> WithSimd for PackPanel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let PackPanel { rows, panel } = self;
        // Widths of all registers, as constants.
        match tile_width::<T, S>() {
            32 => interleave::<T, 32>(rows, bytemuck::cast_slice_mut(panel)),
            16 => interleave::<T, 16>(rows, bytemuck::cast_slice_mut(panel)),
            8 => interleave::<T, 8>(rows, bytemuck::cast_slice_mut(panel)),
            4 => interleave::<T, 4>(rows, bytemuck::cast_slice_mut(panel)),
            2 => interleave::<T, 2>(rows, bytemuck::cast_slice_mut(panel)),
            width => unreachable!("tiles of {width} columns"),
        }
    }
}

/// A product on one thread.
struct Multiply<'a, T> {
    c: MatMut<'a, T>,
    accumulate: Accumulate,
    a: MatRef<'a, T>,
    b: &'a Packed<T>,
}

impl<T: Element> WithSimd for Multiply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.blocks::<S, TALL_TILE>(simd);
        } else {
            self.blocks::<S, SHORT_TILE>(simd);
        }
    }
}

impl<T: Element> Multiply<'_, T> {
    #[inline(always)]
    fn blocks<S: Simd, const ROWS: usize>(self, simd: S) {
        let Multiply { mut c, accumulate, a, b } = self;
        if b.depth == 0 && accumulate == Accumulate::Replace {
            (0..c.rows()).for_each(|row| c.row_mut(row).fill(T::ZERO));
        }
        let right: &[Vectors<T, S>] = bytemuck::cast_slice(&b.lines);
        let width = tile_width::<T, S>();
        let mut memory = [T::ZERO; BLOCK_ROWS * BLOCK_DEPTH];
        for first_row in (0..c.rows()).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(c.rows() - first_row);
            for first_term in (0..b.depth).step_by(BLOCK_DEPTH) {
                let terms = BLOCK_DEPTH.min(b.depth - first_term);
                let left: &mut [[T; ROWS]] = bytemuck::cast_slice_mut(&mut memory);
                let left = &mut left[..rows.div_ceil(ROWS) * terms];
                let block =
                    a.row_range(first_row..first_row + rows).column_range(first_term..first_term + terms);
                for (row, tile) in (0..rows).step_by(ROWS).zip(left.chunks_exact_mut(terms)) {
                    interleave(block.row_range(row..rows.min(row + ROWS)), tile);
                }
                let replace = first_term == 0 && accumulate == Accumulate::Replace;
                for (panel, column) in (0..b.columns).step_by(width).enumerate() {
                    let right = &right[panel * b.depth + first_term..][..terms];
                    for (row, left) in (first_row..).step_by(ROWS).zip(left.chunks_exact(terms)) {
                        let sums = tile::sums::<T, S, ROWS>(simd, left, right);
                        for (row, sums) in (row..first_row + rows).zip(&sums) {
                            let to = c.row_mut(row);
                            store(
                                &mut to[column..b.columns.min(column + width)],
                                bytemuck::cast_slice(sums),
                                replace,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Writes or adds the first of `sums`. A whole tile's row has a constant length, which the compiler makes use of.
#[inline(always)]
fn store<T: Element>(to: &mut [T], sums: &[T], replace: bool) {
    if to.len() == sums.len() {
        store_all(to, sums, replace);
    } else {
        store_all(to, &sums[..to.len()], replace);
    }
}

#[inline(always)]
fn store_all<T: Element>(to: &mut [T], sums: &[T], replace: bool) {
    if replace {
        to.copy_from_slice(sums);
    } else {
        to.iter_mut().zip(sums).for_each(|(to, &sum)| *to = T::add(*to, sum));
    }
}

#[cfg(test)]
mod tests;
