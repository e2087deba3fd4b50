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
//! A slot's array holds the batch's header and lists (`launchers/batch_places.rs`).
//!
//! In training no batch is loaded: the device keeps the training set (`training_set.rs`), and each step puts together its
//! own, in the first slot.

use super::training_set::TrainingSet;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Slice};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::streams::{Event, Pinned, Stream};
use crate::backend::cuda::launchers::batch_places::{Counts, Places};
use crate::backend::cuda::launchers::embedding::Occurring;
use crate::backend::cuda::launchers::lists::{Ends, Lists};
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
