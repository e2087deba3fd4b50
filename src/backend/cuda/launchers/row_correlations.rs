//! row_correlations: what a row's rank correlations follow from (`kernels/row_correlations.cu`).

use std::ops::Range;

use super::strips::{Strips, for_each_strip, strip_rows};
use crate::backend::correlation_sums::CorrelationSums;
use crate::backend::cuda::device::buffer::{Buffer, SliceMut};
use crate::backend::cuda::device::{Device, Grid, check_len};
use crate::data::similarity::Similarity;
use crate::error::{Error, Result};

pub(crate) const KERNELS: &[&str] = &["row_correlations"];

/// As in the kernel.
const THREADS: u32 = 256;
/// Numbers of a row.
pub const COUNTS: usize = 6;
/// Sums of a row.
pub const MOMENTS: usize = 3;

/// The most columns: sums of squares of ranks stay below 2^63 (n^3 / 3 for n of them).
const MOST_COLUMNS: usize = 1 << 21;

/// Into `counts [R, 6]` and `moments [R, 3]`.
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
    let arguments = [
        counts.into(),
        moments.into(),
        of.scores.into(),
        of.similarities.into(),
        of.columns.into(),
        of.first_row.into(),
    ];
    // SAFETY: as in kernels/row_correlations.cu; lengths were checked; what is written is borrowed mutably.
    unsafe { device.launch_positional("row_correlations", Grid::rows(rows, THREADS), &arguments) }
}

/// The sums of all rows of `embeddings [n, width]` against `similarity` over `images`, of which there are n; `done` is
/// told the number of rows after each strip.
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

/// A row's numbers as the kernel writes them.
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
