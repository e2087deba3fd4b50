//! readout_loss: graph embeddings, and the losses of triples with their gradient (`kernels/readout_loss.cu`).

use half::bf16;

use super::stored::{StoredElement, stored_kernel};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;
use crate::loss::{Loss, LossKind};

kernel_arguments! {
    struct StatesArguments<T> {
        /// `[N, width]` node states.
        values: Pointer<T>,
        /// `[G + 1] -> node` first node of each graph.
        graph_offsets: Pointer<i32>,
        /// `[G] -> node` end of the nodes in each graph's mean.
        mean_ends: Pointer<i32>,
        width: i32,
        stride: i32,
    }

    struct Readout<T> {
        /// `[G, width]` embeddings, overwritten.
        embedding: PointerMut<f32>,
        states: StatesArguments<T>,
        /// `[1]` number of graphs G.
        graph_count: Pointer<i32>,
    }

    struct ReadoutLoss<T> {
        /// `[3 B, width]` embeddings, overwritten.
        embedding: PointerMut<f32>,
        /// `[loss_rows, most_triples]` losses; one row is overwritten.
        losses: PointerMut<f32>,
        /// `[N, width]` gradient with respect to the node states, overwritten.
        d_node_state: PointerMut<T>,
        states: StatesArguments<T>,
        /// `[B]` similarity of anchor and positive.
        similarity_positive: Pointer<f32>,
        /// `[B]` similarity of anchor and negative.
        similarity_negative: Pointer<f32>,
        /// `[1]` number of triples B.
        triple_count: Pointer<i32>,
        /// `[1]` number of steps taken.
        steps: Pointer<u64>,
        loss_rows: i32,
        most_triples: i32,
        kind: i32,
        temperature: f32,
        margin: f32,
        /// Number of triples of all ranks; 0 with one rank.
        triples_of_all: i32,
    }
}

/// Threads per graph, as in the kernels.
const THREADS: u32 = 128;
/// Number of graphs in a triple.
const ROLES: usize = 3;

impl<T: StoredElement> Readout<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("readout", T), [THREADS, 1, 1]);
}

impl<T: StoredElement> ReadoutLoss<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("readout_loss", T), [THREADS, ROLES as u32, 1]);
}

/// Kernels of `kernels/readout_loss.cu`.
pub(crate) const FILE: KernelFile = KernelFile {
    name: "readout_loss",
    kernels: &[
        Readout::<f32>::KERNEL.info(),
        Readout::<bf16>::KERNEL.info(),
        ReadoutLoss::<f32>::KERNEL.info(),
        ReadoutLoss::<bf16>::KERNEL.info(),
    ],
};

/// Node states of all graphs.
#[derive(Clone, Copy, Debug)]
pub struct NodeStates<'a, T> {
    /// `[N, D]` node states.
    pub values: Slice<'a, T>,
    /// `[G + 1] -> node` first node of each graph.
    pub graph_offsets: Slice<'a, i32>,
    /// `[G] -> node` end of the nodes in each graph's mean, which contains at least one node.
    pub mean_ends: Slice<'a, i32>,
    /// Width of a state, D.
    pub width: usize,
}

impl<T: StoredElement> NodeStates<'_, T> {
    #[track_caller]
    fn check(&self, graphs: usize) {
        check_len("readout: graph_offsets", self.graph_offsets.len(), graphs + 1);
        check_len("readout: mean_ends", self.mean_ends.len(), graphs);
    }
}

impl<T: StoredElement> From<NodeStates<'_, T>> for StatesArguments<T> {
    fn from(of: NodeStates<'_, T>) -> Self {
        StatesArguments {
            values: of.values.into(),
            graph_offsets: of.graph_offsets.into(),
            mean_ends: of.mean_ends.into(),
            width: int(of.width),
            stride: int(T::stride(of.width)),
        }
    }
}

/// Writes `embedding [G, D]`.
pub fn readout<T: StoredElement>(
    device: &Device,
    embedding: &mut SliceMut<'_, f32>,
    of: NodeStates<'_, T>,
    graphs: Rows<'_>,
) -> Result<()> {
    check_len("readout: embedding", embedding.len(), graphs.bound * of.width);
    of.check(graphs.bound);
    if graphs.bound == 0 {
        return Ok(());
    }
    let arguments = Readout { embedding: embedding.into(), states: of.into(), graph_count: graphs.into() };
    // SAFETY: lengths were checked; what is written is borrowed mutably.
    unsafe { device.launch(&Readout::KERNEL, Blocks::rows(graphs.bound), &arguments) }
}

/// Triples. The graphs of the batch are all anchors, then all positives, then all negatives.
#[derive(Clone, Copy, Debug)]
pub struct Triples<'a> {
    /// Number of triples, B.
    pub count: Rows<'a>,
    /// Number of triples of all ranks, over which the loss is a mean; 0 with one rank, whose number is `count`.
    pub of_all: usize,
    /// `[B]` similarity of anchor and positive.
    pub similarity_positive: Slice<'a, f32>,
    /// `[B]` similarity of anchor and negative.
    pub similarity_negative: Slice<'a, f32>,
}

/// Losses of the last steps, one row per step.
#[derive(Debug)]
pub struct LossRows<'a> {
    /// `[rows, most triples]` losses; one row is overwritten.
    pub values: SliceMut<'a, f32>,
    /// Number of rows.
    pub rows: usize,
    /// `[1]` number of steps taken; the losses go to row `steps % rows`.
    pub steps: Slice<'a, u64>,
}

/// Outputs of [`readout_loss`].
pub struct LossOutputs<'a, T> {
    /// `[3 B, D]` embeddings, as written by [`readout`].
    pub embedding: SliceMut<'a, f32>,
    /// Losses; the row of this step is overwritten.
    pub losses: LossRows<'a>,
    /// `[N, D]` gradient of the mean loss with respect to the node states.
    pub d_node_state: SliceMut<'a, T>,
}

/// Writes the embeddings of the triples' graphs, the losses, and the gradient with respect to the node states.
pub fn readout_loss<T: StoredElement>(
    device: &Device,
    to: LossOutputs<'_, T>,
    of: NodeStates<'_, T>,
    triples: Triples<'_>,
    loss: &Loss,
) -> Result<()> {
    let LossOutputs { mut embedding, mut losses, mut d_node_state } = to;
    let (count, most_triples) = (triples.count.bound, losses.values.len() / losses.rows);
    check_len("readout_loss: embedding", embedding.len(), ROLES * count * of.width);
    check_len("readout_loss: losses", most_triples, count);
    check_len("readout_loss: steps", losses.steps.len(), 1);
    check_len("readout_loss: d_node_state", d_node_state.len(), of.values.len());
    check_len("readout_loss: similarity_positive", triples.similarity_positive.len(), count);
    check_len("readout_loss: similarity_negative", triples.similarity_negative.len(), count);
    of.check(ROLES * count);
    if count == 0 {
        return Ok(());
    }
    // The same values as in the kernel's enum.
    let kind = match loss.kind {
        LossKind::Ranking => 0,
        LossKind::Triplet => 1,
        LossKind::InfoNce => 2,
    };
    let arguments = ReadoutLoss {
        embedding: (&mut embedding).into(),
        losses: (&mut losses.values).into(),
        d_node_state: (&mut d_node_state).into(),
        states: of.into(),
        similarity_positive: triples.similarity_positive.into(),
        similarity_negative: triples.similarity_negative.into(),
        triple_count: triples.count.into(),
        steps: losses.steps.into(),
        loss_rows: int(losses.rows),
        most_triples: int(most_triples),
        kind,
        temperature: loss.temperature as f32,
        margin: loss.margin as f32,
        triples_of_all: int(triples.of_all),
    };
    // SAFETY: lengths were checked; what is written is borrowed mutably.
    unsafe { device.launch(&ReadoutLoss::KERNEL, Blocks::rows(count), &arguments) }
}
