//! The reference backend: plain loops in the order of the formulas, in `f32` or `f64`.
//!
//! It exists to be read and compared with: nothing here is clever, fused, parallel or sparing with memory.

pub mod adam;
pub mod batch_norm;
pub mod cosine_ranks;
pub mod edge_gather;
pub mod edge_pool;
pub mod l2_normalise;
pub mod linear;
pub mod rank_merge;
pub mod readout_loss;
pub mod row_correlations;
pub mod top_k;

use std::marker::PhantomData;
use std::ops::Range;

use num_traits::Float;

use crate::backend::kernels::Kernels;
use crate::backend::pass::{
    Backward, EdgeHeads, EdgeHidden, Forward, Gradient, LossOutputs, NodeHidden, Pooled, Readout, States,
    Update,
};
use crate::backend::{Backend, Batches, Description, Memory, Mode, Search, Stages, loss_row};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::error::Result;
use crate::loss::Loss;
use crate::network::activations::{ActivationGradients, Activations, BlockActivations, LayerActivations};
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, BlockLayout, Layout, Parameters};
use crate::optimizer::{HostSteps, Part};
use crate::ranks::Ranks;

use batch_norm::Norm;

/// Reference backend in precision `F`.
#[derive(Clone, Debug, Default)]
pub struct Reference<F> {
    ranks: Ranks,
    precision: PhantomData<F>,
}

impl<F> Reference<F> {
    /// Creates a reference backend.
    pub fn new() -> Self {
        Reference { ranks: Ranks::default(), precision: PhantomData }
    }
}

/// Converts to double precision.
fn wide<F: Float>(values: &[F]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64().expect("a float")).collect()
}

/// Converts pairs of column sums to double precision, in which ranks exchange them.
fn wide_pairs<F: Float>(pairs: &[[F; 2]]) -> Vec<[f64; 2]> {
    pairs.iter().map(|pair| pair.map(|value| value.to_f64().expect("a float"))).collect()
}

fn narrow_pairs<F: Float>(pairs: &[[f64; 2]]) -> Vec<[F; 2]> {
    pairs.iter().map(|pair| pair.map(|value| F::from(value).expect("a float"))).collect()
}

/// Position of a block: its layer, and its kind within the layer.
type Place = (usize, BlockKind);

/// Writes the statistics that the block uses in this mode into `block`; those of a batch are over the rows of all ranks.
fn statistics<F: Float>(
    ranks: &Ranks,
    mode: Mode,
    (layer, kind): Place,
    parameters: &mut Parameters<Vec<F>>,
    z: &[F],
    block: &mut BlockActivations<Vec<F>>,
) {
    let layout = parameters.layout.block(layer, kind);
    let running_mean = &mut parameters.running_mean[layout.running.clone()];
    let running_var = &mut parameters.running_var[layout.running.clone()];
    let (mean, rstd) = (&mut block.mean, &mut block.rstd);
    match mode {
        _ if !layout.batch_norm => batch_norm::no_statistics(mean, rstd),
        Mode::Train => {
            let mut of_columns = wide_pairs(&batch_norm::column_statistics(z, layout.outputs));
            let rows = ranks.merge_statistics(z.len() / layout.outputs, &mut of_columns);
            let to = [mean.as_mut_slice(), rstd];
            batch_norm::set_statistics(rows, &narrow_pairs(&of_columns), to, [running_mean, running_var]);
        }
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

/// `relu(norm(linear(x)))`; the linear output and its statistics are written to `block`.
fn block_forward<F: Float>(
    ranks: &Ranks,
    mode: Mode,
    (layer, kind): Place,
    parameters: &mut Parameters<Vec<F>>,
    x: &[F],
    block: &mut BlockActivations<Vec<F>>,
) -> Vec<F> {
    let layout = parameters.layout.block(layer, kind);
    let z = linear::linear(x, &parameters.values[layout.weight.clone()], layout.inputs, layout.outputs);
    statistics(ranks, mode, (layer, kind), parameters, &z, block);
    write(&mut block.linear, &z);
    norm(parameters, parameters.layout.block(layer, kind), block).relu_rows(&z)
}

/// Backward of batch norm and ReLU: overwrites `d_y` with `d_z`. Writes the gradients with respect to the
/// norm's parameters over this rank's rows.
fn norm_backward<F: Float>(
    ranks: &Ranks,
    (layer, kind): Place,
    parameters: &Parameters<Vec<F>>,
    block: &BlockActivations<Vec<F>>,
    d_y: &mut [F],
    gradients: &mut [F],
) {
    let layout = parameters.layout.block(layer, kind);
    let z = &block.linear[..d_y.len()];
    let norm = norm(parameters, layout, block);
    let sums = batch_norm::backward_sums(z, norm, d_y);
    for (c, &[sum, sum_xhat]) in sums.iter().enumerate() {
        gradients[layout.norm_weight.start + c] = sum_xhat;
        gradients[layout.norm_bias.start + c] = sum;
    }
    if !layout.batch_norm {
        return batch_norm::backward_rows(z, norm, None, d_y);
    }
    let mut of_all = wide_pairs(&sums);
    let rows = ranks.sum_columns(z.len() / layout.outputs, &mut of_all);
    batch_norm::backward_rows(z, norm, Some((rows, &narrow_pairs(&of_all))), d_y);
}

/// Backward of a linear layer: writes the gradient with respect to the weight, returns that with respect to
/// the input.
fn linear_backward<F: Float>(
    (layer, kind): Place,
    parameters: &Parameters<Vec<F>>,
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

/// Node states `[N, D]` and edge states `[E, D]` that a layer reads: those of the layer `below`, or in layer
/// 0 the embeddings of the types.
fn layer_input<F: Float>(
    parameters: &Parameters<Vec<F>>,
    batch: &GraphBatch,
    below: Option<&LayerActivations<Vec<F>>>,
) -> (Vec<F>, Vec<F>) {
    let layout = &parameters.layout;
    let (width, size) = (layout.config.state_width, batch.size());
    let Some(LayerActivations { node_state, edge_state, .. }) = below else {
        let (objects, predicates) = (layout.object_embedding.clone(), layout.predicate_embedding.clone());
        let lookup = |range, types| edge_gather::embedding_lookup(&parameters.values[range], types, width);
        return (lookup(objects, &batch.node_object), lookup(predicates, &batch.edge_predicate));
    };
    (node_state[..size.nodes * width].to_vec(), edge_state[..size.edges * width].to_vec())
}

impl<F: Float> Memory for Reference<F> {
    type Buffer = Vec<F>;

    fn allocate(&self, len: usize) -> Result<Vec<F>> {
        Ok(vec![F::zero(); len])
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
}

impl<F: Float> Batches for Reference<F> {
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

impl<F: Float> Stages for Reference<F> {
    type Activations = Activations<Vec<F>>;
    type ActivationGradients = ActivationGradients<Vec<F>>;
    type Steps = HostSteps;

    fn activations(&self, config: ModelConfig, capacity: BatchSize) -> Result<Activations<Vec<F>>> {
        Ok(Activations::new(config, capacity, |len| vec![F::zero(); len]))
    }

    fn activation_gradients(
        &self,
        config: ModelConfig,
        capacity: BatchSize,
    ) -> Result<ActivationGradients<Vec<F>>> {
        ActivationGradients::new(config, capacity, |rows, columns| self.allocate(rows * columns))
    }

    fn steps(&self, _: &Layout) -> Result<HostSteps> {
        Ok(HostSteps::default())
    }

    fn set_steps(&mut self, steps: &mut HostSteps, done: u64) -> Result<()> {
        steps.done = done;
        Ok(())
    }

    fn gradient_norm(&mut self, gradients: &Vec<F>, count: usize, steps: &mut HostSteps) -> Result<()> {
        steps.gradient_norm = adam::gradient_norm(&gradients[..count]);
        Ok(())
    }

    fn sum_gradients(&mut self, gradients: &mut Vec<F>, range: Range<usize>) -> Result<()> {
        if !self.ranks.is_one() {
            let mut sums = wide(&gradients[range.clone()]);
            self.ranks.sum(&mut sums);
            let sums = sums.into_iter().map(|sum| F::from(sum).expect("a float"));
            gradients[range].iter_mut().zip(sums).for_each(|(to, sum)| *to = sum);
        }
        Ok(())
    }

    fn last_gradient_norm(&mut self, steps: &HostSteps) -> Result<f64> {
        Ok(steps.gradient_norm)
    }

    fn edge_hidden(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        let (below, a) = pass.activations.at_mut(pass.layer);
        let (nodes, edges) = layer_input(pass.parameters, pass.batch, below);
        let x =
            edge_gather::edge_gather(pass.batch, &nodes, &edges, pass.parameters.layout.config.state_width);
        let place = (pass.layer, BlockKind::EdgeHidden);
        let y = block_forward(&self.ranks, pass.mode, place, pass.parameters, &x, &mut a.edge_hidden);
        write(&mut a.edge_hidden_output, &y);
        Ok(())
    }

    fn edge_heads(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        let (_, a) = pass.activations.at_mut(pass.layer);
        let x = &a.edge_hidden_output[..pass.batch.size().edges * pass.parameters.layout.config.hidden_width];
        let place = (pass.layer, BlockKind::EdgeHeads);
        block_forward(&self.ranks, pass.mode, place, pass.parameters, x, &mut a.edge_heads);
        Ok(())
    }

    fn edge_pool(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        let (_, a) = pass.activations.at_mut(pass.layer);
        let (batch, config) = (pass.batch, pass.parameters.layout.config);
        let layout = pass.parameters.layout.block(pass.layer, BlockKind::EdgeHeads);
        let (hidden, object_start) = (config.hidden_width, config.object_head_start(pass.layer));
        let z = &a.edge_heads.linear[..batch.size().edges * layout.outputs];
        let y = norm(pass.parameters, layout, &a.edge_heads).relu_rows(z);
        write(&mut a.pooled, &edge_pool::edge_pool(batch, &y, layout.outputs, hidden, object_start));
        let states: Vec<F> =
            y.chunks_exact(layout.outputs).flat_map(|row| &row[hidden..object_start]).copied().collect();
        write(&mut a.edge_state, &states);
        Ok(())
    }

    fn node_hidden(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        let (_, a) = pass.activations.at_mut(pass.layer);
        let x = &a.pooled[..pass.batch.size().nodes * pass.parameters.layout.config.hidden_width];
        let place = (pass.layer, BlockKind::NodeHidden);
        let y = block_forward(&self.ranks, pass.mode, place, pass.parameters, x, &mut a.node_hidden);
        write(&mut a.node_hidden_output, &y);
        Ok(())
    }

    fn node_output(&mut self, pass: &mut Forward<'_, Self>) -> Result<()> {
        let (_, a) = pass.activations.at_mut(pass.layer);
        let config = pass.parameters.layout.config;
        let x = &a.node_hidden_output[..pass.batch.size().nodes * config.hidden_width];
        let place = (pass.layer, BlockKind::NodeOutput);
        let mut y = block_forward(&self.ranks, pass.mode, place, pass.parameters, x, &mut a.node_output);
        if config.l2_norm {
            l2_normalise::l2_normalise(&mut y, config.state_width);
        }
        write(&mut a.node_state, &y);
        Ok(())
    }

    fn readout(&mut self, of: Readout<'_, Self>) -> Result<()> {
        let ModelConfig { state_width, image_node_in_mean, .. } = of.config;
        let node_state = of.activations.last_node_state();
        write(of.embedding, &readout_loss::readout(of.batch, node_state, state_width, image_node_in_mean));
        Ok(())
    }

    fn readout_loss(
        &mut self,
        of: Readout<'_, Self>,
        loss: &Loss,
        to: LossOutputs<'_, Self>,
    ) -> Result<Gradient<States>> {
        let Readout { config, batch, activations, embedding } = of;
        self.readout(Readout { config, batch, activations, embedding: &mut *embedding })?;
        let (width, node_state) = (config.state_width, activations.last_node_state());
        let (values, d_embedding) =
            readout_loss::triple_losses(loss, batch, embedding, width, to.triples_of_all);
        let at = loss_row(to.losses.len(), to.steps.done).start;
        write(&mut to.losses[at..], &values);
        let in_mean = config.image_node_in_mean;
        let d = readout_loss::readout_backward(batch, node_state, &d_embedding, width, in_mean);
        write(&mut to.d.d_node_state, &d);
        Ok(Gradient::computed())
    }

    fn node_output_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<States>,
    ) -> Result<Gradient<NodeHidden>> {
        let (_, a) = pass.activations.at(pass.layer);
        let place = (pass.layer, BlockKind::NodeOutput);
        let layout = pass.parameters.layout.block(pass.layer, BlockKind::NodeOutput);
        let nodes = pass.batch.size().nodes;
        let values = nodes * layout.outputs;
        let mut d = pass.d.d_node_state[..values].to_vec();
        if pass.parameters.layout.config.l2_norm {
            let y = norm(pass.parameters, layout, &a.node_output).relu_rows(&a.node_output.linear[..values]);
            d = l2_normalise::l2_normalise_backward(&y, &d, layout.outputs);
        }
        norm_backward(&self.ranks, place, pass.parameters, &a.node_output, &mut d, pass.gradients);
        let x = &a.node_hidden_output[..nodes * layout.inputs];
        write(&mut pass.d.d_node_hidden, &linear_backward(place, pass.parameters, &d, x, pass.gradients));
        Ok(Gradient::computed())
    }

    fn node_hidden_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<NodeHidden>,
    ) -> Result<Gradient<Pooled>> {
        let (_, a) = pass.activations.at(pass.layer);
        let place = (pass.layer, BlockKind::NodeHidden);
        let values = pass.batch.size().nodes * pass.parameters.layout.config.hidden_width;
        let d = &mut pass.d.d_node_hidden[..values];
        norm_backward(&self.ranks, place, pass.parameters, &a.node_hidden, d, pass.gradients);
        let d_pooled = linear_backward(place, pass.parameters, d, &a.pooled[..values], pass.gradients);
        write(&mut pass.d.d_pooled, &d_pooled);
        Ok(Gradient::computed())
    }

    fn edge_pool_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<Pooled>,
    ) -> Result<Gradient<EdgeHeads>> {
        let (_, a) = pass.activations.at(pass.layer);
        let config = pass.parameters.layout.config;
        let mut d = edge_pool::edge_pool_backward(
            pass.batch,
            &pass.d.d_pooled,
            &pass.d.d_edge_state,
            config.heads_width(pass.layer),
            config.hidden_width,
            config.object_head_start(pass.layer),
        );
        let place = (pass.layer, BlockKind::EdgeHeads);
        norm_backward(&self.ranks, place, pass.parameters, &a.edge_heads, &mut d, pass.gradients);
        write(&mut pass.d.d_edge_heads, &d);
        Ok(Gradient::computed())
    }

    fn edge_heads_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<EdgeHeads>,
    ) -> Result<Gradient<EdgeHidden>> {
        let (_, a) = pass.activations.at(pass.layer);
        let place = (pass.layer, BlockKind::EdgeHeads);
        let layout = pass.parameters.layout.block(pass.layer, BlockKind::EdgeHeads);
        let edges = pass.batch.size().edges;
        let d = &pass.d.d_edge_heads[..edges * layout.outputs];
        let x = &a.edge_hidden_output[..edges * layout.inputs];
        write(&mut pass.d.d_edge_hidden, &linear_backward(place, pass.parameters, d, x, pass.gradients));
        Ok(Gradient::computed())
    }

    fn edge_hidden_backward(
        &mut self,
        pass: &mut Backward<'_, Self>,
        _: Gradient<EdgeHidden>,
    ) -> Result<Gradient<States>> {
        let (below, a) = pass.activations.at(pass.layer);
        let place = (pass.layer, BlockKind::EdgeHidden);
        let (batch, layout) = (pass.batch, &pass.parameters.layout);
        let (width, size) = (layout.config.state_width, batch.size());
        let (nodes, edges) = layer_input(pass.parameters, batch, below);
        let x = edge_gather::edge_gather(batch, &nodes, &edges, width);
        let d = &mut pass.d.d_edge_hidden[..size.edges * layout.config.hidden_width];
        norm_backward(&self.ranks, place, pass.parameters, &a.edge_hidden, d, pass.gradients);
        let d_x = linear_backward(place, pass.parameters, d, &x, pass.gradients);
        let mut d_nodes = vec![F::zero(); size.nodes * width];
        let mut d_edges = vec![F::zero(); size.edges * width];
        edge_gather::edge_gather_backward(batch, &d_x, width, &mut d_nodes, &mut d_edges);
        if below.is_some() {
            write(&mut pass.d.d_node_state, &d_nodes);
            write(&mut pass.d.d_edge_state, &d_edges);
        } else {
            let mut table = |d_rows: &[F], types: &[u32], range: Range<usize>| {
                edge_gather::embedding_lookup_backward(d_rows, types, width, &mut pass.gradients[range]);
            };
            table(&d_nodes, &batch.node_object, layout.object_embedding.clone());
            table(&d_edges, &batch.edge_predicate, layout.predicate_embedding.clone());
        }
        Ok(Gradient::computed())
    }

    fn adam_step(&mut self, update: Update<'_, Self>) -> Result<()> {
        let Update { adam, parameters, gradients, moments, steps, part } = update;
        let Part { parameters: range, ends_step } = part;
        let step = adam.at_step(steps.done + 1, steps.gradient_norm);
        for (range, decays) in parameters.layout.by_decay(range) {
            let step = if decays { step } else { step.without_decay() };
            let [values, first, second] = [&mut parameters.values, &mut moments.first, &mut moments.second]
                .map(|array| &mut array[range.clone()]);
            adam::adam_step(&step, values, &gradients[range], first, second);
        }
        steps.done += u64::from(ends_step);
        Ok(())
    }

    fn relu_mask(
        &mut self,
        (layer, kind): (usize, BlockKind),
        rows: usize,
        parameters: &Parameters<Vec<F>>,
        activations: &Activations<Vec<F>>,
    ) -> Result<Vec<u8>> {
        let (layout, block) = (parameters.layout.block(layer, kind), activations.layers[layer].block(kind));
        let y = norm(parameters, layout, block).relu_rows(&block.linear[..rows * layout.outputs]);
        Ok(y.iter().map(|value| u8::from(*value > F::zero())).collect())
    }
}

impl<F: Float> Search for Reference<F> {
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
}

impl<F: Float> Backend for Reference<F> {
    fn join(&mut self, ranks: &Ranks) -> Result<()> {
        self.ranks = ranks.clone();
        Ok(())
    }

    fn description(&self) -> Result<Description> {
        Ok(Description { name: "reference (CPU)".into(), driver: None, kernels: Kernels::Auto })
    }
}
