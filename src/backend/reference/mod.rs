//! The reference backend: plain loops in the order of the formulas, in `f32` or `f64`.
//!
//! It exists to be read and to be compared with; nothing here is clever, fused, parallel or sparing with memory.

pub mod adam;
pub mod batch_norm;
pub mod cosine_ranks;
pub mod edge_gather;
pub mod edge_pool;
pub mod l2_normalise;
pub mod linear;
pub mod readout_loss;
pub mod row_correlations;
pub mod top_k;

use std::marker::PhantomData;
use std::ops::Range;

use num_traits::Float;

use crate::backend::{Activated, Backend, LayerInput, LayerInputGradient, Mode};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::error::Result;
use crate::loss::Loss;
use crate::model::activations::{BlockActivations, LayerActivations};
use crate::model::loss_row;
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, BlockLayout, Parameters};
use crate::optimizer::{Adam, Moments, Part};

use batch_norm::Norm;

/// The reference backend in the precision `F`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference<F>(PhantomData<F>);

impl<F> Reference<F> {
    /// A reference backend.
    pub fn new() -> Self {
        Reference(PhantomData)
    }
}

/// In double precision.
fn wide<F: Float>(values: &[F]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64().expect("a float")).collect()
}

/// The statistics that the block uses in this mode, into `block`.
fn statistics<F: Float>(
    mode: Mode,
    parameters: &mut Parameters<Vec<F>>,
    layer: usize,
    kind: BlockKind,
    z: &[F],
    block: &mut BlockActivations<Vec<F>>,
) {
    let layout = parameters.layout.block(layer, kind);
    let running_mean = &mut parameters.running_mean[layout.running.clone()];
    let running_var = &mut parameters.running_var[layout.running.clone()];
    let (mean, rstd) = (&mut block.mean, &mut block.rstd);
    match mode {
        _ if !layout.batch_norm => batch_norm::no_statistics(mean, rstd),
        Mode::Train => batch_norm::train_statistics(z, mean, rstd, running_mean, running_var),
        Mode::Evaluate => batch_norm::running_statistics(running_mean, running_var, mean, rstd),
    }
}

fn norm<'a, F>(
    parameters: &'a Parameters<Vec<F>>,
    layout: &BlockLayout,
    block: &'a BlockActivations<Vec<F>>,
) -> Norm<'a, F> {
    Norm {
        weight: &parameters.values[layout.norm_weight.clone()],
        bias: &parameters.values[layout.norm_bias.clone()],
        mean: &block.mean,
        rstd: &block.rstd,
    }
}

/// linear(x) and its statistics, into `block`.
fn linear_with_statistics<F: Float>(
    mode: Mode,
    parameters: &mut Parameters<Vec<F>>,
    layer: usize,
    kind: BlockKind,
    x: &[F],
    block: &mut BlockActivations<Vec<F>>,
) {
    let layout = parameters.layout.block(layer, kind);
    let z = linear::linear(x, &parameters.values[layout.weight.clone()], layout.inputs, layout.outputs);
    statistics(mode, parameters, layer, kind, &z, block);
    write(&mut block.linear, &z);
}

/// The backward of batch norm and ReLU: `d_y` becomes `d_z`; writes the gradients of the norm's parameters.
fn norm_backward<F: Float>(
    parameters: &Parameters<Vec<F>>,
    layer: usize,
    kind: BlockKind,
    block: &BlockActivations<Vec<F>>,
    d_y: &mut [F],
    gradients: &mut [F],
) {
    let layout = parameters.layout.block(layer, kind);
    let mut d_weight = vec![F::zero(); layout.outputs];
    let mut d_bias = vec![F::zero(); layout.outputs];
    let z = &block.linear[..d_y.len()];
    let norm = norm(parameters, layout, block);
    batch_norm::batch_norm_backward(z, norm, layout.batch_norm, d_y, &mut d_weight, &mut d_bias);
    gradients[layout.norm_weight.clone()].copy_from_slice(&d_weight);
    gradients[layout.norm_bias.clone()].copy_from_slice(&d_bias);
}

/// The backward of a linear layer: writes the weight's gradient, returns the input's.
fn linear_backward<F: Float>(
    parameters: &Parameters<Vec<F>>,
    layer: usize,
    kind: BlockKind,
    d_z: &[F],
    x: &[F],
    gradients: &mut [F],
) -> Vec<F> {
    let layout = parameters.layout.block(layer, kind);
    let (inputs, outputs) = (layout.inputs, layout.outputs);
    linear::linear_backward_weight(d_z, x, inputs, outputs, &mut gradients[layout.weight.clone()]);
    linear::linear_backward_input(d_z, &parameters.values[layout.weight.clone()], inputs, outputs)
}

fn write<F: Copy>(to: &mut [F], values: &[F]) {
    to[..values.len()].copy_from_slice(values);
}

/// Node and edge states that a layer reads.
fn layer_input<F: Float>(
    parameters: &Parameters<Vec<F>>,
    batch: &GraphBatch,
    input: LayerInput<'_, Vec<F>>,
) -> (Vec<F>, Vec<F>) {
    let layout = &parameters.layout;
    let width = layout.config.state_width;
    match input {
        LayerInput::Embeddings => {
            let (objects, predicates) = (layout.object_embedding.clone(), layout.predicate_embedding.clone());
            let lookup =
                |range, types| edge_gather::embedding_lookup(&parameters.values[range], types, width);
            (lookup(objects, &batch.node_object), lookup(predicates, &batch.edge_predicate))
        }
        LayerInput::States {
            nodes: Activated { output: nodes, .. },
            edges: Activated { output: edges, .. },
        } => {
            let size = batch.size();
            (nodes[..size.nodes * width].to_vec(), edges[..size.edges * width].to_vec())
        }
    }
}

impl<F: Float> Backend for Reference<F> {
    type Buffer = Vec<F>;
    type Stored = Vec<F>;
    type Batch = GraphBatch;
    type Steps = u64;
    type Graphs = ();

    fn allocate(&self, len: usize) -> Result<Vec<F>> {
        Ok(vec![F::zero(); len])
    }

    fn allocate_stored(&self, rows: usize, columns: usize) -> Result<Vec<F>> {
        self.allocate(rows * columns)
    }

    fn download_stored(&mut self, matrix: &Vec<F>, rows: usize, columns: usize) -> Result<Vec<f32>> {
        self.download(matrix, 0..rows * columns)
    }

    fn upload(&mut self, values: &[f32], buffer: &mut Vec<F>, at: usize) -> Result<()> {
        for (to, &value) in buffer[at..at + values.len()].iter_mut().zip(values) {
            *to = F::from(value).expect("a float");
        }
        Ok(())
    }

    fn download(&mut self, buffer: &Vec<F>, range: Range<usize>) -> Result<Vec<f32>> {
        Ok(buffer[range].iter().map(|value| value.to_f32().expect("a float")).collect())
    }

    fn copy(&mut self, from: &Vec<F>, range: Range<usize>, to: &mut Vec<F>, at: usize) -> Result<()> {
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

    fn load_batch(&mut self, from: &GraphBatch, to: &mut GraphBatch) -> Result<()> {
        to.clone_from(from);
        Ok(())
    }

    fn edge_hidden(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Vec<F>>,
        batch: &GraphBatch,
        input: LayerInput<'_, Vec<F>>,
        block: &mut BlockActivations<Vec<F>>,
        output: &mut Vec<F>,
    ) -> Result<()> {
        let kind = BlockKind::EdgeHidden;
        let (nodes, edges) = layer_input(parameters, batch, input);
        let x = edge_gather::edge_gather(batch, &nodes, &edges, parameters.layout.config.state_width);
        linear_with_statistics(mode, parameters, layer, kind, &x, block);
        let layout = parameters.layout.block(layer, kind);
        let z = &block.linear[..batch.size().edges * layout.outputs];
        write(output, &norm(parameters, layout, block).relu_rows(z));
        Ok(())
    }

    fn edge_heads(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Vec<F>>,
        batch: &GraphBatch,
        hidden: Activated<'_, Vec<F>>,
        block: &mut BlockActivations<Vec<F>>,
    ) -> Result<()> {
        let x = &hidden.output[..batch.size().edges * parameters.layout.config.hidden_width];
        linear_with_statistics(mode, parameters, layer, BlockKind::EdgeHeads, x, block);
        Ok(())
    }

    fn edge_pool(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<F>>,
        batch: &GraphBatch,
        heads: &BlockActivations<Vec<F>>,
        pooled: &mut Vec<F>,
        edge_state: &mut Vec<F>,
    ) -> Result<()> {
        let config = parameters.layout.config;
        let layout = parameters.layout.block(layer, BlockKind::EdgeHeads);
        let (hidden, object_start) = (config.hidden_width, config.object_head_start(layer));
        let z = &heads.linear[..batch.size().edges * layout.outputs];
        let y = norm(parameters, layout, heads).relu_rows(z);
        write(pooled, &edge_pool::edge_pool(batch, &y, layout.outputs, hidden, object_start));
        let states: Vec<F> =
            y.chunks_exact(layout.outputs).flat_map(|row| &row[hidden..object_start]).copied().collect();
        write(edge_state, &states);
        Ok(())
    }

    fn node_hidden(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Vec<F>>,
        batch: &GraphBatch,
        pooled: &Vec<F>,
        block: &mut BlockActivations<Vec<F>>,
        output: &mut Vec<F>,
    ) -> Result<()> {
        let kind = BlockKind::NodeHidden;
        let values = batch.size().nodes * parameters.layout.config.hidden_width;
        linear_with_statistics(mode, parameters, layer, kind, &pooled[..values], block);
        let layout = parameters.layout.block(layer, kind);
        write(output, &norm(parameters, layout, block).relu_rows(&block.linear[..values]));
        Ok(())
    }

    fn node_output(
        &mut self,
        layer: usize,
        mode: Mode,
        parameters: &mut Parameters<Vec<F>>,
        batch: &GraphBatch,
        hidden: Activated<'_, Vec<F>>,
        block: &mut BlockActivations<Vec<F>>,
        node_state: &mut Vec<F>,
    ) -> Result<()> {
        let kind = BlockKind::NodeOutput;
        let config = parameters.layout.config;
        let nodes = batch.size().nodes;
        linear_with_statistics(
            mode,
            parameters,
            layer,
            kind,
            &hidden.output[..nodes * config.hidden_width],
            block,
        );
        let layout = parameters.layout.block(layer, kind);
        let mut y = norm(parameters, layout, block).relu_rows(&block.linear[..nodes * config.state_width]);
        if config.l2_norm {
            l2_normalise::l2_normalise(&mut y, config.state_width);
        }
        write(node_state, &y);
        Ok(())
    }

    fn readout(
        &mut self,
        config: ModelConfig,
        batch: &GraphBatch,
        node_state: &Vec<F>,
        embedding: &mut Vec<F>,
    ) -> Result<()> {
        let (width, image_node_in_mean) = (config.state_width, config.image_node_in_mean);
        write(embedding, &readout_loss::readout(batch, node_state, width, image_node_in_mean));
        Ok(())
    }

    fn readout_loss(
        &mut self,
        config: ModelConfig,
        loss: &Loss,
        batch: &GraphBatch,
        node_state: &Vec<F>,
        embedding: &mut Vec<F>,
        losses: &mut Vec<F>,
        &steps: &u64,
        d_node_state: &mut Vec<F>,
    ) -> Result<()> {
        self.readout(config, batch, node_state, embedding)?;
        let (width, image_node_in_mean) = (config.state_width, config.image_node_in_mean);
        let (values, d_embedding) = readout_loss::triple_losses(loss, batch, embedding, width);
        let at = loss_row(losses.len(), steps).start;
        write(&mut losses[at..], &values);
        let d = readout_loss::readout_backward(batch, node_state, &d_embedding, width, image_node_in_mean);
        write(d_node_state, &d);
        Ok(())
    }

    fn node_output_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<F>>,
        batch: &GraphBatch,
        saved: &LayerActivations<Vec<F>>,
        d_node_state: &mut Vec<F>,
        d_node_hidden: &mut Vec<F>,
        gradients: &mut Vec<F>,
    ) -> Result<()> {
        let kind = BlockKind::NodeOutput;
        let layout = parameters.layout.block(layer, kind);
        let nodes = batch.size().nodes;
        let values = nodes * layout.outputs;
        let mut d = d_node_state[..values].to_vec();
        if parameters.layout.config.l2_norm {
            let z = &saved.node_output.linear[..values];
            let y = norm(parameters, layout, &saved.node_output).relu_rows(z);
            d = l2_normalise::l2_normalise_backward(&y, &d, layout.outputs);
        }
        norm_backward(parameters, layer, kind, &saved.node_output, &mut d, gradients);
        let x = &saved.node_hidden_output[..nodes * layout.inputs];
        write(d_node_hidden, &linear_backward(parameters, layer, kind, &d, x, gradients));
        Ok(())
    }

    fn node_hidden_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<F>>,
        batch: &GraphBatch,
        saved: &LayerActivations<Vec<F>>,
        d_node_hidden: &mut Vec<F>,
        d_pooled: &mut Vec<F>,
        gradients: &mut Vec<F>,
    ) -> Result<()> {
        let kind = BlockKind::NodeHidden;
        let values = batch.size().nodes * parameters.layout.config.hidden_width;
        let d = &mut d_node_hidden[..values];
        norm_backward(parameters, layer, kind, &saved.node_hidden, d, gradients);
        write(d_pooled, &linear_backward(parameters, layer, kind, d, &saved.pooled[..values], gradients));
        Ok(())
    }

    fn edge_pool_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<F>>,
        batch: &GraphBatch,
        saved: &LayerActivations<Vec<F>>,
        d_pooled: &Vec<F>,
        d_edge_state: &Vec<F>,
        d_edge_heads: &mut Vec<F>,
        gradients: &mut Vec<F>,
    ) -> Result<()> {
        let kind = BlockKind::EdgeHeads;
        let config = parameters.layout.config;
        let mut d = edge_pool::edge_pool_backward(
            batch,
            d_pooled,
            d_edge_state,
            config.heads_width(layer),
            config.hidden_width,
            config.object_head_start(layer),
        );
        norm_backward(parameters, layer, kind, &saved.edge_heads, &mut d, gradients);
        write(d_edge_heads, &d);
        Ok(())
    }

    fn edge_heads_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<F>>,
        batch: &GraphBatch,
        saved: &LayerActivations<Vec<F>>,
        d_edge_heads: &Vec<F>,
        d_edge_hidden: &mut Vec<F>,
        gradients: &mut Vec<F>,
    ) -> Result<()> {
        let kind = BlockKind::EdgeHeads;
        let layout = parameters.layout.block(layer, kind);
        let edges = batch.size().edges;
        let d = &d_edge_heads[..edges * layout.outputs];
        let x = &saved.edge_hidden_output[..edges * layout.inputs];
        write(d_edge_hidden, &linear_backward(parameters, layer, kind, d, x, gradients));
        Ok(())
    }

    fn edge_hidden_backward(
        &mut self,
        layer: usize,
        parameters: &Parameters<Vec<F>>,
        batch: &GraphBatch,
        saved: &LayerActivations<Vec<F>>,
        input: LayerInput<'_, Vec<F>>,
        d_edge_hidden: &mut Vec<F>,
        d_input: LayerInputGradient<'_, Vec<F>>,
        gradients: &mut Vec<F>,
    ) -> Result<()> {
        let kind = BlockKind::EdgeHidden;
        let layout = &parameters.layout;
        let (width, size) = (layout.config.state_width, batch.size());
        let (nodes, edges) = layer_input(parameters, batch, input);
        let x = edge_gather::edge_gather(batch, &nodes, &edges, width);
        let d = &mut d_edge_hidden[..size.edges * layout.config.hidden_width];
        norm_backward(parameters, layer, kind, &saved.edge_hidden, d, gradients);
        let d_x = linear_backward(parameters, layer, kind, d, &x, gradients);
        let mut d_nodes = vec![F::zero(); size.nodes * width];
        let mut d_edges = vec![F::zero(); size.edges * width];
        edge_gather::edge_gather_backward(batch, &d_x, width, &mut d_nodes, &mut d_edges);
        match d_input {
            LayerInputGradient::States { nodes, edges } => {
                write(nodes, &d_nodes);
                write(edges, &d_edges);
            }
            LayerInputGradient::Embeddings => {
                let mut table = |d_rows: &[F], types: &[u32], range: Range<usize>| {
                    edge_gather::embedding_lookup_backward(d_rows, types, width, &mut gradients[range]);
                };
                table(&d_nodes, &batch.node_object, layout.object_embedding.clone());
                table(&d_edges, &batch.edge_predicate, layout.predicate_embedding.clone());
            }
        }
        Ok(())
    }

    fn adam_step(
        &mut self,
        adam: &Adam,
        parameters: &mut Parameters<Vec<F>>,
        gradients: &Vec<F>,
        moments: &mut Moments<Vec<F>>,
        steps: &mut u64,
        Part { parameters: range, ends_step }: Part,
    ) -> Result<()> {
        let step = &adam.at_step(*steps + 1);
        let [values, first, second] = [&mut parameters.values, &mut moments.first, &mut moments.second]
            .map(|array| &mut array[range.clone()]);
        adam::adam_step(step, values, &gradients[range], first, second);
        *steps += u64::from(ends_step);
        Ok(())
    }

    fn top_k(
        &mut self,
        query: &Vec<F>,
        embeddings: &Vec<F>,
        rows: usize,
        width: usize,
        k: usize,
    ) -> Result<Vec<(usize, f32)>> {
        let best = top_k::top_k(&wide(&query[..width]), &wide(&embeddings[..rows * width]), k);
        Ok(best.into_iter().map(|(row, score)| (row, score as f32)).collect())
    }

    fn cosine_ranks(
        &mut self,
        queries: &Vec<F>,
        index: &Vec<F>,
        rows: usize,
        width: usize,
        truth: &[u32],
    ) -> Result<Vec<u32>> {
        let (queries, index) = (wide(&queries[..truth.len() * width]), wide(&index[..rows * width]));
        Ok(cosine_ranks::cosine_ranks(&queries, &index, width, truth))
    }

    fn relu_mask(
        &mut self,
        layer: usize,
        kind: BlockKind,
        rows: usize,
        parameters: &Parameters<Vec<F>>,
        block: &BlockActivations<Vec<F>>,
    ) -> Result<Vec<u8>> {
        let layout = parameters.layout.block(layer, kind);
        let y = norm(parameters, layout, block).relu_rows(&block.linear[..rows * layout.outputs]);
        Ok(y.iter().map(|value| u8::from(*value > F::zero())).collect())
    }
}
