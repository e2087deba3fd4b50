//! edge_pool: the kernels against the reference in double precision, and their gradient against finite differences.

mod kernel_support;

use half::bf16;
use kernel_support::calculus::{central_differences, weighted_sum};
use kernel_support::cases::{Edge, Graphs, check, columns, graphs, no_device, seeds, small_graphs};
use kernel_support::stored::{assert_stored_within, rounded, stored, stored_to_host, unwritten};
use kernel_support::{
    Counted, Values, all, all_mut, assert_within, indices_with_room, same_bits, to_device, wide,
};
use proptest::prelude::*;
use proptest::sample::select;
use scenerank::backend::cuda::batch_norm::Norm;
use scenerank::backend::cuda::edge_hidden::{Ends, Lists};
use scenerank::backend::cuda::edge_pool::{edge_pool_backward, edge_pool_forward};
use scenerank::backend::cuda::stored::StoredElement;
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
        let z = rounded::<T>(values.signed(edges * width));
        let norm = [values.signed(width), values.positive(width), values.signed(width), values.signed(width)];
        let [d_pooled, d_state] =
            [nodes * hidden, edges * state].map(|count| rounded::<T>(values.signed(count)));
        Inputs { batch, hidden, width, z, norm, d_pooled, d_state }
    }

    /// pooled and d_heads.
    fn kernels<T: StoredElement>(&self, order: u64) -> [Vec<f32>; 2] {
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
            let mut d_heads = unwritten::<T>(device, edge_count + spare, width);
            let target = &mut all_mut(&mut d_heads);
            edge_pool_backward(device, target, all(&d_pooled), all(&d_state), ends, incidence, width, hidden)
                .expect("a launch");
            [(pooled, node_count, hidden), (d_heads, edge_count, width)]
                .map(|(buffer, rows, columns)| stored_to_host(device, &buffer, rows, columns))
        })
    }

    /// Where the messages to the object begin.
    fn object_start(&self) -> usize {
        self.width - self.hidden
    }
}

fn agrees_with_the_reference((graphs, hidden, state, seed): (Graphs, usize, usize, u64)) {
    agrees_in::<f32>(&graphs, hidden, state, seed);
    agrees_in::<bf16>(&graphs, hidden, state, seed);
}

fn agrees_in<T: StoredElement>(graphs: &Graphs, hidden: usize, state: usize, seed: u64) {
    let inputs = Inputs::new::<T>(graphs, hidden, state, seed);
    let [pooled, d_heads] = inputs.kernels::<T>(seed);
    let of = inputs.norm.each_ref().map(|values| wide(values));
    let norm = reference_norm::Norm { mean: &of[0], rstd: &of[1], weight: &of[2], bias: &of[3] };
    let messages = norm.relu_rows(&wide(&inputs.z));
    let (batch, width) = (&inputs.batch, inputs.width);
    let want = reference::edge_pool(batch, &messages, width, hidden, inputs.object_start());
    // Messages below 6; a sum of 1,000 is off by some 30 roundings of its size, its mean likewise.
    assert_stored_within::<T>("pooled", &pooled, &want, 2e-5);
    let (d_pooled, d_state) = (wide(&inputs.d_pooled), wide(&inputs.d_state));
    let want =
        reference::edge_pool_backward(batch, &d_pooled, &d_state, width, hidden, inputs.object_start());
    // One division.
    assert_stored_within::<T>("d_heads", &d_heads, &want, 1e-7);
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
        let [_, d_heads] = inputs.kernels::<f32>(seed);
        let (batch, width) = (&inputs.batch, inputs.width);
        let (d_pooled, d_state) = (wide(&inputs.d_pooled), wide(&inputs.d_state));
        // By the heads' outputs: pooled takes the messages, the edge's new state is the columns between.
        let want = central_differences(&wide(&inputs.z), |heads| {
            let pooled = reference::edge_pool(batch, heads, width, hidden, inputs.object_start());
            let state: Vec<f64> =
                heads.chunks_exact(width).flat_map(|row| &row[hidden..hidden + state]).copied().collect();
            weighted_sum(&d_pooled, &pooled) + weighted_sum(&d_state, &state)
        });
        // One division; the differences are off by less than 1e-8.
        assert_within("d_heads", &d_heads, &want, 1.1e-7);
    });
}
