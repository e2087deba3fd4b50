//! Tiles: what is multiplied in registers.

use pulp::Simd;

use super::view::MatMut;
use super::{Accumulate, Element};

/// Number of rows of a tile with 16 vector registers: two sums per row, two vectors of the right operand, one value of
/// the left.
pub const SHORT_TILE: usize = 6;
/// Number of rows of a tile with 32 vector registers.
pub const TALL_TILE: usize = 12;
/// Number of terms per round; a constant, so that the loop over them is unrolled.
const TERMS: usize = 4;
/// Number of vectors in a row of a tile.
pub const TILE_VECTORS: usize = 2;

/// A row of a tile.
pub type Vectors<T, S> = [<T as Element>::Vector<S>; TILE_VECTORS];

/// Number of columns of a tile.
#[inline(always)]
pub const fn tile_width<T: Element, S: Simd>() -> usize {
    size_of::<Vectors<T, S>>() / size_of::<T>()
}

/// Products of as many terms as `left` and `right` hold: `sums[i] = sum over k of left[k][i] right[k]`.
#[inline(always)]
pub fn sums<T: Element, S: Simd, const ROWS: usize>(
    simd: S,
    left: &[[T; ROWS]],
    right: &[Vectors<T, S>],
) -> [Vectors<T, S>; ROWS] {
    let mut sums = [[T::splat(simd, T::ZERO); TILE_VECTORS]; ROWS];
    let (left_rounds, left_rest) = left.as_chunks::<TERMS>();
    let (right_rounds, right_rest) = right[..left.len()].as_chunks::<TERMS>();
    for (left, right) in left_rounds.iter().zip(right_rounds) {
        for (left, right) in left.iter().zip(right) {
            add_term(simd, &mut sums, left, right);
        }
    }
    for (left, right) in left_rest.iter().zip(right_rest) {
        add_term(simd, &mut sums, left, right);
    }
    sums
}

/// `sums[i] += left[i] right`
#[inline(always)]
fn add_term<T: Element, S: Simd, const ROWS: usize>(
    simd: S,
    sums: &mut [Vectors<T, S>; ROWS],
    left: &[T; ROWS],
    right: &Vectors<T, S>,
) {
    for (sums, &value) in sums.iter_mut().zip(left) {
        let value = T::splat(simd, value);
        for (sum, &right) in sums.iter_mut().zip(right) {
            *sum = T::multiply_add(simd, value, right, *sum);
        }
    }
}

/// Writes or adds the part of a tile that lies within `c`. The tile's first value is at `row` and `column`.
#[inline(always)]
pub fn store<T: Element, S: Simd, const ROWS: usize>(
    simd: S,
    c: &mut MatMut<'_, T>,
    (row, column): (usize, usize),
    sums: [Vectors<T, S>; ROWS],
    accumulate: Accumulate,
) {
    let width = tile_width::<T, S>();
    if row + ROWS <= c.rows() && column + width <= c.columns() {
        for (i, sums) in sums.into_iter().enumerate() {
            let to: &mut [T::Vector<S>] =
                bytemuck::cast_slice_mut(&mut c.row_mut(row + i)[column..column + width]);
            for (to, sum) in to.iter_mut().zip(sums) {
                *to = match accumulate {
                    Accumulate::Replace => sum,
                    Accumulate::Add => T::add(simd, *to, sum),
                };
            }
        }
        return;
    }
    let columns = width.min(c.columns() - column);
    for (row, sums) in (row..c.rows()).zip(sums) {
        let to = &mut c.row_mut(row)[column..column + columns];
        let mut sums = sums;
        if accumulate == Accumulate::Add {
            let mut before = [T::splat(simd, T::ZERO); TILE_VECTORS];
            bytemuck::cast_slice_mut(&mut before)[..columns].copy_from_slice(to);
            for (sum, before) in sums.iter_mut().zip(before) {
                *sum = T::add(simd, before, *sum);
            }
        }
        to.copy_from_slice(&bytemuck::cast_slice(&sums)[..columns]);
    }
}
