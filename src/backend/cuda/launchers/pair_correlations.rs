//! pair_correlations: what the rank correlations of all pairs of images follow from (`kernels/pair_correlations.cu`).
//!
//! ```text
//! for each strip: keys of its pairs above the diagonal       (pair_keys)
//! sums, deviations from the means                            (pair_correlations)
//! by x, then by y: sort tiles, merge them, rank
//! products of the ranks
//! ```

use std::mem::swap;
use std::ops::Range;

use super::strips::{Strips, for_each_strip};
use crate::backend::correlation_sums::CorrelationSums;
use crate::backend::cuda::device::buffer::{Buffer, SliceMut};
use crate::backend::cuda::device::{Argument, Device, Grid, check_len};
use crate::data::similarity::Similarity;
use crate::error::Result;

pub(crate) const KERNELS: &[&str] = &[
    "pair_keys",
    "pair_sums",
    "pair_deviations",
    "pair_sort_tiles",
    "pair_merge",
    "pair_ranks",
    "pair_rank_products",
];

/// As in the kernels.
const THREADS: u32 = 256;
/// Pairs that a block sorts, or makes of two runs: as in the kernels.
pub const TILE: usize = 2048;
/// Keys of a pair.
pub const KEYS: usize = 2;
/// Counts of all: of either round three, of three products two halves each.
pub const COUNTS: usize = 12;
/// Sums of a block.
pub const MOMENTS: usize = 5;

/// The most pairs: products of ranks stay below 2^63. Those of 65,536 images.
const MOST_PAIRS: usize = (1 << 31) - 1;
/// Blocks that sum: they fill any device, and their sums are few.
const MOST_SUMMING_BLOCKS: usize = 1024;

/// Pairs of so many images.
pub fn pair_count(images: usize) -> usize {
    images * images.saturating_sub(1) / 2
}

/// How many blocks sum so many pairs.
pub fn summing_blocks(pairs: usize) -> usize {
    pairs.div_ceil(TILE).min(MOST_SUMMING_BLOCKS)
}

/// The keys of the strips' pairs above the diagonal into their places in `pairs [n, 2]`.
pub fn pair_keys(device: &Device, pairs: &mut SliceMut<'_, i64>, of: Strips<'_>) -> Result<()> {
    of.check("pair_keys: similarities");
    check_len("pair_keys: pairs", pairs.len(), KEYS * pair_count(of.columns));
    if of.rows() == 0 {
        return Ok(());
    }
    let arguments =
        [pairs.into(), of.scores.into(), of.similarities.into(), of.columns.into(), of.first_row.into()];
    // SAFETY: as in kernels/pair_correlations.cu; lengths were checked; the pairs are borrowed mutably and alone written.
    unsafe { device.launch_positional("pair_keys", Grid::rows(of.rows(), THREADS), &arguments) }
}

/// Into `counts [12]` and `moments [P, 5]`, P of [`summing_blocks`], of `pairs [n, 2]`, which become pairs of ranks, there
/// or in `scratch [n, 2]`.
pub fn pair_correlations(
    device: &Device,
    counts: &mut SliceMut<'_, i64>,
    moments: &mut SliceMut<'_, f64>,
    pairs: SliceMut<'_, i64>,
    scratch: SliceMut<'_, i64>,
) -> Result<()> {
    let n = pairs.len() / KEYS;
    let (tiles, blocks) = (n.div_ceil(TILE), summing_blocks(n));
    assert!(n <= MOST_PAIRS, "pair_correlations: {n} pairs");
    check_len("pair_correlations: scratch", scratch.len(), KEYS * n);
    check_len("pair_correlations: counts", counts.len(), COUNTS);
    check_len("pair_correlations: moments", moments.len(), MOMENTS * blocks);
    // Blocks add their counts.
    device.zero(counts.slice_mut(0..COUNTS))?;
    if n == 0 {
        return Ok(());
    }
    let entries = Argument::Long(n as i64);
    for kernel in ["pair_sums", "pair_deviations"] {
        let arguments = [(&mut *moments).into(), pairs.as_slice().into(), entries];
        // SAFETY: as in kernels/pair_correlations.cu; lengths were checked; moments are borrowed mutably and alone
        // written, the second time after the first.
        unsafe { device.launch_positional(kernel, Grid::rows(blocks, THREADS), &arguments) }?;
    }
    let grid = Grid::rows(tiles, THREADS);
    let (mut from, mut to) = (pairs, scratch);
    for round in 0..2 {
        let mut inversions = counts.slice_mut(3 * round..3 * round + 1);
        let arguments = [(&mut from).into(), (&mut inversions).into(), entries];
        // SAFETY: as in kernels/pair_correlations.cu; lengths were checked; what is written is borrowed mutably, here and
        // in the launches below.
        unsafe { device.launch_positional("pair_sort_tiles", grid, &arguments) }?;
        let mut run = TILE;
        while run < n {
            let run_length = Argument::Long(run as i64);
            let arguments =
                [(&mut to).into(), (&mut inversions).into(), from.as_slice().into(), entries, run_length];
            // SAFETY: as above; `from` consists of sorted runs of this length.
            unsafe { device.launch_positional("pair_merge", grid, &arguments) }?;
            swap(&mut from, &mut to);
            run *= 2;
        }
        let mut ties = counts.slice_mut(3 * round + 1..3 * round + 3);
        let arguments = [(&mut to).into(), (&mut ties).into(), from.as_slice().into(), entries];
        // SAFETY: as above; `from` is sorted.
        unsafe { device.launch_positional("pair_ranks", grid, &arguments) }?;
        swap(&mut from, &mut to);
    }
    let mut products = counts.slice_mut(6..COUNTS);
    let arguments = [(&mut products).into(), from.as_slice().into(), entries];
    // SAFETY: as above.
    unsafe { device.launch_positional("pair_rank_products", grid, &arguments) }
}

/// What the correlations of n pairs follow from, by what the kernels wrote.
pub fn correlation_sums(n: usize, counts: &[i64], moments: &[f64]) -> CorrelationSums {
    let n = n as u64;
    let [_, tied_x, tied_both, discordant, tied_y] = [counts[0], counts[1], counts[2], counts[3], counts[4]];
    let all = (n * n.saturating_sub(1) / 2) as i64;
    let product = |at: usize| (i128::from(counts[at]) << 32) + i128::from(counts[at + 1]);
    let moment =
        |which: usize| -> f64 { moments.chunks_exact(MOMENTS).map(|of_block| of_block[which]).sum() };
    CorrelationSums {
        entries: n,
        // n (n - 1) / 2 is below 2^61.
        concordant_minus_discordant: all - tied_x - tied_y + tied_both - 2 * discordant,
        tied_x: tied_x as u64,
        tied_y: tied_y as u64,
        rank_products: [product(6), product(8), product(10)],
        deviation_products: [moment(2), moment(3), moment(4)],
    }
}

/// The sums of all pairs of rows of `embeddings [n, width]` against `similarity` over `images`, of which there are n; None
/// where they do not fit in the device's memory, 32 bytes a pair, or in the kernels' integers.
pub(crate) fn all_pairs(
    device: &Device,
    embeddings: &Buffer<f32>,
    width: usize,
    similarity: Similarity<'_>,
    images: Range<usize>,
) -> Result<Option<CorrelationSums>> {
    let n = pair_count(images.len());
    if n > MOST_PAIRS || 2 * KEYS * n * size_of::<i64>() > device.free_bytes()? {
        return Ok(None);
    }
    let mut pairs = device.allocate_unwritten::<i64>(KEYS * n)?;
    for_each_strip(device, embeddings, width, similarity, images, |strips| {
        pair_keys(device, &mut pairs.slice_mut(0..KEYS * n), strips)
    })?;
    let mut scratch = device.allocate_unwritten::<i64>(KEYS * n)?;
    let mut counts = device.allocate_unwritten::<i64>(COUNTS)?;
    let moment_count = MOMENTS * summing_blocks(n);
    let mut moments = device.allocate_unwritten::<f64>(moment_count)?;
    pair_correlations(
        device,
        &mut counts.slice_mut(0..COUNTS),
        &mut moments.slice_mut(0..moment_count),
        pairs.slice_mut(0..KEYS * n),
        scratch.slice_mut(0..KEYS * n),
    )?;
    let counts = device.download(&counts, 0..COUNTS)?;
    Ok(Some(correlation_sums(n, &counts, &device.download(&moments, 0..moment_count)?)))
}
