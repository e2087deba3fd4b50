//! edge_pool: the mean of the messages that reach each node, and its backward (`kernels/edge_pool.cu`).

use super::batch_norm::Norm;
use super::buffer::{Slice, SliceMut};
use super::device::{Arguments, Device, Grid, check_len};
use super::edge_hidden::{Ends, Lists};
use crate::error::Result;

pub(super) const KERNELS: &[&str] = &["edge_pool_forward", "edge_pool_backward"];

const THREADS: u32 = 128;

/// `pooled [N, H]` of the heads' linear outputs `z [E, W]`; `incidence` lists `2 edge + role` by node.
pub fn edge_pool_forward(
    device: &Device,
    pooled: &mut SliceMut<'_, f32>,
    z: Slice<'_, f32>,
    norm: Norm<'_>,
    incidence: Lists<'_>,
    hidden: usize,
) -> Result<()> {
    let width = norm.mean.len();
    norm.check(width);
    incidence.check();
    check_len("edge_pool_forward: pooled", pooled.len(), incidence.rows.bound * hidden);
    check_len("edge_pool_forward: z", z.len(), incidence.entries.len() / 2 * width);
    if incidence.rows.bound == 0 {
        return Ok(());
    }
    let arguments = Arguments::default()
        .add(pooled)
        .add(z)
        .add_norm(norm)
        .add(incidence.offsets)
        .add(incidence.entries)
        .add(incidence.rows)
        .add(width)
        .add(hidden);
    // SAFETY: as in kernels/edge_pool.cu; lengths were checked; pooled is borrowed mutably.
    unsafe { device.launch("edge_pool_forward", Grid::rows(incidence.rows.bound, THREADS), &arguments) }
}

/// `d_heads [E, W]`, by the heads' outputs, of `d_pooled [N, H]` and `d_edge_state [E, W - 2 H]`.
pub fn edge_pool_backward(
    device: &Device,
    d_heads: &mut SliceMut<'_, f32>,
    d_pooled: Slice<'_, f32>,
    d_edge_state: Slice<'_, f32>,
    nodes: Ends<'_>,
    incidence: Lists<'_>,
    width: usize,
    hidden: usize,
) -> Result<()> {
    let edges = nodes.edges.bound;
    nodes.check();
    incidence.check();
    check_len("edge_pool_backward: d_heads", d_heads.len(), edges * width);
    check_len("edge_pool_backward: d_pooled", d_pooled.len(), incidence.rows.bound * hidden);
    check_len("edge_pool_backward: d_edge_state", d_edge_state.len(), edges * (width - 2 * hidden));
    if edges == 0 {
        return Ok(());
    }
    let arguments = [
        d_heads.into(),
        d_pooled.into(),
        d_edge_state.into(),
        nodes.subject.into(),
        nodes.object.into(),
        incidence.offsets.into(),
        nodes.edges.into(),
        width.into(),
        hidden.into(),
    ];
    // SAFETY: as in kernels/edge_pool.cu; lengths were checked; d_heads is borrowed mutably.
    unsafe { device.launch("edge_pool_backward", Grid::rows(edges, THREADS), &arguments) }
}
