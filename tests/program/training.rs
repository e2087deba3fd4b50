//! Training runs: interrupted, killed or rejected runs continue or remain unchanged, with identical results.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::AtomicBool;

use crate::program::{SMALL_NETWORK, Workplace, refuse, run, run_json, scenerank, small_data};
use half::f16;
use npyz::WriterBuilder;
use scenerank::data::{Dataset, Split};
use scenerank::files::npy::write_npy;
use scenerank::network::tensors::{NamedTensors, Tensor};
use scenerank::report::run_log::METRICS;
use scenerank::train::checkpoint::{self, BEST, Checkpoint, LAST};
use scenerank::train::config::TrainConfig;
use scenerank::train::{TrainOutcome, train};
use serde_json::Value;

impl Workplace {
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), text).unwrap();
        self.text(name)
    }

    /// Arguments `train DATA --out RUN` with the small network, unless it resumes, followed by `more`.
    fn train_arguments(&self, run: &str, more: &[&str]) -> Vec<String> {
        let mut arguments =
            vec!["train".to_string(), self.data.display().to_string(), "--out".into(), self.text(run)];
        if !more.contains(&"--resume") {
            arguments.extend(SMALL_NETWORK.map(String::from));
            if !more.contains(&"--learning-rate") {
                arguments.extend(["--learning-rate".into(), "1e-3".into()]);
            }
        }
        arguments.extend(more.iter().map(|argument| argument.to_string()));
        arguments
    }

    /// Trains in this process, with the same network.
    fn train_in_process(&self, run: &str, epochs: usize, resume: bool, stop: bool) -> TrainOutcome {
        let config = TrainConfig {
            layers: 2,
            state_width: 12,
            hidden_width: 16,
            batch_size: 8,
            learning_rate: 1e-3,
            epochs,
            ..Default::default()
        };
        let resume = resume.then(|| checkpoint::load(&self.path(run).join(LAST)).unwrap());
        let dataset = Dataset::open(&self.data).unwrap();
        train(&dataset, config, &self.path(run), resume, &AtomicBool::new(stop)).unwrap()
    }

    /// Checks that the checkpoints of both runs have the same bits, and that their records only differ in the
    /// time.
    fn assert_same(&self, run: &str, other: &str) {
        for file in [LAST, BEST] {
            let [a, b] = [run, other].map(|run| checkpoint::load(&self.path(run).join(file)).unwrap());
            assert_eq!(a.config, b.config, "{file} of {run} and {other}");
            assert_eq!(a.progress, b.progress, "{file} of {run} and {other}");
            assert!(bits(&a) == bits(&b), "{file} of {run} and {other}: tensors differ");
        }
        assert_eq!(self.records(run), self.records(other), "{run} and {other}");
    }

    fn records(&self, run: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(run).join(METRICS)).unwrap();
        let record = |line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            record.as_object_mut().unwrap().remove("seconds").unwrap();
            record.as_object_mut().unwrap().remove("graphs_per_second");
            record
        };
        text.lines().map(record).collect()
    }

    fn assert_no_temporary_file(&self, run: &str) {
        let mut names = fs::read_dir(self.path(run)).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.all(|name| !name.to_string_lossy().starts_with(".scenerank")));
    }
}

/// Every tensor of a checkpoint by name, as bits.
fn bits(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<u32>> {
    let named = |prefix: &'static str, tensors: &NamedTensors| -> Vec<(String, Vec<u32>)> {
        let bits = |tensor: &Tensor| tensor.values.iter().map(|value| value.to_bits()).collect();
        tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), bits(tensor))).collect()
    };
    let mut all = named("", &checkpoint.tensors);
    if let Some((first, second)) = &checkpoint.moments {
        all.extend(named("first ", first));
        all.extend(named("second ", second));
    }
    all.into_iter().collect()
}

#[test]
fn a_run_stopped_after_every_step_is_the_run_that_was_not_stopped() {
    let fixture = Workplace::new();
    let whole = fixture.train_in_process("whole", 3, false, false);
    assert_eq!((whole.epochs, whole.interrupted), (3, false));
    assert!(whole.best.is_some());
    assert!(fixture.records("whole").iter().any(|record| record["kind"] == "step"));

    let mut stops = 0;
    let mut outcome = fixture.train_in_process("stopped", 3, false, true);
    while outcome.interrupted {
        stops += 1;
        assert_eq!(outcome.steps, stops);
        outcome = fixture.train_in_process("stopped", 3, true, true);
    }
    assert!(stops > 20, "{stops} stops");
    fixture.assert_same("whole", "stopped");

    // Without more epochs nothing is left to do; with more, the run continues as one run.
    fixture.train_in_process("stopped", 3, true, false);
    fixture.assert_same("whole", "stopped");
    fixture.train_in_process("stopped", 5, true, false);
    fixture.train_in_process("longer", 5, false, false);
    fixture.assert_same("longer", "stopped");
}

#[test]
fn records_after_the_checkpoint_are_dropped() {
    let fixture = Workplace::new();
    let steps = fixture.train_in_process("whole", 2, false, false).steps;
    fixture.train_in_process("killed", 1, false, false);
    // As a killed process leaves it: records of steps that are in no checkpoint, the last one truncated.
    let metrics = fixture.path("killed").join(METRICS);
    let mut text = fs::read_to_string(&metrics).unwrap();
    text += &format!("{{\"kind\":\"step\",\"epoch\":2,\"step\":{steps},\"loss\":9.0,\"seconds\":1.0}}\n");
    text += "{\"kind\":\"epoch\",\"epo";
    fs::write(&metrics, text).unwrap();
    fixture.train_in_process("killed", 2, true, false);
    fixture.assert_same("whole", "killed");

    // Stopped at the last step of an epoch, continued, and killed between the epoch's record and its
    // checkpoint.
    let mut outcome = fixture.train_in_process("between", 2, false, true);
    while outcome.steps < steps {
        outcome = fixture.train_in_process("between", 2, true, true);
    }
    assert_eq!(outcome.epochs, 1, "the second epoch has yet to be validated");
    let last = fixture.path("between").join(LAST);
    let before = fs::read(&last).unwrap();
    fixture.train_in_process("between", 2, true, false);
    fs::write(&last, before).unwrap();
    fixture.train_in_process("between", 2, true, false);
    fixture.assert_same("whole", "between");
}

#[test]
fn the_seed_decides_every_bit_on_any_number_of_threads() {
    let fixture = Workplace::new();
    let train = |name: &str, threads: &str, more: &[&str]| {
        let arguments = fixture.train_arguments(name, &[&["--epochs", "2"], more].concat());
        scenerank().args(arguments).env("RAYON_NUM_THREADS", threads).assert().success();
    };
    train("one", "1", &[]);
    train("two", "2", &[]);
    train("again", "2", &[]);
    train("other", "2", &["--seed", "2"]);
    fixture.assert_same("one", "two");
    fixture.assert_same("two", "again");
    assert!(bits(&fixture.last("one")) != bits(&fixture.last("other")));
}

#[cfg(unix)]
mod signals {
    use std::process::{Child, Command, ExitStatus, Stdio};
    use std::time::{Duration, Instant};

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::program::ctrl_c;

    /// Long enough to be interrupted in the middle.
    const EPOCHS: &str = "40";

    fn event_files(fixture: &Workplace, run: &str) -> usize {
        let Ok(entries) = fs::read_dir(fixture.path(run)) else { return 0 };
        entries
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("tfevents"))
            .count()
    }

    /// Starts or continues a run and waits until it trains, that is until it has created an event file.
    fn start(fixture: &Workplace, run: &str, stderr: Stdio) -> Child {
        let more: &[&str] =
            if fixture.path(run).join(LAST).exists() { &["--resume"] } else { &["--epochs", EPOCHS] };
        let before = event_files(fixture, run);
        let mut child = Command::new(assert_cmd::cargo::cargo_bin("scenerank"))
            .args(fixture.train_arguments(run, more))
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let patience = Instant::now();
        while !(event_files(fixture, run) > before && fixture.path(run).join(LAST).exists()) {
            assert!(patience.elapsed() < Duration::from_secs(60), "training did not begin");
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    fn send(child: &Child, signal: Signal) {
        // It may have ended by itself in the meantime.
        let _ = kill_process(Pid::from_child(child), signal);
    }

    /// Interrupts a run by signals at many positions until it ends by itself; returns all exit statuses.
    fn ends(fixture: &Workplace, run: &str, signal: Signal) -> Vec<ExitStatus> {
        let mut ends = Vec::new();
        for attempt in 0.. {
            let mut child = start(fixture, run, Stdio::null());
            // Positions in the first steps and later, within an epoch and between two.
            if attempt < 8 {
                std::thread::sleep(Duration::from_millis(attempt * 13 % 40));
                send(&child, signal);
            }
            let status = child.wait().unwrap();
            ends.push(status);
            fixture.last(run);
            if status.success() {
                break;
            }
        }
        ends
    }

    #[test]
    fn ctrl_c_saves_and_the_run_continues() {
        let fixture = Workplace::new();
        run(fixture.train_arguments("whole", &["--epochs", EPOCHS]));
        let ends = ends(&fixture, "stopped", ctrl_c());
        let (success, stopped) = ends.split_last().unwrap();
        assert!(success.success());
        assert!(!stopped.is_empty() && stopped.iter().all(|status| status.code() == Some(130)), "{ends:?}");
        fixture.assert_same("whole", "stopped");
        fixture.assert_no_temporary_file("stopped");
    }

    #[test]
    fn a_killed_run_continues_from_its_checkpoint() {
        let fixture = Workplace::new();
        run(fixture.train_arguments("whole", &["--epochs", EPOCHS]));
        let ends = ends(&fixture, "killed", Signal::KILL);
        assert!(ends.len() > 1, "it was never killed");
        fixture.assert_same("whole", "killed");
    }

    /// As in `scenerank train ... 2>&1 | tee log`, where Ctrl-C ends `tee` first.
    #[test]
    fn a_run_whose_log_is_no_longer_read_still_saves() {
        let fixture = Workplace::new();
        let mut child = start(&fixture, "run", Stdio::piped());
        drop(child.stderr.take());
        std::thread::sleep(Duration::from_millis(50));
        send(&child, ctrl_c());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        run(fixture.train_arguments("run", &["--resume"]));
        run(fixture.train_arguments("whole", &["--epochs", EPOCHS]));
        fixture.assert_same("whole", "run");
    }

    /// The operating system rejects files of more than a few blocks, like a full disk.
    #[test]
    fn a_checkpoint_that_cannot_be_written_leaves_the_old_one() {
        let fixture = Workplace::new();
        run(fixture.train_arguments("run", &["--epochs", "1"]));
        let last = fixture.path("run").join(LAST);
        let before = fs::read(&last).unwrap();
        let output = Command::new("sh")
            // Ignoring the signal makes the write fail instead of ending the process.
            .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""])
            .arg(assert_cmd::cargo::cargo_bin("scenerank"))
            .args(fixture.train_arguments("run", &["--resume", "--epochs", "3"]))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(".safetensors: cannot write: "), "{text}");
        assert!(before == fs::read(&last).unwrap());
        fixture.assert_no_temporary_file("run");
        run(fixture.train_arguments("run", &["--resume", "--epochs", "3"]));
        run(fixture.train_arguments("whole", &["--epochs", "3"]));
        fixture.assert_same("whole", "run");
    }
}

#[test]
fn a_diverging_run_keeps_its_last_good_checkpoint() {
    let fixture = Workplace::new();
    let last = fixture.path("wild").join(LAST).display().to_string();
    // The step after the first update, although losses are read later.
    let parts = ["the loss became NaN in epoch 1, step 2;", &last, "a lower --learning-rate"];
    refuse(fixture.train_arguments("wild", &["--learning-rate", "1e38", "--epochs", "3"]), &parts);
    assert_eq!(fixture.last("wild").progress.steps, 0);
    let parts = ["--learning-rate", "1e300", "within single precision"];
    refuse(fixture.train_arguments("wilder", &["--learning-rate", "1e300"]), &parts);
    // If an epoch is one step, its loss was computed before the parameters diverged.
    let file = fixture.write("wild.toml", "learning-rate = 1e38\nbatch-size = 1000000\nepochs = 1\n");
    let data = fixture.data.display().to_string();
    let arguments = ["train", &data, "--out", &fixture.text("one"), "--config", &file];
    refuse([&arguments[..], &SMALL_NETWORK[..6]].concat(), &[" became ", "in epoch 1, step 1;"]);

    run(fixture.train_arguments("run", &["--epochs", "1"]));
    let before = fs::read(fixture.path("run").join(LAST)).unwrap();
    let wild = fixture.train_arguments("run", &["--resume", "--epochs", "2", "--learning-rate", "1e38"]);
    refuse(wild, &[" became ", "in epoch 2"]);
    assert!(before == fs::read(fixture.path("run").join(LAST)).unwrap());
    // The suggested remedy works.
    run(fixture.train_arguments("run", &["--resume", "--epochs", "2", "--learning-rate", "1e-4"]));
    assert_eq!(fixture.last("run").config.train.learning_rate, 1e-4);
}

#[test]
fn checkpoints_that_cannot_be_used() {
    let fixture = Workplace::new();
    run(fixture.train_arguments("run", &["--epochs", "1"]));
    let last = fixture.path("run").join(LAST);
    let good = fs::read(&last).unwrap();
    let resume = |parts: &[&str]| {
        let parts = [&["last.safetensors: "], parts].concat();
        refuse(fixture.train_arguments("run", &["--resume", "--epochs", "2"]), &parts);
        refuse(["evaluate", &fixture.text("run"), "--checkpoint", "last"], &parts);
    };
    let save = |change: &dyn Fn(&mut Checkpoint)| {
        fs::write(&last, &good).unwrap();
        let mut checkpoint = fixture.last("run");
        change(&mut checkpoint);
        let Checkpoint { config, progress, tensors, moments } = checkpoint;
        checkpoint::save(&last, &config, &progress, tensors, moments).unwrap();
    };
    const NAME: &str = "layers.0.node.output.linear.weight";
    save(&|checkpoint| drop(checkpoint.tensors.remove(NAME)));
    resume(&[NAME, "is missing"]);
    save(&|checkpoint| checkpoint.tensors.get_mut(NAME).unwrap().shape.reverse());
    resume(&[NAME, "has the shape [16, 12]", "[12, 16]"]);
    save(&|checkpoint| checkpoint.tensors.get_mut(NAME).unwrap().values[3] = f32::NAN);
    resume(&[NAME, "NaN"]);
    save(&|checkpoint| {
        checkpoint.moments.as_mut().unwrap().1.get_mut(NAME).unwrap().values[3] = f32::INFINITY
    });
    resume(&["adam.second_moment.", NAME, "inf"]);
    save(&|checkpoint| drop(checkpoint.moments.as_mut().unwrap().0.remove(NAME)));
    resume(&["adam.first_moment.", NAME, "is missing"]);
    save(&|checkpoint| checkpoint.config.model.object_types += 1);
    resume(&["metadata \"config\"", "has names of"]);
    // Checkpoints of older versions have no names.
    save(&|checkpoint| {
        checkpoint.config.vocabulary = None;
        checkpoint.config.model.object_types += 1;
    });
    resume(&["object_embedding.weight", "has the shape"]);
    // Impossible sizes are rejected before anything is allocated.
    save(&|checkpoint| checkpoint.config.model.layers = usize::MAX);
    resume(&["metadata \"config\"", "layers"]);
    save(&|checkpoint| {
        checkpoint.config.train.layers = usize::MAX;
        checkpoint.config.model.layers = usize::MAX;
    });
    resume(&["metadata \"config\"", "layers"]);
    save(&|checkpoint| checkpoint.config.model.predicate_types = usize::MAX);
    resume(&["metadata \"config\"", "types"]);
    save(&|checkpoint| checkpoint.config.model.l2_norm = false);
    resume(&["metadata \"config\"", "switches"]);

    for bytes in [&b""[..], b"not tensors", &good[..20], &good[..good.len() - 7]] {
        fs::write(&last, bytes).unwrap();
        resume(&["not a ", "safetensors file"]);
    }
    // The other checkpoint has no moments.
    fs::copy(fixture.path("run").join(BEST), &last).unwrap();
    let parts = ["last.safetensors: tensors: holds no optimizer moments"];
    refuse(fixture.train_arguments("run", &["--resume", "--epochs", "2"]), &parts);
    fs::remove_file(&last).unwrap();
    resume_of_nothing(&fixture);
}

fn resume_of_nothing(fixture: &Workplace) {
    refuse(
        fixture.train_arguments("nothing", &["--resume"]),
        &["last.safetensors: cannot read", "check the path"],
    );
    refuse(["evaluate", &fixture.text("nothing")], &["run folder: holds no checkpoint", "train a run"]);
    refuse(["evaluate", &fixture.text("run"), "--checkpoint", "last"], &["last.safetensors is missing"]);
}

#[test]
fn runs_that_cannot_be_trained_or_continued() {
    let fixture = Workplace::new();
    run(fixture.train_arguments("run", &["--epochs", "1"]));
    let parts = ["run: run folder: already holds a run", "--resume"];
    refuse(fixture.train_arguments("run", &[]), &parts);

    let other = small_data(fixture.folder.path(), 2).display().to_string();
    refuse(
        ["train", &other, "--out", &fixture.text("run"), "--resume"],
        &["data2: fingerprint: is ", "trained on data of", "--data"],
    );
    refuse(["evaluate", &fixture.text("run"), "--data", &other], &["data2: fingerprint"]);
    for option in [["--batch-size", "4"], ["--seed", "3"], ["--loss", "triplet"], ["--batch-norm", "false"]] {
        let was = match option[0] {
            "--batch-size" => "8",
            "--seed" => "1",
            "--loss" => "\"ranking\"",
            _ => "true",
        };
        let parts = [&*format!("--resume: {} is {was} in the run, now ", option[0]), option[1]];
        refuse(fixture.train_arguments("run", &[&["--resume"], &option[..]].concat()), &parts);
    }
    // Repeating the run's own options is allowed.
    run(fixture.train_arguments("run", &["--resume", "--batch-size", "8", "--epochs", "2"]));

    let missing = fixture.text("missing");
    refuse(["train", &missing, "--out", &fixture.text("new")], &["missing: cannot read", "check the path"]);
    let parts = ["device cuda:99: ", "--device cpu"];
    refuse(fixture.train_arguments("new", &["--device", "cuda:99"]), &parts);
    refuse(fixture.train_arguments("new", &["--device", "tpu"]), &["no device is called \"tpu\""]);
    let parts = ["device cpu: does not compute in fp64", "--precision fp32"];
    refuse(fixture.train_arguments("new", &["--device", "cpu", "--precision", "fp64"]), &parts);
    let parts = ["device cpu: does not compute in bf16x3", "--device cuda or emulated"];
    refuse(fixture.train_arguments("new", &["--device", "cpu", "--precision", "bf16x3"]), &parts);
    let parts = ["invalid value 'tf32' for '--precision"];
    refuse(fixture.train_arguments("new", &["--precision", "tf32"]), &parts);
    for (option, value) in [
        ("--layers", "0"),
        ("--epochs", "-1"),
        ("--epochs", "0"),
        ("--weight-decay", "-1"),
        ("--clip-norm", "nan"),
        ("--final-learning-rate", "1e-5"),
        ("--keep-best", "0"),
        ("--schedule", "step"),
        ("--layers", "18446744073709551615"),
        ("--state-width", "1000000000000"),
        ("--hidden-width", "0"),
        ("--batch-size", "0"),
        ("--temperature", "0"),
        ("--temperature", "nan"),
        ("--learning-rate", "inf"),
        ("--margin", "nan"),
        ("--batch-norm", "off"),
    ] {
        let data = fixture.data.display().to_string();
        let argument = format!("{option}={value}");
        refuse(["train", &data, "--out", &fixture.text("new"), &argument], &[option]);
    }
    let file = fixture.write("file", "");
    refuse(["train", &fixture.data.display().to_string(), "--out", &file], &["file: cannot create"]);
}

#[test]
fn options_from_a_file() {
    let fixture = Workplace::new();
    for (text, parts) in [
        ("epochs = 1\nbatchsize = 4\n", ["line 2: unknown field `batchsize`", "batch-size"]),
        ("epochs = 1\n\nbatch-size = \"many\"\n", ["line 3: invalid type", "batch-size = 16"]),
        ("loss = \"rankings\"\n", ["line 1: unknown variant `rankings`", "ranking"]),
        ("device = \"tpu\"\n", ["line 1: no device is called \"tpu\"", "cpu"]),
        ("epochs = 1\nepochs = 2\n", ["line 2", "duplicate key"]),
        ("l2-norm = \"off\"\n", ["line 1: invalid type: string \"off\"", "a boolean"]),
        ("epochs 1\n", ["line 1", "mine.toml"]),
        ("epochs = -1\n", ["line 1", "mine.toml"]),
    ] {
        let file = fixture.write("mine.toml", text);
        refuse(
            fixture.train_arguments("run", &["--config", &file]),
            &[&["mine.toml: "], &parts[..]].concat(),
        );
    }
    let none = fixture.text("none.toml");
    refuse(
        fixture.train_arguments("run", &["--config", &none]),
        &["none.toml: cannot read", "check the path"],
    );
    let file =
        fixture.write("mine.toml", "epochs = 7\nmargin = 0.25\nloss = \"triplet\"\nlearning-rate = 0.5\n");
    refuse(
        fixture.train_arguments("run", &["--config", &file, "--resume"]),
        &["--config", "cannot be used with"],
    );

    // The command line takes precedence.
    let outcome: Value =
        run_json(fixture.train_arguments("run", &["--config", &file, "--epochs", "1", "--json"]));
    assert_eq!((&outcome["epochs"], &outcome["interrupted"]), (&1.into(), &false.into()));
    let config = fixture.last("run").config.train;
    assert_eq!((config.epochs, config.margin, config.learning_rate), (1, 0.25, 1e-3));
    assert_eq!(config.loss, scenerank::loss::LossKind::Triplet);
}

#[test]
fn similarities_of_the_users_own() {
    let fixture = Workplace::new();
    let dataset = Dataset::open(&fixture.data).unwrap();
    let images = dataset.image_count();
    // A matrix that is not symmetric and does not come from vectors.
    let values: Vec<f32> = (0..images * images).map(|at| (at * 7919 % 1009) as f32 / 1009.0).collect();
    write_npy(&fixture.path("single.npy"), &values, images).unwrap();
    let file = fs::File::create(fixture.path("half.npy")).unwrap();
    let mut half =
        npyz::WriteOptions::new().default_dtype().shape(&[images as u64; 2]).writer(file).begin_nd().unwrap();
    half.extend(values.iter().map(|&value| f16::from_f32(value))).unwrap();
    half.finish().unwrap();

    run(fixture.train_arguments("captions", &["--epochs", "1"]));
    for name in ["single", "half"] {
        // A path relative to this folder must work from any other folder.
        let file = format!("{name}.npy");
        let arguments = fixture.train_arguments(name, &["--epochs", "1", "--similarity", &file]);
        scenerank().args(arguments).current_dir(fixture.folder.path()).assert().success();
        assert!(bits(&fixture.last(name)) != bits(&fixture.last("captions")));
        let evaluation = run_json(["evaluate", &fixture.text(name), "--json"]);
        assert_eq!(evaluation["images"], dataset.split(Split::Test).len());
        let resumed = fixture.train_arguments(name, &["--resume", "--epochs", "2", "--similarity", &file]);
        scenerank().args(resumed).current_dir(fixture.folder.path()).assert().success();
    }
    let small = fixture.path("small.npy");
    write_npy(&small, &[0.5; 9], 3).unwrap();
    let parts = ["small.npy: shape: [3, 3], expected ", "numpy.save"];
    refuse(fixture.train_arguments("new", &["--similarity", small.to_str().unwrap()]), &parts);
    let none = fixture.text("none.npy");
    refuse(
        fixture.train_arguments("new", &["--similarity", &none]),
        &["none.npy: cannot read", "check the path"],
    );
}

#[test]
fn supervision_without_a_triple_is_refused() {
    let fixture = Workplace::new();
    let images = Dataset::open(&fixture.data).unwrap().image_count();
    let matrix = |value: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
        (0..images * images).map(|at| value(at / images, at % images)).collect()
    };
    let file = fixture.text("matrix.npy");
    let cases: [(&str, Vec<f32>, &[&str]); 4] = [
        ("zeros", matrix(&|_, _| 0.0), &["no triple can be drawn", "give similarities that differ"]),
        ("identity", matrix(&|x, y| f32::from(u8::from(x == y))), &["no triple can be drawn"]),
        (
            "percent",
            matrix(&|x, y| ((x * 7 + y) % 101) as f32),
            &["row 0, column 2: 2 is outside 0 to 1", "by 100"],
        ),
        (
            "infinite",
            matrix(&|x, y| if (x, y) == (3, 4) { f32::INFINITY } else { 0.5 }),
            &["row 3, column 4: inf"],
        ),
    ];
    for (name, values, parts) in cases {
        write_npy(&fixture.path("matrix.npy"), &values, images).unwrap();
        for sampling in ["probability", "reject", "random", "extreme"] {
            let more = ["--epochs", "1", "--similarity", &file, "--sampling", sampling];
            refuse(fixture.train_arguments(name, &more), &[&["matrix.npy: "], parts].concat());
        }
        // Nothing was begun, so the same command can be repeated with another file.
        assert!(!fixture.path(name).exists(), "{name}");
    }
    // Vectors of length 0.
    write_npy(&fixture.path("vectors.npy"), &vec![0.0; 3 * images], 3).unwrap();
    let more = ["--epochs", "1", "--caption-vectors", &fixture.text("vectors.npy")];
    refuse(
        fixture.train_arguments("vectors", &more),
        &["vectors.npy: training images: no triple can be drawn"],
    );
}

/// Files of a run may be moved: they are known by their content, and only commands that need them ask for them.
#[test]
fn moved_files_of_a_run_are_found_and_checked() {
    let mut fixture = Workplace::new();
    let dataset = Dataset::open(&fixture.data).unwrap();
    let (images, first) = (dataset.image_count(), dataset.image_id(0).to_string());
    let values: Vec<f32> = (0..images * images).map(|at| (at * 7919 % 1009) as f32 / 1009.0).collect();
    write_npy(&fixture.path("sim.npy"), &values, images).unwrap();
    write_npy(&fixture.path("other.npy"), &vec![0.5; images * images], images).unwrap();
    let query = serde_json::json!([[dataset.object_name(0)]]).to_string();
    let (query, out) = (fixture.write("query.json", query), fixture.text("e.npy"));
    let run_folder = fixture.text("run");
    run(fixture.train_arguments("run", &["--epochs", "1", "--similarity", &fixture.text("sim.npy")]));

    fs::rename(fixture.path("sim.npy"), fixture.path("moved.npy")).unwrap();
    let moved = fixture.text("moved.npy");
    // No similarity is needed.
    run(["search", &run_folder, "--graph", &query]);
    run(["embed", &run_folder, "--out", &out]);
    run(["retrieve", &run_folder]);
    // A similarity is needed.
    for command in [&["evaluate", &run_folder][..], &["search", &run_folder, "--image", &first]] {
        refuse(command, &["sim.npy: file: cannot read the supervision", "--supervision"]);
        run([command, &["--supervision", &moved]].concat());
        let parts = ["other.npy: content: is not the supervision of the run", "--supervision"];
        refuse([command, &["--supervision", &fixture.text("other.npy")]].concat(), &parts);
    }
    let resume =
        |file: &str| fixture.train_arguments("run", &["--resume", "--epochs", "2", "--similarity", file]);
    refuse(resume(&fixture.text("other.npy")), &["last.safetensors: ", "another similarity matrix"]);
    run(resume(&moved));

    // The data file.
    let data = fixture.path("moved-data");
    fs::rename(&fixture.data, &data).unwrap();
    refuse(["embed", &run_folder, "--out", &out], &["data1: cannot read", "check the path"]);
    run(["embed", &run_folder, "--out", &out, "--data", data.to_str().unwrap()]);
    fixture.data = data;
    run(fixture.train_arguments("run", &["--resume", "--epochs", "3", "--similarity", &moved]));
    // The run knows the new places.
    run(["evaluate", &run_folder, "--checkpoint", "last"]);

    // A run that was supervised by captions has no such file.
    run(fixture.train_arguments("captions", &["--epochs", "1"]));
    refuse(
        ["evaluate", &fixture.text("captions"), "--supervision", &moved],
        &["--supervision: ", "leave it out"],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_not_utf_8_is_refused_before_the_training() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let fixture = Workplace::new();
    let data = fixture.folder.path().join(OsStr::from_bytes(b"d\xff"));
    fs::copy(&fixture.data, &data).unwrap();
    let out = fixture.path("run").into_os_string();
    let arguments = [OsStr::new("train"), data.as_os_str(), OsStr::new("--out"), &out];
    refuse(arguments, &["path: is not UTF-8; rename the file"]);
    assert!(!fixture.path("run").exists());
}
