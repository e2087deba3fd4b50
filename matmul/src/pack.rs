//! Layout of operands for the tiles.

use super::Element;
use super::view::{MatRef, prefetch};

/// Number of terms per round, and of rows that are transposed together.
pub const TERMS: usize = 8;

/// Number of terms between those that are copied and those that are brought into the cache.
const AHEAD: usize = 2 * TERMS;

/// Packs tile after tile of `N` rows: `to[t][k][i] = from[t N + i, k]`, and zeros for rows that `from` does not have.
#[inline(always)]
pub fn pack<T: Element, const N: usize>(from: MatRef<'_, T>, to: &mut [[T; N]]) {
    let (rows, terms) = (from.rows(), from.columns());
    if !rows.is_multiple_of(N) {
        to[rows / N * terms..].fill([T::ZERO; N]);
    }
    if let Some(by_term) = from.transpose().contiguous_rows() {
        // A few terms of all tiles at a time, which reads neighbouring values together.
        let whole = terms / TERMS * TERMS;
        for first in (0..whole).step_by(TERMS) {
            let group: [&[T]; TERMS] = std::array::from_fn(|k| by_term.row(first + k));
            // Rows lie far apart, so no processor foresees the next ones.
            (first + AHEAD..terms.min(first + AHEAD + TERMS)).for_each(|k| {
                let row = by_term.row(k);
                prefetch(row.as_ptr(), row.len());
            });
            for (tile, to) in to.chunks_exact_mut(terms).enumerate() {
                copy(&group, tile * N, &mut to[first..first + TERMS]);
            }
        }
        for k in whole..terms {
            for (tile, to) in to.chunks_exact_mut(terms).enumerate() {
                copy(&[by_term.row(k)], tile * N, &mut to[k..k + 1]);
            }
        }
        return;
    }
    for (row, to) in (0..rows).step_by(N).zip(to.chunks_exact_mut(terms)) {
        interleave(from.row_range(row..rows.min(row + N)), to);
    }
}

/// Copies `N` values of each row, starting at `column`; fewer where a row ends. The rest of `to` is left as it is.
#[inline(always)]
fn copy<T: Copy, const N: usize>(rows: &[&[T]], column: usize, to: &mut [[T; N]]) {
    for (row, to) in rows.iter().zip(to) {
        match row.get(column..column + N) {
            Some(values) => to.copy_from_slice(values),
            None => to[..row.len() - column].copy_from_slice(&row[column..]),
        }
    }
}

/// `to[k][i] = from[i, k]` for the rows that `from` has, at most `N`.
#[inline(always)]
fn interleave<T: Element, const N: usize>(from: MatRef<'_, T>, to: &mut [[T; N]]) {
    let (rows, terms) = (from.rows(), from.columns());
    let by_row = from.contiguous_rows().expect("one of two strides is 1");
    let whole_terms = terms / TERMS * TERMS;
    let whole_rows = if whole_terms > 0 { rows / TERMS * TERMS } else { 0 };
    for first in (0..whole_terms).step_by(TERMS) {
        let to = &mut to[first..first + TERMS];
        for row in (0..whole_rows).step_by(TERMS) {
            let square = std::array::from_fn(
                #[inline(always)]
                |i| by_row.row(row + i)[first..].first_chunk().expect("as many terms"),
            );
            for (to, values) in to.iter_mut().zip(T::transposed(square)) {
                to[row..row + TERMS].copy_from_slice(&values);
            }
        }
        for row in whole_rows..rows {
            let from = &by_row.row(row)[first..first + TERMS];
            to.iter_mut().zip(from).for_each(|(to, &value)| to[row] = value);
        }
    }
    for (k, to) in to.iter_mut().enumerate().skip(whole_terms) {
        (0..rows).for_each(|row| to[row] = by_row.row(row)[k]);
    }
}
