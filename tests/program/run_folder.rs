//! Run folders: a damaged checkpoint is never used, the checkpoints of a folder are of one run, and one process at a time trains
//! in a folder.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::program::{SMALL_NETWORK, Workplace, refuse, run, scenerank};
use scenerank::Error;
use scenerank::files::tensor_file::{TensorData, TensorFile, to_safetensors};
use scenerank::network::tensors::Tensor;
use scenerank::train::checkpoint::{self, BEST, Checkpoint, LAST};
use serde_json::Value;

impl Workplace {
    /// Trains one epoch of the small network with this seed, and returns the arguments.
    fn trained(&self, run_name: &str, seed: &str) {
        run(self.small_run(run_name, &["--epochs", "1", "--seed", seed]));
    }

    fn small_run(&self, run_name: &str, more: &[&str]) -> Vec<String> {
        let data = self.data.display().to_string();
        let out = self.text(run_name);
        let start = ["train", &data, "--out", &out, "--device", "cpu"];
        start.iter().chain(&SMALL_NETWORK).chain(more).map(ToString::to_string).collect()
    }

    fn resume(&self, run_name: &str) -> [String; 6] {
        let data = self.data.display().to_string();
        ["train", &data, "--out", &self.text(run_name), "--resume", "--epochs=2"].map(String::from)
    }
}

#[test]
fn the_same_training_writes_the_same_bytes() {
    let work = Workplace::new();
    work.trained("one", "1");
    work.trained("two", "1");
    for name in [BEST, LAST] {
        let [one, two] = ["one", "two"].map(|run| fs::read(work.path(run).join(name)).unwrap());
        assert!(one == two, "{name}");
    }
}

#[test]
fn every_byte_of_a_checkpoint_is_covered() {
    let work = Workplace::new();
    work.trained("run", "1");
    let last = work.path("run").join(LAST);
    let good = fs::read(&last).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let path = work.path("damaged.safetensors");
    let load = |bytes: &[u8], what: String| -> Error {
        fs::write(&path, bytes).unwrap();
        let loaded = catch_unwind(AssertUnwindSafe(|| checkpoint::load(&path)));
        match loaded.unwrap_or_else(|_| panic!("{what}: panicked")) {
            Err(error) => error,
            Ok(_) => panic!("{what}: accepted"),
        }
    };
    // Every byte of the header, and every seventh of the tensors, with a bit that differs from byte to byte.
    let mut bytes = good.clone();
    let mut tried = 0;
    for at in (0..header).chain((header..good.len()).step_by(7)) {
        bytes[at] ^= 1 << (at % 8);
        load(&bytes, format!("bit {} of byte {at}", at % 8));
        bytes[at] = good[at];
        tried += 1;
    }
    for length in (0..good.len()).step_by(97) {
        load(&good[..length], format!("cut to {length} bytes"));
    }
    let longer = [&good[..], b"\0"].concat();
    load(&longer, "one byte longer".into());
    assert!(tried > 3000, "{tried}");

    // The program reports a flipped bit of a weight in one line.
    bytes[header + 1003] ^= 0x40;
    fs::write(&last, &bytes).unwrap();
    let parts = ["last.safetensors: checksum: differs from that of the content; the file is damaged"];
    refuse(work.resume("run"), &parts);
    refuse(["evaluate", &work.text("run"), "--checkpoint", "last"], &parts);
}

/// A file without a checksum, as older versions wrote it.
#[test]
fn a_checkpoint_without_checksum_is_refused() {
    let work = Workplace::new();
    work.trained("run", "1");
    let last = work.path("run").join(LAST);
    let file = TensorFile::read(&last).unwrap();
    let tensors: Vec<_> = file
        .names()
        .into_iter()
        .map(|name| {
            let Tensor { shape, values } = file.tensor(&name).unwrap();
            (name, shape, TensorData::F32(values))
        })
        .collect();
    let metadata = ["config", "progress"].map(|key| {
        let value: Value = file.metadata(key).unwrap();
        (key.to_string(), value.to_string())
    });
    fs::write(&last, to_safetensors(&tensors, metadata)).unwrap();
    refuse(
        work.resume("run"),
        &["last.safetensors: header: has no checksum", "an older version", "train the run again"],
    );
}

#[test]
fn metadata_out_of_range_is_refused() {
    let work = Workplace::new();
    work.trained("run", "1");
    let last = work.path("run").join(LAST);
    let good = fs::read(&last).unwrap();
    let save = |change: &dyn Fn(&mut Checkpoint)| {
        fs::write(&last, &good).unwrap();
        let mut checkpoint = work.last("run");
        checkpoint.config.train.epochs = 5;
        change(&mut checkpoint);
        let Checkpoint { config, progress, tensors, moments } = checkpoint;
        checkpoint::save(&last, &config, &progress, tensors, moments).unwrap();
    };
    type Change<'a> = (&'a dyn Fn(&mut Checkpoint), &'a str);
    let changes: [Change<'_>; 11] = [
        (&|c| c.progress.epoch = 6, "is in epoch 6 of 5"),
        (&|c| (c.progress.epoch, c.progress.position, c.progress.skipped) = (5, 1, 1), "is in epoch 6 of 5"),
        (&|c| c.progress.position = 3, "0 triples and 0 skipped anchors of 3"),
        (&|c| c.progress.triples = u64::MAX, "skipped anchors of 0"),
        (&|c| (c.progress.position, c.progress.skipped) = (1_000_000, 1_000_000), "is at anchor 1000000 of "),
        (&|c| c.progress.steps = u64::MAX, "and step 18446744073709551615"),
        (
            &|c| (c.progress.position, c.progress.triples, c.progress.steps) = (2, 2, 0),
            "2 triples in 0 steps",
        ),
        (&|c| c.progress.best = Some((4, 0.5)), "the best epoch 4"),
        (&|c| c.progress.best = Some((1, 1.5)), "tau 1.5"),
        (&|c| c.config.train.learning_rate = 0.0, "--learning-rate"),
        (&|c| c.config.train.batch_size = 0, "--batch-size"),
    ];
    for (change, problem) in changes {
        save(change);
        refuse(work.resume("run"), &["last.safetensors: metadata ", problem, "use another checkpoint"]);
    }
}

#[test]
fn the_best_checkpoint_is_of_the_run_of_the_last_one() {
    let work = Workplace::new();
    work.trained("run", "1");
    work.trained("other", "2");
    let best = work.path("run").join(BEST);
    let good = fs::read(&best).unwrap();
    fs::copy(work.path("other").join(BEST), &best).unwrap();
    let parts =
        ["best.safetensors: metadata \"config\"", "different runs, with the seeds 2 and 1", "restore"];
    refuse(work.resume("run"), &parts);
    refuse(["evaluate", &work.text("run")], &parts);

    fs::remove_file(&best).unwrap();
    let parts =
        ["best.safetensors: file: is missing, although last.safetensors has finished 1 epochs", "restore it"];
    refuse(work.resume("run"), &parts);

    // The best checkpoint of another epoch of the same run.
    fs::write(&best, &good).unwrap();
    let Checkpoint { config, mut progress, tensors, .. } = checkpoint::load(&best).unwrap();
    (progress.epoch, progress.best) = (0, None);
    checkpoint::save(&best, &config, &progress, tensors, None).unwrap();
    refuse(
        work.resume("run"),
        &["best.safetensors: metadata \"progress\"", "is of epoch 0", "names epoch 1 as the best"],
    );

    fs::write(&best, &good).unwrap();
    run(work.resume("run"));
    run(["evaluate", &work.text("run")]);
}

#[cfg(unix)]
pub mod processes {
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use scenerank::report::run_log::METRICS;

    use super::*;

    /// A process that is ended with the test.
    pub struct Started(pub Child);

    impl Drop for Started {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Starts the program, and waits until `file` exists.
    pub fn start(arguments: &[String], file: &std::path::Path) -> Started {
        let program = Command::new(assert_cmd::cargo::cargo_bin("scenerank"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Started(program);
        let patience = Instant::now();
        while !file.exists() {
            assert!(patience.elapsed() < Duration::from_secs(60), "{} did not appear", file.display());
            std::thread::sleep(Duration::from_millis(1));
        }
        started
    }

    #[test]
    fn one_process_at_a_time_trains_in_a_folder() {
        let work = Workplace::new();
        let long = work.small_run("run", &["--epochs", "100000"]);
        let mut first = start(&long, &work.path("run").join(METRICS));
        let parts = [&work.text("run"), "is in use by another process", "choose another folder"];
        refuse(work.small_run("run", &["--seed", "2"]), &parts);
        refuse(work.resume("run"), &parts);
        assert!(first.0.try_wait().unwrap().is_none(), "the first training ended");
        // The system releases the lock of a killed process.
        first.0.kill().unwrap();
        first.0.wait().unwrap();
        let Checkpoint { config, progress, .. } = work.last("run");
        assert_eq!(config.train.seed, 1);
        let epochs = (progress.epoch + 1).to_string();
        let data = work.data.display().to_string();
        run(["train", &data, "--out", &work.text("run"), "--resume", "--epochs", &epochs]);
    }

    #[test]
    fn one_reproduction_at_a_time_writes_a_report() {
        let work = Workplace::new();
        let data = work.data.display().to_string();
        let out = work.text("report");
        let arguments = [
            &["reproduce", &data, "--out", &out, "--device", "cpu", "--epochs", "100000"],
            &SMALL_NETWORK[..],
        ]
        .concat()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
        let run_folder = "report/runs/ranking-probability-seed1";
        let _first = start(&arguments, &work.path(run_folder).join(LAST));
        refuse(&arguments, &[&out, "is in use by another process"]);
        // Nor does another command train in one of its runs.
        let parts = [run_folder, "is in use by another process"];
        refuse(work.resume(run_folder), &parts);
    }
}

/// Two trainings that start at the same moment: one trains, and the other says that the folder is in use or holds a run.
#[test]
fn of_two_trainings_at_once_one_is_refused() {
    let work = Workplace::new();
    let arguments = |seed| work.small_run("run", &["--epochs", "30", "--seed", seed]);
    let outputs = std::thread::scope(|scope| {
        let handles =
            ["1", "2"].map(|seed| scope.spawn(move || scenerank().args(arguments(seed)).output().unwrap()));
        handles.map(|handle| handle.join().unwrap())
    });
    let mut codes = outputs.each_ref().map(|output| output.status.code());
    codes.sort();
    assert_eq!(codes, [Some(0), Some(2)]);
    let winner = if outputs[0].status.success() { 1 } else { 2 };
    for name in [BEST, LAST] {
        assert_eq!(checkpoint::load(&work.path("run").join(name)).unwrap().config.train.seed, winner);
    }
}
