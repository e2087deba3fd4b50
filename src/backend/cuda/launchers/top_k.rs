//! top_k: finds the rows with the greatest inner products with a query (`kernels/top_k.cu`).

use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;

kernel_arguments! {
    struct TopKParts {
        /// `[Q, parts, k]` best keys of each part, overwritten.
        lists: PointerMut<u64>,
        /// `[Q]` upper bounds of the keys.
        bound: Pointer<u64>,
        /// `[Q, width]` queries.
        queries: Pointer<f32>,
        /// `[rows, width]` rows to search.
        embeddings: Pointer<f32>,
        parts: i32,
        rows: i32,
        width: i32,
        k: i32,
    }

    struct TopKMerge {
        /// `[Q, k]` scores, overwritten.
        scores: PointerMut<f32>,
        /// `[Q, k]` rows, overwritten.
        indices: PointerMut<i32>,
        /// `[Q]` key of the last row found, overwritten.
        bound: PointerMut<u64>,
        /// `[Q, candidates]` keys.
        lists: Pointer<u64>,
        candidates: i64,
        k: i32,
        reserved: i32,
    }
}

/// Rows of a part and threads per block, as in the kernels.
const TILE: usize = 256;

const TOP_K_PARTS: Kernel<TopKParts> = Kernel::new("top_k_parts", [TILE as u32, 1, 1]);
const TOP_K_MERGE: Kernel<TopKMerge> = Kernel::new("top_k_merge", [TILE as u32, 1, 1]);

/// Kernels of `kernels/top_k.cu`.
pub(crate) const FILE: KernelFile =
    KernelFile { name: "top_k", kernels: &[TOP_K_PARTS.info(), TOP_K_MERGE.info()] };

/// Largest number of rows found in one pass.
pub const MAX_K: usize = TILE / 2;

/// A `bound` above the key of every row.
pub const UNBOUNDED: u64 = u64::MAX;

/// Queries, and the rows to search.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// `[Q, D]` queries.
    pub queries: Slice<'a, f32>,
    /// `[n, D]` rows to search.
    pub embeddings: Slice<'a, f32>,
    /// Number of rows, n.
    pub rows: usize,
    /// Width of a row, D.
    pub width: usize,
}

/// Results of a pass, for Q queries.
#[derive(Debug)]
pub struct Found<'a> {
    /// `[Q, k]` scores, best first; NaN if there are no more rows.
    pub scores: SliceMut<'a, f32>,
    /// `[Q, k] -> row` indices; -1 if there are no more rows.
    pub indices: SliceMut<'a, i32>,
    /// `[Q]` keys. A pass finds only rows that come after them, and replaces them with the keys of its last
    /// rows. Initially [`UNBOUNDED`].
    pub bound: SliceMut<'a, u64>,
}

/// Length of the scratch memory of a pass.
pub fn lists_len(queries: usize, rows: usize, k: usize) -> usize {
    queries * rows.div_ceil(TILE) * k
}

/// Finds the next `k` rows, 1 to [`MAX_K`], of each of `found.bound.len()` queries.
pub fn top_k(
    device: &Device,
    found: &mut Found<'_>,
    lists: &mut SliceMut<'_, u64>,
    of: Search<'_>,
    k: usize,
) -> Result<()> {
    let (queries, parts) = (found.bound.len(), of.rows.div_ceil(TILE));
    assert!((1..=MAX_K).contains(&k), "top_k: {k} rows of one pass, at most {MAX_K}");
    check_len("top_k: scores", found.scores.len(), queries * k);
    check_len("top_k: indices", found.indices.len(), queries * k);
    check_len("top_k: queries", of.queries.len(), queries * of.width);
    check_len("top_k: embeddings", of.embeddings.len(), of.rows * of.width);
    check_len("top_k: lists", lists.len(), lists_len(queries, of.rows, k));
    if queries == 0 {
        return Ok(());
    }
    if parts > 0 {
        let arguments = TopKParts {
            lists: lists.into(),
            bound: found.bound.as_slice().into(),
            queries: of.queries.into(),
            embeddings: of.embeddings.into(),
            parts: int(parts),
            rows: int(of.rows),
            width: int(of.width),
            k: int(k),
        };
        // SAFETY: lengths were checked; only the lists are written, which are borrowed mutably.
        unsafe { device.launch(&TOP_K_PARTS, Blocks::rows(queries * parts), &arguments) }?;
    }
    let arguments = TopKMerge {
        scores: (&mut found.scores).into(),
        indices: (&mut found.indices).into(),
        bound: (&mut found.bound).into(),
        lists: lists.as_slice().into(),
        candidates: (parts * k) as i64,
        k: int(k),
        reserved: 0,
    };
    // SAFETY: lengths were checked; the previous launch wrote the lists; everything written is borrowed
    // mutably.
    unsafe { device.launch(&TOP_K_MERGE, Blocks::rows(queries), &arguments) }
}

/// Finds the best `k` rows, or all rows if there are fewer, for a single query, with their scores. Uses as
/// many passes as needed.
pub(crate) fn top_k_of_one(device: &Device, of: Search<'_>, k: usize) -> Result<Vec<(usize, f32)>> {
    let k = k.min(of.rows);
    let most = k.clamp(1, MAX_K);
    let mut scores = device.allocate_unwritten::<f32>(most)?;
    let mut indices = device.allocate_unwritten::<i32>(most)?;
    let mut bound = device.allocate_copy(&[UNBOUNDED])?;
    let len = lists_len(1, of.rows, most);
    let mut lists = device.allocate_unwritten::<u64>(len)?;
    let mut best = Vec::with_capacity(k);
    while best.len() < k {
        let count = most.min(k - best.len());
        let mut found = Found {
            scores: scores.slice_mut(0..count),
            indices: indices.slice_mut(0..count),
            bound: bound.slice_mut(0..1),
        };
        top_k(device, &mut found, &mut lists.slice_mut(0..len), of, count)?;
        let rows = device.download(&indices, 0..count)?.into_iter().map(|row| row as usize);
        best.extend(rows.zip(device.download(&scores, 0..count)?));
    }
    Ok(best)
}
