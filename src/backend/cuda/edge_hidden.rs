//! edge_hidden: joins the parts of an edge's first product, and sums its gradient by node or type
//! (`kernels/edge_hidden.cu`).

use super::buffer::{Slice, SliceMut};
use super::device::{Device, Grid, check_len};
use super::rows::Rows;
use crate::error::Result;

pub(super) const KERNELS: &[&str] = &["edge_hidden_lookup", "edge_hidden_sum_ends", "edge_hidden_sum_edges"];

const THREADS: u32 = 128;

/// The rows of `projected [n, 2 H]` that an edge reads: nodes, or types that occur.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// E.
    pub edges: Rows<'a>,
    /// `[E] -> n`.
    pub subject: Slice<'a, i32>,
    /// `[E] -> n`.
    pub object: Slice<'a, i32>,
}

/// Lists of edges (or of edges with roles) by row, compressed: the batch's own, so that indices lie in range.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    /// n.
    pub rows: Rows<'a>,
    /// `[n + 1] -> entry`.
    pub offsets: Slice<'a, i32>,
    /// The entries.
    pub entries: Slice<'a, i32>,
}

impl Ends<'_> {
    #[track_caller]
    pub(super) fn check(&self) {
        check_len("subject", self.subject.len(), self.edges.bound);
        check_len("object", self.object.len(), self.edges.bound);
    }
}

impl Lists<'_> {
    #[track_caller]
    pub(super) fn check(&self) {
        check_len("offsets", self.offsets.len(), self.rows.bound + 1);
    }
}

/// `z [E, H] = edge_projected[edge_row] + projected[subject, ..H] + projected[object, H..]`.
pub fn edge_hidden_lookup(
    device: &Device,
    z: &mut SliceMut<'_, f32>,
    edge_projected: Slice<'_, f32>,
    projected: Slice<'_, f32>,
    edge_row: Slice<'_, i32>,
    ends: Ends<'_>,
    hidden: usize,
) -> Result<()> {
    let edges = ends.edges.bound;
    ends.check();
    check_len("edge_hidden_lookup: z", z.len(), edges * hidden);
    check_len("edge_hidden_lookup: edge_row", edge_row.len(), edges);
    if edges == 0 {
        return Ok(());
    }
    let arguments = [
        z.into(),
        edge_projected.into(),
        projected.into(),
        edge_row.into(),
        ends.subject.into(),
        ends.object.into(),
        ends.edges.into(),
        hidden.into(),
    ];
    // SAFETY: as in kernels/edge_hidden.cu; lengths were checked; z is borrowed mutably.
    unsafe { device.launch("edge_hidden_lookup", Grid::rows(edges, THREADS), &arguments) }
}

/// `sums [n, 2 H]`: of `d_z [E, H]` over the edges with subject n, and over those with object n; entries are
/// `2 edge + role`.
pub fn edge_hidden_sum_ends(
    device: &Device,
    sums: &mut SliceMut<'_, f32>,
    d_z: Slice<'_, f32>,
    by_row: Lists<'_>,
    hidden: usize,
) -> Result<()> {
    check_len("edge_hidden_sum_ends: sums", sums.len(), by_row.rows.bound * 2 * hidden);
    check_len("edge_hidden_sum_ends: d_z", d_z.len(), by_row.entries.len() / 2 * hidden);
    launch_sums(device, "edge_hidden_sum_ends", sums, d_z, by_row, hidden)
}

/// `sums [u, H]`: of `d_z [E, H]` over the edges of predicate u.
pub fn edge_hidden_sum_edges(
    device: &Device,
    sums: &mut SliceMut<'_, f32>,
    d_z: Slice<'_, f32>,
    by_row: Lists<'_>,
    hidden: usize,
) -> Result<()> {
    check_len("edge_hidden_sum_edges: sums", sums.len(), by_row.rows.bound * hidden);
    check_len("edge_hidden_sum_edges: d_z", d_z.len(), by_row.entries.len() * hidden);
    launch_sums(device, "edge_hidden_sum_edges", sums, d_z, by_row, hidden)
}

fn launch_sums(
    device: &Device,
    kernel: &'static str,
    sums: &mut SliceMut<'_, f32>,
    d_z: Slice<'_, f32>,
    by_row: Lists<'_>,
    hidden: usize,
) -> Result<()> {
    by_row.check();
    if by_row.rows.bound == 0 {
        return Ok(());
    }
    let arguments = [
        sums.into(),
        d_z.into(),
        by_row.offsets.into(),
        by_row.entries.into(),
        by_row.rows.into(),
        hidden.into(),
    ];
    // SAFETY: as in kernels/edge_hidden.cu, alike for both; the callers checked lengths; sums is borrowed mutably.
    unsafe { device.launch(kernel, Grid::rows(by_row.rows.bound, THREADS), &arguments) }
}
