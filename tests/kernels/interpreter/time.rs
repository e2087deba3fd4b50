//! Modelled time of a training step, against the record.
//!
//! A step whose likely time has grown by more than 5 % fails. If the growth is wanted, the figure in
//! `benches/record/modelled_steps.csv` changes with it.

use std::path::Path;

use scenerank::backend::cuda::device::interpreter::{self, Interpretation};
use scenerank::backend::cuda::launchers::linear::Format;
use scenerank::bench::sizes::{SMALL, Sizes};
use scenerank::bench::step::modelled_step;
use scenerank::network::config::ModelConfig;
use scenerank_ptx::timing::{Micros, table};

/// Growth that fails.
const MOST_GROWTH: f64 = 1.05;

/// Recorded likely time of a step, in microseconds.
fn recorded(step: &str) -> f64 {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/record/modelled_steps.csv");
    let text = std::fs::read_to_string(&path).expect("the record");
    let row = text.lines().find_map(|line| line.strip_prefix(step)?.strip_prefix(','));
    row.and_then(|row| row.split(',').next()?.parse().ok()).unwrap_or_else(|| panic!("{step}: no figure"))
}

fn compare(step: &str, config: ModelConfig, format: Format, triples: usize) {
    // The record holds times of sm_90a.
    if !interpreter::architectures().contains(&"90a") {
        println!("skipped: this build found no nvcc, or was for other architectures than 90a");
        return;
    }
    let kernels = interpreter::kernels(Some("90a")).expect("PTX, which is there");
    let of = Interpretation { kernels, compare: false, seed: None, races: false, timing: None };
    let timed = of.timed().expect("parameters");
    let (launches, finite) = modelled_step(&Sizes::new(config, triples), format, timed).expect("a step");
    assert!(finite, "{step}: loss");
    let Micros { optimistic, likely, pessimistic } = Micros::sum(&launches);
    let record = recorded(step);
    println!(
        "{step}: {} launches, {likely:.1} us likely ({optimistic:.1} .. {pessimistic:.1}), recorded {record:.1}",
        launches.len()
    );
    println!("{}", table(&launches));
    assert!(
        likely <= MOST_GROWTH * record,
        "{step}: {likely:.1} us, recorded {record:.1}; if this is wanted, change benches/record/modelled_steps.csv"
    );
}

#[test]
fn the_likely_time_of_a_small_step_has_not_grown() {
    compare("small bf16 mma 2", SMALL, Format::Bf16, 2);
    compare("small bf16 wgmma 2", SMALL, Format::Bf16Warpgroup, 2);
    compare("small bf16x3 wgmma 2", SMALL, Format::Bf16x3Warpgroup, 2);
}

#[test]
#[ignore = "takes some minutes"]
fn the_likely_time_of_a_paper_size_step_has_not_grown() {
    compare("paper bf16 mma 16", ModelConfig::PAPER, Format::Bf16, 16);
    compare("paper bf16 wgmma 16", ModelConfig::PAPER, Format::Bf16Warpgroup, 16);
    compare("paper bf16x3 mma 16", ModelConfig::PAPER, Format::Bf16x3, 16);
    compare("paper bf16x3 wgmma 16", ModelConfig::PAPER, Format::Bf16x3Warpgroup, 16);
}
