//! edge_pool: the messages of a layer's edges to its nodes.

use super::{count, counted, indices, norm, norm_values, reference_norm, roundings};
use crate::backend::cuda::edge_hidden::{Ends, Lists};
use crate::backend::cuda::edge_pool::{edge_pool_backward, edge_pool_forward};
use crate::backend::cuda::linear::Format;
use crate::backend::reference::edge_pool as reference;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (hidden, state, width) = (config.hidden_width, config.state_width, config.heads_width(0));
    let shape = format!("[{edges}, {width}] and [{nodes}, {hidden}]");
    let (forward_batch, backward_batch) = (sizes.batch.clone(), sizes.batch.clone());
    vec![
        Case {
            kernel: "edge_pool_forward",
            shape: shape.clone(),
            // Reads the two messages of each edge and the lists, writes the nodes' means; norm 3, ReLU 1, sum 1 for each
            // value of a message, a quotient for each of a mean.
            cost: Cost::of(
                2 * edges * hidden + nodes * hidden + (nodes + 1) + 2 * edges + 4 * width,
                5 * 2 * edges * hidden + nodes * hidden,
            ),
            // Batch norm's four, and a sum over the 21 edges of an image node, and more where an object has them.
            format: Format::Fp32,
            tolerance: roundings(40),
            prepare: Box::new(move || {
                let batch = forward_batch.clone();
                let mut values = Values::new();
                let mut inputs = vec![values.signed(edges * width)];
                inputs.extend(norm_values(&mut values, width));
                Prepared {
                    host: Host {
                        inputs,
                        indices: vec![
                            indices(&batch.incidence.offsets),
                            indices(&batch.incidence.entries),
                            count(nodes),
                        ],
                        outputs: vec![unwritten(nodes * hidden)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([z, mean, rstd, weight, bias], [offsets, entries, count], [mut pooled], _) =
                            arrays.parts();
                        let norm = norm([mean, rstd, weight, bias]);
                        let incidence = Lists { rows: counted(count, nodes), offsets, entries };
                        edge_pool_forward(device, &mut pooled, z, norm, incidence, hidden)
                    }),
                    expected: Box::new(move |host| {
                        let [z, mean, rstd, weight, bias] = host.wide_inputs();
                        let heads = reference_norm(&[mean, rstd, weight, bias]).relu_rows(&z);
                        vec![reference::edge_pool(&batch, &heads, width, hidden, hidden + state)]
                    }),
                }
            }),
        },
        Case {
            kernel: "edge_pool_backward",
            shape,
            // Reads each node's gradient once, the edge states' and the lists, writes d_heads; a quotient for each value
            // of a message.
            cost: Cost::of(
                nodes * hidden + edges * state + 2 * edges + (nodes + 1) + edges * width,
                2 * edges * hidden,
            ),
            // A quotient, of a count that is exact.
            format: Format::Fp32,
            tolerance: roundings(2),
            prepare: Box::new(move || {
                let batch = backward_batch.clone();
                let mut values = Values::new();
                Prepared {
                    host: Host {
                        inputs: vec![values.signed(nodes * hidden), values.signed(edges * state)],
                        indices: vec![
                            indices(&batch.edge_subject),
                            indices(&batch.edge_object),
                            indices(&batch.incidence.offsets),
                            indices(&batch.incidence.entries),
                            count(nodes),
                            count(edges),
                        ],
                        outputs: vec![unwritten(edges * width)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([d_pooled, d_edge_state], lists, [mut d_heads], _) = arrays.parts();
                        let [subject, object, offsets, entries, node_count, edge_count] = lists;
                        edge_pool_backward(
                            device,
                            &mut d_heads,
                            d_pooled,
                            d_edge_state,
                            Ends { edges: counted(edge_count, edges), subject, object },
                            Lists { rows: counted(node_count, nodes), offsets, entries },
                            width,
                            hidden,
                        )
                    }),
                    expected: Box::new(move |host| {
                        let [d_pooled, d_edge_state] = host.wide_inputs();
                        vec![reference::edge_pool_backward(
                            &batch,
                            &d_pooled,
                            &d_edge_state,
                            width,
                            hidden,
                            hidden + state,
                        )]
                    }),
                }
            }),
        },
    ]
}
