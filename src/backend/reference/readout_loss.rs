//! readout_loss: graph embeddings `f = l2_normalise(mean of the graph's node states)`, and the losses of the
//! triples.

use num_traits::Float;

use crate::backend::reference::l2_normalise::{l2_normalise, l2_normalise_backward};
use crate::batch::graph_batch::GraphBatch;
use crate::loss::Loss;

/// Mean node state of every graph, `[G, D]`, over [`GraphBatch::mean_nodes`].
fn graph_mean<F: Float>(
    batch: &GraphBatch,
    node_state: &[F],
    width: usize,
    image_node_in_mean: bool,
) -> Vec<F> {
    let mut mean = Vec::new();
    for graph in 0..batch.graph_offsets.len() - 1 {
        let nodes = batch.mean_nodes(graph, image_node_in_mean);
        let count = F::from(nodes.len()).expect("a float");
        let rows = &node_state[nodes.start * width..nodes.end * width];
        for c in 0..width {
            let sum = rows.chunks_exact(width).fold(F::zero(), |sum, row| sum + row[c]);
            mean.push(sum / count);
        }
    }
    mean
}

/// Embeddings `[G, D]` of all graphs.
pub fn readout<F: Float>(
    batch: &GraphBatch,
    node_state: &[F],
    width: usize,
    image_node_in_mean: bool,
) -> Vec<F> {
    let mut embedding = graph_mean(batch, node_state, width, image_node_in_mean);
    l2_normalise(&mut embedding, width);
    embedding
}

/// Backward of the embeddings: `d_node_state [N, D]` from `d_embedding [G, D]`.
pub fn readout_backward<F: Float>(
    batch: &GraphBatch,
    node_state: &[F],
    d_embedding: &[F],
    width: usize,
    image_node_in_mean: bool,
) -> Vec<F> {
    let mean = graph_mean(batch, node_state, width, image_node_in_mean);
    let d_mean = l2_normalise_backward(&mean, d_embedding, width);
    let mut d_node_state = vec![F::zero(); batch.node_object.len() * width];
    for graph in 0..batch.graph_offsets.len() - 1 {
        let nodes = batch.mean_nodes(graph, image_node_in_mean);
        let count = F::from(nodes.len()).expect("a float");
        for row in d_node_state[nodes.start * width..nodes.end * width].chunks_exact_mut(width) {
            row.iter_mut().zip(&d_mean[graph * width..]).for_each(|(to, &d)| *to = d / count);
        }
    }
    d_node_state
}

/// Losses `[B]` of the triples with embeddings `[anchors | positives | negatives]`, and the gradient `[3 B,
/// D]` of their mean over `triples_of_all` triples with respect to the embeddings.
pub fn triple_losses<F: Float>(
    loss: &Loss,
    batch: &GraphBatch,
    embedding: &[F],
    width: usize,
    triples_of_all: usize,
) -> (Vec<F>, Vec<F>) {
    let triples = batch.similarity_positive.len();
    let count = F::from(triples_of_all).expect("a float");
    let row = |graph: usize| &embedding[graph * width..][..width];
    let dot = |a: &[F], b: &[F]| a.iter().zip(b).fold(F::zero(), |sum, (&x, &y)| sum + x * y);
    let mut losses = Vec::with_capacity(triples);
    let mut d_embedding = vec![F::zero(); 3 * triples * width];
    for triple in 0..triples {
        let (anchor, positive, negative) = (row(triple), row(triples + triple), row(2 * triples + triple));
        let (value, slope) = loss.of_triple(
            dot(anchor, positive),
            dot(anchor, negative),
            F::from(batch.similarity_positive[triple]).expect("a float"),
            F::from(batch.similarity_negative[triple]).expect("a float"),
        );
        losses.push(value);
        let slope = slope / count;
        for c in 0..width {
            d_embedding[triple * width + c] = slope * (positive[c] - negative[c]);
            d_embedding[(triples + triple) * width + c] = slope * anchor[c];
            d_embedding[(2 * triples + triple) * width + c] = -slope * anchor[c];
        }
    }
    (losses, d_embedding)
}
