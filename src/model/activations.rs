//! What a forward pass saves for the backward pass, and the gradients that the backward pass hands down.
//!
//! `S` is a backend's memory of such values ([`Backend::Stored`]), `T` its memory of statistics and embeddings
//! ([`Backend::Buffer`]). Both are planned once for the largest batch; a step uses their first rows.

use crate::backend::Backend;
use crate::batch::graph_batch::BatchSize;
use crate::error::Result;
use crate::network::config::ModelConfig;
use crate::network::parameters::BlockKind;

/// A block's saved values, `R` rows (edges or nodes) and `C` columns.
#[derive(Debug)]
pub struct BlockActivations<S, T = S> {
    /// `[R, C]`: the linear layer's output, before batch norm.
    pub linear: S,
    /// `[C]`: the mean that batch norm subtracts: of the batch in training, the running one in evaluation, 0 without.
    pub mean: T,
    /// `[C]`: 1 / sqrt(variance + eps), likewise; 1 without.
    pub rstd: T,
}

/// One layer's saved values.
#[derive(Debug)]
pub struct LayerActivations<S, T = S> {
    /// `[E, H]`.
    pub edge_hidden: BlockActivations<S, T>,
    /// `[E, H]`: relu(norm(edge_hidden)), empty for backends that recompute it where it is read.
    pub edge_hidden_output: S,
    /// `[E, H + D + H]`: messages to the subject, new edge states, messages to the object.
    pub edge_heads: BlockActivations<S, T>,
    /// `[E, D]`: the new edge states, as `edge_hidden_output`; empty in the last layer.
    pub edge_state: S,
    /// `[N, H]`: the mean of the messages that reach a node.
    pub pooled: S,
    /// `[N, H]`.
    pub node_hidden: BlockActivations<S, T>,
    /// `[N, H]`: relu(norm(node_hidden)), as `edge_hidden_output`.
    pub node_hidden_output: S,
    /// `[N, D]`.
    pub node_output: BlockActivations<S, T>,
    /// `[N, D]`: the new node states, rows of unit length where they are normalised, as `edge_hidden_output`; never empty in
    /// the last layer.
    pub node_state: S,
}

/// All of a forward pass.
#[derive(Debug)]
pub struct Activations<S, T = S> {
    /// By layer.
    pub layers: Vec<LayerActivations<S, T>>,
    /// `[G, D]`: the graphs' embeddings, rows of unit length.
    pub embedding: T,
}

/// The backward pass's running gradients; layers take turns in the same buffers.
#[derive(Debug)]
pub struct ActivationGradients<S> {
    /// `[N, D]`: by the node states that a layer reads ([`crate::backend::LayerInputGradient`]).
    pub d_node_state: S,
    /// `[E, D]`: by the edge states that a layer reads.
    pub d_edge_state: S,
    /// `[N, H]`: by `node_hidden_output`.
    pub d_node_hidden: S,
    /// `[N, H]`: by `pooled`.
    pub d_pooled: S,
    /// `[E, H + D + H]`: by the heads' linear outputs.
    pub d_edge_heads: S,
    /// `[E, H]`: by `edge_hidden_output`.
    pub d_edge_hidden: S,
}

impl<S, T> Activations<S, T> {
    /// Buffers for batches up to `capacity`.
    pub fn allocate<B: Backend<Stored = S, Buffer = T>>(
        backend: &B,
        config: ModelConfig,
        capacity: BatchSize,
    ) -> Result<Self> {
        let BatchSize { graphs, nodes, edges } = capacity;
        let (state, hidden) = (config.state_width, config.hidden_width);
        let block = |rows: usize, columns: usize| -> Result<BlockActivations<S, T>> {
            Ok(BlockActivations {
                linear: backend.allocate_stored(rows, columns)?,
                mean: backend.allocate(columns)?,
                rstd: backend.allocate(columns)?,
            })
        };
        let activated = |kind: BlockKind, rows: usize, columns: usize| {
            backend.allocate_stored(if B::recomputes(config, kind) { 0 } else { rows }, columns)
        };
        let layers = (0..config.layers)
            .map(|layer| {
                Ok(LayerActivations {
                    edge_hidden: block(edges, hidden)?,
                    edge_hidden_output: activated(BlockKind::EdgeHidden, edges, hidden)?,
                    edge_heads: block(edges, config.heads_width(layer))?,
                    edge_state: activated(BlockKind::EdgeHeads, edges, config.edge_state_width(layer))?,
                    pooled: backend.allocate_stored(nodes, hidden)?,
                    node_hidden: block(nodes, hidden)?,
                    node_hidden_output: activated(BlockKind::NodeHidden, nodes, hidden)?,
                    node_output: block(nodes, state)?,
                    node_state: if layer + 1 == config.layers {
                        backend.allocate_stored(nodes, state)?
                    } else {
                        activated(BlockKind::NodeOutput, nodes, state)?
                    },
                })
            })
            .collect::<Result<_>>()?;
        Ok(Activations { layers, embedding: backend.allocate(graphs * state)? })
    }
}

impl<S> ActivationGradients<S> {
    /// Buffers for batches up to `capacity`.
    pub fn allocate<B: Backend<Stored = S>>(
        backend: &B,
        config: ModelConfig,
        capacity: BatchSize,
    ) -> Result<Self> {
        let BatchSize { nodes, edges, .. } = capacity;
        let (state, hidden) = (config.state_width, config.hidden_width);
        Ok(ActivationGradients {
            d_node_state: backend.allocate_stored(nodes, state)?,
            d_edge_state: backend.allocate_stored(edges, state)?,
            d_node_hidden: backend.allocate_stored(nodes, hidden)?,
            d_pooled: backend.allocate_stored(nodes, hidden)?,
            d_edge_heads: backend.allocate_stored(edges, 2 * hidden + state)?,
            d_edge_hidden: backend.allocate_stored(edges, hidden)?,
        })
    }
}
