use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use scenerank::Result;
use scenerank::backend::device::Device;
use scenerank::bench::baseline::Baseline;
use scenerank::bench::ceilings::Ceilings;
use scenerank::bench::report::{Grids, Report};
use scenerank::bench::sizes::SMALL;
use scenerank::bench::{BenchOptions, cases, list, roofline, run_with};
use scenerank::network::config::ModelConfig;

/// Check and time every kernel and a whole training step, and compare with the peak rates of the device.
///
/// Each kernel is first checked against the reference. A wrong kernel is reported and not timed, and the exit
/// code is 1. Times come from CUDA events on a GPU, and from the host clock on other devices; times on the emulator say
/// nothing about a GPU. The device ptx models the time of each launch on an H200. The devices cpu and reference have
/// no kernels and time only the step.
///
/// Each kernel has a line with its shape and a line of numbers. B is the number of triples in a batch. Bytes and FLOP
/// are computed by formula, and so is the chain: the longest series of dependent steps in a block, times the cycles of a
/// step. Error and limit are relative to the largest value of the reference. Then follow the median
/// time with its 5th and 95th percentile (on ptx the likely, optimistic and pessimistic time), the time with all arrays in
/// the L2 cache (warm), and the achieved rates.
/// The floor is the minimum time at the device's peak rates, and the share is the floor divided by the median.
/// In bf16 and bf16x3, --kernels auto checks and times products and steps by mma.sync and by wgmma where the device has both, and prints
/// which of them auto takes.
/// On the CPU the peak rate is that of fused multiply-adds, measured on the same threads before each step. Two tables follow the
/// step: every product at its shape and strides with its rate, and every pass between products with its share of the step. The median
/// rate of a product is a share of the median rate of multiply-adds, and its best rate of their best.
#[derive(Args)]
#[command(after_help = "Examples:
  scenerank bench --device cuda --batch-size 16 256 --out bench.json
  scenerank bench --device cuda --batch-size 16 256 --baseline bench.json
  scenerank bench --device cuda --precision bf16 --kernel step --timeline
  scenerank bench --device emulated --kernel linear
  scenerank bench --device cpu --kernel step --budget 2000
  scenerank bench --device cpu --kernel step --threads 1 2 4 8
  scenerank bench --device ptx --size paper --kernel step --precision bf16
  scenerank bench --roofline --precision bf16 --batch-size 16 1024

Exit code: 1 if a kernel is wrong, 3 if none is wrong and one is slower than in the baseline.")]
pub struct BenchArguments {
    #[command(flatten)]
    device: super::DeviceArguments,
    /// What to run, by a name that --list prints: one kernel (linear_forward), all kernels whose names begin like that
    /// (linear), or whole training steps (step). May be repeated [default: everything].
    #[arg(long = "kernel", value_name = "NAME")]
    names: Vec<String>,
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
    /// Give each launch a grid for exactly the rows of its batch. Training has grids for the largest batch of an epoch, whose
    /// surplus blocks end at once; the bench has them too without this option.
    #[arg(long)]
    exact_grids: bool,
    /// Also time each launch of a captured step, in series. The step's own time stays as it is.
    #[arg(long, conflicts_with = "roofline")]
    timeline: bool,
    /// Time the step on each of these numbers of threads; device cpu only [default: all cores].
    #[arg(long, value_name = "T", num_args = 1.., value_parser = clap::value_parser!(u16).range(1..=1024), conflicts_with = "roofline")]
    threads: Vec<u16>,
    /// Run nothing; print the bytes, operations and longest chain of each kernel, its minimum time and its likely time on an
    /// H200.
    #[arg(long, conflicts_with = "budget")]
    roofline: bool,
    /// Print the names for --kernel with their shapes, and run nothing.
    #[arg(long, conflicts_with_all = ["roofline", "baseline", "out", "timeline"])]
    list: bool,
    /// Compare with a file that --out wrote on the same device: faster, slower, or undecided by the spread.
    #[arg(long, value_name = "FILE", conflicts_with = "roofline")]
    baseline: Option<PathBuf>,
    /// File to write the result to as JSON. It is written again after each kernel.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
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
        let super::DeviceArguments { device, precision, kernels: family } = self.device;
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
            family,
            model,
            batch_sizes,
            kernels: self.names,
            budget: Duration::from_millis(budget.into()),
            grids: if self.exact_grids { Grids::Exact } else { Grids::Training },
            timeline: self.timeline,
            threads: self.threads.into_iter().map(usize::from).collect(),
        };
        if self.list {
            print_names(&options, self.json);
            return Ok(());
        }
        let baseline = self.baseline.as_deref().map(Baseline::read).transpose()?;
        let write = |report: &Report| self.out.as_ref().map_or(Ok(()), |path| report.write(path));
        // A file that cannot be written, or a baseline of another device, is an error before the first kernel runs.
        let mut began = false;
        let mut report = match self.roofline {
            true => roofline(&options, Ceilings::H200_PLAN)?,
            false => run_with(&options, cases::all, &mut |report| {
                if let (false, Some(baseline)) = (began, &baseline) {
                    report.check_baseline(baseline)?;
                }
                began = true;
                write(report)
            })?,
        };
        report.baseline = baseline.map(|baseline| baseline.compare(&report.kernels));
        write(&report)?;
        match self.json {
            true => println!("{}", report.json()),
            false => println!("{}\n{}", report.text(), report.caption()),
        }
        match report.exit_code() {
            0 => Ok(()),
            code => std::process::exit(code),
        }
    }
}

fn print_names(options: &BenchOptions, json: bool) {
    let names = list(options);
    if json {
        let names: Vec<_> = names
            .iter()
            .map(|(name, shapes)| serde_json::json!({ "name": name, "shapes": shapes }))
            .collect();
        println!("{}", serde_json::to_string_pretty(&names).expect("plain fields"));
        return;
    }
    for (name, shapes) in names {
        println!("{name}");
        shapes.iter().for_each(|shape| println!("    {shape}"));
    }
}
