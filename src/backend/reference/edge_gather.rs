//! edge_gather: the input of an edge, `concat(x[subject], e, x[object])`, and its backward.

use num_traits::Float;

use crate::batch::graph_batch::GraphBatch;

/// Gathers `[E, 3 D]` from node states `[N, D]` and edge states `[E, D]`.
pub fn edge_gather<F: Float>(batch: &GraphBatch, node_state: &[F], edge_state: &[F], width: usize) -> Vec<F> {
    let mut gathered = Vec::with_capacity(3 * edge_state.len());
    for (edge, state) in edge_state.chunks_exact(width).enumerate() {
        gathered.extend_from_slice(&node_state[batch.edge_subject[edge] as usize * width..][..width]);
        gathered.extend_from_slice(state);
        gathered.extend_from_slice(&node_state[batch.edge_object[edge] as usize * width..][..width]);
    }
    gathered
}

/// Gradients with respect to the node and edge states, from `d_gathered [E, 3 D]`.
pub fn edge_gather_backward<F: Float>(
    batch: &GraphBatch,
    d_gathered: &[F],
    width: usize,
    d_node_state: &mut [F],
    d_edge_state: &mut [F],
) {
    d_node_state.fill(F::zero());
    for (edge, d_row) in d_gathered.chunks_exact(3 * width).enumerate() {
        let (d_subject, rest) = d_row.split_at(width);
        let (d_edge, d_object) = rest.split_at(width);
        add_row(d_node_state, batch.edge_subject[edge] as usize, d_subject);
        add_row(d_node_state, batch.edge_object[edge] as usize, d_object);
        d_edge_state[edge * width..][..width].copy_from_slice(d_edge);
    }
}

/// Gathers rows of an embedding table `[V, D]` by type.
pub fn embedding_lookup<F: Float>(table: &[F], types: &[u32], width: usize) -> Vec<F> {
    types.iter().flat_map(|&t| &table[t as usize * width..][..width]).copied().collect()
}

/// Gradient with respect to the table, from `d_rows [R, D]`.
pub fn embedding_lookup_backward<F: Float>(d_rows: &[F], types: &[u32], width: usize, d_table: &mut [F]) {
    d_table.fill(F::zero());
    for (&t, d_row) in types.iter().zip(d_rows.chunks_exact(width)) {
        add_row(d_table, t as usize, d_row);
    }
}

fn add_row<F: Float>(matrix: &mut [F], row: usize, values: &[F]) {
    for (to, &value) in matrix[row * values.len()..].iter_mut().zip(values) {
        *to = *to + value;
    }
}
