//! readout_loss: embeddings of the batch's graphs, and the ranking loss of its triples.

use super::{SEED, count, counted, indices, near, roundings, stored_tolerance};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::readout_loss::{
    LossOutputs, LossRows, NodeStates, Triples, readout, readout_loss,
};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::readout_loss as reference;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::loss::{Loss, LossKind};

const LOSS: Loss = Loss { kind: LossKind::Ranking, temperature: 1.0, margin: 0.5 };
/// The paper's mean, whose ends are the graphs'.
const IMAGE_NODE_IN_MEAN: bool = true;

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let (triples, graphs, nodes) = (sizes.triples(), sizes.graphs(), sizes.nodes());
    let width = sizes.config.state_width;
    let shape = format!("[{nodes}, {width}], {graphs} graphs");
    let (readout_batch, loss_batch) = (sizes.batch.clone(), sizes.batch.clone());
    vec![
        Case {
            kernel: "readout",
            shape: shape.clone(),
            // Reads the node states, writes embeddings; a sum for each value of a node's, mean, square, sum
            // and quotient for each of a graph's.
            cost: Cost::stored::<T>(
                nodes * width,
                graphs * width + 2 * graphs + 1,
                nodes * width + 4 * graphs * width,
            ),
            // A sum over 22 nodes, a mean, a sum over the row by lane and warp, a root and a quotient.
            format: Format::Fp32,
            prepare: Box::new(move |_| {
                let batch = readout_batch.clone();
                Prepared {
                    host: Host {
                        stored: vec![node_states::<T>(nodes, width)],
                        indices: vec![
                            indices(&batch.graph_offsets),
                            indices(&batch.graph_offsets[1..]),
                            count(graphs),
                        ],
                        outputs: vec![unwritten(graphs * width)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([values], [], parts) = arrays.stored_as::<T>().parts();
                        let ([], [graph_offsets, mean_ends, count], [mut embedding], _) = parts;
                        let states = NodeStates { values, graph_offsets, mean_ends, width };
                        readout(device, &mut embedding, states, counted(count, graphs))
                    }),
                    expected: near(roundings(22 + width.div_ceil(128) + 12), move |host| {
                        let [node_state] = host.wide_stored();
                        vec![reference::readout(&batch, &node_state, width, IMAGE_NODE_IN_MEAN)]
                    }),
                }
            }),
        },
        Case {
            kernel: "readout_loss",
            shape,
            // Reads the node states and similarities, writes embeddings, losses and the nodes' gradients; beside the
            // readout two dot products per triple, and per graph a difference, a dot product and three operations more.
            cost: Cost::stored::<T>(
                2 * nodes * width,
                graphs * width + 2 * graphs + 1 + 3 * triples,
                nodes * width + 4 * graphs * width + 2 * 2 * triples * width + 6 * graphs * width,
            ),
            // Embeddings are off by the readout's roundings; two dot products by lane and warp, some ten operations of the loss
            // and the way back. The slope is a difference of a sigmoid and its target, which may be a tenth of either.
            format: Format::Fp32,
            prepare: Box::new(move |_| {
                let batch = loss_batch.clone();
                Prepared {
                    host: Host {
                        stored: vec![node_states::<T>(nodes, width)],
                        inputs: vec![batch.similarity_positive.clone(), batch.similarity_negative.clone()],
                        indices: vec![
                            indices(&batch.graph_offsets),
                            indices(&batch.graph_offsets[1..]),
                            count(triples),
                        ],
                        stored_outputs: vec![HostMatrix::unwritten::<T>(nodes, width)],
                        outputs: vec![unwritten(graphs * width), unwritten(triples)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([node_state], [d_node_state], parts) = arrays.stored_as::<T>().parts();
                        let (inputs, [graph_offsets, mean_ends, count], [embedding, values], others) = parts;
                        let [similarity_positive, similarity_negative] = inputs;
                        let states = NodeStates { values: node_state, graph_offsets, mean_ends, width };
                        let count = counted(count, triples);
                        let of = Triples { count, similarity_positive, similarity_negative };
                        let losses = LossRows { values, rows: 1, steps: others.steps.done() };
                        let to = LossOutputs { embedding, losses, d_node_state };
                        readout_loss(device, to, states, of, &LOSS)
                    }),
                    expected: near(
                        stored_tolerance::<T>(10.0 * roundings(2 * (width.div_ceil(128) + 8) + 20)),
                        move |host| {
                            let [wide] = host.wide_stored();
                            let embedding = reference::readout(&batch, &wide, width, IMAGE_NODE_IN_MEAN);
                            let (losses, d_embedding) =
                                reference::triple_losses(&LOSS, &batch, &embedding, width);
                            let d = reference::readout_backward(
                                &batch,
                                &wide,
                                &d_embedding,
                                width,
                                IMAGE_NODE_IN_MEAN,
                            );
                            vec![d, embedding, losses]
                        },
                    ),
                }
            }),
        },
    ]
}

/// Node states at or above 0, as they are: their mean is not small against them.
fn node_states<T: StoredElement>(nodes: usize, width: usize) -> HostMatrix {
    HostMatrix::new::<T>(Values::new(SEED).positive(nodes * width), width)
}
