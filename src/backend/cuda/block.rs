//! A block's linear layer with its batch norm and ReLU, forward and backward, as the stages put them together.
//!
//! What a block makes is never written activated: who reads it applies batch norm and ReLU while loading. Sums over rows
//! are made where the values are, in the products, and only merged after.

use super::batch_norm::{self, Norm, Statistics, Sums};
use super::buffer::{Buffer, Slice};
use super::device::Device;
use super::linear::{
    Format, Input, Matrix, MatrixMut, linear_backward_input, linear_backward_input_sums,
    linear_backward_weight, linear_forward,
};
use super::rows::Rows;
use crate::backend::Mode;
use crate::error::Result;
use crate::model::activations::BlockActivations;
use crate::model::parameters::{BlockKind, BlockLayout, Parameters};

/// Which block.
pub(super) type Place = (usize, BlockKind);

/// What a linear layer reads.
#[derive(Clone, Copy)]
pub(super) enum Before<'a> {
    /// Values.
    Values(&'a Buffer<f32>),
    /// relu(norm(.)) of a block of the same layer.
    Block(BlockKind, &'a BlockActivations<Buffer<f32>>),
}

/// Where the sums of batch norm's backward are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BackwardSums {
    /// The product that made the gradient has left them: [`Blocks::linear_backward`] of the block behind.
    Given,
    /// Here, in a pass of their own.
    Made,
}

/// The device and the memory of these steps.
pub(super) struct Blocks<'a> {
    pub(super) device: &'a Device,
    pub(super) format: Format,
    pub(super) sums: &'a mut Sums,
    /// Parts of a weight's gradient.
    pub(super) sum_parts: &'a mut Buffer<f32>,
}

/// A block's normalisation.
pub(super) fn norm<'a>(
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

/// `rows` rows of what `x` stands for.
fn input<'a>(
    x: Before<'a>,
    layer: usize,
    parameters: &'a Parameters<Buffer<f32>>,
    rows: Rows<'_>,
    columns: usize,
) -> Input<'a> {
    let rows = rows.bound;
    let matrix = |buffer: &'a Buffer<f32>| Matrix::new(buffer.slice(0..rows * columns), rows, columns);
    match x {
        Before::Values(values) => Input::Values(matrix(values)),
        Before::Block(kind, block) => {
            let layout = parameters.layout.block(layer, kind);
            Input::Activated(matrix(&block.linear), norm(layout, &parameters.values, block))
        }
    }
}

impl Blocks<'_> {
    /// The statistics of the block's first `rows` rows, whose sums the product has left, or the running ones; none
    /// without batch norm.
    pub(super) fn statistics(
        &mut self,
        mode: Mode,
        (layer, kind): Place,
        parameters: &mut Parameters<Buffer<f32>>,
        rows: Rows<'_>,
        block: &mut BlockActivations<Buffer<f32>>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, kind);
        let mut to = Statistics {
            mean: block.mean.slice_mut(0..layout.outputs),
            rstd: block.rstd.slice_mut(0..layout.outputs),
        };
        let running = layout.running.clone();
        match mode {
            _ if !layout.batch_norm => batch_norm::batch_norm_no_statistics(self.device, &mut to),
            Mode::Train => batch_norm::batch_norm_merge_statistics(
                self.device,
                &mut to,
                &mut parameters.running_mean.slice_mut(running.clone()),
                &mut parameters.running_var.slice_mut(running),
                rows,
                self.sums,
            ),
            Mode::Evaluate => batch_norm::batch_norm_running_statistics(
                self.device,
                &mut to,
                parameters.running_mean.slice(running.clone()),
                parameters.running_var.slice(running),
            ),
        }
    }

    /// `z = x W^T` and its statistics, into `block`.
    pub(super) fn forward(
        &mut self,
        mode: Mode,
        (layer, kind): Place,
        parameters: &mut Parameters<Buffer<f32>>,
        x: Before<'_>,
        rows: Rows<'_>,
        block: &mut BlockActivations<Buffer<f32>>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, kind);
        let (inputs, outputs) = (layout.inputs, layout.outputs);
        linear_forward(
            self.device,
            self.format,
            rows,
            &mut MatrixMut::new(block.linear.slice_mut(0..rows.bound * outputs), rows.bound, outputs),
            input(x, layer, parameters, rows, inputs),
            Matrix::new(parameters.values.slice(layout.weight.clone()), outputs, inputs),
            (mode == Mode::Train && layout.batch_norm).then_some(&mut *self.sums),
        )?;
        self.statistics(mode, (layer, kind), parameters, rows, block)
    }

    /// Backward of `z = x W^T`: `d_weight = d_z^T x` and `d_x = d_z W`. Where x is a block's, the sums of its batch
    /// norm's backward are left in `sums`.
    pub(super) fn linear_backward(
        &mut self,
        (layer, kind): Place,
        parameters: &Parameters<Buffer<f32>>,
        d_z: Slice<'_, f32>,
        x: Before<'_>,
        rows: Rows<'_>,
        d_x: &mut Buffer<f32>,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, kind);
        let (inputs, outputs) = (layout.inputs, layout.outputs);
        let (device, format) = (self.device, self.format);
        let (d_z, x) = (Matrix::new(d_z, rows.bound, outputs), input(x, layer, parameters, rows, inputs));
        let mut d_weight = MatrixMut::new(gradients.slice_mut(layout.weight.clone()), outputs, inputs);
        linear_backward_weight(device, format, rows, &mut d_weight, d_z, x, self.sum_parts)?;
        let mut d_x = MatrixMut::new(d_x.slice_mut(0..rows.bound * inputs), rows.bound, inputs);
        let weight = Matrix::new(parameters.values.slice(layout.weight.clone()), outputs, inputs);
        match x {
            Input::Values(_) => linear_backward_input(device, format, rows, &mut d_x, d_z, weight),
            Input::Activated(z, norm) => {
                linear_backward_input_sums(device, format, rows, &mut d_x, d_z, weight, z, norm, self.sums)
            }
        }
    }

    /// Backward of relu(norm(z)): the first `rows` rows of `d`, by its output, become the gradient by z.
    pub(super) fn norm_backward(
        &mut self,
        (layer, kind): Place,
        parameters: &Parameters<Buffer<f32>>,
        block: &BlockActivations<Buffer<f32>>,
        d: &mut Buffer<f32>,
        rows: Rows<'_>,
        gradients: &mut Buffer<f32>,
        sums: BackwardSums,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, kind);
        let count = rows.bound * layout.outputs;
        debug_assert_eq!(layout.norm_weight.end, layout.norm_bias.start);
        let both = gradients.slice_mut(layout.norm_weight.start..layout.norm_bias.end);
        let (mut d_weight, mut d_bias) = both.split_at(layout.outputs);
        let backward = match sums {
            BackwardSums::Given => batch_norm::batch_norm_backward_merge,
            BackwardSums::Made => batch_norm::batch_norm_backward,
        };
        backward(
            self.device,
            &mut d.slice_mut(0..count),
            &mut d_weight,
            &mut d_bias,
            block.linear.slice(0..count),
            norm(layout, &parameters.values, block),
            layout.batch_norm,
            rows,
            self.sums,
        )
    }
}
