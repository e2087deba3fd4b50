//! Loops over one row, compiled for every width of vector registers and selected at run time.
//!
//! Wider registers do not change results: no loop sums across lanes in an order that depends on the width,
//! and products are not fused into sums.

use std::ops::Range;

use scenerank_matmul::prefetch;

/// Runs `loops`, compiled for the widest vector registers of the machine.
#[inline(always)]
pub fn vectorised<R>(loops: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(loops)
}

/// Number of columns between two requests to the memory.
const SEGMENT: usize = 512;

/// Calls `each` for every range of columns, in loops that are compiled like those of [`vectorised`]. Meanwhile the processor brings
/// as many values from each address of `soon` into its cache. By itself it requests values too late: it reads rows from memory at
/// half the rate. The addresses need not be valid.
#[inline(always)]
pub fn each_segment<const N: usize>(
    columns: usize,
    soon: [*const f32; N],
    mut each: impl FnMut(Range<usize>),
) {
    vectorised(
        #[inline(always)]
        || {
            for first in (0..columns).step_by(SEGMENT) {
                let part = first..columns.min(first + SEGMENT);
                soon.iter().for_each(|soon| prefetch(soon.wrapping_add(first), part.len()));
                each(part);
            }
        },
    );
}

/// Where the values behind a row lie: the next row, in most passes.
#[inline(always)]
pub fn behind(row: &[f32]) -> *const f32 {
    row.as_ptr_range().end
}

/// `to += row`. The row at `soon` is read next.
#[inline]
pub fn add(to: &mut [f32], row: &[f32], soon: *const f32) {
    each_segment(
        to.len(),
        [soon],
        #[inline(always)]
        |part| to[part.clone()].iter_mut().zip(&row[part]).for_each(|(to, value)| *to += value),
    );
}

/// `to += a`, and then `to += b`. The rows at `soon` are read next.
#[inline]
pub fn add_both(to: &mut [f32], [a, b]: [&[f32]; 2], soon: [*const f32; 2]) {
    each_segment(
        to.len(),
        soon,
        #[inline(always)]
        |part| {
            let rows = a[part.clone()].iter().zip(&b[part.clone()]);
            to[part].iter_mut().zip(rows).for_each(|(to, (a, b))| *to = *to + a + b);
        },
    );
}

/// `row *= factor`.
#[inline]
pub fn scale(row: &mut [f32], factor: f32) {
    vectorised(
        #[inline(always)]
        || row.iter_mut().for_each(|value| *value *= factor),
    );
}

/// Inner product, in a fixed number of partial sums.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const SUMS: usize = 16;
    vectorised(
        #[inline(always)]
        || {
            let mut sums = [0.0f32; SUMS];
            let (a, b) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
            let tail: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
            for (x, y) in a.zip(b) {
                for lane in 0..SUMS {
                    sums[lane] += x[lane] * y[lane];
                }
            }
            sums.iter().sum::<f32>() + tail
        },
    )
}

/// Euclidean norm of a row.
#[inline]
pub fn length(row: &[f32]) -> f32 {
    dot(row, row).sqrt()
}
