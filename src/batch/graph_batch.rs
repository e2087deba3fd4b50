//! Many scene graphs concatenated into one: the input of a step.
//!
//! Node indices become batch-wide. In addition to the arrays of docs/model.md ("Scene graph"), a batch has three
//! inverse lists, built by counting. With them, every sum of a step is a gather in a fixed order, and no
//! backend needs atomic additions:
//!
//! - [`Incidence`]: node -> the messages that reach it (forward: pooling; backward: gradients of gathers);
//! - `object_occurrences`: object type -> its nodes, and `predicate_occurrences`: predicate type -> its edges
//!   (layer 0 works on the distinct types; the gradients of the embedding tables are sums over these lists).

use std::ops::Range;

use crate::data::scene_graph::SceneGraph;
pub use crate::network::batch_size::BatchSize;

/// Bit 0 of an entry of [`Incidence`]: set for the message to the edge's object, clear for its subject.
pub const OBJECT_ROLE: u32 = 1;

/// A batch of graphs with `G` graphs, `N` nodes, `E` edges and `B` triples. Either `G = 3 B` (anchors, then
/// positives, then negatives), or there are no triples.
#[derive(Debug, Default)]
pub struct GraphBatch {
    /// `[G + 1] -> node` graph offsets: the nodes of graph g are `graph_offsets[g]..graph_offsets[g + 1]`.
    pub graph_offsets: Vec<u32>,
    /// `[G] -> node` end of the nodes of each graph other than its image node; see
    /// [`GraphBatch::mean_nodes`].
    pub object_ends: Vec<u32>,
    /// `[N] -> object type` type of each node.
    pub node_object: Vec<u32>,
    /// `[N] -> graph` graph of each node.
    pub node_graph: Vec<u32>,
    /// `[E] -> node` subject of each edge.
    pub edge_subject: Vec<u32>,
    /// `[E] -> predicate type` type of each edge.
    pub edge_predicate: Vec<u32>,
    /// `[E] -> node` object of each edge.
    pub edge_object: Vec<u32>,
    /// Messages of each node.
    pub incidence: Incidence,
    /// Nodes of each object type.
    pub object_occurrences: Occurrences,
    /// Edges of each predicate type.
    pub predicate_occurrences: Occurrences,
    /// `[B]` similarity of anchor and positive; empty if only embeddings are needed.
    pub similarity_positive: Vec<f32>,
    /// `[B]` similarity of anchor and negative; empty if only embeddings are needed.
    pub similarity_negative: Vec<f32>,
}

/// Messages that reach each node, as compressed rows.
#[derive(Debug, Default)]
pub struct Incidence {
    /// `[N + 1] -> entry` start of each node's entries.
    pub offsets: Vec<u32>,
    /// `[2 E]` entries `2 edge + role`, ascending within a node; role 0 is the edge's subject,
    /// [`OBJECT_ROLE`] its object.
    pub entries: Vec<u32>,
}

/// Distinct types of a batch's rows (nodes or edges), and the rows of each type.
#[derive(Debug, Default)]
pub struct Occurrences {
    /// `[U]` types in use, ascending.
    pub types: Vec<u32>,
    /// `[rows] -> index into types` type of each row.
    pub slot: Vec<u32>,
    /// `[U + 1] -> entry` start of each type's entries.
    pub offsets: Vec<u32>,
    /// `[rows]` rows by type, ascending within a type.
    pub entries: Vec<u32>,
    /// `[types of the vocabulary]` scratch memory: slot of each type while counting.
    slot_of_type: Vec<u32>,
}

impl BatchSize {
    /// Size that no batch with `graphs` of these graphs exceeds.
    pub fn bound<'a>(all: impl Iterator<Item = SceneGraph<'a>>, graphs: usize) -> Self {
        let (mut nodes, mut edges) = (0, 0);
        for graph in all {
            nodes = nodes.max(graph.node_count());
            edges = edges.max(graph.edge_count());
        }
        BatchSize { graphs, nodes: nodes * graphs, edges: edges * graphs }
    }

    /// The larger number of each kind.
    pub fn max_of_each(self, other: Self) -> Self {
        BatchSize {
            graphs: self.graphs.max(other.graphs),
            nodes: self.nodes.max(other.nodes),
            edges: self.edges.max(other.edges),
        }
    }

    /// Whether a batch of this size fits into buffers of size `capacity`.
    pub fn fits(&self, capacity: BatchSize) -> bool {
        self.graphs <= capacity.graphs && self.nodes <= capacity.nodes && self.edges <= capacity.edges
    }
}

impl GraphBatch {
    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.graph_offsets.clear();
        self.graph_offsets.push(0);
        self.node_object.clear();
        self.node_graph.clear();
        self.edge_subject.clear();
        self.edge_predicate.clear();
        self.edge_object.clear();
        self.similarity_positive.clear();
        self.similarity_negative.clear();
    }

    /// Appends a graph.
    pub fn push_graph(&mut self, graph: SceneGraph<'_>) {
        let graph_index = self.graph_offsets.len() as u32 - 1;
        let first_node = self.node_object.len() as u32;
        self.node_object.extend_from_slice(graph.node_object);
        self.node_graph.extend(graph.node_object.iter().map(|_| graph_index));
        self.edge_subject.extend(graph.edge_subject.iter().map(|node| first_node + node));
        self.edge_predicate.extend_from_slice(graph.edge_predicate);
        self.edge_object.extend(graph.edge_object.iter().map(|node| first_node + node));
        self.graph_offsets.push(self.node_object.len() as u32);
    }

    /// Builds the inverse lists and the ends of the graphs' objects. Called after the last graph.
    pub fn index(&mut self, object_types: usize, predicate_types: usize) {
        let is_image = |node: u32| self.node_object[node as usize] as usize + 1 == object_types;
        self.object_ends.clear();
        self.object_ends.extend(self.graph_offsets.windows(2).map(|nodes| match nodes[1] - nodes[0] {
            0 | 1 => nodes[1],
            _ => nodes[1] - u32::from(is_image(nodes[1] - 1)),
        }));
        self.incidence.build(self.node_object.len(), &self.edge_subject, &self.edge_object);
        self.object_occurrences.build(&self.node_object, object_types);
        self.predicate_occurrences.build(&self.edge_predicate, predicate_types);
    }

    /// Builds the indexed batch of `graphs`.
    pub fn of_graphs<'a>(
        graphs: impl Iterator<Item = SceneGraph<'a>>,
        object_types: usize,
        predicate_types: usize,
    ) -> Self {
        let mut batch = GraphBatch::default();
        batch.clear();
        graphs.for_each(|graph| batch.push_graph(graph));
        batch.index(object_types, predicate_types);
        batch
    }

    /// Nodes whose mean is the embedding of `graph`: all, or all but its image node.
    ///
    /// The image node is the graph's last node, if that has the last object type. A query that lost all edges
    /// to its image node has none, so nothing is left out. The image node is also kept if it is the only
    /// node, because the mean must not be empty.
    pub fn mean_nodes(&self, graph: usize, image_node_in_mean: bool) -> Range<usize> {
        let end = match image_node_in_mean {
            true => self.graph_offsets[graph + 1],
            false => self.object_ends[graph],
        };
        self.graph_offsets[graph] as usize..end as usize
    }

    /// Number of graphs, nodes and edges.
    pub fn size(&self) -> BatchSize {
        BatchSize {
            graphs: self.graph_offsets.len() - 1,
            nodes: self.node_object.len(),
            edges: self.edge_subject.len(),
        }
    }
}

// Implemented by hand: the derived `clone_from` would allocate, and backends copy a batch every step.

macro_rules! clone_fields {
    ($type:ty { $($field:ident),* }) => {
        impl Clone for $type {
            fn clone(&self) -> Self {
                Self { $($field: self.$field.clone()),* }
            }

            fn clone_from(&mut self, from: &Self) {
                $(self.$field.clone_from(&from.$field);)*
            }
        }
    };
}

clone_fields!(GraphBatch {
    graph_offsets,
    object_ends,
    node_object,
    node_graph,
    edge_subject,
    edge_predicate,
    edge_object,
    incidence,
    object_occurrences,
    predicate_occurrences,
    similarity_positive,
    similarity_negative
});
clone_fields!(Incidence { offsets, entries });
clone_fields!(Occurrences { types, slot, offsets, entries, slot_of_type });

impl Incidence {
    fn build(&mut self, nodes: usize, edge_subject: &[u32], edge_object: &[u32]) {
        let ends = || edge_subject.iter().zip(edge_object).flat_map(|(&subject, &object)| [subject, object]);
        count_rows(ends(), nodes, &mut self.offsets, &mut self.entries);
    }

    /// Messages that reach `node`, as `(edge, role)`.
    pub fn messages(&self, node: usize) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.entries[self.range(node)].iter().map(message)
    }

    /// The same, each with the message that follows in the list of all nodes.
    pub fn messages_and_next(
        &self,
        node: usize,
    ) -> impl Iterator<Item = ((usize, u32), Option<(usize, u32)>)> + '_ {
        self.range(node).map(move |at| (message(&self.entries[at]), self.entries.get(at + 1).map(message)))
    }

    /// Number of messages that reach `node`; a self loop counts twice.
    pub fn degree(&self, node: usize) -> usize {
        self.range(node).len()
    }

    fn range(&self, node: usize) -> Range<usize> {
        self.offsets[node] as usize..self.offsets[node + 1] as usize
    }
}

/// An entry of an [`Incidence`] as `(edge, role)`.
fn message(entry: &u32) -> (usize, u32) {
    ((entry >> 1) as usize, entry & OBJECT_ROLE)
}

impl Occurrences {
    fn build(&mut self, row_types: &[u32], type_count: usize) {
        const ABSENT: u32 = u32::MAX;
        self.slot_of_type.clear();
        self.slot_of_type.resize(type_count, ABSENT);
        for &t in row_types {
            self.slot_of_type[t as usize] = 0;
        }
        self.types.clear();
        for (t, slot) in self.slot_of_type.iter_mut().enumerate() {
            if *slot != ABSENT {
                *slot = self.types.len() as u32;
                self.types.push(t as u32);
            }
        }
        self.slot.clear();
        self.slot.extend(row_types.iter().map(|&t| self.slot_of_type[t as usize]));
        count_rows(self.slot.iter().copied(), self.types.len(), &mut self.offsets, &mut self.entries);
    }

    /// Rows (nodes or edges) of the type in `slot`.
    pub fn rows(&self, slot: usize) -> &[u32] {
        &self.entries[self.offsets[slot] as usize..self.offsets[slot + 1] as usize]
    }
}

/// Counting sort, stable, of the positions of `keys` (each below `rows`) by key:
/// `entries[offsets[k]..offsets[k + 1]]` are the positions of key k, ascending.
fn count_rows(
    keys: impl Iterator<Item = u32> + Clone,
    rows: usize,
    offsets: &mut Vec<u32>,
    entries: &mut Vec<u32>,
) {
    offsets.clear();
    offsets.resize(rows + 1, 0);
    let mut total = 0;
    for key in keys.clone() {
        offsets[key as usize] += 1;
        total += 1;
    }
    let mut start = 0;
    for offset in offsets.iter_mut() {
        let count = *offset;
        *offset = start;
        start += count;
    }
    entries.clear();
    entries.resize(total, 0);
    for (position, key) in (0u32..).zip(keys) {
        let cursor = &mut offsets[key as usize];
        entries[*cursor as usize] = position;
        *cursor += 1;
    }
    // Each start has advanced to the end of its row, which is the start of the next row.
    offsets.copy_within(0..rows, 1);
    offsets[0] = 0;
}
