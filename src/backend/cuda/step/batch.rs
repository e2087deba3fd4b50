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
//!
//! A slot's array begins with a header of six numbers, and every list lies at a place that follows from the capacity
//! alone, so that kernels find both wherever a batch of any size was written:
//!
//! ```text
//! header   graphs G, nodes N, edges E, object types that occur U, predicate types that occur V, triples B
//! lists    one after another, in the order of Places, each with room for the most of its kind
//! ```
//!
//! In training no batch is loaded: the device keeps the training set (`training_set.rs`), and each step puts together its
//! own, in the first slot.

use super::training_set::TrainingSet;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Slice};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::streams::{Event, Pinned, Stream};
use crate::backend::cuda::launchers::edge_hidden::{Ends, Lists};
use crate::backend::cuda::launchers::embedding::Occurring;
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::error::Result;
use crate::network::config::ModelConfig;

/// A batch where the kernels read it.
pub struct Batch {
    places: Places,
    /// Of the batch that was loaded last.
    counts: Counts,
    /// Whether grids are for the most that there may be, rather than for that batch.
    for_most: bool,
    slots: [Slot; 2],
    /// The slot of that batch, or where the next is put together.
    current: usize,
    /// Whether each step puts together its batch.
    assembles: bool,
    training_set: Option<TrainingSet>,
}

/// Where batches come from, as an index: from the host into slot 0 or 1, or put together.
pub(crate) const SOURCES: usize = 3;

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

/// The numbers of a batch, or the most that there may be: those of the header, in its order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) graphs: usize,
    pub(crate) nodes: usize,
    pub(crate) edges: usize,
    pub(crate) objects: usize,
    pub(crate) predicates: usize,
    pub(crate) triples: usize,
}

/// Numbers in the header, at the slot's start.
pub const HEADER: usize = 6;

impl Counts {
    fn of(batch: &GraphBatch) -> Self {
        let BatchSize { graphs, nodes, edges } = batch.size();
        let objects = batch.object_occurrences.types.len();
        let predicates = batch.predicate_occurrences.types.len();
        Counts { graphs, nodes, edges, objects, predicates, triples: batch.similarity_positive.len() }
    }

    fn most(config: ModelConfig, capacity: BatchSize) -> Self {
        let BatchSize { graphs, nodes, edges } = capacity;
        let (objects, predicates) = most_types(config, capacity);
        Counts { graphs, nodes, edges, objects, predicates, triples: graphs / 3 }
    }

    fn header(self) -> [usize; HEADER] {
        let Counts { graphs, nodes, edges, objects, predicates, triples } = self;
        [graphs, nodes, edges, objects, predicates, triples]
    }
}

/// The most object and predicate types that occur in a batch.
pub(crate) fn most_types(config: ModelConfig, capacity: BatchSize) -> (usize, usize) {
    (config.object_types.min(capacity.nodes), config.predicate_types.min(capacity.edges))
}

/// Where each list begins in a slot.
#[derive(Debug)]
pub struct Places {
    /// What there is room for.
    pub(crate) most: Counts,
    /// `[G + 1] -> node`.
    pub(crate) graph_offsets: usize,
    /// `[G] -> node`: where each graph's objects end.
    pub(crate) object_ends: usize,
    /// `[E] -> node`.
    pub(crate) edge_subject: usize,
    /// `[E] -> node`.
    pub(crate) edge_object: usize,
    /// `[N + 1] -> node_entries`.
    pub(crate) node_offsets: usize,
    /// `[2 E] -> 2 edge + role`, by node.
    pub(crate) node_entries: usize,
    /// `[U]`: the object types that occur, ascending.
    pub(crate) object_types: usize,
    /// `[U + 1] -> object_entries`.
    pub(crate) object_offsets: usize,
    /// `[2 E] -> 2 edge + role`, by object type, and by node within one.
    pub(crate) object_entries: usize,
    /// `[E] -> object_types`: of the edge's subject.
    pub(crate) edge_subject_slot: usize,
    /// `[E] -> object_types`: of the edge's object.
    pub(crate) edge_object_slot: usize,
    /// `[V]`: the predicate types that occur, ascending.
    pub(crate) predicate_types: usize,
    /// `[V + 1] -> predicate_entries`.
    pub(crate) predicate_offsets: usize,
    /// `[E] -> edge`, by predicate type.
    pub(crate) predicate_entries: usize,
    /// `[E] -> predicate_types`.
    pub(crate) edge_predicate_slot: usize,
    /// `[B]`: the bits of floats.
    pub(crate) similarity_positive: usize,
    /// `[B]`: likewise.
    pub(crate) similarity_negative: usize,
    /// Of the last list.
    end: usize,
}

impl Places {
    /// Of a slot for batches up to `capacity` of a network of these sizes.
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

    /// Numbers of a slot.
    pub fn slot_len(&self) -> usize {
        self.end
    }

    /// Writes header and lists of `from`.
    pub fn pack(&self, to: &mut [i32], from: &GraphBatch) {
        let (objects, predicates) = (&from.object_occurrences, &from.predicate_occurrences);
        // The messages of an object type's nodes, node by node: layer 0 sums over them without summing by node first.
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

/// Indices of a batch lie far below 2^31; the bits of floats stay what they are.
fn put(to: &mut [i32], at: usize, values: impl IntoIterator<Item = u32>) {
    let mut to = to[at..].iter_mut();
    for value in values {
        *to.next().expect("a batch that fits the capacity") = value as i32;
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

    /// Brings header and lists over, for launches after this.
    fn upload(&mut self, device: &Device) -> Result<()> {
        let len = self.host.len();
        // SAFETY: the slot keeps both until it is dropped, which waits for `ready`; it packs only after it has waited
        // for `read`, which comes after `ready`; and it lends its array only as the kernels' input.
        unsafe { device.copy(&self.host, len, self.device.slice_mut(0..len)) }?;
        device.record(&mut self.ready, Stream::Copies)?;
        device.wait(&self.ready)
    }
}

impl Batch {
    /// An empty batch with room for batches up to `capacity`.
    pub(crate) fn new(device: &Device, config: ModelConfig, capacity: BatchSize) -> Result<Self> {
        let places = Places::new(config, capacity);
        let len = places.slot_len();
        Ok(Batch {
            places,
            counts: Counts::most(config, BatchSize::default()),
            for_most: false,
            slots: [Slot::new(device, len)?, Slot::new(device, len)?],
            current: 0,
            assembles: false,
            training_set: None,
        })
    }

    /// How its lists lie in a slot.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Once: captured steps hold the addresses of its memory.
    pub(crate) fn keep_training_set(&mut self, set: TrainingSet) {
        assert!(self.training_set.replace(set).is_none(), "a second training set");
    }

    /// That was kept.
    pub(crate) fn training_set(&mut self) -> &mut TrainingSet {
        self.training_set.as_mut().expect("a training set")
    }

    /// Steps put together their batches from here on, until one is loaded.
    pub(crate) fn take_from_training_set(&mut self, device: &Device) -> Result<()> {
        if !self.assembles {
            // A batch that is loaded later must find what reads this slot until now.
            device.record(&mut self.slots[self.current].read, Stream::Compute)?;
            self.current = 0;
            self.assembles = true;
        }
        Ok(())
    }

    /// Puts together the step's batch, unless one was loaded.
    pub(crate) fn assemble(&mut self, device: &Device) -> Result<()> {
        let Batch { places, slots, current, assembles: true, training_set: Some(set), .. } = self else {
            return Ok(());
        };
        set.assemble(device, slots[*current].device.slice_mut(0..places.slot_len()), places)
    }

    /// Takes over `from`; waits if the step before the last is still running.
    pub(crate) fn load(&mut self, device: &Device, from: &GraphBatch) -> Result<()> {
        device.record(&mut self.slots[self.current].read, Stream::Compute)?;
        self.current = 1 - self.current;
        let slot = &mut self.slots[self.current];
        device.host_wait(&slot.read)?;
        self.places.pack(slot.host.values(), from);
        self.counts = Counts::of(from);
        self.assembles = false;
        slot.upload(device)
    }

    /// Where the step's batch comes from, below [`SOURCES`].
    pub(crate) fn source(&self) -> usize {
        if self.assembles { SOURCES - 1 } else { self.current }
    }

    /// Launches after this are for any batch in this slot, or for the one that was loaded there.
    pub(crate) fn launch_for_most(&mut self, for_most: bool) {
        self.for_most = for_most;
    }

    /// What grids are for.
    fn grids(&self) -> Counts {
        if self.for_most || self.assembles { self.places.most } else { self.counts }
    }

    fn list(&self, place: usize, len: usize) -> Slice<'_, i32> {
        self.slots[self.current].device.slice(place..place + len)
    }

    /// Of the header's number at `index`.
    fn rows(&self, index: usize) -> Rows<'_> {
        Rows { count: self.list(index, 1), bound: self.grids().header()[index] }
    }

    /// G.
    pub(crate) fn graphs(&self) -> Rows<'_> {
        self.rows(0)
    }

    /// N.
    pub(crate) fn nodes(&self) -> Rows<'_> {
        self.rows(1)
    }

    /// E.
    pub(crate) fn edges(&self) -> Rows<'_> {
        self.rows(2)
    }

    /// U: object types that occur.
    pub(crate) fn objects(&self) -> Rows<'_> {
        self.rows(3)
    }

    /// V: predicate types that occur.
    pub(crate) fn predicates(&self) -> Rows<'_> {
        self.rows(4)
    }

    /// B.
    pub(crate) fn triples(&self) -> Rows<'_> {
        self.rows(5)
    }

    /// `[G + 1] -> node`.
    pub(crate) fn graph_offsets(&self) -> Slice<'_, i32> {
        self.list(self.places.graph_offsets, self.grids().graphs + 1)
    }

    fn ends(&self, subject: usize, object: usize) -> Ends<'_> {
        let edges = self.grids().edges;
        Ends { edges: self.edges(), subject: self.list(subject, edges), object: self.list(object, edges) }
    }

    /// `[G] -> node`: as [`GraphBatch::mean_nodes`] has the ends.
    pub(crate) fn mean_ends(&self, image_node_in_mean: bool) -> Slice<'_, i32> {
        match image_node_in_mean {
            true => self.list(self.places.graph_offsets + 1, self.grids().graphs),
            false => self.list(self.places.object_ends, self.grids().graphs),
        }
    }

    /// The nodes of each edge.
    pub(crate) fn edge_nodes(&self) -> Ends<'_> {
        self.ends(self.places.edge_subject, self.places.edge_object)
    }

    /// The object types of each edge's nodes, as indices into the types that occur.
    pub(crate) fn edge_objects(&self) -> Ends<'_> {
        self.ends(self.places.edge_subject_slot, self.places.edge_object_slot)
    }

    fn lists<'a>(&'a self, rows: Rows<'a>, offsets: usize, entries: usize, entry_count: usize) -> Lists<'a> {
        let offsets = self.list(offsets, rows.bound + 1);
        Lists { rows, offsets, entries: self.list(entries, entry_count) }
    }

    /// Node -> `2 edge + role`.
    pub(crate) fn incidence(&self) -> Lists<'_> {
        let Places { node_offsets, node_entries, .. } = self.places;
        self.lists(self.nodes(), node_offsets, node_entries, 2 * self.grids().edges)
    }

    /// The object types and the predicate types that occur.
    pub(crate) fn occurring(&self) -> [Occurring<'_>; 2] {
        let Places { object_types, predicate_types, .. } = self.places;
        [(object_types, self.objects()), (predicate_types, self.predicates())]
            .map(|(types, rows)| Occurring { types: self.list(types, rows.bound), rows })
    }

    /// Object type that occurs -> `2 edge + role` of its nodes.
    pub(crate) fn object_incidence(&self) -> Lists<'_> {
        let Places { object_offsets, object_entries, .. } = self.places;
        self.lists(self.objects(), object_offsets, object_entries, 2 * self.grids().edges)
    }

    /// `[E]` -> predicate type that occurs.
    pub(crate) fn edge_predicates(&self) -> Slice<'_, i32> {
        self.list(self.places.edge_predicate_slot, self.grids().edges)
    }

    /// Predicate type that occurs -> edges.
    pub(crate) fn predicate_edges(&self) -> Lists<'_> {
        let Places { predicate_offsets, predicate_entries, .. } = self.places;
        self.lists(self.predicates(), predicate_offsets, predicate_entries, self.grids().edges)
    }

    /// `[B]`.
    pub(crate) fn similarity_positive(&self) -> Slice<'_, f32> {
        self.list(self.places.similarity_positive, self.grids().triples).bits_as_floats()
    }

    /// `[B]`.
    pub(crate) fn similarity_negative(&self) -> Slice<'_, f32> {
        self.list(self.places.similarity_negative, self.grids().triples).bits_as_floats()
    }
}
