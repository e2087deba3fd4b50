//! readout_loss: graph embeddings, and the triples' losses with their gradient (`kernels/readout_loss.cu`).

use super::stored::{StoredElement, stored_kernel, stored_kernels};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Argument, Arguments, Device, Grid, check_len};
use crate::error::Result;
use crate::loss::{Loss, LossKind};

pub(crate) const KERNELS: &[&str] = stored_kernels!["readout", "readout_loss"];

/// As in the kernel: of a graph.
const THREADS: u32 = 128;
/// A triple's graphs.
const ROLES: usize = 3;

/// The states of all graphs' nodes.
#[derive(Clone, Copy, Debug)]
pub struct NodeStates<'a, T> {
    /// `[N, D]`.
    pub values: Slice<'a, T>,
    /// `[G + 1] -> node`.
    pub graph_offsets: Slice<'a, i32>,
    /// `[G] -> node`: where the nodes of each graph's mean end; no mean is of nothing.
    pub mean_ends: Slice<'a, i32>,
    /// D.
    pub width: usize,
}

impl<T: StoredElement> NodeStates<'_, T> {
    #[track_caller]
    fn check(&self, graphs: usize) {
        check_len("readout: graph_offsets", self.graph_offsets.len(), graphs + 1);
        check_len("readout: mean_ends", self.mean_ends.len(), graphs);
    }

    fn add_to(self, arguments: Arguments) -> Arguments {
        let arguments = arguments.add(self.values).add(self.graph_offsets).add(self.mean_ends);
        arguments.add(self.width).add(T::stride(self.width))
    }
}

/// `embedding [G, D]` of so many graphs.
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
    let arguments = of.add_to(Arguments::default().add(embedding)).add(graphs);
    // SAFETY: as in kernels/readout_loss.cu; lengths were checked; what is written is borrowed mutably.
    unsafe {
        device.launch_positional(stored_kernel!("readout", T), Grid::rows(graphs.bound, THREADS), &arguments)
    }
}

/// The triples of graphs that are anchors, then positives, then negatives.
#[derive(Clone, Copy, Debug)]
pub struct Triples<'a> {
    /// B.
    pub count: Rows<'a>,
    /// `[B]`.
    pub similarity_positive: Slice<'a, f32>,
    /// `[B]`.
    pub similarity_negative: Slice<'a, f32>,
}

/// Where losses go: a row for a step, in turns.
#[derive(Debug)]
pub struct LossRows<'a> {
    /// `[rows, most triples]`.
    pub values: SliceMut<'a, f32>,
    /// How many steps' losses it keeps.
    pub rows: usize,
    /// `[1]`: the steps done; the losses go to row `steps % rows`.
    pub steps: Slice<'a, u64>,
}

/// What the loss of a batch writes.
pub struct LossOutputs<'a, T> {
    /// `[3 B, D]`: as [`readout`].
    pub embedding: SliceMut<'a, f32>,
    /// `[B]`, into their step's row.
    pub losses: LossRows<'a>,
    /// `[N, D]`: of the losses' mean.
    pub d_node_state: SliceMut<'a, T>,
}

/// [`readout`] of the triples' graphs, their losses, and the gradient of these by the node states.
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
    // As the kernel's enum.
    let kind = match loss.kind {
        LossKind::Ranking => 0,
        LossKind::Triplet => 1,
        LossKind::InfoNce => 2,
    };
    let arguments = Arguments::default().add(&mut embedding).add(&mut losses.values).add(&mut d_node_state);
    let arguments = of.add_to(arguments).add(triples.similarity_positive).add(triples.similarity_negative);
    let arguments = arguments.add(triples.count).add(losses.steps).add(losses.rows).add(most_triples);
    let arguments = arguments.add(Argument::Int(kind)).add(loss.temperature as f32).add(loss.margin as f32);
    let grid = Grid { threads: [THREADS, ROLES as u32, 1], ..Grid::rows(count, THREADS) };
    // SAFETY: as in kernels/readout_loss.cu; lengths were checked; what is written is borrowed mutably.
    unsafe { device.launch_positional(stored_kernel!("readout_loss", T), grid, &arguments) }
}
