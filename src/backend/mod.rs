//! The seam between the model and where it computes.
//!
//! A [`Backend`] offers the stages of a training step, each as much as one fused kernel can do, over buffers of
//! its own; it is no tensor library. The model's forward and backward are written once above it
//! ([`crate::model`]). Two backends run on the CPU: [`mod@reference`], plain loops in the order of the formulas, which
//! every test compares with, and [`mod@cpu`], which people run. [`mod@cuda`] launches the kernels, on a GPU or emulated.
//!
//! One rule for gradients holds for all stages: they are written, never added to what a buffer held before.

// A stage names every buffer that it reads and every one that it writes.
#![allow(clippy::too_many_arguments)]

pub mod correlation_sums;
pub mod cpu;
pub mod cuda;
pub mod device;
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
use crate::model::activations::{BlockActivations, LayerActivations};
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, Parameters};
use crate::optimizer::{Adam, Moments, Part};

use correlation_sums::CorrelationSums;

/// Added to the variance (model.md, "Forward").
pub const NORM_EPSILON: f64 = 1e-5;
/// Weight of the batch in the running statistics.
pub const NORM_MOMENTUM: f64 = 0.1;
/// Least divisor of an l2 normalisation.
pub const L2_EPSILON: f64 = 1e-12;

/// Which statistics batch norm uses; none where [`ModelConfig::batch_norm`] is off: then the mean is 0, rstd is 1, and
/// the running ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The batch's, which also move the running ones.
    Train,
    /// The running ones.
    Evaluate,
}

/// What a layer reads.
#[derive(Debug)]
pub enum LayerInput<'a, S, T = S> {
    /// Layer 0: `x = object_embedding[node_object]`, `e = predicate_embedding[edge_predicate]`.
    Embeddings,
    /// Later layers: the states that the layer before made.
    States {
        /// `[N, D]`: the node output, and its rows of unit length where they are normalised.
        nodes: Activated<'a, S, T>,
        /// `[E, D]`: the columns H..H + D of the heads.
        edges: Activated<'a, S, T>,
    },
}

/// A block, or some of its columns, activated, as another block reads it.
#[derive(Debug)]
pub struct Activated<'a, S, T = S> {
    /// What it saved.
    pub block: &'a BlockActivations<S, T>,
    /// relu(norm(.)) of it, or what the stage makes of that; empty where the backend recomputes it.
    pub output: &'a S,
}

/// Where the gradient of a layer's input goes.
#[derive(Debug)]
pub enum LayerInputGradient<'a, S> {
    /// Layer 0: into the gradients of the embedding tables.
    Embeddings,
    /// Later layers.
    States {
        /// `[N, D]`: by the node states, or where the backend recomputes these by the relu(norm(.)) that they are made of.
        nodes: &'a mut S,
        /// `[E, D]`.
        edges: &'a mut S,
    },
}

/// The stages of a step. `R` is a block's rows: edges or nodes.
///
/// Stages run in the order in which they are called. `gradients` and `moments` share the layout of
/// `parameters.values`. A stage works on the first rows of its buffers, as many as the batch has.
pub trait Backend: Sized {
    /// A flat array in single precision where the backend computes: parameters, their gradients and moments, statistics,
    /// embeddings, losses.
    type Buffer;
    /// A matrix where the backend computes, in the precision in which it stores what one stage leaves for another:
    /// activations and the gradients by them. Its rows may be padded.
    type Stored;
    /// A batch where the backend computes.
    type Batch;
    /// How many optimizer steps are done, where the stages of a step read it and move it on.
    type Steps;
    /// A step that was captured wherever a batch may lie; nothing for a backend that captures none.
    type Graphs: Default;
    /// Whether what a block makes is activated anew where another reads it ([`Activated`]), instead of stored:
    /// `edge_hidden_output`, `edge_state`, `node_hidden_output` or `node_state` is empty then, and the block's stage does not
    /// write it. The last node states, which are read out, are stored always.
    fn recomputes(_config: ModelConfig, _block: BlockKind) -> bool {
        false
    }

    /// Begins a range of this name on a profiler's timeline, where the backend tells one; it ends when what is given is
    /// dropped. Ranges nest.
    fn range(&self, _name: fmt::Arguments<'_>) -> range::Range {
        range::Range::none()
    }

    /// A buffer of `len` zeros.
    fn allocate(&self, len: usize) -> Result<Self::Buffer>;
    /// A matrix of zeros.
    fn allocate_stored(&self, rows: usize, columns: usize) -> Result<Self::Stored>;
    /// The first `rows` rows of a matrix of so many columns, dense, waiting for the stages before.
    fn download_stored(&mut self, matrix: &Self::Stored, rows: usize, columns: usize) -> Result<Vec<f32>>;
    /// Copies `values` to `buffer[at..at + values.len()]`.
    fn upload(&mut self, values: &[f32], buffer: &mut Self::Buffer, at: usize) -> Result<()>;
    /// Copies `buffer[range]` to the host, waiting for the stages before.
    fn download(&mut self, buffer: &Self::Buffer, range: Range<usize>) -> Result<Vec<f32>>;
    /// Copies `from[range]` to `to[at..]`, where the backend computes.
    fn copy(
        &mut self,
        from: &Self::Buffer,
        range: Range<usize>,
        to: &mut Self::Buffer,
        at: usize,
    ) -> Result<()>;
    /// No steps done.
    fn steps(&self) -> Result<Self::Steps>;
    /// So many steps done.
    fn set_steps(&mut self, steps: &mut Self::Steps, done: u64) -> Result<()>;
    /// Room for batches up to `capacity` of a network of these sizes: the batch's own, and all that stages need beside
    /// the buffers they are given. After this no stage allocates.
    fn plan(&mut self, config: ModelConfig, capacity: BatchSize) -> Result<Self::Batch>;
    /// After the parameters were uploaded: what the backend keeps of them beside, it makes anew.
    fn parameters_loaded(&mut self, _parameters: &Parameters<Self::Buffer>) -> Result<()> {
        Ok(())
    }
    /// Takes over `from`, which is indexed, for the stages that follow; those before may still be running.
    fn load_batch(&mut self, from: &GraphBatch, to: &mut Self::Batch) -> Result<()>;

    /// Keeps the training set where the backend computes, once: `graphs`, all that triples of `sampler` are of, numbered as
    /// there, and what triples are drawn by. False where the backend keeps none: then its batches are loaded, and the three
    /// functions that follow have nothing to do.
    fn load_training_set(
        &mut self,
        _graphs: &mut dyn Iterator<Item = SceneGraph<'_>>,
        _config: ModelConfig,
        _sampler: &TripleSampler<'_>,
        _batch: &mut Self::Batch,
    ) -> Result<bool> {
        Ok(false)
    }

    /// An epoch of the training set: draws the triple of each anchor, as `sampler` does; batches begin at anchor `position`
    /// of `order`. Gives which anchors have a triple.
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

    /// Until a batch is loaded, steps take theirs from the training set.
    fn take_from_training_set(&mut self, _batch: &mut Self::Batch) -> Result<()> {
        Ok(())
    }

    /// The first stage of a step: puts together the epoch's next batch that has triples, if steps take theirs from the
    /// training set.
    fn assemble_batch(&mut self, _batch: &mut Self::Batch) -> Result<()> {
        Ok(())
    }

    /// Where the backend can capture: until [`Backend::end_capture`] stages are recorded, for every batch that will lie where
    /// `batch` lies now, and not done. Elsewhere they are done as ever.
    fn begin_capture(&mut self, _batch: &mut Self::Batch) -> Result<()> {
        Ok(())
    }

    /// Keeps what was recorded since [`Backend::begin_capture`].
    fn end_capture(&mut self, _batch: &mut Self::Batch, _graphs: &mut Self::Graphs) -> Result<()> {
        Ok(())
    }

    /// Does the stages that were recorded for where `batch` lies; false where there are none.
    ///
    /// # Safety
    /// The buffers that the stages were given must be there still.
    unsafe fn replay(&mut self, _batch: &Self::Batch, _graphs: &Self::Graphs) -> Result<bool> {
        Ok(false)
    }

    /// `[E, H]`: linear(concat(x\[subject\], e, x\[object\])), its statistics, and relu(norm(.)).
    fn edge_hidden(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Self::Buffer>,
        batch: &Self::Batch,
        input: LayerInput<'_, Self::Stored, Self::Buffer>,
        block: &mut BlockActivations<Self::Stored, Self::Buffer>,
        output: &mut Self::Stored,
    ) -> Result<()>;

    /// `[E, H + D + H]`: the heads' linear layers on `hidden`, and their statistics.
    fn edge_heads(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Self::Buffer>,
        batch: &Self::Batch,
        hidden: Activated<'_, Self::Stored, Self::Buffer>,
        block: &mut BlockActivations<Self::Stored, Self::Buffer>,
    ) -> Result<()>;

    /// `pooled [N, H]`: the mean of the messages relu(norm(heads)) that reach each node, 0 where none does;
    /// `edge_state [E, D]`: the new edge states relu(norm(heads)), but for the last layer.
    fn edge_pool(
        &mut self,
        layer: usize,
        parameters: &Parameters<Self::Buffer>,
        batch: &Self::Batch,
        heads: &BlockActivations<Self::Stored, Self::Buffer>,
        pooled: &mut Self::Stored,
        edge_state: &mut Self::Stored,
    ) -> Result<()>;

    /// `[N, H]`: linear(pooled), its statistics, and relu(norm(.)).
    fn node_hidden(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Self::Buffer>,
        batch: &Self::Batch,
        pooled: &Self::Stored,
        block: &mut BlockActivations<Self::Stored, Self::Buffer>,
        output: &mut Self::Stored,
    ) -> Result<()>;

    /// `[N, D]`: linear(hidden), its statistics, and the node states l2_normalise(relu(norm(.))), or without the
    /// normalisation of rows where [`ModelConfig::l2_norm`] is off.
    fn node_output(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Self::Buffer>,
        batch: &Self::Batch,
        hidden: Activated<'_, Self::Stored, Self::Buffer>,
        block: &mut BlockActivations<Self::Stored, Self::Buffer>,
        node_state: &mut Self::Stored,
    ) -> Result<()>;

    /// `embedding [G, D]`: l2_normalise(mean of the graph's node states), over the nodes that
    /// [`GraphBatch::mean_nodes`] gives.
    fn readout(
        &mut self,
        config: ModelConfig,
        batch: &Self::Batch,
        node_state: &Self::Stored,
        embedding: &mut Self::Buffer,
    ) -> Result<()>;

    /// [`Backend::readout`], then the loss of each triple into the row of `losses [LOSS_STEPS, most triples]` that is this
    /// step's turn ([`crate::model::LOSS_STEPS`]), and the gradient of their mean by `node_state` into `d_node_state [N, D]`.
    fn readout_loss(
        &mut self,
        config: ModelConfig,
        loss: &Loss,
        batch: &Self::Batch,
        node_state: &Self::Stored,
        embedding: &mut Self::Buffer,
        losses: &mut Self::Buffer,
        steps: &Self::Steps,
        d_node_state: &mut Self::Stored,
    ) -> Result<()>;

    /// Backward of [`Backend::node_output`]: `d_node_state` (may be overwritten), as [`LayerInputGradient`] has it, to
    /// `d_node_hidden`, by `node_hidden_output`.
    fn node_output_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Self::Buffer>,
        batch: &Self::Batch,
        saved: &LayerActivations<Self::Stored, Self::Buffer>,
        d_node_state: &mut Self::Stored,
        d_node_hidden: &mut Self::Stored,
        gradients: &mut Self::Buffer,
    ) -> Result<()>;

    /// Backward of [`Backend::node_hidden`]: `d_node_hidden` (overwritten) to `d_pooled`.
    fn node_hidden_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Self::Buffer>,
        batch: &Self::Batch,
        saved: &LayerActivations<Self::Stored, Self::Buffer>,
        d_node_hidden: &mut Self::Stored,
        d_pooled: &mut Self::Stored,
        gradients: &mut Self::Buffer,
    ) -> Result<()>;

    /// Backward of [`Backend::edge_pool`] and of the heads' batch norm: `d_pooled` and `d_edge_state` (not read
    /// in the last layer) to `d_edge_heads`, by the heads' linear outputs.
    fn edge_pool_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Self::Buffer>,
        batch: &Self::Batch,
        saved: &LayerActivations<Self::Stored, Self::Buffer>,
        d_pooled: &Self::Stored,
        d_edge_state: &Self::Stored,
        d_edge_heads: &mut Self::Stored,
        gradients: &mut Self::Buffer,
    ) -> Result<()>;

    /// Backward of [`Backend::edge_heads`]' linear layers: `d_edge_heads` to `d_edge_hidden`, by
    /// `edge_hidden_output`.
    fn edge_heads_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Self::Buffer>,
        batch: &Self::Batch,
        saved: &LayerActivations<Self::Stored, Self::Buffer>,
        d_edge_heads: &Self::Stored,
        d_edge_hidden: &mut Self::Stored,
        gradients: &mut Self::Buffer,
    ) -> Result<()>;

    /// Backward of [`Backend::edge_hidden`]: `d_edge_hidden` (overwritten) to the layer's input.
    fn edge_hidden_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Self::Buffer>,
        batch: &Self::Batch,
        saved: &LayerActivations<Self::Stored, Self::Buffer>,
        input: LayerInput<'_, Self::Stored, Self::Buffer>,
        d_edge_hidden: &mut Self::Stored,
        d_input: LayerInputGradient<'_, Self::Stored>,
        gradients: &mut Self::Buffer,
    ) -> Result<()>;

    /// One Adam step over part of the parameters. Unless it ends the step, the stages that follow neither read these
    /// parameters nor write their gradients, and may run beside it.
    fn adam_step(
        &mut self,
        adam: &Adam,
        parameters: &mut Parameters<Self::Buffer>,
        gradients: &Self::Buffer,
        moments: &mut Moments<Self::Buffer>,
        steps: &mut Self::Steps,
        part: Part,
    ) -> Result<()>;

    /// The `k` rows, or all, of `embeddings [rows, D]` with the greatest inner products with `query [D]`, and these: best
    /// first, ties to the lower index. All values are finite.
    fn top_k(
        &mut self,
        query: &Self::Buffer,
        embeddings: &Self::Buffer,
        rows: usize,
        width: usize,
        k: usize,
    ) -> Result<Vec<(usize, f32)>>;

    /// The rank, from 1, of row `truth[q]` of `index [rows, D]` by inner product with row q of `queries [Q, D]`, for each of
    /// the Q. Rows that score the same as the true one rank before it. All values are finite; sums are in double precision,
    /// in one order for all rows, so that equal rows tie.
    fn cosine_ranks(
        &mut self,
        queries: &Self::Buffer,
        index: &Self::Buffer,
        rows: usize,
        width: usize,
        truth: &[u32],
    ) -> Result<Vec<u32>>;

    /// Of each row of the inner products of `embeddings [n, D]` with each other, and the same row of the similarities of
    /// `images`, n of them, without its entry with itself: what its correlations follow from. `done` is told how many rows,
    /// again and again. None where the backend has nothing quicker than the CPU's pass over all pairs, which correlates the
    /// rows that it meets (`evaluation/agreement.rs`).
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

    /// `[rows, C]`, 1 where the block's ReLU passed its input: the decisions that the forward pass took.
    fn relu_mask(
        &mut self,
        layer: usize,
        kind: BlockKind,
        rows: usize,
        parameters: &Parameters<Self::Buffer>,
        block: &BlockActivations<Self::Stored, Self::Buffer>,
    ) -> Result<Vec<u8>>;
}
