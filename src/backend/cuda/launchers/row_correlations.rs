//! row_correlations: counts and sums for the rank correlations of each row (`kernels/row_correlations.cu`).

use std::ops::Range;

use super::strips::{Strips, for_each_strip, strip_rows};
use crate::backend::correlation_sums::CorrelationSums;
use crate::backend::cuda::device::buffer::{Buffer, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::{Device, check_len};
use crate::data::similarity::Similarity;
use crate::error::{Error, Result};

kernel_arguments! {
    struct RowCorrelations {
        /// `[R, 6]` counts, overwritten.
        counts: PointerMut<i64>,
        /// `[R, 3]` sums, overwritten.
        moments: PointerMut<f64>,
        /// `[R, columns]` scores.
        scores: Pointer<f64>,
        /// `[R, columns]` similarities.
        similarities: Pointer<f64>,
        columns: i32,
        first_row: i32,
    }
}

/// Threads of a block, as in the kernel.
const THREADS: u32 = 256;
/// Number of counts per row.
pub const COUNTS: usize = 6;
/// Number of sums per row.
pub const MOMENTS: usize = 3;

const ROW_CORRELATIONS: Kernel<RowCorrelations> = Kernel::new("row_correlations", [THREADS, 1, 1]);

/// Kernel of `kernels/row_correlations.cu`.
pub(crate) const FILE: KernelFile =
    KernelFile { name: "row_correlations", kernels: &[ROW_CORRELATIONS.info()] };

/// Largest number of columns for which sums of squares of ranks stay below 2^63 (n^3 / 3 for n columns).
const MOST_COLUMNS: usize = 1 << 21;

/// Writes `counts [R, 6]` and `moments [R, 3]` of the R rows.
pub fn row_correlations(
    device: &Device,
    counts: &mut SliceMut<'_, i64>,
    moments: &mut SliceMut<'_, f64>,
    of: Strips<'_>,
) -> Result<()> {
    let rows = of.rows();
    assert!(of.columns <= MOST_COLUMNS, "row_correlations: {} columns", of.columns);
    of.check("row_correlations: similarities");
    check_len("row_correlations: counts", counts.len(), rows * COUNTS);
    check_len("row_correlations: moments", moments.len(), rows * MOMENTS);
    if rows == 0 {
        return Ok(());
    }
    let arguments = RowCorrelations {
        counts: counts.into(),
        moments: moments.into(),
        scores: of.scores.into(),
        similarities: of.similarities.into(),
        columns: int(of.columns),
        first_row: int(of.first_row),
    };
    // SAFETY: lengths were checked; counts and moments are borrowed mutably, and nothing else is written.
    unsafe { device.launch(&ROW_CORRELATIONS, Blocks::rows(rows), &arguments) }
}

/// Computes the sums of all rows of `embeddings [n, width]` against `similarity` over the n `images`. Calls
/// `done` with the number of rows after each strip.
pub(crate) fn all_rows(
    device: &Device,
    embeddings: &Buffer<f32>,
    width: usize,
    similarity: Similarity<'_>,
    images: Range<usize>,
    done: &dyn Fn(usize),
) -> Result<Vec<CorrelationSums>> {
    let columns = images.len();
    if columns > MOST_COLUMNS {
        return Err(Error::argument(
            "embeddings",
            format!("{columns} rows, at most {MOST_COLUMNS} are compared with each other"),
            "evaluate fewer images, or use --device cpu",
        ));
    }
    let most_rows = strip_rows(columns);
    let mut counts = device.allocate_unwritten::<i64>(most_rows * COUNTS)?;
    let mut moments = device.allocate_unwritten::<f64>(most_rows * MOMENTS)?;
    let mut all = Vec::with_capacity(columns);
    for_each_strip(device, embeddings, width, similarity, images, |strips| {
        let rows = strips.rows();
        let (mut to, mut sums_to) =
            (counts.slice_mut(0..rows * COUNTS), moments.slice_mut(0..rows * MOMENTS));
        row_correlations(device, &mut to, &mut sums_to, strips)?;
        let counts = device.download(&counts, 0..rows * COUNTS)?;
        let moments = device.download(&moments, 0..rows * MOMENTS)?;
        let by_row = counts.chunks_exact(COUNTS).zip(moments.chunks_exact(MOMENTS));
        all.extend(by_row.map(|(counts, moments)| row_sums(columns as u64 - 1, counts, moments)));
        done(rows);
        Ok(())
    })?;
    Ok(all)
}

/// Sums of a row from the numbers written by the kernel.
fn row_sums(entries: u64, counts: &[i64], moments: &[f64]) -> CorrelationSums {
    CorrelationSums {
        entries,
        concordant_minus_discordant: counts[0],
        tied_x: counts[1] as u64,
        tied_y: counts[2] as u64,
        rank_products: [counts[3], counts[4], counts[5]].map(i128::from),
        deviation_products: [moments[0], moments[1], moments[2]],
    }
}
