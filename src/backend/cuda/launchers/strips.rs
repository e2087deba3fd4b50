//! Strips of rows of the matrices of scores and of similarities.
//!
//! ```text
//! strip of scores       = rows first.. of f f^T        (inner_products)
//! strip of similarities = rows first.. of m m^T, or of a stored matrix
//! ```

use std::ops::Range;

use super::inner_products::inner_products;
use crate::backend::cuda::device::buffer::{Buffer, Slice, SliceMut};
use crate::backend::cuda::device::{Device, check_len};
use crate::data::similarity::{Similarity, not_a_number};
use crate::error::Result;

/// Largest number of values in a strip of more than one row: 32 MiB each for scores and similarities.
const STRIP_VALUES: usize = 1 << 22;

/// A strip: the same rows of both matrices.
#[derive(Clone, Copy, Debug)]
pub struct Strips<'a> {
    /// `[R, columns]` scores.
    pub scores: Slice<'a, f64>,
    /// `[R, columns]` similarities; kernels clamp them to [0, 1].
    pub similarities: Slice<'a, f64>,
    /// Number of images.
    pub columns: usize,
    /// Image of the first row. The entry of a row with itself is left out.
    pub first_row: usize,
}

impl Strips<'_> {
    /// Number of rows, R.
    pub fn rows(&self) -> usize {
        self.scores.len().checked_div(self.columns).unwrap_or(0)
    }

    /// Panics unless both arrays hold the same rows of square matrices.
    #[track_caller]
    pub(crate) fn check(&self, launcher: &str) {
        let rows = self.rows();
        assert!(
            self.first_row + rows <= self.columns,
            "{launcher}: rows {} + {rows} of {}",
            self.first_row,
            self.columns
        );
        check_len(launcher, self.similarities.len(), rows * self.columns);
    }
}

/// Number of rows in a strip of `columns` columns.
pub(crate) fn strip_rows(columns: usize) -> usize {
    (STRIP_VALUES / columns.max(1)).clamp(1, columns.max(1))
}

/// Calls `visit` for each strip, in order, of the scores of `embeddings [n, width]` and of `similarity` over
/// the n `images`.
pub(crate) fn for_each_strip(
    device: &Device,
    embeddings: &Buffer<f32>,
    width: usize,
    similarity: Similarity<'_>,
    images: Range<usize>,
    mut visit: impl FnMut(Strips<'_>) -> Result<()>,
) -> Result<()> {
    let columns = images.len();
    let most_rows = strip_rows(columns);
    let mut scores = device.allocate_unwritten::<f64>(most_rows * columns)?;
    let mut similarities = device.allocate_unwritten::<f64>(most_rows * columns)?;
    let rows_of_similarity = SimilarityRows::new(device, similarity, images)?;
    for first_row in (0..columns).step_by(most_rows) {
        let rows = most_rows.min(columns - first_row);
        let mut x = scores.slice_mut(0..rows * columns);
        inner_products(device, &mut x, embeddings.slice(0..columns * width), first_row, columns, width)?;
        let mut y = similarities.slice_mut(0..rows * columns);
        rows_of_similarity.strip(device, &mut y, first_row)?;
        visit(Strips { scores: x.as_slice(), similarities: y.as_slice(), columns, first_row })?;
    }
    Ok(())
}

/// Source of the similarity strips for a range of images.
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
                Ok(SimilarityRows::Factored {
                    vectors: device.allocate_copy(vectors)?,
                    images: images.len(),
                    width,
                })
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
