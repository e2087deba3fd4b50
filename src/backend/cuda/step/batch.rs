//! A batch on the device. Its lists lie in one array, so one copy transfers it, while the previous step still
//! runs.
//!
//! There are two slots, each with page-locked memory and its array on the device; batches alternate between
//! them. The host packs a batch into a slot once the step that last read the slot is over. It is thus one
//! step ahead, never two. Time runs to the right:
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
//! A slot's array holds the batch's header and lists (`launchers/batch_places.rs`).
//!
//! Training does not load batches: the device keeps the training set (`training_set.rs`), and each step assembles the batch of
//! the next one, in slots of its own. Grids then cover the largest batch that was drawn.

use super::training_set::TrainingSet;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Slice};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::streams::{Event, Pinned, Stream};
use crate::backend::cuda::launchers::batch_places::{Counts, Places};
use crate::backend::cuda::launchers::embedding::Occurring;
use crate::backend::cuda::launchers::lists::{Ends, Lists};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::batch::triples::TripleSampler;
use crate::error::Result;
use crate::network::config::ModelConfig;

/// A batch in the form that the kernels read.
pub struct Batch {
    places: Places,
    /// Sizes of the batch loaded last.
    counts: Counts,
    /// Whether grids cover the largest batch that fits instead of the batch loaded last.
    for_most: bool,
    slots: [Slot; 2],
    /// Slot of the batch loaded last.
    current: usize,
    /// Whether steps take their batches from the training set.
    assembles: bool,
    training_set: Option<TrainingSet>,
}

/// Number of sources of batches: two slots for batches of the host, and two for those assembled on the device.
pub(crate) const SOURCES: usize = 4;

/// Memory of one batch, and the state of its use.
struct Slot {
    host: Pinned,
    device: Buffer<i32>,
    /// Recorded after the latest copy to the device.
    ready: Event,
    /// Recorded after everything launched while this was the current slot.
    read: Event,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The copy reads host memory. If waiting fails, the device no longer exists.
        let _ = self.ready.synchronize();
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
        // The copy stream may write the memory once it is allocated on the compute stream.
        device.record(&mut slot.read, Stream::Compute)?;
        Ok(slot)
    }

    /// Copies header and lists to the device, before the following launches.
    fn upload(&mut self, device: &Device) -> Result<()> {
        let len = self.host.len();
        // SAFETY: the slot keeps both until it is dropped, which waits for `ready`. It packs only after waiting for
        // `read`, which comes after `ready`. It lends its array only as an input of kernels.
        unsafe { device.copy(&self.host, len, self.device.slice_mut(0..len)) }?;
        device.record(&mut self.ready, Stream::Copies)?;
        device.wait(&self.ready)
    }
}

impl Batch {
    /// Creates an empty batch with room for batches up to `capacity`.
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

    /// Layout of the lists in a slot.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Stores the training set, at most once: captured steps hold the addresses of its memory.
    pub(crate) fn keep_training_set(&mut self, set: TrainingSet) {
        assert!(self.training_set.replace(set).is_none(), "a second training set");
    }

    /// Begins an epoch of the training set ([`TrainingSet::begin_epoch`]).
    pub(crate) fn begin_epoch(
        &mut self,
        device: &Device,
        sampler: &TripleSampler<'_>,
        epoch: u32,
        order: &[u32],
        position: usize,
    ) -> Result<Vec<bool>> {
        let Batch { places, training_set, .. } = self;
        let set = training_set.as_mut().expect("a training set");
        set.begin_epoch(device, sampler, epoch, order, (position, places))
    }

    /// Makes the following steps take their batches from the training set, until a batch is loaded.
    pub(crate) fn take_from_training_set(&mut self) {
        self.assembles = true;
    }

    /// Assembles the batch of the next step, on the branch, unless the batch of this one was loaded.
    pub(crate) fn assemble_next(&mut self, device: &Device) -> Result<()> {
        match self {
            Batch { places, assembles: true, training_set: Some(set), .. } => {
                device.on_branch(|| set.assemble_next(device, places))
            }
            _ => Ok(()),
        }
    }

    /// Makes the assembled batch that of the next step, unless the batch of this one was loaded.
    pub(crate) fn end_step(&mut self) {
        if let Batch { assembles: true, training_set: Some(set), .. } = self {
            set.take_next();
        }
    }

    /// Loads `from`; waits if the step before the last is still running.
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

    /// The training set, if steps take their batches from it.
    fn assembled_from(&self) -> Option<&TrainingSet> {
        self.training_set.as_ref().filter(|_| self.assembles)
    }

    /// Source of the step's batch, below [`SOURCES`].
    pub(crate) fn source(&self) -> usize {
        self.assembled_from().map_or(self.current, |set| self.slots.len() + set.current())
    }

    /// Makes the grids of the following launches cover the largest batch that fits in this slot, or only the batch loaded
    /// there. Those of assembled batches cover the largest batch that was drawn.
    pub(crate) fn launch_for_most(&mut self, for_most: bool) {
        self.for_most = for_most;
    }

    /// Sizes that grids must cover.
    fn grids(&self) -> Counts {
        match self.assembled_from() {
            Some(set) => self.places.most.up_to(set.largest()),
            None if self.for_most => self.places.most,
            None => self.counts,
        }
    }

    /// Sizes that the grids of a captured step must cover.
    pub(crate) fn captured_size(&self) -> BatchSize {
        let Counts { graphs, nodes, edges, .. } = self.places.most;
        self.assembled_from().map_or(BatchSize { graphs, nodes, edges }, TrainingSet::largest)
    }

    /// Number of anchors of the epoch; 0 before the first one.
    pub(crate) fn anchors(&self) -> usize {
        self.training_set.as_ref().map_or(0, TrainingSet::anchors)
    }

    fn list(&self, place: usize, len: usize) -> Slice<'_, i32> {
        let slot = self.assembled_from().map_or(&self.slots[self.current].device, TrainingSet::batch);
        slot.slice(place..place + len)
    }

    /// Number of sizes of a batch.
    pub(crate) const SIZES: usize = 6;
    /// Index of the number of nodes among them, and of the number of edges.
    pub(crate) const NODES: usize = 1;
    pub(crate) const EDGES: usize = 2;

    /// `[Batch::SIZES]` numbers of graphs, nodes, edges, object types in use, predicate types in use, and triples.
    pub(crate) fn sizes(&self) -> Slice<'_, i32> {
        self.list(0, Batch::SIZES)
    }

    /// Row count at `index` of the header.
    fn rows(&self, index: usize) -> Rows<'_> {
        Rows { count: self.list(index, 1), bound: self.grids().header()[index] }
    }

    /// Number of graphs, G.
    pub(crate) fn graphs(&self) -> Rows<'_> {
        self.rows(0)
    }

    /// Number of nodes, N.
    pub(crate) fn nodes(&self) -> Rows<'_> {
        self.rows(Batch::NODES)
    }

    /// Number of edges, E.
    pub(crate) fn edges(&self) -> Rows<'_> {
        self.rows(Batch::EDGES)
    }

    /// Number of object types in use, U.
    pub(crate) fn objects(&self) -> Rows<'_> {
        self.rows(3)
    }

    /// Number of predicate types in use, V.
    pub(crate) fn predicates(&self) -> Rows<'_> {
        self.rows(4)
    }

    /// Number of triples, B.
    pub(crate) fn triples(&self) -> Rows<'_> {
        self.rows(5)
    }

    /// `[G + 1] -> node` first node of each graph.
    pub(crate) fn graph_offsets(&self) -> Slice<'_, i32> {
        self.list(self.places.graph_offsets, self.grids().graphs + 1)
    }

    fn ends(&self, subject: usize, object: usize) -> Ends<'_> {
        let edges = self.grids().edges;
        Ends { edges: self.edges(), subject: self.list(subject, edges), object: self.list(object, edges) }
    }

    /// `[G] -> node` end of the nodes in each graph's mean, as in [`GraphBatch::mean_nodes`].
    pub(crate) fn mean_ends(&self, image_node_in_mean: bool) -> Slice<'_, i32> {
        match image_node_in_mean {
            true => self.list(self.places.graph_offsets + 1, self.grids().graphs),
            false => self.list(self.places.object_ends, self.grids().graphs),
        }
    }

    /// End nodes of each edge.
    pub(crate) fn edge_nodes(&self) -> Ends<'_> {
        self.ends(self.places.edge_subject, self.places.edge_object)
    }

    /// Object types of each edge's ends, as indices into the types in use.
    pub(crate) fn edge_objects(&self) -> Ends<'_> {
        self.ends(self.places.edge_subject_slot, self.places.edge_object_slot)
    }

    fn lists<'a>(&'a self, rows: Rows<'a>, offsets: usize, entries: usize, entry_count: usize) -> Lists<'a> {
        let offsets = self.list(offsets, rows.bound + 1);
        Lists { rows, offsets, entries: self.list(entries, entry_count) }
    }

    /// Messages by node: `2 edge + role`.
    pub(crate) fn incidence(&self) -> Lists<'_> {
        let Places { node_offsets, node_entries, .. } = self.places;
        self.lists(self.nodes(), node_offsets, node_entries, 2 * self.grids().edges)
    }

    /// Object types and predicate types in use.
    pub(crate) fn occurring(&self) -> [Occurring<'_>; 2] {
        let Places { object_types, predicate_types, .. } = self.places;
        [(object_types, self.objects()), (predicate_types, self.predicates())]
            .map(|(types, rows)| Occurring { types: self.list(types, rows.bound), rows })
    }

    /// Messages by object type in use: `2 edge + role` of its nodes.
    pub(crate) fn object_incidence(&self) -> Lists<'_> {
        let Places { object_offsets, object_entries, .. } = self.places;
        self.lists(self.objects(), object_offsets, object_entries, 2 * self.grids().edges)
    }

    /// `[E]` predicate type of each edge, as an index into the types in use.
    pub(crate) fn edge_predicates(&self) -> Slice<'_, i32> {
        self.list(self.places.edge_predicate_slot, self.grids().edges)
    }

    /// Edges by predicate type in use.
    pub(crate) fn predicate_edges(&self) -> Lists<'_> {
        let Places { predicate_offsets, predicate_entries, .. } = self.places;
        self.lists(self.predicates(), predicate_offsets, predicate_entries, self.grids().edges)
    }

    /// `[B]` similarity of anchor and positive.
    pub(crate) fn similarity_positive(&self) -> Slice<'_, f32> {
        self.list(self.places.similarity_positive, self.grids().triples).bits_as_floats()
    }

    /// `[B]` similarity of anchor and negative.
    pub(crate) fn similarity_negative(&self) -> Slice<'_, f32> {
        self.list(self.places.similarity_negative, self.grids().triples).bits_as_floats()
    }
}
