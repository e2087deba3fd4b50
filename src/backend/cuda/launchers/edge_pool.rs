//! edge_pool: the mean of the messages that reach each node, and its backward with that of the heads' batch norm
//! (`kernels/edge_pool.cu`).

use super::batch_norm::{Norm, NormGradient, Sums, strips};
use super::edge_hidden::{Ends, Lists};
use super::stored::{StoredElement, stored_kernel, stored_kernels};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::{Arguments, Device, Grid, check_len};
use crate::error::Result;

pub(crate) const KERNELS: &[&str] =
    stored_kernels!["edge_pool_forward", "edge_pool_backward_sums", "edge_pool_backward"];

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
    unsafe { device.launch_positional(kernel, Grid::rows(incidence.rows.bound, THREADS), &arguments) }
}

/// The gradient by the heads' outputs `[E, W]`, as it is gathered.
#[derive(Clone, Copy, Debug)]
pub struct HeadsGradient<'a, T> {
    /// `[N, H]`.
    pub d_pooled: Slice<'a, T>,
    /// `[E, W - 2 H]`.
    pub d_edge_state: Slice<'a, T>,
    /// `[E] -> N`.
    pub nodes: Ends<'a>,
    /// `2 edge + role` by node.
    pub incidence: Lists<'a>,
    /// H.
    pub hidden: usize,
}

impl<T: StoredElement> HeadsGradient<'_, T> {
    #[track_caller]
    fn check(&self, width: usize) {
        let (edges, hidden) = (self.nodes.edges.bound, self.hidden);
        self.nodes.check();
        self.incidence.check();
        check_len("d_pooled", self.d_pooled.len(), self.incidence.rows.bound * T::stride(hidden));
        check_len("d_edge_state", self.d_edge_state.len(), edges * T::stride(width - 2 * hidden));
    }

    fn add_to(&self, arguments: Arguments) -> Arguments {
        let arguments = arguments.add(self.d_pooled).add(self.d_edge_state);
        arguments.add(self.nodes.subject).add(self.nodes.object).add(self.incidence.offsets)
    }

    fn add_sizes_to(&self, arguments: Arguments, width: usize) -> Arguments {
        let arguments = arguments.add(self.nodes.edges).add(width).add(self.hidden);
        let state = width - 2 * self.hidden;
        arguments.add(T::stride(width)).add(T::stride(self.hidden)).add(T::stride(state))
    }
}

/// The first part of the backward of relu(norm(z)) of the heads, `z [E, W]`, as
/// [`super::batch_norm::batch_norm_backward_sums`] of `of` gathered.
pub fn edge_pool_backward_sums<T: StoredElement>(
    device: &Device,
    gradient: NormGradient<'_>,
    of: HeadsGradient<'_, T>,
    z: Slice<'_, T>,
    norm: Norm<'_>,
) -> Result<()> {
    let (edges, width) = (of.nodes.edges.bound, norm.mean.len());
    norm.check(width);
    of.check(width);
    check_len("edge_pool_backward_sums: z", z.len(), edges * T::stride(width));
    let arguments = Arguments::default().add_norm_gradient(device, Some(gradient), edges, width)?;
    let arguments = of.add_sizes_to(of.add_to(arguments).add(z).add_norm(norm), width);
    let (kernel, grid) = (stored_kernel!("edge_pool_backward_sums", T), strips(edges, width));
    // SAFETY: as in kernels/edge_pool.cu; lengths were checked, the sums have room; all that is written is borrowed mutably.
    unsafe { device.launch_positional(kernel, grid, &arguments) }
}

/// The second part: `d_z [E, W]`, written. `sums` has what is subtracted.
pub fn edge_pool_backward<T: StoredElement>(
    device: &Device,
    d_z: &mut SliceMut<'_, T>,
    of: HeadsGradient<'_, T>,
    z: Slice<'_, T>,
    norm: Norm<'_>,
    sums: &Sums,
) -> Result<()> {
    let (edges, width) = (of.nodes.edges.bound, norm.mean.len());
    norm.check(width);
    of.check(width);
    check_len("edge_pool_backward: d_z", d_z.len(), edges * T::stride(width));
    check_len("edge_pool_backward: z", z.len(), edges * T::stride(width));
    if edges == 0 {
        return Ok(());
    }
    let arguments = of.add_to(Arguments::default().add(d_z).add(sums.terms(width)));
    let arguments = of.add_sizes_to(arguments.add(z).add_norm(norm), width);
    let (kernel, grid) = (stored_kernel!("edge_pool_backward", T), Grid::rows(edges, THREADS));
    // SAFETY: as in kernels/edge_pool.cu; lengths were checked; d_z is borrowed mutably.
    unsafe { device.launch_positional(kernel, grid, &arguments) }
}
