//! row_correlations: what a row's rank correlations follow from (`kernels/row_correlations.cu`), and the strips of rows
//! that a whole matrix is cut into.
//!
//! ```text
//! strip of scores       = rows first.. of f f^T        (inner_products)
//! strip of similarities = rows first.. of m m^T, or as they are stored
//! sums of each row of the two strips                   (row_correlations)
//! ```

use std::ops::Range;

use super::buffer::{Buffer, Slice, SliceMut};
use super::device::{Device, Grid, check_len};
use super::inner_products::inner_products;
use crate::backend::row_sums::RowSums;
use crate::data::similarity::{Similarity, not_a_number};
use crate::error::{Error, Result};

pub(super) const KERNELS: &[&str] = &["row_correlations"];

/// As in the kernel.
const THREADS: u32 = 256;
/// Numbers of a row.
pub const COUNTS: usize = 6;
/// Sums of a row.
pub const MOMENTS: usize = 3;

/// The most columns: sums of squares of ranks stay below 2^63 (n^3 / 3 for n of them).
const MOST_COLUMNS: usize = 1 << 21;

/// Values of a strip, as many rows as fit: 32 MiB each of scores and of similarities, thousands of rows of a thousand.
const STRIP_VALUES: usize = 1 << 22;

/// What a launch reads.
#[derive(Clone, Copy, Debug)]
pub struct Strips<'a> {
    /// `[R, columns]`.
    pub scores: Slice<'a, f64>,
    /// `[R, columns]`, clamped to 0..1 where they are read.
    pub similarities: Slice<'a, f64>,
    /// All images.
    pub columns: usize,
    /// The image of the first row, whose entry with itself is left out.
    pub first_row: usize,
}

/// Into `counts [R, 6]` and `moments [R, 3]`.
pub fn row_correlations(
    device: &Device,
    counts: &mut SliceMut<'_, i64>,
    moments: &mut SliceMut<'_, f64>,
    of: Strips<'_>,
) -> Result<()> {
    let rows = of.scores.len().checked_div(of.columns).unwrap_or(0);
    assert!(of.columns <= MOST_COLUMNS, "row_correlations: {} columns", of.columns);
    assert!(of.first_row + rows <= of.columns, "rows {} + {rows} of {}", of.first_row, of.columns);
    check_len("row_correlations: similarities", of.similarities.len(), rows * of.columns);
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
    unsafe { device.launch("row_correlations", Grid::rows(rows, THREADS), &arguments) }
}

/// The sums of all rows of `embeddings [n, width]` against `similarity` over `images`, of which there are n; `done` is
/// told the number of rows after each strip.
pub(super) fn all_rows(
    device: &Device,
    embeddings: &Buffer<f32>,
    width: usize,
    similarity: Similarity<'_>,
    images: Range<usize>,
    done: &dyn Fn(usize),
) -> Result<Vec<RowSums>> {
    let columns = images.len();
    if columns > MOST_COLUMNS {
        return Err(Error::argument(
            "embeddings",
            format!("{columns} rows, at most {MOST_COLUMNS} are compared with each other"),
            "evaluate fewer images, or use --device cpu",
        ));
    }
    let strip_rows = (STRIP_VALUES / columns.max(1)).clamp(1, columns.max(1));
    let mut scores = device.allocate_unwritten::<f64>(strip_rows * columns)?;
    let mut similarities = device.allocate_unwritten::<f64>(strip_rows * columns)?;
    let mut counts = device.allocate_unwritten::<i64>(strip_rows * COUNTS)?;
    let mut moments = device.allocate_unwritten::<f64>(strip_rows * MOMENTS)?;
    let rows_of_similarity = SimilarityRows::new(device, similarity, images)?;
    let mut all = Vec::with_capacity(columns);
    while all.len() < columns {
        let first_row = all.len();
        let rows = strip_rows.min(columns - first_row);
        let mut x = scores.slice_mut(0..rows * columns);
        inner_products(device, &mut x, embeddings.slice(0..columns * width), first_row, columns, width)?;
        let mut y = similarities.slice_mut(0..rows * columns);
        rows_of_similarity.strip(device, &mut y, first_row)?;
        let of = Strips { scores: x.as_slice(), similarities: y.as_slice(), columns, first_row };
        let (mut to, mut sums_to) =
            (counts.slice_mut(0..rows * COUNTS), moments.slice_mut(0..rows * MOMENTS));
        row_correlations(device, &mut to, &mut sums_to, of)?;
        let counts = device.download(&counts, 0..rows * COUNTS)?;
        let moments = device.download(&moments, 0..rows * MOMENTS)?;
        let by_row = counts.chunks_exact(COUNTS).zip(moments.chunks_exact(MOMENTS));
        all.extend(by_row.map(|(counts, moments)| row_sums(columns as u64 - 1, counts, moments)));
        done(rows);
    }
    Ok(all)
}

/// A row's numbers as the kernel writes them.
fn row_sums(entries: u64, counts: &[i64], moments: &[f64]) -> RowSums {
    RowSums {
        entries,
        concordant_minus_discordant: counts[0],
        tied_x: counts[1] as u64,
        tied_y: counts[2] as u64,
        rank_products: [counts[3], counts[4], counts[5]],
        deviation_products: [moments[0], moments[1], moments[2]],
    }
}

/// Strips of the similarities of a range of images.
enum SimilarityRows<'a> {
    /// `[n, width]` caption vectors on the device.
    Factored { vectors: Buffer<f32>, images: usize, width: usize },
    /// A matrix on the host.
    Stored { similarity: Similarity<'a>, images: Range<usize> },
}

impl<'a> SimilarityRows<'a> {
    fn new(device: &Device, similarity: Similarity<'a>, images: Range<usize>) -> Result<Self> {
        match similarity {
            Similarity::Factored { vectors, width } => {
                let vectors = &vectors[images.start * width..images.end * width];
                if let Some(at) = vectors.iter().position(|value| value.is_nan()) {
                    return Err(not_a_number(images.start, images.start + (at / width).max(1)));
                }
                let mut buffer = device.allocate_unwritten(vectors.len())?;
                device.upload(vectors, buffer.slice_mut(0..vectors.len()))?;
                Ok(SimilarityRows::Factored { vectors: buffer, images: images.len(), width })
            }
            Similarity::MatrixF32 { .. } | Similarity::MatrixF16 { .. } => {
                Ok(SimilarityRows::Stored { similarity, images })
            }
        }
    }

    /// Fills `strip` with rows from `first_row` on.
    fn strip(&self, device: &Device, strip: &mut SliceMut<'_, f64>, first_row: usize) -> Result<()> {
        match self {
            SimilarityRows::Factored { vectors, images, width } => {
                let vectors = vectors.slice(0..vectors.len());
                inner_products(device, strip, vectors, first_row, *images, *width)
            }
            SimilarityRows::Stored { similarity, images } => {
                let rows = strip.len() / images.len();
                let mut values = Vec::with_capacity(strip.len());
                let start = images.start + first_row;
                for x in start..start + rows {
                    values.extend(images.clone().map(|y| f64::from(similarity.get(x, y))));
                    let row = &values[values.len() - images.len()..];
                    let is_nan = |y: &usize| row[y - images.start].is_nan() && *y != x;
                    if let Some(y) = images.clone().find(is_nan) {
                        return Err(not_a_number(x, y));
                    }
                }
                device.upload(&values, strip.slice_mut(0..values.len()))
            }
        }
    }
}
