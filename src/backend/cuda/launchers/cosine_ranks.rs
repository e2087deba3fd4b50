//! cosine_ranks: the rank of each query's own image (`kernels/cosine_ranks.cu`).

use super::inner_products::{SIDE, THREADS};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;

kernel_arguments! {
    struct CosineRanks {
        /// `[query_count]` ranks, from 1; blocks add to them.
        ranks: PointerMut<i32>,
        /// `[query_count, width]` queries.
        queries: Pointer<f32>,
        /// `[rows, width]` rows to search.
        index: Pointer<f32>,
        /// `[query_count] -> row of index` true row of each query.
        truth: Pointer<i32>,
        query_count: i32,
        rows: i32,
        width: i32,
        reserved: i32,
    }
}

/// Rows processed by one block, as in the kernel.
const PART_ROWS: usize = 8 * SIDE;

const COSINE_RANKS: Kernel<CosineRanks> = Kernel::new("cosine_ranks", [THREADS, 1, 1]);

/// Kernel of `kernels/cosine_ranks.cu`.
pub(crate) const FILE: KernelFile = KernelFile { name: "cosine_ranks", kernels: &[COSINE_RANKS.info()] };

/// Queries, and the rows among which they are ranked.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// `[Q, D]` queries.
    pub queries: Slice<'a, f32>,
    /// `[n, D]` rows to search.
    pub index: Slice<'a, f32>,
    /// `[Q] -> row of index` true row of each query, below n.
    pub truth: Slice<'a, i32>,
    /// Number of rows, n.
    pub rows: usize,
    /// Width of a row, D.
    pub width: usize,
}

/// Writes `ranks [Q]`, from 1: the number of rows whose inner product with the query is at least that of its true row.
pub fn cosine_ranks(device: &Device, ranks: &mut SliceMut<'_, i32>, of: Queries<'_>) -> Result<()> {
    let count = ranks.len();
    check_len("cosine_ranks: queries", of.queries.len(), count * of.width);
    check_len("cosine_ranks: index", of.index.len(), of.rows * of.width);
    check_len("cosine_ranks: truth", of.truth.len(), count);
    assert!(count == 0 || of.rows > 0, "cosine_ranks: a true row among none");
    if count == 0 {
        return Ok(());
    }
    // Blocks add to the ranks, so these start as zeros.
    device.zero(ranks.slice_mut(0..count))?;
    let blocks = count.div_ceil(SIDE) * of.rows.div_ceil(PART_ROWS);
    let arguments = CosineRanks {
        ranks: ranks.into(),
        queries: of.queries.into(),
        index: of.index.into(),
        truth: of.truth.into(),
        query_count: int(count),
        rows: int(of.rows),
        width: int(of.width),
        reserved: 0,
    };
    // SAFETY: lengths were checked, and true rows exist, as `truth` promises; only `ranks` is written, which is borrowed
    // mutably.
    unsafe { device.launch(&COSINE_RANKS, Blocks::rows(blocks), &arguments) }
}

/// Ranks for true rows given on the host, all below `rows`.
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
    let on_device = device.allocate_copy(&truth)?;
    let mut ranks = device.allocate_unwritten::<i32>(truth.len())?;
    let of = Queries { queries, index, truth: on_device.slice(0..truth.len()), rows, width };
    cosine_ranks(device, &mut ranks.slice_mut(0..truth.len()), of)?;
    Ok(device.download(&ranks, 0..truth.len())?.into_iter().map(|rank| rank as u32).collect())
}
