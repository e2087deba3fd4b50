//! graph_batch: the slot that the kernels fill is the one that the host packs, number by number.

use crate::support::cases::{check, seeds};
use crate::support::{Values, all, all_mut, devices, to_device};
use proptest::collection::vec;
use proptest::prelude::*;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::batch_places::Places;
use scenerank::backend::cuda::launchers::graph_batch::{
    BatchSlot, Collection, CollectionPlaces, EpochTriples, assemble_graph_batch,
};
use scenerank::batch::graph_batch::{BatchSize, GraphBatch};
use scenerank::data::scene_graph::{SceneGraph, SceneGraphBuf};
use scenerank::network::config::ModelConfig;

/// Scene graphs with an image node each, but for some, and their vocabulary.
#[derive(Clone, Debug)]
struct Images {
    graphs: Vec<SceneGraphBuf>,
    object_types: usize,
    predicate_types: usize,
}

/// At least three images of up to six objects (none too) and up to eight relationships, duplicates and self loops
/// among them.
fn images() -> impl Strategy<Value = Images> {
    let graph = (0..=6usize, vec((any::<u32>(), any::<u32>(), any::<u32>()), 0..=8));
    (vec(graph, 3..=12), 2..=80usize, 2..=70usize, seeds()).prop_map(
        |(graphs, object_types, predicate_types, seed)| {
            let mut values = Values::new(seed);
            let graphs = graphs
                .into_iter()
                .map(|(objects, relationships)| {
                    let types = values.indices(objects, object_types - 1);
                    let below = |value: u32, end: usize| value % end as u32;
                    let relationships: Vec<(u32, u32, u32)> = relationships
                        .into_iter()
                        .filter(|_| objects > 0)
                        .map(|(s, p, o)| {
                            (below(s, objects), below(p, predicate_types - 1), below(o, objects))
                        })
                        .collect();
                    let (image, in_image) = (object_types as u32 - 1, predicate_types as u32 - 1);
                    let mut graph = SceneGraphBuf::augmented(&types, &relationships, image, in_image);
                    if objects == 5 {
                        graph = SceneGraphBuf { node_object: types, ..Default::default() };
                        relationships.into_iter().for_each(|(s, p, o)| graph.push_edge(s, p, o));
                    }
                    graph
                })
                .collect();
            Images { graphs, object_types, predicate_types }
        },
    )
}

/// Anchor, positive, negative and both similarities; an anchor without a triple has -1 twice.
type Triple = (i32, i32, i32, f32, f32);

/// In every cell that no kernel writes.
const UNTOUCHED: i32 = -77;

impl Images {
    fn views(&self) -> impl Iterator<Item = SceneGraph<'_>> {
        self.graphs.iter().map(SceneGraphBuf::view)
    }

    /// Of a slot for so many triples.
    fn places(&self, batch_size: usize) -> Places {
        let config = ModelConfig {
            object_types: self.object_types,
            predicate_types: self.predicate_types,
            ..ModelConfig::PAPER
        };
        Places::new(config, BatchSize::bound(self.views(), 3 * batch_size))
    }

    /// The slot that the host packs of these anchors' triples.
    fn packed(&self, triples: &[Triple], batch_size: usize) -> Vec<i32> {
        let there: Vec<_> = triples.iter().filter(|triple| triple.1 >= 0).collect();
        let role = |image: fn(&Triple) -> i32| {
            there.iter().map(move |triple| self.graphs[image(triple) as usize].view())
        };
        let graphs = role(|t| t.0).chain(role(|t| t.1)).chain(role(|t| t.2));
        let mut batch = GraphBatch::of_graphs(graphs, self.object_types, self.predicate_types);
        batch.similarity_positive = there.iter().map(|triple| triple.3).collect();
        batch.similarity_negative = there.iter().map(|triple| triple.4).collect();
        let places = self.places(batch_size);
        let mut slot = vec![UNTOUCHED; places.slot_len()];
        places.pack(&mut slot, &batch);
        slot
    }

    /// The slots that the kernels fill, one after another until no anchor is left, each with the position after it.
    fn assembled(&self, device: &Device, epoch: &[Triple], batch_size: usize) -> Vec<(Vec<i32>, i32)> {
        let (array, collection) =
            CollectionPlaces::pack(self.views(), self.object_types, self.predicate_types);
        let array = to_device(device, &array);
        let column = |of: fn(&Triple) -> i32| to_device(device, &epoch.iter().map(of).collect::<Vec<i32>>());
        let [anchors, positive, negative] = [column(|t| t.0), column(|t| t.1), column(|t| t.2)];
        let floats = |of: fn(&Triple) -> f32| to_device(device, &epoch.iter().map(of).collect::<Vec<f32>>());
        let [similarity_positive, similarity_negative] = [floats(|t| t.3), floats(|t| t.4)];
        let places = self.places(batch_size);
        let mut scratch = to_device(device, &vec![UNTOUCHED; collection.scratch_len(&places)]);
        let mut position = to_device(device, &[0]);
        let mut slots = Vec::new();
        loop {
            let mut slot = to_device(device, &vec![UNTOUCHED; places.slot_len()]);
            let to = BatchSlot { lists: all_mut(&mut slot), places: &places, scratch: all_mut(&mut scratch) };
            assemble_graph_batch(
                device,
                to,
                &mut all_mut(&mut position),
                EpochTriples {
                    anchors: all(&anchors),
                    positive: all(&positive),
                    negative: all(&negative),
                    similarity_positive: all(&similarity_positive),
                    similarity_negative: all(&similarity_negative),
                },
                Collection { array: all(&array), places: &collection },
            )
            .expect("launches");
            let slot = device.download(&slot, 0..places.slot_len()).expect("a download");
            let done = device.download(&position, 0..1).expect("a download")[0];
            slots.push((slot, done));
            if done as usize >= epoch.len() {
                return slots;
            }
        }
    }
}

/// Three different images per anchor; where `skipped` says so, none.
fn epoch(images: usize, anchors: usize, skipped: &[bool], seed: u64) -> Vec<Triple> {
    let mut values = Values::new(seed);
    let similarities = values.signed(2 * anchors);
    let picks = values.indices(3 * anchors, images);
    (0..anchors)
        .map(|i| {
            let [a, p, n] = [0, 1, 2].map(|role| picks[3 * i + role] as i32);
            let (p, n) = if skipped[i % skipped.len()] { (-1, -1) } else { (p, n) };
            (a, p, n, similarities[2 * i], similarities[2 * i + 1])
        })
        .collect()
}

/// Batches without a triple are passed over; behind the last that has any comes an empty one.
fn assert_batches_agree(images: &Images, epoch: &[Triple], batch_size: usize) {
    let mut want = Vec::new();
    for (step, triples) in epoch.chunks(batch_size).enumerate() {
        let last = (step + 1) * batch_size >= epoch.len();
        if last || triples.iter().any(|triple| triple.1 >= 0) {
            let done = (step * batch_size + triples.len()) as i32;
            want.push((images.packed(triples, batch_size), done));
        }
    }
    if epoch.is_empty() {
        want.push((images.packed(&[], batch_size), 0));
    }
    for device in devices() {
        let got = images.assembled(&device, epoch, batch_size);
        assert_eq!(got.len(), want.len(), "batches");
        for (step, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.1, want.1, "step {step}: position");
            if let Some(at) = (0..want.0.len()).find(|&at| got.0[at] != want.0[at]) {
                let places = images.places(batch_size);
                panic!("step {step}: number {at} is {}, not {}; {places:?}", got.0[at], want.0[at]);
            }
        }
    }
}

#[test]
fn batches_are_the_cpus() {
    let cases = (images(), 0..=9usize, 1..=4usize, vec(any::<bool>(), 1..=4), seeds());
    check(40, cases, |(images, anchors, batch_size, skipped, seed)| {
        let epoch = epoch(images.graphs.len(), anchors, &skipped, seed);
        assert_batches_agree(&images, &epoch, batch_size);
    });
}

/// More graphs than a block has threads, more rows than a warp, more types than a block.
#[test]
fn large_batches_are_the_cpus() {
    if crate::support::cases::no_device() {
        return;
    }
    let (object_types, predicate_types) = (700, 300);
    let mut values = Values::new(11);
    let graphs = (0..40)
        .map(|i| {
            let objects = i % 23;
            let types = values.indices(objects, object_types - 1);
            let ends = values.indices(2 * 30, objects.max(1));
            let predicates = values.indices(30, predicate_types - 1);
            let count = if objects == 0 { 0 } else { i % 31 };
            let relationships: Vec<_> =
                (0..count).map(|r| (ends[2 * r], predicates[r], ends[2 * r + 1])).collect();
            SceneGraphBuf::augmented(
                &types,
                &relationships,
                object_types as u32 - 1,
                predicate_types as u32 - 1,
            )
        })
        .collect();
    let images = Images { graphs, object_types, predicate_types };
    let epoch = epoch(40, 310, &[false, false, true, false, false], 12);
    assert_batches_agree(&images, &epoch, 300);
}
