//! readout_loss: the cases of the bench with random graphs, the rows of the losses, graphs without nodes, and the
//! gradient against finite differences.

use std::rc::Rc;

use crate::support::agreement::{
    agree, agree_in_two_orders, agree_once, assert_within_limits, outputs, with,
};
use crate::support::calculus::central_differences;
use crate::support::cases::{check, columns, no_device, seeds};
use crate::support::{Values, assert_within, devices, spare};
use half::bf16;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::readout_loss as reference;
use scenerank::batch::graph_batch::GraphBatch;
use scenerank::bench::case::{Case, STEPS_DONE, unwritten};
use scenerank::bench::cases::readout_loss::{Limits, Readout, States, embeddings, losses};
use scenerank::bench::check::Output;
use scenerank::loss::{Loss, LossKind};

const KINDS: [LossKind; 3] = [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce];

fn loss() -> impl Strategy<Value = Loss> {
    select(KINDS.to_vec()).prop_map(|kind| Loss { kind, temperature: 0.7, margin: 0.4 })
}

/// Graphs with these numbers of nodes: all anchors, then all positives, then all negatives. In every third graph the
/// last node is not an image node.
fn batch(sizes: &[[usize; 3]], seed: u64) -> Rc<GraphBatch> {
    let mut values = Values::new(seed);
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
        // Similarities of 0 / 0 mean a target of 1/2.
        (batch.similarity_positive[1], batch.similarity_negative[1]) = (0.0, 0.0);
    }
    Rc::new(batch)
}

/// Outputs of both kernels, whose embeddings have the same bits.
#[track_caller]
fn agree_in<T: StoredElement>(of: &Readout) -> [Vec<f64>; 3] {
    let written = agree(of.seed, &losses::<T>(of.clone()));
    let alone = agree(of.seed, &embeddings::<T>(of.clone()));
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<u64>>();
    assert_eq!(bits(&alone[0]), bits(&written[1]), "two embeddings");
    written.try_into().expect("as many outputs")
}

#[test]
fn embeddings_losses_and_gradients_agree_with_the_reference() {
    let size = || prop_oneof![6 => 1..=5usize, 1 => Just(300usize)];
    let sizes =
        prop_oneof![6 => vec([size(), size(), size()], 0..=4), 1 => vec([1..=5usize, 1..=5, 1..=5], 16)];
    let cases = (sizes, columns(), any::<bool>(), loss(), seeds());
    check(200, cases, |(sizes, width, image_node_in_mean, loss, seed)| {
        let batch = batch(&sizes, seed);
        // With several ranks, the batch is a share of more triples.
        let triples_of_all = if seed % 2 == 0 { 0 } else { 2 * sizes.len() + 1 };
        let states = States::Signed;
        let of = Readout { batch, width, triples_of_all, image_node_in_mean, loss, states, seed };
        let finite = |written: [Vec<f64>; 3]| written.iter().flatten().all(|value| value.is_finite());
        assert!(finite(agree_in::<f32>(&of)) && finite(agree_in::<bf16>(&of)), "no NaN is expected");
        agree_once(&in_rows(losses::<f32>(of.clone()), sizes.len()), spare(seed));
        agree_once(&in_rows(losses::<bf16>(of), sizes.len()), spare(seed));
    });
}

/// Rows of losses, one for each of the last steps.
const LOSS_ROWS: usize = 4;

/// The case of the losses of so many triples with several rows for them, of which the step's is not the first.
fn in_rows(case: Case, triples: usize) -> Case {
    with(case, move |spare, prepared| {
        let most_triples = triples + spare;
        prepared.host.outputs[1] = unwritten(LOSS_ROWS * most_triples);
        let expected = std::mem::replace(&mut prepared.expected, Box::new(|_, _| Vec::new()));
        prepared.expected = Box::new(move |host, written| {
            let mut outputs = expected(host, written);
            let Output { values, limits, .. } = &mut outputs[2];
            let before = vec![f64::NAN; STEPS_DONE as usize % LOSS_ROWS * most_triples];
            // Without triples nothing is written.
            if triples > 0 {
                limits.splice(0..0, vec![0.0; before.len()]);
                values.splice(0..0, before);
            }
            outputs
        });
    })
}

#[test]
fn losses_go_to_the_row_of_their_step() {
    if no_device() {
        return;
    }
    let triples = 5;
    let batch = batch(&[[2, 1, 3]; 5], 1);
    let loss = Loss { kind: LossKind::Ranking, temperature: 0.7, margin: 0.4 };
    let of = Readout {
        batch,
        width: 9,
        triples_of_all: 0,
        image_node_in_mean: true,
        loss,
        states: States::Signed,
        seed: 1,
    };
    let case = in_rows(losses::<f32>(of), triples);
    for (device, spare) in devices().iter().zip([0, 7, 64]) {
        let name = format!("{spare} spare triples");
        assert_within_limits(&name, (case.prepare)(spare).check(device).expect("a launch"));
    }
    // Without spare triples, which would move the row, the same bits each time.
    let without_spare = case.prepare;
    let case = Case { prepare: Box::new(move |_| without_spare(0)), ..case };
    assert!(agree_in_two_orders(&case)[2][triples..].iter().all(|loss| loss.is_finite()));
}

#[test]
fn a_graph_without_nodes_has_no_embedding_and_changes_no_other() {
    check(8, (any::<bool>(), loss(), seeds()), |(image_node_in_mean, loss, seed)| {
        let batch = batch(&[[2, 0, 3], [1, 4, 2]], seed);
        let of = Readout {
            batch,
            width: 33,
            triples_of_all: 0,
            image_node_in_mean,
            loss,
            states: States::Signed,
            seed,
        };
        // The mean over no nodes is 0 / 0, as in the reference.
        let [_, embedding, losses] = agree_in::<f32>(&of);
        for (graph, row) in embedding.chunks_exact(33).enumerate() {
            assert!(row.iter().all(|value| value.is_nan() == (graph == 2)), "graph {graph}");
        }
        assert!(losses[0].is_nan() && losses[1].is_finite(), "{losses:?}");
    });
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    let sizes = vec([1..=3usize, 1..=3, 1..=3], 1..=2);
    let cases = (sizes, 2..=4usize, any::<bool>(), loss(), seeds());
    check(200, cases, |(sizes, width, image_node_in_mean, loss, seed)| {
        // Cosines of positive states are in 0.47..1 (inequality of Polya and Szego), so no triple is at the hinge of
        // the triplet loss, which has no derivative there.
        let loss = Loss { margin: 0.6, ..loss };
        let batch = batch(&sizes, seed);
        let losses_of = |node_state: &[f64]| {
            let f = reference::readout(&batch, node_state, width, image_node_in_mean);
            reference::triple_losses(&loss, &batch, &f, width, batch.similarity_positive.len()).0
        };
        let states = States::Positive;
        let case = {
            let batch = batch.clone();
            losses::<f32>(Readout { batch, width, triples_of_all: 0, image_node_in_mean, loss, states, seed })
        };
        let [node_state] = (case.prepare)(0).host.wide_stored();
        let want = central_differences(&node_state, |node_state| {
            losses_of(node_state).iter().sum::<f64>() / sizes.len() as f64
        });
        // The mean of positive states has a length of at least 1/2.
        let limit = Limits::new(0.5, width, loss.temperature).d_node_state;
        assert_within("d_node_state", &outputs(seed, case.kernel, &case.prepare)[0], &want, limit);
    });
}
