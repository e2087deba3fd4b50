//! Trainings on the CPU: the results of several ranks, signals, killed ranks, and ranks that differ.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use scenerank::train::checkpoint::{self, Checkpoint, LAST};
use serde_json::Value;

use crate::program::{SMALL_NETWORK, Workplace};
use crate::support::relative_error;
use crate::{mpirun, scenerank, texts};

/// Longest wait for something that takes seconds on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments of a training in the folder `run`.
fn training(work: &Workplace, run: &str, epochs: &str) -> Vec<String> {
    let words =
        ["train", &work.text("data1"), "--out", &work.text(run), "--device", "cpu", "--epochs", epochs];
    words.into_iter().chain(SMALL_NETWORK).map(String::from).collect()
}

/// An `mpirun` of so many ranks with these arguments.
fn ranks(count: usize, arguments: &[String]) -> Option<Command> {
    let mut command = mpirun()?;
    command.args(["-n", &count.to_string()]).arg(scenerank()).args(arguments);
    Some(command)
}

/// Trains by so many ranks to the end. Returns the JSON that rank 0 prints, and the last checkpoint.
fn trained(count: usize, work: &Workplace, run: &str) -> Option<(Value, Checkpoint)> {
    let mut arguments = training(work, run, "2");
    arguments.extend(["--json".into(), "--resume-if-any".into()]);
    let output = ranks(count, &arguments)?.output().unwrap();
    let [stdout, stderr] = texts(&output);
    assert!(output.status.success(), "{stderr}");
    // One rank prints, and says each epoch once.
    assert_eq!(stderr.matches("epoch 2/2 ").count(), 1, "{stderr}");
    Some((serde_json::from_str(&stdout).expect("the result, once"), work.last(run)))
}

/// Largest error in norm of a tensor.
fn error(got: &Checkpoint, want: &Checkpoint) -> f64 {
    let of = |(name, want): (&String, &scenerank::network::tensors::Tensor)| {
        relative_error(&got.tensors[name].values, &want.values)
    };
    want.tensors.iter().map(of).fold(0.0, f64::max)
}

fn is_same(got: &Checkpoint, want: &Checkpoint) -> bool {
    let bits = |checkpoint: &Checkpoint| -> Vec<u32> {
        checkpoint.tensors.values().flat_map(|tensor| &tensor.values).map(|value| value.to_bits()).collect()
    };
    bits(got) == bits(want)
}

/// One rank has the bits of the program by itself, and of a build without the feature, if SCENERANK_PLAIN names one. Two and
/// three ranks take the same steps; 26 steps of Adam magnify the roundings of single precision.
#[test]
fn ranks_train_as_one_rank_does() {
    let work = Workplace::new();
    let Some((one, checkpoint)) = trained(1, &work, "1") else { return };
    let plain = std::env::var_os("SCENERANK_PLAIN").map(std::path::PathBuf::from);
    for (i, program) in [Some(scenerank()), plain].into_iter().flatten().enumerate() {
        let run = format!("alone {i}");
        let status = Command::new(program).args(training(&work, &run, "2")).output().unwrap().status;
        assert!(status.success());
        assert!(is_same(&work.last(&run), &checkpoint), "one rank of mpirun has other bits");
    }
    for count in [2, 3] {
        let (outcome, of_ranks) = trained(count, &work, &count.to_string()).expect("as before");
        assert_eq!((&outcome["steps"], &outcome["epochs"]), (&one["steps"], &one["epochs"]));
        let error = error(&of_ranks, &checkpoint);
        println!("{count} ranks: largest error of a tensor {error:.1e}");
        assert!(error < 0.02, "{count} ranks: error {error:.1e}");
        assert!(!is_same(&of_ranks, &checkpoint), "{count} ranks trained as one");
    }
}

/// A training that would take hours, once it has saved an epoch.
fn running(count: usize, work: &Workplace, run: &str) -> Option<Child> {
    let mut command = ranks(count, &training(work, run, "100000"))?;
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let last = work.path(run).join(LAST);
    let begun = || last.exists() && checkpoint::load(&last).is_ok_and(|last| last.progress.epoch > 0);
    wait_for("a checkpoint after an epoch", || begun().then_some(()));
    Some(child)
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "no {what}");
        sleep(Duration::from_millis(50));
    }
}

/// Process of this rank, started by `mpirun`.
fn process_of(mpirun: &Child, rank: usize) -> Pid {
    let is_rank = |folder: &Path| {
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let environment = fs::read(folder.join("environ")).ok()?;
        let is_child = status.lines().any(|line| line == format!("PPid:\t{}", mpirun.id()));
        let variable = format!("OMPI_COMM_WORLD_RANK={rank}");
        let has = environment.split(|&byte| byte == 0).any(|entry| entry == variable.as_bytes());
        (is_child && has).then_some(())?;
        Pid::from_raw(folder.file_name()?.to_str()?.parse().ok()?)
    };
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    processes.into_iter().find_map(|folder| is_rank(&folder)).expect("a rank")
}

fn ended(mut mpirun: Child) -> (Option<i32>, String) {
    let status = wait_for("end of the job", || mpirun.try_wait().unwrap());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut mpirun.stderr.take().unwrap(), &mut text).unwrap();
    (status.code(), text)
}

/// The run is resumed on other numbers of ranks, for one epoch more than it has.
fn goes_on(work: &Workplace, run: &str, count: usize) {
    let before = work.last(run).progress;
    let epochs = (before.epoch + 1).to_string();
    let mut arguments = training(work, run, &epochs);
    arguments.push("--resume".into());
    let output = ranks(count, &arguments).expect("as before").output().unwrap();
    assert!(output.status.success(), "{}", texts(&output)[1]);
    assert_eq!(work.last(run).progress.epoch, before.epoch + 1);
}

#[test]
fn a_killed_rank_ends_the_job_and_leaves_the_last_checkpoint() {
    let work = Workplace::new();
    for (killed, resumed) in [(1, 3), (0, 1)] {
        let run = format!("killed {killed}");
        let Some(mpirun) = running(2, &work, &run) else { return };
        kill_process(process_of(&mpirun, killed), Signal::KILL).unwrap();
        let (code, _) = ended(mpirun);
        assert_ne!(code, Some(0));
        assert!(checkpoint::load(&work.path(&run).join(LAST)).unwrap().progress.epoch > 0);
        goes_on(&work, &run, resumed);
    }
}

/// A signal to one rank, as Ctrl-C is to one process, stops all after the same step.
#[test]
fn a_signal_to_one_rank_stops_all() {
    let work = Workplace::new();
    let Some(mpirun) = running(3, &work, "stopped") else { return };
    kill_process(process_of(&mpirun, 2), Signal::TERM).unwrap();
    let (code, text) = ended(mpirun);
    assert_eq!(code, Some(130), "{text}");
    goes_on(&work, "stopped", 2);
}

#[test]
fn a_rank_that_differs_is_refused_in_one_line() {
    let work = Workplace::new();
    let Some(mut command) = mpirun() else { return };
    for (rank, seed) in ["1", "2"].into_iter().enumerate() {
        if rank > 0 {
            command.arg(":");
        }
        command.args(["-n", "1"]).arg(scenerank()).args(training(&work, "run", "1")).args(["--seed", seed]);
    }
    let output = command.output().unwrap();
    let [stdout, stderr] = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.contains("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(errors[0].contains("rank 1 of 2: has another configuration than rank 0"), "{stderr}");
    assert!(stdout.is_empty() && !work.path("run").join(LAST).exists());
}
