//! The seam between the model and where it computes.
//!
//! A backend offers the stages of a training step over memory of its own; each stage is as much as one fused kernel can
//! do. The seam is no tensor library: it has no general shapes, strides or autograd. The model's forward and backward are
//! written once above it ([`crate::model`]).
//!
//! | trait | what it offers |
//! | --- | --- |
//! | [`Memory`] | flat arrays |
//! | [`Batches`] | batches, a resident training set, capture and replay of a step |
//! | [`Stages`] | the stages of a step and their backwards, readout, loss, optimizer |
//! | [`Search`] | nearest images, ranks, rank correlations |
//! | [`Backend`] | all of them |
//!
//! Two backends run on the CPU: [`mod@reference`] has plain loops in the order of the formulas, and every test compares with
//! it; [`mod@cpu`] is what people run. [`mod@cuda`] launches the kernels, on a GPU or emulated.
//!
//! One rule holds for the gradients of all stages: they are written, never added to what a buffer held before.

pub mod correlation_sums;
pub mod cpu;
pub mod cuda;
pub mod device;
pub mod pass;
pub mod range;
pub mod reference;

use std::fmt;
use std::ops::Range;

use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::batch::triples::TripleSampler;
use crate::data::scene_graph::SceneGraph;
use crate::data::similarity::Similarity;
use crate::error::Result;
use crate::loss::Loss;
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, Parameters};

use correlation_sums::CorrelationSums;
use pass::{
    Backward, EdgeHeads, EdgeHidden, Forward, Gradient, LossOutputs, NodeHidden, Pooled, Readout, States,
    Update,
};

/// Added to the variance (model.md, "Forward").
pub const NORM_EPSILON: f64 = 1e-5;
/// Weight of the batch in the running statistics.
pub const NORM_MOMENTUM: f64 = 0.1;
/// Least divisor of an l2 normalisation.
pub const L2_EPSILON: f64 = 1e-12;

/// Statistics that batch norm uses. Where [`ModelConfig::batch_norm`] is off, the mean is 0, rstd is 1, and the running
/// statistics stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The batch's statistics, which also move the running ones.
    Train,
    /// The running statistics.
    Evaluate,
}

/// Arrays where the backend computes.
pub trait Memory {
    /// A flat array in single precision: parameters, their gradients and moments, statistics, embeddings, losses.
    type Buffer;

    /// A buffer of `len` zeros.
    fn allocate(&self, len: usize) -> Result<Self::Buffer>;

    /// Copies `values` to `buffer[at..at + values.len()]`.
    fn upload(&mut self, values: &[f32], buffer: &mut Self::Buffer, at: usize) -> Result<()>;

    /// Copies `buffer[range]` to the host; waits for all stages called before.
    fn download(&mut self, buffer: &Self::Buffer, range: Range<usize>) -> Result<Vec<f32>>;

    /// Copies `from[range]` to `to[at..]`, where the backend computes.
    fn copy(
        &mut self,
        from: &Self::Buffer,
        range: Range<usize>,
        to: &mut Self::Buffer,
        at: usize,
    ) -> Result<()>;
}

/// Batches where the backend computes. A backend may keep the training set and put batches together itself, and may
/// capture the stages of a step once and replay them; the defaults do neither.
pub trait Batches: Memory {
    /// A batch, with room for the largest one.
    type Batch;
    /// Captured steps, one for each place that a batch may lie in.
    type Graphs: Default;

    /// Room for batches up to `capacity` of a network with these sizes: the batch itself, and all memory that the stages
    /// need beside the buffers they are given. No stage allocates after this.
    fn plan(&mut self, config: ModelConfig, capacity: BatchSize) -> Result<Self::Batch>;

    /// Takes over `from`, which is indexed, for the stages that follow; stages called before may still be running.
    fn load_batch(&mut self, from: &GraphBatch, to: &mut Self::Batch) -> Result<()>;

    /// Keeps the training set where the backend computes: `graphs`, numbered as the images of `sampler`, and what triples
    /// are drawn from. Called once. Returns false where the backend keeps none: then the caller loads each batch, and
    /// [`Batches::begin_epoch`] and [`Batches::take_from_training_set`] have nothing to do.
    fn load_training_set(
        &mut self,
        _graphs: &mut dyn Iterator<Item = SceneGraph<'_>>,
        _config: ModelConfig,
        _sampler: &TripleSampler<'_>,
        _batch: &mut Self::Batch,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Begins an epoch of the training set: draws the triple of each anchor of `order`, as `sampler` does. Batches begin at
    /// anchor `position`. Returns which anchors have a triple.
    fn begin_epoch(
        &mut self,
        _sampler: &TripleSampler<'_>,
        _epoch: u32,
        _order: &[u32],
        _position: usize,
        _batch: &mut Self::Batch,
    ) -> Result<Vec<bool>> {
        Ok(Vec::new())
    }

    /// Steps take their batches from the training set until a batch is loaded.
    fn take_from_training_set(&mut self, _batch: &mut Self::Batch) -> Result<()> {
        Ok(())
    }

    /// The first stage of a step: puts together the epoch's next batch that has triples, if steps take their batches from
    /// the training set.
    fn assemble_batch(&mut self, _batch: &mut Self::Batch) -> Result<()> {
        Ok(())
    }

    /// Begins a capture, where the backend can: the stages called until [`Batches::end_capture`] are recorded for every
    /// batch that will lie where `batch` lies now, and are not run. Elsewhere they run as ever.
    fn begin_capture(&mut self, _batch: &mut Self::Batch) -> Result<()> {
        Ok(())
    }

    /// Keeps what was recorded since [`Batches::begin_capture`].
    fn end_capture(&mut self, _batch: &mut Self::Batch, _graphs: &mut Self::Graphs) -> Result<()> {
        Ok(())
    }

    /// Runs the stages that were recorded for the place where `batch` lies. Returns false where there are none.
    ///
    /// # Safety
    /// The buffers that the recorded stages were given must still exist.
    unsafe fn replay(&mut self, _batch: &Self::Batch, _graphs: &Self::Graphs) -> Result<bool> {
        Ok(false)
    }
}

/// The stages of a step. They run in the order of the calls, and work on the first rows of their buffers, as many as the
/// batch has.
///
/// Every stage takes one pass object. A backward stage also takes the [`Gradient`] that the stage before it returned, so
/// that another order of calls does not compile.
pub trait Stages: Batches {
    /// Memory of what a forward pass saves, for all layers.
    type Activations;
    /// Memory of the gradients that backward stages hand down; layers take turns in it.
    type ActivationGradients;
    /// Number of optimizer steps done, where stages read it and move it on.
    type Steps;

    /// Memory for the activations of batches up to `capacity`.
    fn activations(&self, config: ModelConfig, capacity: BatchSize) -> Result<Self::Activations>;

    /// Memory for the gradients with respect to the activations of batches up to `capacity`.
    fn activation_gradients(
        &self,
        config: ModelConfig,
        capacity: BatchSize,
    ) -> Result<Self::ActivationGradients>;

    /// A counter of optimizer steps at 0.
    fn steps(&self) -> Result<Self::Steps>;

    /// Sets the number of optimizer steps done.
    fn set_steps(&mut self, steps: &mut Self::Steps, done: u64) -> Result<()>;

    /// Called after the parameters were uploaded: the backend remakes what it derives from them.
    fn parameters_loaded(&mut self, _parameters: &Parameters<Self::Buffer>) -> Result<()> {
        Ok(())
    }

    /// `hidden [E, H] = relu(norm(linear(concat(x[subject], e, x[object]))))`.
    fn edge_hidden(&mut self, pass: &mut Forward<'_, Self>) -> Result<()>;

    /// `heads [E, H + D + H] = linear(hidden)`, and the statistics of its columns.
    fn edge_heads(&mut self, pass: &mut Forward<'_, Self>) -> Result<()>;

    /// `pooled [N, H]`: mean of the messages relu(norm(heads)) that reach each node, 0 where none does; and the new edge
    /// states `e [E, D] = relu(norm(heads))`, except in the last layer.
    fn edge_pool(&mut self, pass: &mut Forward<'_, Self>) -> Result<()>;

    /// `hidden [N, H] = relu(norm(linear(pooled)))`.
    fn node_hidden(&mut self, pass: &mut Forward<'_, Self>) -> Result<()>;

    /// `x [N, D] = l2_normalise(relu(norm(linear(hidden))))`, without the l2 normalisation where [`ModelConfig::l2_norm`]
    /// is off.
    fn node_output(&mut self, pass: &mut Forward<'_, Self>) -> Result<()>;

    /// `embedding [G, D] = l2_normalise(mean of the graph's node states)`, over the nodes of [`GraphBatch::mean_nodes`].
    fn readout(&mut self, of: Readout<'_, Self>) -> Result<()>;

    /// [`Stages::readout`], the loss of each triple, and the gradient of the mean loss with respect to the last node
    /// states. Losses go into the row of `losses [LOSS_STEPS, most triples]` whose turn it is (`loss_row`).
    fn readout_loss(
        &mut self,
        of: Readout<'_, Self>,
        loss: &Loss,
        to: LossOutputs<'_, Self>,
    ) -> Result<Gradient<States>>;

    /// Backward of [`Stages::node_output`].
    fn node_output_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        d: Gradient<States>,
    ) -> Result<Gradient<NodeHidden>>;

    /// Backward of [`Stages::node_hidden`].
    fn node_hidden_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        d: Gradient<NodeHidden>,
    ) -> Result<Gradient<Pooled>>;

    /// Backward of [`Stages::edge_pool`] and of the batch norm of the heads.
    fn edge_pool_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        d: Gradient<Pooled>,
    ) -> Result<Gradient<EdgeHeads>>;

    /// Backward of [`Stages::edge_heads`].
    fn edge_heads_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        d: Gradient<EdgeHeads>,
    ) -> Result<Gradient<EdgeHidden>>;

    /// Backward of [`Stages::edge_hidden`]: to the states of the layer below, or in layer 0 to the embedding tables.
    fn edge_hidden_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        d: Gradient<EdgeHidden>,
    ) -> Result<Gradient<States>>;

    /// One Adam step over a part of the parameters. Unless the part ends the step, the stages that follow neither read its
    /// parameters nor write their gradients, and may run beside it.
    fn adam_step(&mut self, update: Update<'_, Self>) -> Result<()>;

    /// `[rows, C]`: 1 where the block's ReLU passed its input in the last forward pass, else 0.
    fn relu_mask(
        &mut self,
        block: (usize, BlockKind),
        rows: usize,
        parameters: &Parameters<Self::Buffer>,
        activations: &Self::Activations,
    ) -> Result<Vec<u8>>;
}

/// Steps whose losses stay where they are computed until somebody reads them, so that a step waits for nothing.
pub const LOSS_STEPS: usize = 10;

/// Range of the losses of the step after `steps` steps among `len` = `[LOSS_STEPS, most triples]` losses. Steps take turns.
pub(crate) fn loss_row(len: usize, steps: u64) -> Range<usize> {
    let (row, most_triples) = ((steps % LOSS_STEPS as u64) as usize, len / LOSS_STEPS);
    row * most_triples..(row + 1) * most_triples
}

/// What evaluation asks of the backend.
pub trait Search: Memory {
    /// The `k` rows of `embeddings [rows, D]` with the greatest inner products with `query [D]`, or all rows if there are
    /// fewer, with these inner products: best first, ties to the lower index. All values are finite.
    fn top_k(
        &mut self,
        query: &Self::Buffer,
        embeddings: &Self::Buffer,
        rows: usize,
        width: usize,
        k: usize,
    ) -> Result<Vec<(usize, f32)>>;

    /// The rank, from 1, of row `truth[q]` of `index [rows, D]` by inner product with row q of `queries [Q, D]`, for each of
    /// the Q queries. Rows that score the same as the true one rank before it. All values are finite. Sums are in double
    /// precision and in one order for all rows, so that equal rows tie.
    fn cosine_ranks(
        &mut self,
        queries: &Self::Buffer,
        index: &Self::Buffer,
        rows: usize,
        width: usize,
        truth: &[u32],
    ) -> Result<Vec<u32>>;

    /// For each row: what the correlations of the inner products of `embeddings [n, D]` with each other and of the
    /// similarities of `images` (n of them) follow from, without the row's entry with itself. `done` is called with numbers
    /// of rows as they are finished. None where the backend has nothing faster than the CPU's pass over all pairs.
    fn row_correlations(
        &mut self,
        _embeddings: &Self::Buffer,
        _width: usize,
        _similarity: Similarity<'_>,
        _images: Range<usize>,
        _done: &dyn Fn(usize),
    ) -> Result<Option<Vec<CorrelationSums>>> {
        Ok(None)
    }
}

/// A place where a network computes.
pub trait Backend: Stages + Search + Sized {
    /// Begins a range of this name on a profiler's timeline, where the backend has one. The range ends when the result is
    /// dropped. Ranges nest.
    fn range(&self, _name: fmt::Arguments<'_>) -> range::Range {
        range::Range::none()
    }
}
