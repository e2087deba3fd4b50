//! edge_pool: the mean of the messages that reach each node.
//!
//! `pooled[w] = (sum of ms over edges with subject w + sum of mo over edges with object w) / count`, and 0 where
//! count = 0. A self loop counts twice.

use num_traits::Float;

use crate::batch::graph_batch::GraphBatch;

/// Number of messages per node.
fn message_counts(batch: &GraphBatch) -> Vec<usize> {
    let mut counts = vec![0; batch.node_object.len()];
    for &node in batch.edge_subject.iter().chain(&batch.edge_object) {
        counts[node as usize] += 1;
    }
    counts
}

/// Computes `pooled [N, H]` from the outputs `[E, heads_width]` of the heads: messages to the subject in the
/// first H columns, to the object in H columns starting at `object_start`.
pub fn edge_pool<F: Float>(
    batch: &GraphBatch,
    heads: &[F],
    heads_width: usize,
    hidden: usize,
    object_start: usize,
) -> Vec<F> {
    let mut pooled = vec![F::zero(); batch.node_object.len() * hidden];
    for (edge, row) in heads.chunks_exact(heads_width).enumerate() {
        let ends = [(batch.edge_subject[edge], 0), (batch.edge_object[edge], object_start)];
        for (node, start) in ends {
            for (to, &message) in pooled[node as usize * hidden..].iter_mut().zip(&row[start..start + hidden])
            {
                *to = *to + message;
            }
        }
    }
    for (row, &count) in pooled.chunks_exact_mut(hidden).zip(&message_counts(batch)) {
        let count = F::from(count.max(1)).expect("a float");
        row.iter_mut().for_each(|value| *value = *value / count);
    }
    pooled
}

/// Computes `d_heads [E, heads_width]`: each message receives its node's gradient divided by the node's
/// message count; the columns between the messages receive `d_edge_state [E, D]`.
pub fn edge_pool_backward<F: Float>(
    batch: &GraphBatch,
    d_pooled: &[F],
    d_edge_state: &[F],
    heads_width: usize,
    hidden: usize,
    object_start: usize,
) -> Vec<F> {
    let counts = message_counts(batch);
    let state = object_start - hidden;
    let mut d_heads = Vec::with_capacity(batch.edge_subject.len() * heads_width);
    for edge in 0..batch.edge_subject.len() {
        let message = |node: u32| {
            let count = F::from(counts[node as usize]).expect("a float");
            d_pooled[node as usize * hidden..][..hidden].iter().map(move |&d| d / count)
        };
        d_heads.extend(message(batch.edge_subject[edge]));
        d_heads.extend_from_slice(&d_edge_state[edge * state..][..state]);
        d_heads.extend(message(batch.edge_object[edge]));
    }
    d_heads
}
