//! edge_pool: the messages of a layer's edges to its nodes.

use super::{count, counted, indices, norm, norm_values, reference_norm, roundings, stored_tolerance};
use crate::backend::cuda::edge_hidden::{Ends, Lists};
use crate::backend::cuda::edge_pool::{edge_pool_backward, edge_pool_forward};
use crate::backend::cuda::linear::Format;
use crate::backend::cuda::stored::StoredElement;
use crate::backend::reference::edge_pool as reference;
use crate::bench::case::{Case, Cost, Host, Prepared};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
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
        Case {
            kernel: "edge_pool_backward",
            shape,
            // Reads each node's gradient once, the edge states' and the lists, writes d_heads; a quotient for each value
            // of a message.
            cost: Cost::stored::<T>(
                nodes * hidden + edges * state + edges * width,
                2 * edges + (nodes + 1),
                2 * edges * hidden,
            ),
            // A quotient, of a count that is exact.
            format: Format::Fp32,
            tolerance: stored_tolerance::<T>(roundings(2)),
            prepare: Box::new(move || {
                let batch = backward_batch.clone();
                let mut values = Values::new();
                Prepared {
                    host: Host {
                        stored: vec![values.matrix::<T>(nodes, hidden), values.matrix::<T>(edges, state)],
                        stored_outputs: vec![HostMatrix::unwritten::<T>(edges, width)],
                        indices: vec![
                            indices(&batch.edge_subject),
                            indices(&batch.edge_object),
                            indices(&batch.incidence.offsets),
                            indices(&batch.incidence.entries),
                            count(nodes),
                            count(edges),
                        ],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([d_pooled, d_edge_state], [mut d_heads], parts) =
                            arrays.stored_as::<T>().parts();
                        let ([], lists, [], _) = parts;
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
                        let [d_pooled, d_edge_state] = host.wide_stored();
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
