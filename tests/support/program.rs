//! Runs the `scenerank` program in tests, and creates a small data file for it.
#![allow(dead_code)] // each test binary uses its part

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

#[cfg(unix)]
use rustix::process::Signal;
use scenerank::data::prepare::{Preparation, prepare};
use scenerank::data::selection::{Filter, GraphSource, Sources};
use scenerank::synth::{SynthConfig, write_collection};
use scenerank::train::checkpoint::{self, Checkpoint, LAST};
use tempfile::TempDir;

/// Options of a network that takes a millisecond per step.
pub const SMALL_NETWORK: [&str; 8] =
    ["--layers", "2", "--state-width", "12", "--hidden-width", "16", "--batch-size", "8"];

pub fn scenerank() -> assert_cmd::Command {
    assert_cmd::Command::cargo_bin("scenerank").unwrap()
}

/// Runs the program successfully; returns its standard output.
pub fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> String {
    let assert = scenerank().args(arguments).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// Like [`run`], with JSON on standard output.
pub fn run_json<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> serde_json::Value {
    serde_json::from_str(&run(arguments)).unwrap()
}

/// Runs the program with an expected error: exit code 2, no standard output, one error line that contains all
/// `parts`.
pub fn refuse<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>, parts: &[&str]) {
    let assert = scenerank().args(arguments).assert().code(2);
    let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(!text.contains("panicked"), "{text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    for part in parts {
        assert!(errors[0].contains(part), "`{part}` is not in: {}", errors[0]);
    }
    assert!(assert.get_output().stdout.is_empty());
}

/// The signal of Ctrl-C; where this process ignores it, as one that a shell started in the background does, SIGTERM, which commands
/// take for the same.
#[cfg(unix)]
pub fn ctrl_c() -> Signal {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).expect("a mask of signals"));
    if ignored >> (Signal::INT.as_raw() - 1) & 1 == 1 { Signal::TERM } else { Signal::INT }
}

/// Creates a data file with about 100 training images, 30 validation and 15 test images in `folder`.
pub fn small_data(folder: &Path, seed: u64) -> PathBuf {
    let config = SynthConfig { images: 200, seed, word_width: 20, ..Default::default() };
    let files = write_collection(&folder.join(format!("raw{seed}")), &config).unwrap();
    let preparation = Preparation {
        sources: Sources {
            graphs: GraphSource::SceneGraphs(files.scene_graphs),
            image_data: files.image_data,
            captions: vec![files.captions],
        },
        glove: files.glove,
        filter: Filter { min_object_occurrences: 15, min_predicate_occurrences: 15, ..Default::default() },
        split: Default::default(),
        split_by: Default::default(),
        seed: 1,
        reading: Default::default(),
    };
    let data = folder.join(format!("data{seed}"));
    prepare(&preparation, &data).unwrap();
    data
}

/// Folder with a small data file for runs, extended by the tests.
pub struct Workplace {
    pub folder: TempDir,
    pub data: PathBuf,
}

impl Workplace {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Workplace { data: small_data(folder.path(), 1), folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Last checkpoint of the run `name`.
    pub fn last(&self, name: &str) -> Checkpoint {
        checkpoint::load(&self.path(name).join(LAST)).unwrap()
    }
}
