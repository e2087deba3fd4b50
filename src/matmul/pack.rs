//! Layout of operands for the tiles.

use super::Element;
use super::view::MatRef;

/// Number of terms that are exchanged at a time, in constant loops.
const TERMS: usize = 8;

/// Packs tile after tile of `N` rows: `to[t][k][i] = from[t N + i, k]`, and zeros for rows that `from` does not have.
#[inline(always)]
pub fn pack<T: Element, const N: usize>(from: MatRef<'_, T>, to: &mut [[T; N]]) {
    let (rows, terms) = (from.rows(), from.columns());
    if !rows.is_multiple_of(N) {
        to[rows / N * terms..].fill([T::ZERO; N]);
    }
    if let Some(by_term) = from.transpose().contiguous_rows() {
        // A few terms of all tiles at a time, which reads neighbouring values together.
        for first in (0..terms).step_by(TERMS) {
            let terms_here = first..terms.min(first + TERMS);
            for (row, to) in (0..rows).step_by(N).zip(to.chunks_exact_mut(terms)) {
                let range = row..rows.min(row + N);
                for (k, to) in terms_here.clone().zip(&mut to[terms_here.clone()]) {
                    match <&[T; N]>::try_from(&by_term.row(k)[range.clone()]) {
                        Ok(values) => *to = *values,
                        Err(_) => to[..range.len()].copy_from_slice(&by_term.row(k)[range.clone()]),
                    }
                }
            }
        }
        return;
    }
    for (row, to) in (0..rows).step_by(N).zip(to.chunks_exact_mut(terms)) {
        interleave(from.row_range(row..rows.min(row + N)), to);
    }
}

/// `to[k][i] = from[i, k]` for the rows that `from` has, at most `N`.
#[inline(always)]
fn interleave<T: Element, const N: usize>(from: MatRef<'_, T>, to: &mut [[T; N]]) {
    let (rows, terms) = (from.rows(), from.columns());
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
