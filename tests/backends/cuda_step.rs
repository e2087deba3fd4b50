//! The whole step of the CUDA backend, on the emulator or a GPU, compared with the reference in double
//! precision.

use crate::gpu::gpu;
use crate::support::{
    BatchShape, SMALL, Tolerance, assert_close, random_batch, random_parameters, relative_error, switched_off,
};
use scenerank::backend::Backend;
use scenerank::backend::cpu::Cpu;
use scenerank::backend::cuda::Cuda;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::device::interpreter::Interpretation;
use scenerank::backend::cuda::launchers;
use scenerank::backend::cuda::launchers::linear::{Format, StoredFormat};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::Reference;
use scenerank::batch::graph_batch::GraphBatch;
use scenerank::loss::{Loss, LossKind};
use scenerank::model::{Model, TrainingState};
use scenerank::network::config::ModelConfig;
use scenerank::network::tensors::NamedTensors;
use scenerank::optimizer::Adam;

pub(crate) const SHAPE: BatchShape = BatchShape { triples: 5, objects: 9, relationships: 12, oddities: true };
pub(crate) const FORMATS: [Format; 3] = [Format::Fp32, Format::Bf16, Format::Bf16x3];
pub(crate) const KINDS: [LossKind; 3] = [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce];

/// A device for kernels whose order of threads and blocks a seed shuffles: the emulator, or what `SCENERANK_TEST_DEVICE` names,
/// `cuda` or `ptx`, which must exist. Reports a skip and returns `None` if the emulator is not built.
pub(crate) fn kernel_device(seed: Option<u64>) -> Option<Device> {
    let asked = "a device, which SCENERANK_TEST_DEVICE asks for";
    let device = match std::env::var("SCENERANK_TEST_DEVICE").as_deref() {
        Ok("cuda") => Ok(gpu()),
        Ok("ptx") => {
            let interpretation = Interpretation::from_environment().expect(asked);
            Ok(launchers::interpreted(Interpretation { seed, ..interpretation }).expect(asked))
        }
        _ => launchers::emulated(seed),
    };
    device.map_err(|error| println!("skipped: {error}")).ok()
}

/// A backend on [`kernel_device`].
fn backend<T: StoredElement>(seed: Option<u64>, format: StoredFormat<T>) -> Option<Cuda<T>> {
    Some(Cuda::new(kernel_device(seed)?, format).expect("an empty backend"))
}

pub(crate) struct Step {
    loss: f32,
    pub(crate) embedding: Vec<f32>,
    gradients: NamedTensors,
    next: NamedTensors,
    masks: Vec<u8>,
}

fn step<B: Backend>(backend: B, batch: &GraphBatch, kind: LossKind) -> Step {
    step_of(SMALL, backend, batch, kind)
}

pub(crate) fn step_of<B: Backend>(
    config: ModelConfig,
    backend: B,
    batch: &GraphBatch,
    kind: LossKind,
) -> Step {
    let tensors = random_parameters(config, true, 3);
    let mut model = Model::new(backend, config, &tensors, batch.size()).expect("a model");
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

/// Runs a step with the kernels of a format, which stores activations in its own type.
fn step_in(config: ModelConfig, format: Format, seed: Option<u64>, batch: &GraphBatch) -> Option<Step> {
    Some(match format {
        Format::Bf16 => step_of(config, backend(seed, StoredFormat::BF16)?, batch, LossKind::Ranking),
        Format::Bf16Warpgroup => {
            step_of(config, backend(seed, StoredFormat::BF16_WARPGROUP)?, batch, LossKind::Ranking)
        }
        Format::Fp32 => step_of(config, backend(seed, StoredFormat::FP32)?, batch, LossKind::Ranking),
        Format::Bf16x3 => step_of(config, backend(seed, StoredFormat::BF16X3)?, batch, LossKind::Ranking),
        Format::Bf16x3Warpgroup => {
            step_of(config, backend(seed, StoredFormat::BF16X3_WARPGROUP)?, batch, LossKind::Ranking)
        }
    })
}

/// Networks with two kinds of edge states. If those are not aligned for copies of 16 bytes, bf16 stores them activated;
/// if they are aligned, they are activated while loading.
pub(crate) const CONFIGS: [ModelConfig; 2] = [SMALL, ModelConfig { hidden_width: 24, ..SMALL }];

#[test]
fn a_step_agrees_with_the_reference() {
    let mut compared = 0;
    for (seed, kind) in (0..6).flat_map(|seed| KINDS.map(|kind| (seed, kind))) {
        let batch = random_batch(SMALL, SHAPE, seed);
        let want = step(Reference::<f64>::new(), &batch, kind);
        let Some(cuda) = backend(Some(seed), StoredFormat::FP32) else { return };
        compared += usize::from(compare(&step(cuda, &batch, kind), &want));
    }
    assert!(compared >= 15, "masks agreed in {compared} of 18 steps only");
}

#[test]
fn a_step_of_a_network_with_something_switched_off_agrees_with_the_reference() {
    for config in switched_off(SMALL) {
        let mut compared = 0;
        for seed in 0..4 {
            let batch = random_batch(config, SHAPE, seed);
            let want = step_of(config, Reference::<f64>::new(), &batch, LossKind::Ranking);
            let Some(cuda) = backend(Some(seed), StoredFormat::FP32) else { return };
            let got = step_of(config, cuda, &batch, LossKind::Ranking);
            compared += usize::from(compare(&got, &want));
            let before = random_parameters(config, true, 3);
            for (name, tensor) in before.iter().filter(|(name, _)| name.contains("running")) {
                assert_eq!(got.next[name] == *tensor, !config.batch_norm, "{name}");
            }
            // Without batch statistics, training and evaluation compute the same function, to the bit.
            let cuda = backend(None, StoredFormat::FP32).expect("a device, as before");
            let mut model = Model::new(cuda, config, &before, batch.size()).expect("a model");
            let evaluated = model.embed(&batch).expect("embeddings");
            assert_eq!(evaluated == got.embedding, !config.batch_norm, "{config:?}, seed {seed}");
        }
        assert!(compared >= 3, "{config:?}: masks agreed in {compared} of 4 steps only");
    }
}

/// Compares the results of a step if all ReLUs decided alike; returns whether they did.
pub(crate) fn compare(got: &Step, want: &Step) -> bool {
    if got.masks != want.masks {
        // A ReLU next to zero decided differently, which changes every gradient below it.
        return false;
    }
    // About a hundred roundings in sequence, each of 6e-8, relative to the largest value of a tensor.
    let tolerance = Tolerance { absolute: 1e-6, relative: 2e-5 };
    assert_close("loss", &[got.loss], &[want.loss], tolerance);
    assert_close("embedding", &got.embedding, &want.embedding, tolerance);
    for (name, wanted) in &want.gradients {
        // The backward of batch norm subtracts sums of similar size; in small batches this removes nearly all
        // of a gradient.
        let tolerance = Tolerance { absolute: 2e-6, relative: 2e-4 };
        assert_close(name, &got.gradients[name].values, &wanted.values, tolerance);
    }
    for (name, wanted) in want.next.iter().filter(|(name, _)| name.contains("running")) {
        assert_close(name, &got.next[name].values, &wanted.values, tolerance);
    }
    true
}

#[test]
fn the_order_of_threads_and_blocks_changes_no_bit() {
    let batch = random_batch(SMALL, SHAPE, 11);
    for (config, format) in CONFIGS.into_iter().flat_map(|config| FORMATS.map(|format| (config, format))) {
        let seeds = [None, Some(1), Some(2)].into_iter();
        let steps: Vec<Step> = seeds.filter_map(|seed| step_in(config, format, seed, &batch)).collect();
        for pair in steps.windows(2) {
            assert_eq!(pair[0].embedding, pair[1].embedding, "{format:?}");
            assert!(pair[0].gradients == pair[1].gradients, "{format:?}: gradients");
            assert!(pair[0].next == pair[1].next, "{format:?}: parameters");
        }
    }
}

/// Compares the embeddings of each format with the reference, as the mean distance over some batches (single
/// batches differ by a third). Each format must be more precise than the next, which detects the use of a
/// wrong format. The oracle's tests check the gradients with the same ReLU decisions.
#[test]
fn formats_reach_the_products_of_a_step() {
    CONFIGS.into_iter().for_each(formats_reach_the_products_of);
}

fn formats_reach_the_products_of(config: ModelConfig) {
    const BATCHES: u64 = 8;
    let length =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let mut distances = [0.0; 3];
    for batch in (0..BATCHES).map(|seed| random_batch(config, SHAPE, seed)) {
        let want = step_of(config, Reference::<f64>::new(), &batch, LossKind::Ranking);
        let formats = [Format::Fp32, Format::Bf16x3, Format::Bf16];
        for (format, distance) in formats.into_iter().zip(&mut distances) {
            let Some(got) = step_in(config, format, None, &batch) else { return };
            let pairs = got.embedding.iter().zip(&want.embedding);
            let off = length(&mut pairs.map(|(got, want)| f64::from(got - want)));
            let of = length(&mut want.embedding.iter().map(|&value| f64::from(value)));
            *distance += off / of / BATCHES as f64;
        }
    }
    println!("distances of fp32, bf16x3, bf16: {distances:?}");
    // Operands have 24 significand bits in fp32 and 16 in bf16x3; in bf16, operands and all stored values
    // have 8.
    for (pair, factor) in distances.windows(2).zip([4.0, 12.0]) {
        assert!(pair[1] > factor * pair[0], "{distances:?}");
    }
    assert!(distances[2] < 2e-2, "{distances:?}");
}

/// The CPU backend rounds to bf16 where the kernels do. In some steps, a sum in another order rounds to the
/// other side, and later values change by a similar relative amount. In the other steps both agree as closely
/// as in single precision. A missing or misplaced rounding would separate them in every step. Matrix instructions of the CPU add
/// in an order of their own, so steps by them are only close.
#[test]
fn bf16_on_the_cpu_rounds_what_the_kernels_round() {
    let (mut alike, mut cases) = (0, 0);
    for (layers, seed) in [1, 2, 3].into_iter().flat_map(|layers| (0..4).map(move |seed| (layers, seed))) {
        let config = ModelConfig { layers, ..SMALL };
        let batch = random_batch(config, SHAPE, seed);
        let Some(cuda) = backend(None, StoredFormat::BF16) else { return };
        let kernels = step_of(config, cuda, &batch, LossKind::Ranking);
        let cpu = step_of(config, Cpu::only_rounding_to_bf16(), &batch, LossKind::Ranking);
        let multiplied = step_of(config, Cpu::rounding_to_bf16(), &batch, LossKind::Ranking);
        let gradients = kernels.gradients.iter();
        let gradient = gradients
            .map(|(name, want)| relative_error(&cpu.gradients[name].values, &want.values))
            .fold(0.0, f64::max);
        let embedding = relative_error(&cpu.embedding, &kernels.embedding);
        println!(
            "{layers} layers, seed {seed}: embeddings {embedding:.1e}, gradients at most {gradient:.1e} apart"
        );
        assert!(embedding < 2e-2, "no further than from the reference");
        assert!(relative_error(&multiplied.embedding, &kernels.embedding) < 2e-2, "by matrix instructions");
        alike += usize::from(embedding < 1e-6 && gradient < 1e-2);
        cases += 1;
    }
    assert!(3 * alike >= cases, "{alike} of {cases} steps alike");
}

#[test]
fn evaluation_agrees_with_the_reference() {
    let tensors = random_parameters(SMALL, true, 7);
    let batch = random_batch(SMALL, SHAPE, 8);
    let Some(cuda) = backend(None, StoredFormat::FP32) else { return };
    let got = Model::new(cuda, SMALL, &tensors, batch.size()).expect("a model").embed(&batch);
    let reference = Reference::<f64>::new();
    let want = Model::new(reference, SMALL, &tensors, batch.size()).expect("a model").embed(&batch);
    let tolerance = Tolerance { absolute: 2e-6, relative: 2e-5 };
    assert_close("embedding", &got.expect("embeddings"), &want.expect("embeddings"), tolerance);
}

/// Steps whose products are all by warpgroups: as close to the reference as those by mma.sync (`formats_reach_the_products_of`).
#[test]
fn steps_by_warpgroups_are_close_to_the_reference() {
    by_warpgroups_is_as_close(Format::Bf16, 2e-2);
    by_warpgroups_is_as_close(Format::Bf16x3, 1e-4);
}

fn by_warpgroups_is_as_close(format: Format, most: f64) {
    const BATCHES: u64 = 8;
    let by_warpgroups = format.by_warpgroups().expect("a format with both families");
    if !kernel_device(None).is_some_and(|device| by_warpgroups.runs_on(&device)) {
        println!("skipped: no device multiplies by warpgroups");
        return;
    }
    let mut distances = [0.0; 2];
    for batch in (0..BATCHES).map(|seed| random_batch(CONFIGS[1], SHAPE, seed)) {
        let want = step_of(CONFIGS[1], Reference::<f64>::new(), &batch, LossKind::Ranking);
        for (format, distance) in [format, by_warpgroups].into_iter().zip(&mut distances) {
            let got = step_in(CONFIGS[1], format, Some(3), &batch).expect("a device, as before");
            let (mut off, mut of) = (0.0, 0.0);
            for (got, want) in got.embedding.iter().zip(&want.embedding) {
                off += f64::from(got - want).powi(2);
                of += f64::from(*want).powi(2);
            }
            *distance += (off / of).sqrt() / BATCHES as f64;
            assert!(got.next.iter().all(|(_, tensor)| tensor.values.iter().all(|value| value.is_finite())));
        }
    }
    println!("distances of {format:?} by mma and by warpgroups: {distances:?}");
    // Both round alike; only the order of sums differs.
    assert!(distances[1] < most && (distances[1] / distances[0] - 1.0).abs() < 0.05, "{distances:?}");
}
