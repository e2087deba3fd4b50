//! edge_pool: mean of the messages from a layer's edges to its nodes.

use super::batch_norm::{
    decided_inputs, expected_backward, gradient_tolerance, norm_gradient, sums_tolerance,
};
use super::{count, counted, indices, norm, reference_relu, roundings, with_spare};
use crate::backend::cuda::device::buffer::Slice;
use crate::backend::cuda::launchers::batch_norm::{Norm, NormGradient};
use crate::backend::cuda::launchers::edge_pool::{
    HeadsGradient, edge_pool_backward, edge_pool_backward_sums, edge_pool_forward,
};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::lists::{Ends, Lists};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::edge_pool as reference;
use crate::bench::case::{Case, Cost, Grows, Host, Prepared, unwritten};
use crate::bench::chain::Chain;
use crate::bench::check::{Output, Tolerance};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

/// Columns of layer 0's heads, which have no edge states if it is the only layer.
pub fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let [forward, sums, backward] = [forward::<T>(sizes), backward_sums::<T>(sizes), backward::<T>(sizes)];
    let [sums, backward] = [sums, backward].map(|case| case.growing_with(Grows::Edges));
    vec![forward.growing_with(Grows::Nodes), sums, backward]
}

fn forward<T: StoredElement>(sizes: &Sizes) -> Case {
    let (nodes, edges, config, seed) = (sizes.nodes(), sizes.edges(), sizes.config, sizes.seed);
    let (hidden, width) = (config.hidden_width, config.heads_width(0));
    let batch = sizes.batch.clone();
    Case {
        kernel: "edge_pool_forward",
        shape: format!("[{edges}, {width}] and [{nodes}, {hidden}]"),
        // Reads the two messages of each edge and the lists; writes the means of the nodes. Each value of a message
        // takes 3 operations for norm, 1 for ReLU and 1 for the sum, and each value of a mean takes a quotient.
        cost: Cost::stored::<T>(
            2 * edges * hidden + nodes * hidden,
            (nodes + 1) + 2 * edges + 4 * width,
            5 * 2 * edges * hidden + nodes * hidden,
        ),
        chain: Chain::longest_list(&batch.incidence.offsets, usize::MAX),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let batch = batch.clone();
            let (z, of) = decided_inputs::<T>(&mut Values::new(seed), edges, width);
            Prepared {
                host: Host {
                    stored: vec![z.with_room(spare)],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(nodes + spare, hidden)],
                    inputs: of.to_vec(),
                    indices: vec![
                        with_spare(indices(&batch.incidence.offsets), spare),
                        with_spare(indices(&batch.incidence.entries), spare),
                        count(nodes),
                    ],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z], [mut pooled], parts) = arrays.stored_as::<T>().parts();
                    let (of, [offsets, entries, count], [], _) = parts;
                    let incidence = Lists { rows: counted(count, nodes + spare), offsets, entries };
                    edge_pool_forward(device, &mut pooled, z, norm(of), incidence, hidden)
                }),
                expected: Box::new(move |host, _| {
                    let [z] = host.wide_stored();
                    let heads = reference_relu(&host.wide_inputs(), &z);
                    let pooled = reference::edge_pool(&batch, &heads, width, hidden, width - hidden);
                    // Four roundings of batch norm, whose terms reach 8, and those of the sum over a node's edges:
                    // about 30 for 1,000 edges. The mean has the same relative error.
                    let tolerance = Tolerance { relative: roundings(40), least: 4.0, most: 2e-5 };
                    vec![Output::scaled("pooled", pooled, tolerance).stored::<T>()]
                }),
            }
        }),
    }
}

/// Cost shared by both launches: stored values, other values and operations. The gradients of nodes and of edge states,
/// z, the norm and the lists are read once, and each value of a message takes a quotient.
fn gradient_cost(sizes: &Sizes) -> (usize, usize, usize) {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (hidden, state, width) = (config.hidden_width, config.edge_state_width(0), config.heads_width(0));
    (nodes * hidden + edges * (state + width), 2 * edges + (nodes + 1) + 4 * width, 2 * edges * hidden)
}

/// d_pooled, d_edge_state, z and its norm; subject, object, offsets and entries, and both counts.
fn gradient_host<T: StoredElement>(sizes: &Sizes, spare: usize) -> Host {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let mut values = Values::new(sizes.seed);
    let d_pooled = values.matrix::<T>(nodes, config.hidden_width);
    let d_edge_state = values.matrix::<T>(edges, config.edge_state_width(0));
    let (z, of) = decided_inputs::<T>(&mut values, edges, config.heads_width(0));
    let batch = &sizes.batch;
    let lists = [&batch.edge_subject, &batch.edge_object, &batch.incidence.offsets, &batch.incidence.entries];
    let mut lists: Vec<Vec<i32>> = lists.map(|list| with_spare(indices(list), spare)).to_vec();
    lists.extend([count(nodes), count(edges)]);
    let stored = [d_pooled, d_edge_state, z].map(|matrix| matrix.with_room(spare)).to_vec();
    Host { stored, inputs: of.to_vec(), indices: lists, ..Default::default() }
}

/// d_z, d_weight and d_bias: a quotient, then the backward of batch norm.
fn gradient_expected<T: StoredElement>(sizes: &Sizes, host: &Host) -> Vec<Output> {
    let (hidden, width, rows) = (sizes.config.hidden_width, sizes.config.heads_width(0), sizes.edges());
    let ([d_pooled, d_edge_state, z], of) = (host.wide_stored(), host.wide_inputs());
    let (batch, start) = (&sizes.batch, width - hidden);
    let d = reference::edge_pool_backward(batch, &d_pooled, &d_edge_state, width, hidden, start);
    let [d_z, d_weight, d_bias] = expected_backward(&z, &of, d, sizes.config.batch_norm);
    vec![
        Output::scaled("d_z", d_z, gradient_tolerance(rows, 2)).stored::<T>(),
        Output::scaled("d_weight", d_weight, sums_tolerance(rows, 2)),
        Output::scaled("d_bias", d_bias, sums_tolerance(rows, 2)),
    ]
}

/// Arguments of both launchers, from a case's inputs and lists.
fn gathered<'a, T: StoredElement>(
    (sizes, spare): (&Sizes, usize),
    [d_pooled, d_edge_state, z]: [Slice<'a, T>; 3],
    of: [Slice<'a, f32>; 4],
    [subject, object, offsets, entries, node_count, edge_count]: [Slice<'a, i32>; 6],
) -> (HeadsGradient<'a, T>, Slice<'a, T>, Norm<'a>) {
    let nodes = Ends { edges: counted(edge_count, sizes.edges() + spare), subject, object };
    let incidence = Lists { rows: counted(node_count, sizes.nodes() + spare), offsets, entries };
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
        // Writes d_weight and d_bias. Norm and ReLU take 4 operations, two sums 4.
        cost: Cost::stored::<T>(stored, values + 2 * width, flops + 8 * edges * width),
        chain: Chain::loads(2) + Chain::column_sums(edges),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let (launched, expected) = (sizes.clone(), sizes.clone());
            Prepared {
                host: Host {
                    outputs: vec![unwritten(width), unwritten(width)],
                    ..gradient_host::<T>(&sizes, spare)
                },
                launch: Box::new(move |device, arrays| {
                    let (stored, [], (of, lists, to, others)) = arrays.stored_as::<T>().parts();
                    let (of, z, norm) = gathered((&launched, spare), stored, of, lists);
                    let batch_statistics = launched.config.batch_norm;
                    let to = NormGradient { batch_statistics, ..norm_gradient(to, &mut others.sums) };
                    edge_pool_backward_sums(device, to, of, z, norm)
                }),
                expected: Box::new(move |host, _| gradient_expected::<T>(&expected, host).split_off(1)),
            }
        }),
    }
}

/// The gradient, after the sums, which this case computes too.
fn backward<T: StoredElement>(sizes: &Sizes) -> Case {
    let (edges, width) = (sizes.edges(), sizes.config.heads_width(0));
    let (stored, values, flops) = gradient_cost(sizes);
    let sizes = sizes.clone();
    Case {
        kernel: "edge_pool_backward",
        shape: format!("[{edges}, {width}]"),
        // Both passes read everything, because the sums must be complete first. The second reads the sums and writes
        // d_z. Norm and ReLU take 4 operations each time, two sums 4, the gradient 6.
        cost: Cost::stored::<T>(
            2 * stored + edges * width,
            2 * values + 4 * width,
            2 * flops + 18 * edges * width,
        ),
        chain: Chain::loads(4) + Chain::column_sums(edges) + Chain::column_sums(edges),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let (launched, expected) = (sizes.clone(), sizes.clone());
            let outputs = vec![unwritten(width), unwritten(width)];
            let stored_outputs = vec![HostMatrix::unwritten::<T>(edges + spare, width)];
            Prepared {
                host: Host { outputs, stored_outputs, ..gradient_host::<T>(&sizes, spare) },
                launch: Box::new(move |device, arrays| {
                    let (stored, [mut d_z], (of, lists, to, others)) = arrays.stored_as::<T>().parts();
                    let (of, z, norm) = gathered((&launched, spare), stored, of, lists);
                    let batch_statistics = launched.config.batch_norm;
                    let to = NormGradient { batch_statistics, ..norm_gradient(to, &mut others.sums) };
                    edge_pool_backward_sums(device, to, of, z, norm)?;
                    edge_pool_backward(device, &mut d_z, of, z, norm, &others.sums)
                }),
                expected: Box::new(move |host, _| gradient_expected::<T>(&expected, host)),
            }
        }),
    }
}
