//! edge_pool: the cases of the bench at random shapes, and the gradient against finite differences.

use crate::support::agreement::{all_agree, outputs};
use crate::support::assert_within;
use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{Edge, Graphs, check, columns, graphs, no_device, seeds, small_graphs};
use half::bf16;
use proptest::prelude::*;
use proptest::sample::select;
use scenerank::backend::reference::edge_pool as reference;
use scenerank::bench::cases::edge_pool::cases;
use scenerank::bench::cases::with_reference_norm;
use scenerank::bench::sizes::Sizes;

fn agree((graphs, hidden, state, seed): (Graphs, usize, usize, u64)) {
    let mut sizes = graphs.sizes(hidden, state, seed);
    // Without batch norm, mean and rstd are constants.
    sizes.config.batch_norm = !seed.is_multiple_of(4);
    all_agree(seed, cases::<f32>(&sizes));
    all_agree(seed, cases::<bf16>(&sizes));
}

#[test]
fn forward_and_backward_agree_with_the_reference() {
    // D = 0 in the last layer.
    let states = prop_oneof![Just(0usize), 1..=40usize, select(vec![128usize, 300])];
    check(100, (graphs(), columns(), states, seeds()), agree);
}

#[test]
fn a_node_of_degree_1000_among_others() {
    if no_device() {
        return;
    }
    let mut edges: Vec<Edge> =
        (0..40).map(|subject| Edge { subject, predicate: 0, object: 0, copies: 25 }).collect();
    // A self loop counts twice, and node 40 has no edge.
    edges[0].copies = 24;
    let graphs = Graphs { sizes: vec![41], edges };
    assert_eq!(graphs.batch().incidence.degree(0), 24 + 999);
    agree((graphs, 130, 5, 1));
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    check(200, (small_graphs(), 1..=3usize, 0..=2usize, seeds()), |(graphs, hidden, state, seed)| {
        let mut sizes = graphs.sizes(hidden, state, seed);
        sizes.config.batch_norm = false;
        let Sizes { batch, config, .. } = &sizes;
        let case = cases::<f32>(&sizes).into_iter().find(|case| case.kernel == "edge_pool_backward");
        let case = case.expect("a case");
        let host = (case.prepare)(0).host;
        let ([d_pooled, d_state, z], of) = (host.wide_stored(), host.wide_inputs::<4>());
        let d_z = &outputs(seed, "edge_pool_backward", &case.prepare)[0];
        let width = config.heads_width(0);
        // The outer columns are messages, which are pooled; the middle ones are the edge's new state.
        let want = central_differences(&z, |z| {
            let heads = with_reference_norm(&of, |norm| norm.relu_rows(z));
            let pooled = reference::edge_pool(batch, &heads, width, hidden, width - hidden);
            let state: Vec<f64> =
                heads.chunks_exact(width).flat_map(|row| &row[hidden..hidden + state]).copied().collect();
            weighted_sum(&d_pooled, &pooled) + weighted_sum(&d_state, &state)
        });
        // A quotient below 1 times a scale below 4 has a few roundings, and finite differences have an error below
        // 1e-7.
        assert_within("d_z", d_z, &want, 1.5e-6);
    });
}
