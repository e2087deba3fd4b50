//! Signals while a command writes: it ends with exit code 130 and leaves no temporary file.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::program::{Workplace, ctrl_c};

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("scenerank"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn temporary_files(folder: &Path) -> usize {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".scenerank-")).count()
}

/// Sends a signal as soon as the command has a temporary file in `folder`. Returns its exit code; `None` if it was faster.
fn interrupt(child: &mut Child, folder: &Path, signal: Signal) -> Option<i32> {
    let started = Instant::now();
    while temporary_files(folder) == 0 {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "no temporary file");
    }
    kill_process(Pid::from_child(child), signal).unwrap();
    child.wait().unwrap().code()
}

/// Images of a collection that takes seconds to write. If no signal ends the command, the test fails when it is done.
const MANY_IMAGES: &str = "100000";

#[test]
fn a_signal_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().unwrap();
    for signal in [ctrl_c(), Signal::TERM, Signal::HUP] {
        let out = folder.path().join("raw");
        let mut child = start(&["synth", out.to_str().unwrap(), "--images", MANY_IMAGES]);
        assert_eq!(interrupt(&mut child, &out, signal), Some(130), "{signal:?}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{signal:?}");
    }
}

/// Commands that are done within milliseconds, at whatever moment the signal arrives.
#[test]
fn short_commands_leave_no_temporary_file_either() {
    let work = Workplace::new();
    let raw = |name: &str| work.text(&format!("raw1/{name}"));
    let (graphs, images) = (raw("scene_graphs.json"), raw("image_data.json"));
    let (captions, glove, data) = (raw("captions.json"), raw("glove.txt"), work.text("data1"));
    fs::create_dir(work.path("o")).unwrap();
    let out = work.text("o/x");
    let prepare = [
        &["prepare", "--scene-graphs", &graphs, "--image-data", &images, "--captions", &captions][..],
        &["--glove", &glove, "--min-occurrences", "15", "--out", &out],
    ]
    .concat();
    let mut caught = 0;
    for arguments in [&prepare[..], &["inspect", &data, "--captions", &out]] {
        for _ in 0..10 {
            let _ = fs::remove_file(&out);
            let code = interrupt(&mut start(arguments), &work.path("o"), Signal::TERM);
            // The signal may arrive after the file was renamed, or after the end.
            assert!(matches!(code, None | Some(130 | 0)), "{code:?}");
            caught += usize::from(code == Some(130));
            assert_eq!(temporary_files(&work.path("o")), 0, "{}", arguments[0]);
        }
    }
    println!("{caught} of 20 were interrupted");
}

/// `nohup` starts programs that ignore the end of the terminal.
#[test]
fn an_ignored_signal_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("raw");
    let program = assert_cmd::cargo::cargo_bin("scenerank");
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" synth \"$1\" --images \"$2\""])
        .args([program.as_os_str(), out.as_os_str(), MANY_IMAGES.as_ref()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while temporary_files(&out) == 0 {
        assert!(child.try_wait().unwrap().is_none());
    }
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it ended");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}
