//! cosine_ranks: at which rank each query finds its own image (`kernels/cosine_ranks.cu`).

use super::inner_products::{SIDE, THREADS};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::{Device, Grid, check_len};
use crate::error::Result;

pub(crate) const KERNELS: &[&str] = &["cosine_ranks"];

/// As in the kernel: rows that one block goes through.
const PART_ROWS: usize = 8 * SIDE;

/// What is ranked.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// `[Q, D]`.
    pub queries: Slice<'a, f32>,
    /// `[n, D]`.
    pub index: Slice<'a, f32>,
    /// `[Q] -> row of index`, below n.
    pub truth: Slice<'a, i32>,
    /// n.
    pub rows: usize,
    /// D.
    pub width: usize,
}

/// `ranks [Q]`, from 1: the rows whose inner product with the query is at least that of its true row.
pub fn cosine_ranks(device: &Device, ranks: &mut SliceMut<'_, i32>, of: Queries<'_>) -> Result<()> {
    let count = ranks.len();
    check_len("cosine_ranks: queries", of.queries.len(), count * of.width);
    check_len("cosine_ranks: index", of.index.len(), of.rows * of.width);
    check_len("cosine_ranks: truth", of.truth.len(), count);
    assert!(count == 0 || of.rows > 0, "cosine_ranks: a true row among none");
    if count == 0 {
        return Ok(());
    }
    // Blocks add their counts.
    device.zero(ranks.slice_mut(0..count))?;
    let blocks = count.div_ceil(SIDE) * of.rows.div_ceil(PART_ROWS);
    let arguments = [
        ranks.into(),
        of.queries.into(),
        of.index.into(),
        of.truth.into(),
        count.into(),
        of.rows.into(),
        of.width.into(),
    ];
    // SAFETY: as in kernels/cosine_ranks.cu; lengths were checked, and that true rows exist is what `truth` says; the
    // ranks are borrowed mutably and alone written.
    unsafe { device.launch_positional("cosine_ranks", Grid::rows(blocks, THREADS), &arguments) }
}

/// The same with the true rows on the host, all below `rows`.
pub(crate) fn ranks_of_rows(
    device: &Device,
    queries: Slice<'_, f32>,
    index: Slice<'_, f32>,
    rows: usize,
    width: usize,
    truth: &[u32],
) -> Result<Vec<u32>> {
    let truth: Vec<i32> = truth
        .iter()
        .map(|&row| {
            assert!((row as usize) < rows, "true row {row} of {rows}");
            row as i32
        })
        .collect();
    let mut on_device = device.allocate_unwritten(truth.len())?;
    device.upload(&truth, on_device.slice_mut(0..truth.len()))?;
    let mut ranks = device.allocate_unwritten::<i32>(truth.len())?;
    let of = Queries { queries, index, truth: on_device.slice(0..truth.len()), rows, width };
    cosine_ranks(device, &mut ranks.slice_mut(0..truth.len()), of)?;
    Ok(device.download(&ranks, 0..truth.len())?.into_iter().map(|rank| rank as u32).collect())
}
