//! draw_triples: draws the triples of an epoch by rejection sampling (`kernels/draw_triples.cu`).

use std::ops::Range;

use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::{Device, check_len};
use crate::batch::triples::Sampling;
use crate::error::Result;

kernel_arguments! {
    struct DrawTriples {
        /// `[count] -> image` positives, overwritten.
        positive: PointerMut<i32>,
        /// `[count] -> image` negatives, overwritten.
        negative: PointerMut<i32>,
        /// `[count]` similarity of anchor and positive, overwritten.
        similarity_positive: PointerMut<f32>,
        /// `[count]` similarity of anchor and negative, overwritten.
        similarity_negative: PointerMut<f32>,
        /// `[count] -> image` anchors.
        anchors: Pointer<i32>,
        /// `[all images, width]` caption vectors.
        caption_vectors: Pointer<f32>,
        count: i32,
        first: i32,
        images: i32,
        width: i32,
        seed_low: u32,
        seed_high: u32,
        epoch: u32,
        reserved: i32,
    }
}

/// Threads of a block, as in the kernels.
const THREADS: u32 = 128;
const WARP_LANES: usize = 32;

const DRAW_RANDOM: Kernel<DrawTriples> = Kernel::new("draw_random", [THREADS, 1, 1]);
const DRAW_PROBABILITY: Kernel<DrawTriples> = Kernel::new("draw_probability", [THREADS, 1, 1]);
const DRAW_REJECT: Kernel<DrawTriples> = Kernel::new("draw_reject", [THREADS, 1, 1]);

/// Kernels of `kernels/draw_triples.cu`.
pub(crate) const FILE: KernelFile = KernelFile {
    name: "draw_triples",
    kernels: &[DRAW_RANDOM.info(), DRAW_PROBABILITY.info(), DRAW_REJECT.info()],
};

/// Anchors, and the images from which their triples are drawn.
#[derive(Clone, Debug)]
pub struct Anchors<'a> {
    /// `[A] -> image` anchors, all of them among `images`.
    pub anchors: Slice<'a, i32>,
    /// `[all images, W]` caption vectors: s_XY is the inner product of two rows, clamped to [0, 1].
    pub caption_vectors: Slice<'a, f32>,
    /// Width of a caption vector, W.
    pub width: usize,
    /// Training images, at least three, as rows of `caption_vectors`.
    pub images: Range<usize>,
}

/// Triples, one per anchor.
#[derive(Debug)]
pub struct Triples<'a> {
    /// `[A] -> image` positives P, or -1 if rejection found none and the CPU's sampler must draw.
    pub positive: SliceMut<'a, i32>,
    /// `[A] -> image` negatives N, or -1 where P is -1.
    pub negative: SliceMut<'a, i32>,
    /// `[A]` similarities s_AP, or NaN.
    pub similarity_positive: SliceMut<'a, f32>,
    /// `[A]` similarities s_AN, or NaN.
    pub similarity_negative: SliceMut<'a, f32>,
}

/// Kernel of a strategy; `extreme` does not draw and has none.
fn kernel(sampling: Sampling) -> Option<&'static Kernel<DrawTriples>> {
    match sampling {
        Sampling::Random => Some(&DRAW_RANDOM),
        Sampling::Extreme => None,
        Sampling::Probability => Some(&DRAW_PROBABILITY),
        Sampling::Reject => Some(&DRAW_REJECT),
    }
}

/// Writes the same triples that [`TripleSampler`](crate::batch::triples::TripleSampler) draws for these
/// anchors in this epoch, except those that need a whole row. Panics for `extreme`.
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
    let arguments = DrawTriples {
        positive: (&mut triples.positive).into(),
        negative: (&mut triples.negative).into(),
        similarity_positive: (&mut triples.similarity_positive).into(),
        similarity_negative: (&mut triples.similarity_negative).into(),
        anchors: of.anchors.into(),
        caption_vectors: of.caption_vectors.into(),
        count: int(count),
        first: int(of.images.start),
        images: int(of.images.len()),
        width: int(of.width),
        seed_low: seed as u32,
        seed_high: (seed >> 32) as u32,
        epoch,
        reserved: 0,
    };
    // SAFETY: lengths were checked, and the caller guarantees that anchors are images; everything written is
    // borrowed mutably.
    unsafe { device.launch(kernel, Blocks::cover(WARP_LANES * count, kernel), &arguments) }
}
