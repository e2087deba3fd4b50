//! draw_triples: an epoch's triples, drawn by rejection (`kernels/draw_triples.cu`).

use std::ops::Range;

use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::{Argument, Device, Grid, check_len};
use crate::batch::triples::Sampling;
use crate::error::Result;

pub(crate) const KERNELS: &[&str] = &["draw_random", "draw_probability", "draw_reject"];

const THREADS: u32 = 128;

/// Whose triples, by which similarities.
#[derive(Clone, Debug)]
pub struct Anchors<'a> {
    /// `[A] -> image`, all of them among `images`.
    pub anchors: Slice<'a, i32>,
    /// `[images, W]`: s_XY is the inner product of two rows, clamped to [0, 1].
    pub caption_vectors: Slice<'a, f32>,
    /// W.
    pub width: usize,
    /// The training images, at least three, as rows of `caption_vectors`.
    pub images: Range<usize>,
}

/// Triples, one per anchor.
#[derive(Debug)]
pub struct Triples<'a> {
    /// `[A] -> image`: P, or -1 where rejection came to no end, and the CPU's sampler must draw.
    pub positive: SliceMut<'a, i32>,
    /// `[A] -> image`: N, or -1 likewise.
    pub negative: SliceMut<'a, i32>,
    /// `[A]`: s_AP, or NaN.
    pub similarity_positive: SliceMut<'a, f32>,
    /// `[A]`: s_AN, or NaN.
    pub similarity_negative: SliceMut<'a, f32>,
}

/// The kernel of a strategy; `extreme` draws nothing, and has none.
fn kernel(sampling: Sampling) -> Option<&'static str> {
    match sampling {
        Sampling::Random => Some("draw_random"),
        Sampling::Extreme => None,
        Sampling::Probability => Some("draw_probability"),
        Sampling::Reject => Some("draw_reject"),
    }
}

/// The triples that [`TripleSampler`](crate::batch::triples::TripleSampler) draws for these anchors in this epoch, but
/// for those that need a whole row. Panics for `extreme`.
pub fn draw_triples(
    device: &Device,
    triples: &mut Triples<'_>,
    of: Anchors<'_>,
    sampling: Sampling,
    seed: u64,
    epoch: u32,
) -> Result<()> {
    let kernel = kernel(sampling).expect("a strategy that draws");
    let count = of.anchors.len();
    assert!(of.images.len() >= 3, "a triple needs three images");
    check_len("draw_triples: positive", triples.positive.len(), count);
    check_len("draw_triples: negative", triples.negative.len(), count);
    check_len("draw_triples: similarity_positive", triples.similarity_positive.len(), count);
    check_len("draw_triples: similarity_negative", triples.similarity_negative.len(), count);
    check_len("draw_triples: caption_vectors", of.caption_vectors.len(), of.images.end * of.width);
    if count == 0 {
        return Ok(());
    }
    let bits = |word: u32| Argument::Int(word.cast_signed());
    let arguments = [
        (&mut triples.positive).into(),
        (&mut triples.negative).into(),
        (&mut triples.similarity_positive).into(),
        (&mut triples.similarity_negative).into(),
        of.anchors.into(),
        of.caption_vectors.into(),
        count.into(),
        of.images.start.into(),
        of.images.len().into(),
        of.width.into(),
        bits(seed as u32),
        bits((seed >> 32) as u32),
        bits(epoch),
    ];
    // SAFETY: as in kernels/draw_triples.cu, alike for all; lengths were checked; anchors are images, as the caller promises
    // of the batch's lists too; what is written is borrowed mutably.
    unsafe { device.launch_positional(kernel, Grid::cover(32 * count, THREADS), &arguments) }
}
