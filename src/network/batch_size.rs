//! Size of a batch.

/// Number of graphs, nodes and edges of a batch, or the largest numbers that buffers must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSize {
    /// Number of graphs.
    pub graphs: usize,
    /// Number of nodes.
    pub nodes: usize,
    /// Number of edges.
    pub edges: usize,
}
