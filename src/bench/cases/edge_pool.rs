//! edge_pool: the messages of a layer's edges to its nodes.

use super::batch_norm::{decided_inputs, expected_backward, norm_gradient};
use super::{count, counted, indices, norm, norm_values, reference_norm, roundings, stored_tolerance};
use crate::backend::cuda::device::buffer::Slice;
use crate::backend::cuda::launchers::batch_norm::Norm;
use crate::backend::cuda::launchers::edge_pool::{
    HeadsGradient, edge_pool_backward, edge_pool_backward_sums, edge_pool_forward,
};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::lists::{Ends, Lists};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::edge_pool as reference;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (hidden, state, width) = (config.hidden_width, config.state_width, config.heads_width(0));
    let shape = format!("[{edges}, {width}] and [{nodes}, {hidden}]");
    let forward_batch = sizes.batch.clone();
    vec![
        Case {
            kernel: "edge_pool_forward",
            shape,
            // Reads the two messages of each edge and the lists, writes the nodes' means; norm 3, ReLU 1, sum 1 for each
            // value of a message, a quotient for each of a mean.
            cost: Cost::stored::<T>(
                2 * edges * hidden + nodes * hidden,
                (nodes + 1) + 2 * edges + 4 * width,
                5 * 2 * edges * hidden + nodes * hidden,
            ),
            // Batch norm's four, and a sum over the 21 edges of an image node, and more where an object has them.
            format: Format::Fp32,
            tolerance: stored_tolerance::<T>(roundings(40)),
            prepare: Box::new(move || {
                let batch = forward_batch.clone();
                let mut values = Values::new();
                Prepared {
                    host: Host {
                        stored: vec![values.matrix::<T>(edges, width)],
                        stored_outputs: vec![HostMatrix::unwritten::<T>(nodes, hidden)],
                        inputs: norm_values(&mut values, width).to_vec(),
                        indices: vec![
                            indices(&batch.incidence.offsets),
                            indices(&batch.incidence.entries),
                            count(nodes),
                        ],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([z], [mut pooled], parts) = arrays.stored_as::<T>().parts();
                        let (of, [offsets, entries, count], [], _) = parts;
                        let incidence = Lists { rows: counted(count, nodes), offsets, entries };
                        edge_pool_forward(device, &mut pooled, z, norm(of), incidence, hidden)
                    }),
                    expected: Box::new(move |host| {
                        let [z] = host.wide_stored();
                        let heads = reference_norm(&host.wide_inputs()).relu_rows(&z);
                        vec![reference::edge_pool(&batch, &heads, width, hidden, hidden + state)]
                    }),
                }
            }),
        },
        backward_sums::<T>(sizes),
        backward::<T>(sizes),
    ]
}

/// Each node's gradient is read once, the edge states', z and the lists, and norm; a quotient for each value of a message:
/// stored values, others and operations.
fn gradient_cost(sizes: &Sizes) -> (usize, usize, usize) {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (hidden, state, width) = (config.hidden_width, config.state_width, config.heads_width(0));
    (nodes * hidden + edges * (state + width), 2 * edges + (nodes + 1) + 4 * width, 2 * edges * hidden)
}

/// d_pooled, d_edge_state, z and its norm; subject, object, offsets and entries, and both counts.
fn gradient_host<T: StoredElement>(sizes: &Sizes) -> Host {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let mut values = Values::new();
    let d_pooled = values.matrix::<T>(nodes, config.hidden_width);
    let d_edge_state = values.matrix::<T>(edges, config.state_width);
    let (z, of) = decided_inputs::<T>(&mut values, edges, config.heads_width(0));
    let batch = &sizes.batch;
    let lists = [&batch.edge_subject, &batch.edge_object, &batch.incidence.offsets, &batch.incidence.entries];
    let mut lists: Vec<Vec<i32>> = lists.map(|list| indices(list)).to_vec();
    lists.extend([count(nodes), count(edges)]);
    let stored = vec![d_pooled, d_edge_state, z];
    Host { stored, inputs: of.to_vec(), indices: lists, ..Default::default() }
}

/// d_z, d_weight and d_bias.
fn gradient_expected(sizes: &Sizes, host: &Host) -> [Vec<f64>; 3] {
    let (hidden, state) = (sizes.config.hidden_width, sizes.config.state_width);
    let width = 2 * hidden + state;
    let ([d_pooled, d_edge_state, z], of) = (host.wide_stored(), host.wide_inputs());
    let (batch, start) = (&sizes.batch, hidden + state);
    let d = reference::edge_pool_backward(batch, &d_pooled, &d_edge_state, width, hidden, start);
    expected_backward(&z, &of, d)
}

/// What both launchers take, of a case's inputs and lists.
fn gathered<'a, T: StoredElement>(
    sizes: &Sizes,
    [d_pooled, d_edge_state, z]: [Slice<'a, T>; 3],
    of: [Slice<'a, f32>; 4],
    [subject, object, offsets, entries, node_count, edge_count]: [Slice<'a, i32>; 6],
) -> (HeadsGradient<'a, T>, Slice<'a, T>, Norm<'a>) {
    let nodes = Ends { edges: counted(edge_count, sizes.edges()), subject, object };
    let incidence = Lists { rows: counted(node_count, sizes.nodes()), offsets, entries };
    let hidden = sizes.config.hidden_width;
    let gradient = HeadsGradient { d_pooled, d_edge_state, nodes, incidence, hidden };
    (gradient, z, norm(of))
}

fn backward_sums<T: StoredElement>(sizes: &Sizes) -> Case {
    let (edges, width) = (sizes.edges(), sizes.config.heads_width(0));
    let (stored, values, flops) = gradient_cost(sizes);
    let sizes = sizes.clone();
    Case {
        kernel: "edge_pool_backward_sums",
        shape: format!("[{edges}, {width}]"),
        // Writes d_weight and d_bias; norm and ReLU 4, two sums 4.
        cost: Cost::stored::<T>(stored, values + 2 * width, flops + 8 * edges * width),
        // A quotient, then as batch norm's sums.
        format: Format::Fp32,
        tolerance: roundings(2 + 8 + 8 + 4),
        prepare: Box::new(move || {
            let (launched, expected) = (sizes.clone(), sizes.clone());
            Prepared {
                host: Host {
                    outputs: vec![unwritten(width), unwritten(width)],
                    ..gradient_host::<T>(&sizes)
                },
                launch: Box::new(move |device, arrays| {
                    let (stored, [], (of, lists, to, others)) = arrays.stored_as::<T>().parts();
                    let (of, z, norm) = gathered(&launched, stored, of, lists);
                    edge_pool_backward_sums(device, norm_gradient(to, &mut others.sums), of, z, norm)
                }),
                expected: Box::new(move |host| gradient_expected(&expected, host)[1..].to_vec()),
            }
        }),
    }
}

/// After the sums, which are made here too.
fn backward<T: StoredElement>(sizes: &Sizes) -> Case {
    let (edges, width) = (sizes.edges(), sizes.config.heads_width(0));
    let (stored, values, flops) = gradient_cost(sizes);
    let sizes = sizes.clone();
    Case {
        kernel: "edge_pool_backward",
        shape: format!("[{edges}, {width}]"),
        // Both passes: each reads all, since the sums must be complete; the second reads the sums and writes d_z. Norm and
        // ReLU 4 each time, two sums 4, the gradient 6.
        cost: Cost::stored::<T>(
            2 * stored + edges * width,
            2 * values + 4 * width,
            2 * flops + 18 * edges * width,
        ),
        format: Format::Fp32,
        tolerance: stored_tolerance::<T>(roundings(2 + 8 + 8 + 8)),
        prepare: Box::new(move || {
            let (launched, expected) = (sizes.clone(), sizes.clone());
            let outputs = vec![unwritten(width), unwritten(width)];
            let stored_outputs = vec![HostMatrix::unwritten::<T>(edges, width)];
            Prepared {
                host: Host { outputs, stored_outputs, ..gradient_host::<T>(&sizes) },
                launch: Box::new(move |device, arrays| {
                    let (stored, [mut d_z], (of, lists, to, others)) = arrays.stored_as::<T>().parts();
                    let (of, z, norm) = gathered(&launched, stored, of, lists);
                    let to = norm_gradient(to, &mut others.sums);
                    edge_pool_backward_sums(device, to, of, z, norm)?;
                    edge_pool_backward(device, &mut d_z, of, z, norm, &others.sums)
                }),
                expected: Box::new(move |host| gradient_expected(&expected, host).to_vec()),
            }
        }),
    }
}
