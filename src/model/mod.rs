//! The network: forward and backward, written once above any [`Backend`].
//!
//! A layer reads node states x and edge states e and makes new ones (paper, "Model"; model.md, "Forward"):
//!
//! ```text
//! edge_hidden   hidden = block(concat(x[subject], e, x[object]))
//! edge_heads    message to the subject, new edge state, message to the object = block(hidden) each
//! edge_pool     pooled[w] = mean of the messages that reach node w
//! node_hidden   block(pooled)
//! node_output   x' = l2_normalise(block(.))
//! readout       f = l2_normalise(mean of the graph's node states)
//! ```
//!
//! [`ModelConfig`] switches off the norm of blocks, that of x', and the image node's part in the mean.

pub mod activations;

use std::ops::Range;
use std::sync::Arc;

use crate::backend::{Activated, Backend, LayerInput, LayerInputGradient, Mode};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::batch::triples::TripleSampler;
use crate::data::scene_graph::SceneGraph;
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;
use crate::loss::Loss;
use crate::model::activations::{ActivationGradients, Activations, BlockActivations, LayerActivations};
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, Layout, Parameters, Storage};
use crate::network::tensors::{NamedTensors, Tensor};
use crate::optimizer::{Adam, Moments, Part};

/// Steps whose losses stay where they are computed until somebody reads them, so that a step waits for nothing.
pub const LOSS_STEPS: usize = 10;

/// Where, in `len` = `[LOSS_STEPS, most triples]` losses, those of the step after `steps` lie: steps take turns.
pub(crate) fn loss_row(len: usize, steps: u64) -> Range<usize> {
    let (row, most_triples) = ((steps % LOSS_STEPS as u64) as usize, len / LOSS_STEPS);
    row * most_triples..(row + 1) * most_triples
}

/// The network on a backend, with room for batches up to a capacity.
pub struct Model<B: Backend> {
    backend: B,
    parameters: Parameters<B::Buffer>,
    activations: Activations<B::Stored, B::Buffer>,
    batch: B::Batch,
    /// Of the loaded batch; zeros where steps take theirs from the training set.
    batch_size: BatchSize,
    /// Of the batch that the next step takes.
    triples: usize,
    capacity: BatchSize,
    epoch: Epoch,
    /// Tells models apart.
    identity: Arc<()>,
}

/// An epoch of a training set that the backend keeps.
#[derive(Default)]
struct Epoch {
    /// Which anchors have a triple, in the order of their steps.
    has_triple: Vec<bool>,
    /// Anchors that are done.
    position: usize,
}

/// What training needs beside the model.
pub struct TrainingState<B: Backend> {
    gradients: B::Buffer,
    moments: Moments<B::Buffer>,
    activation_gradients: ActivationGradients<B::Stored>,
    /// `[LOSS_STEPS, most triples]`: the losses of the last steps, a row each in turns.
    losses: B::Buffer,
    /// Of each row.
    loss_triples: [usize; LOSS_STEPS],
    /// The row that was written last.
    last_loss: usize,
    /// Of so many steps the losses were taken, or are no longer there.
    losses_taken: u64,
    /// As many as `steps`, where the backend counts them.
    counter: B::Steps,
    /// The step, captured, and what it was captured with.
    graphs: B::Graphs,
    captured: Option<(Loss, Adam)>,
    /// The identity of the model that it is for.
    model: Arc<()>,
    /// Optimizer steps done.
    pub steps: u64,
}

impl<B: Backend> Model<B> {
    /// A model with these tensors (every one that its layout names), for batches up to `capacity`.
    pub fn new(
        mut backend: B,
        config: ModelConfig,
        tensors: &NamedTensors,
        capacity: BatchSize,
    ) -> Result<Self> {
        let layout = Layout::new(config);
        let mut parameters = Parameters {
            values: backend.allocate(layout.parameter_count)?,
            running_mean: backend.allocate(layout.running_count)?,
            running_var: backend.allocate(layout.running_count)?,
            layout,
        };
        for tensor in parameters.layout.tensors() {
            let buffer = match tensor.storage {
                Storage::Parameters => &mut parameters.values,
                Storage::RunningMean => &mut parameters.running_mean,
                Storage::RunningVar => &mut parameters.running_var,
            };
            backend.upload(&tensors[&tensor.name].values, buffer, tensor.range.start)?;
        }
        let activations = Activations::allocate(&backend, config, capacity)?;
        let batch = backend.plan(config, capacity)?;
        backend.parameters_loaded(&parameters)?;
        Ok(Model {
            backend,
            parameters,
            activations,
            batch,
            batch_size: BatchSize::default(),
            triples: 0,
            capacity,
            epoch: Epoch::default(),
            identity: Arc::new(()),
        })
    }

    /// Its sizes.
    pub fn config(&self) -> ModelConfig {
        self.parameters.layout.config
    }

    /// The largest batch that it has room for.
    pub fn capacity(&self) -> BatchSize {
        self.capacity
    }

    /// Where it computes. Not for other crates: a captured step holds the addresses of this very backend's memory.
    pub(crate) fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// What the next passes read. The batch must fit the capacity.
    pub fn load_batch(&mut self, batch: &GraphBatch) -> Result<()> {
        let size = batch.size();
        assert!(size.fits(self.capacity), "a batch of {size:?} in buffers for {:?}", self.capacity);
        self.batch_size = size;
        self.triples = size.graphs / 3;
        let _range = self.backend.range(format_args!("load_batch"));
        self.backend.load_batch(batch, &mut self.batch)
    }

    /// Keeps the training set where the backend computes, once: `graphs`, numbered as the images of `sampler`, which all
    /// batches that fit the capacity may be of. False where the backend keeps none: then load the batches.
    pub fn load_training_set<'a>(
        &mut self,
        mut graphs: impl Iterator<Item = SceneGraph<'a>> + Clone,
        sampler: &TripleSampler<'_>,
    ) -> Result<bool> {
        let (largest, config) = (BatchSize::bound(graphs.clone(), self.capacity.graphs), self.config());
        assert!(largest.fits(self.capacity), "batches of {largest:?} in buffers for {:?}", self.capacity);
        self.backend.load_training_set(&mut graphs, config, sampler, &mut self.batch)
    }

    /// An epoch of the training set that the backend keeps: draws the triples of `order`'s anchors, of which those before
    /// `position` are done.
    pub fn begin_epoch(
        &mut self,
        sampler: &TripleSampler<'_>,
        epoch: u32,
        order: &[u32],
        position: usize,
    ) -> Result<()> {
        let _range = self.backend.range(format_args!("begin_epoch"));
        let has_triple = self.backend.begin_epoch(sampler, epoch, order, position, &mut self.batch)?;
        assert_eq!(has_triple.len(), order.len(), "a training set was loaded");
        self.epoch = Epoch { has_triple, position };
        Ok(())
    }

    /// The next step takes the epoch's next batch: that of as many anchors as the capacity has room for, at the end fewer.
    /// Gives their triples: with any, the step must follow; without, there is none to take.
    pub fn next_batch(&mut self) -> Result<usize> {
        let Epoch { has_triple, position } = &mut self.epoch;
        let end = has_triple.len().min(*position + self.capacity.graphs / 3);
        self.triples = has_triple[*position..end].iter().filter(|&&has| has).count();
        *position = end;
        self.batch_size = BatchSize::default();
        self.backend.take_from_training_set(&mut self.batch)?;
        Ok(self.triples)
    }

    /// The embeddings `[G, D]` of a batch's graphs, with the running statistics.
    pub fn embed(&mut self, batch: &GraphBatch) -> Result<Vec<f32>> {
        self.evaluate(batch)?;
        self.embedding()
    }

    /// The same into `embeddings[at..]`, where the backend computes.
    pub fn embed_into(&mut self, batch: &GraphBatch, embeddings: &mut B::Buffer, at: usize) -> Result<()> {
        self.evaluate(batch)?;
        let values = self.batch_size.graphs * self.config().state_width;
        self.backend.copy(&self.activations.embedding, 0..values, embeddings, at)
    }

    /// Forward and readout with the running statistics.
    fn evaluate(&mut self, batch: &GraphBatch) -> Result<()> {
        self.load_batch(batch)?;
        self.forward(Mode::Evaluate)?;
        let config = self.config();
        let last = self.activations.layers.last().expect("a layer");
        self.backend.readout(config, &self.batch, &last.node_state, &mut self.activations.embedding)
    }

    /// One training step, on the loaded batch or the epoch's next. A backend that can capture records its stages the first time, and from then
    /// on does them in one call.
    pub fn train_step(&mut self, loss: &Loss, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        assert!(Arc::ptr_eq(&self.identity, &state.model), "a training state of another model");
        if state.captured != Some((*loss, *adam)) {
            state.graphs = B::Graphs::default();
            state.captured = Some((*loss, *adam));
        }
        if !self.replay(state)? {
            let captured = self.capture(loss, adam, state);
            if captured.is_err() {
                state.captured = None;
            }
            captured?;
            self.replay(state)?;
        }
        state.expect_losses(self.triples);
        state.steps += 1;
        Ok(())
    }

    /// Does the step that was captured for where its batch comes from; false where there is none.
    fn replay(&mut self, state: &TrainingState<B>) -> Result<bool> {
        // SAFETY: the stages were given this model's buffers and this state's, as `train_step` has checked; both keep them
        // and take no others.
        unsafe { self.backend.replay(&self.batch, &state.graphs) }
    }

    /// The stages of a step, between the calls that record them where the backend can, and do them otherwise.
    fn capture(&mut self, loss: &Loss, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        let _range = self.backend.range(format_args!("capture"));
        self.backend.begin_capture(&mut self.batch)?;
        let stages = self.stages(loss, adam, state);
        let ended = self.backend.end_capture(&mut self.batch, &mut state.graphs);
        stages.and(ended)
    }

    fn stages(&mut self, loss: &Loss, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        self.backend.assemble_batch(&mut self.batch)?;
        self.forward(Mode::Train)?;
        self.readout_loss(loss, state)?;
        self.backward(state, Some(adam))
    }

    /// The losses of the loaded batch and their gradients.
    pub fn forward_backward(&mut self, loss: &Loss, state: &mut TrainingState<B>) -> Result<()> {
        self.forward(Mode::Train)?;
        self.loss(loss, state)?;
        self.backward(state, None)
    }

    /// One optimizer step along the gradients.
    pub fn update(&mut self, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        let Model { backend, parameters, .. } = self;
        let TrainingState { gradients, moments, counter, .. } = state;
        let _range = backend.range(format_args!("update"));
        let all = Part { parameters: 0..parameters.layout.parameter_count, ends_step: true };
        backend.adam_step(adam, parameters, gradients, moments, counter, all)?;
        state.steps += 1;
        Ok(())
    }

    pub(crate) fn forward(&mut self, mode: Mode) -> Result<()> {
        let Model { backend, parameters, activations, batch, .. } = self;
        let _range = backend.range(format_args!("forward"));
        for layer in 0..parameters.layout.config.layers {
            let _range = backend.range(format_args!("forward, layer {layer}"));
            let (before, from_here) = activations.layers.split_at_mut(layer);
            let a = &mut from_here[0];
            let input = layer_input(before);
            backend.edge_hidden(
                layer,
                mode,
                parameters,
                batch,
                input,
                &mut a.edge_hidden,
                &mut a.edge_hidden_output,
            )?;
            let hidden = Activated { block: &a.edge_hidden, output: &a.edge_hidden_output };
            backend.edge_heads(layer, mode, parameters, batch, hidden, &mut a.edge_heads)?;
            backend.edge_pool(layer, parameters, batch, &a.edge_heads, &mut a.pooled, &mut a.edge_state)?;
            backend.node_hidden(
                layer,
                mode,
                parameters,
                batch,
                &a.pooled,
                &mut a.node_hidden,
                &mut a.node_hidden_output,
            )?;
            backend.node_output(
                layer,
                mode,
                parameters,
                batch,
                Activated { block: &a.node_hidden, output: &a.node_hidden_output },
                &mut a.node_output,
                &mut a.node_state,
            )?;
        }
        Ok(())
    }

    /// The losses, and their gradient by the last node states.
    pub(crate) fn loss(&mut self, loss: &Loss, state: &mut TrainingState<B>) -> Result<()> {
        state.expect_losses(self.triples);
        self.readout_loss(loss, state)
    }

    fn readout_loss(&mut self, loss: &Loss, state: &mut TrainingState<B>) -> Result<()> {
        let config = self.config();
        let last = self.activations.layers.last().expect("a layer");
        let _range = self.backend.range(format_args!("loss"));
        self.backend.readout_loss(
            config,
            loss,
            &self.batch,
            &last.node_state,
            &mut self.activations.embedding,
            &mut state.losses,
            &state.counter,
            &mut state.activation_gradients.d_node_state,
        )
    }

    /// The forward pass upside down; with `update` an optimizer step too, whose parts are taken as soon as they can be.
    pub(crate) fn backward(&mut self, state: &mut TrainingState<B>, update: Option<&Adam>) -> Result<()> {
        let Model { backend, parameters, activations, batch, .. } = self;
        let TrainingState { gradients, activation_gradients: d, moments, counter, .. } = state;
        let of_all_layers = backend.range(format_args!("backward"));
        for layer in (0..parameters.layout.config.layers).rev() {
            let _range = backend.range(format_args!("backward, layer {layer}"));
            let (before, from_here) = activations.layers.split_at_mut(layer);
            let a = &from_here[0];
            backend.node_output_backward(
                layer,
                parameters,
                batch,
                a,
                &mut d.d_node_state,
                &mut d.d_node_hidden,
                gradients,
            )?;
            backend.node_hidden_backward(
                layer,
                parameters,
                batch,
                a,
                &mut d.d_node_hidden,
                &mut d.d_pooled,
                gradients,
            )?;
            backend.edge_pool_backward(
                layer,
                parameters,
                batch,
                a,
                &d.d_pooled,
                &d.d_edge_state,
                &mut d.d_edge_heads,
                gradients,
            )?;
            backend.edge_heads_backward(
                layer,
                parameters,
                batch,
                a,
                &d.d_edge_heads,
                &mut d.d_edge_hidden,
                gradients,
            )?;
            if let Some(adam) = update {
                let _range = backend.range(format_args!("update"));
                let part = Part { parameters: parameters.layout.part_from_heads(layer), ends_step: false };
                backend.adam_step(adam, parameters, gradients, moments, counter, part)?;
            }
            let d_input = match layer {
                0 => LayerInputGradient::Embeddings,
                _ => LayerInputGradient::States { nodes: &mut d.d_node_state, edges: &mut d.d_edge_state },
            };
            backend.edge_hidden_backward(
                layer,
                parameters,
                batch,
                a,
                layer_input(before),
                &mut d.d_edge_hidden,
                d_input,
                gradients,
            )?;
        }
        drop(of_all_layers);
        match update {
            Some(adam) => {
                let _range = backend.range(format_args!("update"));
                let rest = 0..parameters.layout.part_from_heads(0).start;
                let part = Part { parameters: rest, ends_step: true };
                backend.adam_step(adam, parameters, gradients, moments, counter, part)
            }
            None => Ok(()),
        }
    }

    /// The loaded batch's embeddings `[G, D]`, as the last pass left them.
    pub fn embedding(&mut self) -> Result<Vec<f32>> {
        let values = self.batch_size.graphs * self.config().state_width;
        self.backend.download(&self.activations.embedding, 0..values)
    }

    /// The mean loss of the last step; waits for it.
    pub fn mean_loss(&mut self, state: &TrainingState<B>) -> Result<f32> {
        let at = state.last_loss * self.most_triples();
        let triples = state.loss_triples[state.last_loss];
        Ok(mean(&self.backend.download(&state.losses, at..at + triples)?))
    }

    /// The mean loss and the triples of each step since the last call, in order; waits for them. Only the last
    /// [`LOSS_STEPS`] steps' losses are kept: call this at least as often.
    pub fn take_losses(&mut self, state: &mut TrainingState<B>) -> Result<Vec<(f32, usize)>> {
        let len = LOSS_STEPS * self.most_triples();
        let first = state.losses_taken.max(state.steps.saturating_sub(LOSS_STEPS as u64));
        state.losses_taken = state.steps;
        if first == state.steps {
            return Ok(Vec::new());
        }
        let losses = self.backend.download(&state.losses, 0..len)?;
        let of_step = |step: u64| {
            let triples = state.loss_triples[(step % LOSS_STEPS as u64) as usize];
            (mean(&losses[loss_row(len, step)][..triples]), triples)
        };
        Ok((first..state.steps).map(of_step).collect())
    }

    /// Of a batch.
    fn most_triples(&self) -> usize {
        self.capacity.graphs / 3
    }

    /// Parameters and running statistics by name.
    pub fn tensors(&mut self) -> Result<NamedTensors> {
        let Model { backend, parameters, .. } = self;
        let mut tensors = NamedTensors::new();
        for layout in parameters.layout.tensors() {
            let buffer = match layout.storage {
                Storage::Parameters => &parameters.values,
                Storage::RunningMean => &parameters.running_mean,
                Storage::RunningVar => &parameters.running_var,
            };
            let values = backend.download(buffer, layout.range)?;
            tensors.insert(layout.name, Tensor { shape: layout.shape, values });
        }
        Ok(tensors)
    }

    /// The last step's gradients by the names of their parameters.
    pub fn gradients(&mut self, state: &TrainingState<B>) -> Result<NamedTensors> {
        self.learnt(&state.gradients)
    }

    /// Adam's moments, first and second, by the names of their parameters.
    pub fn moments(&mut self, state: &TrainingState<B>) -> Result<(NamedTensors, NamedTensors)> {
        Ok((self.learnt(&state.moments.first)?, self.learnt(&state.moments.second)?))
    }

    /// A flat array in the parameters' layout, by name.
    fn learnt(&mut self, buffer: &B::Buffer) -> Result<NamedTensors> {
        let layouts = self.parameters.layout.tensors().into_iter();
        layouts
            .filter(|layout| layout.storage == Storage::Parameters)
            .map(|layout| {
                let values = self.backend.download(buffer, layout.range)?;
                Ok((layout.name, Tensor { shape: layout.shape, values }))
            })
            .collect()
    }

    /// Which ReLUs passed their input in the last forward pass: `(block, columns, [rows, columns] of 0 and 1)`.
    pub fn relu_masks(&mut self) -> Result<Vec<(String, usize, Vec<u8>)>> {
        let BatchSize { nodes, edges, .. } = self.batch_size;
        let mut masks = Vec::new();
        for (name, layer, kind, columns) in self.parameters.layout.named_blocks() {
            let rows = match kind {
                BlockKind::EdgeHidden | BlockKind::EdgeHeads => edges,
                BlockKind::NodeHidden | BlockKind::NodeOutput => nodes,
            };
            let block = block_activations(&self.activations.layers[layer], kind);
            let mask = self.backend.relu_mask(layer, kind, rows, &self.parameters, block)?;
            let width = self.parameters.layout.block(layer, kind).outputs;
            let part = mask.chunks_exact(width).flat_map(|row| &row[columns.clone()]).copied().collect();
            masks.push((name, columns.len(), part));
        }
        Ok(masks)
    }
}

impl<B: Backend> TrainingState<B> {
    /// Zero moments, for training `model`.
    pub fn new(model: &Model<B>) -> Result<Self> {
        let backend = &model.backend;
        let parameters = model.parameters.layout.parameter_count;
        Ok(TrainingState {
            gradients: backend.allocate(parameters)?,
            moments: Moments { first: backend.allocate(parameters)?, second: backend.allocate(parameters)? },
            activation_gradients: ActivationGradients::allocate(backend, model.config(), model.capacity)?,
            losses: backend.allocate(LOSS_STEPS * model.most_triples())?,
            loss_triples: [0; LOSS_STEPS],
            last_loss: 0,
            losses_taken: 0,
            counter: backend.steps()?,
            graphs: B::Graphs::default(),
            captured: None,
            model: model.identity.clone(),
            steps: 0,
        })
    }

    /// The losses of so many triples are those of this step.
    fn expect_losses(&mut self, triples: usize) {
        self.last_loss = (self.steps % LOSS_STEPS as u64) as usize;
        self.loss_triples[self.last_loss] = triples;
    }

    /// Continues after `steps` steps with these moments.
    pub fn restore(
        &mut self,
        model: &mut Model<B>,
        steps: u64,
        first: &NamedTensors,
        second: &NamedTensors,
    ) -> Result<()> {
        self.steps = steps;
        self.losses_taken = steps;
        model.backend.set_steps(&mut self.counter, steps)?;
        let layouts = model.parameters.layout.tensors().into_iter();
        for layout in layouts.filter(|layout| layout.storage == Storage::Parameters) {
            let start = layout.range.start;
            model.backend.upload(&first[&layout.name].values, &mut self.moments.first, start)?;
            model.backend.upload(&second[&layout.name].values, &mut self.moments.second, start)?;
        }
        Ok(())
    }
}

/// Summed in order.
fn mean(losses: &[f32]) -> f32 {
    (losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64) as f32
}

/// What the layer after `before` reads.
fn layer_input<S, T>(before: &[LayerActivations<S, T>]) -> LayerInput<'_, S, T> {
    match before.last() {
        None => LayerInput::Embeddings,
        Some(LayerActivations { node_output, node_state, edge_heads, edge_state, .. }) => {
            let nodes = Activated { block: node_output, output: node_state };
            LayerInput::States { nodes, edges: Activated { block: edge_heads, output: edge_state } }
        }
    }
}

fn block_activations<S, T>(layer: &LayerActivations<S, T>, kind: BlockKind) -> &BlockActivations<S, T> {
    match kind {
        BlockKind::EdgeHidden => &layer.edge_hidden,
        BlockKind::EdgeHeads => &layer.edge_heads,
        BlockKind::NodeHidden => &layer.node_hidden,
        BlockKind::NodeOutput => &layer.node_output,
    }
}

/// Every tensor that a model of these sizes needs, from `file`, where their names begin with `prefix`; shapes are
/// checked, and so is that all values are finite.
pub fn read_tensors(file: &TensorFile, prefix: &str, config: ModelConfig) -> Result<NamedTensors> {
    let layouts = Layout::new(config).tensors().into_iter();
    layouts
        .map(|layout| Ok((layout.name.clone(), finite_tensor(file, prefix, &layout.name, &layout.shape)?)))
        .collect()
}

/// One tensor, checked as [`read_tensors`] does.
pub fn finite_tensor(file: &TensorFile, prefix: &str, name: &str, shape: &[usize]) -> Result<Tensor> {
    let name = format!("{prefix}{name}");
    let tensor = file.tensor_of_shape(&name, shape)?;
    match tensor.values.iter().position(|value| !value.is_finite()) {
        None => Ok(tensor),
        Some(at) => Err(not_finite(file, &name, at, tensor.values[at])),
    }
}

fn not_finite(file: &TensorFile, name: &str, at: usize, value: f32) -> Error {
    file.invalid(format!("tensor {name}, value {at}"), format!("is {value}"), "use an earlier checkpoint")
}
