//! Runs one training step on given inputs and writes all results, to check the backward pass against
//! autograd.
//!
//! The input holds `param.<name>` (docs/model.md, "Parameter names"), `batch.{node_object, node_graph,
//! edge_subject, edge_predicate, edge_object, similarity_positive, similarity_negative}`, and the
//! configuration as JSON in the metadata under `config`. Nodes and edges may come in any order; the image
//! node of a graph has the last object type. The output holds the input and
//!
//! ```text
//! embedding [G, D], loss [1]   of the forward pass with batch statistics
//! grad.<name>                  gradient of the loss with respect to each parameter
//! next.<name>                  parameters after one Adam step from zero moments, and running statistics
//! mask.<block> [rows, C] u8    which ReLUs passed their input; rows in the input's order
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::backend::device::{Arithmetic, BackendTask, Device, Precision};
use crate::batch::graph_batch::GraphBatch;
use crate::data::similarity_matrix::is_similarity;
use crate::error::{Error, Result};
use crate::files::atomic_file::write_atomically;
use crate::files::outputs::{Kind, Output, check_outputs};
use crate::files::tensor_file::{TensorData, TensorFile, to_safetensors};
use crate::loss::{Loss, LossKind};
use crate::model::{Model, TrainingState, read_tensors};
use crate::network::config::{ModelConfig, on};
use crate::network::tensors::NamedTensors;
use crate::optimizer::Adam;
use crate::train::config::TrainConfig;

/// Configuration in the metadata of a step file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StepConfig {
    layers: usize,
    state_dim: usize,
    hidden_dim: usize,
    #[serde(default = "on")]
    batch_norm: bool,
    #[serde(default = "on")]
    l2_norm: bool,
    #[serde(default = "on")]
    image_node_in_mean: bool,
    loss: LossKind,
    temperature: f64,
    margin: f64,
    learning_rate: f64,
    #[serde(default = "first_step")]
    step: u64,
    /// Kind of tolerances that suit the results: `fp32`, also for double precision and bf16x3, or `bf16`.
    #[serde(default = "single_precision")]
    precision: String,
}

fn first_step() -> u64 {
    1
}

fn single_precision() -> String {
    "fp32".to_string()
}

/// Results of one step.
pub struct StepResult {
    /// `[G, D]` embeddings.
    pub embedding: Vec<f32>,
    /// Mean loss over the triples.
    pub loss: f32,
    /// Gradients by parameter name.
    pub gradients: NamedTensors,
    /// Parameters and running statistics after the step.
    pub next: NamedTensors,
    /// ReLU masks `(block, columns, [rows, columns])`, with rows in the batch's order.
    pub masks: Vec<(String, usize, Vec<u8>)>,
}

/// One training step, starting from zero moments.
pub struct StepTask<'a> {
    /// Sizes and switches of the network.
    pub config: ModelConfig,
    /// Parameters and running statistics.
    pub tensors: &'a NamedTensors,
    /// Batch, indexed.
    pub batch: &'a GraphBatch,
    /// Loss to minimise.
    pub loss: Loss,
    /// Constants of the optimizer.
    pub adam: Adam,
}

impl BackendTask for StepTask<'_> {
    type Output = StepResult;

    fn run<B: Backend>(self, backend: B) -> Result<StepResult> {
        let mut model = Model::new(backend, self.config, self.tensors, self.batch.size())?;
        let mut state = TrainingState::new(&model)?;
        model.load_batch(self.batch)?;
        model.forward_backward(&self.loss, &mut state)?;
        // Before the update: the masks must come from the parameters that the forward pass used.
        let masks = model.relu_masks()?;
        model.update(&self.adam, &mut state)?;
        Ok(StepResult {
            embedding: model.embedding()?,
            loss: model.mean_loss(&state)?,
            gradients: model.gradients(&state)?,
            next: model.tensors()?,
            masks,
        })
    }
}

/// Reads `input`, runs its step on `device` and writes `output`.
pub fn run_step_file(input: &Path, output: &Path, device: Device, arithmetic: Arithmetic) -> Result<f32> {
    let written = Output { option: "OUTPUT", path: output, kind: Kind::Safetensors };
    check_outputs(&[written], &[input])?;
    let file = TensorFile::read(input)?;
    let mut step: StepConfig = file.metadata("config")?;
    if step.step != 1 {
        return Err(file.invalid(
            "metadata \"config\"",
            format!("asks for step {}", step.step),
            "only the first step, from zero moments, can be run alone",
        ));
    }
    let config = model_config(&file, &step)?;
    let tensors = read_tensors(&file, "param.", config)?;
    reject_unknown_parameters(&file, &tensors)?;
    let inputs = BatchInputs::read(&file, config)?;
    let (batch, order) = inputs.batch(&file, config)?;
    let task = StepTask {
        config,
        tensors: &tensors,
        batch: &batch,
        loss: Loss { kind: step.loss, temperature: step.temperature, margin: step.margin },
        adam: Adam::new(step.learning_rate),
    };
    let result = device.run(arithmetic, task)?;
    check_finite(&file, &result)?;

    step.precision = match arithmetic.precision {
        Precision::Fp32 | Precision::Fp64 | Precision::Bf16x3 => single_precision(),
        Precision::Bf16 => "bf16".to_string(),
    };

    let mut dump: Vec<(String, Vec<usize>, TensorData)> = Vec::new();
    for (prefix, tensors) in [("param.", tensors), ("grad.", result.gradients), ("next.", result.next)] {
        dump.extend(
            tensors.into_iter().map(|(name, tensor)| {
                (format!("{prefix}{name}"), tensor.shape, TensorData::F32(tensor.values))
            }),
        );
    }
    for (name, columns, mask) in result.masks {
        let rows = mask.len() / columns;
        let order = if name.contains(".edge.") { &order.edges } else { &order.nodes };
        let mask = in_input_order(&mask, columns, order);
        dump.push((format!("mask.{name}"), vec![rows, columns], TensorData::U8(mask)));
    }
    let graphs = batch.size().graphs;
    dump.push(("embedding".into(), vec![graphs, config.state_width], TensorData::F32(result.embedding)));
    dump.push(("loss".into(), vec![1], TensorData::F32(vec![result.loss])));
    dump.extend(inputs.into_tensors());
    let config = serde_json::to_string(&step).expect("plain fields");
    let bytes = to_safetensors(&dump, [("config".to_string(), config)]);
    write_atomically(output, |writer| writer.write_all(&bytes))?;
    Ok(result.loss)
}

/// Configuration of the network: vocabulary sizes from the shapes of the embedding tables, the rest from the
/// metadata.
fn model_config(file: &TensorFile, step: &StepConfig) -> Result<ModelConfig> {
    let rows = |name: &str| -> Result<usize> {
        match file.tensor(name)?.shape.first() {
            Some(&rows) if rows > 0 => Ok(rows),
            _ => Err(file.invalid(format!("tensor {name}"), "has no row", "give a row per type")),
        }
    };
    // The limits of a training, so that nothing is computed that no training could.
    let train = TrainConfig {
        layers: step.layers,
        state_width: step.state_dim,
        hidden_width: step.hidden_dim,
        temperature: step.temperature,
        margin: step.margin,
        learning_rate: step.learning_rate,
        ..Default::default()
    };
    train.check().map_err(|error| match error {
        Error::Argument { name, problem, remedy } => {
            let name = match name.as_str() {
                "--state-width" => "state_dim",
                "--hidden-width" => "hidden_dim",
                other => other.trim_start_matches('-'),
            };
            file.invalid("metadata \"config\"", format!("{} {problem}", name.replace('-', "_")), remedy)
        }
        other => other,
    })?;
    Ok(ModelConfig {
        object_types: rows("param.object_embedding.weight")?,
        predicate_types: rows("param.predicate_embedding.weight")?,
        layers: step.layers,
        state_width: step.state_dim,
        hidden_width: step.hidden_dim,
        batch_norm: step.batch_norm,
        l2_norm: step.l2_norm,
        image_node_in_mean: step.image_node_in_mean,
    })
}

/// Checks that the step has not diverged, as a training does.
fn check_finite(file: &TensorFile, result: &StepResult) -> Result<()> {
    let tensors = [("grad.", &result.gradients), ("next.", &result.next)];
    let named = tensors.into_iter().flat_map(|(prefix, tensors)| {
        tensors.iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor.values.as_slice()))
    });
    let loss = std::slice::from_ref(&result.loss);
    for (name, values) in std::iter::once(("loss".to_string(), loss)).chain(named) {
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            let remedy = "lower the learning rate, raise the temperature, or scale the parameters";
            return Err(file.invalid("result", format!("{name} became {value}"), remedy));
        }
    }
    Ok(())
}

fn reject_unknown_parameters(file: &TensorFile, known: &NamedTensors) -> Result<()> {
    let names = file.names();
    let unknown =
        names.iter().find(|name| name.strip_prefix("param.").is_some_and(|n| !known.contains_key(n)));
    match unknown {
        None => Ok(()),
        Some(name) => Err(file.invalid(
            format!("tensor {name}"),
            "is not a parameter of this model",
            "remove it, or correct the sizes in the configuration",
        )),
    }
}

/// Batch as stored in the file.
struct BatchInputs {
    node_object: Vec<u32>,
    node_graph: Vec<u32>,
    edge_subject: Vec<u32>,
    edge_predicate: Vec<u32>,
    edge_object: Vec<u32>,
    similarity_positive: Vec<f32>,
    similarity_negative: Vec<f32>,
}

/// Input rows in the batch's order.
struct InputOrder {
    nodes: Vec<u32>,
    edges: Vec<u32>,
}

impl BatchInputs {
    fn read(file: &TensorFile, config: ModelConfig) -> Result<Self> {
        let similarity_positive = file.tensor("batch.similarity_positive")?.values;
        let triples = similarity_positive.len();
        let node_object = file.indices("batch.node_object", config.object_types)?;
        let nodes = node_object.len();
        let edge_subject = file.indices("batch.edge_subject", nodes)?;
        let inputs = BatchInputs {
            node_graph: file.indices("batch.node_graph", 3 * triples)?,
            edge_predicate: file.indices("batch.edge_predicate", config.predicate_types)?,
            edge_object: file.indices("batch.edge_object", nodes)?,
            similarity_negative: file.tensor("batch.similarity_negative")?.values,
            similarity_positive,
            node_object,
            edge_subject,
        };
        let edges = inputs.edge_subject.len();
        for (name, len, expected) in [
            ("node_graph", inputs.node_graph.len(), nodes),
            ("edge_predicate", inputs.edge_predicate.len(), edges),
            ("edge_object", inputs.edge_object.len(), edges),
            ("similarity_negative", inputs.similarity_negative.len(), triples),
        ] {
            if len != expected {
                return Err(file.invalid(
                    format!("tensor batch.{name}"),
                    format!("has {len} values, expected {expected}"),
                    "give one value per node, edge or triple",
                ));
            }
        }
        for (name, values) in [
            ("similarity_positive", &inputs.similarity_positive),
            ("similarity_negative", &inputs.similarity_negative),
        ] {
            if let Some(at) = values.iter().position(|&value| !is_similarity(value)) {
                return Err(file.invalid(
                    format!("tensor batch.{name}[{at}]"),
                    format!("is {}, outside 0 to 1", values[at]),
                    "give similarities from 0 to 1",
                ));
            }
        }
        if triples == 0 {
            return Err(file.invalid(
                "tensor batch.similarity_positive",
                "is empty",
                "give at least one triple",
            ));
        }
        Ok(inputs)
    }

    /// Builds the batch with nodes and edges sorted by graph and the image node last; also returns the
    /// resulting order.
    fn batch(&self, file: &TensorFile, config: ModelConfig) -> Result<(GraphBatch, InputOrder)> {
        let graphs = 3 * self.similarity_positive.len();
        let mut nodes: Vec<u32> = (0..self.node_object.len() as u32).collect();
        let is_image = |node: u32| self.node_object[node as usize] as usize + 1 == config.object_types;
        nodes.sort_by_key(|&node| (self.node_graph[node as usize], is_image(node)));
        let edge_graph = |edge: u32| self.node_graph[self.edge_subject[edge as usize] as usize];
        let mut edges: Vec<u32> = (0..self.edge_subject.len() as u32).collect();
        edges.sort_by_key(|&edge| edge_graph(edge));
        if let Some(&edge) = edges
            .iter()
            .find(|&&edge| edge_graph(edge) != self.node_graph[self.edge_object[edge as usize] as usize])
        {
            return Err(file.invalid(
                format!("batch edge {edge}"),
                "joins nodes of two graphs",
                "an edge's subject and object must be of one graph",
            ));
        }
        let mut place = vec![0u32; nodes.len()];
        for (row, &node) in (0u32..).zip(&nodes) {
            place[node as usize] = row;
        }
        let by =
            |order: &[u32], values: &[u32]| order.iter().map(|&i| values[i as usize]).collect::<Vec<_>>();
        let placed = |values: &[u32]| edges.iter().map(|&e| place[values[e as usize] as usize]).collect();
        let node_graph = by(&nodes, &self.node_graph);
        let mut graph_offsets = vec![0u32; graphs + 1];
        node_graph.iter().for_each(|&graph| graph_offsets[graph as usize + 1] += 1);
        if let Some(graph) = graph_offsets[1..].iter().position(|&count| count == 0) {
            return Err(file.invalid(
                format!("batch graph {graph}"),
                "has no node",
                "every graph of a triple needs at least its image node",
            ));
        }
        for graph in 0..graphs {
            graph_offsets[graph + 1] += graph_offsets[graph];
        }
        let mut batch = GraphBatch {
            graph_offsets,
            node_object: by(&nodes, &self.node_object),
            node_graph,
            edge_subject: placed(&self.edge_subject),
            edge_predicate: by(&edges, &self.edge_predicate),
            edge_object: placed(&self.edge_object),
            similarity_positive: self.similarity_positive.clone(),
            similarity_negative: self.similarity_negative.clone(),
            ..Default::default()
        };
        batch.index(config.object_types, config.predicate_types);
        Ok((batch, InputOrder { nodes, edges }))
    }

    fn into_tensors(self) -> Vec<(String, Vec<usize>, TensorData)> {
        let indices =
            |values: Vec<u32>| TensorData::I32(values.into_iter().map(|value| value as i32).collect());
        let tensor = |name: &str, len, data| (format!("batch.{name}"), vec![len], data);
        let (nodes, edges) = (self.node_object.len(), self.edge_subject.len());
        let triples = self.similarity_positive.len();
        vec![
            tensor("node_object", nodes, indices(self.node_object)),
            tensor("node_graph", nodes, indices(self.node_graph)),
            tensor("edge_subject", edges, indices(self.edge_subject)),
            tensor("edge_predicate", edges, indices(self.edge_predicate)),
            tensor("edge_object", edges, indices(self.edge_object)),
            tensor("similarity_positive", triples, TensorData::F32(self.similarity_positive)),
            tensor("similarity_negative", triples, TensorData::F32(self.similarity_negative)),
        ]
    }
}

/// Moves rows of `[rows, columns]` back to the input's order: row i of `values` is the input's row
/// `order[i]`.
fn in_input_order(values: &[u8], columns: usize, order: &[u32]) -> Vec<u8> {
    let mut ordered = vec![0; values.len()];
    for (row, &to) in values.chunks_exact(columns).zip(order) {
        ordered[to as usize * columns..][..columns].copy_from_slice(row);
    }
    ordered
}
