//! How the CUDA backend runs steps, on the emulator: its allocations and waits, and the equivalence of
//! captured and uncaptured training.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::program::small_data;
use crate::support::{BatchShape, SMALL, Tolerance, assert_close, capacity, random_batch, random_parameters};
use scenerank::backend::Backend;
use scenerank::backend::cpu::Cpu;
use scenerank::backend::cuda::Cuda;
use scenerank::backend::cuda::device::Calls;
use scenerank::backend::cuda::launchers;
use scenerank::backend::cuda::launchers::linear::{Format, StoredFormat};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::Reference;
use scenerank::batch::graph_batch::{BatchSize, GraphBatch};
use scenerank::data::{Dataset, Split};
use scenerank::loss::{Loss, LossKind};
use scenerank::model::{LOSS_STEPS, Model, TrainingState};
use scenerank::network::config::ModelConfig;
use scenerank::network::parameters::{Layout, Storage};
use scenerank::network::tensors::NamedTensors;
use scenerank::optimizer::Adam;
use scenerank::optimizer::schedule::{Course, RATE_STEPS, Schedule};
use scenerank::train::checkpoint::{self, LAST};
use scenerank::train::config::TrainConfig;
use scenerank::train::train_on;
use tempfile::TempDir;

const RANKING: Loss = Loss { kind: LossKind::Ranking, temperature: 1.0, margin: 0.5 };

/// A backend on the emulator, and its call counters; reports a skip and returns `None` if the emulator is not
/// built.
fn emulated<T: StoredElement>(format: StoredFormat<T>) -> Option<(Cuda<T>, Arc<Calls>)> {
    emulated_in_order(format, None)
}

/// Like [`emulated`], with the order of threads and blocks shuffled by the seed.
fn emulated_in_order<T: StoredElement>(
    format: StoredFormat<T>,
    seed: Option<u64>,
) -> Option<(Cuda<T>, Arc<Calls>)> {
    match launchers::emulated(seed) {
        Ok(device) => {
            let calls = device.calls();
            Some((Cuda::new(device, format).expect("an empty backend"), calls))
        }
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// Batches of many sizes, one of them without edges, and the capacity for all of them.
fn batches() -> (Vec<GraphBatch>, BatchSize) {
    let shapes = [(2, 3, 0), (5, 12, 9), (1, 1, 0), (4, 20, 30), (5, 2, 1)];
    let batches: Vec<GraphBatch> = (0..)
        .zip(shapes)
        .map(|(seed, (triples, objects, relationships))| {
            random_batch(SMALL, BatchShape { triples, objects, relationships, oddities: true }, seed)
        })
        .collect();
    let capacity = capacity(&batches);
    (batches, capacity)
}

#[test]
fn steps_allocate_nothing_and_read_nothing_back() {
    let (batches, capacity) = batches();
    // The wide network splits its weight gradients into parts, whose memory depends on the number of rows and
    // the format.
    let wide = ModelConfig { layers: 2, state_width: 70, hidden_width: 130, ..SMALL };
    let (fp32, bf16x3) = (StoredFormat::FP32, StoredFormat::BF16X3);
    for (config, format) in [(SMALL, fp32), (wide, fp32), (wide, bf16x3)] {
        let Some((backend, calls)) = emulated(format) else { return };
        let tensors = random_parameters(config, false, 1);
        let mut model = Model::new(backend, config, &tensors, capacity).unwrap();
        let mut state = TrainingState::new(&model).unwrap();
        let planned = calls.allocations.load(Relaxed);
        assert!(planned > 0);
        let mut losses = Vec::new();
        // Smallest batch first: memory that grows later would be noticed.
        let order = [2, 0, 4, 1, 3].iter().cycle().take(LOSS_STEPS);
        for (step, &batch) in (1..).zip(order) {
            let before = calls.downloads.load(Relaxed);
            model.load_batch(&batches[batch]).unwrap();
            model.train_step(&RANKING, &Adam::new(1e-3), &mut state).unwrap();
            assert_eq!(calls.downloads.load(Relaxed), before, "step {step}");
            if step % LOSS_STEPS == 0 {
                losses.extend(model.take_losses(&mut state).unwrap());
                assert_eq!(calls.downloads.load(Relaxed), before + 1, "all losses in one copy");
            }
        }
        assert_eq!(calls.allocations.load(Relaxed), planned, "no step allocates");
        let triples: Vec<usize> = losses.iter().map(|&(_, triples)| triples).collect();
        let want = [1, 2, 5, 5, 4].iter().cycle().take(LOSS_STEPS);
        assert!(triples.iter().eq(want), "{triples:?}");
        assert!(losses.iter().all(|(loss, _)| loss.is_finite()), "{losses:?}");
        let embedding = model.embed(&batches[1]).unwrap();
        assert_eq!(embedding.len(), batches[1].size().graphs * config.state_width);
        assert_eq!(calls.allocations.load(Relaxed), planned, "nor does embedding");
    }
}

#[test]
fn losses_taken_together_are_those_taken_one_by_one() {
    let (batches, capacity) = batches();
    let losses = |together: bool| -> Option<Vec<(f32, usize)>> {
        let mut model =
            Model::new(emulated(StoredFormat::FP32)?.0, SMALL, &random_parameters(SMALL, false, 1), capacity)
                .unwrap();
        let mut state = TrainingState::new(&model).unwrap();
        let mut losses = Vec::new();
        for step in 0..LOSS_STEPS {
            let batch = &batches[step % batches.len()];
            model.load_batch(batch).unwrap();
            model.train_step(&RANKING, &Adam::new(1e-3), &mut state).unwrap();
            match together {
                true => continue,
                false => losses.push((model.mean_loss(&state).unwrap(), batch.similarity_positive.len())),
            }
        }
        Some(if together { model.take_losses(&mut state).unwrap() } else { losses })
    };
    assert_eq!(losses(true), losses(false));
}

/// Trains as the program does.
#[test]
fn training_reads_back_records_and_checkpoints_alone() {
    let folder = TempDir::new().unwrap();
    let data = small_data(folder.path(), 1);
    let dataset = Dataset::open(&data).unwrap();
    let config = TrainConfig {
        layers: 2,
        state_width: 12,
        hidden_width: 16,
        batch_size: 8,
        learning_rate: 1e-3,
        epochs: 2,
        ..Default::default()
    };
    let Some((backend, calls)) = emulated(StoredFormat::FP32) else { return };
    let run = folder.path().join("run");
    let outcome = train_on(backend, &dataset, config, &run, None, &AtomicBool::new(false)).unwrap();
    let steps_of_epoch = dataset.split(Split::Train).len().div_ceil(8) as u64;
    assert_eq!((outcome.epochs, outcome.steps), (2, 2 * steps_of_epoch));

    // Downloads the initial parameters, then those after each epoch: parameters, statistics, and both
    // moments.
    let layout = Layout::new(checkpoint::load(&run.join(LAST)).unwrap().config.model);
    let tensors = layout.tensors();
    let learnt = tensors.iter().filter(|tensor| tensor.storage == Storage::Parameters).count();
    let saved = 3 * (tensors.len() + 2 * learnt) as u64;
    // Validation downloads the embeddings of the split once, and two lists of row sums.
    let validated = 2 * (1 + 2);
    // The positives and the negatives of an epoch's triples.
    let drawn = 2 * 2;
    // The losses of every tenth step, and of an epoch's last step unless it is one of these.
    let every = LOSS_STEPS as u64;
    let ends = (1..=2u64).filter(|epoch| !(epoch * steps_of_epoch).is_multiple_of(every)).count() as u64;
    let records = outcome.steps / every + ends;
    // The norm of the gradient of every tenth step.
    let norms = outcome.steps / every;
    // The parameters whose embeddings are written for TensorBoard's projector, at the end.
    let projected = tensors.len() as u64;
    assert_eq!(calls.downloads.load(Relaxed), saved + validated + drawn + records + norms + projected);
    // No step waits for a batch. Only validation loads batches, with as many graphs as a step has.
    let embedded = 2 * dataset.split(Split::Validation).len().div_ceil(3 * 8) as u64;
    assert_eq!(calls.host_waits.load(Relaxed), embedded);
}

/// How a run executes its steps.
#[derive(Clone, Copy, PartialEq)]
enum Steps {
    /// Captured and replayed.
    Captured,
    /// Captured and replayed, with the parts of the update postponed as far as possible, and threads and
    /// blocks in a shuffled order.
    CapturedLate,
    /// Stage by stage, with grids for exactly the batch.
    ByStage,
}

/// Complete result of a run, as bits: the loss of each step, parameters and statistics, both moments.
#[derive(PartialEq)]
struct Left {
    losses: Vec<u32>,
    tensors: [Vec<u32>; 3],
}

fn bits(tensors: &NamedTensors) -> Vec<u32> {
    tensors.values().flat_map(|tensor| &tensor.values).map(|value| value.to_bits()).collect()
}

/// Runs some steps of a model on alternating batches of many sizes. With `resumed`, it restarts at that step
/// from the saved state.
fn run(
    config: ModelConfig,
    format: Format,
    steps: Steps,
    count: usize,
    resumed: Option<usize>,
) -> Option<Left> {
    let plain = Steered { adam: Adam::new(1e-3), first_step: 0 };
    match format {
        Format::Bf16 => run_as(config, StoredFormat::BF16, steps, &plain, count, resumed),
        Format::Bf16Warpgroup => run_as(config, StoredFormat::BF16_WARPGROUP, steps, &plain, count, resumed),
        Format::Fp32 => run_as(config, StoredFormat::FP32, steps, &plain, count, resumed),
        Format::Bf16x3 => run_as(config, StoredFormat::BF16X3, steps, &plain, count, resumed),
        Format::Bf16x3Warpgroup => {
            run_as(config, StoredFormat::BF16X3_WARPGROUP, steps, &plain, count, resumed)
        }
    }
}

/// Optimizer of a run, and the number of steps that the run claims to have taken before.
#[derive(Clone, Copy)]
struct Steered {
    adam: Adam,
    first_step: u64,
}

fn run_as<T: StoredElement>(
    config: ModelConfig,
    format: StoredFormat<T>,
    steps: Steps,
    of: &Steered,
    count: usize,
    resumed: Option<usize>,
) -> Option<Left> {
    let (batches, capacity) = batches();
    let (loss, adam) = (RANKING, of.adam);
    let backend = || emulated_in_order(format, (steps == Steps::CapturedLate).then_some(3));
    let mut model = Model::new(backend()?.0, config, &random_parameters(config, false, 1), capacity).unwrap();
    let mut state = TrainingState::new(&model).unwrap();
    let (first, second) = model.moments(&state).unwrap();
    state.restore(&mut model, of.first_step, &first, &second).unwrap();
    let mut losses = Vec::new();
    for step in 0..count {
        if resumed == Some(step) {
            let (tensors, (first, second)) = (model.tensors().unwrap(), model.moments(&state).unwrap());
            model = Model::new(backend()?.0, config, &tensors, capacity).unwrap();
            let done = state.steps;
            state = TrainingState::new(&model).unwrap();
            state.restore(&mut model, done, &first, &second).unwrap();
        }
        // 5 batches of different sizes alternate between two slots, so each uses both.
        model.load_batch(&batches[step * 3 % 5]).unwrap();
        match steps {
            Steps::Captured | Steps::CapturedLate => model.train_step(&loss, &adam, &mut state).unwrap(),
            Steps::ByStage => {
                model.forward_backward(&loss, &mut state).unwrap();
                model.update(&adam, &mut state).unwrap();
            }
        }
        losses.push(model.mean_loss(&state).unwrap().to_bits());
        if step % 7 == 0 {
            // Other work on the same buffers between two steps.
            model.embed(&batches[(step + 1) % 5]).unwrap();
        }
    }
    let (first, second) = model.moments(&state).unwrap();
    let tensors = [&model.tensors().unwrap(), &first, &second].map(bits);
    Some(Left { losses, tensors })
}

/// A step captured for the largest batch also serves the others, without changing a bit.
#[test]
fn captured_steps_leave_the_bits_of_steps_stage_by_stage() {
    let wide = ModelConfig { layers: 2, state_width: 70, hidden_width: 130, ..SMALL };
    for (config, format, count) in [
        (SMALL, Format::Fp32, 15),
        (SMALL, Format::Bf16, 15),
        (wide, Format::Fp32, 4),
        (wide, Format::Bf16x3, 4),
    ] {
        let Some(captured) = run(config, format, Steps::Captured, count, None) else { return };
        let by_stage = run(config, format, Steps::ByStage, count, None).expect("as before");
        assert_eq!(captured.losses, by_stage.losses, "{format:?}: losses");
        assert!(captured == by_stage, "{format:?}: parameters and moments");
        let late = run(config, format, Steps::CapturedLate, count.min(5), None).expect("as before");
        let captured = run(config, format, Steps::Captured, count.min(5), None).expect("as before");
        assert!(late == captured, "{format:?}: with late updates");
    }
}

/// In bf16, a resumed run computes a new copy of the weights; an uninterrupted run has the copy that Adam
/// updated.
#[test]
fn captured_steps_that_are_resumed_leave_the_same_bits() {
    for format in [Format::Fp32, Format::Bf16] {
        let Some(whole) = run(SMALL, format, Steps::Captured, 17, None) else { return };
        // Within a round of the loss rows, and at its end.
        for at in [3, 10, 14] {
            let resumed = run(SMALL, format, Steps::Captured, 17, Some(at)).expect("as before");
            assert!(whole == resumed, "{format:?}, resumed after {at} steps");
        }
    }
}

/// Clipping, decay and learning rates that differ between steps, across the end of the loaded rates: captured steps leave
/// the bits of steps stage by stage, and so do steps that are resumed.
#[test]
fn captured_steps_are_steered_like_steps_stage_by_stage() {
    let schedule = Schedule { course: Course::Cosine, warmup: 1022, steps: 1060, last: 1e-5 };
    let first_step = RATE_STEPS as u64 - 8;
    for clip_norm in [None, Some(0.05)] {
        let adam = Adam { weight_decay: 0.1, clip_norm, schedule, ..Adam::new(1e-2) };
        let of = Steered { adam, first_step };
        let run = |steps, resumed| run_as(SMALL, StoredFormat::BF16, steps, &of, 14, resumed);
        let Some(captured) = run(Steps::Captured, None) else { return };
        assert!(captured == run(Steps::ByStage, None).unwrap(), "{clip_norm:?}: stage by stage");
        assert!(captured == run(Steps::CapturedLate, None).unwrap(), "{clip_norm:?}: late");
        assert!(captured == run(Steps::Captured, Some(11)).unwrap(), "{clip_norm:?}: resumed");
        let plain = Steered { adam: Adam::new(1e-2), first_step };
        let plain = run_as(SMALL, StoredFormat::BF16, Steps::Captured, &plain, 14, None).unwrap();
        assert!(captured != plain, "{clip_norm:?}: the optimizer is not steered");
    }
}

/// The parameters with which a step was captured belong to the step.
#[test]
fn a_step_with_another_loss_or_rate_is_another() {
    let (batches, capacity) = batches();
    let run = |captured: bool| -> Option<Vec<u32>> {
        let mut model =
            Model::new(emulated(StoredFormat::FP32)?.0, SMALL, &random_parameters(SMALL, false, 1), capacity)
                .unwrap();
        let mut state = TrainingState::new(&model).unwrap();
        let other = Loss { kind: LossKind::InfoNce, ..RANKING };
        for (step, (loss, rate)) in
            [(RANKING, 1e-3), (RANKING, 1e-3), (RANKING, 1e-3), (other, 1e-3), (other, 1e-2), (RANKING, 1e-3)]
                .into_iter()
                .enumerate()
        {
            model.load_batch(&batches[step % 5]).unwrap();
            match captured {
                true => model.train_step(&loss, &Adam::new(rate), &mut state).unwrap(),
                false => {
                    model.forward_backward(&loss, &mut state).unwrap();
                    model.update(&Adam::new(rate), &mut state).unwrap();
                }
            }
        }
        Some(bits(&model.tensors().unwrap()))
    };
    assert_eq!(run(true), run(false));
}

#[test]
#[should_panic(expected = "a training state of another model")]
fn a_state_trains_its_own_model_alone() {
    let (batches, capacity) = batches();
    let tensors = random_parameters(SMALL, false, 1);
    let mut models = [0; 2].map(|_| Model::new(Cpu::new(), SMALL, &tensors, capacity).unwrap());
    let mut state = TrainingState::new(&models[0]).unwrap();
    models[1].load_batch(&batches[0]).unwrap();
    let _ = models[1].train_step(&RANKING, &Adam::new(1e-3), &mut state);
}

/// Losses that are not taken are overwritten by later ones.
#[test]
fn the_last_losses_are_kept() {
    let (batches, capacity) = batches();
    let mut model = Model::new(Cpu::new(), SMALL, &random_parameters(SMALL, false, 1), capacity).unwrap();
    let mut state = TrainingState::new(&model).unwrap();
    let mut losses = Vec::new();
    for step in 0..2 * LOSS_STEPS + 3 {
        let batch = &batches[step % 5];
        model.load_batch(batch).unwrap();
        model.train_step(&RANKING, &Adam::new(1e-3), &mut state).unwrap();
        losses.push((model.mean_loss(&state).unwrap(), batch.similarity_positive.len()));
    }
    assert_eq!(model.take_losses(&mut state).unwrap(), losses[LOSS_STEPS + 3..]);
    assert_eq!(model.take_losses(&mut state).unwrap(), []);
}

/// Loss of each step of a small network that cycles through the same four batches.
fn losses<B: Backend>(backend: B, steps: usize) -> Vec<f32> {
    let config = ModelConfig { layers: 2, state_width: 12, hidden_width: 16, ..SMALL };
    let shape = BatchShape { triples: 6, objects: 9, relationships: 9, oddities: false };
    let batches: Vec<GraphBatch> = (0..4).map(|seed| random_batch(config, shape, seed)).collect();
    let capacity = capacity(&batches);
    let mut model = Model::new(backend, config, &random_parameters(config, false, 5), capacity).unwrap();
    let mut state = TrainingState::new(&model).unwrap();
    (0..steps)
        .map(|step| {
            model.load_batch(&batches[step % batches.len()]).unwrap();
            model.train_step(&RANKING, &Adam::new(1e-4), &mut state).unwrap();
            model.mean_loss(&state).unwrap()
        })
        .collect()
}

/// Single precision gradually departs from double precision. Roundings add up; Adam divides by the root of its second
/// moment, which turns any gradient into a step of full size; and a ReLU next to zero that rounds to the other side
/// changes all gradients below it. Differences were observed over 240 of these steps, for the CPU backend, the
/// reference in single precision and the emulated kernels. Each differed by 3e-7 in the first 50 steps, and by at most
/// 1.5e-4 later. All three differ by a similar amount, because the data determines which ReLUs are next to zero. The
/// limits allow about seven times that, for CPUs that sum in another order; training itself changes the loss by 4e-2.
#[test]
fn hundreds_of_steps_go_as_in_double_precision() {
    const STEPS: usize = 220;
    let Some((backend, _)) = emulated(StoredFormat::FP32) else { return };
    let (got, cpu) = (losses(backend, STEPS), losses(Cpu::new(), STEPS));
    let want = losses(Reference::<f64>::new(), STEPS);
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let learnt = mean(&want[..4]) - mean(&want[STEPS - 4..]);
    assert!(learnt > 3e-2, "training learns: {want:?}");
    for (first, limit) in [(0, 3e-6), (50, 1e-3)] {
        let steps = first..if first == 0 { 50 } else { STEPS };
        let tolerance = Tolerance::absolute(limit);
        for (name, losses) in [("emulated", &got), ("CPU", &cpu)] {
            let used = assert_close(name, &losses[steps.clone()], &want[steps.clone()], tolerance);
            println!("{name}, steps {steps:?}: {:.1e} off at most", used * limit);
        }
    }
    let again = losses(emulated(StoredFormat::FP32).expect("as before").0, 20);
    assert!(got[..20].iter().map(|loss| loss.to_bits()).eq(again.iter().map(|loss| loss.to_bits())));
}
