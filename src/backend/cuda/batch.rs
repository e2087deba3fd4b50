//! A batch on the device: its lists in one array, so that one copy brings it over, while the step before still runs.
//!
//! There are two slots, each page-locked memory and its array on the device; batches take turns. Time runs to the
//! right; the host packs a batch into a slot once the step that last read that slot is over, so that it is one step
//! ahead and never two:
//!
//! ```text
//! host      pack 1    pack 2             waits for step 1, pack 3        waits for step 2, pack 4
//! copies          up 1      up 2                                 up 3
//! compute               step 1 ----------> step 2 ----------------------> step 3
//! slots     1: batch 1, 3, 5 ...; 2: batch 2, 4, 6 ...
//! ready     recorded after a copy; the compute stream waits for it before the batch's step
//! read      recorded after a step; the host waits for it before it packs the slot's next batch
//! ```

use std::ops::Range;

use super::buffer::{Buffer, Slice};
use super::device::Device;
use super::edge_hidden::{Ends, Lists};
use super::streams::{Event, Pinned, Stream};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::error::Result;
use crate::model::config::ModelConfig;

/// A batch where the kernels read it.
pub struct Batch {
    pub(super) size: BatchSize,
    pub(super) triples: usize,
    lists: Ranges,
    slots: [Slot; 2],
    /// The slot of the batch that was loaded last.
    current: usize,
}

/// Memory of one batch, and how far it is used.
struct Slot {
    host: Pinned,
    device: Buffer<i32>,
    /// The last copy to the device.
    ready: Event,
    /// All that was launched while this was the current slot.
    read: Event,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The copy reads the host's memory. If waiting fails there is no device any more.
        let _ = self.ready.synchronize();
    }
}

/// Where each list lies in a slot.
#[derive(Debug, Default)]
struct Ranges {
    graph_offsets: Range<usize>,
    object_ends: Range<usize>,
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
    /// The bits of floats.
    similarity_positive: Range<usize>,
    /// Likewise.
    similarity_negative: Range<usize>,
}

/// The most object and predicate types that occur in a batch.
pub(super) fn most_types(config: ModelConfig, capacity: BatchSize) -> (usize, usize) {
    (config.object_types.min(capacity.nodes), config.predicate_types.min(capacity.edges))
}

/// The most numbers that a batch packs.
fn most_numbers(config: ModelConfig, capacity: BatchSize) -> usize {
    let BatchSize { graphs, nodes, edges } = capacity;
    let (objects, predicates) = most_types(config, capacity);
    let offsets = [graphs, nodes, objects, predicates].map(|rows| rows + 1).iter().sum::<usize>();
    // Beside the ends of graphs' objects: ends of edges and their types, messages by node and by type, predicates' edges
    // and slots.
    let by_edge = (4 + 4 + 2) * edges;
    offsets + graphs + by_edge + objects + predicates + 2 * (graphs / 3)
}

/// Writes lists one after another and remembers where.
struct Packer<'a> {
    to: &'a mut [i32],
    end: usize,
}

impl Packer<'_> {
    fn push(&mut self, values: impl IntoIterator<Item = u32>) -> Range<usize> {
        let start = self.end;
        for value in values {
            // Indices of a batch lie far below 2^31; the bits of floats stay what they are.
            self.to[self.end] = value as i32;
            self.end += 1;
        }
        start..self.end
    }
}

impl Slot {
    fn new(device: &Device, len: usize) -> Result<Self> {
        let mut slot = Slot {
            host: device.pinned(len)?,
            device: device.allocate_unwritten(len)?,
            ready: device.event()?,
            read: device.event()?,
        };
        // The copies' stream may write the memory once it is allocated on the other.
        device.record(&mut slot.read, Stream::Compute)?;
        Ok(slot)
    }

    /// Brings the first `len` numbers over, for launches after this.
    fn upload(&mut self, device: &Device, len: usize) -> Result<()> {
        // SAFETY: the slot keeps both until it is dropped, which waits for `ready`; it packs only after it has waited
        // for `read`, which comes after `ready`; and it lends its array only as the kernels' input.
        unsafe { device.copy(&self.host, len, self.device.slice_mut(0..len)) }?;
        device.record(&mut self.ready, Stream::Copies)?;
        device.wait(&self.ready)
    }
}

impl Batch {
    /// An empty batch with room for batches up to `capacity`.
    pub(super) fn new(device: &Device, config: ModelConfig, capacity: BatchSize) -> Result<Self> {
        let len = most_numbers(config, capacity);
        Ok(Batch {
            size: BatchSize::default(),
            triples: 0,
            lists: Ranges::default(),
            slots: [Slot::new(device, len)?, Slot::new(device, len)?],
            current: 0,
        })
    }

    /// Takes over `from`; waits if the step before the last is still running.
    pub(super) fn load(&mut self, device: &Device, from: &GraphBatch) -> Result<()> {
        device.record(&mut self.slots[self.current].read, Stream::Compute)?;
        self.current = 1 - self.current;
        let slot = &mut self.slots[self.current];
        device.host_wait(&slot.read)?;
        let mut packer = Packer { to: slot.host.values(), end: 0 };
        self.lists = Ranges::pack(&mut packer, from);
        let len = packer.end;
        self.size = from.size();
        self.triples = from.similarity_positive.len();
        slot.upload(device, len)
    }

    fn list(&self, range: &Range<usize>) -> Slice<'_, i32> {
        self.slots[self.current].device.slice(range.clone())
    }

    /// `[G + 1] -> node`.
    pub(super) fn graph_offsets(&self) -> Slice<'_, i32> {
        self.list(&self.lists.graph_offsets)
    }

    /// `[G] -> node`: as [`GraphBatch::mean_nodes`] has the ends.
    pub(super) fn mean_ends(&self, image_node_in_mean: bool) -> Slice<'_, i32> {
        match image_node_in_mean {
            true => self.graph_offsets().slice(1..self.size.graphs + 1),
            false => self.list(&self.lists.object_ends),
        }
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
        self.list(&self.lists.similarity_positive).bits_as_floats()
    }

    /// `[B]`.
    pub(super) fn similarity_negative(&self) -> Slice<'_, f32> {
        self.list(&self.lists.similarity_negative).bits_as_floats()
    }
}

impl Ranges {
    fn pack(packer: &mut Packer<'_>, from: &GraphBatch) -> Self {
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
        Ranges {
            graph_offsets: packer.push(from.graph_offsets.iter().copied()),
            object_ends: packer.push(from.object_ends.iter().copied()),
            edge_subject: packer.push(from.edge_subject.iter().copied()),
            edge_object: packer.push(from.edge_object.iter().copied()),
            node_offsets: packer.push(from.incidence.offsets.iter().copied()),
            node_entries: packer.push(from.incidence.entries.iter().copied()),
            object_types: packer.push(objects.types.iter().copied()),
            object_offsets: packer.push(std::iter::once(0).chain(object_ends)),
            object_entries: packer.push(object_entries),
            edge_subject_slot: packer.push(from.edge_subject.iter().map(slot_of_node)),
            edge_object_slot: packer.push(from.edge_object.iter().map(slot_of_node)),
            predicate_types: packer.push(predicates.types.iter().copied()),
            predicate_offsets: packer.push(predicates.offsets.iter().copied()),
            predicate_entries: packer.push(predicates.entries.iter().copied()),
            edge_predicate_slot: packer.push(predicates.slot.iter().copied()),
            similarity_positive: packer.push(from.similarity_positive.iter().map(|s| s.to_bits())),
            similarity_negative: packer.push(from.similarity_negative.iter().map(|s| s.to_bits())),
        }
    }
}
