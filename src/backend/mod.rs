//! Interface between the model and the device that it runs on.
//!
//! A backend implements the stages of a training step on its own memory. Each stage is as much work as one
//! fused kernel can do. The interface is not a tensor library: it has no general shapes, strides or autograd.
//! The model's forward and backward are written once on top of it ([`crate::model`]).
//!
//! | trait | purpose |
//! | --- | --- |
//! | [`Memory`] | flat arrays |
//! | [`Batches`] | batches, a resident training set, capture and replay of a step |
//! | [`Stages`] | the stages of a step and their backwards, readout, loss, optimizer |
//! | [`Search`] | nearest images, ranks, rank correlations |
//! | [`Backend`] | all of them |
//!
//! Two backends run on the CPU: [`mod@reference`] has plain loops in the order of the formulas, and every
//! test compares with it; [`mod@cpu`] is meant for use. [`mod@cuda`] launches the kernels, on a GPU or on the
//! emulator.
//!
//! One rule holds for the gradients of all stages: they overwrite the buffer and never accumulate.

pub mod correlation_sums;
pub mod cpu;
pub mod cuda;
pub mod device;
pub mod family;
pub mod kernels;
pub mod pass;
pub mod range;
pub mod reference;

use std::fmt;
use std::ops::Range;

use crate::backend::kernels::Kernels;
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::batch::triples::TripleSampler;
use crate::data::scene_graph::SceneGraph;
use crate::data::similarity::Similarity;
use crate::error::Result;
use crate::loss::Loss;
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, Layout, Parameters};
use crate::ranks::Ranks;

use correlation_sums::CorrelationSums;
use pass::{
    Backward, EdgeHeads, EdgeHidden, Forward, Gradient, LossOutputs, NodeHidden, Pooled, Readout, States,
    Update,
};

/// Number added to the variance (docs/model.md, "Forward").
pub const NORM_EPSILON: f64 = 1e-5;
/// Weight of the batch statistics in the running statistics.
pub const NORM_MOMENTUM: f64 = 0.1;
/// Smallest divisor of an l2 normalisation.
pub const L2_EPSILON: f64 = 1e-12;

/// Source of batch norm's statistics. If [`ModelConfig::batch_norm`] is off, the mean is 0, rstd is 1, and
/// the running statistics do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Statistics of the batch, which also update the running statistics.
    Train,
    /// Running statistics.
    Evaluate,
}

/// Arrays in the backend's memory.
pub trait Memory {
    /// Flat array in single precision: parameters, their gradients and moments, statistics, embeddings,
    /// losses.
    type Buffer;

    /// Allocates a buffer of `len` zeros.
    fn allocate(&self, len: usize) -> Result<Self::Buffer>;

    /// Copies `values` to `buffer[at..at + values.len()]`.
    fn upload(&mut self, values: &[f32], buffer: &mut Self::Buffer, at: usize) -> Result<()>;

    /// Copies `buffer[range]` to the host, after waiting for all earlier stages.
    fn download(&mut self, buffer: &Self::Buffer, range: Range<usize>) -> Result<Vec<f32>>;

    /// Copies `from[range]` to `to[at..]` within the backend's memory.
    fn copy(
        &mut self,
        from: &Self::Buffer,
        range: Range<usize>,
        to: &mut Self::Buffer,
        at: usize,
    ) -> Result<()>;
}

/// Batches in the backend's memory. A backend may keep the training set and assemble batches itself. It may
/// also capture the stages of a step once and replay them. The defaults do neither.
pub trait Batches: Memory {
    /// A batch, with room for the largest one.
    type Batch;
    /// Captured steps, one for each position that a batch may have.
    type Graphs: Default;

    /// Allocates memory for batches up to `capacity` of a network with these sizes: the batch itself, and all
    /// memory that the stages need besides the buffers passed to them. No stage allocates after this.
    fn plan(&mut self, config: ModelConfig, capacity: BatchSize) -> Result<Self::Batch>;

    /// Loads `from`, which is indexed, for the following stages; earlier stages may still be running.
    fn load_batch(&mut self, from: &GraphBatch, to: &mut Self::Batch) -> Result<()>;

    /// Stores the training set in the backend's memory: `graphs`, numbered like the images of `sampler`, and
    /// the data for drawing triples. Called once. Returns false if the backend does not store it. The caller
    /// then loads each batch, and [`Batches::begin_epoch`] and [`Batches::take_from_training_set`] do
    /// nothing.
    fn load_training_set(
        &mut self,
        _graphs: &mut dyn Iterator<Item = SceneGraph<'_>>,
        _config: ModelConfig,
        _sampler: &TripleSampler<'_>,
        _batch: &mut Self::Batch,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Begins an epoch of the training set: draws the triple of each anchor in `order`, as `sampler` does, and assembles the
    /// first batch. Batches begin at anchor `position`. Returns which anchors have a triple. Steps are captured again if a
    /// batch is larger than those of earlier epochs, or if the number of anchors differs.
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

    /// Makes the following steps take their batches from the training set, until a batch is loaded.
    fn take_from_training_set(&mut self, _batch: &mut Self::Batch) -> Result<()> {
        Ok(())
    }

    /// Stage of a step: assembles the batch of the step after it, the next one of the epoch that has triples, if steps take
    /// their batches from the training set. The stages of this step may run concurrently.
    fn assemble_next_batch(&mut self, _batch: &mut Self::Batch) -> Result<()> {
        Ok(())
    }

    /// Called after each step. The following step takes the batch that this one assembled.
    fn end_step(&mut self, _batch: &mut Self::Batch) {}

    /// Begins a capture, if the backend supports it. The stages called until [`Batches::end_capture`] are
    /// recorded for every batch at the current position of `batch`, and do not run. Other backends run them
    /// as usual.
    fn begin_capture(&mut self, _batch: &mut Self::Batch) -> Result<()> {
        Ok(())
    }

    /// Stores the stages recorded since [`Batches::begin_capture`].
    fn end_capture(&mut self, _batch: &mut Self::Batch, _graphs: &mut Self::Graphs) -> Result<()> {
        Ok(())
    }

    /// Makes the following stages and captures run strictly one after the other. Returns whether they could overlap
    /// before.
    fn launch_in_series(&mut self) -> bool {
        false
    }

    /// Runs the stages recorded for the position of `batch`. Returns false if there are none, or none for a batch as large as
    /// those of this epoch.
    ///
    /// # Safety
    /// The buffers passed to the recorded stages must still exist.
    unsafe fn replay(&mut self, _batch: &Self::Batch, _graphs: &Self::Graphs) -> Result<bool> {
        Ok(false)
    }
}

/// Stages of a step. They run in the order of the calls, on the first rows of their buffers, as many as the
/// batch has.
///
/// Every stage takes one pass object. A backward stage also takes the [`Gradient`] returned by the previous
/// stage, so calling them in another order does not compile.
pub trait Stages: Batches {
    /// Values saved by a forward pass, for all layers.
    type Activations;
    /// Gradients passed between backward stages; layers reuse the same memory.
    type ActivationGradients;
    /// Number of optimizer steps taken, learning rates of the next ones and norm of the gradient, in memory that stages
    /// read and write.
    type Steps;

    /// Allocates the activations for batches up to `capacity`.
    fn activations(&self, config: ModelConfig, capacity: BatchSize) -> Result<Self::Activations>;

    /// Allocates the gradients with respect to the activations of batches up to `capacity`.
    fn activation_gradients(
        &self,
        config: ModelConfig,
        capacity: BatchSize,
    ) -> Result<Self::ActivationGradients>;

    /// Creates a counter of optimizer steps, at 0, for parameters of this layout.
    fn steps(&self, layout: &Layout) -> Result<Self::Steps>;

    /// Sets the number of optimizer steps taken.
    fn set_steps(&mut self, steps: &mut Self::Steps, done: u64) -> Result<()>;

    /// Loads the learning rates of the steps k R + 1 to (k + 1) R, where R is
    /// [`RATE_STEPS`](crate::optimizer::schedule::RATE_STEPS). Called before the first of these steps that is taken, if rates
    /// differ between steps. A backend that replays captured steps reads the rates from its memory; others take them from the
    /// optimizer.
    fn load_rates(&mut self, _steps: &mut Self::Steps, _rates: &[f64]) -> Result<()> {
        Ok(())
    }

    /// Computes the Euclidean norm of the gradient with respect to all `count` parameters, and stores it for the next
    /// [`Stages::adam_step`].
    fn gradient_norm(
        &mut self,
        gradients: &Self::Buffer,
        count: usize,
        steps: &mut Self::Steps,
    ) -> Result<()>;

    /// Replaces `gradients[range]` by their sums over all ranks ([`Backend::join`]).
    fn sum_gradients(&mut self, gradients: &mut Self::Buffer, range: Range<usize>) -> Result<()>;

    /// The norm that [`Stages::gradient_norm`] stored last; waits for it.
    fn last_gradient_norm(&mut self, steps: &Self::Steps) -> Result<f64>;

    /// Called after the parameters were uploaded; the backend recomputes data derived from them.
    fn parameters_loaded(&mut self, _parameters: &Parameters<Self::Buffer>) -> Result<()> {
        Ok(())
    }

    /// `hidden [E, H] = relu(norm(linear(concat(x[subject], e, x[object]))))`.
    fn edge_hidden(&mut self, pass: &mut Forward<'_, Self>) -> Result<()>;

    /// `heads [E, H + D + H] = linear(hidden)`, and the statistics of its columns.
    fn edge_heads(&mut self, pass: &mut Forward<'_, Self>) -> Result<()>;

    /// `pooled [N, H]`: mean of the messages relu(norm(heads)) that reach each node, 0 if there are none.
    /// Also computes the new edge states `e [E, D] = relu(norm(heads))`, except in the last layer.
    fn edge_pool(&mut self, pass: &mut Forward<'_, Self>) -> Result<()>;

    /// `hidden [N, H] = relu(norm(linear(pooled)))`.
    fn node_hidden(&mut self, pass: &mut Forward<'_, Self>) -> Result<()>;

    /// `x [N, D] = l2_normalise(relu(norm(linear(hidden))))`, without the l2 normalisation if
    /// [`ModelConfig::l2_norm`] is off.
    fn node_output(&mut self, pass: &mut Forward<'_, Self>) -> Result<()>;

    /// `embedding [G, D] = l2_normalise(mean of the graph's node states)`, over the nodes of [`GraphBatch::mean_nodes`].
    fn readout(&mut self, of: Readout<'_, Self>) -> Result<()>;

    /// [`Stages::readout`], the loss of each triple, and the gradient of the mean loss, over the triples of all ranks, with
    /// respect to the last node states. The losses go to one row of `losses [LOSS_STEPS, most triples]`, chosen by
    /// `loss_row`.
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

    /// Computes the last node states of the batch with the running statistics, without the stages. Returns false if the
    /// backend has nothing faster than the stages.
    fn infer(
        &mut self,
        _parameters: &Parameters<Self::Buffer>,
        _batch: &Self::Batch,
        _activations: &mut Self::Activations,
    ) -> Result<bool> {
        Ok(false)
    }

    /// One Adam step over a part of the parameters. Unless the part ends the step, later stages neither read
    /// its parameters nor write their gradients, and may run concurrently.
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

/// Number of steps whose losses stay in the backend's memory until they are read, so that a step does not
/// wait for the host.
pub const LOSS_STEPS: usize = 10;

/// Range of the losses of the step after `steps` steps, among `len` = `[LOSS_STEPS, most triples]` losses.
/// Steps use the rows in turn.
pub(crate) fn loss_row(len: usize, steps: u64) -> Range<usize> {
    let (row, most_triples) = ((steps % LOSS_STEPS as u64) as usize, len / LOSS_STEPS);
    row * most_triples..(row + 1) * most_triples
}

/// Operations that evaluation needs from the backend.
pub trait Search: Memory {
    /// Returns the `k` rows of `embeddings [rows, D]` with the greatest inner products with `query [D]`, or
    /// all rows if there are fewer, with these inner products: best first, ties to the lower index. All
    /// values are finite.
    fn top_k(
        &mut self,
        query: &Self::Buffer,
        embeddings: &Self::Buffer,
        rows: usize,
        width: usize,
        k: usize,
    ) -> Result<Vec<(usize, f32)>>;

    /// The results of [`Search::top_k`] for each of `queries [queries, D]`, in host memory. One search after the other unless the
    /// backend has something faster.
    fn top_k_many(
        &mut self,
        queries: &[f32],
        embeddings: &Self::Buffer,
        rows: usize,
        width: usize,
        k: usize,
    ) -> Result<Vec<Vec<(usize, f32)>>> {
        let mut query = self.allocate(width)?;
        let searches = queries.chunks_exact(width).map(|values| {
            self.upload(values, &mut query, 0)?;
            self.top_k(&query, embeddings, rows, width, k)
        });
        searches.collect()
    }

    /// Returns the rank, from 1, of row `truth[q]` of `index [rows, D]` by inner product with row q of
    /// `queries [Q, D]`, for each of the Q queries. Rows that tie with the true row rank before it. All
    /// values are finite. Sums are in double precision and in the same order for all rows, so equal rows tie.
    fn cosine_ranks(
        &mut self,
        queries: &Self::Buffer,
        index: &Self::Buffer,
        rows: usize,
        width: usize,
        truth: &[u32],
    ) -> Result<Vec<u32>>;

    /// Returns, for each row, the sums needed to correlate the inner products of `embeddings [n, D]` with the
    /// similarities of the n `images`, without the row's entry with itself. Calls `done` with the number of
    /// rows as they are finished. Returns `None` if the backend has nothing faster than the CPU's pass over
    /// all pairs.
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

/// The device of a backend, for records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Name of the device.
    pub name: String,
    /// Newest CUDA version that the driver supports; `None` without a driver.
    pub driver: Option<String>,
    /// Family of the products on tensor cores; `Auto` for a backend without these.
    pub kernels: Kernels,
}

/// A complete backend.
pub trait Backend: Stages + Search + Sized {
    /// Makes the stages of training exchange with the other ranks what sums over the whole batch. Called before
    /// [`Batches::plan`]. All ranks then call the same stages in the same order, each on its share of the batch.
    fn join(&mut self, ranks: &Ranks) -> Result<()>;

    /// Describes the device.
    fn description(&self) -> Result<Description>;

    /// Begins a range with this name on a profiler's timeline, if the backend has one. The range ends when
    /// the result is dropped. Ranges nest.
    fn range(&self, _name: fmt::Arguments<'_>) -> range::Range {
        range::Range::none()
    }
}
