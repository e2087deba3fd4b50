//! Each stage run on a backend, over guarded buffers of its own.

use super::*;

/// A backend with a case's batch and parameters.
pub struct On<B: Backend<Stored = <B as Backend>::Buffer>> {
    pub backend: B,
    pub batch: B::Batch,
    pub parameters: Parameters<B::Buffer>,
}

/// A buffer after a stage.
pub struct Output {
    pub name: String,
    pub values: Vec<f32>,
    /// What the stage must write; the rest must still be NaN.
    pub written: Vec<Range<usize>>,
}

impl<B: Backend<Stored = <B as Backend>::Buffer>> On<B> {
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

    /// A buffer with these values and NaN behind.
    pub fn input(&mut self, values: &[f32]) -> B::Buffer {
        self.exactly(&[values, &[f32::NAN; GUARD]].concat())
    }

    /// A buffer of NaN for `len` values.
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

    /// NaN where gradients go.
    pub fn gradients(&mut self) -> B::Buffer {
        let count = self.parameters.layout.parameter_count;
        self.exactly(&vec![f32::NAN; count])
    }

    /// The gradients of which only these ranges may be written.
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

/// What a layer reads of the one before, activated: of its blocks nothing.
pub fn layer_input<'a, T>(
    layer: usize,
    before: &'a BlockActivations<T>,
    [nodes, edges]: [&'a T; 2],
) -> LayerInput<'a, T> {
    let [nodes, edges] = [nodes, edges].map(|output| Activated { block: before, output });
    if layer == 0 { LayerInput::Embeddings } else { LayerInput::States { nodes, edges } }
}

// The stages, each on buffers of its own. Forward stages read `saved` of the stage before.

pub fn edge_hidden<B: Backend<Stored = <B as Backend>::Buffer>>(
    on: &mut On<B>,
    case: &Case,
    mode: Mode,
) -> Vec<Output> {
    let (rows, columns) = (case.size.edges, case.config.hidden_width);
    let (nodes, edges) = (on.input(&case.nodes), on.input(&case.edges));
    let (mut block, mut output) = (on.output_block(rows, columns), on.output(rows * columns));
    let before = on.output_block(0, 0);
    let input = layer_input(case.layer, &before, [&nodes, &edges]);
    on.backend
        .edge_hidden(case.layer, mode, &mut on.parameters, &on.batch, input, &mut block, &mut output)
        .unwrap();
    let mut outputs = on.read_block(&block, rows, columns);
    outputs.push(on.read("output", &output, rows * columns));
    outputs
}

pub fn edge_heads<B: Backend<Stored = <B as Backend>::Buffer>>(
    on: &mut On<B>,
    case: &Case,
    mode: Mode,
) -> Vec<Output> {
    let (rows, columns) = (case.size.edges, case.config.heads_width(case.layer));
    let (saved, output) =
        (on.upload_block(&case.saved.edge_hidden), on.input(&case.saved.edge_hidden_output));
    let hidden = Activated { block: &saved, output: &output };
    let mut block = on.output_block(rows, columns);
    on.backend.edge_heads(case.layer, mode, &mut on.parameters, &on.batch, hidden, &mut block).unwrap();
    on.read_block(&block, rows, columns)
}

pub fn edge_pool<B: Backend<Stored = <B as Backend>::Buffer>>(on: &mut On<B>, case: &Case) -> Vec<Output> {
    let heads = on.upload_block(&case.saved.edge_heads);
    let pooled_len = case.size.nodes * case.config.hidden_width;
    let states_len = case.size.edges * case.config.edge_state_width(case.layer);
    let (mut pooled, mut states) = (on.output(pooled_len), on.output(states_len));
    on.backend.edge_pool(case.layer, &on.parameters, &on.batch, &heads, &mut pooled, &mut states).unwrap();
    vec![on.read("pooled", &pooled, pooled_len), on.read("edge_state", &states, states_len)]
}

pub fn node_hidden<B: Backend<Stored = <B as Backend>::Buffer>>(
    on: &mut On<B>,
    case: &Case,
    mode: Mode,
) -> Vec<Output> {
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

pub fn node_output<B: Backend<Stored = <B as Backend>::Buffer>>(
    on: &mut On<B>,
    case: &Case,
    mode: Mode,
) -> Vec<Output> {
    let (rows, columns) = (case.size.nodes, case.config.state_width);
    let (saved, output) =
        (on.upload_block(&case.saved.node_hidden), on.input(&case.saved.node_hidden_output));
    let hidden = Activated { block: &saved, output: &output };
    let (mut block, mut state) = (on.output_block(rows, columns), on.output(rows * columns));
    on.backend
        .node_output(case.layer, mode, &mut on.parameters, &on.batch, hidden, &mut block, &mut state)
        .unwrap();
    let mut outputs = on.read_block(&block, rows, columns);
    outputs.push(on.read("node_state", &state, rows * columns));
    outputs
}

pub fn readout<B: Backend<Stored = <B as Backend>::Buffer>>(on: &mut On<B>, case: &Case) -> Vec<Output> {
    let len = case.size.graphs * case.config.state_width;
    let (states, mut embedding) = (on.input(&case.saved.node_state), on.output(len));
    on.backend.readout(case.config, &on.batch, &states, &mut embedding).unwrap();
    vec![on.read("embedding", &embedding, len)]
}

pub fn readout_loss<B: Backend<Stored = <B as Backend>::Buffer>>(
    on: &mut On<B>,
    case: &Case,
    loss: &Loss,
) -> Vec<Output> {
    let (width, triples) = (case.config.state_width, case.batch.similarity_positive.len());
    let states = on.input(&case.saved.node_state);
    let (embeddings, nodes) = (case.size.graphs * width, case.size.nodes * width);
    let (mut embedding, mut losses, mut d) =
        (on.output(embeddings), on.output(LOSS_STEPS * triples), on.output(nodes));
    let steps = on.backend.steps().unwrap();
    on.backend
        .readout_loss(case.config, loss, &on.batch, &states, &mut embedding, &mut losses, &steps, &mut d)
        .unwrap();
    vec![
        on.read("embedding", &embedding, embeddings),
        on.read("losses", &losses, triples),
        on.read("d_node_state", &d, nodes),
    ]
}

pub fn norm_and_weight(block: &BlockLayout) -> [(&'static str, Range<usize>); 3] {
    [
        ("d_norm_weight", block.norm_weight.clone()),
        ("d_norm_bias", block.norm_bias.clone()),
        ("d_weight", block.weight.clone()),
    ]
}

pub fn node_output_backward<B: Backend<Stored = <B as Backend>::Buffer>>(
    on: &mut On<B>,
    case: &Case,
    d_state: &[f32],
) -> Vec<Output> {
    let saved = on.upload_saved(&case.saved);
    let len = case.size.nodes * case.config.hidden_width;
    let (mut d_state, mut d_hidden, mut gradients) = (on.input(d_state), on.output(len), on.gradients());
    on.backend
        .node_output_backward(
            case.layer,
            &on.parameters,
            &on.batch,
            &saved,
            &mut d_state,
            &mut d_hidden,
            &mut gradients,
        )
        .unwrap();
    let ranges = norm_and_weight(on.parameters.layout.block(case.layer, BlockKind::NodeOutput));
    let mut outputs = on.read_gradients(&gradients, &ranges);
    outputs.push(on.read("d_x", &d_hidden, len));
    outputs
}

pub fn node_hidden_backward<B: Backend<Stored = <B as Backend>::Buffer>>(
    on: &mut On<B>,
    case: &Case,
    d_hidden: &[f32],
) -> Vec<Output> {
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

pub fn edge_pool_backward<B: Backend<Stored = <B as Backend>::Buffer>>(
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

pub fn edge_heads_backward<B: Backend<Stored = <B as Backend>::Buffer>>(
    on: &mut On<B>,
    case: &Case,
    d_heads: &[f32],
) -> Vec<Output> {
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

pub fn edge_hidden_backward<B: Backend<Stored = <B as Backend>::Buffer>>(
    on: &mut On<B>,
    case: &Case,
    d_hidden: &[f32],
) -> Vec<Output> {
    let saved = on.upload_saved(&case.saved);
    let width = case.config.state_width;
    let (nodes, edges) = (on.input(&case.nodes), on.input(&case.edges));
    let (mut d_nodes, mut d_edges) = (on.output(case.size.nodes * width), on.output(case.size.edges * width));
    let (mut d_hidden, mut gradients) = (on.input(d_hidden), on.gradients());
    let before = on.output_block(0, 0);
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
            layer_input(case.layer, &before, [&nodes, &edges]),
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

impl Output {
    pub fn written(&self) -> Vec<f32> {
        self.written.iter().flat_map(|range| self.values[range.clone()].to_vec()).collect()
    }
}
