//! The network: forward and backward, written once on top of any [`Backend`].
//!
//! A layer computes new node states and edge states from node states x and edge states e (paper, "Model";
//! docs/model.md, "Forward"):
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
//! [`ModelConfig`] can switch off batch norm, the l2 normalisation of x', and the image node in the mean.

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
use crate::optimizer::schedule::RATE_STEPS;
use crate::optimizer::{Adam, Moments, Part};

/// The network on a backend, with memory for batches up to a capacity.
pub struct Model<B: Backend> {
    backend: B,
    parameters: Parameters<B::Buffer>,
    activations: B::Activations,
    /// `[G, D]` embeddings of the last batch, rows of unit length.
    embedding: B::Buffer,
    batch: B::Batch,
    /// Size of the loaded batch; zeros if steps take their batches from the training set.
    batch_size: BatchSize,
    /// Number of triples in the next step's batch, this rank's share of it.
    triples: usize,
    /// Number of triples of all ranks in the next step's batch.
    triples_of_all: usize,
    /// Size of the largest batch.
    capacity: BatchSize,
    epoch: Epoch,
    /// Distinguishes this model from others.
    identity: Arc<()>,
}

/// Progress in an epoch of a training set that the backend stores.
#[derive(Default)]
struct Epoch {
    /// `[anchors]` whether each anchor has a triple, in the order of the steps.
    has_triple: Vec<bool>,
    /// Number of anchors already processed.
    position: usize,
}

/// State of training, in addition to the model.
pub struct TrainingState<B: Backend> {
    /// `[parameter_count]` gradients with respect to the parameters.
    gradients: B::Buffer,
    moments: Moments<B::Buffer>,
    activation_gradients: B::ActivationGradients,
    /// `[LOSS_STEPS, most triples]` losses of the last steps; steps use the rows in turn.
    losses: B::Buffer,
    /// Number of triples in each row of `losses`.
    loss_triples: [usize; LOSS_STEPS],
    /// Row of `losses` written last.
    last_loss: usize,
    /// Number of steps whose losses were already returned or overwritten.
    losses_taken: u64,
    /// The value of `steps`, in the backend's memory.
    counter: B::Steps,
    /// Captured steps.
    graphs: B::Graphs,
    /// Loss and optimizer with which the steps were captured.
    captured: Option<(Loss, Adam)>,
    /// Optimizer whose learning rates are loaded, and k: the rates are those of the steps k [`RATE_STEPS`] + 1 and later.
    rates: Option<(Adam, u64)>,
    /// Identity of the model that this state trains.
    model: Arc<()>,
    /// Number of optimizer steps taken.
    pub steps: u64,
}

impl<B: Backend> Model<B> {
    /// Creates a model with these tensors (all that its layout names), for batches up to `capacity`.
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
            triples_of_all: 0,
            capacity,
            epoch: Epoch::default(),
            identity: Arc::new(()),
        })
    }

    /// Sizes and switches of the network.
    pub fn config(&self) -> ModelConfig {
        self.parameters.layout.config
    }

    /// Largest batch that fits.
    pub fn capacity(&self) -> BatchSize {
        self.capacity
    }

    /// The backend. Not public: captured steps hold addresses of this backend's memory, so it must not be
    /// replaced.
    pub(crate) fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Loads the batch for the following passes. It must fit the capacity.
    pub fn load_batch(&mut self, batch: &GraphBatch) -> Result<()> {
        let size = batch.size();
        assert!(size.fits(self.capacity), "a batch of {size:?} in buffers for {:?}", self.capacity);
        self.batch_size = size;
        self.triples = size.graphs / 3;
        self.triples_of_all = self.triples;
        let _range = self.backend.range(format_args!("load_batch"));
        self.backend.load_batch(batch, &mut self.batch)
    }

    /// Stores the training set in the backend's memory, once: `graphs`, numbered like the images of
    /// `sampler`. All batches that fit the capacity may contain any of them. Returns false if the backend
    /// does not store it; the caller must load batches then.
    pub fn load_training_set<'a>(
        &mut self,
        mut graphs: impl Iterator<Item = SceneGraph<'a>> + Clone,
        sampler: &TripleSampler<'_>,
    ) -> Result<bool> {
        let (largest, config) = (BatchSize::bound(graphs.clone(), self.capacity.graphs), self.config());
        assert!(largest.fits(self.capacity), "batches of {largest:?} in buffers for {:?}", self.capacity);
        self.backend.load_training_set(&mut graphs, config, sampler, &mut self.batch)
    }

    /// Begins an epoch of the stored training set: draws the triples of the anchors in `order`. The anchors
    /// before `position` are already processed.
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

    /// Selects the next batch of the epoch: as many anchors as the capacity allows, fewer at the end. Returns
    /// its number of triples. If that is not 0, a step must follow; otherwise there is none to take.
    pub fn next_batch(&mut self) -> Result<usize> {
        let Epoch { has_triple, position } = &mut self.epoch;
        let end = has_triple.len().min(*position + self.capacity.graphs / 3);
        self.triples = has_triple[*position..end].iter().filter(|&&has| has).count();
        *position = end;
        self.triples_of_all = self.triples;
        self.batch_size = BatchSize::default();
        self.backend.take_from_training_set(&mut self.batch)?;
        Ok(self.triples)
    }

    /// Makes the next step one of all ranks, whose batches have `triples` triples together. Called after the batch was loaded or
    /// selected.
    pub fn share_step(&mut self, triples: usize) {
        self.triples_of_all = triples;
    }

    /// Embeddings `[G, D]` of a batch's graphs, computed with the running statistics.
    pub fn embed(&mut self, batch: &GraphBatch) -> Result<Vec<f32>> {
        self.evaluate(batch)?;
        self.embedding()
    }

    /// Like [`Model::embed`], into `embeddings[at..]` in the backend's memory.
    pub fn embed_into(&mut self, batch: &GraphBatch, embeddings: &mut B::Buffer, at: usize) -> Result<()> {
        self.evaluate(batch)?;
        let values = self.batch_size.graphs * self.config().state_width;
        self.backend.copy(&self.embedding, 0..values, embeddings, at)
    }

    /// Runs forward and readout with the running statistics.
    fn evaluate(&mut self, batch: &GraphBatch) -> Result<()> {
        self.load_batch(batch)?;
        let Model { backend, parameters, activations, batch, .. } = self;
        if !backend.infer(parameters, batch, activations)? {
            self.forward(Mode::Evaluate)?;
        }
        let Model { backend, parameters, activations, embedding, batch, .. } = self;
        backend.readout(Readout { config: parameters.layout.config, batch, activations, embedding })
    }

    /// Runs one training step, on the loaded batch or on the next batch of the epoch. A backend that supports
    /// captures records the stages the first time, and later runs them in one call. If a first step with overlapping
    /// launches fails, it is captured again with launches in series.
    pub fn train_step(&mut self, loss: &Loss, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        assert!(Arc::ptr_eq(&self.identity, &state.model), "a training state of another model");
        if state.captured != Some((*loss, *adam)) {
            state.graphs = B::Graphs::default();
            state.captured = Some((*loss, *adam));
        }
        self.load_rates(adam, state)?;
        if !self.replay(state)? {
            let mut first = self.first_step(loss, adam, state);
            if let Err(error) = &first
                && self.backend.launch_in_series()
            {
                tracing::warn!("{error}; the step is captured again and launched in series");
                state.graphs = B::Graphs::default();
                first = self.first_step(loss, adam, state);
            }
            if first.is_err() {
                state.captured = None;
            }
            first?;
        }
        self.backend.end_step(&mut self.batch);
        state.expect_losses(self.triples);
        state.steps += 1;
        Ok(())
    }

    /// Loads the learning rates of the next steps, if rates differ between steps and those of the next one are not
    /// loaded.
    fn load_rates(&mut self, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        let window = state.steps / RATE_STEPS as u64;
        if adam.schedule.is_constant() || state.rates == Some((*adam, window)) {
            return Ok(());
        }
        let before = window * RATE_STEPS as u64;
        let rates: Vec<f64> = (1..=RATE_STEPS as u64).map(|t| adam.rate_at(before + t)).collect();
        self.backend.load_rates(&mut state.counter, &rates)?;
        state.rates = Some((*adam, window));
        Ok(())
    }

    /// Captures a step and runs it.
    fn first_step(&mut self, loss: &Loss, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        self.capture(loss, adam, state)?;
        self.replay(state).map(|_| ())
    }

    /// Replays the step captured for the source of its batch; returns false if there is none.
    fn replay(&mut self, state: &TrainingState<B>) -> Result<bool> {
        // SAFETY: the stages used the buffers of this model and this state, as `train_step` has checked; both
        // keep these buffers.
        unsafe { self.backend.replay(&self.batch, &state.graphs) }
    }

    /// Runs the stages of a step, or records them if the backend supports captures.
    fn capture(&mut self, loss: &Loss, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        let _range = self.backend.range(format_args!("capture"));
        self.backend.begin_capture(&mut self.batch)?;
        let stages = self.stages(loss, adam, state);
        let ended = self.backend.end_capture(&mut self.batch, &mut state.graphs);
        stages.and(ended)
    }

    fn stages(&mut self, loss: &Loss, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        self.forward(Mode::Train)?;
        self.backend.assemble_next_batch(&mut self.batch)?;
        let d = self.readout_loss(loss, state)?;
        self.backward(state, d, Some(adam))
    }

    /// Computes the losses of the loaded batch and their gradients.
    pub fn forward_backward(&mut self, loss: &Loss, state: &mut TrainingState<B>) -> Result<()> {
        self.forward(Mode::Train)?;
        let d = self.loss(loss, state)?;
        self.backward(state, d, None)
    }

    /// Takes one optimizer step along the gradients.
    pub fn update(&mut self, adam: &Adam, state: &mut TrainingState<B>) -> Result<()> {
        self.load_rates(adam, state)?;
        let Model { backend, parameters, .. } = self;
        let TrainingState { gradients, moments, counter, .. } = state;
        let _range = backend.range(format_args!("update"));
        let count = parameters.layout.parameter_count;
        if adam.clip_norm.is_some() {
            backend.gradient_norm(gradients, count, counter)?;
        }
        let part = Part { parameters: 0..count, ends_step: true };
        backend.adam_step(Update { adam, parameters, gradients, moments, steps: counter, part })?;
        state.steps += 1;
        Ok(())
    }

    /// Runs all layers, on the batch that was loaded or assembled.
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

    /// Computes the losses, and the gradient of their mean with respect to the last node states.
    pub(crate) fn loss(&mut self, loss: &Loss, state: &mut TrainingState<B>) -> Result<Gradient<States>> {
        state.expect_losses(self.triples);
        self.readout_loss(loss, state)
    }

    fn readout_loss(&mut self, loss: &Loss, state: &mut TrainingState<B>) -> Result<Gradient<States>> {
        let Model { backend, parameters, activations, embedding, batch, triples_of_all, .. } = self;
        let triples_of_all = *triples_of_all;
        let TrainingState { losses, counter, activation_gradients: d, .. } = state;
        let _range = backend.range(format_args!("loss"));
        let of = Readout { config: parameters.layout.config, batch, activations, embedding };
        backend.readout_loss(of, loss, LossOutputs { losses, steps: counter, triples_of_all, d })
    }

    /// Mirror of [`Model::forward`], starting from the gradient with respect to the last node states. With
    /// `update`, it also takes an optimizer step, each part as soon as its gradients are final; all parts at the end if
    /// gradients are clipped by the norm of all of them.
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
            if let Some(adam) = update.filter(|adam| adam.clip_norm.is_none()) {
                let part = hidden.finished(&parameters.layout, layer);
                let _range = backend.range(format_args!("update"));
                backend.sum_gradients(gradients, part.parameters.clone())?;
                backend.adam_step(Update { adam, parameters, gradients, moments, steps: counter, part })?;
            }
            let d = &mut *activation_gradients;
            let mut pass = Backward { layer, parameters, batch, activations, d, gradients };
            states = backend.edge_hidden_backward(&mut pass, hidden)?;
        }
        drop(of_all_layers);
        let _range = update.map(|_| backend.range(format_args!("update")));
        let in_parts = update.is_some_and(|adam| adam.clip_norm.is_none());
        let part = match in_parts {
            true => states.rest(&parameters.layout),
            false => states.all(&parameters.layout),
        };
        backend.sum_gradients(gradients, part.parameters.clone())?;
        let Some(adam) = update else { return Ok(()) };
        if !in_parts {
            backend.gradient_norm(gradients, parameters.layout.parameter_count, counter)?;
        }
        backend.adam_step(Update { adam, parameters, gradients, moments, steps: counter, part })
    }

    /// Embeddings `[G, D]` of the loaded batch, from the last pass.
    pub fn embedding(&mut self) -> Result<Vec<f32>> {
        let values = self.batch_size.graphs * self.config().state_width;
        self.backend.download(&self.embedding, 0..values)
    }

    /// Mean loss of the last step; waits for it.
    pub fn mean_loss(&mut self, state: &TrainingState<B>) -> Result<f32> {
        let at = state.last_loss * self.most_triples();
        let triples = state.loss_triples[state.last_loss];
        Ok(mean(&self.backend.download(&state.losses, at..at + triples)?))
    }

    /// Mean loss and number of triples of each step since the last call, in order; waits for them. Only the
    /// losses of the last [`LOSS_STEPS`] steps are kept, so call this at least that often.
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

    /// Norm of the gradient of the last step, before clipping; waits for it.
    pub fn gradient_norm(&mut self, state: &mut TrainingState<B>) -> Result<f64> {
        let count = self.parameters.layout.parameter_count;
        self.backend.gradient_norm(&state.gradients, count, &mut state.counter)?;
        self.backend.last_gradient_norm(&state.counter)
    }

    /// Number of triples in the largest batch.
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

    /// Gradients of the last step, by parameter name.
    pub fn gradients(&mut self, state: &TrainingState<B>) -> Result<NamedTensors> {
        self.learnt(&state.gradients)
    }

    /// First and second moments of Adam, by parameter name.
    pub fn moments(&mut self, state: &TrainingState<B>) -> Result<(NamedTensors, NamedTensors)> {
        Ok((self.learnt(&state.moments.first)?, self.learnt(&state.moments.second)?))
    }

    /// Splits a flat array in the parameters' layout into named tensors.
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

    /// ReLU masks of the last forward pass: `(block, columns, [rows, columns] of 0 and 1)`.
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
    /// Creates the state for training `model`, with zero moments.
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
            counter: backend.steps(&model.parameters.layout)?,
            graphs: B::Graphs::default(),
            captured: None,
            rates: None,
            model: model.identity.clone(),
            steps: 0,
        })
    }

    /// Records that this step has losses of `triples` triples.
    fn expect_losses(&mut self, triples: usize) {
        self.last_loss = (self.steps % LOSS_STEPS as u64) as usize;
        self.loss_triples[self.last_loss] = triples;
    }

    /// Resumes after `steps` steps with these moments.
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

/// Mean, summed in order.
fn mean(losses: &[f32]) -> f32 {
    (losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64) as f32
}

/// Reads every tensor that a model of these sizes needs from `file`, where names begin with `prefix`. Checks
/// the shapes, and that all values are finite.
pub fn read_tensors(file: &TensorFile, prefix: &str, config: ModelConfig) -> Result<NamedTensors> {
    let layouts = Layout::new(config).tensors().into_iter();
    layouts
        .map(|layout| Ok((layout.name.clone(), finite_tensor(file, prefix, &layout.name, &layout.shape)?)))
        .collect()
}

/// Reads one tensor, with the same checks as [`read_tensors`].
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
