//! Sizes and switches of the network.

use serde::{Deserialize, Serialize};

/// Configuration of the network: its sizes (symbols of docs/model.md in brackets), and switches for ablations. The
/// paper's network has all switches on. A switch that is missing in a file is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ModelConfig {
    /// Number of object types, including `image` (V_o).
    pub object_types: usize,
    /// Number of predicate types, including `in image` (V_p).
    pub predicate_types: usize,
    /// Number of graph convolution layers (L).
    pub layers: usize,
    /// Width of node states, edge states and embeddings (D).
    pub state_width: usize,
    /// Width of hidden layers and messages (H).
    pub hidden_width: usize,
    /// Whether blocks normalise their columns. If off, a block is `relu(weight * (x W^T) + bias)`: its
    /// parameters have the same names and shapes, and its running statistics stay at 0 and 1.
    #[serde(default = "on")]
    pub batch_norm: bool,
    /// Whether node states are l2-normalised between layers. The embedding always is, so inner products of
    /// embeddings are cosines, as the losses and every evaluation assume.
    #[serde(default = "on")]
    pub l2_norm: bool,
    /// Whether the mean of a graph's last node states includes the image node.
    /// [`GraphBatch::mean_nodes`](crate::batch::graph_batch::GraphBatch::mean_nodes) describes graphs without
    /// other nodes.
    #[serde(default = "on")]
    pub image_node_in_mean: bool,
}

/// Default of a switch that is missing in a file.
pub(crate) fn on() -> bool {
    true
}

impl ModelConfig {
    /// The paper's network, with the vocabulary of its data.
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

    /// Whether layer `layer` has the head for new edge states. The last layer has none, because nothing would
    /// read them.
    pub fn has_predicate_head(&self, layer: usize) -> bool {
        layer + 1 < self.layers
    }

    /// Number of columns of the heads of `layer` side by side: messages to the subject (H), new edge states
    /// (D, none in the last layer), messages to the object (H).
    pub fn heads_width(&self, layer: usize) -> usize {
        2 * self.hidden_width + self.edge_state_width(layer)
    }

    /// Number of columns of the edge states that `layer` computes.
    pub fn edge_state_width(&self, layer: usize) -> usize {
        if self.has_predicate_head(layer) { self.state_width } else { 0 }
    }

    /// First column of the messages to the object within the heads of `layer`.
    pub fn object_head_start(&self, layer: usize) -> usize {
        self.hidden_width + self.edge_state_width(layer)
    }
}
