//! The CPU backend: products by a GEMM crate, everything between them in fused passes on all threads.
//!
//! What it saves over the formulas as written: the first product of a layer is split by operand
//! (`concat(x[s], e, x[o]) W^T = (x W_s^T)[s] + e W_e^T + (x W_o^T)[o]`), so that node states are projected once per
//! node rather than twice per edge, and in layer 0 once per distinct type; its backward sums the edges' gradients by
//! node (or type) first. Nothing is concatenated; the heads' outputs are never stored after batch norm.

mod batch_norm;
pub mod cosine_ranks;
mod edge_hidden;
mod edge_pool;
pub(crate) mod inner_products;
mod matmul;
mod node;
mod readout_loss;
mod rounding;
mod rows;
pub mod stored_rows;
pub mod top_k;

use std::ops::Range;

use rayon::prelude::*;

use crate::backend::reference::batch_norm::{no_statistics, running_statistics};
use crate::backend::{Activated, Backend, LayerInput, LayerInputGradient, Mode};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::error::Result;
use crate::loss::Loss;
use crate::model::activations::{BlockActivations, LayerActivations};
use crate::model::loss_row;
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, BlockLayout, Parameters};
use crate::optimizer::{Adam, AdamStep, Moments, Part};

use batch_norm::{BackwardSums, CHUNK_ROWS, Columns, Partials, Statistics, Terms};
use matmul::{Accum, matmul, matrix, matrix_mut};
use rounding::Rounding;
use rows::vectorised;

/// The CPU backend. Its fields, but for the first, are scratch memory, kept between stages.
#[derive(Debug, Default)]
pub struct Cpu {
    rounding: Rounding,
    columns: Columns,
    terms: Terms,
    partials: Partials,
    edge_hidden: edge_hidden::Scratch,
    /// By the layer that reads them, `[N]` each: what node states were divided by, where this backend rounds ([`mod@node`]).
    lengths: Vec<Vec<f32>>,
    /// `[N, D]`: the gradient by the node output's linear layer.
    d_node_output: Vec<f32>,
    readout: readout_loss::Scratch,
}

/// Values per task of a pass over a flat array.
const FLAT_CHUNK: usize = 1 << 16;

impl Cpu {
    /// A CPU backend on rayon's threads.
    pub fn new() -> Self {
        Cpu::default()
    }

    /// One that computes in single precision too, and rounds to bf16 what the CUDA kernels store so: to see what that
    /// costs in accuracy. It is no faster.
    pub fn rounding_to_bf16() -> Self {
        Cpu { rounding: Rounding::to_bf16(), ..Cpu::default() }
    }

    /// The statistics of `z [R, C]`, which `prepare` completes chunk by chunk and which is stored then, into `mean` and `rstd`.
    fn statistics(
        &mut self,
        mode: Mode,
        layout: &BlockLayout,
        running_mean: &mut [f32],
        running_var: &mut [f32],
        z: &mut [f32],
        mean: &mut [f32],
        rstd: &mut [f32],
        prepare: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let prepare = |first: usize, z: &mut [f32]| {
            prepare(first, z);
            self.rounding.store(z);
        };
        let running_mean = &mut running_mean[layout.running.clone()];
        let running_var = &mut running_var[layout.running.clone()];
        match mode {
            Mode::Train if layout.batch_norm => {
                let to = Statistics { mean, rstd, running_mean, running_var };
                return self.partials.statistics(z, to, prepare);
            }
            Mode::Evaluate if layout.batch_norm => running_statistics(running_mean, running_var, mean, rstd),
            Mode::Train | Mode::Evaluate => no_statistics(mean, rstd),
        }
        let rows = z.par_chunks_mut(CHUNK_ROWS * layout.outputs).enumerate();
        rows.for_each(|(chunk, z)| prepare(chunk * CHUNK_ROWS, z));
    }

    /// Whether a layer's node states are over lengths that are kept for the next ([`mod@node`]).
    fn takes_lengths(&self, layer: usize, config: ModelConfig) -> bool {
        self.rounding.is_to_bf16() && config.l2_norm && layer + 1 < config.layers
    }

    /// Moved out, to be put back when they are filled.
    fn take_lengths(&mut self, layer: usize) -> Vec<f32> {
        if self.lengths.len() <= layer {
            self.lengths.resize_with(layer + 1, Vec::new);
        }
        std::mem::take(&mut self.lengths[layer])
    }

    /// `z = x W^T` and its statistics, into `block`.
    fn linear_with_statistics(
        &mut self,
        mode: Mode,
        layout: &BlockLayout,
        values: &[f32],
        running: (&mut [f32], &mut [f32]),
        x: &[f32],
        rows: usize,
        block: &mut BlockActivations<Vec<f32>>,
    ) {
        let weights = &self.rounding.parameters(values)[layout.weight.clone()];
        let weight = matrix(weights, layout.outputs, layout.inputs);
        let z = &mut block.linear[..rows * layout.outputs];
        matmul(
            matrix_mut(z, rows, layout.outputs),
            Accum::Replace,
            matrix(x, rows, layout.inputs),
            weight.transpose(),
        );
        self.statistics(mode, layout, running.0, running.1, z, &mut block.mean, &mut block.rstd, |_, _| {});
    }

    /// `output = relu(norm(z))`.
    fn relu_norm(
        &mut self,
        layout: &BlockLayout,
        values: &[f32],
        rows: usize,
        block: &BlockActivations<Vec<f32>>,
        output: &mut [f32],
    ) {
        self.set_columns(layout, values, block);
        let (columns, width) = (self.columns.all(), layout.outputs);
        let z = block.linear[..rows * width].par_chunks(CHUNK_ROWS * width);
        output[..rows * width].par_chunks_mut(CHUNK_ROWS * width).zip(z).for_each(|(output, z)| {
            for (y, z) in output.chunks_exact_mut(width).zip(z.chunks_exact(width)) {
                columns.relu(z, y);
            }
            self.rounding.store(output);
        });
    }

    /// The block's normalisation becomes the current one.
    fn set_columns(&mut self, layout: &BlockLayout, values: &[f32], block: &BlockActivations<Vec<f32>>) {
        let (weight, bias) = (&values[layout.norm_weight.clone()], &values[layout.norm_bias.clone()]);
        self.columns.set(&block.mean, &block.rstd, weight, bias);
    }

    /// Backward of relu(norm(z)): `d [R, C]`, by its output, becomes the gradient by z.
    fn norm_backward(
        &mut self,
        layout: &BlockLayout,
        values: &[f32],
        block: &BlockActivations<Vec<f32>>,
        d: &mut [f32],
        gradients: &mut [f32],
    ) {
        let width = layout.outputs;
        let rows = d.len() / width;
        let z = &block.linear[..d.len()];
        self.set_columns(layout, values, block);
        let columns = self.columns.all();
        let to = backward_sums(layout, gradients, &mut self.terms);
        self.partials.backward_sums(rows, &self.columns, &block.rstd, to, |first, sum, product| {
            let chunk = first * width..((first + CHUNK_ROWS) * width).min(d.len());
            for (z, d) in z[chunk.clone()].chunks_exact(width).zip(d[chunk].chunks_exact(width)) {
                columns.add_backward_sums(z, d, 1.0, sum, product);
            }
        });
        let terms = self.terms.part(0, width);
        d.par_chunks_mut(CHUNK_ROWS * width).zip(z.par_chunks(CHUNK_ROWS * width)).for_each(|(d, z)| {
            for (d, z) in d.chunks_exact_mut(width).zip(z.chunks_exact(width)) {
                columns.backward_in_place(z, terms, d);
            }
            self.rounding.store(d);
        });
    }

    /// Backward of `z = x W^T`: `d_weight = d_z^T x` and `d_x = d_z W`.
    fn linear_backward(
        &self,
        layout: &BlockLayout,
        values: &[f32],
        d_z: &[f32],
        x: &[f32],
        rows: usize,
        d_x: &mut [f32],
        gradients: &mut [f32],
    ) {
        let (inputs, outputs) = (layout.inputs, layout.outputs);
        let d_z = matrix(d_z, rows, outputs);
        let d_weight = matrix_mut(&mut gradients[layout.weight.clone()], outputs, inputs);
        matmul(d_weight, Accum::Replace, d_z.transpose(), matrix(x, rows, inputs));
        let weight = matrix(&self.rounding.parameters(values)[layout.weight.clone()], outputs, inputs);
        let d_x = &mut d_x[..rows * inputs];
        matmul(matrix_mut(d_x, rows, inputs), Accum::Replace, d_z, weight);
        self.rounding.store_all(d_x);
    }
}

/// Where a block's backward sums go.
fn backward_sums<'a>(
    layout: &BlockLayout,
    gradients: &'a mut [f32],
    terms: &'a mut Terms,
) -> BackwardSums<'a> {
    debug_assert_eq!(layout.norm_weight.end, layout.norm_bias.start);
    let both = &mut gradients[layout.norm_weight.start..layout.norm_bias.end];
    let (d_weight, d_bias) = both.split_at_mut(layout.outputs);
    BackwardSums { d_weight, d_bias, terms, batch_statistics: layout.batch_norm }
}

/// Grows `scratch` to at least `len` values; what they are does not matter.
fn at_least(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    &mut scratch[..len]
}

/// One Adam step, with the factors rounded to single precision once.
fn adam_chunk(adam: &AdamStep, values: &mut [f32], gradients: &[f32], first: &mut [f32], second: &mut [f32]) {
    let (beta1, beta2) = (adam.beta1 as f32, adam.beta2 as f32);
    let (rate, epsilon) = (adam.rate as f32, adam.epsilon as f32);
    let correction = adam.second_moment_correction as f32;
    vectorised(
        #[inline(always)]
        || {
            for (((p, g), m), v) in values.iter_mut().zip(gradients).zip(first).zip(second) {
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                *p -= rate * *m / ((*v * correction).sqrt() + epsilon);
            }
        },
    );
}

impl Backend for Cpu {
    type Buffer = Vec<f32>;
    type Stored = Vec<f32>;
    type Batch = GraphBatch;
    type Steps = u64;
    type Graphs = ();

    fn allocate(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }

    fn allocate_stored(&self, rows: usize, columns: usize) -> Result<Vec<f32>> {
        self.allocate(rows * columns)
    }

    fn download_stored(&mut self, matrix: &Vec<f32>, rows: usize, columns: usize) -> Result<Vec<f32>> {
        self.download(matrix, 0..rows * columns)
    }

    fn upload(&mut self, values: &[f32], buffer: &mut Vec<f32>, at: usize) -> Result<()> {
        buffer[at..at + values.len()].copy_from_slice(values);
        Ok(())
    }

    fn download(&mut self, buffer: &Vec<f32>, range: Range<usize>) -> Result<Vec<f32>> {
        Ok(buffer[range].to_vec())
    }

    fn copy(&mut self, from: &Vec<f32>, range: Range<usize>, to: &mut Vec<f32>, at: usize) -> Result<()> {
        to[at..at + range.len()].copy_from_slice(&from[range]);
        Ok(())
    }

    fn steps(&self) -> Result<u64> {
        Ok(0)
    }

    fn set_steps(&mut self, steps: &mut u64, done: u64) -> Result<()> {
        *steps = done;
        Ok(())
    }

    fn plan(&mut self, _: ModelConfig, _: BatchSize) -> Result<GraphBatch> {
        Ok(GraphBatch::default())
    }

    fn parameters_loaded(&mut self, parameters: &Parameters<Vec<f32>>) -> Result<()> {
        self.rounding.keep_parameters(&parameters.values);
        Ok(())
    }

    fn load_batch(&mut self, from: &GraphBatch, to: &mut GraphBatch) -> Result<()> {
        to.clone_from(from);
        Ok(())
    }

    fn edge_hidden(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Vec<f32>>,
        batch: &GraphBatch,
        input: LayerInput<'_, Vec<f32>>,
        block: &mut BlockActivations<Vec<f32>>,
        output: &mut Vec<f32>,
    ) -> Result<()> {
        self.edge_hidden_forward(layer, mode, parameters, batch, input, block);
        let layout = parameters.layout.block(layer, BlockKind::EdgeHidden);
        self.relu_norm(layout, &parameters.values, batch.size().edges, block, output);
        Ok(())
    }

    fn edge_heads(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Vec<f32>>,
        batch: &GraphBatch,
        hidden: Activated<'_, Vec<f32>>,
        block: &mut BlockActivations<Vec<f32>>,
    ) -> Result<()> {
        let Parameters { layout, values, running_mean, running_var } = parameters;
        let layout = layout.block(layer, BlockKind::EdgeHeads);
        let rows = batch.size().edges;
        self.linear_with_statistics(
            mode,
            layout,
            values,
            (running_mean, running_var),
            hidden.output,
            rows,
            block,
        );
        Ok(())
    }

    fn edge_pool(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<f32>>,
        batch: &GraphBatch,
        heads: &BlockActivations<Vec<f32>>,
        pooled: &mut Vec<f32>,
        edge_state: &mut Vec<f32>,
    ) -> Result<()> {
        self.edge_pool_forward(layer, parameters, batch, heads, pooled, edge_state);
        Ok(())
    }

    fn node_hidden(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Vec<f32>>,
        batch: &GraphBatch,
        pooled: &Vec<f32>,
        block: &mut BlockActivations<Vec<f32>>,
        output: &mut Vec<f32>,
    ) -> Result<()> {
        let Parameters { layout, values, running_mean, running_var } = parameters;
        let layout = layout.block(layer, BlockKind::NodeHidden);
        let rows = batch.size().nodes;
        self.linear_with_statistics(mode, layout, values, (running_mean, running_var), pooled, rows, block);
        self.relu_norm(layout, values, rows, block, output);
        Ok(())
    }

    fn node_output(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Vec<f32>>,
        batch: &GraphBatch,
        hidden: Activated<'_, Vec<f32>>,
        block: &mut BlockActivations<Vec<f32>>,
        node_state: &mut Vec<f32>,
    ) -> Result<()> {
        let Parameters { layout: all, values, running_mean, running_var } = parameters;
        let layout = all.block(layer, BlockKind::NodeOutput);
        let rows = batch.size().nodes;
        self.linear_with_statistics(
            mode,
            layout,
            values,
            (running_mean, running_var),
            hidden.output,
            rows,
            block,
        );
        match all.config.l2_norm {
            true => {
                let mut lengths = self.takes_lengths(layer, all.config).then(|| self.take_lengths(layer + 1));
                self.l2_normalise(lengths.as_mut(), layout, values, rows, block, node_state);
                if let Some(lengths) = lengths {
                    self.lengths[layer + 1] = lengths;
                }
            }
            false => self.relu_norm(layout, values, rows, block, node_state),
        }
        Ok(())
    }

    fn readout(
        &mut self,
        config: ModelConfig,
        batch: &GraphBatch,
        node_state: &Vec<f32>,
        embedding: &mut Vec<f32>,
    ) -> Result<()> {
        self.readout.embed(config, batch, node_state, embedding);
        Ok(())
    }

    fn readout_loss(
        &mut self,
        config: ModelConfig,
        loss: &Loss,
        batch: &GraphBatch,
        node_state: &Vec<f32>,
        embedding: &mut Vec<f32>,
        losses: &mut Vec<f32>,
        &steps: &u64,
        d_node_state: &mut Vec<f32>,
    ) -> Result<()> {
        self.readout.embed(config, batch, node_state, embedding);
        let at = loss_row(losses.len(), steps).start;
        self.readout.losses(loss, batch, config.state_width, embedding, &mut losses[at..]);
        self.readout.backward(config, batch, embedding, d_node_state);
        self.rounding.store_all(d_node_state);
        Ok(())
    }

    fn node_output_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<f32>>,
        batch: &GraphBatch,
        saved: &LayerActivations<Vec<f32>>,
        d_node_state: &mut Vec<f32>,
        d_node_hidden: &mut Vec<f32>,
        gradients: &mut Vec<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, BlockKind::NodeOutput);
        let (values, rows) = (&parameters.values, batch.size().nodes);
        let config = parameters.layout.config;
        let d_z = if config.l2_norm && !self.takes_lengths(layer, config) {
            self.l2_normalise_backward(layout, values, rows, saved, d_node_state, gradients);
            self.d_node_output.as_slice()
        } else {
            let d = &mut d_node_state[..rows * layout.outputs];
            self.norm_backward(layout, values, &saved.node_output, d, gradients);
            &*d
        };
        self.linear_backward(layout, values, d_z, &saved.node_hidden_output, rows, d_node_hidden, gradients);
        Ok(())
    }

    fn node_hidden_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<f32>>,
        batch: &GraphBatch,
        saved: &LayerActivations<Vec<f32>>,
        d_node_hidden: &mut Vec<f32>,
        d_pooled: &mut Vec<f32>,
        gradients: &mut Vec<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, BlockKind::NodeHidden);
        let rows = batch.size().nodes;
        let d = &mut d_node_hidden[..rows * layout.outputs];
        self.norm_backward(layout, &parameters.values, &saved.node_hidden, d, gradients);
        self.linear_backward(layout, &parameters.values, d, &saved.pooled, rows, d_pooled, gradients);
        Ok(())
    }

    fn edge_pool_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<f32>>,
        batch: &GraphBatch,
        saved: &LayerActivations<Vec<f32>>,
        d_pooled: &Vec<f32>,
        d_edge_state: &Vec<f32>,
        d_edge_heads: &mut Vec<f32>,
        gradients: &mut Vec<f32>,
    ) -> Result<()> {
        self.edge_pool_backward_heads(
            layer,
            parameters,
            batch,
            &saved.edge_heads,
            d_pooled,
            d_edge_state,
            d_edge_heads,
            gradients,
        );
        Ok(())
    }

    fn edge_heads_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<f32>>,
        batch: &GraphBatch,
        saved: &LayerActivations<Vec<f32>>,
        d_edge_heads: &Vec<f32>,
        d_edge_hidden: &mut Vec<f32>,
        gradients: &mut Vec<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, BlockKind::EdgeHeads);
        let (rows, x) = (batch.size().edges, &saved.edge_hidden_output);
        self.linear_backward(layout, &parameters.values, d_edge_heads, x, rows, d_edge_hidden, gradients);
        Ok(())
    }

    fn edge_hidden_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<f32>>,
        batch: &GraphBatch,
        saved: &LayerActivations<Vec<f32>>,
        input: LayerInput<'_, Vec<f32>>,
        d_edge_hidden: &mut Vec<f32>,
        d_input: LayerInputGradient<'_, Vec<f32>>,
        gradients: &mut Vec<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, BlockKind::EdgeHidden);
        let d = &mut d_edge_hidden[..batch.size().edges * layout.outputs];
        self.norm_backward(layout, &parameters.values, &saved.edge_hidden, d, gradients);
        let over_lengths = layer > 0 && self.takes_lengths(layer - 1, parameters.layout.config);
        let Cpu { rounding, edge_hidden, lengths, .. } = self;
        let lengths = over_lengths.then(|| lengths[layer].as_slice());
        edge_hidden.backward(rounding, layer, parameters, batch, input, lengths, d, d_input, gradients);
        Ok(())
    }

    fn adam_step(
        &mut self,
        adam: &Adam,
        parameters: &mut Parameters<Vec<f32>>,
        gradients: &Vec<f32>,
        moments: &mut Moments<Vec<f32>>,
        steps: &mut u64,
        Part { parameters: range, ends_step }: Part,
    ) -> Result<()> {
        let step = &adam.at_step(*steps + 1);
        parameters.values[range.clone()]
            .par_chunks_mut(FLAT_CHUNK)
            .zip(gradients[range.clone()].par_chunks(FLAT_CHUNK))
            .zip(moments.first[range.clone()].par_chunks_mut(FLAT_CHUNK))
            .zip(moments.second[range].par_chunks_mut(FLAT_CHUNK))
            .for_each(|(((values, gradients), first), second)| {
                adam_chunk(step, values, gradients, first, second);
            });
        if ends_step {
            *steps += 1;
            self.rounding.keep_parameters(&parameters.values);
        }
        Ok(())
    }

    fn top_k(
        &mut self,
        query: &Vec<f32>,
        embeddings: &Vec<f32>,
        rows: usize,
        width: usize,
        k: usize,
    ) -> Result<Vec<(usize, f32)>> {
        Ok(top_k::top_k(&query[..width], &embeddings[..rows * width], k))
    }

    fn cosine_ranks(
        &mut self,
        queries: &Vec<f32>,
        index: &Vec<f32>,
        rows: usize,
        width: usize,
        truth: &[u32],
    ) -> Result<Vec<u32>> {
        let queries = &queries[..truth.len() * width];
        Ok(cosine_ranks::cosine_ranks(queries, &index[..rows * width], width, truth))
    }

    fn relu_mask(
        &mut self,
        layer: usize,
        kind: BlockKind,
        rows: usize,
        parameters: &Parameters<Vec<f32>>,
        block: &BlockActivations<Vec<f32>>,
    ) -> Result<Vec<u8>> {
        let layout = parameters.layout.block(layer, kind);
        self.set_columns(layout, &parameters.values, block);
        let columns = self.columns.all();
        let rows = block.linear[..rows * layout.outputs].chunks_exact(layout.outputs);
        Ok(rows.flat_map(|z| columns.mask(z)).collect())
    }
}
