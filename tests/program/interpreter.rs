//! The commands on `--device ptx`: the same results as on the CPU, except for rounding, and an error in a build without nvcc.

use std::path::Path;

use scenerank::backend::cuda::device::interpreter;
use scenerank::data::Dataset;
use scenerank::files::npy::read_npy;

use crate::emulated_commands::{compare_steps, write_step};
use crate::program::{SMALL_NETWORK, refuse, run, run_json, small_data};
use crate::support::SMALL;
use tempfile::TempDir;

/// Whether there is PTX; reports a skip if not.
fn there_is_ptx() -> bool {
    let there = !interpreter::architectures().is_empty() || std::env::var_os(interpreter::FOLDER).is_some();
    if !there {
        println!("skipped: this build found no nvcc, which makes the PTX");
    }
    there
}

#[test]
fn embed_evaluate_retrieve_and_search() {
    if !there_is_ptx() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let data = small_data(folder.path(), 1);
    let text = |name: &str| folder.path().join(name).display().to_string();
    let out = text("run");
    let words = ["--epochs", "1", "--learning-rate", "1e-3", "--device", "cpu", "--out", &out];
    run([&["train", data.to_str().unwrap()], &SMALL_NETWORK[..], &words].concat());

    let [cpu, ptx] = ["cpu", "ptx:compare"].map(|device| {
        let out = text(&format!("{}.npy", &device[..3]));
        run(["embed", &text("run"), "--split", "test", "--out", &out, "--device", device]);
        read_npy(Path::new(&out)).unwrap()
    });
    assert_eq!(cpu.rows, ptx.rows);
    for (cpu, ptx) in cpu.values.iter().zip(&ptx.values) {
        assert!((cpu - ptx).abs() < 2e-5, "{ptx} where {cpu} is expected");
    }
    let both = |command: &str, more: &[&str]| {
        ["cpu", "ptx"].map(|device| run_json([&[command, &out, "--device", device, "--json"], more].concat()))
    };
    let [want, got] = both("evaluate", &[]);
    for (got, want) in got["rows"].as_array().unwrap().iter().zip(want["rows"].as_array().unwrap()) {
        let [got, want] = [got, want].map(|row| row["per_image"]["pearson"].as_f64().unwrap());
        assert!((got - want).abs() < 1e-4, "{got} where {want} is expected");
    }
    let [want, got] = both("retrieve", &["--noise", "3", "--out", &text("curves")]);
    for (got, want) in got["levels"].as_array().unwrap().iter().zip(want["levels"].as_array().unwrap()) {
        let [got, want] = [got, want].map(|level| level["mrr"].as_f64().unwrap());
        // One image changes places with another.
        assert!((got - want).abs() < 1.01 / cpu.rows as f64, "{got} where {want} is expected");
    }
    let image = Dataset::open(&data).unwrap().image_id(0).to_string();
    let [want, got] = both("search", &["--image", &image, "-k", "3"]);
    let [got, want] = [got, want].map(|found| found.as_array().unwrap().clone());
    assert_eq!(got.len(), 3);
    for (got, want) in got.iter().zip(&want) {
        let [got, want] = [got, want].map(|found| found["cosine"].as_f64().unwrap());
        assert!((got - want).abs() < 1e-5, "{got} where {want} is expected");
    }
}

#[test]
fn step_gives_the_loss_and_gradients_of_the_cpu() {
    if there_is_ptx() {
        let folder = TempDir::new().unwrap();
        let input = folder.path().join("in");
        write_step(&input, SMALL);
        compare_steps(&folder, &input, ["ptx:compare", "cpu"]);
    }
}

#[test]
fn a_build_without_nvcc_says_so() {
    if interpreter::architectures().is_empty() && std::env::var_os(interpreter::FOLDER).is_none() {
        let arguments = ["bench", "--device", "ptx", "--kernel", "adam_step"];
        refuse(arguments, &["ptx", "found no nvcc", "--device emulated"]);
    }
}
