//! The network's sizes, and its switches.

use serde::{Deserialize, Serialize};

/// What the network is: its sizes (model.md's symbols in brackets), and the switches of the ablations, which the paper's
/// network has on. A file without a switch is of a network that has it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ModelConfig {
    /// Object types, `image` included (V_o).
    pub object_types: usize,
    /// Predicate types, `in image` included (V_p).
    pub predicate_types: usize,
    /// Graph convolution layers (L).
    pub layers: usize,
    /// Width of node states, edge states and embeddings (D).
    pub state_width: usize,
    /// Width of hidden layers and messages (H).
    pub hidden_width: usize,
    /// Whether blocks normalise their columns. Without, a block is `relu(weight * (x W^T) + bias)`: parameters of the same
    /// names and shapes, and running statistics that stay at 0 and 1.
    #[serde(default = "on")]
    pub batch_norm: bool,
    /// Whether node states are l2-normalised between layers. The embedding always is, so that inner products of embeddings
    /// are cosines, which the losses and every evaluation take them for.
    #[serde(default = "on")]
    pub l2_norm: bool,
    /// Whether the mean of a graph's last node states takes the image node in; see
    /// [`GraphBatch::mean_nodes`](crate::batch::graph_batch::GraphBatch::mean_nodes) for graphs without any other.
    #[serde(default = "on")]
    pub image_node_in_mean: bool,
}

/// What a switch is where a file does not say.
pub(crate) fn on() -> bool {
    true
}

impl ModelConfig {
    /// The paper's network, on its data.
    pub const PAPER: ModelConfig = ModelConfig {
        object_types: 2417,
        predicate_types: 479,
        layers: 5,
        state_width: 300,
        hidden_width: 512,
        batch_norm: true,
        l2_norm: true,
        image_node_in_mean: true,
    };

    /// Whether layer `layer` has the head of new edge states; nothing would read the last layer's.
    pub fn has_predicate_head(&self, layer: usize) -> bool {
        layer + 1 < self.layers
    }

    /// Columns of the heads of `layer` side by side: messages to the subject (H), new edge states (D, but for
    /// the last layer), messages to the object (H).
    pub fn heads_width(&self, layer: usize) -> usize {
        2 * self.hidden_width + self.edge_state_width(layer)
    }

    /// Columns of the edge states that `layer` makes.
    pub fn edge_state_width(&self, layer: usize) -> usize {
        if self.has_predicate_head(layer) { self.state_width } else { 0 }
    }

    /// First column of the messages to the object within the heads of `layer`.
    pub fn object_head_start(&self, layer: usize) -> usize {
        self.hidden_width + self.edge_state_width(layer)
    }
}
