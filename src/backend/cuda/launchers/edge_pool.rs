//! edge_pool: the mean of the messages that reach each node, and its backward, joined with the backward of
//! the heads' batch norm (`kernels/edge_pool.cu`).

use half::bf16;

use super::batch_norm::{COLUMNS_EACH, Norm, NormGradient, STRIP_THREADS, Sums, strips};
use super::lists::{Ends, Lists, ListsArguments};
use super::norm_arguments::{NormArguments, NormBackwardArguments, NormGradientArguments};
use super::stored::{StoredElement, stored_kernel};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;

kernel_arguments! {
    struct EdgePoolForward<T> {
        /// `[N, hidden]` pooled messages, overwritten.
        pooled: PointerMut<T>,
        /// `[E, width]` linear outputs of the heads.
        z: Pointer<T>,
        norm: NormArguments,
        incidence: ListsArguments,
        width: i32,
        hidden: i32,
        z_stride: i32,
        pooled_stride: i32,
    }

    /// Gradient `[E, width]` with respect to the outputs of the heads, which the kernels gather.
    struct HeadsGradientArguments<T> {
        /// `[N, hidden]` gradient with respect to the pooled messages.
        d_pooled: Pointer<T>,
        /// `[E, width - 2 hidden]` gradient with respect to the edge states.
        d_edge_state: Pointer<T>,
        /// `[E] -> node` subject of each edge.
        subject: Pointer<i32>,
        /// `[E] -> node` object of each edge.
        object: Pointer<i32>,
        /// `[N + 1]` start of each node's messages.
        offsets: Pointer<i32>,
        /// `[1]` number of edges E.
        edge_count: Pointer<i32>,
        width: i32,
        hidden: i32,
        stride: i32,
        pooled_stride: i32,
        state_stride: i32,
        reserved: i32,
    }

    struct EdgePoolBackwardSums<T> {
        gradient: NormGradientArguments,
        of: HeadsGradientArguments<T>,
        /// `[E, width]` linear outputs of the heads.
        z: Pointer<T>,
        norm: NormArguments,
    }

    struct EdgePoolBackward<T> {
        /// `[E, width]` gradient with respect to z, overwritten.
        d_z: PointerMut<T>,
        of: HeadsGradientArguments<T>,
        through: NormBackwardArguments<T>,
    }
}

/// Threads of a block of the forward, as in the kernel.
const THREADS: u32 = 128;

impl<T: StoredElement> EdgePoolForward<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("edge_pool_forward", T), [THREADS, 1, 1]);
}

impl<T: StoredElement> EdgePoolBackwardSums<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("edge_pool_backward_sums", T), STRIP_THREADS);
}

impl<T: StoredElement> EdgePoolBackward<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("edge_pool_backward", T), STRIP_THREADS);
}

/// Kernels of `kernels/edge_pool.cu`.
pub(crate) const FILE: KernelFile = KernelFile {
    name: "edge_pool",
    kernels: &[
        EdgePoolForward::<f32>::KERNEL.info(),
        EdgePoolForward::<bf16>::KERNEL.info(),
        EdgePoolBackwardSums::<f32>::KERNEL.info(),
        EdgePoolBackwardSums::<bf16>::KERNEL.info(),
        EdgePoolBackward::<f32>::KERNEL.info(),
        EdgePoolBackward::<bf16>::KERNEL.info(),
    ],
};

/// Writes `pooled [N, H]` from the linear outputs `z [E, W]` of the heads; `incidence` lists `2 edge + role`
/// by node.
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
    let arguments = EdgePoolForward {
        pooled: pooled.into(),
        z: z.into(),
        norm: norm.into(),
        incidence: incidence.into(),
        width: int(width),
        hidden: int(hidden),
        z_stride: int(T::stride(width)),
        pooled_stride: int(T::stride(hidden)),
    };
    // SAFETY: lengths were checked; only `pooled` is written, which is borrowed mutably.
    unsafe { device.launch(&EdgePoolForward::KERNEL, Blocks::rows(incidence.rows.bound), &arguments) }
}

/// Gradient `[E, W]` with respect to the outputs of the heads, in the parts that the kernels gather.
#[derive(Clone, Copy, Debug)]
pub struct HeadsGradient<'a, T> {
    /// `[N, H]` gradient with respect to the pooled messages.
    pub d_pooled: Slice<'a, T>,
    /// `[E, W - 2 H]` gradient with respect to the edge states.
    pub d_edge_state: Slice<'a, T>,
    /// `[E] -> N` end nodes of each edge.
    pub nodes: Ends<'a>,
    /// Messages of each node: `2 edge + role`.
    pub incidence: Lists<'a>,
    /// Width of a message, H.
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

    /// Grid of the kernels. Each part of a row begins with a new thread.
    fn blocks(&self, width: usize) -> Blocks {
        let [of_message, of_state] =
            [self.hidden, width - 2 * self.hidden].map(|columns| columns.div_ceil(COLUMNS_EACH));
        strips(self.nodes.edges.bound, 2 * of_message + of_state)
    }

    fn arguments(&self, width: usize) -> HeadsGradientArguments<T> {
        HeadsGradientArguments {
            d_pooled: self.d_pooled.into(),
            d_edge_state: self.d_edge_state.into(),
            subject: self.nodes.subject.into(),
            object: self.nodes.object.into(),
            offsets: self.incidence.offsets.into(),
            edge_count: self.nodes.edges.into(),
            width: int(width),
            hidden: int(self.hidden),
            stride: int(T::stride(width)),
            pooled_stride: int(T::stride(self.hidden)),
            state_stride: int(T::stride(width - 2 * self.hidden)),
            reserved: 0,
        }
    }
}

/// First part of the backward of relu(norm(z)) of the heads, `z [E, W]`: the sums of
/// [`super::batch_norm::batch_norm_backward_sums`] over the gathered gradient.
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
    let arguments = EdgePoolBackwardSums {
        gradient: NormGradientArguments::new(device, Some(gradient), norm, edges)?,
        of: of.arguments(width),
        z: z.into(),
        norm: norm.into(),
    };
    // SAFETY: lengths were checked, and the sums have room; all that is written is borrowed mutably.
    unsafe { device.launch(&EdgePoolBackwardSums::KERNEL, of.blocks(width), &arguments) }
}

/// Second part: writes `d_z [E, W]`. `sums` holds the terms to subtract.
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
    let through = NormBackwardArguments { z: z.into(), norm: norm.into(), terms: sums.terms(width).into() };
    let arguments = EdgePoolBackward { d_z: d_z.into(), of: of.arguments(width), through };
    // SAFETY: lengths were checked; only d_z is written, which is borrowed mutably.
    unsafe { device.launch(&EdgePoolBackward::KERNEL, of.blocks(width), &arguments) }
}
