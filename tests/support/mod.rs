//! Random batches, and the comparison used by every test.
#![allow(dead_code)] // each test binary uses its part

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::backend::Backend;
use scenerank::batch::graph_batch::{BatchSize, GraphBatch};
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::network::config::ModelConfig;
use scenerank::network::parameters::{Layout, Parameters, Storage, TypeVectors, initial_parameters};
use scenerank::network::tensors::NamedTensors;

/// Sizes of the paper.
pub const PAPER: ModelConfig = ModelConfig::PAPER;

/// A small network with widths that are not multiples of anything.
pub const SMALL: ModelConfig = ModelConfig {
    object_types: 23,
    predicate_types: 9,
    layers: 3,
    state_width: 13,
    hidden_width: 19,
    ..PAPER
};

/// The network with each of the paper's switches off, then with all of them off.
pub fn switched_off(config: ModelConfig) -> [ModelConfig; 4] {
    [
        ModelConfig { batch_norm: false, ..config },
        ModelConfig { l2_norm: false, ..config },
        ModelConfig { image_node_in_mean: false, ..config },
        ModelConfig { batch_norm: false, l2_norm: false, image_node_in_mean: false, ..config },
    ]
}

/// Distance from 1 to the next number in single precision: twice the largest error of one rounding.
pub const EPS: f64 = f32::EPSILON as f64;

/// Allowed difference of two numbers: `|got - want| <= absolute + relative * scale`, where the scale is the
/// largest expected magnitude.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

impl Tolerance {
    pub fn absolute(absolute: f64) -> Self {
        Tolerance { absolute, relative: 0.0 }
    }

    pub fn relative(relative: f64) -> Self {
        Tolerance { absolute: 0.0, relative }
    }
}

/// Panics if a value is not within the tolerance (NaN never is), naming the worst index. Returns the used
/// part of the tolerance.
#[track_caller]
pub fn assert_close<T: Copy + Into<f64>>(name: &str, got: &[T], want: &[T], tolerance: Tolerance) -> f64 {
    assert_eq!(got.len(), want.len(), "{name}: length");
    let scale = want.iter().fold(0.0f64, |m, &v| m.max(v.into().abs()));
    let limit = tolerance.absolute + tolerance.relative * scale;
    let mut worst = (0, 0.0f64);
    for (at, (&g, &w)) in got.iter().zip(want).enumerate() {
        let difference = (g.into() - w.into()).abs();
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        if difference > worst.1 {
            worst = (at, difference);
        }
    }
    let (at, difference) = worst;
    if difference == 0.0 {
        return 0.0;
    }
    let used = difference / limit;
    assert!(
        used <= 1.0,
        "{name}[{at}] of {}: {} where {} is expected: off by {difference:.3e}, {used:.3} of the limit {limit:.3e}",
        got.len(),
        got[at].into(),
        want[at].into(),
    );
    used
}

/// Largest magnitude; 0 if there are no values.
pub fn largest<T: Copy + Into<f64>>(values: &[T]) -> f64 {
    values.iter().fold(0.0, |m, &v| m.max(v.into().abs()))
}

/// `|got - want| / |want|` in Euclidean norms; infinite if a value is not finite, 0 if there is no
/// difference.
pub fn relative_error<T: Copy + Into<f64>>(got: &[T], want: &[T]) -> f64 {
    assert_eq!(got.len(), want.len(), "length");
    let squares = |terms: &mut dyn Iterator<Item = f64>| terms.map(|v| v * v).sum::<f64>();
    let difference = squares(&mut got.iter().zip(want).map(|(&g, &w)| g.into() - w.into())).sqrt();
    match difference {
        0.0 => 0.0,
        d if d.is_finite() => d / squares(&mut want.iter().map(|&w| w.into())).sqrt(),
        _ => f64::INFINITY,
    }
}

/// Largest used part of each quantity's tolerance, and where. Printed at the end, so that a run with
/// `--nocapture` shows how tight the tolerances are.
#[derive(Default)]
pub struct Margins(BTreeMap<String, (f64, String)>);

impl Margins {
    /// [`assert_close`] for one quantity in one case, recorded.
    #[track_caller]
    pub fn assert_close<T: Copy + Into<f64>>(
        &mut self,
        quantity: &str,
        case: &str,
        got: &[T],
        want: &[T],
        tolerance: Tolerance,
    ) {
        let used = assert_close(&format!("{case}: {quantity}"), got, want, tolerance);
        self.record(quantity, case, used);
    }

    /// [`relative_error`] of one quantity in one case, which must not exceed `limit`, recorded.
    #[track_caller]
    pub fn assert_norm_close<T: Copy + Into<f64>>(
        &mut self,
        quantity: &str,
        case: &str,
        got: &[T],
        want: &[T],
        limit: f64,
    ) {
        let error = relative_error(got, want);
        assert!(error <= limit, "{case}: {quantity}: relative error {error:.3e}, limit {limit:.1e}");
        self.record(quantity, case, error / limit);
    }

    fn record(&mut self, quantity: &str, case: &str, used: f64) {
        let worst = self.0.entry(quantity.to_string()).or_default();
        if worst.1.is_empty() || used > worst.0 {
            *worst = (used, case.to_string());
        }
    }
}

impl Drop for Margins {
    fn drop(&mut self) {
        for (quantity, (used, case)) in &self.0 {
            println!("{used:6.3} of the tolerance of {quantity} used ({case})");
        }
    }
}

/// Sizes of a batch's graphs, and oddities.
#[derive(Clone, Copy, Debug)]
pub struct BatchShape {
    pub triples: usize,
    /// Largest number of objects of a graph, without its image node.
    pub objects: usize,
    /// Largest number of relationships of a graph.
    pub relationships: usize,
    /// Whether there are self loops, duplicate edges, nodes without edges, and graphs of one node.
    pub oddities: bool,
}

/// Random batch of triples of graphs.
pub fn random_batch(config: ModelConfig, shape: BatchShape, seed: u64) -> GraphBatch {
    let mut rng = StdRng::seed_from_u64(seed);
    let (image, in_image) = (config.object_types as u32 - 1, config.predicate_types as u32 - 1);
    let mut graphs = Vec::new();
    for index in 0..3 * shape.triples {
        let objects = rng.random_range(shape.objects.div_ceil(2)..=shape.objects);
        let types: Vec<u32> = (0..objects).map(|_| rng.random_range(0..image)).collect();
        let relationships: Vec<_> = (0..rng.random_range(shape.relationships / 2..=shape.relationships))
            .map(|_| {
                let (subject, object) = (rng.random_range(0..objects), rng.random_range(0..objects));
                (subject as u32, rng.random_range(0..in_image), object as u32)
            })
            .collect();
        let mut graph = SceneGraphBuf::augmented(&types, &relationships, image, in_image);
        if shape.oddities {
            match index % 5 {
                0 => {
                    let last = graph.edge_subject.len() - 1;
                    let (s, p, o) =
                        (graph.edge_subject[last], graph.edge_predicate[last], graph.edge_object[last]);
                    graph.push_edge(s, p, o);
                    graph.push_edge(s, 0, s);
                    graph.push_edge(s, 0, s);
                }
                1 => graph.node_object.insert(0, 0), // shifts every edge's ends and isolates the last node
                2 => graph = SceneGraphBuf::augmented(&[], &[], image, in_image),
                _ => {}
            }
        }
        graphs.push(graph);
    }
    let views = graphs.iter().map(SceneGraphBuf::view);
    let mut batch = GraphBatch::of_graphs(views, config.object_types, config.predicate_types);
    batch.similarity_positive = (0..shape.triples).map(|_| rng.random_range(0.5..1.0)).collect();
    batch.similarity_negative = (0..shape.triples).map(|_| rng.random_range(0.2..0.8)).collect();
    batch
}

/// Batch of one triple (or of one graph without triples if `nodes < 3`) with exactly these numbers of nodes
/// and edges. Ends are random, so small graphs have self loops, duplicates and parallel edges, and graphs
/// with few edges have isolated nodes. The last graph has one node.
pub fn sized_batch(config: ModelConfig, nodes: usize, edges: usize, seed: u64) -> GraphBatch {
    let mut rng = StdRng::seed_from_u64(seed);
    let sizes = if nodes < 3 { vec![nodes] } else { vec![nodes / 2, nodes - nodes / 2 - 1, 1] };
    let mut left = edges;
    let last_with_edges = sizes.len().min(2) - 1;
    let graphs: Vec<SceneGraphBuf> = sizes
        .iter()
        .enumerate()
        .map(|(index, &size)| {
            let objects = (0..size).map(|_| rng.random_range(0..config.object_types as u32)).collect();
            let mut graph = SceneGraphBuf { node_object: objects, ..Default::default() };
            let count = match index.cmp(&last_with_edges) {
                std::cmp::Ordering::Less => edges / 2,
                std::cmp::Ordering::Equal => left,
                std::cmp::Ordering::Greater => 0,
            };
            left -= count;
            for _ in 0..count {
                let mut end = || rng.random_range(0..size as u32);
                let (subject, object) = (end(), end());
                graph.push_edge(subject, rng.random_range(0..config.predicate_types as u32), object);
            }
            graph
        })
        .collect();
    let views = graphs.iter().map(SceneGraphBuf::view);
    let mut batch = GraphBatch::of_graphs(views, config.object_types, config.predicate_types);
    batch.similarity_positive = vec![0.9; sizes.len() / 3];
    batch.similarity_negative = vec![0.4; sizes.len() / 3];
    batch
}

/// Batch with the paper's mean sizes: 22 nodes and 36 edges per graph.
pub fn paper_batch(triples: usize) -> GraphBatch {
    let mut rng = StdRng::seed_from_u64(7);
    let graphs: Vec<SceneGraphBuf> = (0..3 * triples)
        .map(|_| {
            let objects: Vec<u32> =
                (0..21).map(|_| (2416f64.powf(rng.random::<f64>()) as u32).min(2415)).collect();
            let relationships: Vec<_> = (0..15)
                .map(|_| {
                    (
                        rng.random_range(0..21),
                        478f64.powf(rng.random::<f64>()) as u32 - 1,
                        rng.random_range(0..21),
                    )
                })
                .collect();
            SceneGraphBuf::augmented(&objects, &relationships, 2416, 478)
        })
        .collect();
    let mut batch = GraphBatch::of_graphs(graphs.iter().map(SceneGraphBuf::view), 2417, 479);
    batch.similarity_positive = vec![0.8; triples];
    batch.similarity_negative = vec![0.6; triples];
    batch
}

/// Smallest capacity that fits all of these batches.
pub fn capacity(batches: &[GraphBatch]) -> BatchSize {
    batches.iter().map(GraphBatch::size).fold(BatchSize::default(), |most, size| BatchSize {
        graphs: most.graphs.max(size.graphs),
        nodes: most.nodes.max(size.nodes),
        edges: most.edges.max(size.edges),
    })
}

/// Initial parameters. With `affine`, the weights, biases and running statistics of batch norm differ from
/// their defaults, and some weights are negative.
pub fn random_parameters(config: ModelConfig, affine: bool, seed: u64) -> NamedTensors {
    let unknown = TypeVectors { vectors: &[], width: 0, known: &|_| false };
    let mut tensors = initial_parameters(config, unknown, unknown, seed);
    let mut rng = StdRng::seed_from_u64(seed + 1);
    for layout in Layout::new(config).tensors().into_iter().filter(|_| affine) {
        let (low, high) = match (layout.storage, layout.name.ends_with("norm.weight")) {
            (Storage::RunningVar, _) => (0.2, 2.0),
            (_, true) => (0.5, 1.5),
            _ if layout.name.contains("norm") => (-0.4, 0.4),
            _ => continue,
        };
        for value in &mut tensors.get_mut(&layout.name).expect("every tensor").values {
            *value = rng.random_range(low..high);
            if layout.name.ends_with("norm.weight") && rng.random_bool(0.2) {
                *value = -*value;
            }
        }
    }
    tensors
}

/// Parameters in the memory of a backend.
pub fn parameters_on<B: Backend>(
    backend: &mut B,
    config: ModelConfig,
    tensors: &NamedTensors,
) -> Parameters<B::Buffer> {
    let layout = Layout::new(config);
    let buffer = |len| backend.allocate(len).expect("a buffer");
    let mut parameters = Parameters {
        values: buffer(layout.parameter_count),
        running_mean: buffer(layout.running_count),
        running_var: buffer(layout.running_count),
        layout,
    };
    for tensor in parameters.layout.tensors() {
        let to = match tensor.storage {
            Storage::Parameters => &mut parameters.values,
            Storage::RunningMean => &mut parameters.running_mean,
            Storage::RunningVar => &mut parameters.running_var,
        };
        backend.upload(&tensors[&tensor.name].values, to, tensor.range.start).expect("an upload");
    }
    parameters
}
