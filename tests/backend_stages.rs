//! Every stage of the CPU backend against the reference in `f64`, on the same inputs.
//!
//! Buffers are longer than the batch needs and hold NaN wherever a stage has no business: an output cell that it does
//! not write, an input cell beyond the batch that it reads, and a cell beyond the batch that it writes all show.
//!
//! Tolerances are bounds of single precision's rounding, from the magnitudes that occur. A sum of n terms counts as
//! `sqrt(n)` roundings of the sum of their magnitudes: the roundings are independent, and the bound by n itself would
//! hide an error in one term. `--nocapture` prints how much of each was used.

mod support;

use std::ops::Range;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::backend::cpu::Cpu;
use scenerank::backend::reference::Reference;
use scenerank::backend::reference::edge_gather::{edge_gather, embedding_lookup};
use scenerank::backend::reference::linear::linear;
use scenerank::backend::{Backend, L2_EPSILON, LayerInput, LayerInputGradient, Mode};
use scenerank::batch::graph_batch::{BatchSize, GraphBatch};
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::loss::{Loss, LossKind};
use scenerank::model::activations::{BlockActivations, LayerActivations};
use scenerank::model::config::ModelConfig;
use scenerank::model::parameters::{BlockKind, BlockLayout, Layout, Parameters};
use scenerank::model::tensors::NamedTensors;
use scenerank::optimizer::{Adam, Moments};

use support::{
    BatchShape, EPS, Margins, SMALL, Tolerance, largest, parameters_on, random_batch, random_parameters,
    sized_batch,
};

/// Values beyond what a batch needs in every buffer; no multiple of a row.
const GUARD: usize = 67;

/// How far saved values lie from the ReLU's kink, after normalisation: further than single precision can confuse.
const KINK: f32 = 0.05;

/// One layer, its inputs and what a forward pass saves of it.
struct Case {
    name: String,
    config: ModelConfig,
    layer: usize,
    batch: GraphBatch,
    size: BatchSize,
    tensors: NamedTensors,
    /// The parameters, flat.
    values: Vec<f32>,
    /// `[N, D]` and `[E, D]`: what the layer reads (the embeddings in layer 0).
    nodes: Vec<f32>,
    edges: Vec<f32>,
    /// Saved values, kept off the kinks.
    saved: LayerActivations<Vec<f32>>,
    /// No column of small variance, no short row: then nothing magnifies rounding, and [`compare`] is stricter.
    well_conditioned: bool,
    seed: u64,
}

/// A backend with a case's batch and parameters.
struct On<B: Backend> {
    backend: B,
    batch: B::Batch,
    parameters: Parameters<B::Buffer>,
}

/// A buffer after a stage.
struct Output {
    name: String,
    values: Vec<f32>,
    /// What the stage must write; the rest must still be NaN.
    written: Vec<Range<usize>>,
}

impl<B: Backend> On<B> {
    fn new(mut backend: B, config: ModelConfig, batch: &GraphBatch, tensors: &NamedTensors) -> Self {
        let mut to = backend.new_batch().unwrap();
        backend.load_batch(batch, &mut to).unwrap();
        let parameters = parameters_on(&mut backend, config, tensors);
        On { backend, batch: to, parameters }
    }

    fn exactly(&mut self, values: &[f32]) -> B::Buffer {
        let mut buffer = self.backend.allocate(values.len()).unwrap();
        self.backend.upload(values, &mut buffer, 0).unwrap();
        buffer
    }

    /// A buffer with these values and NaN behind.
    fn input(&mut self, values: &[f32]) -> B::Buffer {
        self.exactly(&[values, &[f32::NAN; GUARD]].concat())
    }

    /// A buffer of NaN for `len` values.
    fn output(&mut self, len: usize) -> B::Buffer {
        self.exactly(&vec![f32::NAN; len + GUARD])
    }

    fn output_block(&mut self, rows: usize, columns: usize) -> BlockActivations<B::Buffer> {
        let linear = self.output(rows * columns);
        let [mean, rstd] = [0; 2].map(|_| self.exactly(&vec![f32::NAN; columns]));
        BlockActivations { linear, mean, rstd }
    }

    fn read(&mut self, name: &str, buffer: &B::Buffer, len: usize) -> Output {
        let values = self.backend.download(buffer, 0..len + GUARD).unwrap();
        Output { name: name.to_string(), values, written: std::iter::once(0..len).collect() }
    }

    fn read_exactly(&mut self, name: &str, buffer: &B::Buffer, len: usize) -> Output {
        let values = self.backend.download(buffer, 0..len).unwrap();
        Output { name: name.to_string(), values, written: std::iter::once(0..len).collect() }
    }

    fn read_block(
        &mut self,
        block: &BlockActivations<B::Buffer>,
        rows: usize,
        columns: usize,
    ) -> Vec<Output> {
        let running = self.parameters.layout.running_count;
        let mean = self.backend.download(&self.parameters.running_mean, 0..running).unwrap();
        let var = self.backend.download(&self.parameters.running_var, 0..running).unwrap();
        let all = || std::iter::once(0..running).collect();
        vec![
            self.read("linear", &block.linear, rows * columns),
            self.read_exactly("mean", &block.mean, columns),
            self.read_exactly("rstd", &block.rstd, columns),
            Output { name: "running_mean".into(), values: mean, written: all() },
            Output { name: "running_var".into(), values: var, written: all() },
        ]
    }

    /// NaN where gradients go.
    fn gradients(&mut self) -> B::Buffer {
        let count = self.parameters.layout.parameter_count;
        self.exactly(&vec![f32::NAN; count])
    }

    /// The gradients of which only these ranges may be written.
    fn read_gradients(&mut self, buffer: &B::Buffer, ranges: &[(&str, Range<usize>)]) -> Vec<Output> {
        let values = self.backend.download(buffer, 0..self.parameters.layout.parameter_count).unwrap();
        let others = (0..values.len()).filter(|at| !ranges.iter().any(|(_, range)| range.contains(at)));
        assert!(others.into_iter().all(|at| values[at].is_nan()), "a stage wrote another's gradients");
        let part = |(name, range): &(&str, Range<usize>)| Output {
            name: name.to_string(),
            values: values[range.clone()].to_vec(),
            written: std::iter::once(0..range.len()).collect(),
        };
        ranges.iter().map(part).collect()
    }

    fn upload_block(&mut self, block: &BlockActivations<Vec<f32>>) -> BlockActivations<B::Buffer> {
        BlockActivations {
            linear: self.input(&block.linear),
            mean: self.exactly(&block.mean),
            rstd: self.exactly(&block.rstd),
        }
    }

    fn upload_saved(&mut self, saved: &LayerActivations<Vec<f32>>) -> LayerActivations<B::Buffer> {
        LayerActivations {
            edge_hidden: self.upload_block(&saved.edge_hidden),
            edge_hidden_output: self.input(&saved.edge_hidden_output),
            edge_heads: self.upload_block(&saved.edge_heads),
            edge_state: self.input(&saved.edge_state),
            pooled: self.input(&saved.pooled),
            node_hidden: self.upload_block(&saved.node_hidden),
            node_hidden_output: self.input(&saved.node_hidden_output),
            node_output: self.upload_block(&saved.node_output),
            node_state: self.input(&saved.node_state),
        }
    }
}

fn layer_input<'a, T>(layer: usize, nodes: &'a T, edges: &'a T) -> LayerInput<'a, T> {
    if layer == 0 { LayerInput::Embeddings } else { LayerInput::States { nodes, edges } }
}

// The stages, each on buffers of its own. Forward stages read `saved` of the stage before.

fn edge_hidden<B: Backend>(on: &mut On<B>, case: &Case, mode: Mode) -> Vec<Output> {
    let (rows, columns) = (case.size.edges, case.config.hidden_width);
    let (nodes, edges) = (on.input(&case.nodes), on.input(&case.edges));
    let (mut block, mut output) = (on.output_block(rows, columns), on.output(rows * columns));
    let input = layer_input(case.layer, &nodes, &edges);
    on.backend
        .edge_hidden(case.layer, mode, &mut on.parameters, &on.batch, input, &mut block, &mut output)
        .unwrap();
    let mut outputs = on.read_block(&block, rows, columns);
    outputs.push(on.read("output", &output, rows * columns));
    outputs
}

fn edge_heads<B: Backend>(on: &mut On<B>, case: &Case, mode: Mode) -> Vec<Output> {
    let (rows, columns) = (case.size.edges, case.config.heads_width(case.layer));
    let hidden = on.input(&case.saved.edge_hidden_output);
    let mut block = on.output_block(rows, columns);
    on.backend.edge_heads(case.layer, mode, &mut on.parameters, &on.batch, &hidden, &mut block).unwrap();
    on.read_block(&block, rows, columns)
}

fn edge_pool<B: Backend>(on: &mut On<B>, case: &Case) -> Vec<Output> {
    let heads = on.upload_block(&case.saved.edge_heads);
    let pooled_len = case.size.nodes * case.config.hidden_width;
    let states_len = case.size.edges * case.config.edge_state_width(case.layer);
    let (mut pooled, mut states) = (on.output(pooled_len), on.output(states_len));
    on.backend.edge_pool(case.layer, &on.parameters, &on.batch, &heads, &mut pooled, &mut states).unwrap();
    vec![on.read("pooled", &pooled, pooled_len), on.read("edge_state", &states, states_len)]
}

fn node_hidden<B: Backend>(on: &mut On<B>, case: &Case, mode: Mode) -> Vec<Output> {
    let (rows, columns) = (case.size.nodes, case.config.hidden_width);
    let pooled = on.input(&case.saved.pooled);
    let (mut block, mut output) = (on.output_block(rows, columns), on.output(rows * columns));
    on.backend
        .node_hidden(case.layer, mode, &mut on.parameters, &on.batch, &pooled, &mut block, &mut output)
        .unwrap();
    let mut outputs = on.read_block(&block, rows, columns);
    outputs.push(on.read("output", &output, rows * columns));
    outputs
}

fn node_output<B: Backend>(on: &mut On<B>, case: &Case, mode: Mode) -> Vec<Output> {
    let (rows, columns) = (case.size.nodes, case.config.state_width);
    let hidden = on.input(&case.saved.node_hidden_output);
    let (mut block, mut state) = (on.output_block(rows, columns), on.output(rows * columns));
    on.backend
        .node_output(case.layer, mode, &mut on.parameters, &on.batch, &hidden, &mut block, &mut state)
        .unwrap();
    let mut outputs = on.read_block(&block, rows, columns);
    outputs.push(on.read("node_state", &state, rows * columns));
    outputs
}

fn readout<B: Backend>(on: &mut On<B>, case: &Case) -> Vec<Output> {
    let (width, len) = (case.config.state_width, case.size.graphs * case.config.state_width);
    let (states, mut embedding) = (on.input(&case.saved.node_state), on.output(len));
    on.backend.readout(&on.batch, width, &states, &mut embedding).unwrap();
    vec![on.read("embedding", &embedding, len)]
}

fn readout_loss<B: Backend>(on: &mut On<B>, case: &Case, loss: &Loss) -> Vec<Output> {
    let (width, triples) = (case.config.state_width, case.batch.similarity_positive.len());
    let states = on.input(&case.saved.node_state);
    let (embeddings, nodes) = (case.size.graphs * width, case.size.nodes * width);
    let (mut embedding, mut losses, mut d) = (on.output(embeddings), on.output(triples), on.output(nodes));
    on.backend.readout_loss(loss, &on.batch, width, &states, &mut embedding, &mut losses, &mut d).unwrap();
    vec![
        on.read("embedding", &embedding, embeddings),
        on.read("losses", &losses, triples),
        on.read("d_node_state", &d, nodes),
    ]
}

fn norm_and_weight(block: &BlockLayout) -> [(&'static str, Range<usize>); 3] {
    [
        ("d_norm_weight", block.norm_weight.clone()),
        ("d_norm_bias", block.norm_bias.clone()),
        ("d_weight", block.weight.clone()),
    ]
}

fn node_output_backward<B: Backend>(on: &mut On<B>, case: &Case, d_state: &[f32]) -> Vec<Output> {
    let saved = on.upload_saved(&case.saved);
    let len = case.size.nodes * case.config.hidden_width;
    let (d_state, mut d_hidden, mut gradients) = (on.input(d_state), on.output(len), on.gradients());
    on.backend
        .node_output_backward(
            case.layer,
            &on.parameters,
            &on.batch,
            &saved,
            &d_state,
            &mut d_hidden,
            &mut gradients,
        )
        .unwrap();
    let ranges = norm_and_weight(on.parameters.layout.block(case.layer, BlockKind::NodeOutput));
    let mut outputs = on.read_gradients(&gradients, &ranges);
    outputs.push(on.read("d_x", &d_hidden, len));
    outputs
}

fn node_hidden_backward<B: Backend>(on: &mut On<B>, case: &Case, d_hidden: &[f32]) -> Vec<Output> {
    let saved = on.upload_saved(&case.saved);
    let len = case.size.nodes * case.config.hidden_width;
    let (mut d_hidden, mut d_pooled, mut gradients) = (on.input(d_hidden), on.output(len), on.gradients());
    on.backend
        .node_hidden_backward(
            case.layer,
            &on.parameters,
            &on.batch,
            &saved,
            &mut d_hidden,
            &mut d_pooled,
            &mut gradients,
        )
        .unwrap();
    let ranges = norm_and_weight(on.parameters.layout.block(case.layer, BlockKind::NodeHidden));
    let mut outputs = on.read_gradients(&gradients, &ranges);
    outputs.push(on.read("d_x", &d_pooled, len));
    outputs
}

fn edge_pool_backward<B: Backend>(
    on: &mut On<B>,
    case: &Case,
    d_pooled: &[f32],
    d_edges: &[f32],
) -> Vec<Output> {
    let saved = on.upload_saved(&case.saved);
    let len = case.size.edges * case.config.heads_width(case.layer);
    let (d_pooled, d_edges) = (on.input(d_pooled), on.input(d_edges));
    let (mut d_heads, mut gradients) = (on.output(len), on.gradients());
    on.backend
        .edge_pool_backward(
            case.layer,
            &on.parameters,
            &on.batch,
            &saved,
            &d_pooled,
            &d_edges,
            &mut d_heads,
            &mut gradients,
        )
        .unwrap();
    let ranges = norm_and_weight(on.parameters.layout.block(case.layer, BlockKind::EdgeHeads));
    let mut outputs = on.read_gradients(&gradients, &ranges[..2]);
    outputs.push(on.read("d_z", &d_heads, len));
    outputs
}

fn edge_heads_backward<B: Backend>(on: &mut On<B>, case: &Case, d_heads: &[f32]) -> Vec<Output> {
    let saved = on.upload_saved(&case.saved);
    let len = case.size.edges * case.config.hidden_width;
    let (d_heads, mut d_hidden, mut gradients) = (on.input(d_heads), on.output(len), on.gradients());
    on.backend
        .edge_heads_backward(
            case.layer,
            &on.parameters,
            &on.batch,
            &saved,
            &d_heads,
            &mut d_hidden,
            &mut gradients,
        )
        .unwrap();
    let ranges = norm_and_weight(on.parameters.layout.block(case.layer, BlockKind::EdgeHeads));
    let mut outputs = on.read_gradients(&gradients, &ranges[2..]);
    outputs.push(on.read("d_x", &d_hidden, len));
    outputs
}

fn edge_hidden_backward<B: Backend>(on: &mut On<B>, case: &Case, d_hidden: &[f32]) -> Vec<Output> {
    let saved = on.upload_saved(&case.saved);
    let width = case.config.state_width;
    let (nodes, edges) = (on.input(&case.nodes), on.input(&case.edges));
    let (mut d_nodes, mut d_edges) = (on.output(case.size.nodes * width), on.output(case.size.edges * width));
    let (mut d_hidden, mut gradients) = (on.input(d_hidden), on.gradients());
    let d_input = match case.layer {
        0 => LayerInputGradient::Embeddings,
        _ => LayerInputGradient::States { nodes: &mut d_nodes, edges: &mut d_edges },
    };
    on.backend
        .edge_hidden_backward(
            case.layer,
            &on.parameters,
            &on.batch,
            &saved,
            layer_input(case.layer, &nodes, &edges),
            &mut d_hidden,
            d_input,
            &mut gradients,
        )
        .unwrap();
    let layout = &on.parameters.layout;
    let mut ranges = norm_and_weight(layout.block(case.layer, BlockKind::EdgeHidden)).to_vec();
    if case.layer == 0 {
        ranges.push(("d_nodes", layout.object_embedding.clone()));
        ranges.push(("d_edges", layout.predicate_embedding.clone()));
        return on.read_gradients(&gradients, &ranges);
    }
    let mut outputs = on.read_gradients(&gradients, &ranges);
    outputs.push(on.read("d_nodes", &d_nodes, case.size.nodes * width));
    outputs.push(on.read("d_edges", &d_edges, case.size.edges * width));
    outputs
}

impl Case {
    /// A layer of a batch, with values as a forward pass would save them.
    fn new(name: &str, config: ModelConfig, layer: usize, batch: GraphBatch, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (size, width) = (batch.size(), config.state_width);
        let tensors = random_parameters(config, true, seed);
        let mut on = On::new(Reference::<f64>::new(), config, &batch, &tensors);
        let values: Vec<f32> = on.parameters.values.iter().map(|&v| v as f32).collect();
        let layout = &on.parameters.layout;
        let (nodes, edges) = match layer {
            0 => (
                embedding_lookup(&values[layout.object_embedding.clone()], &batch.node_object, width),
                embedding_lookup(&values[layout.predicate_embedding.clone()], &batch.edge_predicate, width),
            ),
            // Both are ReLU outputs, hence many zeros.
            _ => (relu_like(&mut rng, size.nodes * width), relu_like(&mut rng, size.edges * width)),
        };
        let empty = || BlockActivations { linear: Vec::new(), mean: Vec::new(), rstd: Vec::new() };
        let mut case = Case {
            name: format!("{name}, layer {layer} of {config:?}, {size:?}, seed {seed}"),
            config,
            layer,
            size,
            tensors,
            values,
            nodes,
            edges,
            saved: LayerActivations {
                edge_hidden: empty(),
                edge_hidden_output: Vec::new(),
                edge_heads: empty(),
                edge_state: Vec::new(),
                pooled: Vec::new(),
                node_hidden: empty(),
                node_hidden_output: Vec::new(),
                node_output: empty(),
                node_state: Vec::new(),
            },
            batch,
            well_conditioned: false,
            seed,
        };
        let outputs = edge_hidden(&mut on, &case, Mode::Train);
        case.saved.edge_hidden = case.off_the_kinks(BlockKind::EdgeHidden, &outputs);
        case.saved.edge_hidden_output = case.relu(BlockKind::EdgeHidden, &case.saved.edge_hidden);
        let outputs = edge_heads(&mut on, &case, Mode::Train);
        case.saved.edge_heads = case.off_the_kinks(BlockKind::EdgeHeads, &outputs);
        let outputs = edge_pool(&mut on, &case);
        case.saved.pooled = outputs[0].written();
        case.saved.edge_state = outputs[1].written();
        let outputs = node_hidden(&mut on, &case, Mode::Train);
        case.saved.node_hidden = case.off_the_kinks(BlockKind::NodeHidden, &outputs);
        case.saved.node_hidden_output = case.relu(BlockKind::NodeHidden, &case.saved.node_hidden);
        let outputs = node_output(&mut on, &case, Mode::Train);
        case.saved.node_output = case.off_the_kinks(BlockKind::NodeOutput, &outputs);
        case.saved.node_state = case.relu(BlockKind::NodeOutput, &case.saved.node_output);
        for row in case.saved.node_state.chunks_exact_mut(width) {
            let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
            row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
        }
        case
    }

    fn layout(&self, kind: BlockKind) -> BlockLayout {
        Layout::new(self.config).block(self.layer, kind).clone()
    }

    fn norm(&self, kind: BlockKind, block: &BlockActivations<Vec<f32>>, at: usize) -> (f64, f64) {
        let layout = self.layout(kind);
        let c = at % layout.outputs;
        let value = |values: &[f32], c: usize| f64::from(values[c]);
        let scale = value(&block.rstd, c) * value(&self.values[layout.norm_weight.clone()], c);
        let bias = value(&self.values[layout.norm_bias.clone()], c);
        ((value(&block.linear, at) - value(&block.mean, c)) * scale + bias, scale)
    }

    /// A block's outputs, with the values next to a ReLU's kink moved away from it.
    fn off_the_kinks(&self, kind: BlockKind, outputs: &[Output]) -> BlockActivations<Vec<f32>> {
        let [linear, mean, rstd] = [0, 1, 2].map(|i| outputs[i].written());
        let mut block = BlockActivations { linear, mean, rstd };
        for at in 0..block.linear.len() {
            let (y, scale) = self.norm(kind, &block, at);
            if y.abs() < f64::from(KINK) {
                block.linear[at] += (2.0 * f64::from(KINK) / scale) as f32;
            }
        }
        block
    }

    fn relu(&self, kind: BlockKind, block: &BlockActivations<Vec<f32>>) -> Vec<f32> {
        (0..block.linear.len()).map(|at| self.norm(kind, block, at).0.max(0.0) as f32).collect()
    }

    fn saved_block(&self, kind: BlockKind) -> &BlockActivations<Vec<f32>> {
        match kind {
            BlockKind::EdgeHidden => &self.saved.edge_hidden,
            BlockKind::EdgeHeads => &self.saved.edge_heads,
            BlockKind::NodeHidden => &self.saved.node_hidden,
            BlockKind::NodeOutput => &self.saved.node_output,
        }
    }

    fn weight(&self, kind: BlockKind) -> Vec<f32> {
        self.values[self.layout(kind).weight].to_vec()
    }

    fn random(&self, stream: u64, count: usize) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(self.seed * 100 + stream);
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// The most messages that reach a node, or in layer 0 an object type; or the most edges of a predicate type.
    fn most_summed(&self) -> f64 {
        let messages = |node: usize| self.batch.incidence.degree(node);
        let of_objects = |slot| -> usize {
            self.batch.object_occurrences.rows(slot).iter().map(|&n| messages(n as usize)).sum()
        };
        let most = match self.layer {
            0 => {
                let objects = (0..self.batch.object_occurrences.types.len()).map(of_objects).max();
                let predicates = &self.batch.predicate_occurrences;
                let edges = (0..predicates.types.len()).map(|slot| predicates.rows(slot).len()).max();
                objects.max(edges)
            }
            _ => (0..self.size.nodes).map(messages).max(),
        };
        most.unwrap_or(0).max(1) as f64
    }
}

impl Output {
    fn written(&self) -> Vec<f32> {
        self.written.iter().flat_map(|range| self.values[range.clone()].to_vec()).collect()
    }
}

fn relu_like(rng: &mut StdRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-0.5f32..0.5).max(0.0)).collect()
}

/// What a stage must not write is still NaN.
fn assert_untouched(case: &Case, output: &Output) {
    let untouched = |at: &usize| !output.written.iter().any(|range| range.contains(at));
    let wrong = (0..output.values.len()).filter(untouched).find(|&at| !output.values[at].is_nan());
    assert_eq!(wrong, None, "{}: {} was written beyond the batch", case.name, output.name);
}

/// Compares a stage's outputs on both backends; `limit` gives the absolute tolerance of each.
fn compare(
    stage: &str,
    case: &Case,
    margins: &mut Margins,
    got: &[Output],
    want: &[Output],
    limit: impl Fn(&str) -> f64,
) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        let quantity = format!("{stage}: {}", got.name);
        assert_untouched(case, got);
        assert_untouched(case, want);
        // The wanted value is itself rounded to single precision.
        let tolerance = Tolerance { absolute: limit(&got.name), relative: EPS };
        margins.assert_close(&quantity, &case.name, &got.written(), &want.written(), tolerance);
        // The slope of a loss may be a difference of nearly equal numbers.
        if case.well_conditioned && got.name != "d_node_state" {
            margins.assert_norm_close(
                &format!("{quantity}, in norm"),
                &case.name,
                &got.written(),
                &want.written(),
                8.0 * EPS,
            );
        }
    }
}

fn abs(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v).abs()).collect()
}

/// The largest Euclidean norm of a column: how independent errors add up in a product with it.
fn largest_column(values: &[f32], columns: usize) -> f64 {
    let mut sums = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v).powi(2));
    }
    largest(&sums).sqrt()
}

/// Limits of a forward block on the rows `x`.
fn block_limits(case: &Case, kind: BlockKind, x: &[f32], want: &[Output]) -> impl Fn(&str) -> f64 + use<> {
    let layout = case.layout(kind);
    let inputs = layout.inputs as f64;
    let magnitude = largest(&linear(&abs(x), &abs(&case.weight(kind)), layout.inputs, layout.outputs));
    let z = EPS * (2.0 + inputs.sqrt()) / 2.0 * magnitude;
    let of = |name: &str| want.iter().find(|o| o.name == name).expect("an output").written();
    let (linear, mean, rstd) = (of("linear"), of("mean"), of("rstd"));
    let columns = layout.outputs;
    let xhat = (0..linear.len())
        .map(|at| (f64::from(linear[at] - mean[at % columns]) * f64::from(rstd[at % columns])).abs())
        .fold(0.0, f64::max);
    let (weight, bias) =
        (largest(&case.values[layout.norm_weight.clone()]), largest(&case.values[layout.norm_bias.clone()]));
    let (largest_rstd, largest_z) = (largest(&rstd), largest(&linear));
    // The variance's relative error is twice that of z over the deviation, and some roundings of squares taken around
    // the first row, which may lie |xhat| deviations off.
    let rstd_error = largest_rstd * z + EPS * (2.0 + xhat * xhat);
    let y = weight * (largest_rstd * (2.0 * z + EPS * largest_z) + xhat * rstd_error)
        + 2.0 * EPS * (weight * xhat + bias);
    let variance = 1.0 / f64::from(rstd.iter().copied().fold(f32::INFINITY, f32::min)).powi(2);
    let (z, mean) = (z + EPS * largest_z, z + EPS * largest_z);
    move |name| match name {
        "linear" => z,
        "mean" => mean,
        "rstd" => largest_rstd * rstd_error,
        // A tenth of the batch's.
        "running_mean" => 0.1 * mean,
        "running_var" => 0.2 * variance * 2.0 * rstd_error,
        "output" | "node_state" => y,
        _ => unreachable!("{name}"),
    }
}

fn check_forward(case: &Case, mode: Mode, margins: &mut Margins) {
    // A new pair for every stage, so that only its own running statistics have moved.
    let fresh = || {
        (
            On::new(Cpu::new(), case.config, &case.batch, &case.tensors),
            On::new(Reference::<f64>::new(), case.config, &case.batch, &case.tensors),
        )
    };
    let stage = |name: &str| format!("{name}, {mode:?}");

    let x = edge_gather(&case.batch, &case.nodes, &case.edges, case.config.state_width);
    let (mut cpu, mut reference) = fresh();
    let (got, want) = (edge_hidden(&mut cpu, case, mode), edge_hidden(&mut reference, case, mode));
    let limits = block_limits(case, BlockKind::EdgeHidden, &x, &want);
    compare(&stage("edge_hidden"), case, margins, &got, &want, limits);

    let (mut cpu, mut reference) = fresh();
    let (got, want) = (edge_heads(&mut cpu, case, mode), edge_heads(&mut reference, case, mode));
    let limits = block_limits(case, BlockKind::EdgeHeads, &case.saved.edge_hidden_output, &want);
    compare(&stage("edge_heads"), case, margins, &got, &want, limits);

    let (mut cpu, mut reference) = fresh();
    let (got, want) = (node_hidden(&mut cpu, case, mode), node_hidden(&mut reference, case, mode));
    let limits = block_limits(case, BlockKind::NodeHidden, &case.saved.pooled, &want);
    compare(&stage("node_hidden"), case, margins, &got, &want, limits);

    let (mut cpu, mut reference) = fresh();
    let (mut got, mut want) = (node_output(&mut cpu, case, mode), node_output(&mut reference, case, mode));
    let limits = block_limits(case, BlockKind::NodeOutput, &case.saved.node_hidden_output, &want);
    let (got_state, want_state) = (got.pop().expect("states"), want.pop().expect("states"));
    compare(&stage("node_output"), case, margins, &got, &want, &limits);
    // A row's error grows as its length before normalisation shrinks; next to zero its direction is arbitrary.
    let of = |name: &str| want.iter().find(|o| o.name == name).expect("an output").written();
    let block = BlockActivations { linear: of("linear"), mean: of("mean"), rstd: of("rstd") };
    let y = case.relu(BlockKind::NodeOutput, &block);
    let (width, y_limit) = (case.config.state_width, limits("node_state"));
    let lengths: Vec<f64> = y
        .chunks_exact(width)
        .map(|row| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt())
        .collect();
    let (got_rows, want_rows) = (got_state.written(), want_state.written());
    for ((got, want), length) in got_rows.chunks(width).zip(want_rows.chunks(width)).zip(lengths) {
        if length > 100.0 * y_limit {
            let tolerance = Tolerance::absolute(2.0 * y_limit / length + 4.0 * EPS);
            margins.assert_close(&stage("node_output: node_state"), &case.name, got, want, tolerance);
        } else {
            let norm = got.iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!(norm == 0.0 || (norm - 1.0).abs() < 1e-6, "{}: a state of length {norm}", case.name);
        }
    }
    assert_untouched(case, &got_state);
}

fn check_pool_and_readout(case: &Case, margins: &mut Margins) {
    let mut cpu = On::new(Cpu::new(), case.config, &case.batch, &case.tensors);
    let mut reference = On::new(Reference::<f64>::new(), case.config, &case.batch, &case.tensors);

    let degree = (0..case.size.nodes).map(|n| case.batch.incidence.degree(n)).max().unwrap_or(0) as f64;
    let messages = case.relu(BlockKind::EdgeHeads, &case.saved.edge_heads);
    let message = 4.0 * EPS * (largest(&messages) + 1.0);
    let (got, want) = (edge_pool(&mut cpu, case), edge_pool(&mut reference, case));
    compare("edge_pool", case, margins, &got, &want, |_| {
        message + EPS * degree.sqrt() / 2.0 * largest(&messages)
    });

    for (layer, kind) in [
        (case.layer, BlockKind::EdgeHidden),
        (case.layer, BlockKind::EdgeHeads),
        (case.layer, BlockKind::NodeHidden),
        (case.layer, BlockKind::NodeOutput),
    ] {
        let block = case.saved_block(kind);
        let rows = block.linear.len() / case.layout(kind).outputs;
        let (on_cpu, on_reference) = (cpu.upload_block(block), reference.upload_block(block));
        let got = cpu.backend.relu_mask(layer, kind, rows, &cpu.parameters, &on_cpu).unwrap();
        let want =
            reference.backend.relu_mask(layer, kind, rows, &reference.parameters, &on_reference).unwrap();
        assert_eq!(got, want, "{}: mask of {kind:?}", case.name);
    }

    // Rounding relative to a graph's mean state grows as that is short; a graph of zero states has length 0, and 1e-12
    // takes its place.
    let width = case.config.state_width;
    let states: Vec<f64> = case.saved.node_state.iter().map(|&v| f64::from(v)).collect();
    let graphs: Vec<_> = case.batch.graph_offsets.windows(2).map(|n| n[0] as usize..n[1] as usize).collect();
    let lengths: Vec<f64> = graphs
        .iter()
        .map(|nodes| {
            let rows = &states[nodes.start * width..nodes.end * width];
            let mean = |c: usize| rows.iter().skip(c).step_by(width).sum::<f64>() / nodes.len() as f64;
            (0..width).map(|c| mean(c).powi(2)).sum::<f64>().sqrt().max(L2_EPSILON)
        })
        .collect();
    let roundings = EPS * (4.0 + (width as f64).sqrt() / 2.0);
    let rows = |output: &Output, range: Range<usize>| {
        let values = output.written()[range.start * width..range.end * width].to_vec();
        // Of one graph, to be compared on its own.
        Output { name: output.name.clone(), written: std::iter::once(0..values.len()).collect(), values }
    };
    let compare_graphs = |margins: &mut Margins,
                          got: &Output,
                          want: &Output,
                          of: &dyn Fn(usize) -> Range<usize>,
                          slope: f64| {
        assert_untouched(case, got);
        for (graph, &length) in lengths.iter().enumerate() {
            let (got, want) = (rows(got, of(graph)), rows(want, of(graph)));
            let limit =
                if slope == 0.0 { roundings / length.min(1.0) } else { slope * roundings / length.powi(2) };
            // A state of zeros stays one, and its gradient is a multiple of the embedding's, itself exact to `roundings`.
            let limit = if length == L2_EPSILON { slope * roundings / length } else { limit };
            compare("readout_loss", case, margins, &[got], &[want], |_| limit);
        }
    };
    let (got, want) = (readout(&mut cpu, case), readout(&mut reference, case));
    compare_graphs(margins, &got[0], &want[0], &|graph| graph..graph + 1, 0.0);
    if case.batch.similarity_positive.is_empty() {
        return;
    }
    let triples = case.batch.similarity_positive.len() as f64;
    for kind in [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce] {
        let loss = Loss { kind, temperature: 0.7, margin: 0.31 };
        let (got, want) = (readout_loss(&mut cpu, case, &loss), readout_loss(&mut reference, case, &loss));
        compare_graphs(margins, &got[0], &want[0], &|graph| graph..graph + 1, 0.0);
        // Slopes up to 1 / 0.7 of differences of unit vectors, over the triples.
        compare_graphs(
            margins,
            &got[2],
            &want[2],
            &|graph| graphs[graph].clone(),
            4.0 / 0.7f64.powi(2) / triples,
        );
        // Cosines over the temperature, off by the embeddings' error; the loss adds numbers around 1.
        let shortest = lengths.iter().copied().filter(|&l| l > L2_EPSILON).fold(1.0, f64::min);
        let losses = 2.0 / 0.7 * roundings / shortest + 2.0 * EPS;
        compare(&format!("{kind:?}"), case, margins, &got[1..2], &want[1..2], |_| losses);
    }
}

/// Limits of batch norm's backward and of the linear layer below it.
struct BackwardLimits {
    weight: f64,
    bias: f64,
    z: f64,
    /// The largest gradient by z.
    largest_z: f64,
}

/// `d_y` is at most `largest_d`, and each has gone through `roundings` before.
fn backward_limits(case: &Case, kind: BlockKind, largest_d: f64, roundings: f64) -> BackwardLimits {
    let (block, layout) = (case.saved_block(kind), case.layout(kind));
    let columns = layout.outputs;
    let rows = (block.linear.len() / columns) as f64;
    let xhat = (0..block.linear.len())
        .map(|at| {
            f64::from(block.linear[at] - block.mean[at % columns]) * f64::from(block.rstd[at % columns])
        })
        .fold(0.0, |most: f64, x| most.max(x.abs()));
    let norm_weight = &case.values[layout.norm_weight];
    let scale = largest(&block.rstd.iter().zip(norm_weight).map(|(r, w)| r * w).collect::<Vec<_>>());
    // sqrt(R) roundings of a sum of R terms, of which chunks of 64 rows are in single precision.
    let sum = EPS * (2.0 + roundings + rows.sqrt().min(8.0));
    let largest_z = scale * largest_d * (1.0 + 1.0 + xhat);
    BackwardLimits {
        weight: sum * rows * largest_d * xhat.max(1.0) / 2.0,
        bias: sum * rows * largest_d / 2.0,
        z: EPS * (4.0 + roundings + rows.sqrt().min(8.0)) / 2.0 * largest_z,
        largest_z,
    }
}

/// The limits of `d_weight = d_z^T x` and of `d_x = d_z W`, where d_z is off by `z` and at most `largest_z`.
fn product_limits(case: &Case, kind: BlockKind, x: &[f32], z: f64, largest_z: f64) -> (f64, f64) {
    let layout = case.layout(kind);
    let rows = (x.len() / layout.inputs) as f64;
    let each = |terms: f64| z + EPS * (2.0 + terms.sqrt()) / 2.0 * largest_z;
    (
        each(rows) * largest_column(x, layout.inputs),
        each(layout.outputs as f64) * largest_column(&case.weight(kind), layout.inputs),
    )
}

fn check_backward(case: &Case, margins: &mut Margins) {
    let mut cpu = On::new(Cpu::new(), case.config, &case.batch, &case.tensors);
    let mut reference = On::new(Reference::<f64>::new(), case.config, &case.batch, &case.tensors);
    let ModelConfig { state_width, hidden_width, .. } = case.config;
    let BatchSize { nodes, edges, .. } = case.size;

    // node_output: the gradient first passes the normalisation of rows, which divides it by their length.
    let d = case.random(1, nodes * state_width);
    let y = case.relu(BlockKind::NodeOutput, &case.saved.node_output);
    let largest_d = y.chunks_exact(state_width).zip(d.chunks_exact(state_width)).map(|(y, d)| {
        let length = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        // A row of zeros passes no ReLU.
        if length(y) == 0.0 { 0.0 } else { (largest(d) + length(d)) / length(y) }
    });
    let largest_d = largest_d.fold(0.0, f64::max);
    let kind = BlockKind::NodeOutput;
    let limits = backward_limits(case, kind, largest_d, 4.0 + (state_width as f64).sqrt());
    let products = product_limits(case, kind, &case.saved.node_hidden_output, limits.z, limits.largest_z);
    let (got, want) =
        (node_output_backward(&mut cpu, case, &d), node_output_backward(&mut reference, case, &d));
    let all = |name: &str, limits: &BackwardLimits, (weight, x): (f64, f64)| match name {
        "d_norm_weight" => limits.weight,
        "d_norm_bias" => limits.bias,
        "d_z" => limits.z,
        "d_weight" => weight,
        "d_x" => x,
        _ => unreachable!("{name}"),
    };
    compare("node_output_backward", case, margins, &got, &want, |name| all(name, &limits, products));

    let d = case.random(2, nodes * hidden_width);
    let kind = BlockKind::NodeHidden;
    let limits = backward_limits(case, kind, largest(&d), 0.0);
    let products = product_limits(case, kind, &case.saved.pooled, limits.z, limits.largest_z);
    let (got, want) =
        (node_hidden_backward(&mut cpu, case, &d), node_hidden_backward(&mut reference, case, &d));
    compare("node_hidden_backward", case, margins, &got, &want, |name| all(name, &limits, products));

    let d_pooled = case.random(3, nodes * hidden_width);
    let d_edges = case.random(4, edges * case.config.edge_state_width(case.layer));
    let kind = BlockKind::EdgeHeads;
    let limits = backward_limits(case, kind, largest(&d_pooled).max(largest(&d_edges)), 1.0);
    let (got, want) = (
        edge_pool_backward(&mut cpu, case, &d_pooled, &d_edges),
        edge_pool_backward(&mut reference, case, &d_pooled, &d_edges),
    );
    compare("edge_pool_backward", case, margins, &got, &want, |name| all(name, &limits, (0.0, 0.0)));

    let d = case.random(5, edges * case.config.heads_width(case.layer));
    let products = product_limits(case, kind, &case.saved.edge_hidden_output, 0.0, largest(&d));
    let (got, want) =
        (edge_heads_backward(&mut cpu, case, &d), edge_heads_backward(&mut reference, case, &d));
    compare("edge_heads_backward", case, margins, &got, &want, |name| all(name, &limits, products));

    let d = case.random(6, edges * hidden_width);
    let kind = BlockKind::EdgeHidden;
    let limits = backward_limits(case, kind, largest(&d), 0.0);
    let x = edge_gather(&case.batch, &case.nodes, &case.edges, state_width);
    let products = product_limits(case, kind, &x, limits.z, limits.largest_z);
    let most = case.most_summed();
    let (got, want) =
        (edge_hidden_backward(&mut cpu, case, &d), edge_hidden_backward(&mut reference, case, &d));
    compare("edge_hidden_backward", case, margins, &got, &want, |name| match name {
        // Sums of up to `most` edges' gradients.
        "d_nodes" | "d_edges" => most.sqrt() * products.1,
        _ => all(name, &limits, products),
    });
}

fn check(case: &Case, margins: &mut Margins) {
    for mode in [Mode::Train, Mode::Evaluate] {
        check_forward(case, mode, margins);
    }
    check_pool_and_readout(case, margins);
    check_backward(case, margins);
}

#[test]
fn stages_at_every_number_of_rows() {
    let mut margins = Margins::default();
    // Chunks of 16 nodes and 64 rows, and vectors of 4 to 16 columns, have their edges here.
    for (nodes, edges) in [
        (1, 0),
        (3, 0),
        (4, 1),
        (31, 32),
        (32, 31),
        (33, 33),
        (17, 63),
        (63, 64),
        (64, 65),
        (65, 129),
        (130, 2),
    ] {
        for layer in 0..SMALL.layers {
            let seed = (nodes * 1000 + edges * 10 + layer) as u64;
            let batch = sized_batch(SMALL, nodes, edges, seed);
            check(&Case::new("rows", SMALL, layer, batch, seed), &mut margins);
        }
    }
}

#[test]
fn stages_at_every_width() {
    let mut margins = Margins::default();
    for (state_width, hidden_width) in
        [(1, 1), (1, 8), (3, 1), (8, 3), (13, 33), (300, 7), (5, 513), (300, 512)]
    {
        let layers = if hidden_width == 512 { 2 } else { 3 };
        let config = ModelConfig { layers, state_width, hidden_width, ..SMALL };
        for layer in 0..layers {
            let seed = (state_width * 1000 + hidden_width + layer) as u64;
            let batch = sized_batch(config, 9, 21, seed);
            check(&Case::new("widths", config, layer, batch, seed), &mut margins);
        }
    }
}

#[test]
fn stages_on_random_batches() {
    let mut margins = Margins::default();
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let shape = BatchShape {
            triples: rng.random_range(1..6),
            objects: rng.random_range(2..12),
            relationships: rng.random_range(0..15),
            oddities: true,
        };
        let config = ModelConfig {
            object_types: rng.random_range(2..40),
            predicate_types: rng.random_range(2..12),
            layers: 3,
            state_width: rng.random_range(1..24),
            hidden_width: rng.random_range(1..40),
        };
        let batch = random_batch(config, shape, seed);
        check(&Case::new("random", config, rng.random_range(0..3), batch, seed), &mut margins);
    }
}

/// Where nothing magnifies rounding, each output must be within a few units of single precision, in norm.
#[test]
fn stages_are_as_exact_as_single_precision_allows() {
    let mut margins = Margins::default();
    let paper = ModelConfig { state_width: 300, hidden_width: 512, ..SMALL };
    for (config, seeds) in [(SMALL, 1..7), (paper, 7..8)] {
        for seed in seeds {
            for layer in 0..config.layers {
                let shape = BatchShape { triples: 4, objects: 9, relationships: 10, oddities: true };
                let mut case = Case::new("exact", config, layer, random_batch(config, shape, seed), seed);
                case.well_conditioned = true;
                check(&case, &mut margins);
            }
        }
    }
}

#[test]
fn stages_on_odd_graphs() {
    let mut margins = Margins::default();
    let (image, in_image) = (SMALL.object_types as u32 - 1, SMALL.predicate_types as u32 - 1);
    // A star: one node of degree 1000 with self loops among its edges, 600 nodes of degree 1 or 2.
    let objects: Vec<u32> = (0..600).map(|i| i % image).collect();
    let loops: Vec<(u32, u32, u32)> = (0..200).map(|i| (600, i % in_image, 600)).collect();
    let star = SceneGraphBuf::augmented(&objects, &loops, image, in_image);
    // One edge 40 times, and both ways, and its image node.
    let parallel: Vec<(u32, u32, u32)> = (0..40).map(|i| [(0, 3, 1), (1, 3, 0)][i % 2]).collect();
    let parallel = SceneGraphBuf::augmented(&[5, 5], &parallel, image, in_image);
    let lonely = SceneGraphBuf::augmented(&[], &[], image, in_image);
    // All alike: every column of layer 0 is constant, its variance 0.
    let alike = SceneGraphBuf::augmented(&[], &[(0, in_image, 0); 70], image, in_image);
    for (name, graphs) in [
        ("star", [&star, &lonely, &parallel]),
        ("one-node graphs", [&lonely; 3]),
        ("alike", [&alike; 3]),
        ("positive and negative equal", [&star, &parallel, &parallel]),
    ] {
        let views = graphs.into_iter().map(SceneGraphBuf::view);
        let mut batch = GraphBatch::of_graphs(views, SMALL.object_types, SMALL.predicate_types);
        batch.similarity_positive = vec![0.5];
        batch.similarity_negative = vec![0.5];
        for layer in 0..SMALL.layers {
            check(&Case::new(name, SMALL, layer, batch.clone(), layer as u64), &mut margins);
        }
    }
}

/// Scratch memory of a larger batch, or of another layer's widths, must not leak into a later stage.
#[test]
fn a_used_backend_gives_the_bits_of_a_new_one() {
    let large = Case::new("large", SMALL, 1, sized_batch(SMALL, 130, 200, 1), 1);
    let mut used = On::new(Cpu::new(), SMALL, &large.batch, &large.tensors);
    let d = large.random(1, 200 * SMALL.hidden_width);
    edge_hidden(&mut used, &large, Mode::Train);
    edge_hidden_backward(&mut used, &large, &d);
    for layer in 0..3 {
        let case = Case::new("small", SMALL, layer, sized_batch(SMALL, 9, 11, 2), 2);
        let d = case.random(1, 11 * SMALL.hidden_width);
        let mut fresh = On::new(Cpu::new(), SMALL, &case.batch, &case.tensors);
        let backend = std::mem::take(&mut used.backend);
        used = On::new(backend, SMALL, &case.batch, &case.tensors);
        let bits = |outputs: Vec<Output>| -> Vec<u32> {
            outputs.iter().flat_map(|o| o.written()).map(f32::to_bits).collect()
        };
        assert_eq!(
            bits(edge_hidden(&mut used, &case, Mode::Train)),
            bits(edge_hidden(&mut fresh, &case, Mode::Train))
        );
        assert_eq!(
            bits(edge_hidden_backward(&mut used, &case, &d)),
            bits(edge_hidden_backward(&mut fresh, &case, &d))
        );
    }
}

#[test]
fn adam_step_equals_the_reference() {
    let mut margins = Margins::default();
    let tensors = random_parameters(SMALL, true, 1);
    let batch = sized_batch(SMALL, 3, 0, 1);
    let mut cpu = On::new(Cpu::new(), SMALL, &batch, &tensors);
    let mut reference = On::new(Reference::<f64>::new(), SMALL, &batch, &tensors);
    let count = cpu.parameters.layout.parameter_count;
    let mut rng = StdRng::seed_from_u64(1);
    // Gradients of all magnitudes, zero and denormal squares among them.
    let gradients: Vec<f32> = (0..count)
        .map(|i| if i % 7 == 0 { 0.0 } else { rng.random_range(-1.0f32..1.0) * 10f32.powi(-(i as i32 % 25)) })
        .collect();
    let first: Vec<f32> = gradients.iter().map(|g| 0.3 * g).collect();
    let second: Vec<f32> = gradients.iter().map(|g| 0.2 * g * g).collect();
    let settings = Adam::new(0.01);
    for t in [1, 2, 1000] {
        fn step<B: Backend>(on: &mut On<B>, adam: &Adam, t: u64, given: [&[f32]; 3]) -> [Vec<f32>; 3] {
            let count = given[0].len();
            let [gradients, first, second] = given.map(|values| on.exactly(values));
            let mut moments = Moments { first, second };
            on.backend.adam_step(&adam.at_step(t), &mut on.parameters, &gradients, &mut moments).unwrap();
            [&on.parameters.values, &moments.first, &moments.second]
                .map(|buffer| on.backend.download(buffer, 0..count).unwrap())
        }
        let given = [gradients.as_slice(), &first, &second];
        let got = step(&mut cpu, &settings, t, given);
        let want = step(&mut reference, &settings, t, given);
        let case = format!("step {t}");
        // A step is at most some 0.01 * 3 (sqrt of the moments' ratio), off by a few roundings; parameters around 1.
        let tolerance = Tolerance { absolute: 0.0, relative: EPS };
        margins.assert_close("adam: parameters", &case, &got[0], &want[0], tolerance);
        for (got, want) in [(&got[1], &want[1]), (&got[2], &want[2])] {
            for (&got, &want) in got.iter().zip(want) {
                // Per value, since magnitudes differ; numbers below 2^-126 have fewer digits.
                let tolerance = Tolerance { absolute: 3e-45, relative: 4.0 * EPS };
                margins.assert_close("adam: moments", &case, &[got], &[want], tolerance);
            }
        }
    }
}
