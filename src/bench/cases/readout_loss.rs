//! readout_loss: embeddings of the batch's graphs, and the ranking loss of its triples.

use super::{count, counted, indices, roundings, stored_tolerance};
use crate::backend::cuda::linear::Format;
use crate::backend::cuda::readout_loss::{LossRows, Triples, readout, readout_loss};
use crate::backend::cuda::stored::StoredElement;
use crate::backend::reference::readout_loss as reference;
use crate::batch::graph_batch::GraphBatch;
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
            // Reads the node states, writes embeddings and lengths; a sum for each value of a node's, mean, square, sum
            // and quotient for each of a graph's.
            cost: Cost::stored::<T>(
                nodes * width,
                graphs * width + graphs + 2 * graphs + 1,
                nodes * width + 4 * graphs * width,
            ),
            // A sum over 22 nodes, a mean, a sum over the row by lane and warp, a root and a quotient.
            format: Format::Fp32,
            tolerance: roundings(22 + width.div_ceil(128) + 12),
            prepare: Box::new(move || {
                let batch = readout_batch.clone();
                Prepared {
                    host: Host {
                        stored: vec![node_states::<T>(nodes, width)],
                        indices: vec![
                            indices(&batch.graph_offsets),
                            indices(&batch.graph_offsets[1..]),
                            count(graphs),
                        ],
                        outputs: vec![unwritten(graphs * width), unwritten(graphs)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([node_state], [], parts) = arrays.stored_as::<T>().parts();
                        let ([], [offsets, ends, count], [mut embedding, mut mean_norm], _) = parts;
                        let graphs = counted(count, graphs);
                        let (embedding, mean_norm) = (&mut embedding, &mut mean_norm);
                        readout(device, embedding, mean_norm, node_state, offsets, ends, graphs, width)
                    }),
                    expected: Box::new(move |host| {
                        let [node_state] = host.wide_stored();
                        let embedding = reference::readout(&batch, &node_state, width, IMAGE_NODE_IN_MEAN);
                        vec![embedding, mean_norms(&batch, &node_state, width)]
                    }),
                }
            }),
        },
        Case {
            kernel: "readout_loss",
            shape,
            // Reads embeddings, lengths and similarities, writes losses and the nodes' gradients; per triple two dot
            // products, and per graph a difference, a dot product and three operations more.
            cost: Cost::stored::<T>(
                nodes * width,
                graphs * width + 3 * graphs + 1 + 3 * triples,
                2 * 2 * triples * width + 6 * graphs * width,
            ),
            // Embeddings and lengths are rounded; two dot products by lane and warp, some ten operations of the loss
            // and the way back. The slope is a difference of a sigmoid and its target, which may be a tenth of either.
            format: Format::Fp32,
            tolerance: stored_tolerance::<T>(10.0 * roundings(2 * (width.div_ceil(128) + 8) + 20)),
            prepare: Box::new(move || {
                let batch = loss_batch.clone();
                let wide = node_states::<T>(nodes, width).wide();
                let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
                Prepared {
                    host: Host {
                        inputs: vec![
                            narrow(reference::readout(&batch, &wide, width, IMAGE_NODE_IN_MEAN)),
                            narrow(mean_norms(&batch, &wide, width)),
                            batch.similarity_positive.clone(),
                            batch.similarity_negative.clone(),
                        ],
                        indices: vec![
                            indices(&batch.graph_offsets),
                            indices(&batch.graph_offsets[1..]),
                            count(triples),
                        ],
                        stored_outputs: vec![HostMatrix::unwritten::<T>(nodes, width)],
                        outputs: vec![unwritten(triples)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([], [mut d_node_state], parts) = arrays.stored_as::<T>().parts();
                        let (inputs, [graph_offsets, mean_ends, count], [values], others) = parts;
                        let [embedding, mean_norm, similarity_positive, similarity_negative] = inputs;
                        let of = Triples {
                            count: counted(count, triples),
                            embedding,
                            mean_norm,
                            graph_offsets,
                            mean_ends,
                            similarity_positive,
                            similarity_negative,
                        };
                        let mut losses = LossRows { values, rows: 1, steps: others.steps.done() };
                        readout_loss(device, &mut losses, &mut d_node_state, of, width, &LOSS)
                    }),
                    expected: Box::new(move |_| {
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
                        vec![d, losses]
                    }),
                }
            }),
        },
    ]
}

/// Node states at or above 0, as they are: their mean is not small against them.
fn node_states<T: StoredElement>(nodes: usize, width: usize) -> HostMatrix {
    HostMatrix::new::<T>(Values::new().positive(nodes * width), width)
}

/// The length of each graph's mean node state.
fn mean_norms(batch: &GraphBatch, node_state: &[f64], width: usize) -> Vec<f64> {
    let graphs = batch.graph_offsets.windows(2);
    graphs
        .map(|nodes| {
            let rows = &node_state[nodes[0] as usize * width..nodes[1] as usize * width];
            let mean =
                |c: usize| rows.iter().skip(c).step_by(width).sum::<f64>() / f64::from(nodes[1] - nodes[0]);
            (0..width).map(|c| mean(c) * mean(c)).sum::<f64>().sqrt()
        })
        .collect()
}
