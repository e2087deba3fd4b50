//! Most and least similar other image of every image: argmax and argmin of s_A, ties to the lowest index.
//!
//! With caption vectors this is a product of N x N x width (605 GFLOP for 31,750 images of width 300). It is
//! computed in blocks that are searched and discarded. The product sums in another order than
//! [`Similarity::get`], so it only proposes candidates: `get` decides among those within rounding error of
//! the best.
//!
//! ```text
//! for y in ascending order:
//!     if product[x, y] > best - margin and get(x, y) > best { best = get(x, y), at y }
//! ```

use std::ops::Range;

use rayon::prelude::*;
use scenerank_matmul::{Accumulate, MatMut, MatRef, Packed};

use crate::data::similarity::Similarity;

/// Anchors per block of the product; each block is one task.
const BLOCK_ROWS: usize = 96;
/// Columns per block: with [`BLOCK_ROWS`], 384 KiB of products, which stay in the L2 cache.
const BLOCK_COLUMNS: usize = 1024;

/// Images of an `extreme` triple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extremes {
    /// argmax of s_A.
    pub(super) positive: u32,
    /// argmin of s_A. If all similarities are equal, the lowest index other than the positive.
    pub(super) negative: u32,
}

/// Extremes of every image in `images`, in order. Requires at least three images.
pub(super) fn extremes(similarity: Similarity<'_>, images: &Range<usize>) -> Vec<Extremes> {
    match similarity {
        Similarity::Factored { vectors, width } => {
            factored(similarity, &vectors[images.start * width..images.end * width], width, images)
        }
        Similarity::MatrixF32 { .. } | Similarity::MatrixF16 { .. } => images
            .clone()
            .into_par_iter()
            .map(|anchor| {
                let mut search = Search::new(similarity, anchor);
                images.clone().filter(|&image| image != anchor).for_each(|image| search.consider(image));
                search.finish(images)
            })
            .collect(),
    }
}

/// Extremes from blocks of the product of the images' caption vectors, `[images, width]`.
fn factored(
    similarity: Similarity<'_>,
    vectors: &[f32],
    width: usize,
    images: &Range<usize>,
) -> Vec<Extremes> {
    let count = images.len();
    let all = MatRef::new(vectors, count, width);
    // Bound on the difference between two summation orders: 2 width eps |m_X| |m_Y|.
    let largest_square =
        vectors.chunks_exact(width).map(|m| m.iter().map(|v| v * v).sum()).fold(0.0, f32::max);
    let margin = 2.0 * width as f32 * f32::EPSILON * largest_square;

    let mut searches: Vec<Search> = images.clone().map(|anchor| Search::new(similarity, anchor)).collect();
    let mut right = Packed::default();
    for left in (0..count).step_by(BLOCK_COLUMNS) {
        let columns = left..count.min(left + BLOCK_COLUMNS);
        right.pack(all.row_range(columns.clone()).transpose());
        searches.par_chunks_mut(BLOCK_ROWS).enumerate().for_each_init(
            Vec::new,
            |product, (block, searches)| {
                let first = block * BLOCK_ROWS;
                product.resize(searches.len() * columns.len(), 0.0f32);
                let to = MatMut::new(product, searches.len(), columns.len());
                right.multiply(to, Accumulate::Replace, all.row_range(first..first + searches.len()));
                for (search, row) in searches.iter_mut().zip(product.chunks_exact(columns.len())) {
                    search.consider_block(images.start + left, row, margin);
                }
            },
        );
    }
    searches.into_par_iter().map(|search| search.finish(images)).collect()
}

/// Extremes of one anchor's row among the images visited so far, in ascending order.
struct Search<'a> {
    similarity: Similarity<'a>,
    anchor: usize,
    largest: f32,
    largest_at: usize,
    smallest: f32,
    smallest_at: usize,
}

impl<'a> Search<'a> {
    fn new(similarity: Similarity<'a>, anchor: usize) -> Self {
        let (largest, smallest) = (f32::NEG_INFINITY, f32::INFINITY);
        Search { similarity, anchor, largest, largest_at: anchor, smallest, smallest_at: anchor }
    }

    /// Considers one image. Comparisons are strict, so the lowest index wins a tie.
    fn consider(&mut self, image: usize) {
        let s = self.similarity.get(self.anchor, image);
        if s > self.largest {
            (self.largest, self.largest_at) = (s, image);
        }
        if s < self.smallest {
            (self.smallest, self.smallest_at) = (s, image);
        }
    }

    /// Considers the images from `first` on whose approximate similarity is within `margin` of an extreme.
    fn consider_block(&mut self, first: usize, products: &[f32], margin: f32) {
        for (image, &product) in (first..).zip(products) {
            // Similarities are clamped to [0, 1]: an extreme at a bound cannot be exceeded.
            let maybe_largest = product > self.largest - margin && self.largest < 1.0;
            let maybe_smallest = product < self.smallest + margin && self.smallest > 0.0;
            if (maybe_largest || maybe_smallest) && image != self.anchor {
                self.consider(image);
            }
        }
    }

    fn finish(self, images: &Range<usize>) -> Extremes {
        let positive = self.largest_at;
        // One image is both extremes only if all similarities are equal.
        let negative = if self.smallest_at == positive {
            images.clone().find(|&image| image != self.anchor && image != positive).expect("three images")
        } else {
            self.smallest_at
        };
        Extremes { positive: positive as u32, negative: negative as u32 }
    }
}
