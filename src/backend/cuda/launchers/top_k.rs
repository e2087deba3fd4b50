//! top_k: the rows that have the greatest inner products with a query (`kernels/top_k.cu`).

use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::{Argument, Device, Grid, check_len};
use crate::error::Result;

pub(crate) const KERNELS: &[&str] = &["top_k_parts", "top_k_merge"];

/// As in the kernel.
const TILE: usize = 256;

/// The most rows that one pass finds.
pub const MAX_K: usize = TILE / 2;

/// A `bound` above every row.
pub const UNBOUNDED: u64 = u64::MAX;

/// What passes read.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// `[Q, D]`.
    pub queries: Slice<'a, f32>,
    /// `[n, D]`.
    pub embeddings: Slice<'a, f32>,
    /// n.
    pub rows: usize,
    /// D.
    pub width: usize,
}

/// Where a pass's results go, Q queries by k.
#[derive(Debug)]
pub struct Found<'a> {
    /// `[Q, k]`, best first; NaN where there is no row.
    pub scores: SliceMut<'a, f32>,
    /// `[Q, k] -> row`, -1 where there is none.
    pub indices: SliceMut<'a, i32>,
    /// `[Q]`: only what comes after this is found, [`UNBOUNDED`] at first; a pass leaves where it ended.
    pub bound: SliceMut<'a, u64>,
}

/// Values of the memory that a pass needs beside its results.
pub fn lists_len(queries: usize, rows: usize, k: usize) -> usize {
    queries * rows.div_ceil(TILE) * k
}

/// The next `k` rows, 1 to [`MAX_K`], of each of `found.bound.len()` queries.
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
        let arguments = [
            lists.into(),
            found.bound.as_slice().into(),
            of.queries.into(),
            of.embeddings.into(),
            parts.into(),
            of.rows.into(),
            of.width.into(),
            k.into(),
        ];
        // SAFETY: as in kernels/top_k.cu; lengths were checked; the lists are borrowed mutably and alone written.
        unsafe {
            device.launch_positional("top_k_parts", Grid::rows(queries * parts, TILE as u32), &arguments)
        }?;
    }
    let arguments = [
        (&mut found.scores).into(),
        (&mut found.indices).into(),
        (&mut found.bound).into(),
        lists.as_slice().into(),
        Argument::Long((parts * k) as i64),
        k.into(),
    ];
    // SAFETY: as in kernels/top_k.cu; lengths were checked; the launch before wrote the lists; what is written is
    // borrowed mutably.
    unsafe { device.launch_positional("top_k_merge", Grid::rows(queries, TILE as u32), &arguments) }
}

/// The `k` rows, or all, of the one query, with their scores: as many passes as it takes.
pub(crate) fn top_k_of_one(device: &Device, of: Search<'_>, k: usize) -> Result<Vec<(usize, f32)>> {
    let k = k.min(of.rows);
    let most = k.clamp(1, MAX_K);
    let mut scores = device.allocate_unwritten::<f32>(most)?;
    let mut indices = device.allocate_unwritten::<i32>(most)?;
    let mut bound = device.allocate_unwritten::<u64>(1)?;
    device.upload(&[UNBOUNDED], bound.slice_mut(0..1))?;
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
