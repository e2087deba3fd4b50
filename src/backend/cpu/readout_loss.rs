//! readout_loss: graph means, their normalisation, the triples' losses, and the backward to the node states.
//!
//! Only about 50 rows per step: one thread handles them while the node rows are still in its cache.

use super::rows::{add, behind, dot, length, scale};
use crate::backend::L2_EPSILON;
use crate::batch::graph_batch::GraphBatch;
use crate::loss::Loss;
use crate::network::config::ModelConfig;

/// Scratch memory of these stages.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// `[G]`: length of each graph's mean node state.
    norms: Vec<f32>,
    /// `[G, D]`: gradient with respect to the embeddings, later with respect to the means, divided by the
    /// number of nodes.
    d_embedding: Vec<f32>,
}

impl Scratch {
    /// `embedding [G, D] = l2_normalise(mean of the graph's node states)`.
    pub(super) fn embed(
        &mut self,
        config: ModelConfig,
        batch: &GraphBatch,
        node_state: &[f32],
        embedding: &mut [f32],
    ) {
        let width = config.state_width;
        self.norms.clear();
        for (graph, mean) in (0..batch.size().graphs).zip(embedding.chunks_exact_mut(width)) {
            let nodes = batch.mean_nodes(graph, config.image_node_in_mean);
            mean.fill(0.0);
            for row in node_state[nodes.start * width..nodes.end * width].chunks_exact(width) {
                add(mean, row, behind(row));
            }
            let count = nodes.len() as f32;
            mean.iter_mut().for_each(|value| *value /= count);
            let norm = length(mean);
            scale(mean, 1.0 / norm.max(L2_EPSILON as f32));
            self.norms.push(norm);
        }
    }

    /// Computes the losses `[B]`. Keeps the gradient of their mean over `triples_of_all` triples with respect to the embeddings
    /// `[3 B, D]`.
    pub(super) fn losses(
        &mut self,
        loss: &Loss,
        batch: &GraphBatch,
        (embedding, width): (&[f32], usize),
        losses: &mut [f32],
        triples_of_all: usize,
    ) {
        let triples = batch.similarity_positive.len();
        let row = |graph: usize| &embedding[graph * width..][..width];
        self.d_embedding.resize(3 * triples * width, 0.0);
        let (d_anchors, rest) = self.d_embedding.split_at_mut(triples * width);
        let (d_positives, d_negatives) = rest.split_at_mut(triples * width);
        for triple in 0..triples {
            let (anchor, positive, negative) =
                (row(triple), row(triples + triple), row(2 * triples + triple));
            let (value, slope) = loss.of_triple(
                dot(anchor, positive),
                dot(anchor, negative),
                batch.similarity_positive[triple],
                batch.similarity_negative[triple],
            );
            losses[triple] = value;
            let slope = slope / triples_of_all as f32;
            for c in 0..width {
                d_anchors[triple * width + c] = slope * (positive[c] - negative[c]);
                d_positives[triple * width + c] = slope * anchor[c];
                d_negatives[triple * width + c] = -slope * anchor[c];
            }
        }
    }

    /// Computes `d_node_state [N, D]` from the gradient kept by [`Scratch::losses`].
    pub(super) fn backward(
        &mut self,
        config: ModelConfig,
        batch: &GraphBatch,
        embedding: &[f32],
        d_node_state: &mut [f32],
    ) {
        let width = config.state_width;
        for (graph, d) in (0..batch.size().graphs).zip(self.d_embedding.chunks_exact_mut(width)) {
            let nodes = batch.mean_nodes(graph, config.image_node_in_mean);
            let end = batch.graph_offsets[graph + 1] as usize;
            let f = &embedding[graph * width..][..width];
            let norm = self.norms[graph];
            let along = if norm < L2_EPSILON as f32 { 0.0 } else { dot(f, d) };
            let factor = 1.0 / (norm.max(L2_EPSILON as f32) * nodes.len() as f32);
            d.iter_mut().zip(f).for_each(|(d, f)| *d = (*d - f * along) * factor);
            for row in d_node_state[nodes.start * width..nodes.end * width].chunks_exact_mut(width) {
                row.copy_from_slice(d);
            }
            d_node_state[nodes.end * width..end * width].fill(0.0);
        }
    }
}
