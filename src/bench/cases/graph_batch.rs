//! graph_batch: assembly of a step's batch. In the bench each graph occurs in it once.

use std::rc::Rc;

use crate::backend::cuda::launchers::batch_places::{HEADER, Places};
use crate::backend::cuda::launchers::graph_batch::{
    BatchSlot, Collection, CollectionPlaces, EpochTriples, assemble_graph_batch,
};
use crate::backend::cuda::launchers::linear::Format;
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::bench::case::{Case, Cost, Grows, Host, OtherLengths, Prepared, all_mut};
use crate::bench::chain::Chain;
use crate::bench::check::Output;
use crate::bench::sizes::Sizes;
use crate::data::scene_graph::{SceneGraph, SceneGraphBuf};
use crate::network::config::ModelConfig;

/// Triples of an epoch, and the batches assembled from them.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// Graphs of all images.
    pub graphs: Rc<Vec<SceneGraphBuf>>,
    /// Sizes of the network; only its numbers of types matter.
    pub config: ModelConfig,
    /// Triples, one per anchor.
    pub triples: Vec<EpochTriple>,
    /// Number of anchors per batch.
    pub batch_size: usize,
    /// Number of batches to assemble, one after another, each in its own slot.
    pub batches: usize,
}

/// Triple of images in the device's layout.
#[derive(Clone, Copy, Debug)]
pub struct EpochTriple {
    /// Anchor, positive and negative; an anchor without a triple has -1 twice.
    pub images: [i32; 3],
    /// Similarities of the anchor to the positive and to the negative.
    pub similarities: [f32; 2],
}

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (triples, graphs) = (sizes.triples(), sizes.graphs());
    // The last images are the anchors. Similarities are sums of a few powers of two.
    let image = |graph: usize| (graphs - 1 - graph) as i32;
    let similarity = |at: usize| 0.5 + (at % 128) as f32 / 256.0;
    let triple = |at: usize| EpochTriple {
        images: [0, 1, 2].map(|role| image(role * triples + at)),
        similarities: [similarity(at), similarity(7 + at)],
    };
    vec![batches(Epoch {
        graphs: sizes.graphs.clone(),
        config: sizes.config,
        triples: (0..triples).map(triple).collect(),
        batch_size: triples,
        batches: 1,
    })]
}

impl Epoch {
    fn views(&self) -> impl Iterator<Item = SceneGraph<'_>> {
        self.graphs.iter().map(SceneGraphBuf::view)
    }

    /// Batch of the triples that exist.
    fn batch(&self, triples: &[EpochTriple]) -> GraphBatch {
        let triples: Vec<_> = triples.iter().filter(|triple| triple.images[1] >= 0).collect();
        let role = |role: usize| triples.iter().map(move |t| self.graphs[t.images[role] as usize].view());
        let graphs = role(0).chain(role(1)).chain(role(2));
        let mut batch = GraphBatch::of_graphs(graphs, self.config.object_types, self.config.predicate_types);
        batch.similarity_positive = triples.iter().map(|triple| triple.similarities[0]).collect();
        batch.similarity_negative = triples.iter().map(|triple| triple.similarities[1]).collect();
        batch
    }

    /// Contents of the slots, one after another, and the position after the last. Batches without a triple are skipped;
    /// an empty batch follows the last one.
    fn slots(&self, places: &Places) -> Vec<i32> {
        let (mut slots, mut position) = (Vec::new(), 0);
        for _ in 0..self.batches {
            let batch = loop {
                let end = self.triples.len().min(position + self.batch_size);
                let triples = &self.triples[position..end];
                position = end;
                if end == self.triples.len() || triples.iter().any(|triple| triple.images[1] >= 0) {
                    break self.batch(triples);
                }
            };
            let mut slot = vec![i32::MIN; places.slot_len()];
            places.pack(&mut slot, &batch);
            slots.extend(slot);
        }
        slots.push(position as i32);
        slots
    }
}

/// Launches that assemble a batch, and loads in series in each.
const LAUNCHES: usize = 5;
const LOADS_OF_LAUNCH: usize = 8;

/// Assembles several batches: their slots, and the position after them.
pub fn batches(epoch: Epoch) -> Case {
    let first = epoch.batch(&epoch.triples[..epoch.batch_size.min(epoch.triples.len())]);
    let types = first.object_occurrences.types.len() + first.predicate_occurrences.types.len();
    let (BatchSize { graphs, nodes, edges }, triples) = (first.size(), first.similarity_positive.len());
    let (config, batches) = (epoch.config, epoch.batches);
    let size = BatchSize::bound(epoch.views(), 3 * epoch.batch_size);
    Case {
        kernel: "assemble_graph_batch",
        shape: format!("{graphs} graphs, {nodes} nodes, {edges} edges"),
        // Reads the triples, and for each graph its offsets, types of nodes and edges, ends of edges and messages.
        // Writes the header, the offsets of the graphs, the ends of edges, and the messages per node and per object
        // type. Also writes the edges per predicate type, the types that occur and the similarities.
        cost: Cost::of(
            (5 * triples + 3 * graphs + 2 * nodes + 5 * edges)
                + (HEADER + (2 * graphs + 1) + (nodes + 1) + 10 * edges + (2 * types + 2) + 2 * triples),
            0,
        ),
        chain: Chain::loads(LAUNCHES * LOADS_OF_LAUNCH),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let (array, of) =
                CollectionPlaces::pack(epoch.views(), config.object_types, config.predicate_types);
            let places = Rc::new(Places::new(config, size));
            let (expected_places, scratch, epoch) = (places.clone(), of.scratch_len(&places), epoch.clone());
            let images =
                [0, 1, 2].map(|role| epoch.triples.iter().map(|triple| triple.images[role]).collect());
            let similarities =
                [0, 1].map(|role| epoch.triples.iter().map(|triple| triple.similarities[role]).collect());
            Prepared {
                host: Host {
                    inputs: similarities.to_vec(),
                    indices: [array].into_iter().chain(images).collect(),
                    others: OtherLengths {
                        found: batches * places.slot_len() + 1,
                        // Memory through which the kernels communicate.
                        scratch,
                        ..Default::default()
                    },
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([similarity_positive, similarity_negative], lists, [], others) = arrays.parts();
                    let [array, anchors, positive, negative] = lists;
                    let triples = EpochTriples {
                        anchors,
                        positive,
                        negative,
                        similarity_positive,
                        similarity_negative,
                    };
                    let (mut slots, mut position) =
                        all_mut(&mut others.found).split_at(batches * places.slot_len());
                    // One more launch than a step has, because each launch advances the position.
                    device.zero(position.slice_mut(0..1))?;
                    for batch in 0..batches {
                        let place = batch * places.slot_len()..(batch + 1) * places.slot_len();
                        let scratch = all_mut(&mut others.scratch);
                        let slot = BatchSlot { lists: slots.slice_mut(place), places: &places, scratch };
                        let collection = Collection { array, places: &of };
                        assemble_graph_batch(device, slot, &mut position, triples, collection)?;
                    }
                    Ok(())
                }),
                expected: Box::new(move |_, _| {
                    let slots = epoch.slots(&expected_places).into_iter().map(f64::from).collect();
                    // All values are integers, or bits of similarities.
                    vec![Output::exact("slots and position", slots)]
                }),
            }
        }),
    }
}
