//! The CUDA backend: our own kernels, on a GPU or, the same sources compiled as C++, on the emulator.
//!
//! `kernels/<name>.cu` is launched by `<name>.rs` here, one safe function per stage or kernel; this module puts them
//! together as the stages of a step. As on the CPU, a layer's first product is split by operand, and layer 0 works on
//! the types that occur (`layer_input.rs`).

pub mod adam;
mod batch;
pub mod batch_norm;
pub mod buffer;
pub mod ceilings;
pub mod device;
pub mod edge_hidden;
pub mod edge_pool;
pub mod embedding;
mod emulator;
mod gpu;
pub mod l2_normalise;
mod layer_input;
pub mod linear;
mod nvtx;
pub mod properties;
pub mod readout_loss;
pub mod stopwatch;
mod streams;
pub mod top_k;

use std::fmt;
use std::ops::Range;

use crate::backend::{Backend, LayerInput, LayerInputGradient, Mode};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::error::Result;
use crate::loss::Loss;
use crate::model::activations::{BlockActivations, LayerActivations};
use crate::model::config::ModelConfig;
use crate::model::parameters::{BlockKind, BlockLayout, Layout, Parameters};
use crate::optimizer::{AdamStep, Moments};

use batch::Batch;
use batch_norm::{Norm, Statistics, Sums};
use buffer::{Buffer, Slice};
use device::Device;
use linear::{Format, Matrix, MatrixMut, Output};

/// The kernel files and what they offer: loaded when a device opens.
const FILES: &[(&str, &[&str])] = &[
    ("adam", adam::KERNELS),
    ("batch_norm", batch_norm::KERNELS),
    ("ceilings", ceilings::KERNELS),
    ("edge_hidden", edge_hidden::KERNELS),
    ("edge_pool", edge_pool::KERNELS),
    ("embedding", embedding::KERNELS),
    ("l2_normalise", l2_normalise::KERNELS),
    ("linear", linear::KERNELS),
    ("linear_bf16", linear::BF16_KERNELS),
    ("linear_bf16x3", linear::BF16X3_KERNELS),
    ("linear_tf32", linear::TF32_KERNELS),
    ("readout_loss", readout_loss::KERNELS),
    ("top_k", top_k::KERNELS),
];

/// The CUDA backend. Its buffers are memory of the stages, planned for the largest batch.
pub struct Cuda {
    device: Device,
    format: Format,
    sums: Sums,
    layer_input: layer_input::Scratch,
    /// Parts of a weight's gradient.
    sum_parts: Buffer<f32>,
    /// `[N, D]`: the gradient by the node output's linear layer.
    d_node_output: Buffer<f32>,
    /// `[G]`: the length of each graph's mean node state.
    mean_norm: Buffer<f32>,
}

impl Cuda {
    /// On this device, with the operands of products in this format. All else is in single precision.
    pub fn new(device: Device, format: Format) -> Result<Self> {
        Ok(Cuda {
            format,
            sums: Sums::new(&device)?,
            layer_input: layer_input::Scratch::new(&device, format)?,
            sum_parts: device.allocate(0)?,
            d_node_output: device.allocate(0)?,
            mean_norm: device.allocate(0)?,
            device,
        })
    }

    /// The statistics of `block.linear`'s first `rows` rows, or the running ones, into `block`.
    fn statistics(
        &mut self,
        mode: Mode,
        layer: usize,
        kind: BlockKind,
        parameters: &mut Parameters<Buffer<f32>>,
        rows: usize,
        block: &mut BlockActivations<Buffer<f32>>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, kind);
        let mut to = Statistics {
            mean: block.mean.slice_mut(0..layout.outputs),
            rstd: block.rstd.slice_mut(0..layout.outputs),
        };
        let running = layout.running.clone();
        match mode {
            Mode::Train => batch_norm::batch_norm_statistics(
                &self.device,
                &mut to,
                &mut parameters.running_mean.slice_mut(running.clone()),
                &mut parameters.running_var.slice_mut(running),
                block.linear.slice(0..rows * layout.outputs),
                rows,
                &mut self.sums,
            ),
            Mode::Evaluate => batch_norm::batch_norm_running_statistics(
                &self.device,
                &mut to,
                parameters.running_mean.slice(running.clone()),
                parameters.running_var.slice(running),
            ),
        }
    }

    /// `z = x W^T` and its statistics, into `block`.
    fn linear_with_statistics(
        &mut self,
        mode: Mode,
        layer: usize,
        kind: BlockKind,
        parameters: &mut Parameters<Buffer<f32>>,
        x: &Buffer<f32>,
        rows: usize,
        block: &mut BlockActivations<Buffer<f32>>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, kind);
        let (inputs, outputs) = (layout.inputs, layout.outputs);
        linear::linear_forward(
            &self.device,
            self.format,
            &mut MatrixMut::new(block.linear.slice_mut(0..rows * outputs), rows, outputs),
            Matrix::new(x.slice(0..rows * inputs), rows, inputs),
            Matrix::new(parameters.values.slice(layout.weight.clone()), outputs, inputs),
            Output::Replace,
        )?;
        self.statistics(mode, layer, kind, parameters, rows, block)
    }

    /// `output = relu(norm(z))`.
    fn relu_norm(
        &mut self,
        layout: &BlockLayout,
        values: &Buffer<f32>,
        rows: usize,
        block: &BlockActivations<Buffer<f32>>,
        output: &mut Buffer<f32>,
    ) -> Result<()> {
        let count = rows * layout.outputs;
        batch_norm::batch_norm_relu(
            &self.device,
            &mut output.slice_mut(0..count),
            block.linear.slice(0..count),
            norm(layout, values, block),
            layout.outputs,
            rows,
        )
    }

    /// Backward of `z = x W^T`: `d_weight = d_z^T x` and `d_x = d_z W`.
    fn linear_backward(
        device: &Device,
        format: Format,
        layout: &BlockLayout,
        values: &Buffer<f32>,
        d_z: Slice<'_, f32>,
        x: &Buffer<f32>,
        rows: usize,
        d_x: &mut Buffer<f32>,
        gradients: &mut Buffer<f32>,
        sum_parts: &mut Buffer<f32>,
    ) -> Result<()> {
        let (inputs, outputs) = (layout.inputs, layout.outputs);
        let d_z = Matrix::new(d_z, rows, outputs);
        linear::linear_backward_weight(
            device,
            format,
            &mut MatrixMut::new(gradients.slice_mut(layout.weight.clone()), outputs, inputs),
            d_z,
            Matrix::new(x.slice(0..rows * inputs), rows, inputs),
            sum_parts,
        )?;
        linear::linear_backward_input(
            device,
            format,
            &mut MatrixMut::new(d_x.slice_mut(0..rows * inputs), rows, inputs),
            d_z,
            Matrix::new(values.slice(layout.weight.clone()), outputs, inputs),
            Output::Replace,
        )
    }

    /// Backward of relu(norm(z)): the first `rows` rows of `d`, by its output, become the gradient by z.
    fn norm_backward(
        device: &Device,
        layout: &BlockLayout,
        values: &Buffer<f32>,
        block: &BlockActivations<Buffer<f32>>,
        d: &mut Buffer<f32>,
        rows: usize,
        gradients: &mut Buffer<f32>,
        sums: &mut Sums,
    ) -> Result<()> {
        let count = rows * layout.outputs;
        debug_assert_eq!(layout.norm_weight.end, layout.norm_bias.start);
        let both = gradients.slice_mut(layout.norm_weight.start..layout.norm_bias.end);
        let (mut d_weight, mut d_bias) = both.split_at(layout.outputs);
        batch_norm::batch_norm_backward(
            device,
            &mut d.slice_mut(0..count),
            &mut d_weight,
            &mut d_bias,
            block.linear.slice(0..count),
            norm(layout, values, block),
            rows,
            sums,
        )
    }
}

/// A block's normalisation.
fn norm<'a>(
    layout: &BlockLayout,
    values: &'a Buffer<f32>,
    block: &'a BlockActivations<Buffer<f32>>,
) -> Norm<'a> {
    Norm {
        mean: block.mean.slice(0..layout.outputs),
        rstd: block.rstd.slice(0..layout.outputs),
        weight: values.slice(layout.norm_weight.clone()),
        bias: values.slice(layout.norm_bias.clone()),
    }
}

impl Backend for Cuda {
    type Buffer = Buffer<f32>;
    type Batch = Batch;

    fn range(&self, name: fmt::Arguments<'_>) -> crate::backend::range::Range {
        nvtx::range(name)
    }

    fn allocate(&self, len: usize) -> Result<Buffer<f32>> {
        self.device.allocate(len)
    }

    fn upload(&mut self, values: &[f32], buffer: &mut Buffer<f32>, at: usize) -> Result<()> {
        self.device.upload(values, buffer.slice_mut(at..at + values.len()))
    }

    fn download(&mut self, buffer: &Buffer<f32>, range: Range<usize>) -> Result<Vec<f32>> {
        self.device.download(buffer, range)
    }

    fn plan(&mut self, config: ModelConfig, capacity: BatchSize) -> Result<Batch> {
        let BatchSize { graphs, nodes, edges } = capacity;
        let Cuda { device, format, sums, layer_input, sum_parts, d_node_output, mean_norm } = self;
        let layout = Layout::new(config);
        for (layer, kind) in (0..config.layers).flat_map(|layer| BlockKind::ALL.map(|kind| (layer, kind))) {
            let block = layout.block(layer, kind);
            let (rows, inputs) = match kind {
                // Its product is split by operand: node states, edge states, node states.
                BlockKind::EdgeHidden => (nodes.max(edges), config.state_width),
                BlockKind::EdgeHeads => (edges, block.inputs),
                BlockKind::NodeHidden | BlockKind::NodeOutput => (nodes, block.inputs),
            };
            sums.reserve(device, rows, block.outputs)?;
            device.reserve(sum_parts, linear::parts_len(*format, block.outputs, inputs, rows))?;
        }
        layer_input.plan(device, config, capacity)?;
        device.reserve(d_node_output, nodes * config.state_width)?;
        device.reserve(mean_norm, graphs)?;
        Batch::new(device, config, capacity)
    }

    fn load_batch(&mut self, from: &GraphBatch, to: &mut Batch) -> Result<()> {
        to.load(&self.device, from)
    }

    fn edge_hidden(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Buffer<f32>>,
        batch: &Batch,
        input: LayerInput<'_, Buffer<f32>>,
        block: &mut BlockActivations<Buffer<f32>>,
        output: &mut Buffer<f32>,
    ) -> Result<()> {
        let (kind, edges) = (BlockKind::EdgeHidden, batch.size.edges);
        self.layer_input.forward(&self.device, layer, parameters, batch, input, &mut block.linear)?;
        self.statistics(mode, layer, kind, parameters, edges, block)?;
        self.relu_norm(parameters.layout.block(layer, kind), &parameters.values, edges, block, output)
    }

    fn edge_heads(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Buffer<f32>>,
        batch: &Batch,
        hidden: &Buffer<f32>,
        block: &mut BlockActivations<Buffer<f32>>,
    ) -> Result<()> {
        let (kind, edges) = (BlockKind::EdgeHeads, batch.size.edges);
        self.linear_with_statistics(mode, layer, kind, parameters, hidden, edges, block)
    }

    fn edge_pool(
        &mut self,
        layer: usize,
        parameters: &Parameters<Buffer<f32>>,
        batch: &Batch,
        heads: &BlockActivations<Buffer<f32>>,
        pooled: &mut Buffer<f32>,
        edge_state: &mut Buffer<f32>,
    ) -> Result<()> {
        let config = parameters.layout.config;
        let layout = parameters.layout.block(layer, BlockKind::EdgeHeads);
        let (hidden, state, width) = (config.hidden_width, config.edge_state_width(layer), layout.outputs);
        let (nodes, edges) = (batch.size.nodes, batch.size.edges);
        let norm = norm(layout, &parameters.values, heads);
        let z = heads.linear.slice(0..edges * width);
        let mut pooled = pooled.slice_mut(0..nodes * hidden);
        edge_pool::edge_pool_forward(&self.device, &mut pooled, z, norm, batch.incidence(), hidden)?;
        let z_state = z.slice(hidden.min(z.len())..z.len());
        batch_norm::batch_norm_relu(
            &self.device,
            &mut edge_state.slice_mut(0..edges * state),
            z_state,
            norm.columns(hidden, state),
            width,
            edges,
        )
    }

    fn node_hidden(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Buffer<f32>>,
        batch: &Batch,
        pooled: &Buffer<f32>,
        block: &mut BlockActivations<Buffer<f32>>,
        output: &mut Buffer<f32>,
    ) -> Result<()> {
        let (kind, nodes) = (BlockKind::NodeHidden, batch.size.nodes);
        self.linear_with_statistics(mode, layer, kind, parameters, pooled, nodes, block)?;
        self.relu_norm(parameters.layout.block(layer, kind), &parameters.values, nodes, block, output)
    }

    fn node_output(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Buffer<f32>>,
        batch: &Batch,
        hidden: &Buffer<f32>,
        block: &mut BlockActivations<Buffer<f32>>,
        node_state: &mut Buffer<f32>,
    ) -> Result<()> {
        let (kind, nodes) = (BlockKind::NodeOutput, batch.size.nodes);
        self.linear_with_statistics(mode, layer, kind, parameters, hidden, nodes, block)?;
        let layout = parameters.layout.block(layer, kind);
        let count = nodes * layout.outputs;
        l2_normalise::l2_normalise_forward(
            &self.device,
            &mut node_state.slice_mut(0..count),
            block.linear.slice(0..count),
            norm(layout, &parameters.values, block),
            nodes,
        )
    }

    fn readout(
        &mut self,
        batch: &Batch,
        width: usize,
        node_state: &Buffer<f32>,
        embedding: &mut Buffer<f32>,
    ) -> Result<()> {
        let graphs = batch.size.graphs;
        readout_loss::readout(
            &self.device,
            &mut embedding.slice_mut(0..graphs * width),
            &mut self.mean_norm.slice_mut(0..graphs),
            node_state.slice(0..batch.size.nodes * width),
            batch.graph_offsets(),
            width,
        )
    }

    fn readout_loss(
        &mut self,
        loss: &Loss,
        batch: &Batch,
        width: usize,
        node_state: &Buffer<f32>,
        embedding: &mut Buffer<f32>,
        losses: &mut Buffer<f32>,
        at: usize,
        d_node_state: &mut Buffer<f32>,
    ) -> Result<()> {
        self.readout(batch, width, node_state, embedding)?;
        let graphs = batch.size.graphs;
        let triples = readout_loss::Triples {
            embedding: embedding.slice(0..graphs * width),
            mean_norm: self.mean_norm.slice(0..graphs),
            graph_offsets: batch.graph_offsets(),
            similarity_positive: batch.similarity_positive(),
            similarity_negative: batch.similarity_negative(),
        };
        readout_loss::readout_loss(
            &self.device,
            &mut losses.slice_mut(at..at + batch.triples),
            &mut d_node_state.slice_mut(0..batch.size.nodes * width),
            triples,
            width,
            loss,
        )
    }

    fn node_output_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Buffer<f32>>,
        batch: &Batch,
        saved: &LayerActivations<Buffer<f32>>,
        d_node_state: &Buffer<f32>,
        d_node_hidden: &mut Buffer<f32>,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, BlockKind::NodeOutput);
        let (nodes, values) = (batch.size.nodes, &parameters.values);
        let count = nodes * layout.outputs;
        let Cuda { device, format, sums, sum_parts, d_node_output: d, .. } = self;
        l2_normalise::l2_normalise_backward(
            device,
            &mut d.slice_mut(0..count),
            d_node_state.slice(0..count),
            saved.node_state.slice(0..count),
            saved.node_output.linear.slice(0..count),
            norm(layout, values, &saved.node_output),
            nodes,
        )?;
        Cuda::norm_backward(device, layout, values, &saved.node_output, d, nodes, gradients, sums)?;
        let (d_z, x) = (d.slice(0..count), &saved.node_hidden_output);
        Cuda::linear_backward(
            device,
            *format,
            layout,
            values,
            d_z,
            x,
            nodes,
            d_node_hidden,
            gradients,
            sum_parts,
        )
    }

    fn node_hidden_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Buffer<f32>>,
        batch: &Batch,
        saved: &LayerActivations<Buffer<f32>>,
        d_node_hidden: &mut Buffer<f32>,
        d_pooled: &mut Buffer<f32>,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, BlockKind::NodeHidden);
        let (nodes, values, d) = (batch.size.nodes, &parameters.values, d_node_hidden);
        let Cuda { device, format, sums, sum_parts, .. } = self;
        Cuda::norm_backward(device, layout, values, &saved.node_hidden, d, nodes, gradients, sums)?;
        let (d_z, x) = (d.slice(0..nodes * layout.outputs), &saved.pooled);
        Cuda::linear_backward(device, *format, layout, values, d_z, x, nodes, d_pooled, gradients, sum_parts)
    }

    fn edge_pool_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Buffer<f32>>,
        batch: &Batch,
        saved: &LayerActivations<Buffer<f32>>,
        d_pooled: &Buffer<f32>,
        d_edge_state: &Buffer<f32>,
        d_edge_heads: &mut Buffer<f32>,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let config = parameters.layout.config;
        let layout = parameters.layout.block(layer, BlockKind::EdgeHeads);
        let (edges, width) = (batch.size.edges, layout.outputs);
        let Cuda { device, sums, .. } = self;
        edge_pool::edge_pool_backward(
            device,
            &mut d_edge_heads.slice_mut(0..edges * width),
            d_pooled.slice(0..batch.size.nodes * config.hidden_width),
            d_edge_state.slice(0..edges * config.edge_state_width(layer)),
            batch.nodes(),
            batch.incidence(),
            width,
            config.hidden_width,
        )?;
        let values = &parameters.values;
        Cuda::norm_backward(device, layout, values, &saved.edge_heads, d_edge_heads, edges, gradients, sums)
    }

    fn edge_heads_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Buffer<f32>>,
        batch: &Batch,
        saved: &LayerActivations<Buffer<f32>>,
        d_edge_heads: &Buffer<f32>,
        d_edge_hidden: &mut Buffer<f32>,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, BlockKind::EdgeHeads);
        let (edges, values, x) = (batch.size.edges, &parameters.values, &saved.edge_hidden_output);
        let d_z = d_edge_heads.slice(0..edges * layout.outputs);
        let Cuda { device, format, sum_parts, .. } = self;
        Cuda::linear_backward(
            device,
            *format,
            layout,
            values,
            d_z,
            x,
            edges,
            d_edge_hidden,
            gradients,
            sum_parts,
        )
    }

    fn edge_hidden_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Buffer<f32>>,
        batch: &Batch,
        saved: &LayerActivations<Buffer<f32>>,
        input: LayerInput<'_, Buffer<f32>>,
        d_edge_hidden: &mut Buffer<f32>,
        d_input: LayerInputGradient<'_, Buffer<f32>>,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, BlockKind::EdgeHidden);
        let (edges, values, d) = (batch.size.edges, &parameters.values, d_edge_hidden);
        let Cuda { device, sums, layer_input, sum_parts, .. } = self;
        Cuda::norm_backward(device, layout, values, &saved.edge_hidden, d, edges, gradients, sums)?;
        let d_z = d.slice(0..edges * layout.outputs);
        layer_input.backward(device, layer, parameters, batch, input, d_z, d_input, gradients, sum_parts)
    }

    fn adam_step(
        &mut self,
        adam: &AdamStep,
        parameters: &mut Parameters<Buffer<f32>>,
        gradients: &Buffer<f32>,
        moments: &mut Moments<Buffer<f32>>,
    ) -> Result<()> {
        let count = parameters.layout.parameter_count;
        adam::adam_step(
            &self.device,
            &mut parameters.values.slice_mut(0..count),
            &mut moments.first.slice_mut(0..count),
            &mut moments.second.slice_mut(0..count),
            gradients.slice(0..count),
            adam,
        )
    }

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

    fn relu_mask(
        &mut self,
        layer: usize,
        kind: BlockKind,
        rows: usize,
        parameters: &Parameters<Buffer<f32>>,
        block: &BlockActivations<Buffer<f32>>,
    ) -> Result<Vec<u8>> {
        let layout = parameters.layout.block(layer, kind);
        let count = rows * layout.outputs;
        let mut mask = self.device.allocate_unwritten::<u8>(count)?;
        batch_norm::batch_norm_mask(
            &self.device,
            &mut mask.slice_mut(0..count),
            block.linear.slice(0..count),
            norm(layout, &parameters.values, block),
            rows,
        )?;
        self.device.download(&mask, 0..count)
    }
}
