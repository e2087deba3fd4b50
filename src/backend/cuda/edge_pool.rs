//! edge_pool: the mean of the messages that reach each node, and its backward (`kernels/edge_pool.cu`).

use super::batch_norm::Norm;
use super::buffer::{Slice, SliceMut};
use super::device::{Arguments, Device, Grid, check_len};
use super::edge_hidden::{Ends, Lists};
use super::stored::{StoredElement, stored_kernel, stored_kernels};
use crate::error::Result;

pub(super) const KERNELS: &[&str] = stored_kernels!["edge_pool_forward", "edge_pool_backward"];

const THREADS: u32 = 128;

/// `pooled [N, H]` of the heads' linear outputs `z [E, W]`; `incidence` lists `2 edge + role` by node.
pub fn edge_pool_forward<T: StoredElement>(
    device: &Device,
    pooled: &mut SliceMut<'_, T>,
    z: Slice<'_, T>,
    norm: Norm<'_>,
    incidence: Lists<'_>,
    hidden: usize,
) -> Result<()> {
    let width = norm.mean.len();
    norm.check(width);
    incidence.check();
    check_len("edge_pool_forward: pooled", pooled.len(), incidence.rows.bound * T::stride(hidden));
    check_len("edge_pool_forward: z", z.len(), incidence.entries.len() / 2 * T::stride(width));
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
        .add(hidden)
        .add(T::stride(width))
        .add(T::stride(hidden));
    let kernel = stored_kernel!("edge_pool_forward", T);
    // SAFETY: as in kernels/edge_pool.cu; lengths were checked; pooled is borrowed mutably.
    unsafe { device.launch(kernel, Grid::rows(incidence.rows.bound, THREADS), &arguments) }
}

/// `d_heads [E, W]`, by the heads' outputs, of `d_pooled [N, H]` and `d_edge_state [E, W - 2 H]`.
pub fn edge_pool_backward<T: StoredElement>(
    device: &Device,
    d_heads: &mut SliceMut<'_, T>,
    d_pooled: Slice<'_, T>,
    d_edge_state: Slice<'_, T>,
    nodes: Ends<'_>,
    incidence: Lists<'_>,
    width: usize,
    hidden: usize,
) -> Result<()> {
    let (edges, state) = (nodes.edges.bound, width - 2 * hidden);
    nodes.check();
    incidence.check();
    check_len("edge_pool_backward: d_heads", d_heads.len(), edges * T::stride(width));
    check_len("edge_pool_backward: d_pooled", d_pooled.len(), incidence.rows.bound * T::stride(hidden));
    check_len("edge_pool_backward: d_edge_state", d_edge_state.len(), edges * T::stride(state));
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
        T::stride(width).into(),
        T::stride(hidden).into(),
        T::stride(state).into(),
    ];
    // SAFETY: as in kernels/edge_pool.cu; lengths were checked; d_heads is borrowed mutably.
    unsafe { device.launch(stored_kernel!("edge_pool_backward", T), Grid::rows(edges, THREADS), &arguments) }
}
