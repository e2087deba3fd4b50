//! Parameters of the model: one flat array, and the position of each tensor in it.
//!
//! The three heads of an edge's hidden state are three tensors in a checkpoint. Here they are one matrix with stacked
//! rows (subject, predicate, object), so that one product computes them. Weights are `[outputs, inputs]`.

use std::ops::Range;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};

use crate::network::config::ModelConfig;
use crate::network::tensors::{NamedTensors, Tensor};

/// Blocks of a layer. A block is linear, batch norm, ReLU (docs/model.md, "Forward").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// `concat(x[subject], e, x[object])`, 3 D -> H.
    EdgeHidden,
    /// The heads side by side, H -> H + D + H.
    EdgeHeads,
    /// Pooled messages, H -> H.
    NodeHidden,
    /// Node output, H -> D.
    NodeOutput,
}

impl BlockKind {
    /// All blocks, in the order of the forward pass.
    pub const ALL: [BlockKind; 4] =
        [BlockKind::EdgeHidden, BlockKind::EdgeHeads, BlockKind::NodeHidden, BlockKind::NodeOutput];
}

/// Positions of a block's tensors.
#[derive(Clone, Debug)]
pub struct BlockLayout {
    /// Number of input columns (fan-in).
    pub inputs: usize,
    /// Number of output columns.
    pub outputs: usize,
    /// `[outputs, inputs]` weight, in the flat parameters.
    pub weight: Range<usize>,
    /// `[outputs]` weight of batch norm, in the flat parameters.
    pub norm_weight: Range<usize>,
    /// `[outputs]` bias of batch norm, in the flat parameters.
    pub norm_bias: Range<usize>,
    /// `[outputs]` running statistics, in the flat running means and variances.
    pub running: Range<usize>,
    /// Whether the columns are normalised. If not, their mean and rstd are 0 and 1 in every mode.
    pub batch_norm: bool,
}

/// Flat array that holds a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Parameters, which are learnt.
    Parameters,
    /// Running means of batch norm.
    RunningMean,
    /// Running variances of batch norm.
    RunningVar,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct TensorLayout {
    /// Name of the tensor, the same in every file.
    pub name: String,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
    /// Flat array that holds it.
    pub storage: Storage,
    /// Position in the flat array.
    pub range: Range<usize>,
}

/// Positions of all tensors.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Configuration from which the layout follows.
    pub config: ModelConfig,
    /// `[V_o, D]` embedding of the object types, in the flat parameters.
    pub object_embedding: Range<usize>,
    /// `[V_p, D]` embedding of the predicate types, in the flat parameters.
    pub predicate_embedding: Range<usize>,
    /// Length of the flat parameters.
    pub parameter_count: usize,
    /// Length of the flat running means, and of the flat running variances.
    pub running_count: usize,
    blocks: Vec<[BlockLayout; 4]>,
}

/// Parameters and running statistics in a backend's memory.
#[derive(Debug)]
pub struct Parameters<T> {
    /// Positions of all tensors.
    pub layout: Layout,
    /// `[parameter_count]` parameters.
    pub values: T,
    /// `[running_count]` running means of batch norm.
    pub running_mean: T,
    /// `[running_count]` running variances of batch norm.
    pub running_var: T,
}

impl Layout {
    /// Layout for these sizes.
    pub fn new(config: ModelConfig) -> Self {
        let (state, hidden) = (config.state_width, config.hidden_width);
        let mut parameters = Cursor(0);
        let mut running = Cursor(0);
        let object_embedding = parameters.take(config.object_types * state);
        let predicate_embedding = parameters.take(config.predicate_types * state);
        let blocks = (0..config.layers)
            .map(|layer| {
                BlockKind::ALL.map(|kind| {
                    let (inputs, outputs) = match kind {
                        BlockKind::EdgeHidden => (3 * state, hidden),
                        BlockKind::EdgeHeads => (hidden, config.heads_width(layer)),
                        BlockKind::NodeHidden => (hidden, hidden),
                        BlockKind::NodeOutput => (hidden, state),
                    };
                    BlockLayout {
                        inputs,
                        outputs,
                        weight: parameters.take(outputs * inputs),
                        norm_weight: parameters.take(outputs),
                        norm_bias: parameters.take(outputs),
                        running: running.take(outputs),
                        batch_norm: config.batch_norm,
                    }
                })
            })
            .collect();
        Layout {
            config,
            object_embedding,
            predicate_embedding,
            parameter_count: parameters.0,
            running_count: running.0,
            blocks,
        }
    }

    /// Positions of one block's tensors.
    pub fn block(&self, layer: usize, kind: BlockKind) -> &BlockLayout {
        &self.blocks[layer][kind as usize]
    }

    /// Parameters that the optimizer can update once the backward of `layer`'s heads is done: from these
    /// heads up to the heads of the next layer, or the end. All their gradients are computed, and nothing
    /// reads these parameters any more. The parameters before the heads of layer 0 come last.
    pub fn part_from_heads(&self, layer: usize) -> Range<usize> {
        let heads = |layer: usize| self.block(layer, BlockKind::EdgeHeads).weight.start;
        let end = if layer + 1 < self.config.layers { heads(layer + 1) } else { self.parameter_count };
        heads(layer)..end
    }

    /// The parameters of `range` in consecutive parts, each with whether weight decay applies to it. Weights of linear
    /// layers and the embedding tables decay; batch norm's weights and biases do not.
    pub fn by_decay(&self, range: Range<usize>) -> Vec<(Range<usize>, bool)> {
        let norms = self.blocks.iter().flatten().map(|block| block.norm_weight.start..block.norm_bias.end);
        let mut parts = Vec::new();
        let mut at = range.start;
        for norm in norms.chain(std::iter::once(range.end..range.end)) {
            let [start, end] = [norm.start, norm.end].map(|place| place.clamp(at, range.end));
            parts.extend([(at..start, true), (start..end, false)]);
            at = end;
        }
        parts.retain(|(part, _)| !part.is_empty());
        parts
    }

    /// Blocks under their names in a checkpoint, with the columns of [`BlockLayout`]: `(name, layer, kind,
    /// columns)`.
    pub fn named_blocks(&self) -> Vec<(String, usize, BlockKind, Range<usize>)> {
        let (state, hidden) = (self.config.state_width, self.config.hidden_width);
        let mut named = Vec::new();
        for layer in 0..self.config.layers {
            let mut add = |name: &str, kind, columns| {
                named.push((format!("layers.{layer}.{name}"), layer, kind, columns));
            };
            let object = self.config.object_head_start(layer);
            add("edge.hidden", BlockKind::EdgeHidden, 0..hidden);
            add("edge.subject", BlockKind::EdgeHeads, 0..hidden);
            if self.config.has_predicate_head(layer) {
                add("edge.predicate", BlockKind::EdgeHeads, hidden..object);
            }
            add("edge.object", BlockKind::EdgeHeads, object..object + hidden);
            add("node.hidden", BlockKind::NodeHidden, 0..hidden);
            add("node.output", BlockKind::NodeOutput, 0..state);
        }
        named
    }

    /// All tensors with their names (docs/model.md, "Parameter names").
    pub fn tensors(&self) -> Vec<TensorLayout> {
        let state = self.config.state_width;
        let tensor =
            |name: String, shape: Vec<usize>, storage, range| TensorLayout { name, shape, storage, range };
        let mut tensors = vec![
            tensor(
                "object_embedding.weight".into(),
                vec![self.config.object_types, state],
                Storage::Parameters,
                self.object_embedding.clone(),
            ),
            tensor(
                "predicate_embedding.weight".into(),
                vec![self.config.predicate_types, state],
                Storage::Parameters,
                self.predicate_embedding.clone(),
            ),
        ];
        for (name, layer, kind, columns) in self.named_blocks() {
            let block = self.block(layer, kind);
            let part = |of: &Range<usize>, width: usize| {
                of.start + columns.start * width..of.start + columns.end * width
            };
            let shape = vec![columns.len()];
            let mut add = |suffix: &str, shape: Vec<usize>, storage, range| {
                tensors.push(tensor(format!("{name}.{suffix}"), shape, storage, range));
            };
            add(
                "linear.weight",
                vec![columns.len(), block.inputs],
                Storage::Parameters,
                part(&block.weight, block.inputs),
            );
            add("norm.weight", shape.clone(), Storage::Parameters, part(&block.norm_weight, 1));
            add("norm.bias", shape.clone(), Storage::Parameters, part(&block.norm_bias, 1));
            add("norm.running_mean", shape.clone(), Storage::RunningMean, part(&block.running, 1));
            add("norm.running_var", shape, Storage::RunningVar, part(&block.running, 1));
        }
        tensors
    }
}

/// Word vectors that initialise an embedding table.
#[derive(Clone, Copy)]
pub struct TypeVectors<'a> {
    /// `[types, width]` mean of the word vectors of each type's name.
    pub vectors: &'a [f32],
    /// Number of columns.
    pub width: usize,
    /// Whether a type's name contains any known word.
    pub known: &'a dyn Fn(usize) -> bool,
}

/// Initial parameters of the model (docs/model.md, "Forward"): Kaiming-normal weights (fan-in, ReLU gain), batch
/// norm at 1 and 0, embedding tables from word vectors. Types without a word vector are drawn from N(0,
/// 1/sqrt(300)).
pub fn initial_parameters(
    config: ModelConfig,
    objects: TypeVectors<'_>,
    predicates: TypeVectors<'_>,
    seed: u64,
) -> NamedTensors {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tensors = NamedTensors::default();
    for layout in Layout::new(config).tensors() {
        let count = layout.range.len();
        let values = if layout.name == "object_embedding.weight" {
            initial_table(objects, config.object_types, config.state_width, &mut rng)
        } else if layout.name == "predicate_embedding.weight" {
            initial_table(predicates, config.predicate_types, config.state_width, &mut rng)
        } else if layout.name.ends_with("linear.weight") {
            let fan_in = layout.shape[1] as f32;
            normal_values((2.0 / fan_in).sqrt(), count, &mut rng)
        } else {
            let one = layout.name.ends_with("norm.weight") || layout.storage == Storage::RunningVar;
            vec![if one { 1.0 } else { 0.0 }; count]
        };
        tensors.insert(layout.name, Tensor { shape: layout.shape, values });
    }
    tensors
}

/// Standard deviation of table entries without a word vector: 1/sqrt(300), the scale of a word vector's
/// entries.
const UNKNOWN_STD: f32 = 0.057_735_03;

fn initial_table(from: TypeVectors<'_>, types: usize, width: usize, rng: &mut StdRng) -> Vec<f32> {
    let mut table = normal_values(UNKNOWN_STD, types * width, rng);
    let shared = width.min(from.width);
    for t in (0..types).filter(|&t| (from.known)(t)) {
        table[t * width..][..shared].copy_from_slice(&from.vectors[t * from.width..][..shared]);
    }
    table
}

fn normal_values(std: f32, count: usize, rng: &mut StdRng) -> Vec<f32> {
    let normal = Normal::new(0.0, std).expect("a finite spread");
    (0..count).map(|_| normal.sample(rng)).collect()
}

/// Allocates consecutive ranges.
struct Cursor(usize);

impl Cursor {
    fn take(&mut self, count: usize) -> Range<usize> {
        let start = self.0;
        self.0 += count;
        start..self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_model_has_8_513_240_parameters() {
        assert_eq!(Layout::new(ModelConfig::PAPER).parameter_count, 8_513_240);
    }

    #[test]
    fn all_but_batch_norms_parameters_decay() {
        let layout = Layout::new(ModelConfig { layers: 2, ..ModelConfig::PAPER });
        let count = layout.parameter_count;
        let whole = layout.by_decay(0..count);
        for tensor in layout.tensors().iter().filter(|tensor| tensor.storage == Storage::Parameters) {
            let decays = whole.iter().find(|(part, _)| part.contains(&tensor.range.start)).unwrap().1;
            assert_eq!(decays, !tensor.name.contains(".norm."), "{}", tensor.name);
        }
        for cut in [1, layout.block(0, BlockKind::EdgeHeads).norm_bias.start, count - 1] {
            let parts = [layout.by_decay(0..cut), layout.by_decay(cut..count)].concat();
            let decaying = |parts: &[(Range<usize>, bool)]| {
                parts.iter().filter(|part| part.1).map(|part| part.0.len()).sum::<usize>()
            };
            assert_eq!(decaying(&parts), decaying(&whole));
            assert!(parts.windows(2).all(|pair| pair[0].0.end == pair[1].0.start));
        }
    }

    #[test]
    fn tensors_tile_the_flat_arrays() {
        let layout = Layout::new(ModelConfig { layers: 3, ..ModelConfig::PAPER });
        for (storage, total) in [
            (Storage::Parameters, layout.parameter_count),
            (Storage::RunningMean, layout.running_count),
            (Storage::RunningVar, layout.running_count),
        ] {
            let mut ranges: Vec<_> =
                layout.tensors().into_iter().filter(|t| t.storage == storage).map(|t| t.range).collect();
            ranges.sort_by_key(|range| range.start);
            let end = ranges.iter().fold(0, |end, range| {
                assert_eq!(range.start, end);
                range.end
            });
            assert_eq!(end, total);
        }
    }
}
