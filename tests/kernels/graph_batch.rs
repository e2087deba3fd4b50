//! graph_batch: the case of the bench with random graphs, for all batches of an epoch.

use std::rc::Rc;

use crate::support::Values;
use crate::support::agreement::agree;
use crate::support::cases::{check, no_device, seeds};
use proptest::collection::vec;
use proptest::prelude::*;
use scenerank::bench::cases::graph_batch::{Epoch, EpochTriple, batches};
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::network::config::ModelConfig;

/// Scene graphs and their vocabulary. Most graphs have an image node.
#[derive(Clone, Debug)]
struct Images {
    graphs: Vec<SceneGraphBuf>,
    object_types: usize,
    predicate_types: usize,
}

/// At least three images with 0 to 6 objects and up to 8 relationships, including duplicates and self loops.
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

/// Three different images per anchor, or no triple for anchors in `skipped`.
fn epoch(images: usize, anchors: usize, skipped: &[bool], seed: u64) -> Vec<EpochTriple> {
    let mut values = Values::new(seed);
    let similarities = values.signed(2 * anchors);
    let picks = values.indices(3 * anchors, images);
    (0..anchors)
        .map(|i| {
            let [a, p, n] = [0, 1, 2].map(|role| picks[3 * i + role] as i32);
            let (p, n) = if skipped[i % skipped.len()] { (-1, -1) } else { (p, n) };
            EpochTriple { images: [a, p, n], similarities: [similarities[2 * i], similarities[2 * i + 1]] }
        })
        .collect()
}

/// All batches of the epoch, and every prefix of them.
fn assert_batches_agree(order: u64, images: &Images, triples: &[EpochTriple], batch_size: usize) {
    let config = ModelConfig {
        object_types: images.object_types,
        predicate_types: images.predicate_types,
        ..ModelConfig::PAPER
    };
    let (graphs, triples) = (Rc::new(images.graphs.clone()), triples.to_vec());
    let of = Epoch { graphs, config, triples, batch_size, batches: 0 };
    for count in 1.. {
        let slots = agree(order, &batches(Epoch { batches: count, ..of.clone() })).remove(0);
        if slots[slots.len() - 1] as usize == of.triples.len() {
            return;
        }
    }
}

#[test]
fn batches_are_the_cpus() {
    let cases = (images(), 0..=9usize, 1..=4usize, vec(any::<bool>(), 1..=4), seeds());
    check(40, cases, |(images, anchors, batch_size, skipped, seed)| {
        let epoch = epoch(images.graphs.len(), anchors, &skipped, seed);
        assert_batches_agree(seed, &images, &epoch, batch_size);
    });
}

/// More graphs than a block has threads, more rows than a warp has lanes, and more types than a block has threads.
#[test]
fn large_batches_are_the_cpus() {
    if no_device() {
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
    for order in [1, 2] {
        assert_batches_agree(order, &images, &epoch, 300);
    }
}
