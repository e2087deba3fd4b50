//! Forward and backward of a block (linear layer, batch norm and ReLU), shared by the stages.
//!
//! Activated outputs are never stored; each consumer applies batch norm and ReLU while loading. The products
//! that compute the values also compute the sums over their rows.

use super::activations::{Block, BlockNorm, norm, statistics};
use super::rank_sums::RankSums;
use crate::backend::Mode;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Slice};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::launchers::batch_norm::{self, BatchStatistics, NormBackward, NormGradient, Sums};
use crate::backend::cuda::launchers::linear::{
    Backward, Forward, Input, LinearGradients, Matrix, MatrixMut, StoredFormat, WeightParts, linear_backward,
    linear_forward,
};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::cuda::launchers::weight_copy::{WeightCopy, Weights};
use crate::error::Result;
use crate::network::parameters::{BlockKind, BlockLayout, Parameters};

/// Position of a block: its layer, and its kind within the layer.
pub(crate) type Place = (usize, BlockKind);

/// Input of a linear layer.
#[derive(Clone, Copy)]
pub(crate) enum Before<'a, T> {
    /// `[R, I]` values.
    Values(&'a Buffer<T>),
    /// `[R, I]` relu(norm(.)) of a block of the same layer.
    Block(BlockKind, &'a Block<T>),
}

/// Gradient from which a linear layer's backward starts.
pub(crate) enum After<'a, T> {
    /// `[R, O]` gradient with respect to the linear output.
    Values(&'a Buffer<T>),
    /// `[R, O]` gradient with respect to relu(norm(.)) of this block's linear output. Its values may be
    /// overwritten.
    Block(&'a Block<T>, &'a mut Buffer<T>),
}

/// Inputs of a linear layer's backward.
pub(crate) struct Operands<'a, T> {
    /// Gradient from which it starts.
    pub(crate) d: After<'a, T>,
    /// Input of the layer.
    pub(crate) x: Before<'a, T>,
    /// Number of rows.
    pub(crate) rows: Rows<'a>,
}

/// Memory for sums over rows of blocks. The two blocks of a chain have one each: a product in the upper
/// block's backward reads the upper terms while it computes the sums of the lower block.
pub(crate) struct BlockSums {
    lower: Sums,
    upper: Sums,
}

impl BlockSums {
    /// Creates empty memory.
    pub(crate) fn new(device: &Device) -> Result<Self> {
        Ok(BlockSums { lower: Sums::new(device)?, upper: Sums::new(device)? })
    }

    /// Memory of a block, and that of the other block in its chain.
    pub(crate) fn of(&mut self, kind: BlockKind) -> (&mut Sums, &mut Sums) {
        match kind {
            BlockKind::EdgeHidden | BlockKind::NodeHidden => (&mut self.lower, &mut self.upper),
            BlockKind::EdgeHeads | BlockKind::NodeOutput => (&mut self.upper, &mut self.lower),
        }
    }
}

/// Device and memory used by these steps.
pub(crate) struct Blocks<'a, T: StoredElement> {
    pub(crate) device: &'a Device,
    pub(crate) format: StoredFormat<T>,
    pub(crate) sums: &'a mut BlockSums,
    pub(crate) rank_sums: &'a mut RankSums,
    pub(crate) weight_parts: &'a mut WeightParts,
    pub(crate) weight_copy: Option<&'a WeightCopy>,
}

/// Overwrites the gradient `d` with respect to a block's output by d_z, that with respect to its linear output, and returns
/// it. `sums` holds the terms to subtract.
pub(crate) fn norm_backward<'a, T: StoredElement>(
    device: &Device,
    layout: &BlockLayout,
    block: &Block<T>,
    (d, rows): (&'a mut Buffer<T>, Rows<'_>),
    sums: &Sums,
) -> Result<Slice<'a, T>> {
    let mut of = NormBackward {
        d: d.rows_mut(rows.bound, layout.outputs),
        z: block.linear.rows(rows.bound, layout.outputs),
        norm: norm(block),
        terms: sums.terms(layout.outputs),
    };
    batch_norm::batch_norm_backward(device, &mut of, rows)?;
    Ok(d.rows(rows.bound, layout.outputs))
}

/// First `rows` rows of the input `x`.
fn input<'a, T: StoredElement>(x: Before<'a, T>, rows: Rows<'_>, columns: usize) -> Input<'a, T> {
    let matrix = |buffer: &'a Buffer<T>| Matrix::new(buffer.rows(rows.bound, columns), rows.bound, columns);
    match x {
        Before::Values(x) => Input::Values(matrix(x)),
        Before::Block(_, block) => Input::Activated(matrix(&block.linear), norm(block)),
    }
}

/// Destination of the statistics over a block's rows, in training with batch norm; otherwise
/// [`constant_statistics`] apply.
pub(crate) fn batch_statistics<'a>(
    mode: Mode,
    layout: &BlockLayout,
    [running_mean, running_var]: [&'a mut Buffer<f32>; 2],
    (values, norm): (&'a Buffer<f32>, &'a mut BlockNorm),
    sums: &'a mut Sums,
) -> Option<BatchStatistics<'a>> {
    let wanted = mode == Mode::Train && layout.batch_norm;
    wanted.then(|| BatchStatistics {
        to: statistics(layout, values, norm),
        running_mean: running_mean.slice_mut(layout.running.clone()),
        running_var: running_var.slice_mut(layout.running.clone()),
        sums,
    })
}

/// Writes a block's statistics if they do not come from its rows: the running statistics, or the identity.
pub(crate) fn constant_statistics<T>(
    device: &Device,
    mode: Mode,
    layout: &BlockLayout,
    parameters: &Parameters<Buffer<f32>>,
    block: &mut Block<T>,
) -> Result<()> {
    let mut to = statistics(layout, &parameters.values, &mut block.norm);
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

impl<T: StoredElement> Blocks<'_, T> {
    /// Computes `z = x W^T` and its statistics into `block`.
    pub(crate) fn forward(
        &mut self,
        mode: Mode,
        (layer, kind): Place,
        parameters: &mut Parameters<Buffer<f32>>,
        (x, rows): (Before<'_, T>, Rows<'_>),
        block: &mut Block<T>,
    ) -> Result<()> {
        let Parameters { layout: all, values, running_mean, running_var } = parameters;
        let layout = all.block(layer, kind);
        let (inputs, outputs) = (layout.inputs, layout.outputs);
        let weights = Weights { layout: all, values, copy: self.weight_copy };
        let Block { linear, norm } = &mut *block;
        let running = self.rank_sums.running(self.device, [running_mean, running_var])?;
        linear_forward(
            self.device,
            self.format,
            Forward {
                rows,
                y: MatrixMut::new(linear.rows_mut(rows.bound, outputs), rows.bound, outputs),
                x: input(x, rows, inputs),
                weight: weights.of(layer, kind),
            },
            batch_statistics(mode, layout, running, (values, norm), self.sums.of(kind).0),
        )?;
        let layout = parameters.layout.block(layer, kind);
        constant_statistics(self.device, mode, layout, parameters, block)?;
        self.rank_sums.merge_statistics(self.device, mode, (layer, kind), parameters, block)
    }

    /// Backward of `z = x W^T`: `d_weight = d_z^T x` and `d_x = d_z W`. If x is the output of a block, this
    /// also computes the sums of that block's batch norm backward, which the next backward stage uses.
    pub(crate) fn linear_backward(
        &mut self,
        (layer, kind): Place,
        parameters: &Parameters<Buffer<f32>>,
        Operands { d, x, rows }: Operands<'_, T>,
        d_x: &mut Buffer<T>,
        gradients: &mut Buffer<f32>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, kind);
        let (inputs, outputs) = (layout.inputs, layout.outputs);
        let (sums, sums_before) = self.sums.of(kind);
        if let After::Block(block, _) = &d {
            self.rank_sums.merge_sums(self.device, (layout, kind), block, gradients, sums)?;
        }
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
        let d_z = match d {
            After::Values(d_z) => d_z.rows(rows.bound, outputs),
            After::Block(block, d) => norm_backward(self.device, layout, block, (d, rows), sums)?,
        };
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
                d_y: Matrix::new(d_z, rows.bound, outputs),
                x: input(x, rows, inputs),
                weight: weights.of(layer, kind),
            },
            self.weight_parts,
        )
    }

    /// Sums of the backward of relu(norm(z)), given the gradient `d` with respect to the output, if no
    /// product has computed them.
    pub(crate) fn norm_backward_sums(
        &mut self,
        (layer, kind): Place,
        parameters: &Parameters<Buffer<f32>>,
        (block, d): (&Block<T>, &Buffer<T>),
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
            norm(block),
            rows,
        )
    }
}
