//! The network's sizes.

use serde::{Deserialize, Serialize};

/// Sizes of the network (model.md's symbols in brackets).
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
}

impl ModelConfig {
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
