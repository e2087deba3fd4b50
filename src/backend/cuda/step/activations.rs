//! Values that a forward pass saves on the device.
//!
//! Activated outputs are not stored: each consumer applies batch norm and ReLU while loading. Node states are stored only in
//! the last layer, for the readout; the layers between divide by the row lengths while storing (`layer_input.rs`).

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::Buffer;
use crate::backend::cuda::launchers::batch_norm::{Norm, Statistics};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;
use crate::network::batch_size::BatchSize;
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, BlockLayout};

/// Saved values of a block with `R` rows and `C` columns.
pub struct Block<T> {
    /// `[R, C]` output of the linear layer, before batch norm.
    pub linear: Buffer<T>,
    /// Batch norm of these values.
    pub norm: BlockNorm,
}

/// Batch norm of a block, as in [`Norm`]: `[C]` each.
pub struct BlockNorm {
    /// Mean that batch norm subtracts: that of the batch in training, the running mean in evaluation, 0 without
    /// batch norm.
    pub mean: Buffer<f32>,
    /// 1 / sqrt(variance + eps), from the same source as `mean`; 1 without batch norm.
    pub rstd: Buffer<f32>,
    /// rstd times the weight.
    pub scale: Buffer<f32>,
    /// bias - scale mean.
    pub shift: Buffer<f32>,
}

/// Batch norm of a block.
pub(crate) fn norm<T>(block: &Block<T>) -> Norm<'_> {
    let BlockNorm { mean, rstd, scale, shift } = &block.norm;
    Norm { mean: mean.all(), rstd: rstd.all(), scale: scale.all(), shift: shift.all() }
}

/// Destination of a block's statistics.
pub(crate) fn statistics<'a>(
    layout: &BlockLayout,
    values: &'a Buffer<f32>,
    norm: &'a mut BlockNorm,
) -> Statistics<'a> {
    let BlockNorm { mean, rstd, scale, shift } = norm;
    Statistics {
        mean: mean.all_mut(),
        rstd: rstd.all_mut(),
        scale: scale.all_mut(),
        shift: shift.all_mut(),
        weight: values.slice(layout.norm_weight.clone()),
        bias: values.slice(layout.norm_bias.clone()),
    }
}

/// Saved values of a layer.
pub struct LayerActivations<T> {
    /// `[E, H]` block on the ends and the edge state.
    pub edge_hidden: Block<T>,
    /// `[E, H + D + H]` heads; without D columns in the last layer.
    pub edge_heads: Block<T>,
    /// `[E, D]` activated edge states; present only if alignment prevents products from reading them among
    /// the heads.
    pub edge_state: Option<Buffer<T>>,
    /// `[N, H]` mean of the messages that reach a node.
    pub pooled: Buffer<T>,
    /// `[N, H]` block on `pooled`.
    pub node_hidden: Block<T>,
    /// `[N, D]` block on the activated `node_hidden`.
    pub node_output: Block<T>,
}

/// Saved values of a forward pass.
pub struct Activations<T> {
    /// One entry per layer.
    pub layers: Vec<LayerActivations<T>>,
    /// `[N, D]` node states of the last layer.
    pub node_state: Buffer<T>,
}

/// Allocates a matrix of zeros in the stored type.
pub(crate) fn allocate_stored<T: StoredElement>(
    device: &Device,
    rows: usize,
    columns: usize,
) -> Result<Buffer<T>> {
    device.allocate(rows * T::stride(columns))
}

/// Whether products can read the edge states among the heads, between the messages. This requires aligned
/// columns.
pub(crate) fn reads_edge_states_of_heads<T: StoredElement>(config: ModelConfig) -> bool {
    T::begins_row(config.hidden_width)
}

impl<T: StoredElement> Activations<T> {
    /// Allocates memory for batches up to `capacity`.
    pub(crate) fn new(device: &Device, config: ModelConfig, capacity: BatchSize) -> Result<Self> {
        let BatchSize { nodes, edges, .. } = capacity;
        let (state, hidden) = (config.state_width, config.hidden_width);
        let block = |rows: usize, columns: usize| -> Result<Block<T>> {
            let vector = || device.allocate(columns);
            Ok(Block {
                linear: allocate_stored(device, rows, columns)?,
                norm: BlockNorm { mean: vector()?, rstd: vector()?, scale: vector()?, shift: vector()? },
            })
        };
        let layer = |layer: usize| -> Result<LayerActivations<T>> {
            let stores_edge_states = !reads_edge_states_of_heads::<T>(config);
            let edge_state = || allocate_stored(device, edges, config.edge_state_width(layer));
            Ok(LayerActivations {
                edge_hidden: block(edges, hidden)?,
                edge_heads: block(edges, config.heads_width(layer))?,
                edge_state: stores_edge_states.then(edge_state).transpose()?,
                pooled: allocate_stored(device, nodes, hidden)?,
                node_hidden: block(nodes, hidden)?,
                node_output: block(nodes, state)?,
            })
        };
        Ok(Activations {
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            node_state: allocate_stored(device, nodes, state)?,
        })
    }

    /// Activations of the layer below (`None` in layer 0) and of this layer.
    pub(crate) fn at(&self, layer: usize) -> (Option<&LayerActivations<T>>, &LayerActivations<T>) {
        (layer.checked_sub(1).map(|below| &self.layers[below]), &self.layers[layer])
    }

    /// Like [`Activations::at`], with this layer mutable.
    pub(crate) fn at_mut(
        &mut self,
        layer: usize,
    ) -> (Option<&LayerActivations<T>>, &mut LayerActivations<T>) {
        let (below, from_here) = self.layers.split_at_mut(layer);
        (below.last(), &mut from_here[0])
    }

    /// Saved values of a block.
    pub(crate) fn block(&self, layer: usize, kind: BlockKind) -> &Block<T> {
        let layer = &self.layers[layer];
        match kind {
            BlockKind::EdgeHidden => &layer.edge_hidden,
            BlockKind::EdgeHeads => &layer.edge_heads,
            BlockKind::NodeHidden => &layer.node_hidden,
            BlockKind::NodeOutput => &layer.node_output,
        }
    }
}
