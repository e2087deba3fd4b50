//! node_output: batch norm, ReLU and l2 normalisation in one pass per row, and their backward.
//!
//! The kernels store the normalised node states u / |u| for the last layer only. In other layers the products
//! read u and divide their results by |u| (`backend/cuda/step/layer_input.rs`). If this backend rounds like
//! the kernels, it therefore rounds u instead of the state, and the incoming gradient is with respect to u.

use rayon::prelude::*;

use super::batch_norm::CHUNK_ROWS;
use super::block::{Block, Saved, backward_sums};
use super::clock::Work;
use super::rows::{behind, dot, length, scale, vectorised};
use super::{Cpu, at_least};
use crate::backend::L2_EPSILON;

impl Cpu {
    /// `node_state [N, D] = l2_normalise(relu(norm(z)))`. With `lengths`, relu(norm(z)) is rounded first, and
    /// the divisors of its rows are written to `lengths [N]`.
    pub(super) fn l2_normalise(
        &mut self,
        lengths: Option<&mut Vec<f32>>,
        of: Block<'_>,
        block: &Saved,
        node_state: &mut [f32],
    ) {
        self.set_columns(of, block);
        let _running = self.clock.time(Work::Pass("l2 normalisation"));
        let (columns, width) = (self.columns.all(), of.layout.outputs);
        let rows = node_state.len() / width;
        let z = block.linear[..rows * width].par_chunks(CHUNK_ROWS * width);
        let states = node_state.par_chunks_mut(CHUNK_ROWS * width).zip(z);
        let Some(lengths) = lengths else {
            states.for_each(|(state, z)| {
                for (y, z) in state.chunks_exact_mut(width).zip(z.chunks_exact(width)) {
                    columns.relu(z, behind(z), y);
                    scale(y, 1.0 / length(y).max(L2_EPSILON as f32));
                }
                self.rounding.store(state);
            });
            return;
        };
        states.zip(at_least(lengths, rows).par_chunks_mut(CHUNK_ROWS)).for_each(|((state, z), lengths)| {
            let rows = state.chunks_exact_mut(width).zip(z.chunks_exact(width));
            for ((y, z), divisor) in rows.zip(lengths) {
                columns.relu(z, behind(z), y);
                self.rounding.store(y);
                *divisor = length(y).max(L2_EPSILON as f32);
                scale(y, 1.0 / *divisor);
            }
        });
    }

    /// Computes the gradient with respect to z into `self.d_node_output`, and the gradients of the norm's
    /// parameters.
    pub(super) fn l2_normalise_backward(
        &mut self,
        of: Block<'_>,
        block: &Saved,
        d_node_state: &[f32],
        gradients: &mut [f32],
    ) {
        self.set_columns(of, block);
        let _running = self.clock.time(Work::Pass("l2 normalisation, backward"));
        let width = of.layout.outputs;
        let rows = d_node_state.len() / width;
        let (columns, z) = (self.columns.all(), &block.linear[..rows * width]);
        let d = at_least(&mut self.d_node_output, rows * width);
        let to = backward_sums(of.layout, gradients, &mut self.terms);
        self.partials.backward_sums_of(d, &self.columns, &block.rstd, to, |first, d, sum, product| {
            let rows = (first..).zip(d.chunks_exact_mut(width)).zip(z[first * width..].chunks_exact(width));
            for ((row, d), z) in rows {
                let d_state = &d_node_state[row * width..][..width];
                // y; the state is y / |y|.
                columns.relu(z, behind(z), d);
                let norm = length(d);
                let (factor, along) = if norm < L2_EPSILON as f32 {
                    (1.0 / L2_EPSILON as f32, 0.0)
                } else {
                    (1.0 / norm, dot(d, d_state) / norm / norm)
                };
                vectorised(
                    #[inline(always)]
                    || {
                        for (d, d_state) in d.iter_mut().zip(d_state) {
                            *d = (d_state - *d * along) * factor;
                        }
                    },
                );
                self.rounding.store(d);
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
}
