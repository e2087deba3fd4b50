//! Random batches and the comparison that every test uses.
#![allow(dead_code)] // each test binary uses its part

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::batch::graph_batch::GraphBatch;
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::model::config::ModelConfig;
use scenerank::model::parameters::{Layout, Storage, TypeVectors, initial_parameters};
use scenerank::model::tensors::NamedTensors;

/// The paper's sizes.
pub const PAPER: ModelConfig =
    ModelConfig { object_types: 2417, predicate_types: 479, layers: 5, state_width: 300, hidden_width: 512 };

/// A small network with widths that are no multiple of anything.
pub const SMALL: ModelConfig =
    ModelConfig { object_types: 23, predicate_types: 9, layers: 3, state_width: 13, hidden_width: 19 };

/// How far two numbers may differ: `|got - want| <= absolute + relative * scale`, where the scale is the largest
/// magnitude wanted.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

/// Panics where a value is not within tolerance (NaN never is), naming the worst place.
#[track_caller]
pub fn assert_close(name: &str, got: &[f32], want: &[f32], tolerance: Tolerance) {
    assert_eq!(got.len(), want.len(), "{name}: length");
    let scale = want.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    let limit = tolerance.absolute + tolerance.relative * scale;
    let differences = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - f64::from(*w)).abs());
    let mut worst = (0, 0.0f64);
    for (at, difference) in differences.enumerate() {
        if !(difference <= worst.1) {
            worst = (at, difference);
        }
    }
    assert!(
        worst.1 <= limit,
        "{name}[{}]: {} where {} is expected: off by {:.3e}, limit {limit:.3e}",
        worst.0,
        got[worst.0],
        want[worst.0],
        worst.1
    );
}

/// A batch's graphs by their sizes, and oddities.
#[derive(Clone, Copy, Debug)]
pub struct BatchShape {
    pub triples: usize,
    /// Objects of a graph, besides its image node: up to this many.
    pub objects: usize,
    /// Relationships of a graph: up to this many.
    pub relationships: usize,
    /// Self loops, duplicate edges, nodes without edges, graphs of one node.
    pub oddities: bool,
}

/// A random batch of triples of graphs.
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
                1 => graph.node_object.insert(0, 0), // shifts every edge's ends and leaves the last node alone
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

/// A batch of the paper's mean sizes: 22 nodes and 36 edges per graph.
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

/// Initial parameters; with `affine`, batch norm's weights, biases and running statistics are moved off their
/// defaults, some weights below zero.
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
