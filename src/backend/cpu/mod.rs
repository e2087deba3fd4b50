//! CPU backend: the crate `scenerank-matmul` computes the products; fused multi-threaded passes compute everything between
//! them.
//!
//! It saves work compared with the plain formulas. The first product of a layer is split by operand
//! (`concat(x[s], e, x[o]) W^T = (x W_s^T)[s] + e W_e^T + (x W_o^T)[o]`). Node states are thus projected once
//! per node instead of twice per edge, and in layer 0 once per distinct type. The backward first sums the
//! edge gradients by node (or type). Nothing is concatenated, and the outputs of the heads are never stored
//! after batch norm.

mod batch_norm;
mod block;
pub mod clock;
pub mod cosine_ranks;
mod edge_hidden;
mod edge_pool;
mod inference;
pub(crate) mod inner_products;
mod many_queries;
mod node;
pub mod rank_many;
mod readout_loss;
mod rounding;
mod rows;
pub mod stored_rows;
pub mod top_k;
pub mod top_k_many;

use std::ops::Range;

use rayon::prelude::*;
use scenerank_matmul::Amx;

use crate::backend::kernels::Kernels;
use crate::backend::pass::{
    Backward, EdgeHeads, EdgeHidden, Forward, Gradient, LossOutputs, NodeHidden, Pooled, Readout, States,
    Update,
};
use crate::backend::{Backend, Batches, Description, Memory, Search, Stages, loss_row};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::error::Result;
use crate::files::npy::StoredValues;
use crate::loss::Loss;
use crate::network::activations::{ActivationGradients, Activations};
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, Layout, Parameters};
use crate::optimizer::{AdamStep, HostSteps, Part};
use crate::ranks::Ranks;

use batch_norm::{Columns, Partials, Terms};
use block::Block;
use clock::{Clock, Products, Work};
use rounding::Rounding;
use rows::vectorised;
use stored_rows::StoredRows;

/// CPU backend. All fields but the first are scratch memory, kept between stages.
#[derive(Debug, Default)]
pub struct Cpu {
    rounding: Rounding,
    /// What multiplies values that are rounded to bf16, if anything does.
    amx: Option<Amx>,
    columns: Columns,
    terms: Terms,
    partials: Partials,
    products: Products,
    clock: Clock,
    edge_hidden: edge_hidden::Scratch,
    /// `[N]` divisors of the node states that a layer reads, one entry per layer; only used if this backend
    /// rounds ([`mod@node`]).
    lengths: Vec<Vec<f32>>,
    /// `[N, D]` gradient with respect to the node output's linear layer.
    d_node_output: Vec<f32>,
    readout: readout_loss::Scratch,
    folded: inference::Folded,
}

/// Values per task in a pass over a flat array.
const FLAT_CHUNK: usize = 1 << 16;

impl Cpu {
    /// Creates a CPU backend that uses rayon's threads.
    pub fn new() -> Self {
        Cpu::default()
    }

    /// Creates a CPU backend that rounds to bf16 whatever the CUDA kernels store in bf16. Products are made in bf16 where the
    /// processor has matrix instructions for it ([`Amx`]), in single precision elsewhere.
    pub fn rounding_to_bf16() -> Self {
        Cpu::of(Rounding::to_bf16(), Amx::new(), Clock::default())
    }

    /// Like [`Cpu::rounding_to_bf16`], with products in single precision on every processor. Their sums have the order of the
    /// kernels' sums.
    pub fn only_rounding_to_bf16() -> Self {
        Cpu::of(Rounding::to_bf16(), None, Clock::default())
    }

    /// The same backend with products and passes that are timed by `clock`.
    pub fn timed(self, clock: Clock) -> Self {
        Cpu::of(self.rounding, self.amx, clock)
    }

    fn of(rounding: Rounding, amx: Option<Amx>, clock: Clock) -> Self {
        let products = || Products::new(amx, clock.clone());
        let edge_hidden = edge_hidden::Scratch::new(products(), clock.clone());
        Cpu { products: products(), edge_hidden, rounding, amx, clock, ..Cpu::default() }
    }

    /// Whether the lengths of a layer's node states are kept for the next layer ([`mod@node`]).
    fn takes_lengths(&self, layer: usize, config: ModelConfig) -> bool {
        self.rounding.is_to_bf16() && config.l2_norm && layer + 1 < config.layers
    }

    /// Moves a layer's buffer of lengths out; the caller puts it back after filling it.
    fn take_lengths(&mut self, layer: usize) -> Vec<f32> {
        if self.lengths.len() <= layer {
            self.lengths.resize_with(layer + 1, Vec::new);
        }
        std::mem::take(&mut self.lengths[layer])
    }
}

/// Runs a stage on one of rayon's threads. Its parallel loops then start there; from another thread, each would wake a worker
/// and wait for it.
fn on_pool<R: Send>(stage: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| stage())
}

/// Grows `scratch` to at least `len` values with unspecified content.
fn at_least(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    &mut scratch[..len]
}

/// One Adam step on a chunk; the factors are rounded to single precision once.
fn adam_chunk(adam: &AdamStep, values: &mut [f32], gradients: &[f32], first: &mut [f32], second: &mut [f32]) {
    let (beta1, beta2) = (adam.beta1 as f32, adam.beta2 as f32);
    let (rate, epsilon) = (adam.rate as f32, adam.epsilon as f32);
    let correction = adam.second_moment_correction as f32;
    let (kept, gradient_scale) = (adam.kept as f32, adam.gradient_scale as f32);
    vectorised(
        #[inline(always)]
        || {
            for (((p, g), m), v) in values.iter_mut().zip(gradients).zip(first).zip(second) {
                let g = gradient_scale * g;
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                *p = kept * *p - rate * *m / ((*v * correction).sqrt() + epsilon);
            }
        },
    );
}

impl Memory for Cpu {
    type Buffer = Vec<f32>;

    fn allocate(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
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
}

impl Batches for Cpu {
    type Batch = GraphBatch;
    type Graphs = ();

    fn plan(&mut self, _: ModelConfig, _: BatchSize) -> Result<GraphBatch> {
        Ok(GraphBatch::default())
    }

    fn load_batch(&mut self, from: &GraphBatch, to: &mut GraphBatch) -> Result<()> {
        to.clone_from(from);
        Ok(())
    }
}

impl Stages for Cpu {
    type Activations = Activations<Vec<f32>>;
    type ActivationGradients = ActivationGradients<Vec<f32>>;
    type Steps = HostSteps;

    fn activations(&self, config: ModelConfig, capacity: BatchSize) -> Result<Self::Activations> {
        Ok(Activations::new(config, capacity, |len| vec![0.0; len]))
    }

    fn activation_gradients(
        &self,
        config: ModelConfig,
        capacity: BatchSize,
    ) -> Result<Self::ActivationGradients> {
        ActivationGradients::new(config, capacity, |rows, columns| self.allocate(rows * columns))
    }

    fn steps(&self, _: &Layout) -> Result<HostSteps> {
        Ok(HostSteps::default())
    }

    fn set_steps(&mut self, steps: &mut HostSteps, done: u64) -> Result<()> {
        steps.done = done;
        Ok(())
    }

    fn gradient_norm(&mut self, gradients: &Vec<f32>, count: usize, steps: &mut HostSteps) -> Result<()> {
        // Chunks and their order do not depend on the number of threads.
        let squares: Vec<f64> = gradients[..count]
            .par_chunks(FLAT_CHUNK)
            .map(|chunk| chunk.iter().map(|&g| f64::from(g) * f64::from(g)).sum())
            .collect();
        steps.gradient_norm = squares.iter().sum::<f64>().sqrt();
        Ok(())
    }

    fn sum_gradients(&mut self, gradients: &mut Vec<f32>, range: Range<usize>) -> Result<()> {
        self.partials.ranks.sum(&mut gradients[range]);
        Ok(())
    }

    fn last_gradient_norm(&mut self, steps: &HostSteps) -> Result<f64> {
        Ok(steps.gradient_norm)
    }

    fn parameters_loaded(&mut self, parameters: &Parameters<Vec<f32>>) -> Result<()> {
        self.rounding.keep_parameters(&parameters.values);
        self.folded.forget();
        Ok(())
    }

    fn infer(
        &mut self,
        parameters: &Parameters<Vec<f32>>,
        batch: &GraphBatch,
        activations: &mut Self::Activations,
    ) -> Result<bool> {
        // Folded weights skip values that the CUDA kernels round to bf16. Without batch norm there is nothing to fold, and
        // evaluation then gives the bits of training.
        if self.rounding.is_to_bf16() || !parameters.layout.config.batch_norm {
            return Ok(false);
        }
        on_pool(|| self.infer_folded(parameters, batch, activations));
        Ok(true)
    }

    fn edge_hidden(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        on_pool(|| {
            self.edge_hidden_forward(pass);
            let (_, a) = pass.activations.at_mut(pass.layer);
            let of = Block::new(pass.parameters, pass.layer, BlockKind::EdgeHidden);
            let values = pass.batch.size().edges * of.layout.outputs;
            self.relu_norm(of, &a.edge_hidden, &mut a.edge_hidden_output[..values]);
            Ok(())
        })
    }

    fn edge_heads(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        on_pool(|| {
            let (_, a) = pass.activations.at_mut(pass.layer);
            let place = (pass.layer, BlockKind::EdgeHeads);
            let x =
                &a.edge_hidden_output[..pass.batch.size().edges * pass.parameters.layout.config.hidden_width];
            self.linear_forward(pass.mode, place, pass.parameters, x, &mut a.edge_heads);
            Ok(())
        })
    }

    fn edge_pool(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        on_pool(|| {
            self.edge_pool_forward(pass);
            Ok(())
        })
    }

    fn node_hidden(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        on_pool(|| {
            let (_, a) = pass.activations.at_mut(pass.layer);
            let place = (pass.layer, BlockKind::NodeHidden);
            let values = pass.batch.size().nodes * pass.parameters.layout.config.hidden_width;
            self.linear_forward(pass.mode, place, pass.parameters, &a.pooled[..values], &mut a.node_hidden);
            let of = Block::new(pass.parameters, pass.layer, BlockKind::NodeHidden);
            self.relu_norm(of, &a.node_hidden, &mut a.node_hidden_output[..values]);
            Ok(())
        })
    }

    fn node_output(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        on_pool(|| {
            let (_, a) = pass.activations.at_mut(pass.layer);
            let (layer, nodes, config) = (pass.layer, pass.batch.size().nodes, pass.parameters.layout.config);
            let x = &a.node_hidden_output[..nodes * config.hidden_width];
            let place = (layer, BlockKind::NodeOutput);
            self.linear_forward(pass.mode, place, pass.parameters, x, &mut a.node_output);
            let of = Block::new(pass.parameters, layer, BlockKind::NodeOutput);
            let state = &mut a.node_state[..nodes * config.state_width];
            match config.l2_norm {
                true => {
                    let mut lengths = self.takes_lengths(layer, config).then(|| self.take_lengths(layer + 1));
                    self.l2_normalise(lengths.as_mut(), of, &a.node_output, state);
                    if let Some(lengths) = lengths {
                        self.lengths[layer + 1] = lengths;
                    }
                }
                false => self.relu_norm(of, &a.node_output, state),
            }
            Ok(())
        })
    }

    fn readout(&mut self, of: Readout<'_, Self>) -> Result<()> {
        on_pool(|| {
            let _running = self.clock.time(Work::Pass("readout and loss"));
            self.readout.embed(of.config, of.batch, of.activations.last_node_state(), of.embedding);
            Ok(())
        })
    }

    fn readout_loss(
        &mut self,
        of: Readout<'_, Self>,
        loss: &Loss,
        to: LossOutputs<'_, Self>,
    ) -> Result<Gradient<States>> {
        on_pool(|| {
            let Readout { config, batch, activations, embedding } = of;
            let _running = self.clock.time(Work::Pass("readout and loss"));
            self.readout.embed(config, batch, activations.last_node_state(), embedding);
            let at = loss_row(to.losses.len(), to.steps.done).start;
            let embedding = &*embedding;
            let losses = &mut to.losses[at..];
            self.readout.losses(loss, batch, (embedding, config.state_width), losses, to.triples_of_all);
            self.readout.backward(config, batch, embedding, &mut to.d.d_node_state);
            self.rounding.store_all(&mut to.d.d_node_state);
            Ok(Gradient::computed())
        })
    }

    fn node_output_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<States>,
    ) -> Result<Gradient<NodeHidden>> {
        on_pool(|| {
            let (_, a) = pass.activations.at(pass.layer);
            let of = Block::new(pass.parameters, pass.layer, BlockKind::NodeOutput);
            let (nodes, config) = (pass.batch.size().nodes, pass.parameters.layout.config);
            let d_state = &mut pass.d.d_node_state[..nodes * of.layout.outputs];
            let through_l2 = config.l2_norm && !self.takes_lengths(pass.layer, config);
            if through_l2 {
                self.l2_normalise_backward(of, &a.node_output, d_state, pass.gradients);
            } else {
                self.norm_backward(of, &a.node_output, d_state, pass.gradients);
            }
            // Moved out so that it can be read while `self` packs operands.
            let d_node_output = std::mem::take(&mut self.d_node_output);
            let d_z = if through_l2 { &d_node_output } else { &*d_state };
            let d_x = &mut pass.d.d_node_hidden[..nodes * of.layout.inputs];
            self.linear_backward(of, d_z, &a.node_hidden_output, d_x, pass.gradients);
            self.d_node_output = d_node_output;
            Ok(Gradient::computed())
        })
    }

    fn node_hidden_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<NodeHidden>,
    ) -> Result<Gradient<Pooled>> {
        on_pool(|| {
            let (_, a) = pass.activations.at(pass.layer);
            let of = Block::new(pass.parameters, pass.layer, BlockKind::NodeHidden);
            let values = pass.batch.size().nodes * of.layout.outputs;
            let d = &mut pass.d.d_node_hidden[..values];
            self.norm_backward(of, &a.node_hidden, d, pass.gradients);
            self.linear_backward(of, d, &a.pooled, &mut pass.d.d_pooled[..values], pass.gradients);
            Ok(Gradient::computed())
        })
    }

    fn edge_pool_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<Pooled>,
    ) -> Result<Gradient<EdgeHeads>> {
        on_pool(|| {
            self.edge_pool_backward_heads(pass);
            Ok(Gradient::computed())
        })
    }

    fn edge_heads_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<EdgeHeads>,
    ) -> Result<Gradient<EdgeHidden>> {
        on_pool(|| {
            let (_, a) = pass.activations.at(pass.layer);
            let of = Block::new(pass.parameters, pass.layer, BlockKind::EdgeHeads);
            let d_x = &mut pass.d.d_edge_hidden[..pass.batch.size().edges * of.layout.inputs];
            self.linear_backward(of, &pass.d.d_edge_heads, &a.edge_hidden_output, d_x, pass.gradients);
            Ok(Gradient::computed())
        })
    }

    fn edge_hidden_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<EdgeHidden>,
    ) -> Result<Gradient<States>> {
        on_pool(|| {
            let (_, a) = pass.activations.at(pass.layer);
            let of = Block::new(pass.parameters, pass.layer, BlockKind::EdgeHidden);
            let d = &mut pass.d.d_edge_hidden[..pass.batch.size().edges * of.layout.outputs];
            self.norm_backward(of, &a.edge_hidden, d, pass.gradients);
            let layer = pass.layer;
            let over_lengths = layer > 0 && self.takes_lengths(layer - 1, pass.parameters.layout.config);
            let Cpu { rounding, edge_hidden, lengths, .. } = self;
            match layer {
                0 => edge_hidden.backward_to_embeddings(rounding, pass),
                _ => edge_hidden.backward_to_states(
                    rounding,
                    pass,
                    over_lengths.then(|| lengths[layer].as_slice()),
                ),
            }
            Ok(Gradient::computed())
        })
    }

    fn adam_step(&mut self, update: Update<'_, Self>) -> Result<()> {
        on_pool(|| {
            let Update { adam, parameters, gradients, moments, steps, part } = update;
            self.folded.forget();
            let Part { parameters: range, ends_step } = part;
            let step = adam.at_step(steps.done + 1, steps.gradient_norm);
            let _running = self.clock.time(Work::Pass("adam"));
            let mut update = |step: &AdamStep, range: Range<usize>| {
                parameters.values[range.clone()]
                    .par_chunks_mut(FLAT_CHUNK)
                    .zip(gradients[range.clone()].par_chunks(FLAT_CHUNK))
                    .zip(moments.first[range.clone()].par_chunks_mut(FLAT_CHUNK))
                    .zip(moments.second[range].par_chunks_mut(FLAT_CHUNK))
                    .for_each(|(((values, gradients), first), second)| {
                        adam_chunk(step, values, gradients, first, second);
                    });
            };
            if adam.weight_decay == 0.0 {
                update(&step, range);
            } else {
                for (range, decays) in parameters.layout.by_decay(range) {
                    update(&if decays { step } else { step.without_decay() }, range);
                }
            }
            if ends_step {
                steps.done += 1;
                self.rounding.keep_parameters(&parameters.values);
            }
            Ok(())
        })
    }

    fn relu_mask(
        &mut self,
        (layer, kind): (usize, BlockKind),
        rows: usize,
        parameters: &Parameters<Vec<f32>>,
        activations: &Self::Activations,
    ) -> Result<Vec<u8>> {
        let (of, block) = (Block::new(parameters, layer, kind), activations.layers[layer].block(kind));
        self.set_columns(of, block);
        let (columns, width) = (self.columns.all(), of.layout.outputs);
        Ok(block.linear[..rows * width].chunks_exact(width).flat_map(|z| columns.mask(z)).collect())
    }
}

impl Search for Cpu {
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

    fn top_k_many(
        &mut self,
        queries: &[f32],
        embeddings: &Vec<f32>,
        rows: usize,
        width: usize,
        k: usize,
    ) -> Result<Vec<Vec<(usize, f32)>>> {
        let rows = StoredRows::checked(StoredValues::Single(&embeddings[..rows * width]), width);
        Ok(top_k_many::top_k_many(queries, rows, k))
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
}

impl Backend for Cpu {
    fn join(&mut self, ranks: &Ranks) -> Result<()> {
        self.partials.ranks = ranks.clone();
        Ok(())
    }

    fn description(&self) -> Result<Description> {
        Ok(Description { name: "cpu".into(), driver: None, kernels: Kernels::Auto })
    }
}
