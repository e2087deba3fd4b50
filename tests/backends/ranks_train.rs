//! Trainings shared by several ranks, which are threads here.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::cuda_step::kernel_device;
use crate::program::Workplace;
use crate::ranks_of_threads::{all_of, together};
use crate::support::relative_error;
use crate::training_set::{config, odd_vectors};
use scenerank::backend::device::{Device, Precision};
use scenerank::batch::triples::Sampling;
use scenerank::data::Dataset;
use scenerank::network::tensors::NamedTensors;
use scenerank::ranks::Ranks;
use scenerank::report::run_log::{METRICS, Record, read_records};
use scenerank::train::checkpoint::{self, LAST};
use scenerank::train::config::TrainConfig;
use scenerank::train::{Control, TrainOutcome, train_on_ranks};
use scenerank::{Error, Result};

/// Trains as one of the ranks, from the last checkpoint of `run` if there is one.
fn train_as(
    ranks: Ranks,
    work: &Workplace,
    run: &Path,
    config: &TrainConfig,
    stop: bool,
) -> Result<TrainOutcome> {
    let dataset = Dataset::open(&work.data).unwrap();
    let last = run.join(LAST);
    let resume = last.exists().then(|| checkpoint::load(&last).unwrap());
    let stop = AtomicBool::new(stop);
    train_on_ranks(&dataset, config.clone(), run, resume, Control { stop: &stop, ranks })
}

/// Trains by so many ranks to the end, in a folder with this name.
fn train_by(count: usize, work: &Workplace, name: &str, config: &TrainConfig) -> Left {
    let run = work.path(name);
    let outcomes = all_of(count, |ranks| train_as(ranks, work, &run, config, false).unwrap());
    assert!(outcomes.iter().all(|outcome| outcome == &outcomes[0]), "{name}: {outcomes:?}");
    Left::read(&run, outcomes[0].clone())
}

/// Result of a training.
struct Left {
    outcome: TrainOutcome,
    /// Loss, validation and number of anchors without a triple of each epoch.
    epochs: Vec<(f64, f64, u64)>,
    tensors: [NamedTensors; 3],
}

impl Left {
    fn read(run: &Path, outcome: TrainOutcome) -> Self {
        let records = read_records(&run.join(METRICS)).unwrap();
        let epoch = |record: &Record| match *record {
            Record::Epoch { loss, validation_kendall, skipped_anchors, .. } => {
                Some((loss, validation_kendall.unwrap(), skipped_anchors))
            }
            _ => None,
        };
        let last = checkpoint::load(&run.join(LAST)).unwrap();
        let (first, second) = last.moments.unwrap();
        let epochs = records.iter().filter_map(epoch).collect();
        Left { outcome, epochs, tensors: [last.tensors, first, second] }
    }

    /// Checks that this is the training of `want`, with an error in norm of at most `limit`.
    #[track_caller]
    fn is_near(&self, case: &str, want: &Left, limit: f64) {
        assert_eq!(self.outcome.steps, want.outcome.steps, "{case}");
        assert_eq!(self.epochs.len(), want.epochs.len(), "{case}");
        for (got, want) in self.epochs.iter().zip(&want.epochs) {
            assert!((got.0 / want.0 - 1.0).abs() <= limit, "{case}: loss {} for {}", got.0, want.0);
            assert!((got.1 - want.1).abs() <= 100.0 * limit, "{case}: tau {} for {}", got.1, want.1);
            assert_eq!(got.2, want.2, "{case}: anchors without a triple");
        }
        for (got, want) in self.tensors.iter().zip(&want.tensors) {
            for (name, want) in want {
                let error = relative_error(&got[name].values, &want.values);
                assert!(error <= limit, "{case}: {name}: relative error {error:.2e}, limit {limit:.0e}");
            }
        }
    }
}

/// In double precision, so that only the order of sums and the rounding of checkpoints distinguish the trainings.
fn exactly(config: TrainConfig) -> TrainConfig {
    TrainConfig { device: Device::Reference, precision: Precision::Fp64, ..config }
}

/// Shares of 8 and 8 or 6, 5 and 5 triples; and batches of 3 of whose anchors every other one has no triple, so that shares and
/// whole batches are empty.
#[test]
fn ranks_train_as_one_rank_does() {
    let work = Workplace::new();
    let odd = TrainConfig { caption_vectors: Some(odd_vectors(&work)), ..config(Sampling::Reject, 3, 2) };
    for (case, config) in [("even", config(Sampling::Probability, 16, 2)), ("odd", odd)] {
        let config = exactly(config);
        let want = train_by(1, &work, &format!("{case} 1"), &config);
        assert!(want.epochs.iter().all(|epoch| (epoch.2 > 40) == (case == "odd")), "{:?}", want.epochs);
        for count in [2, 3] {
            let name = format!("{case} {count}");
            train_by(count, &work, &name, &config).is_near(&name, &want, 1e-5);
        }
    }
}

/// The training set lies on the device, and each rank draws and assembles its own triples there.
#[test]
fn ranks_on_the_emulator_train_as_one_rank_does() {
    if kernel_device(None).is_none() {
        return;
    }
    let work = Workplace::new();
    let odd = TrainConfig { caption_vectors: Some(odd_vectors(&work)), ..config(Sampling::Reject, 3, 1) };
    let config = TrainConfig { device: Device::Emulated, ..odd };
    let want = train_by(1, &work, "1", &config);
    train_by(3, &work, "3", &config).is_near("3 ranks", &want, 0.02);
}

/// One rank is told to stop, and all stop after the same step. Two ranks begin the run, three go on, and one ends it.
#[test]
fn a_run_stops_on_all_ranks_and_resumes_on_another_number() {
    let work = Workplace::new();
    let config = exactly(config(Sampling::Probability, 16, 2));
    let want = train_by(1, &work, "whole", &config);
    let run = work.path("parts");
    for (part, count) in [2, 3].into_iter().enumerate() {
        let stopped = all_of(count, |ranks| {
            let told = ranks.rank() == 1;
            train_as(ranks, &work, &run, &config, told).unwrap()
        });
        for outcome in stopped {
            assert_eq!((outcome.interrupted, outcome.steps), (true, part as u64 + 1));
        }
    }
    // Checkpoints round to single precision.
    train_by(1, &work, "parts", &config).is_near("parts", &want, 1e-4);
}

#[test]
fn a_rank_that_differs_is_refused() {
    let work = Workplace::new();
    let config = TrainConfig { device: Device::Cpu, ..config(Sampling::Probability, 16, 1) };
    let run = work.path("run");
    let results = together(2, |ranks| {
        let seed = config.seed + ranks.rank() as u64;
        train_as(ranks, &work, &run, &TrainConfig { seed, ..config.clone() }, false)
    });
    let [first, second] = <[_; 2]>::try_from(results).unwrap_or_else(|_| panic!("two ranks"));
    assert!(first.is_err(), "rank 0 does not go on alone");
    let error = second.expect("no panic").unwrap_err().to_string();
    assert!(error.starts_with("rank 1 of 2: has another configuration than rank 0; "), "{error}");
    assert!(!run.join(LAST).exists());
}

#[test]
fn a_batch_has_a_triple_for_each_rank() {
    let work = Workplace::new();
    let config = TrainConfig { device: Device::Cpu, ..config(Sampling::Probability, 2, 1) };
    for error in all_of(3, |ranks| train_as(ranks, &work, &work.path("run"), &config, false).unwrap_err()) {
        assert!(matches!(&error, Error::Argument { name, .. } if name == "--batch-size"), "{error}");
        assert!(error.to_string().contains("2 triples cannot be shared by 3 ranks"), "{error}");
    }
}
