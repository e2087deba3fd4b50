//! What a stage is given: a pass through a layer, the readout, an update; and what a backward stage hands to the next.

use std::marker::PhantomData;

use super::{Mode, Stages};
use crate::network::config::ModelConfig;
use crate::network::parameters::{Layout, Parameters};
use crate::optimizer::{Adam, Moments, Part};

/// A layer's forward pass.
pub struct Forward<'a, B: Stages + ?Sized> {
    /// The layer, from 0.
    pub layer: usize,
    /// Statistics that batch norm uses.
    pub mode: Mode,
    /// Parameters, read; in training their running statistics are moved.
    pub parameters: &'a mut Parameters<B::Buffer>,
    /// The batch.
    pub batch: &'a B::Batch,
    /// Activations: the layer below is read, this one is written.
    pub activations: &'a mut B::Activations,
}

/// A layer's backward pass.
pub struct Backward<'a, B: Stages + ?Sized> {
    /// The layer, from 0.
    pub layer: usize,
    /// Parameters, as in the forward pass.
    pub parameters: &'a Parameters<B::Buffer>,
    /// The batch of the forward pass.
    pub batch: &'a B::Batch,
    /// Activations that the forward pass saved.
    pub activations: &'a B::Activations,
    /// Gradients with respect to activations: those of the stage above are read, those of the stage below written.
    pub d: &'a mut B::ActivationGradients,
    /// Gradients with respect to the parameters, in their layout; each stage writes those of its own parameters.
    pub gradients: &'a mut B::Buffer,
}

/// Where a pass ends: the last node states, and the embeddings that they become.
pub struct Readout<'a, B: Stages + ?Sized> {
    /// The network's sizes and switches.
    pub config: ModelConfig,
    /// The batch.
    pub batch: &'a B::Batch,
    /// Activations with the last layer's node states.
    pub activations: &'a B::Activations,
    /// `[G, D]` embeddings, written.
    pub embedding: &'a mut B::Buffer,
}

/// What the loss writes beside the embeddings.
pub struct LossOutputs<'a, B: Stages + ?Sized> {
    /// `[LOSS_STEPS, most triples]` losses of the last steps, of which one row is written.
    pub losses: &'a mut B::Buffer,
    /// Number of optimizer steps done, which chooses the row.
    pub steps: &'a B::Steps,
    /// Gradients with respect to activations, of which those of the last node states are written.
    pub d: &'a mut B::ActivationGradients,
}

/// An optimizer step over a part of the parameters.
pub struct Update<'a, B: Stages + ?Sized> {
    /// The optimizer's constants.
    pub adam: &'a Adam,
    /// Parameters, moved.
    pub parameters: &'a mut Parameters<B::Buffer>,
    /// Gradients with respect to the parameters, in their layout.
    pub gradients: &'a B::Buffer,
    /// Adam's moments, moved.
    pub moments: &'a mut Moments<B::Buffer>,
    /// Number of steps done, moved on by the part that ends the step.
    pub steps: &'a mut B::Steps,
    /// The part.
    pub part: Part,
}

/// Node and edge states that a layer makes.
#[derive(Debug)]
pub enum States {}
/// Activated hidden nodes, relu(norm(node_hidden)).
#[derive(Debug)]
pub enum NodeHidden {}
/// Pooled messages.
#[derive(Debug)]
pub enum Pooled {}
/// Linear outputs of the heads.
#[derive(Debug)]
pub enum EdgeHeads {}
/// Activated hidden edges, relu(norm(edge_hidden)).
#[derive(Debug)]
pub enum EdgeHidden {}

/// Token of the gradient with respect to `Of`: it lies in the pass's [`Backward::d`], in the form in which this backend's
/// next stage takes it.
///
/// The stage that computes a gradient returns its token, and the next stage takes the token away. So a backend may leave
/// work half done for the next stage, and no caller can put another stage between them or leave one out.
#[must_use = "the next backward stage takes it"]
#[derive(Debug)]
pub struct Gradient<Of>(PhantomData<Of>);

impl<Of> Gradient<Of> {
    /// The token of a gradient that this stage computed.
    pub(super) fn computed() -> Self {
        Gradient(PhantomData)
    }

    /// The token of a gradient that the caller wrote into the buffers, for a test of one stage.
    pub fn written_by_caller() -> Self {
        Gradient(PhantomData)
    }
}

impl Gradient<EdgeHidden> {
    /// The parameters that a step can already move: those of `layer` from its heads on, up to the heads of the layer above.
    /// All their gradients are computed, and no later stage reads them.
    pub fn finished(&self, parameters: &Layout, layer: usize) -> Part {
        Part { parameters: parameters.part_from_heads(layer), ends_step: false }
    }
}

impl Gradient<States> {
    /// The parameters that a step moves last, after the backward of layer 0.
    pub fn rest(self, parameters: &Layout) -> Part {
        Part { parameters: 0..parameters.part_from_heads(0).start, ends_step: true }
    }
}
