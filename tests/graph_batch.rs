//! graph_batch: the batch that the kernels assemble is the one that the CPU concatenates, list by list.

mod kernel_support;

use kernel_support::cases::{check, seeds};
use kernel_support::{Values, all, all_mut, devices, to_device};
use proptest::collection::vec;
use proptest::prelude::*;
use scenerank::backend::cuda::buffer::{Buffer, SliceMut};
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::graph_batch::{
    BatchLists, COUNTS, Collection, EpochTriples, Scratch, assemble_graph_batch,
};
use scenerank::batch::graph_batch::{BatchSize, GraphBatch};
use scenerank::data::scene_graph::SceneGraphBuf;

/// Scene graphs with an image node each, and their vocabulary.
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
                    SceneGraphBuf::augmented(&types, &relationships, image, in_image)
                })
                .collect();
            Images { graphs, object_types, predicate_types }
        },
    )
}

/// An epoch: anchor, positive, negative; an anchor without a triple has -1 twice.
type Epoch = Vec<(i32, i32, i32, f32, f32)>;

/// What a batch of these triples must hold, by the names of the lists; the bits of floats.
fn expected(images: &Images, epoch: &[(i32, i32, i32, f32, f32)]) -> Vec<(&'static str, Vec<i32>)> {
    let there: Vec<_> = epoch.iter().filter(|triple| triple.1 >= 0).collect();
    let role = |image: fn(&(i32, i32, i32, f32, f32)) -> i32| {
        there.iter().map(move |triple| images.graphs[image(triple) as usize].view())
    };
    let graphs = role(|t| t.0).chain(role(|t| t.1)).chain(role(|t| t.2));
    let batch = GraphBatch::of_graphs(graphs, images.object_types, images.predicate_types);
    let BatchSize { graphs, nodes, edges } = batch.size();
    let (objects, predicates) = (&batch.object_occurrences, &batch.predicate_occurrences);
    let mut object_offsets = vec![0];
    let mut object_entries = Vec::new();
    for slot in 0..objects.types.len() {
        for &node in objects.rows(slot) {
            let messages = batch.incidence.messages(node as usize);
            object_entries.extend(messages.map(|(edge, role)| 2 * edge as u32 + role));
        }
        object_offsets.push(object_entries.len() as u32);
    }
    let slots = |nodes: &[u32]| nodes.iter().map(|&node| objects.slot[node as usize]).collect::<Vec<u32>>();
    let counts = [graphs, nodes, edges, objects.types.len(), predicates.types.len(), there.len()];
    let bits = |of: fn(&(i32, i32, i32, f32, f32)) -> f32| {
        there.iter().map(|triple| of(triple).to_bits()).collect::<Vec<u32>>()
    };
    let lists: Vec<(&'static str, Vec<u32>)> = vec![
        ("counts", counts.map(|count| count as u32).to_vec()),
        ("graph_offsets", batch.graph_offsets.clone()),
        ("edge_subject", batch.edge_subject.clone()),
        ("edge_object", batch.edge_object.clone()),
        ("message_offsets", batch.incidence.offsets.clone()),
        ("messages", batch.incidence.entries.clone()),
        ("object_types", objects.types.clone()),
        ("object_offsets", object_offsets),
        ("object_entries", object_entries),
        ("edge_subject_slot", slots(&batch.edge_subject)),
        ("edge_object_slot", slots(&batch.edge_object)),
        ("predicate_types", predicates.types.clone()),
        ("predicate_offsets", predicates.offsets.clone()),
        ("predicate_entries", predicates.entries.clone()),
        ("edge_predicate_slot", predicates.slot.clone()),
        ("similarity_positive", bits(|t| t.3)),
        ("similarity_negative", bits(|t| t.4)),
    ];
    lists.into_iter().map(|(name, list)| (name, list.into_iter().map(|v| v as i32).collect())).collect()
}

/// In every cell that no kernel writes.
const UNTOUCHED: i32 = -77;

/// The lists of every batch of the epoch, each as long as its memory, and the position after it.
fn assembled(
    device: &Device,
    images: &Images,
    epoch: &Epoch,
    batch_size: usize,
) -> Vec<(Vec<(&'static str, Vec<i32>)>, i32)> {
    let views = || images.graphs.iter().map(SceneGraphBuf::view);
    let collection = Collection::new(device, views(), images.object_types, images.predicate_types)
        .expect("memory for the collection");
    let capacity = BatchSize::bound(views(), 3 * batch_size);
    let mut scratch = Scratch::new(device, &collection, capacity).expect("scratch memory");
    let column = |of: fn(&(i32, i32, i32, f32, f32)) -> i32| {
        to_device(device, &epoch.iter().map(of).collect::<Vec<i32>>())
    };
    let [anchors, positive, negative] = [column(|t| t.0), column(|t| t.1), column(|t| t.2)];
    let floats = |of: fn(&(i32, i32, i32, f32, f32)) -> f32| {
        to_device(device, &epoch.iter().map(of).collect::<Vec<f32>>())
    };
    let [similarity_positive, similarity_negative] = [floats(|t| t.3), floats(|t| t.4)];
    let mut position = to_device(device, &[0]);
    let BatchSize { graphs, nodes, edges } = capacity;
    let (objects, predicates) = (images.object_types.min(nodes), images.predicate_types.min(edges));
    let lengths = [
        ("counts", COUNTS),
        ("graph_offsets", graphs + 1),
        ("edge_subject", edges),
        ("edge_object", edges),
        ("message_offsets", nodes + 1),
        ("messages", 2 * edges),
        ("object_types", objects),
        ("object_offsets", objects + 1),
        ("object_entries", 2 * edges),
        ("edge_subject_slot", edges),
        ("edge_object_slot", edges),
        ("predicate_types", predicates),
        ("predicate_offsets", predicates + 1),
        ("predicate_entries", edges),
        ("edge_predicate_slot", edges),
    ];
    let mut batches = Vec::new();
    for _ in 0..epoch.len().div_ceil(batch_size) {
        let mut memory = lengths.map(|(_, len)| to_device(device, &vec![UNTOUCHED; len]));
        let untouched = f32::from_bits(UNTOUCHED as u32);
        let mut similarities = [(); 2].map(|()| to_device(device, &vec![untouched; batch_size]));
        {
            let mut parts = memory.iter_mut().map(all_mut);
            let mut next = || -> SliceMut<'_, i32> { parts.next().expect("as many as lists") };
            let [one, two] = &mut similarities;
            let mut lists = BatchLists {
                counts: next(),
                graph_offsets: next(),
                edge_subject: next(),
                edge_object: next(),
                message_offsets: next(),
                messages: next(),
                object_types: next(),
                object_offsets: next(),
                object_entries: next(),
                edge_subject_slot: next(),
                edge_object_slot: next(),
                predicate_types: next(),
                predicate_offsets: next(),
                predicate_entries: next(),
                edge_predicate_slot: next(),
                similarity_positive: all_mut(one),
                similarity_negative: all_mut(two),
            };
            let triples = EpochTriples {
                anchors: all(&anchors),
                positive: all(&positive),
                negative: all(&negative),
                similarity_positive: all(&similarity_positive),
                similarity_negative: all(&similarity_negative),
            };
            let position = &mut all_mut(&mut position);
            assemble_graph_batch(
                device,
                &mut lists,
                &mut scratch,
                position,
                triples,
                &collection,
                batch_size,
            )
            .expect("launches");
        }
        let download = |buffer: &Buffer<i32>| device.download(buffer, 0..buffer.len()).expect("a download");
        let mut lists: Vec<(&'static str, Vec<i32>)> =
            lengths.iter().zip(&memory).map(|(&(name, _), buffer)| (name, download(buffer))).collect();
        for (name, buffer) in ["similarity_positive", "similarity_negative"].into_iter().zip(&similarities) {
            let values = kernel_support::to_host(device, buffer);
            lists.push((name, values.into_iter().map(|value| value.to_bits() as i32).collect()));
        }
        batches.push((lists, download(&position)[0]));
    }
    batches
}

/// Three different images per anchor; where `skipped` says so, none.
fn epoch(images: usize, anchors: usize, skipped: &[bool], seed: u64) -> Epoch {
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

fn assert_batches_agree(images: &Images, epoch: &Epoch, batch_size: usize) {
    for device in devices() {
        let got = assembled(&device, images, epoch, batch_size);
        for (step, ((lists, position), triples)) in got.into_iter().zip(epoch.chunks(batch_size)).enumerate()
        {
            assert_eq!(position as usize, (step * batch_size + batch_size).min(epoch.len()), "position");
            for ((name, list), (_, want)) in lists.into_iter().zip(expected(images, triples)) {
                let (written, beyond) = list.split_at(want.len());
                assert_eq!(written, want, "step {step}: {name}");
                assert!(
                    beyond.iter().all(|&v| v == UNTOUCHED),
                    "step {step}: {name} is written beyond its end"
                );
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
    if kernel_support::cases::no_device() {
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
