//! Runs each stage on a backend, with guarded buffers of its own.

use super::*;

/// A backend that stores all activations, as both CPU backends do.
pub trait HostBackend:
    Backend<
        Activations = Activations<<Self as Memory>::Buffer>,
        ActivationGradients = ActivationGradients<<Self as Memory>::Buffer>,
    >
{
}

impl<B> HostBackend for B where
    B: Backend<
            Activations = Activations<<B as Memory>::Buffer>,
            ActivationGradients = ActivationGradients<<B as Memory>::Buffer>,
        >
{
}

/// A backend with the batch and parameters of a case.
pub struct On<B: HostBackend> {
    pub backend: B,
    pub batch: B::Batch,
    pub parameters: Parameters<B::Buffer>,
}

/// A buffer after a stage.
pub struct Output {
    pub name: String,
    pub values: Vec<f32>,
    /// Range that the stage must write; the rest must still be NaN.
    pub written: Vec<Range<usize>>,
}

impl<B: HostBackend> On<B> {
    pub fn new(mut backend: B, config: ModelConfig, batch: &GraphBatch, tensors: &NamedTensors) -> Self {
        let mut to = backend.plan(config, batch.size()).unwrap();
        backend.load_batch(batch, &mut to).unwrap();
        let parameters = parameters_on(&mut backend, config, tensors);
        On { backend, batch: to, parameters }
    }

    pub fn exactly(&mut self, values: &[f32]) -> B::Buffer {
        let mut buffer = self.backend.allocate(values.len()).unwrap();
        self.backend.upload(values, &mut buffer, 0).unwrap();
        buffer
    }

    /// Buffer with these values, followed by NaN.
    pub fn input(&mut self, values: &[f32]) -> B::Buffer {
        self.exactly(&[values, &[f32::NAN; GUARD]].concat())
    }

    /// Buffer of NaN for `len` values.
    pub fn output(&mut self, len: usize) -> B::Buffer {
        self.exactly(&vec![f32::NAN; len + GUARD])
    }

    pub fn output_block(&mut self, rows: usize, columns: usize) -> BlockActivations<B::Buffer> {
        let linear = self.output(rows * columns);
        let [mean, rstd] = [0; 2].map(|_| self.exactly(&vec![f32::NAN; columns]));
        BlockActivations { linear, mean, rstd }
    }

    pub fn read(&mut self, name: &str, buffer: &B::Buffer, len: usize) -> Output {
        let values = self.backend.download(buffer, 0..len + GUARD).unwrap();
        Output { name: name.to_string(), values, written: std::iter::once(0..len).collect() }
    }

    pub fn read_exactly(&mut self, name: &str, buffer: &B::Buffer, len: usize) -> Output {
        let values = self.backend.download(buffer, 0..len).unwrap();
        Output { name: name.to_string(), values, written: std::iter::once(0..len).collect() }
    }

    pub fn read_block(
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

    /// Buffer of NaN for the gradients.
    pub fn gradients(&mut self) -> B::Buffer {
        let count = self.parameters.layout.parameter_count;
        self.exactly(&vec![f32::NAN; count])
    }

    /// Reads the gradients, of which only these ranges may be written.
    pub fn read_gradients(&mut self, buffer: &B::Buffer, ranges: &[(&str, Range<usize>)]) -> Vec<Output> {
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

    pub fn upload_block(&mut self, block: &BlockActivations<Vec<f32>>) -> BlockActivations<B::Buffer> {
        BlockActivations {
            linear: self.input(&block.linear),
            mean: self.exactly(&block.mean),
            rstd: self.exactly(&block.rstd),
        }
    }

    pub fn upload_saved(&mut self, saved: &LayerActivations<Vec<f32>>) -> LayerActivations<B::Buffer> {
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

// Stages, each with buffers of its own. A stage reads the values saved by the case; its output buffers are
// initialised with NaN.

/// A backward stage, which consumes one gradient and returns another.
type BackwardStage<B, In, Out> = fn(&mut B, &mut Backward<'_, B>, Gradient<In>) -> Result<Gradient<Out>>;

/// Activations that one stage reads and writes.
pub struct Saved<T>(Activations<T>);

impl<T> Saved<T> {
    /// Layer of the case.
    pub fn layer(&mut self) -> &mut LayerActivations<T> {
        self.0.layers.last_mut().expect("a layer")
    }
}

impl<B: HostBackend> On<B> {
    /// Values saved by the case, and the states of the layer below.
    pub fn saved(&mut self, case: &Case) -> Saved<B::Buffer> {
        let mut layers = Vec::new();
        for layer in 0..case.layer {
            let mut below = self.unwritten_layer();
            if layer + 1 == case.layer {
                below.node_state = self.input(&case.nodes);
                below.edge_state = self.input(&case.edges);
            }
            layers.push(below);
        }
        layers.push(self.upload_saved(&case.saved));
        Saved(Activations { layers })
    }

    /// A layer whose values must not be read.
    fn unwritten_layer(&mut self) -> LayerActivations<B::Buffer> {
        LayerActivations {
            edge_hidden: self.output_block(0, 0),
            edge_hidden_output: self.output(0),
            edge_heads: self.output_block(0, 0),
            edge_state: self.output(0),
            pooled: self.output(0),
            node_hidden: self.output_block(0, 0),
            node_hidden_output: self.output(0),
            node_output: self.output_block(0, 0),
            node_state: self.output(0),
        }
    }

    /// Gradients with respect to activations, all NaN.
    fn activation_gradients(&mut self, case: &Case) -> ActivationGradients<B::Buffer> {
        let BatchSize { nodes, edges, .. } = case.size;
        let (state, hidden) = (case.config.state_width, case.config.hidden_width);
        ActivationGradients {
            d_node_state: self.output(nodes * state),
            d_edge_state: self.output(edges * state),
            d_node_hidden: self.output(nodes * hidden),
            d_pooled: self.output(nodes * hidden),
            d_edge_heads: self.output(edges * case.config.heads_width(case.layer)),
            d_edge_hidden: self.output(edges * hidden),
        }
    }

    fn forward(
        &mut self,
        case: &Case,
        mode: Mode,
        saved: &mut Saved<B::Buffer>,
        stage: fn(&mut B, &mut Forward<'_, B>) -> Result<()>,
    ) {
        let On { backend, batch, parameters } = self;
        let activations = &mut saved.0;
        stage(backend, &mut Forward { layer: case.layer, mode, parameters, batch, activations }).unwrap();
    }

    /// ReLU mask of a block in the case's layer.
    pub fn mask(&mut self, case: &Case, kind: BlockKind, rows: usize, saved: &Saved<B::Buffer>) -> Vec<u8> {
        let On { backend, parameters, .. } = self;
        backend.relu_mask((case.layer, kind), rows, parameters, &saved.0).unwrap()
    }

    /// Gradients with respect to the parameters that the stage wrote.
    fn backward<In, Out>(
        &mut self,
        case: &Case,
        d: &mut ActivationGradients<B::Buffer>,
        stage: BackwardStage<B, In, Out>,
    ) -> B::Buffer {
        let saved = self.saved(case);
        let mut gradients = self.gradients();
        let On { backend, batch, parameters } = self;
        let pass = &mut Backward {
            layer: case.layer,
            parameters,
            batch,
            activations: &saved.0,
            d,
            gradients: &mut gradients,
        };
        let _ = stage(backend, pass, Gradient::written_by_caller()).unwrap();
        gradients
    }
}

pub fn edge_hidden<B: HostBackend>(on: &mut On<B>, case: &Case, mode: Mode) -> Vec<Output> {
    let (rows, columns) = (case.size.edges, case.config.hidden_width);
    let mut saved = on.saved(case);
    saved.layer().edge_hidden = on.output_block(rows, columns);
    saved.layer().edge_hidden_output = on.output(rows * columns);
    on.forward(case, mode, &mut saved, B::edge_hidden);
    let mut outputs = on.read_block(&saved.layer().edge_hidden, rows, columns);
    outputs.push(on.read("output", &saved.layer().edge_hidden_output, rows * columns));
    outputs
}

pub fn edge_heads<B: HostBackend>(on: &mut On<B>, case: &Case, mode: Mode) -> Vec<Output> {
    let (rows, columns) = (case.size.edges, case.config.heads_width(case.layer));
    let mut saved = on.saved(case);
    saved.layer().edge_heads = on.output_block(rows, columns);
    on.forward(case, mode, &mut saved, B::edge_heads);
    on.read_block(&saved.layer().edge_heads, rows, columns)
}

pub fn edge_pool<B: HostBackend>(on: &mut On<B>, case: &Case) -> Vec<Output> {
    let pooled = case.size.nodes * case.config.hidden_width;
    let states = case.size.edges * case.config.edge_state_width(case.layer);
    let mut saved = on.saved(case);
    saved.layer().pooled = on.output(pooled);
    saved.layer().edge_state = on.output(states);
    on.forward(case, Mode::Train, &mut saved, B::edge_pool);
    vec![
        on.read("pooled", &saved.layer().pooled, pooled),
        on.read("edge_state", &saved.layer().edge_state, states),
    ]
}

pub fn node_hidden<B: HostBackend>(on: &mut On<B>, case: &Case, mode: Mode) -> Vec<Output> {
    let (rows, columns) = (case.size.nodes, case.config.hidden_width);
    let mut saved = on.saved(case);
    saved.layer().node_hidden = on.output_block(rows, columns);
    saved.layer().node_hidden_output = on.output(rows * columns);
    on.forward(case, mode, &mut saved, B::node_hidden);
    let mut outputs = on.read_block(&saved.layer().node_hidden, rows, columns);
    outputs.push(on.read("output", &saved.layer().node_hidden_output, rows * columns));
    outputs
}

pub fn node_output<B: HostBackend>(on: &mut On<B>, case: &Case, mode: Mode) -> Vec<Output> {
    let (rows, columns) = (case.size.nodes, case.config.state_width);
    let mut saved = on.saved(case);
    saved.layer().node_output = on.output_block(rows, columns);
    saved.layer().node_state = on.output(rows * columns);
    on.forward(case, mode, &mut saved, B::node_output);
    let mut outputs = on.read_block(&saved.layer().node_output, rows, columns);
    outputs.push(on.read("node_state", &saved.layer().node_state, rows * columns));
    outputs
}

pub fn readout<B: HostBackend>(on: &mut On<B>, case: &Case) -> Vec<Output> {
    let len = case.size.graphs * case.config.state_width;
    let (Saved(activations), mut embedding) = (on.saved(case), on.output(len));
    let On { backend, batch, .. } = on;
    let (config, activations) = (case.config, &activations);
    backend.readout(Readout { config, batch, activations, embedding: &mut embedding }).unwrap();
    vec![on.read("embedding", &embedding, len)]
}

pub fn readout_loss<B: HostBackend>(on: &mut On<B>, case: &Case, loss: &Loss) -> Vec<Output> {
    let (width, triples) = (case.config.state_width, case.batch.similarity_positive.len());
    let (embeddings, nodes) = (case.size.graphs * width, case.size.nodes * width);
    let (mut embedding, mut losses) = (on.output(embeddings), on.output(LOSS_STEPS * triples));
    let (Saved(activations), mut d) = (on.saved(case), on.activation_gradients(case));
    let On { backend, batch, .. } = on;
    let steps = &backend.steps(&on.parameters.layout).unwrap();
    let of = Readout { config: case.config, batch, activations: &activations, embedding: &mut embedding };
    let _ = backend
        .readout_loss(
            of,
            loss,
            LossOutputs { losses: &mut losses, steps, triples_of_all: triples, d: &mut d },
        )
        .unwrap();
    vec![
        on.read("embedding", &embedding, embeddings),
        on.read("losses", &losses, triples),
        on.read("d_node_state", &d.d_node_state, nodes),
    ]
}

pub fn norm_and_weight(block: &BlockLayout) -> [(&'static str, Range<usize>); 3] {
    [
        ("d_norm_weight", block.norm_weight.clone()),
        ("d_norm_bias", block.norm_bias.clone()),
        ("d_weight", block.weight.clone()),
    ]
}

pub fn node_output_backward<B: HostBackend>(on: &mut On<B>, case: &Case, d_state: &[f32]) -> Vec<Output> {
    let mut d = on.activation_gradients(case);
    d.d_node_state = on.input(d_state);
    let gradients = on.backward(case, &mut d, B::node_output_backward);
    let ranges = norm_and_weight(on.parameters.layout.block(case.layer, BlockKind::NodeOutput));
    let mut outputs = on.read_gradients(&gradients, &ranges);
    outputs.push(on.read("d_x", &d.d_node_hidden, case.size.nodes * case.config.hidden_width));
    outputs
}

pub fn node_hidden_backward<B: HostBackend>(on: &mut On<B>, case: &Case, d_hidden: &[f32]) -> Vec<Output> {
    let mut d = on.activation_gradients(case);
    d.d_node_hidden = on.input(d_hidden);
    let gradients = on.backward(case, &mut d, B::node_hidden_backward);
    let ranges = norm_and_weight(on.parameters.layout.block(case.layer, BlockKind::NodeHidden));
    let mut outputs = on.read_gradients(&gradients, &ranges);
    outputs.push(on.read("d_x", &d.d_pooled, case.size.nodes * case.config.hidden_width));
    outputs
}

pub fn edge_pool_backward<B: HostBackend>(
    on: &mut On<B>,
    case: &Case,
    d_pooled: &[f32],
    d_edges: &[f32],
) -> Vec<Output> {
    let mut d = on.activation_gradients(case);
    d.d_pooled = on.input(d_pooled);
    d.d_edge_state = on.input(d_edges);
    let gradients = on.backward(case, &mut d, B::edge_pool_backward);
    let ranges = norm_and_weight(on.parameters.layout.block(case.layer, BlockKind::EdgeHeads));
    let mut outputs = on.read_gradients(&gradients, &ranges[..2]);
    let len = case.size.edges * case.config.heads_width(case.layer);
    outputs.push(on.read("d_z", &d.d_edge_heads, len));
    outputs
}

pub fn edge_heads_backward<B: HostBackend>(on: &mut On<B>, case: &Case, d_heads: &[f32]) -> Vec<Output> {
    let mut d = on.activation_gradients(case);
    d.d_edge_heads = on.input(d_heads);
    let gradients = on.backward(case, &mut d, B::edge_heads_backward);
    let ranges = norm_and_weight(on.parameters.layout.block(case.layer, BlockKind::EdgeHeads));
    let mut outputs = on.read_gradients(&gradients, &ranges[2..]);
    outputs.push(on.read("d_x", &d.d_edge_hidden, case.size.edges * case.config.hidden_width));
    outputs
}

pub fn edge_hidden_backward<B: HostBackend>(on: &mut On<B>, case: &Case, d_hidden: &[f32]) -> Vec<Output> {
    let width = case.config.state_width;
    let mut d = on.activation_gradients(case);
    d.d_edge_hidden = on.input(d_hidden);
    let gradients = on.backward(case, &mut d, B::edge_hidden_backward);
    let layout = &on.parameters.layout;
    let mut ranges = norm_and_weight(layout.block(case.layer, BlockKind::EdgeHidden)).to_vec();
    if case.layer == 0 {
        ranges.push(("d_nodes", layout.object_embedding.clone()));
        ranges.push(("d_edges", layout.predicate_embedding.clone()));
        return on.read_gradients(&gradients, &ranges);
    }
    let mut outputs = on.read_gradients(&gradients, &ranges);
    outputs.push(on.read("d_nodes", &d.d_node_state, case.size.nodes * width));
    outputs.push(on.read("d_edges", &d.d_edge_state, case.size.edges * width));
    outputs
}

impl Output {
    pub fn written(&self) -> Vec<f32> {
        self.written.iter().flat_map(|range| self.values[range.clone()].to_vec()).collect()
    }
}
