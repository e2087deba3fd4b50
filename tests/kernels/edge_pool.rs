//! edge_pool: the kernels against the reference in double precision, and their gradient against finite differences.

use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{Edge, Graphs, check, columns, graphs, no_device, seeds, small_graphs};
use crate::support::stored::{assert_stored_within, rounded, stored, stored_to_host, unwritten};
use crate::support::{
    Counted, Values, all, all_mut, assert_within, indices_with_room, poisoned, same_bits, to_device, to_host,
    wide,
};
use half::bf16;
use proptest::prelude::*;
use proptest::sample::select;
use scenerank::backend::cuda::launchers::batch_norm::{Norm, NormGradient, Sums};
use scenerank::backend::cuda::launchers::edge_pool::{
    HeadsGradient, edge_pool_backward, edge_pool_backward_sums, edge_pool_forward,
};
use scenerank::backend::cuda::launchers::lists::{Ends, Lists};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::batch_norm as reference_norm;
use scenerank::backend::reference::edge_pool as reference;
use scenerank::batch::graph_batch::GraphBatch;

/// What the kernels read.
struct Inputs {
    batch: GraphBatch,
    hidden: usize,
    /// The heads' columns: 2 H + D.
    width: usize,
    z: Vec<f32>,
    /// mean, rstd, weight, bias.
    norm: [Vec<f32>; 4],
    d_pooled: Vec<f32>,
    d_state: Vec<f32>,
}

impl Inputs {
    fn new<T: StoredElement>(graphs: &Graphs, hidden: usize, state: usize, seed: u64) -> Self {
        let (batch, mut values) = (graphs.batch(), Values::new(seed));
        let (nodes, edges, width) = (batch.node_object.len(), batch.edge_subject.len(), 2 * hidden + state);
        let mut z = values.signed(edges * width);
        let norm = [values.signed(width), values.positive(width), values.scales(width), values.signed(width)];
        // No norm(z) is next to zero, where a ReLU may fall to either side: scales are at least 1/4, so it moves by 2.5e-3,
        // and where z is then rounded to bf16 by 1.5e-3 at least.
        for (i, z) in z.iter_mut().enumerate() {
            let [mean, rstd, weight, bias] = norm.each_ref().map(|column| column[i % width]);
            if ((*z - mean) * (rstd * weight) + bias).abs() < 1e-4 {
                *z += 0.01;
            }
        }
        let z = rounded::<T>(z);
        let [d_pooled, d_state] =
            [nodes * hidden, edges * state].map(|count| rounded::<T>(values.signed(count)));
        Inputs { batch, hidden, width, z, norm, d_pooled, d_state }
    }

    /// pooled, d_z, d_weight and d_bias.
    fn kernels<T: StoredElement>(&self, batch_statistics: bool, order: u64) -> [Vec<f32>; 4] {
        let (batch, hidden, width) = (&self.batch, self.hidden, self.width);
        same_bits(order, |device, spare| {
            let [nodes, edges] = [batch.node_object.len(), batch.edge_subject.len()]
                .map(|rows| Counted::new(device, rows, spare));
            let there = self.norm.each_ref().map(|values| to_device(device, values));
            let [mean, rstd, weight, bias] = there.each_ref().map(all);
            let norm = Norm { mean, rstd, weight, bias };
            let state = width - 2 * hidden;
            let [z, d_pooled, d_state] = [(&self.z, width), (&self.d_pooled, hidden), (&self.d_state, state)]
                .map(|(values, columns)| stored::<T>(device, values, columns, spare));
            let incidence = [&batch.incidence.offsets, &batch.incidence.entries];
            let [offsets, entries] = incidence.map(|indices| indices_with_room(device, indices, spare));
            let incidence = Lists { rows: nodes.rows(), offsets: all(&offsets), entries: all(&entries) };
            let [subject, object] = [&batch.edge_subject, &batch.edge_object]
                .map(|indices| indices_with_room(device, indices, spare));
            let ends = Ends { edges: edges.rows(), subject: all(&subject), object: all(&object) };

            let (node_count, edge_count) = (batch.node_object.len(), batch.edge_subject.len());
            let mut pooled = unwritten::<T>(device, node_count + spare, hidden);
            edge_pool_forward(device, &mut all_mut(&mut pooled), all(&z), norm, incidence, hidden)
                .expect("a launch");
            let of = HeadsGradient {
                d_pooled: all(&d_pooled),
                d_edge_state: all(&d_state),
                nodes: ends,
                incidence,
                hidden,
            };
            let [mut d_weight, mut d_bias] = [(); 2].map(|()| poisoned(device, width));
            let (weight, bias) = (all_mut(&mut d_weight), all_mut(&mut d_bias));
            let sums = &mut Sums::new(device).expect("memory");
            let gradient = NormGradient { weight, bias, batch_statistics, sums: &mut *sums };
            edge_pool_backward_sums(device, gradient, of, all(&z), norm).expect("a launch");
            let mut d_z = unwritten::<T>(device, edge_count + spare, width);
            edge_pool_backward(device, &mut all_mut(&mut d_z), of, all(&z), norm, sums).expect("a launch");
            let [pooled, d_z] = [(pooled, node_count, hidden), (d_z, edge_count, width)]
                .map(|(buffer, rows, columns)| stored_to_host(device, &buffer, rows, columns));
            [pooled, d_z, to_host(device, &d_weight), to_host(device, &d_bias)]
        })
    }

    /// Where the messages to the object begin.
    fn object_start(&self) -> usize {
        self.width - self.hidden
    }
}

/// Results of about 1, through some ten roundings and a sum whose chunks have 64 rows.
const NORM_LIMIT: f64 = 4e-6;

fn agrees_with_the_reference((graphs, hidden, state, seed): (Graphs, usize, usize, u64)) {
    agrees_in::<f32>(&graphs, hidden, state, seed);
    agrees_in::<bf16>(&graphs, hidden, state, seed);
}

fn agrees_in<T: StoredElement>(graphs: &Graphs, hidden: usize, state: usize, seed: u64) {
    let inputs = Inputs::new::<T>(graphs, hidden, state, seed);
    let batch_statistics = !seed.is_multiple_of(4);
    let [pooled, d_z, d_weight, d_bias] = inputs.kernels::<T>(batch_statistics, seed);
    let of = inputs.norm.each_ref().map(|values| wide(values));
    let norm = reference_norm::Norm { mean: &of[0], rstd: &of[1], weight: &of[2], bias: &of[3] };
    let messages = norm.relu_rows(&wide(&inputs.z));
    let (batch, width) = (&inputs.batch, inputs.width);
    let want = reference::edge_pool(batch, &messages, width, hidden, inputs.object_start());
    // Messages below 6; a sum of 1,000 is off by some 30 roundings of its size, its mean likewise.
    assert_stored_within::<T>("pooled", &pooled, &want, 2e-5);
    let (d_pooled, d_state) = (wide(&inputs.d_pooled), wide(&inputs.d_state));
    let mut d =
        reference::edge_pool_backward(batch, &d_pooled, &d_state, width, hidden, inputs.object_start());
    let [mut want_weight, mut want_bias] = [(); 2].map(|()| vec![f64::NAN; width]);
    let z = wide(&inputs.z);
    reference_norm::batch_norm_backward(&z, norm, batch_statistics, &mut d, &mut want_weight, &mut want_bias);
    // As in batch_norm's own tests: xhat and scale reach 4, chunks have 64 rows.
    assert_stored_within::<T>("d_z", &d_z, &d, 16.0 * NORM_LIMIT);
    let limit = NORM_LIMIT * (4.0 + batch.edge_subject.len() as f64 / 16.0);
    assert_within("d_weight", &d_weight, &want_weight, limit);
    assert_within("d_bias", &d_bias, &want_bias, limit);
}

#[test]
fn forward_and_backward_agree_with_the_reference() {
    // D = 0 in the last layer.
    let states = prop_oneof![Just(0usize), 1..=40usize, select(vec![128usize, 300])];
    check(100, (graphs(), columns(), states, seeds()), agrees_with_the_reference);
}

#[test]
fn a_node_of_degree_1000_among_others() {
    if no_device() {
        return;
    }
    let mut edges: Vec<Edge> =
        (0..40).map(|subject| Edge { subject, predicate: 0, object: 0, copies: 25 }).collect();
    // A self loop counts twice; node 40 has no edge.
    edges[0].copies = 24;
    let graphs = Graphs { sizes: vec![41], edges };
    assert_eq!(graphs.batch().incidence.degree(0), 24 + 999);
    agrees_with_the_reference((graphs, 130, 5, 1));
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    check(200, (small_graphs(), 1..=3usize, 0..=2usize, seeds()), |(graphs, hidden, state, seed)| {
        let inputs = Inputs::new::<f32>(&graphs, hidden, state, seed);
        // Mean and rstd are constants here.
        let [_, d_z, ..] = inputs.kernels::<f32>(false, seed);
        let (batch, width) = (&inputs.batch, inputs.width);
        let (d_pooled, d_state) = (wide(&inputs.d_pooled), wide(&inputs.d_state));
        let of = inputs.norm.each_ref().map(|values| wide(values));
        let norm = reference_norm::Norm { mean: &of[0], rstd: &of[1], weight: &of[2], bias: &of[3] };
        // Pooled takes the messages, the edge's new state is the columns between.
        let want = central_differences(&wide(&inputs.z), |z| {
            let heads = norm.relu_rows(z);
            let pooled = reference::edge_pool(batch, &heads, width, hidden, inputs.object_start());
            let state: Vec<f64> =
                heads.chunks_exact(width).flat_map(|row| &row[hidden..hidden + state]).copied().collect();
            weighted_sum(&d_pooled, &pooled) + weighted_sum(&d_state, &state)
        });
        // A quotient below 1 times a scale below 4, a few roundings; the differences are off by less than 1e-7.
        assert_within("d_z", &d_z, &want, 1.5e-6);
    });
}
