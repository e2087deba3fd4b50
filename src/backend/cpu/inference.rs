//! inference: the forward pass with the running statistics, for embeddings.
//!
//! Batch norm is folded into the weights, once for all batches: with `scale = rstd weight`,
//!
//! ```text
//! relu(norm(x W^T)) = relu(x (scale W)^T + shift),   shift = bias - mean scale
//! ```
//!
//! Each row of a product is completed while it is in the cache. The first product of a layer adds the projections of the edge's
//! ends and the shift; the last one also l2-normalises. The folded weights stay packed. Nothing is kept for a backward.

use rayon::prelude::*;
use scenerank_matmul::{Accumulate, MatMut, MatRef, Packed};

use super::batch_norm::relu;
use super::clock::Work;
use super::edge_hidden::occurring_rows;
use super::edge_pool::mean_messages;
use super::rows::{add, length, scale, vectorised};
use super::{Cpu, at_least};
use crate::backend::L2_EPSILON;
use crate::backend::reference::batch_norm::running_statistics;
use crate::batch::graph_batch::GraphBatch;
use crate::network::activations::{Activations, LayerActivations};
use crate::network::parameters::{BlockKind, BlockLayout, Parameters};

/// Folded parameters, and scratch memory.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// One entry per layer; out of date unless `valid`.
    layers: Vec<FoldedLayer>,
    /// Whether `layers` belongs to the current parameters and running statistics.
    valid: bool,
    /// `[C, inputs]`: weight times scale.
    scaled: Vec<f32>,
    /// `[C]`: scale of each output.
    scale: Vec<f32>,
    /// `[n, D]`: rows of an embedding table for the types in use.
    rows: Vec<f32>,
    /// `[n, H]` each: projections of the subjects and of the objects, and of the predicate types in layer 0.
    projected: [Vec<f32>; 3],
}

/// Folded parameters of a layer.
#[derive(Debug, Default)]
struct FoldedLayer {
    /// The edge hidden block by operand: subject, edge state, object.
    edge_hidden: [Packed<f32>; 3],
    edge_heads: Packed<f32>,
    node_hidden: Packed<f32>,
    node_output: Packed<f32>,
    /// `[C]` shift of each block, by its kind.
    shifts: [Vec<f32>; 4],
}

impl Folded {
    /// Folds again before the next batch.
    pub(super) fn forget(&mut self) {
        self.valid = false;
    }

    /// Folds all blocks if the parameters have changed.
    fn update(&mut self, parameters: &Parameters<Vec<f32>>) {
        if self.valid {
            return;
        }
        let config = parameters.layout.config;
        self.layers.resize_with(config.layers, FoldedLayer::default);
        let mut layers = std::mem::take(&mut self.layers);
        for (index, layer) in layers.iter_mut().enumerate() {
            for kind in BlockKind::ALL {
                let layout = parameters.layout.block(index, kind);
                self.fold(layout, parameters, &mut layer.shifts[kind as usize]);
                let weight = MatRef::new(&self.scaled, layout.outputs, layout.inputs);
                let width = config.state_width;
                match kind {
                    BlockKind::EdgeHidden => {
                        for (part, packed) in layer.edge_hidden.iter_mut().enumerate() {
                            packed.pack(weight.column_range(part * width..(part + 1) * width).transpose());
                        }
                    }
                    BlockKind::EdgeHeads => layer.edge_heads.pack(weight.transpose()),
                    BlockKind::NodeHidden => layer.node_hidden.pack(weight.transpose()),
                    BlockKind::NodeOutput => layer.node_output.pack(weight.transpose()),
                }
            }
        }
        self.layers = layers;
        self.valid = true;
    }

    /// Scales a block's weight into `self.scaled`, and computes its shift.
    fn fold(&mut self, layout: &BlockLayout, parameters: &Parameters<Vec<f32>>, shift: &mut Vec<f32>) {
        let Parameters { values, running_mean, running_var, .. } = parameters;
        let (mean, var) = (&running_mean[layout.running.clone()], &running_var[layout.running.clone()]);
        shift.resize(layout.outputs, 0.0);
        self.scale.resize(layout.outputs, 0.0);
        running_statistics(mean, var, shift, &mut self.scale);
        let (weight, bias) = (&values[layout.norm_weight.clone()], &values[layout.norm_bias.clone()]);
        for (((shift, scale), weight), bias) in shift.iter_mut().zip(&mut self.scale).zip(weight).zip(bias) {
            *scale *= weight;
            *shift = bias - *shift * *scale;
        }
        self.scaled.clear();
        self.scaled.extend_from_slice(&values[layout.weight.clone()]);
        for (row, factor) in self.scaled.chunks_exact_mut(layout.inputs).zip(&self.scale) {
            scale(row, *factor);
        }
    }
}

impl Cpu {
    /// Computes the last node states with the running statistics.
    pub(super) fn infer_folded(
        &mut self,
        parameters: &Parameters<Vec<f32>>,
        batch: &GraphBatch,
        activations: &mut Activations<Vec<f32>>,
    ) {
        self.folded.update(parameters);
        let config = parameters.layout.config;
        let (hidden, size) = (config.hidden_width, batch.size());
        for index in 0..config.layers {
            let (below, a) = activations.at_mut(index);
            let edge_width = config.edge_state_width(index);
            {
                let _running = self.clock.time(Work::Pass("inference: edge hidden"));
                self.folded.edge_hidden(index, parameters, batch, below, &mut a.edge_hidden_output);
            }
            let Folded { layers, .. } = &self.folded;
            let FoldedLayer { edge_heads, node_hidden, node_output, shifts, .. } = &layers[index];
            let [_, of_heads, of_hidden, of_output] = shifts;
            let product = |packed: &Packed<f32>,
                           x: &[f32],
                           y: &mut [f32],
                           rows: usize,
                           (shift, unit): (&[f32], bool)| {
                let _running = self.clock.time(Work::Pass("inference: product"));
                let (x, y) = (MatRef::new(x, rows, hidden), MatMut::new(y, rows, shift.len()));
                packed.multiply_and_finish(y, x, |_, row| {
                    relu_shifted(row, shift);
                    if unit {
                        scale(row, 1.0 / length(row).max(L2_EPSILON as f32));
                    }
                });
            };
            product(
                edge_heads,
                &a.edge_hidden_output,
                &mut a.edge_heads.linear,
                size.edges,
                (of_heads, false),
            );
            {
                let _running = self.clock.time(Work::Pass("inference: pool"));
                let (width, object) = (of_heads.len(), hidden + edge_width);
                let heads = &a.edge_heads.linear;
                let message = |edge, is_object| {
                    let start = edge * width + if is_object { object } else { 0 };
                    &heads[start..][..hidden]
                };
                mean_messages(batch, hidden, &mut a.pooled, message, |_, message, soon, sum| {
                    add(sum, message, soon);
                });
            }
            product(node_hidden, &a.pooled, &mut a.node_hidden_output, size.nodes, (of_hidden, false));
            product(
                node_output,
                &a.node_hidden_output,
                &mut a.node_state,
                size.nodes,
                (of_output, config.l2_norm),
            );
        }
    }
}

impl Folded {
    /// `y [E, H] = relu(P_s[s] + e W_e^T + P_o[o] + shift)`, with the projections of [`super::edge_hidden`].
    fn edge_hidden(
        &mut self,
        index: usize,
        parameters: &Parameters<Vec<f32>>,
        batch: &GraphBatch,
        below: Option<&LayerActivations<Vec<f32>>>,
        y: &mut [f32],
    ) {
        let Folded { layers, rows, projected: [subjects, objects, predicates], .. } = self;
        let (layout, config) = (&parameters.layout, parameters.layout.config);
        let (width, hidden, edges) = (config.state_width, config.hidden_width, batch.size().edges);
        let FoldedLayer { edge_hidden: [of_subject, of_edge, of_object], shifts, .. } = &layers[index];
        let shift = &*shifts[BlockKind::EdgeHidden as usize];
        let (x, count) = match below {
            None => {
                let of = &batch.object_occurrences;
                let table = &parameters.values[layout.object_embedding.clone()];
                (occurring_rows(table, width, of, rows), of.types.len())
            }
            Some(below) => (&*below.node_state, batch.size().nodes),
        };
        let x = MatRef::new(x, count, width);
        for (packed, to) in [(of_subject, &mut *subjects), (of_object, &mut *objects)] {
            let to = MatMut::new(at_least(to, count * hidden), count, hidden);
            packed.multiply_in_parallel(to, Accumulate::Replace, x);
        }
        let complete = |subject: u32, object: u32, y: &mut [f32]| {
            let subject = &subjects[subject as usize * hidden..][..hidden];
            let object = &objects[object as usize * hidden..][..hidden];
            relu_of_ends(y, subject, object, shift);
        };
        match below {
            None => {
                let (of, slots) = (&batch.predicate_occurrences, &batch.object_occurrences.slot);
                let table = &parameters.values[layout.predicate_embedding.clone()];
                let count = of.types.len();
                let e = MatRef::new(occurring_rows(table, width, of, rows), count, width);
                let to = MatMut::new(at_least(predicates, count * hidden), count, hidden);
                of_edge.multiply_in_parallel(to, Accumulate::Replace, e);
                let predicates = &*predicates;
                y[..edges * hidden].par_chunks_exact_mut(hidden).enumerate().for_each(|(edge, y)| {
                    y.copy_from_slice(&predicates[of.slot[edge] as usize * hidden..][..hidden]);
                    let slot = |node: u32| slots[node as usize];
                    complete(slot(batch.edge_subject[edge]), slot(batch.edge_object[edge]), y);
                });
            }
            Some(below) => {
                // The edge states are columns of the heads.
                let heads = MatRef::new(&below.edge_heads.linear, edges, 2 * hidden + width);
                let e = heads.column_range(hidden..hidden + width);
                of_edge.multiply_and_finish(MatMut::new(y, edges, hidden), e, |edge, y| {
                    complete(batch.edge_subject[edge], batch.edge_object[edge], y);
                });
            }
        }
    }
}

/// `y = relu(y + shift)`, keeping NaN.
#[inline]
fn relu_shifted(y: &mut [f32], shift: &[f32]) {
    vectorised(
        #[inline(always)]
        || y.iter_mut().zip(shift).for_each(|(y, shift)| *y = relu(*y + shift)),
    );
}

/// `y = relu(y + subject + object + shift)`, keeping NaN.
#[inline]
fn relu_of_ends(y: &mut [f32], subject: &[f32], object: &[f32], shift: &[f32]) {
    vectorised(
        #[inline(always)]
        || {
            let n = y.len();
            let (subject, object, shift) = (&subject[..n], &object[..n], &shift[..n]);
            for c in 0..n {
                y[c] = relu(y[c] + subject[c] + object[c] + shift[c]);
            }
        },
    );
}
