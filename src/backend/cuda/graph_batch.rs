//! graph_batch: a step's batch, put together from a collection of graphs on the device (`kernels/graph_batch.cu`).

use super::buffer::{Buffer, Slice, SliceMut};
use super::device::{Argument, Device, Grid, check_len, dimension};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::data::scene_graph::SceneGraph;
use crate::error::Result;

pub(super) const KERNELS: &[&str] = &[
    "graph_batch_places",
    "graph_batch_graphs",
    "graph_batch_count",
    "graph_batch_number",
    "graph_batch_fill",
    "graph_batch_slots",
];

/// As in the kernels.
const THREADS: u32 = 256;
const THREADS_OF_A_GRAPH: u32 = 128;
/// Types that a block counts.
const TYPES_PER_BLOCK: usize = 32;

/// Numbers of [`BatchLists::counts`]: graphs, nodes, edges, object and predicate types that occur, triples.
pub const COUNTS: usize = 6;

/// Graphs that stay on the device, numbered as images: one batch of all of them, without its lists by type.
pub struct Collection {
    /// `[images + 1] -> node`.
    node_offsets: Buffer<i32>,
    /// `[images + 1] -> edge`.
    edge_offsets: Buffer<i32>,
    /// `[nodes] -> object type`.
    node_object: Buffer<i32>,
    /// `[edges] -> predicate type`.
    edge_predicate: Buffer<i32>,
    /// `[edges] -> node`.
    edge_subject: Buffer<i32>,
    /// `[edges] -> node`.
    edge_object: Buffer<i32>,
    /// `[nodes + 1] -> message`.
    message_offsets: Buffer<i32>,
    /// `[2 edges]`: `2 edge + role`.
    messages: Buffer<i32>,
    object_types: usize,
    predicate_types: usize,
}

impl Collection {
    /// Brings all these graphs to the device.
    pub fn new<'a>(
        device: &Device,
        graphs: impl Iterator<Item = SceneGraph<'a>>,
        object_types: usize,
        predicate_types: usize,
    ) -> Result<Self> {
        let mut edge_offsets = vec![0];
        let graphs = graphs.inspect(|graph| {
            edge_offsets.push(edge_offsets[edge_offsets.len() - 1] + graph.edge_count() as u32);
        });
        let all = GraphBatch::of_graphs(graphs, object_types, predicate_types);
        let upload = |values: &[u32]| -> Result<Buffer<i32>> {
            let mut buffer = device.allocate_unwritten(values.len())?;
            device.upload(bytemuck::cast_slice(values), buffer.slice_mut(0..values.len()))?;
            Ok(buffer)
        };
        Ok(Collection {
            node_offsets: upload(&all.graph_offsets)?,
            edge_offsets: upload(&edge_offsets)?,
            node_object: upload(&all.node_object)?,
            edge_predicate: upload(&all.edge_predicate)?,
            edge_subject: upload(&all.edge_subject)?,
            edge_object: upload(&all.edge_object)?,
            message_offsets: upload(&all.incidence.offsets)?,
            messages: upload(&all.incidence.entries)?,
            object_types,
            predicate_types,
        })
    }
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

/// A batch's lists, each with room for the largest batch; as in [`GraphBatch`], and see there.
#[derive(Debug)]
pub struct BatchLists<'a> {
    /// `[COUNTS]`.
    pub counts: SliceMut<'a, i32>,
    /// `[G + 1] -> node`.
    pub graph_offsets: SliceMut<'a, i32>,
    /// `[E] -> node`.
    pub edge_subject: SliceMut<'a, i32>,
    /// `[E] -> node`.
    pub edge_object: SliceMut<'a, i32>,
    /// `[N + 1] -> message`.
    pub message_offsets: SliceMut<'a, i32>,
    /// `[2 E]`: `2 edge + role` by node.
    pub messages: SliceMut<'a, i32>,
    /// `[U]`: the object types that occur, ascending.
    pub object_types: SliceMut<'a, i32>,
    /// `[U + 1] -> message`.
    pub object_offsets: SliceMut<'a, i32>,
    /// `[2 E]`: `2 edge + role` by object type, node by node.
    pub object_entries: SliceMut<'a, i32>,
    /// `[E] -> object type that occurs`, of the subject.
    pub edge_subject_slot: SliceMut<'a, i32>,
    /// `[E] -> object type that occurs`, of the object.
    pub edge_object_slot: SliceMut<'a, i32>,
    /// `[U]`: the predicate types that occur, ascending.
    pub predicate_types: SliceMut<'a, i32>,
    /// `[U + 1] -> edge`.
    pub predicate_offsets: SliceMut<'a, i32>,
    /// `[E]`: edges by predicate type.
    pub predicate_entries: SliceMut<'a, i32>,
    /// `[E] -> predicate type that occurs`.
    pub edge_predicate_slot: SliceMut<'a, i32>,
    /// `[B]`.
    pub similarity_positive: SliceMut<'a, f32>,
    /// `[B]`.
    pub similarity_negative: SliceMut<'a, f32>,
}

/// Memory of the assembly.
pub struct Scratch {
    capacity: BatchSize,
    /// `[G] -> image`.
    graph_image: Buffer<i32>,
    /// `[G + 1] -> edge`.
    graph_edges: Buffer<i32>,
    /// `[N] -> object type`.
    node_object: Buffer<i32>,
    /// `[E] -> predicate type`.
    edge_predicate: Buffer<i32>,
    /// `[object types + predicate types]`: rows of each type in the batch.
    type_rows: Buffer<i32>,
    /// The same of entries.
    type_entries: Buffer<i32>,
    /// The same: each type's number among those that occur, or -1.
    slot_of_type: Buffer<i32>,
}

impl Scratch {
    /// For batches up to `capacity` of the collection's graphs.
    pub fn new(device: &Device, of: &Collection, capacity: BatchSize) -> Result<Self> {
        let types = of.object_types + of.predicate_types;
        Ok(Scratch {
            capacity,
            graph_image: device.allocate_unwritten(capacity.graphs)?,
            graph_edges: device.allocate_unwritten(capacity.graphs + 1)?,
            node_object: device.allocate_unwritten(capacity.nodes)?,
            edge_predicate: device.allocate_unwritten(capacity.edges)?,
            type_rows: device.allocate_unwritten(types)?,
            type_entries: device.allocate_unwritten(types)?,
            slot_of_type: device.allocate_unwritten(types)?,
        })
    }
}

/// The batch of the next `batch_size` anchors from `position` on, which moves behind them: at the epoch's end fewer.
///
/// Images must be those of the collection, and batches must fit the capacity that `scratch` was made for.
pub fn assemble_graph_batch(
    device: &Device,
    lists: &mut BatchLists<'_>,
    scratch: &mut Scratch,
    position: &mut SliceMut<'_, i32>,
    triples: EpochTriples<'_>,
    of: &Collection,
    batch_size: usize,
) -> Result<()> {
    let BatchSize { graphs, nodes, edges } = scratch.capacity;
    let (objects, predicates) = (of.object_types.min(nodes), of.predicate_types.min(edges));
    let anchors = triples.anchors.len();
    for (name, len, wanted) in [
        ("counts", lists.counts.len(), COUNTS),
        ("graph_offsets", lists.graph_offsets.len(), graphs + 1),
        ("edge_subject", lists.edge_subject.len(), edges),
        ("edge_object", lists.edge_object.len(), edges),
        ("message_offsets", lists.message_offsets.len(), nodes + 1),
        ("messages", lists.messages.len(), 2 * edges),
        ("object_types", lists.object_types.len(), objects),
        ("object_offsets", lists.object_offsets.len(), objects + 1),
        ("object_entries", lists.object_entries.len(), 2 * edges),
        ("edge_subject_slot", lists.edge_subject_slot.len(), edges),
        ("edge_object_slot", lists.edge_object_slot.len(), edges),
        ("predicate_types", lists.predicate_types.len(), predicates),
        ("predicate_offsets", lists.predicate_offsets.len(), predicates + 1),
        ("predicate_entries", lists.predicate_entries.len(), edges),
        ("edge_predicate_slot", lists.edge_predicate_slot.len(), edges),
        ("similarity_positive", lists.similarity_positive.len(), batch_size),
        ("similarity_negative", lists.similarity_negative.len(), batch_size),
        ("graphs", graphs, 3 * batch_size),
        ("position", position.len(), 1),
        ("positives", triples.positive.len(), anchors),
        ("negatives", triples.negative.len(), anchors),
        ("similarities to positives", triples.similarity_positive.len(), anchors),
        ("similarities to negatives", triples.similarity_negative.len(), anchors),
    ] {
        check_len(name, len, wanted);
    }
    let launch = |kernel, grid, arguments: &[_]| {
        // SAFETY: as in kernels/graph_batch.cu; lengths were checked, and indices lie in range, as the caller promises;
        // what a kernel writes is borrowed mutably, and none of it is read under another name.
        unsafe { device.launch(kernel, grid, arguments) }
    };
    let whole = |buffer: &Buffer<i32>| Argument::from(buffer.slice(0..buffer.len()));
    let arguments = [
        (&mut lists.counts).into(),
        whole(&scratch.graph_image),
        (&mut lists.graph_offsets).into(),
        whole(&scratch.graph_edges),
        (&mut lists.similarity_positive).into(),
        (&mut lists.similarity_negative).into(),
        position.into(),
        triples.anchors.into(),
        triples.positive.into(),
        triples.negative.into(),
        triples.similarity_positive.into(),
        triples.similarity_negative.into(),
        whole(&of.node_offsets),
        whole(&of.edge_offsets),
        anchors.into(),
        batch_size.into(),
    ];
    launch("graph_batch_places", Grid::rows(1, THREADS), &arguments)?;
    let arguments = [
        whole(&scratch.node_object),
        whole(&scratch.edge_predicate),
        (&mut lists.edge_subject).into(),
        (&mut lists.edge_object).into(),
        (&mut lists.message_offsets).into(),
        (&mut lists.messages).into(),
        lists.counts.as_slice().into(),
        whole(&scratch.graph_image),
        lists.graph_offsets.as_slice().into(),
        whole(&scratch.graph_edges),
        whole(&of.node_offsets),
        whole(&of.edge_offsets),
        whole(&of.node_object),
        whole(&of.edge_predicate),
        whole(&of.edge_subject),
        whole(&of.edge_object),
        whole(&of.message_offsets),
        whole(&of.messages),
    ];
    // One block more, which ends the list of messages.
    launch("graph_batch_graphs", Grid::rows(3 * batch_size + 1, THREADS_OF_A_GRAPH), &arguments)?;
    let blocks = of.object_types.max(of.predicate_types).div_ceil(TYPES_PER_BLOCK);
    let by_type = Grid { blocks: [dimension(blocks), 2, 1], threads: [THREADS, 1, 1] };
    let arguments = [
        whole(&scratch.type_rows),
        whole(&scratch.type_entries),
        lists.counts.as_slice().into(),
        whole(&scratch.node_object),
        whole(&scratch.edge_predicate),
        lists.message_offsets.as_slice().into(),
        of.object_types.into(),
        of.predicate_types.into(),
    ];
    launch("graph_batch_count", by_type, &arguments)?;
    let arguments = [
        (&mut lists.counts).into(),
        (&mut lists.object_types).into(),
        (&mut lists.object_offsets).into(),
        (&mut lists.predicate_types).into(),
        (&mut lists.predicate_offsets).into(),
        whole(&scratch.slot_of_type),
        whole(&scratch.type_rows),
        whole(&scratch.type_entries),
        of.object_types.into(),
        of.predicate_types.into(),
    ];
    launch("graph_batch_number", Grid::rows(2, THREADS), &arguments)?;
    let arguments = [
        (&mut lists.object_entries).into(),
        (&mut lists.predicate_entries).into(),
        lists.object_offsets.as_slice().into(),
        lists.predicate_offsets.as_slice().into(),
        whole(&scratch.slot_of_type),
        lists.counts.as_slice().into(),
        whole(&scratch.node_object),
        whole(&scratch.edge_predicate),
        lists.message_offsets.as_slice().into(),
        lists.messages.as_slice().into(),
        of.object_types.into(),
        of.predicate_types.into(),
    ];
    launch("graph_batch_fill", by_type, &arguments)?;
    let arguments = [
        (&mut lists.edge_subject_slot).into(),
        (&mut lists.edge_object_slot).into(),
        (&mut lists.edge_predicate_slot).into(),
        whole(&scratch.slot_of_type),
        lists.counts.as_slice().into(),
        whole(&scratch.node_object),
        lists.edge_subject.as_slice().into(),
        lists.edge_object.as_slice().into(),
        whole(&scratch.edge_predicate),
        of.object_types.into(),
    ];
    launch("graph_batch_slots", Grid::cover(edges.max(1), THREADS), &arguments)
}
