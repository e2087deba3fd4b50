//! CUDA backend: handwritten kernels, run on a GPU, or compiled as C++ from the same sources and run on the
//! emulator.
//!
//! It has three levels. [`device`] runs kernels. [`launchers`] has one file per `kernels/<name>.cu`, with one
//! safe function per kernel. [`step`] holds what the stages share. This module composes the stages of a step
//! from launches. As on the CPU, a layer's first product is split by operand, and layer 0 works on the types
//! in use ([`step::layer_input`]).
//!
//! A training step is captured once for each source of batches ([`device::graph`]) and then replayed. Values
//! that differ between batches lie in device memory ([`device::rows`], [`step::batch`]). If the training set
//! lies there too ([`step::training_set`]), the captured step also assembles the batch of the next one. `batches.rs` loads,
//! captures and replays.

mod batches;
pub mod device;
pub mod launchers;
pub mod step;

use std::fmt;
use std::ops::Range;

use crate::backend::correlation_sums::CorrelationSums;
use crate::backend::pass::{
    Backward, EdgeHeads, EdgeHidden, Forward, Gradient, LossOutputs, NodeHidden, Pooled, Readout, States,
    Update,
};
use crate::backend::{Backend, Description, LOSS_STEPS, Memory, Search, Stages};
use crate::batch::graph_batch::BatchSize;
use crate::data::similarity::Similarity;
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::network::activations::ActivationGradients;
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, Layout, Parameters};
use crate::ranks::Ranks;

pub use batches::Graphs;
use device::buffer::Buffer;
use device::{Device, nvtx};
use launchers::adam::{self, Steps};
use launchers::batch_norm::{self, NormGradient};
use launchers::linear::{StoredFormat, WeightParts};
use launchers::readout_loss::{self, LossRows, NodeStates};
use launchers::stored::StoredElement;
use launchers::weight_copy::{WeightCopy, Weights};
use launchers::{cosine_ranks, edge_pool, l2_normalise, row_correlations, top_k};
use step::activations::{Activations, Block, allocate_stored, norm};
use step::batch::Batch;
use step::block::{
    After, Before, BlockSums, Blocks, Operands, batch_statistics, constant_statistics, norm_backward,
};
use step::layer_input::{self, LayerPass, StateGradients};
use step::rank_sums::RankSums;

/// CUDA backend that stores activations in `T`. Its buffers are scratch memory of the stages, planned for the
/// largest batch.
pub struct Cuda<T: StoredElement> {
    device: Device,
    format: StoredFormat<T>,
    sums: BlockSums,
    layer_input: layer_input::Scratch<T>,
    weight_parts: WeightParts,
    /// `[N, D]` gradient with respect to the linear output of the node output, in the last layer.
    d_node_output: Buffer<T>,
    rank_sums: RankSums,
    /// Weights in the form that products read, if that is not the parameters.
    weight_copy: Option<WeightCopy>,
}

impl<T: StoredElement> Cuda<T> {
    /// Creates the backend on this device, with the operands of products in this format. Fails if the device lacks them.
    pub fn new(device: Device, format: StoredFormat<T>) -> Result<Self> {
        if !format.runs_on(&device) {
            return Err(Error::Device {
                device: "cuda".into(),
                problem: "it does not multiply by warpgroups".into(),
                remedy: "use a GPU of compute capability 9.0, and a build for 90a".into(),
            });
        }
        Ok(Cuda {
            format,
            sums: BlockSums::new(&device)?,
            layer_input: layer_input::Scratch::new(&device, format)?,
            weight_parts: WeightParts::new(&device)?,
            d_node_output: device.allocate(0)?,
            rank_sums: RankSums::one(&device)?,
            weight_copy: None,
            device,
        })
    }

    fn blocks(&mut self) -> Blocks<'_, T> {
        let Cuda { device, format, sums, rank_sums, weight_parts, weight_copy, .. } = self;
        Blocks { device, format: *format, sums, rank_sums, weight_parts, weight_copy: weight_copy.as_ref() }
    }
}

/// Node states of the last layer, as read by the readout.
fn node_states<'a, T: StoredElement>(
    config: ModelConfig,
    batch: &'a Batch,
    node_state: &'a Buffer<T>,
) -> NodeStates<'a, T> {
    let values = node_state.rows(batch.nodes().bound, config.state_width);
    let mean_ends = batch.mean_ends(config.image_node_in_mean);
    NodeStates { values, graph_offsets: batch.graph_offsets(), mean_ends, width: config.state_width }
}

impl<T: StoredElement> Memory for Cuda<T> {
    type Buffer = Buffer<f32>;

    fn allocate(&self, len: usize) -> Result<Buffer<f32>> {
        self.device.allocate(len)
    }

    fn upload(&mut self, values: &[f32], buffer: &mut Buffer<f32>, at: usize) -> Result<()> {
        self.device.upload(values, buffer.slice_mut(at..at + values.len()))
    }

    fn download(&mut self, buffer: &Buffer<f32>, range: Range<usize>) -> Result<Vec<f32>> {
        self.device.download(buffer, range)
    }

    fn copy(
        &mut self,
        from: &Buffer<f32>,
        range: Range<usize>,
        to: &mut Buffer<f32>,
        at: usize,
    ) -> Result<()> {
        let end = at + range.len();
        self.device.copy_on_device(from.slice(range), to.slice_mut(at..end))
    }
}

impl<T: StoredElement> Stages for Cuda<T> {
    type Activations = Activations<T>;
    type ActivationGradients = ActivationGradients<Buffer<T>>;
    type Steps = Steps;

    fn activations(&self, config: ModelConfig, capacity: BatchSize) -> Result<Activations<T>> {
        Activations::new(&self.device, config, capacity)
    }

    /// Below the last layer, `d_node_state` is the gradient with respect to relu(norm(node_output)), before
    /// the l2 normalisation, because [`Stages::edge_hidden_backward`] of the layer above includes that step.
    fn activation_gradients(
        &self,
        config: ModelConfig,
        capacity: BatchSize,
    ) -> Result<Self::ActivationGradients> {
        ActivationGradients::new(config, capacity, |rows, columns| {
            allocate_stored(&self.device, rows, columns)
        })
    }

    fn steps(&self, layout: &Layout) -> Result<Steps> {
        Steps::new(&self.device, layout)
    }

    fn set_steps(&mut self, steps: &mut Steps, done: u64) -> Result<()> {
        steps.set(&self.device, done)
    }

    fn load_rates(&mut self, steps: &mut Steps, rates: &[f64]) -> Result<()> {
        steps.load_rates(&self.device, rates)
    }

    fn gradient_norm(&mut self, gradients: &Buffer<f32>, count: usize, steps: &mut Steps) -> Result<()> {
        steps.compute_norm(&self.device, gradients.slice(0..count))
    }

    fn sum_gradients(&mut self, gradients: &mut Buffer<f32>, range: Range<usize>) -> Result<()> {
        self.rank_sums.sum_gradients(&self.device, gradients, range)
    }

    fn last_gradient_norm(&mut self, steps: &Steps) -> Result<f64> {
        steps.norm(&self.device)
    }

    fn parameters_loaded(&mut self, parameters: &Parameters<Buffer<f32>>) -> Result<()> {
        if !T::PRODUCTS_READ_COPY {
            return Ok(());
        }
        let layout = &parameters.layout;
        let mut copy = WeightCopy::new(&self.device, layout)?;
        adam::weight_copy(&self.device, &mut copy, parameters.values.slice(0..layout.parameter_count))?;
        self.weight_copy = Some(copy);
        Ok(())
    }

    fn edge_hidden(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        let (layer, mode, batch) = (pass.layer, pass.mode, pass.batch);
        let Cuda { device, sums, rank_sums, layer_input, weight_copy, .. } = self;
        if layer == 0 {
            rank_sums.gather_sizes(device, mode, batch)?;
        }
        let (below, a) = pass.activations.at_mut(layer);
        let Parameters { layout: all, values, running_mean, running_var } = &mut *pass.parameters;
        let layout = all.block(layer, BlockKind::EdgeHidden);
        let weights = Weights { layout: all, values, copy: weight_copy.as_ref() };
        let Block { linear, norm } = &mut a.edge_hidden;
        let sums = sums.of(BlockKind::EdgeHidden).0;
        let running = rank_sums.running(device, [running_mean, running_var])?;
        let statistics = batch_statistics(mode, layout, running, (values, norm), sums);
        layer_input.forward(LayerPass { device, layer, weights, batch }, below, linear, statistics)?;
        let layout = pass.parameters.layout.block(layer, BlockKind::EdgeHidden);
        constant_statistics(device, mode, layout, pass.parameters, &mut a.edge_hidden)?;
        let place = (layer, BlockKind::EdgeHidden);
        rank_sums.merge_statistics(device, mode, place, pass.parameters, &mut a.edge_hidden)
    }

    fn edge_heads(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        let (_, a) = pass.activations.at_mut(pass.layer);
        let place = (pass.layer, BlockKind::EdgeHeads);
        let x = Before::Block(BlockKind::EdgeHidden, &a.edge_hidden);
        let x = (x, pass.batch.edges());
        self.blocks().forward(pass.mode, place, pass.parameters, x, &mut a.edge_heads)
    }

    fn edge_pool(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        let (layer, batch, parameters) = (pass.layer, pass.batch, &*pass.parameters);
        let (_, a) = pass.activations.at_mut(layer);
        let config = parameters.layout.config;
        let layout = parameters.layout.block(layer, BlockKind::EdgeHeads);
        let (hidden, state, width) = (config.hidden_width, config.edge_state_width(layer), layout.outputs);
        let (nodes, edges) = (batch.nodes(), batch.edges());
        let norm = norm(&a.edge_heads);
        let z = a.edge_heads.linear.rows(edges.bound, width);
        let mut pooled = a.pooled.rows_mut(nodes.bound, hidden);
        edge_pool::edge_pool_forward(&self.device, &mut pooled, z, norm, batch.incidence(), hidden)?;
        let Some(edge_state) = &mut a.edge_state else { return Ok(()) };
        let (mut to, z_state) =
            (edge_state.rows_mut(edges.bound, state), z.slice(hidden.min(z.len())..z.len()));
        let norm = norm.columns(hidden, state);
        batch_norm::batch_norm_relu(&self.device, &mut to, z_state, norm, T::stride(width), edges)
    }

    fn node_hidden(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        let (_, a) = pass.activations.at_mut(pass.layer);
        let place = (pass.layer, BlockKind::NodeHidden);
        let x = (Before::Values(&a.pooled), pass.batch.nodes());
        self.blocks().forward(pass.mode, place, pass.parameters, x, &mut a.node_hidden)
    }

    fn node_output(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        let (layer, nodes) = (pass.layer, pass.batch.nodes());
        let Activations { layers, node_state } = &mut *pass.activations;
        let a = &mut layers[layer];
        let place = (layer, BlockKind::NodeOutput);
        let x = (Before::Block(BlockKind::NodeHidden, &a.node_hidden), nodes);
        self.blocks().forward(pass.mode, place, pass.parameters, x, &mut a.node_output)?;
        let config = pass.parameters.layout.config;
        if layer + 1 < config.layers {
            return Ok(()); // the layer above normalises what it reads
        }
        let layout = pass.parameters.layout.block(layer, BlockKind::NodeOutput);
        let (rows, columns) = (nodes.bound, layout.outputs);
        let (mut x, z) = (node_state.rows_mut(rows, columns), a.node_output.linear.rows(rows, columns));
        let norm = norm(&a.node_output);
        match config.l2_norm {
            true => l2_normalise::l2_normalise_forward(&self.device, &mut x, z, norm, nodes),
            false => batch_norm::batch_norm_relu(&self.device, &mut x, z, norm, T::stride(columns), nodes),
        }
    }

    fn readout(&mut self, of: Readout<'_, Self>) -> Result<()> {
        let (graphs, states) =
            (of.batch.graphs(), node_states(of.config, of.batch, &of.activations.node_state));
        let embedding = &mut of.embedding.slice_mut(0..graphs.bound * of.config.state_width);
        readout_loss::readout(&self.device, embedding, states, graphs)
    }

    fn readout_loss(
        &mut self,
        of: Readout<'_, Self>,
        loss: &Loss,
        to: LossOutputs<'_, Self>,
    ) -> Result<Gradient<States>> {
        let Readout { config, batch, activations, embedding } = of;
        let LossOutputs { losses, steps, triples_of_all, d } = to;
        let (len, width) = (losses.len(), config.state_width);
        let to = readout_loss::LossOutputs {
            embedding: embedding.slice_mut(0..batch.graphs().bound * width),
            losses: LossRows { values: losses.slice_mut(0..len), rows: LOSS_STEPS, steps: steps.done() },
            d_node_state: d.d_node_state.rows_mut(batch.nodes().bound, width),
        };
        let triples = readout_loss::Triples {
            count: batch.triples(),
            of_all: if self.rank_sums.is_one() { 0 } else { triples_of_all },
            similarity_positive: batch.similarity_positive(),
            similarity_negative: batch.similarity_negative(),
        };
        let states = node_states(config, batch, &activations.node_state);
        readout_loss::readout_loss(&self.device, to, states, triples, loss)?;
        Ok(Gradient::computed())
    }

    /// Below the last layer, the product of the layer above has already computed the gradient with respect to
    /// relu(norm(.)) and the sums of the norm's backward.
    fn node_output_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<States>,
    ) -> Result<Gradient<NodeHidden>> {
        let (layer, kind, parameters) = (pass.layer, BlockKind::NodeOutput, pass.parameters);
        let (_, saved) = pass.activations.at(layer);
        let ActivationGradients { d_node_state, d_node_hidden, .. } = &mut *pass.d;
        let layout = parameters.layout.block(layer, kind);
        let (rows, bound, columns) = (pass.batch.nodes(), pass.batch.nodes().bound, layout.outputs);
        let Cuda { device, format, sums, rank_sums, weight_parts, weight_copy, d_node_output, .. } = self;
        let (place, block, weight_copy) = ((layer, kind), &saved.node_output, weight_copy.as_ref());
        let mut blocks = Blocks { device, format: *format, sums, rank_sums, weight_parts, weight_copy };
        let d = if layer + 1 < parameters.layout.config.layers {
            d_node_state
        } else if parameters.layout.config.l2_norm {
            let of_norm = [layout.norm_weight.clone(), layout.norm_bias.clone()];
            let [weight, bias] = pass.gradients.slices_mut(of_norm);
            let (batch_statistics, sums) = (layout.batch_norm, blocks.sums.of(kind).0);
            let of = l2_normalise::UnitRowsBackward {
                d_y: d_node_output.rows_mut(bound, columns),
                d_x: d_node_state.rows(bound, columns),
                z: block.linear.rows(bound, columns),
                norm: norm(block),
            };
            let gradient = NormGradient { weight, bias, batch_statistics, sums };
            l2_normalise::l2_normalise_backward(device, of, gradient, rows)?;
            d_node_output
        } else {
            blocks.norm_backward_sums(place, parameters, (block, d_node_state), rows, pass.gradients)?;
            d_node_state
        };
        let x = Before::Block(BlockKind::NodeHidden, &saved.node_hidden);
        let operands = Operands { d: After::Block(block, d), x, rows };
        blocks.linear_backward(place, parameters, operands, d_node_hidden, pass.gradients)?;
        Ok(Gradient::computed())
    }

    /// The product of [`Stages::node_output_backward`] has already computed the sums of the norm's backward.
    fn node_hidden_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<NodeHidden>,
    ) -> Result<Gradient<Pooled>> {
        let (_, saved) = pass.activations.at(pass.layer);
        let ActivationGradients { d_node_hidden, d_pooled, .. } = &mut *pass.d;
        let place = (pass.layer, BlockKind::NodeHidden);
        let d = After::Block(&saved.node_hidden, d_node_hidden);
        let operands = Operands { d, x: Before::Values(&saved.pooled), rows: pass.batch.nodes() };
        self.blocks().linear_backward(place, pass.parameters, operands, d_pooled, pass.gradients)?;
        Ok(Gradient::computed())
    }

    fn edge_pool_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<Pooled>,
    ) -> Result<Gradient<EdgeHeads>> {
        let (layer, batch, parameters) = (pass.layer, pass.batch, pass.parameters);
        let heads = &pass.activations.at(layer).1.edge_heads;
        let ActivationGradients { d_pooled, d_edge_state, d_edge_heads, .. } = &mut *pass.d;
        let config = parameters.layout.config;
        let layout = parameters.layout.block(layer, BlockKind::EdgeHeads);
        let (edges, width) = (batch.edges(), layout.outputs);
        let of = edge_pool::HeadsGradient {
            d_pooled: d_pooled.rows(batch.nodes().bound, config.hidden_width),
            d_edge_state: d_edge_state.rows(edges.bound, config.edge_state_width(layer)),
            nodes: batch.edge_nodes(),
            incidence: batch.incidence(),
            hidden: config.hidden_width,
        };
        let (z, norm) = (heads.linear.rows(edges.bound, width), norm(heads));
        let of_norm = [layout.norm_weight.clone(), layout.norm_bias.clone()];
        let [weight, bias] = pass.gradients.slices_mut(of_norm);
        let (batch_statistics, sums) = (layout.batch_norm, self.sums.of(BlockKind::EdgeHeads).0);
        let gradient = NormGradient { weight, bias, batch_statistics, sums: &mut *sums };
        edge_pool::edge_pool_backward_sums(&self.device, gradient, of, z, norm)?;
        let place = (layout, BlockKind::EdgeHeads);
        self.rank_sums.merge_sums(&self.device, place, heads, pass.gradients, sums)?;
        let mut d_z = d_edge_heads.rows_mut(edges.bound, width);
        edge_pool::edge_pool_backward(&self.device, &mut d_z, of, z, norm, sums)?;
        Ok(Gradient::computed())
    }

    fn edge_heads_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<EdgeHeads>,
    ) -> Result<Gradient<EdgeHidden>> {
        let (_, saved) = pass.activations.at(pass.layer);
        let ActivationGradients { d_edge_heads, d_edge_hidden, .. } = &mut *pass.d;
        let place = (pass.layer, BlockKind::EdgeHeads);
        let x = Before::Block(BlockKind::EdgeHidden, &saved.edge_hidden);
        let operands = Operands { d: After::Values(d_edge_heads), x, rows: pass.batch.edges() };
        self.blocks().linear_backward(place, pass.parameters, operands, d_edge_hidden, pass.gradients)?;
        Ok(Gradient::computed())
    }

    /// The product of [`Stages::edge_heads_backward`] has already computed the sums of the norm's backward.
    fn edge_hidden_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<EdgeHidden>,
    ) -> Result<Gradient<States>> {
        let (layer, batch, kind) = (pass.layer, pass.batch, BlockKind::EdgeHidden);
        let (below, saved) = pass.activations.at(layer);
        let ActivationGradients { d_node_state, d_edge_state, d_edge_hidden, .. } = &mut *pass.d;
        let Cuda { device, sums, rank_sums, layer_input, weight_parts, weight_copy, .. } = self;
        let Parameters { layout, values, .. } = pass.parameters;
        let weights = Weights { layout, values, copy: weight_copy.as_ref() };
        let block = &saved.edge_hidden;
        // The node output of the layer below uses the same upper memory for sums as the heads.
        let (sums, sums_before) = sums.of(kind);
        let of_block = layout.block(layer, kind);
        rank_sums.merge_sums(device, (of_block, kind), block, pass.gradients, sums)?;
        let d_z = norm_backward(device, of_block, block, (d_edge_hidden, batch.edges()), sums)?;
        let of = LayerPass { device, layer, weights, batch };
        match below {
            Some(below) => {
                let to = StateGradients { d_node_state, d_edge_state, gradients: pass.gradients };
                let memory = layer_input::Memory { weight_parts, sums_before };
                layer_input.backward_to_states(of, below, d_z, to, memory)?;
            }
            None => layer_input.backward_to_embeddings(of, d_z, pass.gradients, weight_parts)?,
        }
        Ok(Gradient::computed())
    }

    fn adam_step(&mut self, update: Update<'_, Self>) -> Result<()> {
        let Update { adam, parameters, gradients, moments, steps, part } = update;
        let Cuda { device, weight_copy, .. } = self;
        let count = parameters.layout.parameter_count;
        let update = adam::Update {
            values: parameters.values.slice_mut(0..count),
            first: moments.first.slice_mut(0..count),
            second: moments.second.slice_mut(0..count),
            gradients: gradients.slice(0..count),
            part,
        };
        if update.part.ends_step {
            device.join_branch()?;
            return adam::adam_step(device, update, adam, steps, weight_copy.as_mut());
        }
        device.on_branch(|| adam::adam_step(device, update, adam, steps, weight_copy.as_mut()))
    }

    fn relu_mask(
        &mut self,
        (layer, kind): (usize, BlockKind),
        rows: usize,
        parameters: &Parameters<Buffer<f32>>,
        activations: &Activations<T>,
    ) -> Result<Vec<u8>> {
        let (layout, block) = (parameters.layout.block(layer, kind), activations.block(layer, kind));
        let count = rows * layout.outputs;
        let mut mask = self.device.allocate_unwritten::<u8>(count)?;
        batch_norm::batch_norm_mask(
            &self.device,
            &mut mask.slice_mut(0..count),
            block.linear.rows(rows, layout.outputs),
            norm(block),
            rows,
        )?;
        self.device.download(&mask, 0..count)
    }
}

impl<T: StoredElement> Search for Cuda<T> {
    fn top_k(
        &mut self,
        query: &Buffer<f32>,
        embeddings: &Buffer<f32>,
        rows: usize,
        width: usize,
        k: usize,
    ) -> Result<Vec<(usize, f32)>> {
        let (queries, embeddings) = (query.slice(0..width), embeddings.slice(0..rows * width));
        top_k::top_k_of_one(&self.device, top_k::Search { queries, embeddings, rows, width }, k)
    }

    fn cosine_ranks(
        &mut self,
        queries: &Buffer<f32>,
        index: &Buffer<f32>,
        rows: usize,
        width: usize,
        truth: &[u32],
    ) -> Result<Vec<u32>> {
        let (queries, index) = (queries.slice(0..truth.len() * width), index.slice(0..rows * width));
        cosine_ranks::ranks_of_rows(&self.device, queries, index, rows, width, truth)
    }

    fn row_correlations(
        &mut self,
        embeddings: &Buffer<f32>,
        width: usize,
        similarity: Similarity<'_>,
        images: Range<usize>,
        done: &dyn Fn(usize),
    ) -> Result<Option<Vec<CorrelationSums>>> {
        row_correlations::all_rows(&self.device, embeddings, width, similarity, images, done).map(Some)
    }
}

impl<T: StoredElement> Backend for Cuda<T> {
    fn join(&mut self, ranks: &Ranks) -> Result<()> {
        self.rank_sums = RankSums::new(&self.device, ranks.clone())?;
        Ok(())
    }

    fn description(&self) -> Result<Description> {
        let properties = self.device.properties()?;
        Ok(Description {
            name: properties.name,
            driver: properties.gpu.then_some(properties.driver),
            kernels: self.format.format.kernels(),
        })
    }

    fn range(&self, name: fmt::Arguments<'_>) -> crate::backend::range::Range {
        nvtx::range(name)
    }
}
