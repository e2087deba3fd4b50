//! readout_loss: the kernels against the reference in double precision, and their gradient against finite differences.

use std::ops::Range;

use crate::support::calculus::central_differences;
use crate::support::cases::{check, columns, seeds};
use crate::support::stored::{assert_stored_within, rounded, stored, stored_to_host, unwritten};
use crate::support::{
    Counted, ROUNDING, Values, all, all_mut, assert_within, indices_with_room, poisoned, same_bits,
    to_device, to_host, to_host_within, wide, with_room,
};
use half::bf16;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use scenerank::backend::cuda::launchers::readout_loss::{
    LossOutputs, LossRows, NodeStates, Triples, readout, readout_loss,
};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::readout_loss as reference;
use scenerank::batch::graph_batch::GraphBatch;
use scenerank::loss::{Loss, LossKind};

const KINDS: [LossKind; 3] = [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce];

fn loss() -> impl Strategy<Value = Loss> {
    select(KINDS.to_vec()).prop_map(|kind| Loss { kind, temperature: 0.7, margin: 0.4 })
}

/// Graphs of `sizes` nodes, anchors, positives and negatives one after another: three of each triple's. Every third
/// graph's last node is no image node.
fn batch(sizes: &[[usize; 3]], values: &mut Values) -> GraphBatch {
    let triples = sizes.len();
    let mut batch = GraphBatch { graph_offsets: vec![0], ..Default::default() };
    for graph in 0..3 * triples {
        let size = sizes[graph % triples][graph / triples];
        batch.node_graph.extend(vec![graph as u32; size]);
        batch.graph_offsets.push(batch.node_graph.len() as u32);
    }
    batch.node_object = vec![0; batch.node_graph.len()];
    for (graph, nodes) in batch.graph_offsets.windows(2).enumerate() {
        if nodes[1] > nodes[0] && graph % 3 < 2 {
            batch.node_object[nodes[1] as usize - 1] = 1;
        }
    }
    batch.index(2, 1);
    batch.similarity_positive = values.positive(triples);
    batch.similarity_negative = values.positive(triples);
    if triples > 1 {
        // 0 / 0 means an even target.
        (batch.similarity_positive[1], batch.similarity_negative[1]) = (0.0, 0.0);
    }
    batch
}

/// embedding, losses, d_node_state.
fn kernels<T: StoredElement>(
    batch: &GraphBatch,
    node_state: &[f32],
    width: usize,
    image_node_in_mean: bool,
    loss: &Loss,
    order: u64,
) -> [Vec<f32>; 3] {
    same_bits(order, |device, spare| {
        let (graphs, triples) = (batch.graph_offsets.len() - 1, batch.similarity_positive.len());
        let nodes = batch.node_object.len();
        let counted =
            [(graphs, 3 * spare), (triples, spare)].map(|(rows, spare)| Counted::new(device, rows, spare));
        let node_state = stored::<T>(device, node_state, width, spare);
        let offsets = indices_with_room(device, &batch.graph_offsets, 3 * spare);
        let ends: Vec<u32> =
            (0..graphs).map(|graph| batch.mean_nodes(graph, image_node_in_mean).end as u32).collect();
        let ends = indices_with_room(device, &ends, 3 * spare);
        let room = graphs + 3 * spare;
        let [mut alone, mut embedding] = [(); 2].map(|()| poisoned(device, room * width));
        let values = all(&node_state);
        let states = NodeStates { values, graph_offsets: all(&offsets), mean_ends: all(&ends), width };
        readout(device, &mut all_mut(&mut alone), states, counted[0].rows()).expect("a launch");
        let [positive, negative] = [&batch.similarity_positive, &batch.similarity_negative]
            .map(|values| with_room(device, values, spare));
        let of = Triples {
            count: counted[1].rows(),
            similarity_positive: all(&positive),
            similarity_negative: all(&negative),
        };
        // The losses of step 12 in the third of five rows.
        let (steps, most_triples) = (to_device(device, &[12u64]), triples + spare);
        let mut losses = poisoned(device, 5 * most_triples);
        let mut d = unwritten::<T>(device, nodes + spare, width);
        let rows = LossRows { values: all_mut(&mut losses), rows: 5, steps: all(&steps) };
        let (embedding_there, d_node_state) = (all_mut(&mut embedding), all_mut(&mut d));
        let to = LossOutputs { embedding: embedding_there, losses: rows, d_node_state };
        readout_loss(device, to, states, of, loss).expect("a launch");
        let losses = to_host(device, &losses);
        let (before, from) = losses.split_at(2 * most_triples);
        let (losses, after) = from.split_at(triples);
        assert!(before.iter().chain(after).all(|value| value.is_nan()), "rows of other steps");
        let [alone, embedding] = [alone, embedding].map(|b| to_host_within(device, &b, graphs * width));
        assert!(
            alone.iter().map(|v| v.to_bits()).eq(embedding.iter().map(|v| v.to_bits())),
            "two embeddings"
        );
        [embedding, losses.to_vec(), stored_to_host(device, &d, nodes, width)]
    })
}

/// How far the results may be off, from how short the mean node states are.
struct Limits {
    embedding: f64,
    loss: f64,
    d_node_state: f64,
}

impl Limits {
    /// `shortest`: of the means, below 1 a component. A component of a mean of n numbers below 1 is off by about one
    /// rounding (its sum by sqrt(n) roundings of sqrt(n)), a length by a few; both are divided by the length. A dot
    /// product of unit vectors adds `width` errors weighed by components, whose magnitudes sum to at most sqrt(width),
    /// twice; loss and slope move with it, over the temperature 0.7. The gradient, a few such terms of up to 3, is
    /// divided by the length again.
    fn new(shortest: f64, width: usize) -> Self {
        let embedding = 8.0 * ROUNDING * (1.0 + 1.0 / shortest);
        let product = 2.0 * (width as f64).sqrt() * embedding;
        Limits {
            embedding,
            loss: product / 0.7 + 8.0 * ROUNDING,
            d_node_state: 4.0 * (product + embedding) / shortest.min(1.0),
        }
    }
}

/// The length of the mean state of a graph's nodes.
fn mean_length(node_state: &[f64], nodes: Range<usize>, width: usize) -> f64 {
    let mean =
        |c: usize| nodes.clone().map(|node| node_state[node * width + c]).sum::<f64>() / nodes.len() as f64;
    (0..width).map(|c| mean(c).powi(2)).sum::<f64>().sqrt()
}

fn agrees_with_the_reference(
    (sizes, width, image_node, loss, seed): (Vec<[usize; 3]>, usize, bool, Loss, u64),
) {
    agrees_in::<f32>(&sizes, width, image_node, loss, seed);
    agrees_in::<bf16>(&sizes, width, image_node, loss, seed);
}

fn agrees_in<T: StoredElement>(sizes: &[[usize; 3]], width: usize, image_node: bool, loss: Loss, seed: u64) {
    let mut values = Values::new(seed);
    let batch = batch(sizes, &mut values);
    let node_state = rounded::<T>(values.signed(batch.node_graph.len() * width));
    let [embedding, losses, d] = kernels::<T>(&batch, &node_state, width, image_node, &loss, seed);
    let wide_state = wide(&node_state);
    let lengths = (0..3 * sizes.len())
        .map(|graph| mean_length(&wide_state, batch.mean_nodes(graph, image_node), width));
    let limits = Limits::new(lengths.fold(1.0, f64::min), width);
    let f = reference::readout(&batch, &wide_state, width, image_node);
    assert_within("embedding", &embedding, &f, limits.embedding);
    let (want, d_embedding) = reference::triple_losses(&loss, &batch, &f, width);
    assert_within("losses", &losses, &want, limits.loss);
    let want = reference::readout_backward(&batch, &wide_state, &d_embedding, width, image_node);
    assert_stored_within::<T>("d_node_state", &d, &want, limits.d_node_state);
}

#[test]
fn embeddings_losses_and_gradients_agree_with_the_reference() {
    let size = || prop_oneof![6 => 1..=5usize, 1 => Just(300usize)];
    let sizes =
        prop_oneof![6 => vec([size(), size(), size()], 0..=4), 1 => vec([1..=5usize, 1..=5, 1..=5], 16)];
    check(200, (sizes, columns(), any::<bool>(), loss(), seeds()), agrees_with_the_reference);
}

#[test]
fn a_graph_without_nodes_has_no_embedding_and_changes_no_other() {
    check(8, (any::<bool>(), loss(), seeds()), |(image_node, loss, seed)| {
        let mut values = Values::new(seed);
        let batch = batch(&[[2, 0, 3], [1, 4, 2]], &mut values);
        let node_state = values.signed(12 * 33);
        let [embedding, losses, _] = kernels::<f32>(&batch, &node_state, 33, image_node, &loss, seed);
        // The mean of nothing is 0 / 0, as in the reference.
        let f = reference::readout(&batch, &wide(&node_state), 33, image_node);
        for (graph, (got, want)) in embedding.chunks_exact(33).zip(f.chunks_exact(33)).enumerate() {
            match graph {
                2 => assert!(got.iter().all(|value| value.is_nan()) && want.iter().all(|v| v.is_nan())),
                _ => assert_within("embedding", got, want, 1e-5),
            }
        }
        assert!(losses[0].is_nan() && losses[1].is_finite(), "{losses:?}");
    });
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    let sizes = vec([1..=3usize, 1..=3, 1..=3], 1..=2);
    check(
        200,
        (sizes, 2..=4usize, any::<bool>(), loss(), seeds()),
        |(sizes, width, image_node, loss, seed)| {
            // Cosines of the positive states below lie in 0.47..1 (by Polya and Szego's inequality): no triple is at the
            // triplet loss's hinge, which has no derivative.
            let loss = Loss { margin: 0.6, ..loss };
            let mut values = Values::new(seed);
            let batch = batch(&sizes, &mut values);
            // Positive states: their mean is no shorter than 1/2.
            let node_state = values.positive(batch.node_graph.len() * width);
            let wide_state = wide(&node_state);
            let losses_of = |node_state: &[f64]| {
                let f = reference::readout(&batch, node_state, width, image_node);
                reference::triple_losses(&loss, &batch, &f, width).0
            };
            let [_, _, d] = kernels::<f32>(&batch, &node_state, width, image_node, &loss, seed);
            let want = central_differences(&wide_state, |node_state| {
                losses_of(node_state).iter().sum::<f64>() / sizes.len() as f64
            });
            assert_within("d_node_state", &d, &want, Limits::new(0.5, width).d_node_state);
        },
    );
}
