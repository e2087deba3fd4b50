//! Tiles: what is multiplied in registers.

use std::array::from_ref;

use pulp::Simd;

use super::view::{CACHE_LINE, ContiguousRows, MatMut, prefetch_line};
use super::{Accumulate, Element};

/// Numbers of rows, and of vectors in a row, of a tile with 16 vector registers: 12 sums, two vectors of the right operand, one
/// value of the left.
pub const SMALL_TILE: (usize, usize) = (6, 2);
/// The same with 32 vector registers: 24 sums, and for two terms six vectors of the right operand and two values of the left. Of
/// the tiles tried, this one has the fewest instructions per multiply-add. They matter where another program shares the core.
pub const LARGE_TILE: (usize, usize) = (8, 3);
/// Number of terms per round; a constant, so that the loop over them is unrolled.
const TERMS: usize = 4;

/// Number of terms for which a large tile requests one cache line of the next panel. A term of a panel has three lines, and a block
/// nine tiles: together they request the panel, and a half of the one behind it.
const TERMS_PER_LINE: usize = 2;

/// A row of a panel.
pub type Vectors<T, S, const PANEL: usize> = [<T as Element>::Vector<S>; PANEL];

/// Sums of a tile with `VECTORS` vectors in a row.
pub type Sums<T, S, const ROWS: usize, const VECTORS: usize> = [[<T as Element>::Vector<S>; VECTORS]; ROWS];

/// Whether tiles are large.
pub const fn tiles_are_large<S: Simd>() -> bool {
    S::REGISTER_COUNT >= 32
}

/// Numbers of rows and columns of a tile.
pub const fn tile_size<T: Element, S: Simd>() -> (usize, usize) {
    let (rows, vectors) = if tiles_are_large::<S>() { LARGE_TILE } else { SMALL_TILE };
    (rows, vectors * lanes::<T, S>())
}

/// Number of values of a vector.
pub const fn lanes<T: Element, S: Simd>() -> usize {
    size_of::<T::Vector<S>>() / size_of::<T>()
}

/// The left operand of a tile: `ROWS` rows.
pub trait Left<T, const ROWS: usize>: Copy {
    /// Whether the values of a term lie side by side. The loop over the terms is then unrolled. Elsewhere the compiler would load
    /// the values of all unrolled terms first, and spill them.
    const ADJACENT: bool;

    /// Number of terms.
    fn terms(self) -> usize;

    /// One value.
    ///
    /// # Safety
    ///
    /// `row` is below `ROWS`, and `term` below the number of terms.
    unsafe fn value(self, row: usize, term: usize) -> T;
}

/// Packed rows: `[terms, ROWS]`.
#[derive(Clone, Copy)]
pub struct PackedRows<'a, T, const ROWS: usize>(pub &'a [[T; ROWS]]);

impl<T: Copy, const ROWS: usize> Left<T, ROWS> for PackedRows<'_, T, ROWS> {
    const ADJACENT: bool = true;

    #[inline(always)]
    fn terms(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    unsafe fn value(self, row: usize, term: usize) -> T {
        // SAFETY: the caller promises that the value exists.
        unsafe { *self.0.get_unchecked(term).get_unchecked(row) }
    }
}

/// Rows where they lie.
#[derive(Clone, Copy)]
pub struct Rows<'a, T, const ROWS: usize>(ContiguousRows<'a, T>);

impl<'a, T: Copy, const ROWS: usize> Rows<'a, T, ROWS> {
    /// `ROWS` rows.
    #[inline(always)]
    pub fn new(rows: ContiguousRows<'a, T>) -> Self {
        assert_eq!(rows.rows(), ROWS, "rows of a tile");
        Rows(rows)
    }
}

impl<T: Copy, const ROWS: usize> Left<T, ROWS> for Rows<'_, T, ROWS> {
    const ADJACENT: bool = false;

    #[inline(always)]
    fn terms(self) -> usize {
        self.0.columns()
    }

    #[inline(always)]
    unsafe fn value(self, row: usize, term: usize) -> T {
        // SAFETY: there are `ROWS` rows, and the caller promises that the value exists.
        unsafe { self.0.get_unchecked(row, term) }
    }
}

/// Bytes of the next panel that a tile of so many terms requests.
pub const fn requested_bytes(terms: usize) -> usize {
    terms / TERMS_PER_LINE * CACHE_LINE
}

/// Products of as many terms as `left` holds, with the first `VECTORS` vectors of each row of the panel `right`: `sums[i] = sum
/// over k of left[k][i] right[k]`. Large tiles bring memory from `soon` on into the second-level cache meanwhile ([`requested_bytes`]).
#[inline(always)]
pub fn sums<
    T: Element,
    S: Simd,
    L: Left<T, ROWS>,
    const ROWS: usize,
    const PANEL: usize,
    const VECTORS: usize,
>(
    simd: S,
    left: L,
    right: &[Vectors<T, S, PANEL>],
    soon: *const u8,
) -> Sums<T, S, ROWS, VECTORS> {
    let mut sums = [[T::splat(simd, T::ZERO); VECTORS]; ROWS];
    let right = &right[..left.terms()];
    let request = |term: usize| {
        if tiles_are_large::<S>() && term.is_multiple_of(TERMS_PER_LINE) {
            prefetch_line(soon.wrapping_add(requested_bytes(term)));
        }
    };
    let mut rest = 0;
    if L::ADJACENT {
        for (round, right) in right.as_chunks::<TERMS>().0.iter().enumerate() {
            for (k, right) in right.iter().enumerate() {
                request(round * TERMS + k);
                add_terms(simd, &mut sums, left, round * TERMS + k, from_ref(right));
            }
        }
        rest = right.len() / TERMS * TERMS;
    } else if tiles_are_large::<S>() {
        for (pair, right) in right.as_chunks::<2>().0.iter().enumerate() {
            request(2 * pair);
            add_terms(simd, &mut sums, left, 2 * pair, right);
        }
        rest = right.len() / 2 * 2;
    }
    for (k, right) in right.iter().enumerate().skip(rest) {
        add_terms(simd, &mut sums, left, k, from_ref(right));
    }
    sums
}

/// `sums[i] += left[term + k][i] right[k]` for each k in ascending order; `left` has these terms. Row by row: the values of a row lie
/// side by side, so that they have one address.
#[inline(always)]
fn add_terms<
    T: Element,
    S: Simd,
    const ROWS: usize,
    const PANEL: usize,
    const VECTORS: usize,
    const COUNT: usize,
>(
    simd: S,
    sums: &mut Sums<T, S, ROWS, VECTORS>,
    left: impl Left<T, ROWS>,
    term: usize,
    right: &[Vectors<T, S, PANEL>; COUNT],
) {
    debug_assert!(term + COUNT <= left.terms());
    for (row, sums) in sums.iter_mut().enumerate() {
        let mut values = [T::splat(simd, T::ZERO); COUNT];
        for (k, value) in values.iter_mut().enumerate() {
            // SAFETY: there are `ROWS` sums, and `right` has no more terms than `left`.
            *value = T::splat(simd, unsafe { left.value(row, term + k) });
        }
        for (column, sum) in sums.iter_mut().enumerate() {
            for (&value, right) in values.iter().zip(right) {
                *sum = T::multiply_add(simd, value, right[column], *sum);
            }
        }
    }
}

/// Brings a tile's part of `c` into the cache while its sums are computed.
#[inline(always)]
pub fn prefetch_tile<T, const ROWS: usize>(c: &MatMut<'_, T>, (row, column): (usize, usize), width: usize) {
    (row..row + ROWS).for_each(|row| c.prefetch(row, column..column + width));
}

/// Writes or adds the part of a tile that lies within `c`. The tile's first value is at `row` and `column`.
#[inline(always)]
pub fn store<T: Element, S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    c: &mut MatMut<'_, T>,
    (row, column): (usize, usize),
    sums: Sums<T, S, ROWS, VECTORS>,
    accumulate: Accumulate,
) {
    let width = size_of::<[T::Vector<S>; VECTORS]>() / size_of::<T>();
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
            let mut before = [T::splat(simd, T::ZERO); VECTORS];
            bytemuck::cast_slice_mut(&mut before)[..columns].copy_from_slice(to);
            for (sum, before) in sums.iter_mut().zip(before) {
                *sum = T::add(simd, before, *sum);
            }
        }
        to.copy_from_slice(&bytemuck::cast_slice(&sums)[..columns]);
    }
}
