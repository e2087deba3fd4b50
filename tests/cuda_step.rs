//! The CUDA backend's whole step on the emulator: against the reference in double precision.

mod support;

use scenerank::backend::Backend;
use scenerank::backend::cuda::Cuda;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::reference::Reference;
use scenerank::batch::graph_batch::GraphBatch;
use scenerank::loss::{Loss, LossKind};
use scenerank::model::tensors::NamedTensors;
use scenerank::model::{Model, TrainingState};
use scenerank::optimizer::Adam;
use support::{BatchShape, SMALL, Tolerance, assert_close, random_batch, random_parameters};

const SHAPE: BatchShape = BatchShape { triples: 5, objects: 9, relationships: 12, oddities: true };
const KINDS: [LossKind; 3] = [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce];

/// A backend on the emulator, threads in the order of this seed; None (said so) where it cannot be built.
fn emulated(seed: Option<u64>) -> Option<Cuda> {
    match Device::emulated(seed) {
        Ok(device) => Some(Cuda::new(device).expect("an empty backend")),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

struct Step {
    loss: f32,
    embedding: Vec<f32>,
    gradients: NamedTensors,
    next: NamedTensors,
    masks: Vec<u8>,
}

fn step<B: Backend>(backend: B, batch: &GraphBatch, kind: LossKind) -> Step {
    let tensors = random_parameters(SMALL, true, 3);
    let mut model = Model::new(backend, SMALL, &tensors, batch.size()).expect("a model");
    let mut state = TrainingState::new(&model).expect("a state");
    let loss = Loss { kind, temperature: 0.8, margin: 0.5 };
    model.load_batch(batch).expect("a batch");
    model.forward_backward(&loss, &mut state).expect("a pass");
    let masks = model.relu_masks().expect("masks").into_iter().flat_map(|(_, _, mask)| mask).collect();
    let gradients = model.gradients(&state).expect("gradients");
    model.update(&Adam::new(1e-3), &mut state).expect("an update");
    Step {
        loss: model.mean_loss(&state).expect("a loss"),
        embedding: model.embedding().expect("embeddings"),
        gradients,
        next: model.tensors().expect("tensors"),
        masks,
    }
}

#[test]
fn a_step_agrees_with_the_reference() {
    for (seed, kind) in (0..6).flat_map(|seed| KINDS.map(|kind| (seed, kind))) {
        let batch = random_batch(SMALL, SHAPE, seed);
        let want = step(Reference::<f64>::new(), &batch, kind);
        let Some(backend) = emulated(Some(seed)) else { return };
        let got = step(backend, &batch, kind);
        if got.masks != want.masks {
            // A ReLU next to zero fell to the other side, which moves every gradient below it.
            continue;
        }
        // Some hundred roundings one after another, each of 6e-8, relative to the largest value of a tensor.
        let tolerance = Tolerance { absolute: 1e-6, relative: 2e-5 };
        assert_close("loss", &[got.loss], &[want.loss], tolerance);
        assert_close("embedding", &got.embedding, &want.embedding, tolerance);
        for (name, wanted) in &want.gradients {
            // Batch norm's backward subtracts sums of like size, in small batches nearly all of a gradient.
            let tolerance = Tolerance { absolute: 2e-6, relative: 2e-4 };
            assert_close(name, &got.gradients[name].values, &wanted.values, tolerance);
        }
        for (name, wanted) in want.next.iter().filter(|(name, _)| name.contains("running")) {
            assert_close(name, &got.next[name].values, &wanted.values, tolerance);
        }
    }
}

#[test]
fn the_order_of_threads_and_blocks_changes_no_bit() {
    let batch = random_batch(SMALL, SHAPE, 11);
    let steps: Vec<Step> = [None, Some(1), Some(2)]
        .into_iter()
        .filter_map(|seed| Some(step(emulated(seed)?, &batch, LossKind::Ranking)))
        .collect();
    for pair in steps.windows(2) {
        assert_eq!(pair[0].embedding, pair[1].embedding);
        assert!(pair[0].gradients == pair[1].gradients, "gradients");
        assert!(pair[0].next == pair[1].next, "parameters");
    }
}

#[test]
fn evaluation_agrees_with_the_reference() {
    let tensors = random_parameters(SMALL, true, 7);
    let batch = random_batch(SMALL, SHAPE, 8);
    let Some(backend) = emulated(None) else { return };
    let got = Model::new(backend, SMALL, &tensors, batch.size()).expect("a model").embed(&batch);
    let reference = Reference::<f64>::new();
    let want = Model::new(reference, SMALL, &tensors, batch.size()).expect("a model").embed(&batch);
    let tolerance = Tolerance { absolute: 2e-6, relative: 2e-5 };
    assert_close("embedding", &got.expect("embeddings"), &want.expect("embeddings"), tolerance);
}
