use std::time::Duration;

use clap::{Args, ValueEnum};
use scenerank::Result;
use scenerank::backend::device::Device;
use scenerank::bench::ceilings::Ceilings;
use scenerank::bench::sizes::SMALL;
use scenerank::bench::{BenchOptions, roofline, run};
use scenerank::network::config::ModelConfig;

/// Check and time every kernel and a whole training step, and compare with the peak rates of the device.
///
/// Each kernel is first checked against the reference. A wrong kernel is reported and not timed, and the exit
/// code is 1. Times come from CUDA events on a GPU, and from the host clock on other devices; times on the emulator say
/// nothing about a GPU. The device ptx models the time of each launch on an H200. The devices cpu and reference have
/// no kernels and time only the step.
///
/// Each kernel has a line with its shape and a line of numbers. B is the number of triples in a batch. Bytes and FLOP
/// are computed by formula. Error and limit are relative to the largest value of the reference. Then follow the median
/// time with its 5th and 95th percentile (on ptx the likely, optimistic and pessimistic time), and the achieved rates.
/// The floor is the minimum time at the device's peak rates, and the share is the floor divided by the median.
#[derive(Args)]
#[command(after_help = "Examples:
  scenerank bench --device cuda --batch-size 16 256 --json > bench.json
  scenerank bench --device emulated --kernel linear
  scenerank bench --device cpu --kernel step
  scenerank bench --device ptx --size paper --kernel step --precision bf16
  scenerank bench --roofline --precision bf16 --batch-size 16 1024")]
pub struct BenchArguments {
    #[command(flatten)]
    device: super::DeviceArguments,
    /// What to run: a kernel (such as linear_forward), all kernels of a file (linear), or the training step (step). May
    /// be repeated [default: everything].
    #[arg(long = "kernel", value_name = "NAME")]
    kernels: Vec<String>,
    /// Triples per batch; its random graphs have 22 nodes and 36 edges each [default: 16 at the paper's size, 2 at the
    /// small one].
    #[arg(long = "batch-size", value_name = "B", num_args = 1.., value_parser = clap::value_parser!(u16).range(1..))]
    batch_sizes: Vec<u16>,
    /// Size of the network [default: small on the devices emulated, ptx and reference, otherwise paper].
    #[arg(long, value_enum)]
    size: Option<Size>,
    /// Approximate time for each kernel; a step takes eight times as long [default: 10 on the devices
    /// emulated and reference, otherwise 200]. The device ptx runs each kernel once.
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u32).range(1..=600_000))]
    budget: Option<u32>,
    /// Run nothing; print the bytes and operations of each kernel, and its minimum time on an H200.
    #[arg(long, conflicts_with = "budget")]
    roofline: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Size {
    /// 5 layers, widths 300 and 512.
    Paper,
    /// 3 layers, widths 44 and 72.
    Small,
}

impl BenchArguments {
    pub fn run(self) -> Result<()> {
        let super::DeviceArguments { device, precision } = self.device;
        let slow =
            matches!(device, Device::Emulated | Device::Ptx { .. } | Device::Reference) && !self.roofline;
        let size = self.size.unwrap_or(if slow { Size::Small } else { Size::Paper });
        let (model, batch_size) = match size {
            Size::Paper => (ModelConfig::PAPER, 16),
            Size::Small => (SMALL, 2),
        };
        let batch_sizes = match self.batch_sizes.is_empty() {
            true => vec![batch_size],
            false => self.batch_sizes.into_iter().map(usize::from).collect(),
        };
        let budget = self.budget.unwrap_or(if slow { 10 } else { 200 });
        let options = BenchOptions {
            device,
            precision,
            model,
            batch_sizes,
            kernels: self.kernels,
            budget: Duration::from_millis(budget.into()),
        };
        let report = match self.roofline {
            true => roofline(&options, Ceilings::H200_PLAN)?,
            false => run(&options)?,
        };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report).expect("plain fields"));
        } else {
            println!("{}\n{}", report.text(), report.caption());
        }
        match report.exit_code() {
            0 => Ok(()),
            code => std::process::exit(code),
        }
    }
}
