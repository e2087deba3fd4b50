//! edge_pool: the kernels against the reference in double precision, over graphs with nodes of degree 0 and 1,000,
//! self loops and parallel edges.

mod kernel_support;

use kernel_support::{Values, assert_within, devices, indices_to_device, poisoned, to_device, to_host, wide};
use scenerank::backend::cuda::batch_norm::Norm;
use scenerank::backend::cuda::edge_hidden::{Ends, Lists};
use scenerank::backend::cuda::edge_pool::{edge_pool_backward, edge_pool_forward};
use scenerank::backend::reference::batch_norm as reference_norm;
use scenerank::backend::reference::edge_pool as reference;
use scenerank::batch::graph_batch::GraphBatch;

/// `nodes` nodes and `edges` random edges; with `hub`, a node of degree 1,000. The last node has none.
pub fn batch(nodes: usize, edges: usize, hub: bool, seed: u64) -> GraphBatch {
    let mut values = Values::new(seed);
    let connected = (nodes - 1).max(1);
    let (mut subject, mut object) = (values.indices(edges, connected), values.indices(edges, connected));
    for i in (0..edges).step_by(7) {
        object[i] = subject[i];
    }
    if edges > 1 {
        (subject[1], object[1]) = (subject[0], object[0]);
    }
    if hub {
        subject.extend(values.indices(1000, connected));
        object.extend(vec![0; 1000]);
    }
    let mut batch = GraphBatch {
        graph_offsets: vec![0, nodes as u32],
        node_object: vec![0; nodes],
        node_graph: vec![0; nodes],
        edge_predicate: vec![0; subject.len()],
        edge_subject: subject,
        edge_object: object,
        ..Default::default()
    };
    batch.index(1, 1);
    batch
}

const CASES: [(usize, usize, bool); 5] =
    [(1, 0, false), (2, 1, false), (5, 33, false), (33, 300, false), (40, 20, true)];
/// H and D; D = 0 in the last layer.
const WIDTHS: [(usize, usize); 3] = [(1, 0), (19, 13), (130, 5)];

#[test]
fn forward_and_backward_agree_with_the_reference() {
    for device in devices() {
        for (case, ((nodes, edges, hub), (hidden, state))) in
            CASES.iter().flat_map(|&case| WIDTHS.map(|widths| (case, widths))).enumerate()
        {
            let batch = batch(nodes, edges, hub, case as u64);
            let edges = batch.edge_subject.len();
            let name =
                |what: &str| format!("{what}, {nodes} nodes, {edges} edges, widths {hidden} and {state}");
            let mut values = Values::new(case as u64);
            let width = 2 * hidden + state;
            let (z, mean, rstd) =
                (values.signed(edges * width), values.signed(width), values.positive(width));
            let (weight, bias) = (values.signed(width), values.signed(width));
            let there = [&z, &mean, &rstd, &weight, &bias].map(|v| to_device(&device, v));
            let [z_there, mean_there, rstd_there, weight_there, bias_there] =
                [0, 1, 2, 3, 4].map(|i: usize| there[i].slice(0..there[i].len()));
            let norm = Norm { mean: mean_there, rstd: rstd_there, weight: weight_there, bias: bias_there };
            let offsets = indices_to_device(&device, &batch.incidence.offsets);
            let entries = indices_to_device(&device, &batch.incidence.entries);
            let incidence =
                Lists { offsets: offsets.slice(0..offsets.len()), entries: entries.slice(0..entries.len()) };

            let mut pooled = poisoned(&device, nodes * hidden);
            let mut target = pooled.slice_mut(0..nodes * hidden);
            edge_pool_forward(&device, &mut target, z_there, norm, incidence, hidden).expect("a launch");
            let of = [&mean, &rstd, &weight, &bias].map(|v| wide(v));
            let norm = reference_norm::Norm { mean: &of[0], rstd: &of[1], weight: &of[2], bias: &of[3] };
            let messages = norm.relu_rows(&wide(&z));
            let want = reference::edge_pool(&batch, &messages, width, hidden, hidden + state);
            // Messages below 6; a sum of 1,000 is off by some 30 roundings of its size, its mean likewise.
            assert_within(&name("pooled"), &to_host(&device, &pooled), &want, 2e-5);

            let (d_pooled, d_state) = (values.signed(nodes * hidden), values.signed(edges * state));
            let (d_pooled_there, d_state_there) =
                (to_device(&device, &d_pooled), to_device(&device, &d_state));
            let subject = indices_to_device(&device, &batch.edge_subject);
            let object = indices_to_device(&device, &batch.edge_object);
            let mut d_heads = poisoned(&device, edges * width);
            edge_pool_backward(
                &device,
                &mut d_heads.slice_mut(0..edges * width),
                d_pooled_there.slice(0..nodes * hidden),
                d_state_there.slice(0..edges * state),
                Ends { subject: subject.slice(0..edges), object: object.slice(0..edges) },
                incidence,
                width,
                hidden,
            )
            .expect("a launch");
            let (d_pooled, d_state) = (wide(&d_pooled), wide(&d_state));
            let want =
                reference::edge_pool_backward(&batch, &d_pooled, &d_state, width, hidden, hidden + state);
            // One division.
            assert_within(&name("d_heads"), &to_host(&device, &d_heads), &want, 1e-7);
        }
    }
}
