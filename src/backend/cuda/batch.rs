//! A batch on the device: its index lists in one array, so that one copy brings it over.

use std::ops::Range;

use super::buffer::{Buffer, Slice};
use super::device::Device;
use super::edge_hidden::{Ends, Lists};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::error::Result;

/// A batch where the kernels read it.
pub struct Batch {
    pub(super) size: BatchSize,
    pub(super) triples: usize,
    indices: Buffer<i32>,
    /// `[2 B]`: of positives, then of negatives.
    similarities: Buffer<f32>,
    lists: Ranges,
    /// The host's side of `indices`, kept for its memory.
    staging: Vec<i32>,
    staged_similarities: Vec<f32>,
}

/// Where each list lies in `indices`.
#[derive(Debug, Default)]
struct Ranges {
    graph_offsets: Range<usize>,
    edge_subject: Range<usize>,
    edge_object: Range<usize>,
    node_offsets: Range<usize>,
    node_entries: Range<usize>,
    object_types: Range<usize>,
    object_offsets: Range<usize>,
    object_entries: Range<usize>,
    edge_subject_slot: Range<usize>,
    edge_object_slot: Range<usize>,
    predicate_types: Range<usize>,
    predicate_offsets: Range<usize>,
    predicate_entries: Range<usize>,
    edge_predicate_slot: Range<usize>,
}

/// Appends lists and remembers where.
struct Staging<'a>(&'a mut Vec<i32>);

impl Staging<'_> {
    fn push(&mut self, values: impl IntoIterator<Item = u32>) -> Range<usize> {
        let start = self.0.len();
        // Indices of a batch lie far below 2^31.
        self.0.extend(values.into_iter().map(|value| value as i32));
        start..self.0.len()
    }
}

impl Batch {
    /// An empty batch.
    pub(super) fn new(device: &Device) -> Result<Self> {
        Ok(Batch {
            size: BatchSize::default(),
            triples: 0,
            indices: device.allocate(0)?,
            similarities: device.allocate(0)?,
            lists: Ranges::default(),
            staging: Vec::new(),
            staged_similarities: Vec::new(),
        })
    }

    /// Takes over `from`.
    pub(super) fn load(&mut self, device: &Device, from: &GraphBatch) -> Result<()> {
        self.size = from.size();
        self.triples = from.similarity_positive.len();
        self.staging.clear();
        let mut staging = Staging(&mut self.staging);
        let (objects, predicates) = (&from.object_occurrences, &from.predicate_occurrences);
        // The messages of an object type's nodes, node by node: layer 0 sums over them without summing by node first.
        let slots = 0..objects.types.len();
        let mut end = 0;
        let object_ends = slots.clone().map(|slot| {
            end += objects.rows(slot).iter().map(|&n| from.incidence.degree(n as usize) as u32).sum::<u32>();
            end
        });
        let object_entries = slots
            .flat_map(|slot| objects.rows(slot))
            .flat_map(|&node| from.incidence.messages(node as usize))
            .map(|(edge, role)| 2 * edge as u32 + role);
        let slot_of_node = |&node: &u32| objects.slot[node as usize];
        self.lists = Ranges {
            graph_offsets: staging.push(from.graph_offsets.iter().copied()),
            edge_subject: staging.push(from.edge_subject.iter().copied()),
            edge_object: staging.push(from.edge_object.iter().copied()),
            node_offsets: staging.push(from.incidence.offsets.iter().copied()),
            node_entries: staging.push(from.incidence.entries.iter().copied()),
            object_types: staging.push(objects.types.iter().copied()),
            object_offsets: staging.push(std::iter::once(0).chain(object_ends)),
            object_entries: staging.push(object_entries),
            edge_subject_slot: staging.push(from.edge_subject.iter().map(slot_of_node)),
            edge_object_slot: staging.push(from.edge_object.iter().map(slot_of_node)),
            predicate_types: staging.push(predicates.types.iter().copied()),
            predicate_offsets: staging.push(predicates.offsets.iter().copied()),
            predicate_entries: staging.push(predicates.entries.iter().copied()),
            edge_predicate_slot: staging.push(predicates.slot.iter().copied()),
        };
        device.reserve(&mut self.indices, self.staging.len())?;
        device.upload(&self.staging, self.indices.slice_mut(0..self.staging.len()))?;
        self.staged_similarities.clear();
        self.staged_similarities.extend_from_slice(&from.similarity_positive);
        self.staged_similarities.extend_from_slice(&from.similarity_negative);
        device.reserve(&mut self.similarities, 2 * self.triples)?;
        device.upload(&self.staged_similarities, self.similarities.slice_mut(0..2 * self.triples))
    }

    fn list(&self, range: &Range<usize>) -> Slice<'_, i32> {
        self.indices.slice(range.clone())
    }

    /// `[G + 1] -> node`.
    pub(super) fn graph_offsets(&self) -> Slice<'_, i32> {
        self.list(&self.lists.graph_offsets)
    }

    /// The nodes of each edge.
    pub(super) fn nodes(&self) -> Ends<'_> {
        Ends { subject: self.list(&self.lists.edge_subject), object: self.list(&self.lists.edge_object) }
    }

    /// The object types of each edge's nodes, as indices into the types that occur.
    pub(super) fn node_types(&self) -> Ends<'_> {
        Ends {
            subject: self.list(&self.lists.edge_subject_slot),
            object: self.list(&self.lists.edge_object_slot),
        }
    }

    /// Node -> `2 edge + role`.
    pub(super) fn incidence(&self) -> Lists<'_> {
        Lists { offsets: self.list(&self.lists.node_offsets), entries: self.list(&self.lists.node_entries) }
    }

    /// The object types that occur, ascending.
    pub(super) fn object_types(&self) -> Slice<'_, i32> {
        self.list(&self.lists.object_types)
    }

    /// Object type that occurs -> `2 edge + role` of its nodes.
    pub(super) fn object_incidence(&self) -> Lists<'_> {
        Lists {
            offsets: self.list(&self.lists.object_offsets),
            entries: self.list(&self.lists.object_entries),
        }
    }

    /// The predicate types that occur, ascending.
    pub(super) fn predicate_types(&self) -> Slice<'_, i32> {
        self.list(&self.lists.predicate_types)
    }

    /// `[E]` -> predicate type that occurs.
    pub(super) fn edge_predicate_slot(&self) -> Slice<'_, i32> {
        self.list(&self.lists.edge_predicate_slot)
    }

    /// Predicate type that occurs -> edges.
    pub(super) fn predicate_edges(&self) -> Lists<'_> {
        Lists {
            offsets: self.list(&self.lists.predicate_offsets),
            entries: self.list(&self.lists.predicate_entries),
        }
    }

    /// `[B]`.
    pub(super) fn similarity_positive(&self) -> Slice<'_, f32> {
        self.similarities.slice(0..self.triples)
    }

    /// `[B]`.
    pub(super) fn similarity_negative(&self) -> Slice<'_, f32> {
        self.similarities.slice(self.triples..2 * self.triples)
    }
}
