//! graph_batch: the batch of a step, of graphs that are each in it once.

use std::rc::Rc;

use super::{indices, near};
use crate::backend::cuda::launchers::batch_places::{HEADER, Places};
use crate::backend::cuda::launchers::graph_batch::{
    BatchSlot, Collection, CollectionPlaces, EpochTriples, assemble_graph_batch,
};
use crate::backend::cuda::launchers::linear::Format;
use crate::batch::graph_batch::GraphBatch;
use crate::bench::case::{Case, Cost, Host, OtherLengths, Prepared, all_mut};
use crate::bench::sizes::Sizes;
use crate::data::scene_graph::SceneGraphBuf;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (triples, graphs, nodes, edges) = (sizes.triples(), sizes.graphs(), sizes.nodes(), sizes.edges());
    let (batch, config, all) = (&sizes.batch, sizes.config, sizes.graphs.clone());
    let types = batch.object_occurrences.types.len() + batch.predicate_occurrences.types.len();
    let size = batch.size();
    vec![Case {
        kernel: "assemble_graph_batch",
        shape: format!("{graphs} graphs, {nodes} nodes, {edges} edges"),
        // Reads the triples, and of each graph offsets, end, types of nodes and edges, ends of edges, and messages; writes the
        // header, the graphs' offsets and ends, ends of edges, messages by node and by object type, edges by predicate
        // type, the types that occur, and similarities.
        cost: Cost::of(
            (5 * triples + 3 * graphs + 2 * nodes + 5 * edges)
                + (HEADER + (2 * graphs + 1) + (nodes + 1) + 10 * edges + (2 * types + 2) + 2 * triples),
            0,
        ),
        format: Format::Fp32,
        // Integers, and similarities as they are.
        prepare: Box::new(move |_| {
            let (array, of) = CollectionPlaces::pack(
                all.iter().map(SceneGraphBuf::view),
                config.object_types,
                config.predicate_types,
            );
            let places = Rc::new(Places::new(config, size));
            let (launch_places, scratch) = (places.clone(), of.scratch_len(&places));
            let (expected_places, expected_graphs) = (places, all.clone());
            // The last images are the anchors. Similarities are sums of few powers of two: their bits are compared as
            // integers that single precision holds.
            let image = |graph: usize| (graphs - 1 - graph) as u32;
            let images = |first: usize| indices(&(first..first + triples).map(image).collect::<Vec<_>>());
            let similarities =
                |first: usize| (0..triples).map(|i| 0.5 + ((first + i) % 128) as f32 / 256.0).collect();
            Prepared {
                host: Host {
                    inputs: vec![similarities(0), similarities(7)],
                    indices: vec![array, images(0), images(triples), images(2 * triples)],
                    // The position, and what the kernels tell each other.
                    others: OtherLengths {
                        found: launch_places.slot_len(),
                        scratch: 1 + scratch,
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
                    let (mut position, scratch) = all_mut(&mut others.scratch).split_at(1);
                    // A launch more than a step has, since each moves it.
                    device.zero(position.slice_mut(0..1))?;
                    let lists = all_mut(&mut others.found);
                    let slot = BatchSlot { lists, places: &launch_places, scratch };
                    let collection = Collection { array, places: &of };
                    assemble_graph_batch(device, slot, &mut position, triples, collection)
                }),
                expected: near(0.0, move |host| {
                    let graphs = expected_graphs.iter().rev().map(SceneGraphBuf::view);
                    let mut batch =
                        GraphBatch::of_graphs(graphs, config.object_types, config.predicate_types);
                    batch.similarity_positive = host.inputs[0].clone();
                    batch.similarity_negative = host.inputs[1].clone();
                    let mut slot = vec![i32::MIN; expected_places.slot_len()];
                    expected_places.pack(&mut slot, &batch);
                    vec![slot.into_iter().map(f64::from).collect()]
                }),
            }
        }),
    }]
}
