//! Arguments of the stages (a pass through a layer, the readout, an update), and the tokens passed between
//! backward stages.

use std::marker::PhantomData;

use super::{Mode, Stages};
use crate::network::config::ModelConfig;
use crate::network::parameters::{Layout, Parameters};
use crate::optimizer::{Adam, Moments, Part};

/// Forward pass of a layer.
pub struct Forward<'a, B: Stages + ?Sized> {
    /// Index of the layer, from 0.
    pub layer: usize,
    /// Statistics that batch norm uses.
    pub mode: Mode,
    /// Parameters, read only; in training, the running statistics are updated.
    pub parameters: &'a mut Parameters<B::Buffer>,
    /// Batch to process.
    pub batch: &'a B::Batch,
    /// Activations: those of the layer below are read, those of this layer are written.
    pub activations: &'a mut B::Activations,
}

/// Backward pass of a layer.
pub struct Backward<'a, B: Stages + ?Sized> {
    /// Index of the layer, from 0.
    pub layer: usize,
    /// Parameters, as in the forward pass.
    pub parameters: &'a Parameters<B::Buffer>,
    /// Batch of the forward pass.
    pub batch: &'a B::Batch,
    /// Activations saved by the forward pass.
    pub activations: &'a B::Activations,
    /// Gradients with respect to activations: those of the stage above are read, those of the stage below are
    /// written.
    pub d: &'a mut B::ActivationGradients,
    /// Gradients with respect to the parameters, in their layout; each stage writes those of its own
    /// parameters.
    pub gradients: &'a mut B::Buffer,
}

/// End of a pass: the last node states, and the embeddings computed from them.
pub struct Readout<'a, B: Stages + ?Sized> {
    /// Sizes and switches of the network.
    pub config: ModelConfig,
    /// Batch to process.
    pub batch: &'a B::Batch,
    /// Activations, including the last layer's node states.
    pub activations: &'a B::Activations,
    /// `[G, D]` embeddings, overwritten.
    pub embedding: &'a mut B::Buffer,
}

/// Outputs of the loss, in addition to the embeddings.
pub struct LossOutputs<'a, B: Stages + ?Sized> {
    /// `[LOSS_STEPS, most triples]` losses of the last steps; one row is overwritten.
    pub losses: &'a mut B::Buffer,
    /// Number of optimizer steps taken, which selects the row.
    pub steps: &'a B::Steps,
    /// Number of triples of all ranks, of which the loss is the mean.
    pub triples_of_all: usize,
    /// Gradients with respect to activations; those of the last node states are written.
    pub d: &'a mut B::ActivationGradients,
}

/// Optimizer step over a part of the parameters.
pub struct Update<'a, B: Stages + ?Sized> {
    /// Constants of the optimizer.
    pub adam: &'a Adam,
    /// Parameters, updated.
    pub parameters: &'a mut Parameters<B::Buffer>,
    /// Gradients with respect to the parameters, in their layout.
    pub gradients: &'a B::Buffer,
    /// Moments of Adam, updated.
    pub moments: &'a mut Moments<B::Buffer>,
    /// Number of steps taken, incremented by the part that ends the step; learning rates, and norm of the gradient.
    pub steps: &'a mut B::Steps,
    /// Part of the parameters to update.
    pub part: Part,
}

/// Node and edge states, the outputs of a layer.
#[derive(Debug)]
pub enum States {}
/// Activated hidden node values, relu(norm(node_hidden)).
#[derive(Debug)]
pub enum NodeHidden {}
/// Pooled messages.
#[derive(Debug)]
pub enum Pooled {}
/// Linear outputs of the heads.
#[derive(Debug)]
pub enum EdgeHeads {}
/// Activated hidden edge values, relu(norm(edge_hidden)).
#[derive(Debug)]
pub enum EdgeHidden {}

/// Token of the gradient with respect to `Of`. The gradient lies in the pass's [`Backward::d`], in the form
/// that the backend's next stage expects.
///
/// The stage that computes a gradient returns its token, and the next stage consumes it. A backend may
/// therefore leave work unfinished for the next stage, and no caller can insert or skip a stage.
#[must_use = "the next backward stage takes it"]
#[derive(Debug)]
pub struct Gradient<Of>(PhantomData<Of>);

impl<Of> Gradient<Of> {
    /// Token of a gradient that this stage computed.
    pub(super) fn computed() -> Self {
        Gradient(PhantomData)
    }

    /// Token of a gradient that the caller wrote into the buffers, to test one stage.
    pub fn written_by_caller() -> Self {
        Gradient(PhantomData)
    }
}

impl Gradient<EdgeHidden> {
    /// Parameters that the optimizer can already update: those from the heads of `layer` up to the heads of
    /// the layer above. All their gradients are computed, and no later stage reads them.
    pub fn finished(&self, parameters: &Layout, layer: usize) -> Part {
        Part { parameters: parameters.part_from_heads(layer), ends_step: false }
    }
}

impl Gradient<States> {
    /// Parameters that the optimizer updates last, after the backward of layer 0.
    pub fn rest(self, parameters: &Layout) -> Part {
        Part { parameters: 0..parameters.part_from_heads(0).start, ends_step: true }
    }

    /// All parameters, for an update that starts after the backward of layer 0.
    pub fn all(self, parameters: &Layout) -> Part {
        Part { parameters: 0..parameters.parameter_count, ends_step: true }
    }
}
