//! Tiles: what is multiplied in registers, and how operands are laid out for it.

use pulp::Simd;

use super::Element;
use super::view::MatRef;

/// Number of rows of a tile with 16 vector registers: two sums per row, two vectors of the right operand, one value of
/// the left.
pub const SHORT_TILE: usize = 6;
/// Number of rows of a tile with 32 vector registers.
pub const TALL_TILE: usize = 12;
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
    for (left, right) in left.iter().zip(right) {
        for (sums, &value) in sums.iter_mut().zip(left) {
            let value = T::splat(simd, value);
            for (sum, &right) in sums.iter_mut().zip(right) {
                *sum = T::multiply_add(simd, value, right, *sum);
            }
        }
    }
    sums
}

/// `to[k][i] = from[i, k]`, and zeros for rows that `from` does not have.
#[inline(always)]
pub fn interleave<T: Element, const N: usize>(from: MatRef<'_, T>, to: &mut [[T; N]]) {
    /// Number of terms that are exchanged at a time, in constant loops.
    const TERMS: usize = 8;
    let (rows, terms) = (from.rows(), from.columns());
    if rows < N {
        to.fill([T::ZERO; N]);
    }
    if let Some(by_term) = from.transpose().contiguous_rows() {
        for (k, to) in to.iter_mut().enumerate() {
            match <&[T; N]>::try_from(by_term.row(k)) {
                Ok(row) => *to = *row,
                Err(_) => to[..rows].copy_from_slice(by_term.row(k)),
            }
        }
        return;
    }
    let by_row = from.contiguous_rows().expect("one of two strides is 1");
    let whole = if rows == N { terms / TERMS * TERMS } else { 0 };
    for first in (0..whole).step_by(TERMS) {
        let rows: [&[T; TERMS]; N] =
            std::array::from_fn(|i| by_row.row(i)[first..][..TERMS].try_into().expect("as many terms"));
        for (k, to) in to[first..first + TERMS].iter_mut().enumerate() {
            *to = rows.map(|row| row[k]);
        }
    }
    for (k, to) in to.iter_mut().enumerate().skip(whole) {
        (0..rows).for_each(|i| to[i] = by_row.row(i)[k]);
    }
}
