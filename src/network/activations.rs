//! Shapes of the values that a forward pass saves for the backward pass, and of the gradients that the
//! backward pass computes.
//!
//! `S` is memory for such values, `T` memory for statistics. Both are allocated once, for the largest batch;
//! a step uses the first rows.

use crate::network::batch_size::BatchSize;
use crate::network::config::ModelConfig;
use crate::network::parameters::BlockKind;

/// Saved values of a block with `R` rows (edges or nodes) and `C` columns.
#[derive(Debug)]
pub struct BlockActivations<S, T = S> {
    /// `[R, C]` output of the linear layer, before batch norm.
    pub linear: S,
    /// `[C]` mean that batch norm subtracts: the batch mean in training, the running mean in evaluation, 0
    /// without batch norm.
    pub mean: T,
    /// `[C]` 1 / sqrt(variance + eps), from the same source as `mean`; 1 without batch norm.
    pub rstd: T,
}

/// Saved values of a layer, every activation stored.
#[derive(Debug)]
pub struct LayerActivations<T> {
    /// `[E, H]` block on the concatenated ends and edge state.
    pub edge_hidden: BlockActivations<T>,
    /// `[E, H]` relu(norm(edge_hidden)).
    pub edge_hidden_output: T,
    /// `[E, H + D + H]` message to the subject, new edge state, message to the object; without D columns in the last layer.
    pub edge_heads: BlockActivations<T>,
    /// `[E, D]` new edge states relu(norm(edge_heads)); empty in the last layer.
    pub edge_state: T,
    /// `[N, H]` mean of the messages that reach a node.
    pub pooled: T,
    /// `[N, H]` block on `pooled`.
    pub node_hidden: BlockActivations<T>,
    /// `[N, H]` relu(norm(node_hidden)).
    pub node_hidden_output: T,
    /// `[N, D]` block on `node_hidden_output`.
    pub node_output: BlockActivations<T>,
    /// `[N, D]` new node states, rows of unit length unless [`ModelConfig::l2_norm`] is off.
    pub node_state: T,
}

/// Saved values of a forward pass, every activation stored.
#[derive(Debug)]
pub struct Activations<T> {
    /// One entry per layer.
    pub layers: Vec<LayerActivations<T>>,
}

/// Gradients with respect to activations during the backward pass; all layers reuse the same buffers.
#[derive(Debug)]
pub struct ActivationGradients<S> {
    /// `[N, D]` gradient with respect to the node states that a layer reads.
    pub d_node_state: S,
    /// `[E, D]` gradient with respect to the edge states that a layer reads.
    pub d_edge_state: S,
    /// `[N, H]` gradient with respect to `node_hidden_output`, then with respect to `node_hidden`.
    pub d_node_hidden: S,
    /// `[N, H]` gradient with respect to `pooled`.
    pub d_pooled: S,
    /// `[E, H + D + H]` gradient with respect to `edge_heads`.
    pub d_edge_heads: S,
    /// `[E, H]` gradient with respect to `edge_hidden_output`, then with respect to `edge_hidden`.
    pub d_edge_hidden: S,
}

impl<T> LayerActivations<T> {
    /// Saved values of a block.
    pub fn block(&self, kind: BlockKind) -> &BlockActivations<T> {
        match kind {
            BlockKind::EdgeHidden => &self.edge_hidden,
            BlockKind::EdgeHeads => &self.edge_heads,
            BlockKind::NodeHidden => &self.node_hidden,
            BlockKind::NodeOutput => &self.node_output,
        }
    }
}

impl<T> Activations<T> {
    /// Allocates memory for batches up to `capacity`; `allocate` returns memory for a number of values.
    pub fn new(config: ModelConfig, capacity: BatchSize, allocate: impl Fn(usize) -> T) -> Self {
        let BatchSize { nodes, edges, .. } = capacity;
        let (state, hidden) = (config.state_width, config.hidden_width);
        let block = |rows: usize, columns: usize| BlockActivations {
            linear: allocate(rows * columns),
            mean: allocate(columns),
            rstd: allocate(columns),
        };
        let layers = (0..config.layers).map(|layer| LayerActivations {
            edge_hidden: block(edges, hidden),
            edge_hidden_output: allocate(edges * hidden),
            edge_heads: block(edges, config.heads_width(layer)),
            edge_state: allocate(edges * config.edge_state_width(layer)),
            pooled: allocate(nodes * hidden),
            node_hidden: block(nodes, hidden),
            node_hidden_output: allocate(nodes * hidden),
            node_output: block(nodes, state),
            node_state: allocate(nodes * state),
        });
        Activations { layers: layers.collect() }
    }

    /// Activations of the layer below (`None` in layer 0) and of this layer.
    pub fn at(&self, layer: usize) -> (Option<&LayerActivations<T>>, &LayerActivations<T>) {
        (layer.checked_sub(1).map(|below| &self.layers[below]), &self.layers[layer])
    }

    /// Like [`Activations::at`], with this layer mutable.
    pub fn at_mut(&mut self, layer: usize) -> (Option<&LayerActivations<T>>, &mut LayerActivations<T>) {
        let (below, from_here) = self.layers.split_at_mut(layer);
        (below.last(), &mut from_here[0])
    }

    /// Node states of the last layer, which the readout averages.
    pub fn last_node_state(&self) -> &T {
        &self.layers.last().expect("a layer").node_state
    }
}

impl<S> ActivationGradients<S> {
    /// Allocates memory for batches up to `capacity`; `allocate` returns memory for a matrix, given its rows
    /// and columns.
    pub fn new<E>(
        config: ModelConfig,
        capacity: BatchSize,
        allocate: impl Fn(usize, usize) -> Result<S, E>,
    ) -> Result<Self, E> {
        let BatchSize { nodes, edges, .. } = capacity;
        let (state, hidden) = (config.state_width, config.hidden_width);
        Ok(ActivationGradients {
            d_node_state: allocate(nodes, state)?,
            d_edge_state: allocate(edges, state)?,
            d_node_hidden: allocate(nodes, hidden)?,
            d_pooled: allocate(nodes, hidden)?,
            d_edge_heads: allocate(edges, 2 * hidden + state)?,
            d_edge_hidden: allocate(edges, hidden)?,
        })
    }
}
