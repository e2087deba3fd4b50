//! graph_batch: a step's batch, put together from a collection of graphs on the device (`kernels/graph_batch.cu`).

use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::{Argument, Arguments, Device, Grid, check_len, dimension};
use crate::backend::cuda::step::batch::Places;
use crate::batch::graph_batch::GraphBatch;
use crate::data::scene_graph::SceneGraph;
use crate::error::Result;

pub(crate) const KERNELS: &[&str] = &[
    "graph_batch_places",
    "graph_batch_graphs",
    "graph_batch_count",
    "graph_batch_number",
    "graph_batch_fill",
];

/// As in the kernels.
const THREADS: u32 = 256;
const THREADS_OF_A_GRAPH: u32 = 128;
/// Types that a block counts, in one of the segments of the rows.
const TYPES_PER_BLOCK: usize = 32;
/// Rows of a segment, unless there were too many of them.
const SEGMENT_ROWS: usize = 256;
const MOST_SEGMENTS: usize = 16;

/// Where the lists of a collection lie in its array: graphs numbered as images, as one batch of all of them without its
/// lists by type.
#[derive(Debug)]
pub struct CollectionPlaces {
    /// `[images + 1] -> node`.
    node_offsets: usize,
    /// `[images + 1] -> edge`.
    edge_offsets: usize,
    /// `[images] -> node`: where each graph's objects end.
    object_ends: usize,
    /// `[nodes] -> object type`.
    node_object: usize,
    /// `[edges] -> predicate type`.
    edge_predicate: usize,
    /// `[edges] -> node`.
    edge_subject: usize,
    /// `[edges] -> node`.
    edge_object: usize,
    /// `[nodes + 1] -> message`.
    message_offsets: usize,
    /// `[2 edges]`: `2 edge + role`.
    messages: usize,
    object_types: usize,
    predicate_types: usize,
}

impl CollectionPlaces {
    /// The array of these graphs, and the places in it.
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

    /// Numbers of memory that putting together a batch needs beside its slot.
    pub fn scratch_len(&self, slot: &Places) -> usize {
        ScratchPlaces::new(self, slot).end
    }
}

/// Graphs on the device.
#[derive(Clone, Copy, Debug)]
pub struct Collection<'a> {
    /// Their lists.
    pub array: Slice<'a, i32>,
    /// Where each lies.
    pub places: &'a CollectionPlaces,
}

/// An epoch's triples on the device, in the order of their steps.
#[derive(Clone, Copy, Debug)]
pub struct EpochTriples<'a> {
    /// `[A] -> image`.
    pub anchors: Slice<'a, i32>,
    /// `[A] -> image`; negative where the anchor has no triple and is left out.
    pub positive: Slice<'a, i32>,
    /// `[A] -> image`.
    pub negative: Slice<'a, i32>,
    /// `[A]`.
    pub similarity_positive: Slice<'a, f32>,
    /// `[A]`.
    pub similarity_negative: Slice<'a, f32>,
}

/// Where the kernels keep what they tell each other.
struct ScratchPlaces {
    /// `[G] -> image`.
    graph_image: usize,
    /// `[G + 1] -> edge`.
    graph_edges: usize,
    /// `[N] -> object type`.
    node_object: usize,
    /// `[E] -> predicate type`.
    edge_predicate: usize,
    /// `[segments, object types + predicate types]`: rows of each type in the batch.
    type_rows: usize,
    /// The same of entries.
    type_entries: usize,
    /// `[object types + predicate types]`: each type's number among those that occur, or -1.
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

/// The batch of the next anchors from `position [1]` on, as many as the slot has room for triples, which moves behind
/// them: at the epoch's end fewer. Where none of them has a triple, that of those after them.
///
/// Images must be those of the collection, and a batch of any of them must fit the slot.
pub fn assemble_graph_batch(
    device: &Device,
    slot: &mut SliceMut<'_, i32>,
    places: &Places,
    scratch: &mut SliceMut<'_, i32>,
    position: &mut SliceMut<'_, i32>,
    triples: EpochTriples<'_>,
    of: Collection<'_>,
) -> Result<()> {
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
    let launch = |kernel, grid, arguments: Arguments| {
        // SAFETY: as in kernels/graph_batch.cu; arrays are long enough for the lists at their places, and indices lie in
        // range, as the caller promises; slot, scratch and position are borrowed mutably.
        unsafe { device.launch_positional(kernel, grid, &arguments) }
    };
    let part = |of: Slice<'_, i32>, place: usize| Argument::from(of.slice(place..of.len()));
    let list = |place: usize| part(slot.as_slice(), place);
    let own = |place: usize| part(scratch.as_slice(), place);
    let all = |place: usize| part(of.array, place);
    let counts = list(0);

    let arguments = Arguments::default()
        .add(counts)
        .add(own(at.graph_image))
        .add(list(places.graph_offsets))
        .add(own(at.graph_edges))
        .add(list(places.similarity_positive))
        .add(list(places.similarity_negative))
        .add(position)
        .add(triples.anchors)
        .add(triples.positive)
        .add(triples.negative)
        .add(triples.similarity_positive)
        .add(triples.similarity_negative)
        .add(all(of.places.node_offsets))
        .add(all(of.places.edge_offsets))
        .add(anchors)
        .add(batch_size);
    launch("graph_batch_places", Grid::rows(1, THREADS), arguments)?;

    let arguments = Arguments::default()
        .add(list(places.object_ends))
        .add(own(at.node_object))
        .add(own(at.edge_predicate))
        .add(list(places.edge_subject))
        .add(list(places.edge_object))
        .add(list(places.node_offsets))
        .add(list(places.node_entries))
        .add(counts)
        .add(own(at.graph_image))
        .add(list(places.graph_offsets))
        .add(own(at.graph_edges))
        .add(all(of.places.node_offsets))
        .add(all(of.places.edge_offsets))
        .add(all(of.places.object_ends))
        .add(all(of.places.node_object))
        .add(all(of.places.edge_predicate))
        .add(all(of.places.edge_subject))
        .add(all(of.places.edge_object))
        .add(all(of.places.message_offsets))
        .add(all(of.places.messages));
    // One block more, which ends the list of messages.
    launch("graph_batch_graphs", Grid::rows(3 * batch_size + 1, THREADS_OF_A_GRAPH), arguments)?;

    let blocks = object_types.max(predicate_types).div_ceil(TYPES_PER_BLOCK);
    let by_type =
        |kinds| Grid { blocks: [dimension(blocks), kinds, dimension(at.segments)], threads: [THREADS, 1, 1] };
    let arguments = Arguments::default()
        .add(own(at.type_rows))
        .add(own(at.type_entries))
        .add(counts)
        .add(own(at.node_object))
        .add(own(at.edge_predicate))
        .add(list(places.node_offsets))
        .add(object_types)
        .add(predicate_types);
    launch("graph_batch_count", by_type(2), arguments)?;

    let arguments = Arguments::default()
        .add(counts)
        .add(list(places.object_types))
        .add(list(places.object_offsets))
        .add(list(places.predicate_types))
        .add(list(places.predicate_offsets))
        .add(own(at.slot_of_type))
        .add(own(at.type_rows))
        .add(own(at.type_entries))
        .add(object_types)
        .add(predicate_types)
        .add(at.segments);
    launch("graph_batch_number", Grid::rows(2, THREADS), arguments)?;

    let arguments = Arguments::default()
        .add(list(places.object_entries))
        .add(list(places.predicate_entries))
        .add(list(places.edge_subject_slot))
        .add(list(places.edge_object_slot))
        .add(list(places.edge_predicate_slot))
        .add(list(places.object_offsets))
        .add(list(places.predicate_offsets))
        .add(own(at.slot_of_type))
        .add(own(at.type_entries))
        .add(counts)
        .add(own(at.node_object))
        .add(own(at.edge_predicate))
        .add(list(places.node_offsets))
        .add(list(places.node_entries))
        .add(list(places.edge_subject))
        .add(list(places.edge_object))
        .add(object_types)
        .add(predicate_types);
    // Objects, predicates, and the edges' slots.
    launch("graph_batch_fill", by_type(3), arguments)
}
