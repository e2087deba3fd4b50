//! Whole steps by the PTX that nvcc made of the kernels: each launch has the emulator's memory, except for rounding, and the
//! step's results are the reference's. In a build without nvcc these tests report a skip.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use scenerank::backend::cuda::Cuda;
use scenerank::backend::cuda::device::interpreter::{self, Interpretation};
use scenerank::backend::cuda::device::{Device, Observer};
use scenerank::backend::cuda::launchers;
use scenerank::backend::cuda::launchers::linear::{Format, StoredFormat};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::Reference;
use scenerank::batch::graph_batch::GraphBatch;
use scenerank::batch::triples::Sampling;
use scenerank::data::Dataset;
use scenerank::loss::LossKind;
use scenerank::train::checkpoint::{self, Checkpoint, LAST};
use scenerank::train::config::TrainConfig;
use scenerank::train::train_on;

use crate::cuda_step::{CONFIGS, FORMATS, KINDS, SHAPE, Step, compare, step_of};
use crate::program::Workplace;
use crate::support::{random_batch, relative_error};
use crate::training_set::config;

/// Devices with the PTX of each architecture, compared with the emulator; none, with a word, where there is no PTX.
fn devices() -> Vec<Device> {
    let architectures = match std::env::var_os(interpreter::FOLDER) {
        Some(_) => vec![None],
        None => interpreter::architectures().into_iter().map(Some).collect(),
    };
    if architectures.is_empty() {
        println!("skipped: this build found no nvcc, which makes the PTX");
    }
    let open = |architecture: Option<&str>| {
        let kernels = interpreter::kernels(architecture).expect("PTX, which was there before");
        let of = Interpretation { kernels, compare: true, seed: None, races: true, timing: None };
        launchers::interpreted(of).expect("an interpreter and an emulator")
    };
    architectures.into_iter().map(open).collect()
}

/// Prints how the launches compare with the emulator's.
fn print(what: &str, observer: &Observer) {
    let comparisons = observer.take().comparisons;
    let launches: u64 = comparisons.values().map(|compared| compared.launches).sum();
    let equal: u64 = comparisons.values().map(|compared| compared.equal).sum();
    let worst = comparisons.values().map(|compared| compared.all.worst).fold(0.0, f64::max);
    println!(
        "{what}: {launches} launches, {equal} with the bits of the emulator, difference at most {worst:.1e}"
    );
    assert!(launches > 0, "{what}: launches");
}

#[test]
fn a_step_of_each_loss_agrees_with_the_reference() {
    let (mut compared, mut steps) = (0, 0);
    for kind in KINDS {
        let batch = random_batch(CONFIGS[0], SHAPE, 1);
        let want = step_of(CONFIGS[0], Reference::<f64>::new(), &batch, kind);
        for device in devices() {
            let observer = device.observer();
            let cuda = Cuda::new(device, StoredFormat::FP32).expect("a backend");
            compared += usize::from(compare(&step_of(CONFIGS[0], cuda, &batch, kind), &want));
            steps += 1;
            print(&format!("{kind:?}"), &observer);
        }
    }
    assert!(3 * compared >= 2 * steps, "masks agreed in {compared} of {steps} steps only");
}

/// A step of the second network.
fn step_on<T: StoredElement>(format: StoredFormat<T>, device: Device, batch: &GraphBatch) -> Step {
    let cuda = Cuda::new(device, format).expect("a backend");
    step_of(CONFIGS[1], cuda, batch, LossKind::Ranking)
}

#[test]
fn a_step_of_each_format_is_close_to_the_reference() {
    let config = CONFIGS[1];
    let batch = random_batch(config, SHAPE, 2);
    let want = step_of(config, Reference::<f64>::new(), &batch, LossKind::Ranking);
    for format in FORMATS {
        for device in devices() {
            let observer = device.observer();
            let got = match format {
                Format::Bf16 => step_on(StoredFormat::BF16, device, &batch),
                Format::Bf16Warpgroup => step_on(StoredFormat::BF16_WARPGROUP, device, &batch),
                Format::Fp32 => step_on(StoredFormat::FP32, device, &batch),
                Format::Bf16x3 => step_on(StoredFormat::BF16X3, device, &batch),
                Format::Bf16x3Warpgroup => step_on(StoredFormat::BF16X3_WARPGROUP, device, &batch),
            };
            let distance = relative_error(&got.embedding, &want.embedding);
            let most = if format == Format::Bf16 { 2e-2 } else { 1e-4 };
            assert!(distance < most, "{format:?}: embeddings {distance:.1e} apart");
            print(&format!("{format:?}"), &observer);
        }
    }
}

/// Trains as the program does.
fn trained(work: &Workplace, config: &TrainConfig, device: Device, run: &Path) -> Checkpoint {
    let dataset = Dataset::open(&work.data).unwrap();
    let backend = Cuda::new(device, StoredFormat::FP32).expect("a backend");
    train_on(backend, &dataset, config.clone(), run, None, &AtomicBool::new(false)).unwrap();
    checkpoint::load(&run.join(LAST)).unwrap()
}

/// Captured steps with the training set on the device: it draws triples and assembles batches there.
#[test]
fn training_agrees_with_the_emulator() {
    let devices = devices();
    if devices.is_empty() {
        return;
    }
    let work = Workplace::new();
    let config = config(Sampling::Probability, 64, 1);
    let emulated = launchers::emulated(None).expect("an emulator");
    let want = trained(&work, &config, emulated, &work.path("emulated"));
    for device in devices {
        let observer = device.observer();
        let got = trained(&work, &config, device, &work.path("ptx"));
        print("training", &observer);
        for (name, want) in &want.tensors {
            let distance = relative_error(&got.tensors[name].values, &want.values);
            // Roundings of a few steps, of which Adam takes the sign where gradients are small.
            assert!(distance < 1e-2, "{name}: {distance:.1e} apart");
        }
        std::fs::remove_dir_all(work.path("ptx")).unwrap();
    }
}
