//! Steered trainings: validation within epochs, patience, the k best models, and the schedule of the learning rate.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use scenerank::backend::cuda::launchers;
use scenerank::backend::device::Device;
use scenerank::data::Dataset;
use scenerank::optimizer::schedule::Course;
use scenerank::report::run_log::{METRICS, Record, read_records};
use scenerank::train::checkpoint::{self, BEST, Checkpoint, LAST, TrainProgress, Validated};
use scenerank::train::config::TrainConfig;
use scenerank::train::{TrainOutcome, train};

use crate::program::Workplace;

/// A small network with everything that steers a training.
fn steered() -> TrainConfig {
    TrainConfig {
        layers: 2,
        state_width: 12,
        hidden_width: 16,
        batch_size: 8,
        learning_rate: 3e-3,
        epochs: 3,
        schedule: Course::Cosine,
        warmup_steps: 5,
        final_learning_rate: 1e-5,
        weight_decay: 0.1,
        clip_norm: 0.05,
        validate_every: 4,
        keep_best: 3,
        ..Default::default()
    }
}

fn train_in(work: &Workplace, run: &str, config: &TrainConfig, resume: bool, stop: bool) -> TrainOutcome {
    let resume = resume.then(|| last(work, run));
    let dataset = Dataset::open(&work.data).unwrap();
    train(&dataset, config.clone(), &work.path(run), resume, &AtomicBool::new(stop)).unwrap()
}

fn last(work: &Workplace, run: &str) -> Checkpoint {
    checkpoint::load(&work.path(run).join(LAST)).unwrap()
}

/// Steps of the kept models, as their files say.
fn step_files(folder: &Path) -> Vec<u64> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let steps = names.filter_map(|name| {
        name.strip_prefix("step-")?.strip_suffix(".safetensors").map(|steps| steps.parse().unwrap())
    });
    let mut steps: Vec<u64> = steps.collect();
    steps.sort_unstable();
    steps
}

/// Results of all validations of a run, in order.
fn validations(work: &Workplace, run: &str) -> Vec<Validated> {
    let records = read_records(&work.path(run).join(METRICS)).unwrap();
    let of = |record: &Record| match *record {
        Record::Validation { step, validation_kendall, .. } => Some((step, validation_kendall)),
        Record::Epoch { step, validation_kendall, .. } => validation_kendall.map(|tau| (step, tau)),
        Record::Step { .. } => None,
    };
    records.iter().filter_map(of).map(|(steps, kendall)| Validated { steps, kendall }).collect()
}

fn assert_same(work: &Workplace, run: &str, other: &str) {
    for file in [LAST, BEST] {
        let [a, b] = [run, other].map(|run| checkpoint::load(&work.path(run).join(file)).unwrap());
        assert_eq!(a.progress, b.progress, "{file} of {run} and {other}");
        assert!(a.tensors == b.tensors, "{file} of {run} and {other}: parameters differ");
        assert!(a.moments == b.moments, "{file} of {run} and {other}: moments differ");
    }
    assert_eq!(validations(work, run), validations(work, other));
}

#[test]
fn a_steered_run_stopped_after_every_step_is_the_run_that_was_not_stopped() {
    let work = Workplace::new();
    let config = steered();
    train_in(&work, "whole", &config, false, false);
    let mut outcome = train_in(&work, "stopped", &config, false, true);
    while outcome.interrupted {
        outcome = train_in(&work, "stopped", &config, true, true);
    }
    assert_same(&work, "whole", "stopped");

    // 13 steps in each epoch: validations after steps 4, 8, 12 and at the end of the epoch; then from step 16.
    let all = validations(&work, "whole");
    let steps: Vec<u64> = all.iter().map(|of| of.steps).collect();
    assert_eq!(steps[..7], [4, 8, 12, 13, 16, 20, 24]);
    // The best three are kept, the earlier one of two that tie.
    let mut best = all.clone();
    best.sort_by(|a, b| b.kendall.total_cmp(&a.kendall));
    best.truncate(3);
    let progress = last(&work, "whole").progress;
    assert_eq!(progress.kept, best);
    let mut kept: Vec<u64> = best.iter().map(|of| of.steps).collect();
    kept.sort_unstable();
    for run in ["whole", "stopped"] {
        assert_eq!(step_files(&work.path(run)), kept);
    }
    let file = work.path("whole").join(checkpoint::step_file(best[0].steps));
    let (first, named) =
        (checkpoint::load(&file).unwrap(), checkpoint::load(&work.path("whole").join(BEST)).unwrap());
    assert!(first.tensors == named.tensors, "the best model under both names");
}

/// What a validation computes does not change the training, also where the device keeps the training set.
#[test]
fn validations_within_an_epoch_leave_the_training_as_it_is() {
    let work = Workplace::new();
    for device in [Device::Cpu, Device::Emulated] {
        if let (Device::Emulated, Err(error)) = (device, launchers::emulated(None)) {
            println!("skipped: {error}");
            continue;
        }
        let config = TrainConfig { epochs: 1, device, keep_best: 1, ..steered() };
        let runs = [("between", 4), ("after", 0)].map(|(run, validate_every)| {
            let run = format!("{run}-{device}");
            let config = TrainConfig { validate_every, ..config.clone() };
            train_in(&work, &run, &config, false, false);
            assert!(step_files(&work.path(&run)).is_empty());
            last(&work, &run)
        });
        assert!(runs[0].tensors == runs[1].tensors && runs[0].moments == runs[1].moments, "{device}");
    }
}

#[test]
fn a_run_without_progress_ends_and_continues_with_more_patience() {
    let work = Workplace::new();
    // Such small steps do not change a single rank.
    let config = TrainConfig {
        learning_rate: 1e-30,
        weight_decay: 0.0,
        batch_norm: false,
        schedule: Course::Constant,
        final_learning_rate: 0.0,
        epochs: 50,
        patience: 3,
        ..steered()
    };
    let outcome = train_in(&work, "run", &config, false, false);
    // The first validation is the best, and three more follow within the first epoch and at its end.
    assert_eq!((outcome.steps, outcome.epochs, outcome.interrupted), (13, 1, false));
    let TrainProgress { validations_since_best, best, .. } = last(&work, "run").progress;
    assert_eq!((validations_since_best, best.unwrap().0), (3, 1));
    // Nothing is left to train.
    assert_eq!(train_in(&work, "run", &config, true, false), outcome);
    let more = TrainConfig { patience: 5, ..config };
    let outcome = train_in(&work, "run", &more, true, false);
    assert_eq!((outcome.steps, outcome.epochs), (20, 1));
}

#[test]
fn the_learning_rate_follows_its_schedule() {
    let work = Workplace::new();
    let config = TrainConfig { validate_every: 0, keep_best: 1, ..steered() };
    train_in(&work, "run", &config, false, false);
    let adam = config.adam(Dataset::open(&work.data).unwrap().split(scenerank::data::Split::Train).len());
    let mut recorded = 0;
    for record in read_records(&work.path("run").join(METRICS)).unwrap() {
        if let Record::Step { step, learning_rate, gradient_norm, .. } = record {
            assert_eq!(learning_rate, Some(adam.rate_at(step)));
            assert!(gradient_norm.unwrap() > 0.0);
            recorded += 1;
        }
    }
    assert_eq!(recorded, 3);
    assert!(adam.rate_at(39) < 0.01 * adam.rate_at(6), "it falls until the last step");
}
