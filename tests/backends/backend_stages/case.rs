//! One layer with random inputs, and the values saved by its forward pass.

use super::*;

/// One layer, its inputs and the values saved by its forward pass.
pub struct Case {
    pub name: String,
    pub config: ModelConfig,
    pub layer: usize,
    pub batch: GraphBatch,
    pub size: BatchSize,
    pub tensors: NamedTensors,
    /// Parameters, flat.
    pub values: Vec<f32>,
    /// `[N, D]` and `[E, D]` inputs of the layer (the embeddings in layer 0).
    pub nodes: Vec<f32>,
    pub edges: Vec<f32>,
    /// Saved values, kept off the kinks.
    pub saved: LayerActivations<Vec<f32>>,
    /// Whether no column has a small variance and no row is short. Rounding is then not magnified, and
    /// [`compare`] is stricter.
    pub well_conditioned: bool,
    pub seed: u64,
}

impl Case {
    /// Creates a layer of a batch, with values like those that a forward pass saves.
    pub fn new(name: &str, config: ModelConfig, layer: usize, batch: GraphBatch, seed: u64) -> Self {
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
            // Both are ReLU outputs, so many values are zero.
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
        for row in case.saved.node_state.chunks_exact_mut(width).filter(|_| config.l2_norm) {
            let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
            row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
        }
        case
    }

    pub fn layout(&self, kind: BlockKind) -> BlockLayout {
        Layout::new(self.config).block(self.layer, kind).clone()
    }

    pub fn norm(&self, kind: BlockKind, block: &BlockActivations<Vec<f32>>, at: usize) -> (f64, f64) {
        let layout = self.layout(kind);
        let c = at % layout.outputs;
        let value = |values: &[f32], c: usize| f64::from(values[c]);
        let scale = value(&block.rstd, c) * value(&self.values[layout.norm_weight.clone()], c);
        let bias = value(&self.values[layout.norm_bias.clone()], c);
        ((value(&block.linear, at) - value(&block.mean, c)) * scale + bias, scale)
    }

    /// Outputs of a block; values close to a ReLU's kink are moved away from it.
    pub fn off_the_kinks(&self, kind: BlockKind, outputs: &[Output]) -> BlockActivations<Vec<f32>> {
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

    pub fn relu(&self, kind: BlockKind, block: &BlockActivations<Vec<f32>>) -> Vec<f32> {
        (0..block.linear.len()).map(|at| self.norm(kind, block, at).0.max(0.0) as f32).collect()
    }

    pub fn weight(&self, kind: BlockKind) -> Vec<f32> {
        self.values[self.layout(kind).weight].to_vec()
    }

    pub fn random(&self, stream: u64, count: usize) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(self.seed * 100 + stream);
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// Largest number of messages per node (in layer 0 per object type), or of edges per predicate type.
    pub fn most_summed(&self) -> f64 {
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

pub fn relu_like(rng: &mut StdRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-0.5f32..0.5).max(0.0)).collect()
}
