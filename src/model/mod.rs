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

use std::sync::Arc;

pub use crate::backend::LOSS_STEPS;
use crate::backend::pass::{Backward, Forward, Gradient, LossOutputs, Readout, States, Update};
use crate::backend::{Backend, Mode, loss_row};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::batch::triples::TripleSampler;
use crate::data::scene_graph::SceneGraph;
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;
use crate::loss::Loss;
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, Layout, Parameters, Storage};
use crate::network::tensors::{NamedTensors, Tensor};
use crate::optimizer::{Adam, Moments, Part};

/// The network on a backend, with room for batches up to a capacity.
pub struct Model<B: Backend> {
    backend: B,
    parameters: Parameters<B::Buffer>,
    activations: B::Activations,
    /// `[G, D]` embeddings of the last batch, rows of unit length.
    embedding: B::Buffer,
    batch: B::Batch,
    /// Size of the loaded batch; zeros where steps take their batches from the training set.
    batch_size: BatchSize,
    /// Number of triples of the batch that the next step takes.
    triples: usize,
    /// Size of the largest batch.
    capacity: BatchSize,
    epoch: Epoch,
    /// Tells models apart.
    identity: Arc<()>,
}

/// An epoch of a training set that the backend keeps.
#[derive(Default)]
struct Epoch {
    /// Whether each anchor has a triple, in the order of the steps.
    has_triple: Vec<bool>,
    /// Number of anchors that are done.
    position: usize,
}

/// What training needs beside the model.
pub struct TrainingState<B: Backend> {
    /// `[parameter_count]` gradients with respect to the parameters.
    gradients: B::Buffer,
    moments: Moments<B::Buffer>,
    activation_gradients: B::ActivationGradients,
    /// `[LOSS_STEPS, most triples]` losses of the last steps, one row per step in turns.
    losses: B::Buffer,
    /// Number of triples of each row of `losses`.
    loss_triples: [usize; LOSS_STEPS],
    /// The row of `losses` that was written last.
    last_loss: usize,
    /// Number of steps whose losses were already returned or overwritten.
    losses_taken: u64,
    /// The same number as `steps`, where the backend counts.
    counter: B::Steps,
    /// Captured steps.
    graphs: B::Graphs,
    /// Loss and optimizer that the steps were captured with.
    captured: Option<(Loss, Adam)>,
    /// Identity of the model that this state trains.
    model: Arc<()>,
    /// Number of optimizer steps done.
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
        let activations = backend.activations(config, capacity)?;
        let embedding = backend.allocate(capacity.graphs * config.state_width)?;
        let batch = backend.plan(config, capacity)?;
        backend.parameters_loaded(&parameters)?;
        Ok(Model {
            backend,
            parameters,
            activations,
            embedding,
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
        self.backend.copy(&self.embedding, 0..values, embeddings, at)
    }

    /// Forward and readout with the running statistics.
    fn evaluate(&mut self, batch: &GraphBatch) -> Result<()> {
        self.load_batch(batch)?;
        self.forward(Mode::Evaluate)?;
        let Model { backend, parameters, activations, embedding, batch, .. } = self;
        backend.readout(Readout { config: parameters.layout.config, batch, activations, embedding })
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
        let d = self.readout_loss(loss, state)?;
        self.backward(state, d, Some(adam))
    }

    /// The losses of the loaded batch and their gradients.
    pub fn forward_backward(&mut self, loss: &Loss, state: &mut TrainingState<B>) -> Result<()> {
        self.forward(Mode::Train)?;
        let d = self.loss(loss, state)?;
        self.backward(state, d, None)
    }

    /// One optimizer step along the gradients.
    pub fn update(&mut self, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        let Model { backend, parameters, .. } = self;
        let TrainingState { gradients, moments, counter, .. } = state;
        let _range = backend.range(format_args!("update"));
        let part = Part { parameters: 0..parameters.layout.parameter_count, ends_step: true };
        backend.adam_step(Update { adam, parameters, gradients, moments, steps: counter, part })?;
        state.steps += 1;
        Ok(())
    }

    /// All layers, on the batch that was loaded or put together.
    pub(crate) fn forward(&mut self, mode: Mode) -> Result<()> {
        let Model { backend, parameters, activations, batch, .. } = self;
        let _range = backend.range(format_args!("forward"));
        for layer in 0..parameters.layout.config.layers {
            let _range = backend.range(format_args!("forward, layer {layer}"));
            let mut pass = Forward { layer, mode, parameters, batch, activations };
            backend.edge_hidden(&mut pass)?;
            backend.edge_heads(&mut pass)?;
            backend.edge_pool(&mut pass)?;
            backend.node_hidden(&mut pass)?;
            backend.node_output(&mut pass)?;
        }
        Ok(())
    }

    /// The losses, and the gradient of their mean with respect to the last node states.
    pub(crate) fn loss(&mut self, loss: &Loss, state: &mut TrainingState<B>) -> Result<Gradient<States>> {
        state.expect_losses(self.triples);
        self.readout_loss(loss, state)
    }

    fn readout_loss(&mut self, loss: &Loss, state: &mut TrainingState<B>) -> Result<Gradient<States>> {
        let Model { backend, parameters, activations, embedding, batch, .. } = self;
        let TrainingState { losses, counter, activation_gradients: d, .. } = state;
        let _range = backend.range(format_args!("loss"));
        let of = Readout { config: parameters.layout.config, batch, activations, embedding };
        backend.readout_loss(of, loss, LossOutputs { losses, steps: counter, d })
    }

    /// The mirror of [`Model::forward`], from the gradient with respect to the last node states. With `update`, it also takes
    /// an optimizer step, each part of it as soon as its gradients are final.
    pub(crate) fn backward(
        &mut self,
        state: &mut TrainingState<B>,
        mut states: Gradient<States>,
        update: Option<&Adam>,
    ) -> Result<()> {
        let Model { backend, parameters, activations, batch, .. } = self;
        let TrainingState { gradients, activation_gradients, moments, counter, .. } = state;
        let of_all_layers = backend.range(format_args!("backward"));
        for layer in (0..parameters.layout.config.layers).rev() {
            let _range = backend.range(format_args!("backward, layer {layer}"));
            let d = &mut *activation_gradients;
            let mut pass = Backward { layer, parameters, batch, activations, d, gradients };
            let node_hidden = backend.node_output_backward(&mut pass, states)?;
            let pooled = backend.node_hidden_backward(&mut pass, node_hidden)?;
            let heads = backend.edge_pool_backward(&mut pass, pooled)?;
            let hidden = backend.edge_heads_backward(&mut pass, heads)?;
            if let Some(adam) = update {
                let part = hidden.finished(&parameters.layout, layer);
                let _range = backend.range(format_args!("update"));
                backend.adam_step(Update { adam, parameters, gradients, moments, steps: counter, part })?;
            }
            let d = &mut *activation_gradients;
            let mut pass = Backward { layer, parameters, batch, activations, d, gradients };
            states = backend.edge_hidden_backward(&mut pass, hidden)?;
        }
        drop(of_all_layers);
        let Some(adam) = update else { return Ok(()) };
        let part = states.rest(&parameters.layout);
        let _range = backend.range(format_args!("update"));
        backend.adam_step(Update { adam, parameters, gradients, moments, steps: counter, part })
    }

    /// The loaded batch's embeddings `[G, D]`, as the last pass left them.
    pub fn embedding(&mut self) -> Result<Vec<f32>> {
        let values = self.batch_size.graphs * self.config().state_width;
        self.backend.download(&self.embedding, 0..values)
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

    /// Number of triples of the largest batch.
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
            let place = (layer, kind);
            let mask = self.backend.relu_mask(place, rows, &self.parameters, &self.activations)?;
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
            activation_gradients: backend.activation_gradients(model.config(), model.capacity)?,
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
