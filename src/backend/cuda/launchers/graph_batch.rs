//! graph_batch: assembles the batch of a step from a collection of graphs on the device
//! (`kernels/graph_batch.cu`).

use super::batch_places::Places;
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::{Device, check_len};
use crate::batch::graph_batch::GraphBatch;
use crate::data::scene_graph::SceneGraph;
use crate::error::Result;

kernel_arguments! {
    /// Lists of a collection.
    struct CollectionArguments {
        /// `[images + 1] -> node` first node of each graph.
        node_offsets: Pointer<i32>,
        /// `[images + 1] -> edge` first edge of each graph.
        edge_offsets: Pointer<i32>,
        /// `[images] -> node` end of the objects of each graph.
        object_ends: Pointer<i32>,
        /// `[nodes] -> object type` object type of each node.
        node_object: Pointer<i32>,
        /// `[edges] -> predicate type` predicate type of each edge.
        edge_predicate: Pointer<i32>,
        /// `[edges] -> node` subject of each edge.
        edge_subject: Pointer<i32>,
        /// `[edges] -> node` object of each edge.
        edge_object: Pointer<i32>,
        /// `[nodes + 1] -> message` start of the messages of each node.
        message_offsets: Pointer<i32>,
        /// `[2 edges]` messages: `2 edge + role`.
        messages: Pointer<i32>,
    }

    /// Triples of the epoch, `[A]` each.
    struct EpochArguments {
        anchors: Pointer<i32>,
        positive: Pointer<i32>,
        negative: Pointer<i32>,
        similarity_positive: Pointer<f32>,
        similarity_negative: Pointer<f32>,
    }

    /// Header and lists of the batch, overwritten ([`Places`] has their shapes).
    struct BatchArguments {
        counts: PointerMut<i32>,
        graph_offsets: PointerMut<i32>,
        object_ends: PointerMut<i32>,
        edge_subject: PointerMut<i32>,
        edge_object: PointerMut<i32>,
        node_offsets: PointerMut<i32>,
        node_entries: PointerMut<i32>,
        object_types: PointerMut<i32>,
        object_offsets: PointerMut<i32>,
        object_entries: PointerMut<i32>,
        predicate_types: PointerMut<i32>,
        predicate_offsets: PointerMut<i32>,
        predicate_entries: PointerMut<i32>,
        edge_subject_slot: PointerMut<i32>,
        edge_object_slot: PointerMut<i32>,
        edge_predicate_slot: PointerMut<i32>,
        similarity_positive: PointerMut<i32>,
        similarity_negative: PointerMut<i32>,
    }

    /// Intermediate results passed between the launches ([`ScratchPlaces`] has the shapes).
    struct ScratchArguments {
        graph_image: PointerMut<i32>,
        graph_edges: PointerMut<i32>,
        node_object: PointerMut<i32>,
        edge_predicate: PointerMut<i32>,
        type_rows: PointerMut<i32>,
        type_entries: PointerMut<i32>,
        slot_of_type: PointerMut<i32>,
    }

    /// Arguments of all five launches.
    struct AssembleGraphBatch {
        collection: CollectionArguments,
        epoch: EpochArguments,
        batch: BatchArguments,
        scratch: ScratchArguments,
        /// `[1]` first anchor of the step, advanced past the step's anchors.
        position: PointerMut<i32>,
        anchor_count: i32,
        batch_size: i32,
        object_types: i32,
        predicate_types: i32,
        segments: i32,
        reserved: i32,
    }
}

/// Threads of a block, as in the kernels.
const THREADS: u32 = 256;
const GRAPH_THREADS: u32 = 128;

const PLACES: Kernel<AssembleGraphBatch> = Kernel::new("graph_batch_places", [THREADS, 1, 1]);
const GRAPHS: Kernel<AssembleGraphBatch> = Kernel::new("graph_batch_graphs", [GRAPH_THREADS, 1, 1]);
const COUNT: Kernel<AssembleGraphBatch> = Kernel::new("graph_batch_count", [THREADS, 1, 1]);
const NUMBER: Kernel<AssembleGraphBatch> = Kernel::new("graph_batch_number", [THREADS, 1, 1]);
const FILL: Kernel<AssembleGraphBatch> = Kernel::new("graph_batch_fill", [THREADS, 1, 1]);

/// Kernels of `kernels/graph_batch.cu`.
pub(crate) const FILE: KernelFile = KernelFile {
    name: "graph_batch",
    kernels: &[PLACES.info(), GRAPHS.info(), COUNT.info(), NUMBER.info(), FILL.info()],
};

/// Types that a block counts in one segment of the rows.
const TYPES_PER_BLOCK: usize = 32;
/// Rows of a segment, unless that would give too many segments.
const SEGMENT_ROWS: usize = 256;
const MOST_SEGMENTS: usize = 16;

/// Position of each list in a collection's array. A collection is one batch of all images, without the lists
/// by type.
#[derive(Debug)]
pub struct CollectionPlaces {
    /// `[images + 1] -> node` first node of each graph.
    node_offsets: usize,
    /// `[images + 1] -> edge` first edge of each graph.
    edge_offsets: usize,
    /// `[images] -> node` end of the objects of each graph.
    object_ends: usize,
    /// `[nodes] -> object type` object type of each node.
    node_object: usize,
    /// `[edges] -> predicate type` predicate type of each edge.
    edge_predicate: usize,
    /// `[edges] -> node` subject of each edge.
    edge_subject: usize,
    /// `[edges] -> node` object of each edge.
    edge_object: usize,
    /// `[nodes + 1] -> message` start of the messages of each node.
    message_offsets: usize,
    /// `[2 edges]` messages: `2 edge + role`.
    messages: usize,
    object_types: usize,
    predicate_types: usize,
}

impl CollectionPlaces {
    /// Packs these graphs into an array; returns it with the positions of the lists.
    pub fn pack<'a>(
        graphs: impl Iterator<Item = SceneGraph<'a>>,
        object_types: usize,
        predicate_types: usize,
    ) -> (Vec<i32>, Self) {
        let mut edge_offsets = vec![0];
        let graphs = graphs.inspect(|graph| {
            edge_offsets.push(edge_offsets[edge_offsets.len() - 1] + graph.edge_count() as u32);
        });
        let all = GraphBatch::of_graphs(graphs, object_types, predicate_types);
        assert!(i32::try_from(2 * all.edge_subject.len()).is_ok(), "a collection of fewer than 2^30 edges");
        let mut array: Vec<i32> = Vec::new();
        let mut place = |list: &[u32]| {
            array.extend_from_slice(bytemuck::cast_slice(list));
            array.len() - list.len()
        };
        let places = CollectionPlaces {
            node_offsets: place(&all.graph_offsets),
            edge_offsets: place(&edge_offsets),
            object_ends: place(&all.object_ends),
            node_object: place(&all.node_object),
            edge_predicate: place(&all.edge_predicate),
            edge_subject: place(&all.edge_subject),
            edge_object: place(&all.edge_object),
            message_offsets: place(&all.incidence.offsets),
            messages: place(&all.incidence.entries),
            object_types,
            predicate_types,
        };
        (array, places)
    }

    /// Length of the scratch memory for a batch in such a slot.
    pub fn scratch_len(&self, slot: &Places) -> usize {
        ScratchPlaces::new(self, slot).end
    }
}

/// Graphs on the device.
#[derive(Clone, Copy, Debug)]
pub struct Collection<'a> {
    /// Lists of all graphs.
    pub array: Slice<'a, i32>,
    /// Position of each list in `array`.
    pub places: &'a CollectionPlaces,
}

/// Triples of an epoch on the device, in the order of their steps.
#[derive(Clone, Copy, Debug)]
pub struct EpochTriples<'a> {
    /// `[A] -> image` anchors.
    pub anchors: Slice<'a, i32>,
    /// `[A] -> image` positives; negative if the anchor has no triple and is left out.
    pub positive: Slice<'a, i32>,
    /// `[A] -> image` negatives.
    pub negative: Slice<'a, i32>,
    /// `[A]` similarity of anchor and positive.
    pub similarity_positive: Slice<'a, f32>,
    /// `[A]` similarity of anchor and negative.
    pub similarity_negative: Slice<'a, f32>,
}

/// Positions of the arrays that the kernels pass to each other.
struct ScratchPlaces {
    /// `[G] -> image` image of each graph.
    graph_image: usize,
    /// `[G + 1] -> edge` first edge of each graph.
    graph_edges: usize,
    /// `[N] -> object type` object type of each node.
    node_object: usize,
    /// `[E] -> predicate type` predicate type of each edge.
    edge_predicate: usize,
    /// `[segments, object types + predicate types]` number of rows of each type in the batch.
    type_rows: usize,
    /// `[segments, object types + predicate types]` number of entries of each type in the batch.
    type_entries: usize,
    /// `[object types + predicate types]` number of each type among those in use, or -1.
    slot_of_type: usize,
    end: usize,
    segments: usize,
}

impl ScratchPlaces {
    fn new(of: &CollectionPlaces, slot: &Places) -> Self {
        let (most, types) = (slot.most, of.object_types + of.predicate_types);
        let segments = most.nodes.max(most.edges).div_ceil(SEGMENT_ROWS).clamp(1, MOST_SEGMENTS);
        let mut end = 0;
        let mut place = |len: usize| {
            end += len;
            end - len
        };
        ScratchPlaces {
            graph_image: place(most.graphs),
            graph_edges: place(most.graphs + 1),
            node_object: place(most.nodes),
            edge_predicate: place(most.edges),
            type_rows: place(segments * types),
            type_entries: place(segments * types),
            slot_of_type: place(types),
            end: place(0),
            segments,
        }
    }
}

/// Destination of [`assemble_graph_batch`].
pub struct BatchSlot<'a> {
    /// [`Places::slot_len`] numbers: header and lists of the batch.
    pub lists: SliceMut<'a, i32>,
    /// Position of each list in `lists`.
    pub places: &'a Places,
    /// [`CollectionPlaces::scratch_len`] numbers passed between the kernels.
    pub scratch: SliceMut<'a, i32>,
}

/// Writes the batch of the next anchors, starting at `position [1]`, and advances the position past them.
///
/// The number of anchors is the slot's capacity for triples, or fewer at the end of the epoch. If none of
/// them has a triple, the batch is that of the following anchors. Images must be those of the collection, and
/// a batch of any of them must fit the slot.
pub fn assemble_graph_batch(
    device: &Device,
    slot: BatchSlot<'_>,
    position: &mut SliceMut<'_, i32>,
    triples: EpochTriples<'_>,
    of: Collection<'_>,
) -> Result<()> {
    let BatchSlot { lists: mut slot, places, mut scratch } = slot;
    let (anchors, batch_size, edges) = (triples.anchors.len(), places.most.triples, places.most.edges);
    let (object_types, predicate_types) = (of.places.object_types, of.places.predicate_types);
    let at = ScratchPlaces::new(of.places, places);
    for (name, len, wanted) in [
        ("slot", slot.len(), places.slot_len()),
        ("room for object types", places.most.objects, object_types.min(places.most.nodes)),
        ("room for predicate types", places.most.predicates, predicate_types.min(edges)),
        ("scratch", scratch.len(), at.end),
        ("position", position.len(), 1),
        ("positives", triples.positive.len(), anchors),
        ("negatives", triples.negative.len(), anchors),
        ("similarities to positives", triples.similarity_positive.len(), anchors),
        ("similarities to negatives", triples.similarity_negative.len(), anchors),
    ] {
        check_len(name, len, wanted);
    }
    let all = |place: usize| Pointer::from(of.array.slice(place..of.array.len()));
    let collection = CollectionArguments {
        node_offsets: all(of.places.node_offsets),
        edge_offsets: all(of.places.edge_offsets),
        object_ends: all(of.places.object_ends),
        node_object: all(of.places.node_object),
        edge_predicate: all(of.places.edge_predicate),
        edge_subject: all(of.places.edge_subject),
        edge_object: all(of.places.edge_object),
        message_offsets: all(of.places.message_offsets),
        messages: all(of.places.messages),
    };
    let epoch = EpochArguments {
        anchors: triples.anchors.into(),
        positive: triples.positive.into(),
        negative: triples.negative.into(),
        similarity_positive: triples.similarity_positive.into(),
        similarity_negative: triples.similarity_negative.into(),
    };
    let arguments = AssembleGraphBatch {
        collection,
        epoch,
        batch: batch_arguments(&mut slot, places),
        scratch: scratch_arguments(&mut scratch, &at),
        position: position.into(),
        anchor_count: int(anchors),
        batch_size: int(batch_size),
        object_types: int(object_types),
        predicate_types: int(predicate_types),
        segments: int(at.segments),
        reserved: 0,
    };
    let type_blocks = object_types.max(predicate_types).div_ceil(TYPES_PER_BLOCK);
    let by_type = |kinds: usize| Blocks::new(type_blocks, kinds, at.segments);
    for (kernel, blocks) in [
        (PLACES, Blocks::rows(1)),
        // One more block writes the end of the message lists.
        (GRAPHS, Blocks::rows(3 * batch_size + 1)),
        (COUNT, by_type(2)),
        (NUMBER, Blocks::rows(2)),
        // Objects, predicates, and the type numbers of the edges.
        (FILL, by_type(3)),
    ] {
        // SAFETY: arrays are long enough for the lists at their positions, and the caller guarantees that
        // indices are in range. Slot, scratch and position are borrowed mutably, and nothing else is written.
        unsafe { device.launch(&kernel, blocks, &arguments) }?;
    }
    Ok(())
}

fn batch_arguments(slot: &mut SliceMut<'_, i32>, places: &Places) -> BatchArguments {
    let len = slot.len();
    let mut list = |place: usize| PointerMut::from(&mut slot.slice_mut(place..len));
    BatchArguments {
        counts: list(0),
        graph_offsets: list(places.graph_offsets),
        object_ends: list(places.object_ends),
        edge_subject: list(places.edge_subject),
        edge_object: list(places.edge_object),
        node_offsets: list(places.node_offsets),
        node_entries: list(places.node_entries),
        object_types: list(places.object_types),
        object_offsets: list(places.object_offsets),
        object_entries: list(places.object_entries),
        predicate_types: list(places.predicate_types),
        predicate_offsets: list(places.predicate_offsets),
        predicate_entries: list(places.predicate_entries),
        edge_subject_slot: list(places.edge_subject_slot),
        edge_object_slot: list(places.edge_object_slot),
        edge_predicate_slot: list(places.edge_predicate_slot),
        similarity_positive: list(places.similarity_positive),
        similarity_negative: list(places.similarity_negative),
    }
}

fn scratch_arguments(scratch: &mut SliceMut<'_, i32>, places: &ScratchPlaces) -> ScratchArguments {
    let len = scratch.len();
    let mut list = |place: usize| PointerMut::from(&mut scratch.slice_mut(place..len));
    ScratchArguments {
        graph_image: list(places.graph_image),
        graph_edges: list(places.graph_edges),
        node_object: list(places.node_object),
        edge_predicate: list(places.edge_predicate),
        type_rows: list(places.type_rows),
        type_entries: list(places.type_entries),
        slot_of_type: list(places.slot_of_type),
    }
}
