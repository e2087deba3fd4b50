//! Compares every stage of the CPU backend with the reference in `f64`, on the same inputs.
//!
//! Buffers are longer than the batch needs, and hold NaN in every cell that a stage must not access. This
//! detects output cells that are not written, input cells beyond the batch that are read, and cells beyond
//! the batch that are written.
//!
//! Tolerances are rounding bounds of single precision, based on the magnitudes that occur. A sum of n terms
//! counts as `sqrt(n)` roundings of the sum of their magnitudes. The roundings are independent, and a bound
//! with n would hide an error in one term. `--nocapture` prints the used part of each tolerance.

mod case;
mod checks;
mod stages;

use std::ops::Range;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::backend::cpu::Cpu;
use scenerank::backend::pass::{Backward, Forward, Gradient, LossOutputs, Readout, Update};
use scenerank::backend::reference::Reference;
use scenerank::backend::reference::edge_gather::{edge_gather, embedding_lookup};
use scenerank::backend::reference::linear::linear;
use scenerank::backend::{Backend, L2_EPSILON, Memory, Mode};
use scenerank::batch::graph_batch::{BatchSize, GraphBatch};
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::error::Result;
use scenerank::loss::{Loss, LossKind};
use scenerank::model::LOSS_STEPS;
use scenerank::network::activations::{ActivationGradients, Activations, BlockActivations, LayerActivations};
use scenerank::network::config::ModelConfig;
use scenerank::network::parameters::{BlockKind, BlockLayout, Layout, Parameters};
use scenerank::network::tensors::NamedTensors;
use scenerank::optimizer::{Adam, Moments, Part};

use crate::support::{
    BatchShape, EPS, Margins, SMALL, Tolerance, largest, parameters_on, random_batch, random_parameters,
    sized_batch, switched_off,
};

/// Number of values beyond the needs of a batch in every buffer; not a multiple of a row.
const GUARD: usize = 67;

/// Distance of saved values from the ReLU's kink, after normalisation, large enough for single precision.
const KINK: f32 = 0.05;

use case::*;
use checks::*;
use stages::*;

#[test]
fn stages_at_every_number_of_rows() {
    let mut margins = Margins::default();
    // Numbers at the edges of chunks of 16 nodes and 64 rows, and of vectors of 4 to 16 columns.
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
            ..SMALL
        };
        let batch = random_batch(config, shape, seed);
        check(&Case::new("random", config, rng.random_range(0..3), batch, seed), &mut margins);
    }
}

/// Networks whose rows are not normalised, graphs with only an image node, and graphs whose last node is not
/// an image node.
#[test]
fn stages_of_networks_with_something_switched_off() {
    let mut margins = Margins::default();
    for config in switched_off(SMALL) {
        for seed in 0..4 {
            let shape = BatchShape { triples: 2, objects: 9, relationships: 10, oddities: true };
            for layer in 0..config.layers {
                let batch = random_batch(config, shape, seed);
                check(&Case::new("switched off", config, layer, batch, seed), &mut margins);
                let batch = sized_batch(config, 65, 129, seed);
                check(&Case::new("switched off, sized", config, layer, batch, seed), &mut margins);
            }
        }
    }
}

/// Without magnified rounding, the norm of each output must agree within a few units of single precision.
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
    // A star: one node of degree 1000 with some self loops, and 600 nodes of degree 1 or 2.
    let objects: Vec<u32> = (0..600).map(|i| i % image).collect();
    let loops: Vec<(u32, u32, u32)> = (0..200).map(|i| (600, i % in_image, 600)).collect();
    let star = SceneGraphBuf::augmented(&objects, &loops, image, in_image);
    // One edge repeated 40 times, in both directions, and the image node.
    let parallel: Vec<(u32, u32, u32)> = (0..40).map(|i| [(0, 3, 1), (1, 3, 0)][i % 2]).collect();
    let parallel = SceneGraphBuf::augmented(&[5, 5], &parallel, image, in_image);
    let lonely = SceneGraphBuf::augmented(&[], &[], image, in_image);
    // Identical nodes: every column of layer 0 is constant, with variance 0.
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

/// Scratch memory of a larger batch, or of a layer with other widths, must not affect a later stage.
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
    // Gradients of all magnitudes, including zeros and ones with denormal squares.
    let gradients: Vec<f32> = (0..count)
        .map(|i| if i % 7 == 0 { 0.0 } else { rng.random_range(-1.0f32..1.0) * 10f32.powi(-(i as i32 % 25)) })
        .collect();
    let first: Vec<f32> = gradients.iter().map(|g| 0.3 * g).collect();
    let second: Vec<f32> = gradients.iter().map(|g| 0.2 * g * g).collect();
    let settings = Adam::new(0.01);
    for t in [1, 2, 1000] {
        fn step<B: HostBackend>(on: &mut On<B>, adam: &Adam, t: u64, given: [&[f32]; 3]) -> [Vec<f32>; 3] {
            let count = given[0].len();
            let [gradients, first, second] = given.map(|values| on.exactly(values));
            let mut moments = Moments { first, second };
            let mut steps = on.backend.steps(&on.parameters.layout).unwrap();
            on.backend.set_steps(&mut steps, t - 1).unwrap();
            // In parts, as in training.
            for (parameters, ends_step) in [(count / 3..count, false), (0..count / 3, true)] {
                let part = Part { parameters, ends_step };
                let On { backend, parameters, .. } = &mut *on;
                let (gradients, moments, steps) = (&gradients, &mut moments, &mut steps);
                backend.adam_step(Update { adam, parameters, gradients, moments, steps, part }).unwrap();
            }
            [&on.parameters.values, &moments.first, &moments.second]
                .map(|buffer| on.backend.download(buffer, 0..count).unwrap())
        }
        let given = [gradients.as_slice(), &first, &second];
        let got = step(&mut cpu, &settings, t, given);
        let want = step(&mut reference, &settings, t, given);
        let case = format!("step {t}");
        // A step is at most about 0.01 * 3 (square root of the ratio of the moments), with a few roundings;
        // parameters are around 1.
        let tolerance = Tolerance { absolute: 0.0, relative: EPS };
        margins.assert_close("adam: parameters", &case, &got[0], &want[0], tolerance);
        for (got, want) in [(&got[1], &want[1]), (&got[2], &want[2])] {
            for (&got, &want) in got.iter().zip(want) {
                // Compared per value, since magnitudes differ; numbers below 2^-126 have fewer digits.
                let tolerance = Tolerance { absolute: 3e-45, relative: 4.0 * EPS };
                margins.assert_close("adam: moments", &case, &[got], &[want], tolerance);
            }
        }
    }
}
