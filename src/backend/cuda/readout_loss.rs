//! readout_loss: graph embeddings, and the triples' losses with their gradient (`kernels/readout_loss.cu`).

use super::buffer::{Slice, SliceMut};
use super::device::{Argument, Arguments, Device, Grid, check_len};
use super::rows::Rows;
use super::stored::{StoredElement, stored_kernel, stored_kernels};
use crate::error::Result;
use crate::loss::{Loss, LossKind};

pub(super) const KERNELS: &[&str] = stored_kernels!["readout", "readout_loss"];

/// As in the kernel.
const THREADS: u32 = 128;

/// `embedding [G, D]` and `mean_norm [G]`, the length of each graph's mean node state, over the nodes from its offset to
/// its end in `mean_ends`; no mean is of nothing.
pub fn readout<T: StoredElement>(
    device: &Device,
    embedding: &mut SliceMut<'_, f32>,
    mean_norm: &mut SliceMut<'_, f32>,
    node_state: Slice<'_, T>,
    graph_offsets: Slice<'_, i32>,
    mean_ends: Slice<'_, i32>,
    graphs: Rows<'_>,
    width: usize,
) -> Result<()> {
    check_len("readout: embedding", embedding.len(), graphs.bound * width);
    check_len("readout: mean_norm", mean_norm.len(), graphs.bound);
    check_len("readout: graph_offsets", graph_offsets.len(), graphs.bound + 1);
    check_len("readout: mean_ends", mean_ends.len(), graphs.bound);
    if graphs.bound == 0 {
        return Ok(());
    }
    let arguments = Arguments::default()
        .add(embedding)
        .add(mean_norm)
        .add(node_state)
        .add(graph_offsets)
        .add(mean_ends)
        .add(graphs)
        .add(width)
        .add(T::stride(width));
    // SAFETY: as in kernels/readout_loss.cu; lengths were checked; what is written is borrowed mutably.
    unsafe { device.launch(stored_kernel!("readout", T), Grid::rows(graphs.bound, THREADS), &arguments) }
}

/// What the loss reads: the graphs are anchors, then positives, then negatives.
#[derive(Clone, Copy, Debug)]
pub struct Triples<'a> {
    /// B.
    pub count: Rows<'a>,
    /// `[G, D]`.
    pub embedding: Slice<'a, f32>,
    /// `[G]`.
    pub mean_norm: Slice<'a, f32>,
    /// `[G + 1] -> node`.
    pub graph_offsets: Slice<'a, i32>,
    /// `[G] -> node`.
    pub mean_ends: Slice<'a, i32>,
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

/// The losses `[B]`, into their step's row, and `d_node_state [N, D]` of their mean.
pub fn readout_loss<T: StoredElement>(
    device: &Device,
    losses: &mut LossRows<'_>,
    d_node_state: &mut SliceMut<'_, T>,
    of: Triples<'_>,
    width: usize,
    loss: &Loss,
) -> Result<()> {
    let (triples, most_triples) = (of.count.bound, losses.values.len() / losses.rows);
    check_len("readout_loss: losses", most_triples, triples);
    check_len("readout_loss: steps", losses.steps.len(), 1);
    check_len("readout_loss: similarity_positive", of.similarity_positive.len(), triples);
    check_len("readout_loss: similarity_negative", of.similarity_negative.len(), triples);
    check_len("readout_loss: embedding", of.embedding.len(), 3 * triples * width);
    check_len("readout_loss: mean_norm", of.mean_norm.len(), 3 * triples);
    check_len("readout_loss: graph_offsets", of.graph_offsets.len(), 3 * triples + 1);
    check_len("readout_loss: mean_ends", of.mean_ends.len(), 3 * triples);
    if triples == 0 {
        return Ok(());
    }
    // As the kernel's enum.
    let kind = match loss.kind {
        LossKind::Ranking => 0,
        LossKind::Triplet => 1,
        LossKind::InfoNce => 2,
    };
    let arguments = [
        (&mut losses.values).into(),
        d_node_state.into(),
        of.embedding.into(),
        of.mean_norm.into(),
        of.graph_offsets.into(),
        of.mean_ends.into(),
        of.similarity_positive.into(),
        of.similarity_negative.into(),
        of.count.into(),
        losses.steps.into(),
        losses.rows.into(),
        most_triples.into(),
        width.into(),
        T::stride(width).into(),
        Argument::Int(kind),
        (loss.temperature as f32).into(),
        (loss.margin as f32).into(),
    ];
    // SAFETY: as in kernels/readout_loss.cu; lengths were checked; what is written is borrowed mutably.
    unsafe { device.launch(stored_kernel!("readout_loss", T), Grid::rows(triples, THREADS), &arguments) }
}
