//! Trainings killed by SIGKILL at random moments and inside of saves: what is resumed is the run that was not interrupted.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::train::checkpoint::{BEST, LAST};
use serde_json::Value;

use crate::program::{SMALL_NETWORK, Workplace};

/// Longest time until a kill. An epoch of the small network takes less, so the run advances.
const LONGEST: Duration = Duration::from_millis(400);

fn train(work: &Workplace, run: &str) -> Child {
    let resume = work.path(run).join(LAST).exists().then_some("--resume");
    Command::new(assert_cmd::cargo::cargo_bin("scenerank"))
        .arg("train")
        .arg(&work.data)
        .args(["--out", &work.text(run)])
        .args(resume)
        .args(resume.map_or(vec!["--epochs", "12", "--device", "cpu"], |_| vec![]))
        .args(resume.map_or(SMALL_NETWORK.to_vec(), |_| vec![]))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Temporary files of the folder: one that is being saved, and those that killed trainings have left.
fn temporary(folder: &Path) -> HashSet<OsString> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".scenerank-")).collect()
}

/// Records without their times.
fn records(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let record = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("seconds");
        record.as_object_mut().unwrap().remove("graphs_per_second");
        record
    };
    text.lines().map(record).collect()
}

/// Kills trainings `times` times, every second time while a file is being saved, and compares each finished run with one that was
/// not interrupted.
fn kill(times: usize) {
    let work = Workplace::new();
    let ended = |program: Child| {
        let output = program.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    ended(train(&work, "whole"));
    let mut random = StdRng::seed_from_u64(15);
    let (mut killed, mut inside, mut runs) = (0, 0, 0);
    while killed < times {
        let run = format!("run{runs}");
        loop {
            let before = temporary(&work.path(&run));
            let saves = || !temporary(&work.path(&run)).is_subset(&before);
            let mut program = train(&work, &run);
            let (began, after) = (Instant::now(), random.random_range(Duration::ZERO..LONGEST));
            let wait_for_save = killed % 2 == 1;
            let due = || began.elapsed() >= after && (!wait_for_save || saves());
            while killed < times && !due() && program.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(if wait_for_save { 50 } else { 500 }));
            }
            if killed == times || program.try_wait().unwrap().is_some() {
                ended(program);
                break;
            }
            // On Unix this is SIGKILL.
            program.kill().unwrap();
            program.wait().unwrap();
            (killed, inside) = (killed + 1, inside + usize::from(saves()));
        }
        for name in [BEST, LAST] {
            let [whole, run] = ["whole", &run].map(|run| fs::read(work.path(run).join(name)).unwrap());
            assert!(whole == run, "{name} of {runs} after {killed} kills");
        }
        assert_eq!(records(&work.path("whole")), records(&work.path(&run)));
        runs += 1;
    }
    println!("{killed} kills, {inside} of them inside a save; {runs} runs equal to the uninterrupted one");
}

#[test]
fn ten_killed_trainings_end_as_if_they_had_not_been() {
    kill(10);
}

#[test]
#[ignore = "the long form, for .ci/full"]
fn a_hundred_killed_trainings_end_as_if_they_had_not_been() {
    kill(100);
}
