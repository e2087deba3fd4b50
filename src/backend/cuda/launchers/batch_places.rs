//! Layout of a batch in its slot: one array of 32-bit numbers that all kernels read.
//!
//! The array begins with a header of six numbers. The position of every list follows from the capacity alone,
//! so kernels find header and lists for a batch of any size:
//!
//! ```text
//! header   graphs G, nodes N, edges E, object types in use U, predicate types in use V, triples B
//! lists    consecutive, in the order of Places, each with room for its largest size
//! ```

use super::batch_norm::CHUNK_ROWS;
use crate::backend::cuda::device::kernel::MOST_THREADS;
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::error::{Error, Result};
use crate::network::config::ModelConfig;

/// Largest number of nodes, and of edges, of a batch: a grid has at most 65,535 blocks in its second dimension, one for each
/// chunk of rows.
pub const MOST_ROWS: usize = 65_535 * CHUNK_ROWS;

/// Checks that the kernels can take batches up to `capacity`, for a network of these sizes.
pub fn check_capacity(config: ModelConfig, capacity: BatchSize) -> Result<()> {
    // The widest matrix has the outputs of the heads: two messages and the state of an edge. A thread has four columns.
    let fours = (2 * config.hidden_width + config.state_width).div_ceil(4);
    let most = MOST_ROWS.min(MOST_THREADS / fours.max(1));
    for (what, count) in [("edges", capacity.edges), ("nodes", capacity.nodes)] {
        if count > most {
            let problem = format!("a batch may have {count} {what}, and the kernels take at most {most}");
            return Err(Error::argument("--batch-size", problem, "lower it, or use --device cpu"));
        }
    }
    Ok(())
}

/// Sizes of a batch, or the largest sizes that fit, in the order of the header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Number of graphs, G.
    pub(crate) graphs: usize,
    /// Number of nodes, N.
    pub(crate) nodes: usize,
    /// Number of edges, E.
    pub(crate) edges: usize,
    /// Number of object types in use, U.
    pub(crate) objects: usize,
    /// Number of predicate types in use, V.
    pub(crate) predicates: usize,
    /// Number of triples, B.
    pub(crate) triples: usize,
}

/// Length of the header, at the start of the slot.
pub const HEADER: usize = 6;

impl Counts {
    /// Sizes of this batch.
    pub(crate) fn of(batch: &GraphBatch) -> Self {
        let BatchSize { graphs, nodes, edges } = batch.size();
        let objects = batch.object_occurrences.types.len();
        let predicates = batch.predicate_occurrences.types.len();
        Counts { graphs, nodes, edges, objects, predicates, triples: batch.similarity_positive.len() }
    }

    /// Largest sizes of batches up to `capacity`.
    pub(crate) fn most(config: ModelConfig, capacity: BatchSize) -> Self {
        let BatchSize { graphs, nodes, edges } = capacity;
        let (objects, predicates) = most_types(config, capacity);
        Counts { graphs, nodes, edges, objects, predicates, triples: graphs / 3 }
    }

    /// Largest sizes of batches up to `size`, of which these are the most.
    pub(crate) fn up_to(self, size: BatchSize) -> Self {
        let BatchSize { graphs, nodes, edges } = size;
        let (objects, predicates) = (self.objects.min(nodes), self.predicates.min(edges));
        Counts { graphs, nodes, edges, objects, predicates, triples: graphs / 3 }
    }

    /// Header as read by the kernels.
    pub(crate) fn header(self) -> [usize; HEADER] {
        let Counts { graphs, nodes, edges, objects, predicates, triples } = self;
        [graphs, nodes, edges, objects, predicates, triples]
    }
}

/// Largest numbers of object and predicate types in a batch.
pub(crate) fn most_types(config: ModelConfig, capacity: BatchSize) -> (usize, usize) {
    (config.object_types.min(capacity.nodes), config.predicate_types.min(capacity.edges))
}

/// Position of each list in a slot.
#[derive(Debug)]
pub struct Places {
    /// Sizes that fit in the slot.
    pub(crate) most: Counts,
    /// `[G + 1] -> node` first node of each graph.
    pub(crate) graph_offsets: usize,
    /// `[G] -> node` end of the objects of each graph.
    pub(crate) object_ends: usize,
    /// `[E] -> node` subject of each edge.
    pub(crate) edge_subject: usize,
    /// `[E] -> node` object of each edge.
    pub(crate) edge_object: usize,
    /// `[N + 1] -> node_entries` start of the messages of each node.
    pub(crate) node_offsets: usize,
    /// `[2 E] -> 2 edge + role` messages by node.
    pub(crate) node_entries: usize,
    /// `[U]` object types in use, ascending.
    pub(crate) object_types: usize,
    /// `[U + 1] -> object_entries` start of the messages of each object type.
    pub(crate) object_offsets: usize,
    /// `[2 E] -> 2 edge + role` messages by object type, and by node within a type.
    pub(crate) object_entries: usize,
    /// `[E] -> object_types` type of the edge's subject.
    pub(crate) edge_subject_slot: usize,
    /// `[E] -> object_types` type of the edge's object.
    pub(crate) edge_object_slot: usize,
    /// `[V]` predicate types in use, ascending.
    pub(crate) predicate_types: usize,
    /// `[V + 1] -> predicate_entries` start of the edges of each predicate type.
    pub(crate) predicate_offsets: usize,
    /// `[E] -> edge` edges by predicate type.
    pub(crate) predicate_entries: usize,
    /// `[E] -> predicate_types` type of the edge's predicate.
    pub(crate) edge_predicate_slot: usize,
    /// `[B]` similarity of anchor and positive, as bits of floats.
    pub(crate) similarity_positive: usize,
    /// `[B]` similarity of anchor and negative, as bits of floats.
    pub(crate) similarity_negative: usize,
    /// End of the last list.
    end: usize,
}

impl Places {
    /// Layout of a slot for batches up to `capacity`, for a network of these sizes.
    pub fn new(config: ModelConfig, capacity: BatchSize) -> Self {
        let most = Counts::most(config, capacity);
        let Counts { graphs, nodes, edges, objects, predicates, triples } = most;
        let mut end = HEADER;
        let mut place = |len: usize| {
            end += len;
            end - len
        };
        Places {
            most,
            graph_offsets: place(graphs + 1),
            object_ends: place(graphs),
            edge_subject: place(edges),
            edge_object: place(edges),
            node_offsets: place(nodes + 1),
            node_entries: place(2 * edges),
            object_types: place(objects),
            object_offsets: place(objects + 1),
            object_entries: place(2 * edges),
            edge_subject_slot: place(edges),
            edge_object_slot: place(edges),
            predicate_types: place(predicates),
            predicate_offsets: place(predicates + 1),
            predicate_entries: place(edges),
            edge_predicate_slot: place(edges),
            similarity_positive: place(triples),
            similarity_negative: place(triples),
            end: place(0),
        }
    }

    /// Length of a slot.
    pub fn slot_len(&self) -> usize {
        self.end
    }

    /// Writes the header and the lists of `from`.
    pub fn pack(&self, to: &mut [i32], from: &GraphBatch) {
        let (objects, predicates) = (&from.object_occurrences, &from.predicate_occurrences);
        // Messages by object type, node by node: layer 0 sums over them without summing by node first.
        let slots = 0..objects.types.len();
        let mut end = 0;
        let type_ends = slots.clone().map(|slot| {
            end += objects.rows(slot).iter().map(|&n| from.incidence.degree(n as usize) as u32).sum::<u32>();
            end
        });
        let object_entries = slots
            .flat_map(|slot| objects.rows(slot))
            .flat_map(|&node| from.incidence.messages(node as usize))
            .map(|(edge, role)| 2 * edge as u32 + role);
        let slot_of_node = |&node: &u32| objects.slot[node as usize];
        put(to, 0, Counts::of(from).header().map(|count| count as u32));
        put(to, self.graph_offsets, from.graph_offsets.iter().copied());
        put(to, self.object_ends, from.object_ends.iter().copied());
        put(to, self.edge_subject, from.edge_subject.iter().copied());
        put(to, self.edge_object, from.edge_object.iter().copied());
        put(to, self.node_offsets, from.incidence.offsets.iter().copied());
        put(to, self.node_entries, from.incidence.entries.iter().copied());
        put(to, self.object_types, objects.types.iter().copied());
        put(to, self.object_offsets, std::iter::once(0).chain(type_ends));
        put(to, self.object_entries, object_entries);
        put(to, self.edge_subject_slot, from.edge_subject.iter().map(slot_of_node));
        put(to, self.edge_object_slot, from.edge_object.iter().map(slot_of_node));
        put(to, self.predicate_types, predicates.types.iter().copied());
        put(to, self.predicate_offsets, predicates.offsets.iter().copied());
        put(to, self.predicate_entries, predicates.entries.iter().copied());
        put(to, self.edge_predicate_slot, predicates.slot.iter().copied());
        put(to, self.similarity_positive, from.similarity_positive.iter().map(|s| s.to_bits()));
        put(to, self.similarity_negative, from.similarity_negative.iter().map(|s| s.to_bits()));
    }
}

/// Writes `values` starting at `at`. Indices lie far below 2^31, and the bits of floats are preserved.
fn put(to: &mut [i32], at: usize, values: impl IntoIterator<Item = u32>) {
    let mut to = to[at..].iter_mut();
    for value in values {
        *to.next().expect("a batch that fits the capacity") = value as i32;
    }
}
