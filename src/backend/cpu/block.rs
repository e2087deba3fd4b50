//! Forward and backward of a block (linear layer, batch norm and ReLU), shared by the stages.

use rayon::prelude::*;
use scenerank_matmul::{Accumulate, MatMut, MatRef};

use super::Cpu;
use super::batch_norm::{BackwardSums, CHUNK_ROWS, Statistics, Terms};
use super::clock::Work;
use super::rows::behind;
use crate::backend::Mode;
use crate::backend::reference::batch_norm::{no_statistics, running_statistics};
use crate::network::activations::BlockActivations;
use crate::network::parameters::{BlockKind, BlockLayout, Parameters};

/// A block's layout together with the parameters.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// Positions of the block's tensors among the parameters.
    pub layout: &'a BlockLayout,
    /// All parameters, flat.
    pub values: &'a [f32],
}

impl<'a> Block<'a> {
    /// Block of this kind in `layer`.
    pub(super) fn new(parameters: &'a Parameters<Vec<f32>>, layer: usize, kind: BlockKind) -> Self {
        Block { layout: parameters.layout.block(layer, kind), values: &parameters.values }
    }
}

/// Source and destination of a block's statistics.
pub(super) struct RunningStatistics<'a> {
    /// Whether to use batch or running statistics.
    pub mode: Mode,
    /// Positions of the block's running statistics.
    pub layout: &'a BlockLayout,
    /// All running means, flat.
    pub mean: &'a mut [f32],
    /// All running variances, flat.
    pub var: &'a mut [f32],
}

/// Saved values of a block on this backend.
pub(super) type Saved = BlockActivations<Vec<f32>>;

impl Cpu {
    /// Computes the statistics of the first rows of `z [R, C]` into `mean [C]` and `rstd [C]`. `prepare`
    /// completes `z` chunk by chunk, given a chunk's first row; the completed chunk is rounded to this
    /// backend's storage format.
    pub(super) fn statistics(
        &mut self,
        running: RunningStatistics<'_>,
        z: &mut [f32],
        mean: &mut [f32],
        rstd: &mut [f32],
        prepare: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let RunningStatistics { mode, layout, mean: running_mean, var: running_var } = running;
        let _running = self.clock.time(Work::Pass("statistics"));
        let prepare = |first: usize, z: &mut [f32]| {
            prepare(first, z);
            self.rounding.store(z);
        };
        let running_mean = &mut running_mean[layout.running.clone()];
        let running_var = &mut running_var[layout.running.clone()];
        match mode {
            Mode::Train if layout.batch_norm => {
                self.folded.forget();
                let to = Statistics { mean, rstd, running_mean, running_var };
                return self.partials.statistics(z, to, prepare);
            }
            Mode::Evaluate if layout.batch_norm => running_statistics(running_mean, running_var, mean, rstd),
            Mode::Train | Mode::Evaluate => no_statistics(mean, rstd),
        }
        let rows = z.par_chunks_mut(CHUNK_ROWS * layout.outputs).enumerate();
        rows.for_each(|(chunk, z)| prepare(chunk * CHUNK_ROWS, z));
    }

    /// Computes `z = x W^T` of the rows `x`, and its statistics, into `block`.
    pub(super) fn linear_forward(
        &mut self,
        mode: Mode,
        (layer, kind): (usize, BlockKind),
        parameters: &mut Parameters<Vec<f32>>,
        x: &[f32],
        block: &mut Saved,
    ) {
        let Parameters { layout, values, running_mean, running_var } = parameters;
        let layout = layout.block(layer, kind);
        let rows = x.len() / layout.inputs;
        let weights = &self.rounding.parameters(values)[layout.weight.clone()];
        let weight = MatRef::new(weights, layout.outputs, layout.inputs);
        let BlockActivations { linear, mean, rstd } = block;
        let z = &mut linear[..rows * layout.outputs];
        self.products.multiply(
            "x W^T",
            MatMut::new(z, rows, layout.outputs),
            Accumulate::Replace,
            MatRef::new(x, rows, layout.inputs),
            weight.transpose(),
        );
        let running = RunningStatistics { mode, layout, mean: running_mean, var: running_var };
        self.statistics(running, z, mean, rstd, |_, _| {});
    }

    /// `output = relu(norm(z))`, for as many values as `output` holds.
    pub(super) fn relu_norm(&mut self, of: Block<'_>, block: &Saved, output: &mut [f32]) {
        self.set_columns(of, block);
        let _running = self.clock.time(Work::Pass("batch norm and relu"));
        let (columns, width) = (self.columns.all(), of.layout.outputs);
        let z = block.linear[..output.len()].par_chunks(CHUNK_ROWS * width);
        output.par_chunks_mut(CHUNK_ROWS * width).zip(z).for_each(|(output, z)| {
            for (y, z) in output.chunks_exact_mut(width).zip(z.chunks_exact(width)) {
                columns.relu(z, behind(z), y);
            }
            self.rounding.store(output);
        });
    }

    /// Loads the block's normalisation into `self.columns`.
    pub(super) fn set_columns(&mut self, of: Block<'_>, block: &Saved) {
        let (weight, bias) =
            (&of.values[of.layout.norm_weight.clone()], &of.values[of.layout.norm_bias.clone()]);
        self.columns.set(&block.mean, &block.rstd, weight, bias);
    }

    /// Backward of relu(norm(z)): overwrites `d [R, C]`, the gradient with respect to the output, with that
    /// with respect to z.
    pub(super) fn norm_backward(
        &mut self,
        of: Block<'_>,
        block: &Saved,
        d: &mut [f32],
        gradients: &mut [f32],
    ) {
        let width = of.layout.outputs;
        let rows = d.len() / width;
        let z = &block.linear[..d.len()];
        self.set_columns(of, block);
        let _running = self.clock.time(Work::Pass("batch norm, backward"));
        let columns = self.columns.all();
        let to = backward_sums(of.layout, gradients, &mut self.terms);
        self.partials.backward_sums(rows, &self.columns, &block.rstd, to, |first, sum, product| {
            let chunk = first * width..((first + CHUNK_ROWS) * width).min(d.len());
            for (z, d) in z[chunk.clone()].chunks_exact(width).zip(d[chunk].chunks_exact(width)) {
                columns.add_backward_sums(z, d, 1.0, sum, product);
            }
        });
        let terms = self.terms.all();
        d.par_chunks_mut(CHUNK_ROWS * width).zip(z.par_chunks(CHUNK_ROWS * width)).for_each(|(d, z)| {
            for (d, z) in d.chunks_exact_mut(width).zip(z.chunks_exact(width)) {
                columns.backward_in_place(z, terms, d);
            }
            self.rounding.store(d);
        });
    }

    /// Backward of `z = x W^T`: `d_weight = d_z^T x` and `d_x = d_z W`, for the number of rows of `d_x`.
    pub(super) fn linear_backward(
        &mut self,
        of: Block<'_>,
        d_z: &[f32],
        x: &[f32],
        d_x: &mut [f32],
        gradients: &mut [f32],
    ) {
        let (inputs, outputs) = (of.layout.inputs, of.layout.outputs);
        let rows = d_x.len() / inputs;
        let d_z = MatRef::new(d_z, rows, outputs);
        let d_weight = MatMut::new(&mut gradients[of.layout.weight.clone()], outputs, inputs);
        let x = MatRef::new(x, rows, inputs);
        self.products.multiply("d_z^T x", d_weight, Accumulate::Replace, d_z.transpose(), x);
        let weight = &self.rounding.parameters(of.values)[of.layout.weight.clone()];
        let (weight, to) = (MatRef::new(weight, outputs, inputs), MatMut::new(d_x, rows, inputs));
        self.products.multiply("d_z W", to, Accumulate::Replace, d_z, weight);
        self.rounding.store_all(d_x);
    }
}

/// Outputs for a block's backward sums.
pub(super) fn backward_sums<'a>(
    layout: &BlockLayout,
    gradients: &'a mut [f32],
    terms: &'a mut Terms,
) -> BackwardSums<'a> {
    debug_assert_eq!(layout.norm_weight.end, layout.norm_bias.start);
    let both = &mut gradients[layout.norm_weight.start..layout.norm_bias.end];
    let (d_weight, d_bias) = both.split_at_mut(layout.outputs);
    BackwardSums { d_weight, d_bias, terms, batch_statistics: layout.batch_norm }
}
