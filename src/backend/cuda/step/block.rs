//! A block's linear layer with its batch norm and ReLU, forward and backward, as the stages put them together.
//!
//! What a block makes is never written activated: who reads it applies batch norm and ReLU while loading. Sums over rows
//! are made where the values are, in the products.

use crate::backend::Mode;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::Buffer;
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::launchers::batch_norm::{
    self, BatchStatistics, Norm, NormBackward, NormGradient, Statistics, Sums,
};
use crate::backend::cuda::launchers::linear::{
    Backward, Format, Forward, Gradient, Input, LinearGradients, Matrix, MatrixMut, WeightParts,
    linear_backward, linear_forward,
};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::cuda::launchers::weight_copy::{WeightCopy, Weights};
use crate::error::Result;
use crate::model::activations::BlockActivations;
use crate::network::parameters::{BlockKind, BlockLayout, Parameters};

/// Which block.
pub(crate) type Place = (usize, BlockKind);

/// A block's activations as they are stored.
pub(crate) type Activations<T> = BlockActivations<Buffer<T>, Buffer<f32>>;

/// What a linear layer reads.
#[derive(Clone, Copy)]
pub(crate) enum Before<'a, T> {
    /// Values.
    Values(&'a Buffer<T>),
    /// relu(norm(.)) of a block of the same layer.
    Block(BlockKind, &'a Activations<T>),
}

/// The gradient that a linear layer's backward begins with.
pub(crate) enum After<'a, T> {
    /// By its output.
    Values(&'a Buffer<T>),
    /// By relu(norm(.)) of its output: this block's. Its values are lost.
    Block(&'a Activations<T>, &'a mut Buffer<T>),
}

/// Memory of the sums over rows of blocks. Of the two blocks on each other either has its own: a product of the upper one's
/// backward reads what is subtracted of its output, while it makes the sums of its input.
pub(crate) struct BlockSums {
    lower: Sums,
    upper: Sums,
}

impl BlockSums {
    /// None yet.
    pub(crate) fn new(device: &Device) -> Result<Self> {
        Ok(BlockSums { lower: Sums::new(device)?, upper: Sums::new(device)? })
    }

    /// A block's, and those of the one that it is on, or under.
    pub(crate) fn of(&mut self, kind: BlockKind) -> (&mut Sums, &mut Sums) {
        match kind {
            BlockKind::EdgeHidden | BlockKind::NodeHidden => (&mut self.lower, &mut self.upper),
            BlockKind::EdgeHeads | BlockKind::NodeOutput => (&mut self.upper, &mut self.lower),
        }
    }
}

/// The device and the memory of these steps.
pub(crate) struct Blocks<'a> {
    pub(crate) device: &'a Device,
    pub(crate) format: Format,
    pub(crate) sums: &'a mut BlockSums,
    pub(crate) weight_parts: &'a mut WeightParts,
    pub(crate) weight_copy: Option<&'a WeightCopy>,
}

/// A block's normalisation.
pub(crate) fn norm<'a, T>(
    layout: &BlockLayout,
    values: &'a Buffer<f32>,
    block: &'a Activations<T>,
) -> Norm<'a> {
    Norm {
        mean: block.mean.slice(0..layout.outputs),
        rstd: block.rstd.slice(0..layout.outputs),
        weight: values.slice(layout.norm_weight.clone()),
        bias: values.slice(layout.norm_bias.clone()),
    }
}

/// What makes the gradient by a block's linear output of the first `rows` rows of `d`, that by the block's.
pub(crate) fn norm_backward<'a, T: StoredElement>(
    layout: &BlockLayout,
    values: &'a Buffer<f32>,
    block: &'a Activations<T>,
    d: &'a mut Buffer<T>,
    rows: Rows<'_>,
    sums: &'a Sums,
) -> NormBackward<'a, T> {
    NormBackward {
        d: d.rows_mut(rows.bound, layout.outputs),
        z: block.linear.rows(rows.bound, layout.outputs),
        norm: norm(layout, values, block),
        terms: sums.terms(layout.outputs),
    }
}

/// `rows` rows of what `x` stands for.
fn input<'a, T: StoredElement>(
    x: Before<'a, T>,
    layer: usize,
    weights: Weights<'a>,
    rows: Rows<'_>,
    columns: usize,
) -> Input<'a, T> {
    let matrix = |buffer: &'a Buffer<T>| Matrix::new(buffer.rows(rows.bound, columns), rows.bound, columns);
    match x {
        Before::Values(x) => Input::Values(matrix(x)),
        Before::Block(kind, block) => {
            let layout = weights.layout.block(layer, kind);
            Input::Activated(matrix(&block.linear), norm(layout, weights.values, block))
        }
    }
}

/// Where the statistics of a block go that come of its rows: in training, with batch norm. Else
/// [`constant_statistics`] are taken.
pub(crate) fn batch_statistics<'a>(
    mode: Mode,
    layout: &BlockLayout,
    running_mean: &'a mut Buffer<f32>,
    running_var: &'a mut Buffer<f32>,
    mean: &'a mut Buffer<f32>,
    rstd: &'a mut Buffer<f32>,
    sums: &'a mut Sums,
) -> Option<BatchStatistics<'a>> {
    let wanted = mode == Mode::Train && layout.batch_norm;
    wanted.then(|| BatchStatistics {
        to: Statistics { mean: mean.slice_mut(0..layout.outputs), rstd: rstd.slice_mut(0..layout.outputs) },
        running_mean: running_mean.slice_mut(layout.running.clone()),
        running_var: running_var.slice_mut(layout.running.clone()),
        sums,
    })
}

/// A block's statistics where they don't come of its rows: the running ones, or those that change nothing.
pub(crate) fn constant_statistics<T>(
    device: &Device,
    mode: Mode,
    layout: &BlockLayout,
    parameters: &Parameters<Buffer<f32>>,
    block: &mut Activations<T>,
) -> Result<()> {
    let mut to = Statistics {
        mean: block.mean.slice_mut(0..layout.outputs),
        rstd: block.rstd.slice_mut(0..layout.outputs),
    };
    let running = layout.running.clone();
    match mode {
        _ if !layout.batch_norm => batch_norm::batch_norm_no_statistics(device, &mut to),
        Mode::Train => Ok(()),
        Mode::Evaluate => batch_norm::batch_norm_running_statistics(
            device,
            &mut to,
            parameters.running_mean.slice(running.clone()),
            parameters.running_var.slice(running),
        ),
    }
}

impl Blocks<'_> {
    /// `z = x W^T` and its statistics, into `block`.
    pub(crate) fn forward<T: StoredElement>(
        &mut self,
        mode: Mode,
        (layer, kind): Place,
        parameters: &mut Parameters<Buffer<f32>>,
        x: Before<'_, T>,
        rows: Rows<'_>,
        block: &mut Activations<T>,
    ) -> Result<()> {
        let Parameters { layout: all, values, running_mean, running_var } = parameters;
        let layout = all.block(layer, kind);
        let (inputs, outputs) = (layout.inputs, layout.outputs);
        let weights = Weights { layout: all, values, copy: self.weight_copy };
        let BlockActivations { linear, mean, rstd } = block;
        linear_forward(
            self.device,
            self.format,
            Forward {
                rows,
                y: MatrixMut::new(linear.rows_mut(rows.bound, outputs), rows.bound, outputs),
                x: input(x, layer, weights, rows, inputs),
                weight: weights.of(layer, kind),
            },
            batch_statistics(mode, layout, running_mean, running_var, mean, rstd, self.sums.of(kind).0),
        )?;
        let layout = parameters.layout.block(layer, kind);
        constant_statistics(self.device, mode, layout, parameters, block)
    }

    /// Backward of `z = x W^T`: `d_weight = d_z^T x` and `d_x = d_z W`. Where x is a block's, the first part of its batch
    /// norm's backward too: its linear layer's backward must be next.
    pub(crate) fn linear_backward<T: StoredElement>(
        &mut self,
        (layer, kind): Place,
        parameters: &Parameters<Buffer<f32>>,
        d: After<'_, T>,
        x: Before<'_, T>,
        rows: Rows<'_>,
        d_x: &mut Buffer<T>,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, kind);
        let (inputs, outputs) = (layout.inputs, layout.outputs);
        let (sums, sums_before) = self.sums.of(kind);
        let (d_norm, d_weight) = match x {
            Before::Values(_) => (None, gradients.slice_mut(layout.weight.clone())),
            Before::Block(before, _) => {
                let before = parameters.layout.block(layer, before);
                let (weight, bias) = (before.norm_weight.clone(), before.norm_bias.clone());
                let [weight, bias, d_weight] = gradients.slices_mut([weight, bias, layout.weight.clone()]);
                let (batch_statistics, sums) = (before.batch_norm, sums_before);
                (Some(NormGradient { weight, bias, batch_statistics, sums }), d_weight)
            }
        };
        let Parameters { layout: all, values, .. } = parameters;
        let weights = Weights { layout: all, values, copy: self.weight_copy };
        linear_backward(
            self.device,
            self.format,
            Backward {
                rows,
                to: LinearGradients {
                    x: MatrixMut::new(d_x.rows_mut(rows.bound, inputs), rows.bound, inputs),
                    weight: MatrixMut::new(d_weight, outputs, inputs),
                    norm: d_norm,
                },
                d_y: match d {
                    After::Values(d_z) => {
                        Gradient::Values(Matrix::new(d_z.rows(rows.bound, outputs), rows.bound, outputs))
                    }
                    After::Block(block, d) => {
                        Gradient::ThroughNorm(norm_backward(layout, values, block, d, rows, sums))
                    }
                },
                x: input(x, layer, weights, rows, inputs),
                weight: weights.of(layer, kind),
            },
            self.weight_parts,
        )
    }

    /// The first part of the backward of relu(norm(z)) where no product has made it, given the gradient `d` by the output.
    pub(crate) fn norm_backward_sums<T: StoredElement>(
        &mut self,
        (layer, kind): Place,
        parameters: &Parameters<Buffer<f32>>,
        block: &Activations<T>,
        d: &Buffer<T>,
        rows: Rows<'_>,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, kind);
        let [weight, bias] = gradients.slices_mut([layout.norm_weight.clone(), layout.norm_bias.clone()]);
        let (batch_statistics, sums) = (layout.batch_norm, self.sums.of(kind).0);
        batch_norm::batch_norm_backward_sums(
            self.device,
            NormGradient { weight, bias, batch_statistics, sums },
            d.rows(rows.bound, layout.outputs),
            block.linear.rows(rows.bound, layout.outputs),
            norm(layout, &parameters.values, block),
            rows,
        )
    }
}
