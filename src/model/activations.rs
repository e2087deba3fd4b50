//! What a forward pass saves for the backward pass, and the gradients that the backward pass hands down.
//!
//! `T` is a backend's buffer. Buffers are planned once for the largest batch; a step uses their first rows.

use crate::backend::Backend;
use crate::batch::graph_batch::BatchSize;
use crate::error::Result;
use crate::model::config::ModelConfig;

/// A block's saved values, `R` rows (edges or nodes) and `C` columns.
#[derive(Debug)]
pub struct BlockActivations<T> {
    /// `[R, C]`: the linear layer's output, before batch norm.
    pub linear: T,
    /// `[C]`: the mean that batch norm subtracts: of the batch in training, the running one in evaluation, 0 without.
    pub mean: T,
    /// `[C]`: 1 / sqrt(variance + eps), likewise; 1 without.
    pub rstd: T,
}

/// One layer's saved values.
#[derive(Debug)]
pub struct LayerActivations<T> {
    /// `[E, H]`.
    pub edge_hidden: BlockActivations<T>,
    /// `[E, H]`: relu(norm(edge_hidden)), empty for backends that recompute it where it is read.
    pub edge_hidden_output: T,
    /// `[E, H + D + H]`: messages to the subject, new edge states, messages to the object.
    pub edge_heads: BlockActivations<T>,
    /// `[E, D]`: the new edge states; empty in the last layer.
    pub edge_state: T,
    /// `[N, H]`: the mean of the messages that reach a node.
    pub pooled: T,
    /// `[N, H]`.
    pub node_hidden: BlockActivations<T>,
    /// `[N, H]`: relu(norm(node_hidden)), as `edge_hidden_output`.
    pub node_hidden_output: T,
    /// `[N, D]`.
    pub node_output: BlockActivations<T>,
    /// `[N, D]`: the new node states, rows of unit length where they are normalised.
    pub node_state: T,
}

/// All of a forward pass.
#[derive(Debug)]
pub struct Activations<T> {
    /// By layer.
    pub layers: Vec<LayerActivations<T>>,
    /// `[G, D]`: the graphs' embeddings, rows of unit length.
    pub embedding: T,
}

/// The backward pass's running gradients; layers take turns in the same buffers.
#[derive(Debug)]
pub struct ActivationGradients<T> {
    /// `[N, D]`: by the node states that a layer reads.
    pub d_node_state: T,
    /// `[E, D]`: by the edge states that a layer reads.
    pub d_edge_state: T,
    /// `[N, H]`: by `node_hidden_output`.
    pub d_node_hidden: T,
    /// `[N, H]`: by `pooled`.
    pub d_pooled: T,
    /// `[E, H + D + H]`: by the heads' linear outputs.
    pub d_edge_heads: T,
    /// `[E, H]`: by `edge_hidden_output`.
    pub d_edge_hidden: T,
}

impl<T> Activations<T> {
    /// Buffers for batches up to `capacity`.
    pub fn allocate<B: Backend<Buffer = T>>(
        backend: &B,
        config: ModelConfig,
        capacity: BatchSize,
    ) -> Result<Self> {
        let BatchSize { graphs, nodes, edges } = capacity;
        let (state, hidden) = (config.state_width, config.hidden_width);
        let block = |rows: usize, columns: usize| -> Result<BlockActivations<T>> {
            Ok(BlockActivations {
                linear: backend.allocate(rows * columns)?,
                mean: backend.allocate(columns)?,
                rstd: backend.allocate(columns)?,
            })
        };
        let outputs = |rows: usize| if B::RECOMPUTES_HIDDEN { 0 } else { rows * hidden };
        let layers = (0..config.layers)
            .map(|layer| {
                Ok(LayerActivations {
                    edge_hidden: block(edges, hidden)?,
                    edge_hidden_output: backend.allocate(outputs(edges))?,
                    edge_heads: block(edges, config.heads_width(layer))?,
                    edge_state: backend.allocate(edges * config.edge_state_width(layer))?,
                    pooled: backend.allocate(nodes * hidden)?,
                    node_hidden: block(nodes, hidden)?,
                    node_hidden_output: backend.allocate(outputs(nodes))?,
                    node_output: block(nodes, state)?,
                    node_state: backend.allocate(nodes * state)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Activations { layers, embedding: backend.allocate(graphs * state)? })
    }
}

impl<T> ActivationGradients<T> {
    /// Buffers for batches up to `capacity`.
    pub fn allocate<B: Backend<Buffer = T>>(
        backend: &B,
        config: ModelConfig,
        capacity: BatchSize,
    ) -> Result<Self> {
        let BatchSize { nodes, edges, .. } = capacity;
        let (state, hidden) = (config.state_width, config.hidden_width);
        Ok(ActivationGradients {
            d_node_state: backend.allocate(nodes * state)?,
            d_edge_state: backend.allocate(edges * state)?,
            d_node_hidden: backend.allocate(nodes * hidden)?,
            d_pooled: backend.allocate(nodes * hidden)?,
            d_edge_heads: backend.allocate(edges * (2 * hidden + state))?,
            d_edge_hidden: backend.allocate(edges * hidden)?,
        })
    }
}
