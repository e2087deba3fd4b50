//! readout_loss: embeddings of a batch's graphs, and the ranking loss of its triples.

use std::rc::Rc;

use super::{count, counted, indices, roundings, with_room, with_spare};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::readout_loss::{
    LossOutputs, LossRows, NodeStates, Triples, readout, readout_loss,
};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::readout_loss as reference;
use crate::batch::graph_batch::GraphBatch;
use crate::bench::case::{Case, Cost, Grows, Host, Prepared, STEPS_DONE, unwritten};
use crate::bench::chain::Chain;
use crate::bench::check::{Output, Tolerance};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::loss::{Loss, LossKind};

/// Graphs with node states, and the loss of their triples.
#[derive(Clone, Debug)]
pub struct Readout {
    /// Graphs of the triples: anchors, positives and negatives.
    pub batch: Rc<GraphBatch>,
    /// D: width of a node state.
    pub width: usize,
    /// Number of triples of all ranks, at least those of the batch; 0 with one rank.
    pub triples_of_all: usize,
    /// Whether means include the image node.
    pub image_node_in_mean: bool,
    /// Loss of a triple.
    pub loss: Loss,
    /// Kind of node states.
    pub states: States,
    /// Seed of the node states.
    pub seed: u64,
}

/// Kind of node states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum States {
    /// Values in 0.5..2, as after a ReLU: their mean is of their size.
    Positive,
    /// Values in -1..1: their mean may cancel.
    Signed,
}

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let of = Readout {
        batch: sizes.batch.clone(),
        width: sizes.config.state_width,
        triples_of_all: 0,
        // The paper's mean.
        image_node_in_mean: true,
        loss: Loss { kind: LossKind::Ranking, temperature: 1.0, margin: 0.5 },
        states: States::Positive,
        seed: sizes.seed,
    };
    vec![embeddings::<T>(of.clone()), losses::<T>(of)]
}

/// Tolerances of the results, from the length of the shortest mean node state.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tolerance of a component of an embedding.
    pub embedding: f64,
    /// Tolerance of a triple's loss.
    pub loss: f64,
    /// Tolerance of a component of the gradient with respect to the node states.
    pub d_node_state: f64,
}

impl Limits {
    /// `shortest` is the length of the shortest mean. A component of a mean of n numbers of about 1 has an error of
    /// about one rounding, and a length of a few; both are divided by the length. A dot product of unit vectors adds
    /// `width` errors, weighted by components whose magnitudes sum to at most sqrt(width), twice. Loss and slope have
    /// that error, divided by the temperature. The gradient, a few such terms of up to 3, is divided by the length
    /// again.
    pub fn new(shortest: f64, width: usize, temperature: f64) -> Self {
        let shortest = shortest.min(1.0);
        let embedding = 8.0 * super::ROUNDING * (1.0 + 1.0 / shortest);
        let product = 2.0 * (width as f64).sqrt() * embedding;
        Limits {
            embedding,
            loss: product / temperature + 8.0 * super::ROUNDING,
            d_node_state: 4.0 * (product + embedding) / shortest,
        }
    }
}

impl Readout {
    fn graphs(&self) -> usize {
        self.batch.size().graphs
    }

    fn nodes(&self) -> usize {
        self.batch.size().nodes
    }

    fn triples(&self) -> usize {
        self.batch.similarity_positive.len()
    }

    /// Chain of a graph's block: its nodes one after another, then the length of the mean.
    fn chain(&self) -> Chain {
        Chain::longest_list(&self.batch.graph_offsets, usize::MAX) + Chain::loads(1)
    }

    fn shape(&self) -> String {
        format!("[{}, {}], {} graphs", self.nodes(), self.width, self.graphs())
    }

    fn node_states<T: StoredElement>(&self, spare: usize) -> HostMatrix {
        let (mut values, count) = (Values::new(self.seed), self.nodes() * self.width);
        let values = match self.states {
            States::Positive => values.positive(count),
            States::Signed => values.signed(count),
        };
        HostMatrix::new::<T>(values, self.width).with_room(spare)
    }

    /// Offsets of the graphs, the end of the nodes that each mean includes, and `count` rows.
    fn lists(&self, spare: usize, rows: usize) -> Vec<Vec<i32>> {
        let ends = (0..self.graphs()).map(|graph| self.batch.mean_nodes(graph, self.image_node_in_mean).end);
        let ends = ends.map(|end| end as i32).collect();
        vec![with_spare(indices(&self.batch.graph_offsets), spare), with_spare(ends, spare), count(rows)]
    }

    fn limits(&self, node_state: &[f64]) -> Limits {
        let lengths = (0..self.graphs()).map(|graph| {
            let nodes = self.batch.mean_nodes(graph, self.image_node_in_mean);
            let rows =
                || node_state[nodes.start * self.width..nodes.end * self.width].chunks_exact(self.width);
            let mean = |c: usize| rows().map(|row| row[c]).sum::<f64>() / nodes.len() as f64;
            (0..self.width).map(|c| mean(c).powi(2)).sum::<f64>().sqrt()
        });
        // The length for a graph without nodes is NaN, which `min` ignores.
        Limits::new(lengths.fold(1.0, f64::min), self.width, self.loss.temperature)
    }

    /// Tolerance relative to the largest value, unless means may cancel; at most `most`.
    fn tolerance(&self, relative: f64, most: f64) -> Tolerance {
        let least = if self.states == States::Signed { f64::INFINITY } else { 0.0 };
        Tolerance { relative, least, most }
    }

    /// Expected embeddings. The relative error is that of a sum over 22 nodes, a mean, a sum over the row by lane and
    /// warp, a root and a quotient. The mean over no nodes is 0 / 0.
    fn embedding_output(&self, embedding: Vec<f64>, limits: Limits) -> Output {
        let tolerance = self.tolerance(roundings(22 + self.width.div_ceil(128) + 12), limits.embedding);
        Output::scaled("embedding", embedding, tolerance).with_nan()
    }
}

/// The embeddings alone.
pub fn embeddings<T: StoredElement>(of: Readout) -> Case {
    let (graphs, nodes, width) = (of.graphs(), of.nodes(), of.width);
    Case {
        kernel: "readout",
        shape: of.shape(),
        // Reads the node states; writes embeddings. Each value of a node takes a sum; each value of a graph takes mean,
        // square, sum and quotient.
        cost: Cost::stored::<T>(
            nodes * width,
            graphs * width + 2 * graphs + 1,
            nodes * width + 4 * graphs * width,
        ),
        chain: of.chain(),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let of = of.clone();
            Prepared {
                host: Host {
                    stored: vec![of.node_states::<T>(spare)],
                    indices: of.lists(spare, graphs),
                    outputs: vec![unwritten((graphs + spare) * width)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([values], [], parts) = arrays.stored_as::<T>().parts();
                    let ([], [graph_offsets, mean_ends, count], [mut embedding], _) = parts;
                    let states = NodeStates { values, graph_offsets, mean_ends, width };
                    readout(device, &mut embedding, states, counted(count, graphs + spare))
                }),
                expected: Box::new(move |host, _| {
                    let [node_state] = host.wide_stored();
                    let embedding = reference::readout(&of.batch, &node_state, width, of.image_node_in_mean);
                    vec![of.embedding_output(embedding, of.limits(&node_state))]
                }),
            }
        }),
    }
}

/// Losses, embeddings and the gradient with respect to the node states. The losses have one row per recent step, for as
/// many steps as there is room.
pub fn losses<T: StoredElement>(of: Readout) -> Case {
    let (graphs, nodes, triples, width) = (of.graphs(), of.nodes(), of.triples(), of.width);
    Case {
        kernel: "readout_loss",
        shape: of.shape(),
        // Reads the node states and similarities; writes embeddings, losses and the gradients of the nodes. Beside the
        // readout, a triple takes two dot products, and a graph a difference, a dot product and three more operations.
        cost: Cost::stored::<T>(
            2 * nodes * width,
            graphs * width + 2 * graphs + 1 + 3 * triples,
            nodes * width + 4 * graphs * width + 2 * 2 * triples * width + 6 * graphs * width,
        ),
        chain: of.chain() + Chain::loads(4),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let (of, loss, most_triples, of_all) = (of.clone(), of.loss, triples + spare, of.triples_of_all);
            let similarities = [&of.batch.similarity_positive, &of.batch.similarity_negative];
            Prepared {
                host: Host {
                    stored: vec![of.node_states::<T>(spare)],
                    inputs: similarities.map(|values| with_room(values.clone(), spare)).to_vec(),
                    indices: of.lists(3 * spare, triples),
                    stored_outputs: vec![HostMatrix::unwritten::<T>(nodes + spare, width)],
                    outputs: vec![unwritten((graphs + 3 * spare) * width), unwritten(most_triples)],
                    steps_done: STEPS_DONE,
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([node_state], [d_node_state], parts) = arrays.stored_as::<T>().parts();
                    let (inputs, [graph_offsets, mean_ends, count], [embedding, values], others) = parts;
                    let [similarity_positive, similarity_negative] = inputs;
                    let states = NodeStates { values: node_state, graph_offsets, mean_ends, width };
                    let count = counted(count, most_triples);
                    let of = Triples { count, of_all, similarity_positive, similarity_negative };
                    let rows = values.len() / most_triples.max(1);
                    let losses = LossRows { values, rows: rows.max(1), steps: others.steps.done() };
                    let to = LossOutputs { embedding, losses, d_node_state };
                    readout_loss(device, to, states, of, &loss)
                }),
                expected: Box::new(move |host, _| {
                    let ([wide], mean) = (host.wide_stored(), of.image_node_in_mean);
                    let limits = of.limits(&wide);
                    let embedding = reference::readout(&of.batch, &wide, width, mean);
                    let (losses, d_embedding) =
                        reference::triple_losses(&of.loss, &of.batch, &embedding, width, of_all.max(triples));
                    let d = reference::readout_backward(&of.batch, &wide, &d_embedding, width, mean);
                    // Embeddings have the roundings of the readout. Two dot products by lane and warp and about ten
                    // operations of loss and backward follow. The slope is the difference of a sigmoid and its target,
                    // and may be a tenth of either.
                    let relative = 10.0 * roundings(2 * (width.div_ceil(128) + 8) + 20);
                    let d_tolerance = of.tolerance(relative, limits.d_node_state);
                    vec![
                        Output::scaled("d_node_state", d, d_tolerance).stored::<T>().with_nan(),
                        of.embedding_output(embedding, limits),
                        Output::scaled("losses", losses, of.tolerance(relative, limits.loss)).with_nan(),
                    ]
                }),
            }
        }),
    }
}
