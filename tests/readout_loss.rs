//! readout_loss: the kernels against the reference in double precision.

mod kernel_support;

use kernel_support::{Values, assert_within, devices, indices_to_device, poisoned, to_device, to_host, wide};
use scenerank::backend::cuda::readout_loss::{Triples, readout, readout_loss};
use scenerank::backend::reference::readout_loss as reference;
use scenerank::batch::graph_batch::GraphBatch;
use scenerank::loss::{Loss, LossKind};

/// Triples of graphs of 1 to 5 nodes, the first of 300.
fn batch(triples: usize, values: &mut Values) -> GraphBatch {
    let mut batch = GraphBatch { graph_offsets: vec![0], ..Default::default() };
    for (graph, size) in (0u32..).zip(values.indices(3 * triples, 5)) {
        let size = if graph == 0 { 300 } else { size + 1 };
        batch.node_graph.extend(vec![graph; size as usize]);
        batch.graph_offsets.push(batch.node_graph.len() as u32);
    }
    batch.node_object = vec![0; batch.node_graph.len()];
    batch.similarity_positive = values.positive(triples);
    batch.similarity_negative = values.positive(triples);
    if triples > 1 {
        // 0 / 0 means an even target.
        (batch.similarity_positive[1], batch.similarity_negative[1]) = (0.0, 0.0);
    }
    batch
}

#[test]
fn embeddings_losses_and_gradients_agree_with_the_reference() {
    for device in devices() {
        for (case, (triples, width)) in [0, 1, 3, 16]
            .iter()
            .flat_map(|&triples| [1, 31, 129, 300].map(|width| (triples, width)))
            .enumerate()
        {
            let mut values = Values::new(case as u64);
            let batch = batch(triples, &mut values);
            let (nodes, graphs) = (batch.node_graph.len(), 3 * triples);
            let node_state = values.signed(nodes * width);
            let node_state_there = to_device(&device, &node_state);
            let offsets = indices_to_device(&device, &batch.graph_offsets);
            let graph_offsets = offsets.slice(0..graphs + 1);
            let (mut embedding, mut mean_norm) =
                (poisoned(&device, graphs * width), poisoned(&device, graphs));
            readout(
                &device,
                &mut embedding.slice_mut(0..graphs * width),
                &mut mean_norm.slice_mut(0..graphs),
                node_state_there.slice(0..nodes * width),
                graph_offsets,
                width,
            )
            .expect("a launch");
            let wide_state = wide(&node_state);
            let f = reference::readout(&batch, &wide_state, width);
            let name = |what: &str| format!("{what}, {triples} triples, width {width}");
            // The mean of 300 numbers may be small against them, and normalisation scales it up; one column is 1 or -1.
            assert_within(&name("embedding"), &to_host(&device, &embedding), &f, 2e-5);

            let (positive, negative) = (
                to_device(&device, &batch.similarity_positive),
                to_device(&device, &batch.similarity_negative),
            );
            for kind in [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce] {
                let loss = Loss { kind, temperature: 0.7, margin: 0.4 };
                let (mut losses, mut d) = (poisoned(&device, triples), poisoned(&device, nodes * width));
                let of = Triples {
                    embedding: embedding.slice(0..graphs * width),
                    mean_norm: mean_norm.slice(0..graphs),
                    graph_offsets,
                    similarity_positive: positive.slice(0..triples),
                    similarity_negative: negative.slice(0..triples),
                };
                readout_loss(
                    &device,
                    &mut losses.slice_mut(0..triples),
                    &mut d.slice_mut(0..nodes * width),
                    of,
                    width,
                    &loss,
                )
                .expect("a launch");
                let (want, d_embedding) = reference::triple_losses(&loss, &batch, &f, width);
                assert_within(&name("losses"), &to_host(&device, &losses), &want, 1e-4);
                let want = reference::readout_backward(&batch, &wide_state, &d_embedding, width);
                let largest = want.iter().fold(0.0, |most: f64, d| most.max(d.abs()));
                assert_within(&name("d_node_state"), &to_host(&device, &d), &want, 1e-5 + 1e-4 * largest);
            }
        }
    }
}
