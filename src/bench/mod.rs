//! Times of every kernel and of a whole training step, beside the peak rates of the device.
//!
//! Each launcher runs at each of the model's shapes. Its error against the reference in double precision comes first; a
//! wrong kernel is not timed. Its time ([`timing`]) follows, with the rates that its cost ([`case::Cost`]) implies, and
//! the minimum time at the measured peak rates ([`ceilings`]). The command `bench`, the benches in `benches/kernels.rs`
//! and the tests of the kernels in `tests/kernels` share the cases ([`cases`]): inputs, launches, expectations and
//! tolerances are defined once.

pub mod case;
pub mod cases;
pub mod ceilings;
pub mod check;
pub mod matrix;
pub mod occupancy;
pub mod report;
pub mod sizes;
pub mod step;
pub mod timing;
pub mod values;

use std::time::Duration;

use crate::backend::Backend;
use crate::backend::cuda::device::Device as KernelDevice;
use crate::backend::cuda::device::interpreter::Interpretation;
use crate::backend::cuda::device::properties::Properties;
use crate::backend::cuda::launchers;
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::device::{BackendTask, Device, Precision};
use crate::error::{Error, Result};
use crate::network::config::ModelConfig;
use crate::progress::Progress;

use case::Case;
use ceilings::Ceilings;
use check::Worst;
use report::{Entry, EntryTimes, Report};
use scenerank_ptx::timing::table;
use sizes::Sizes;
use step::{StepTask, StepTimes, modelled_step, step_flops};
use timing::Timer;

/// Name of the whole step among the kernels.
pub const STEP: &str = "step";

/// Options of a bench.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Device to run on.
    pub device: Device,
    /// Number format of the computation.
    pub precision: Precision,
    /// Sizes of the network.
    pub model: ModelConfig,
    /// Numbers of triples per batch; the report has entries for each.
    pub batch_sizes: Vec<usize>,
    /// Names of launchers, of kernel files, or `step`; empty for all.
    pub kernels: Vec<String>,
    /// Approximate time for each kernel; a step gets eight times as much.
    pub budget: Duration,
}

/// Timing of a report whose times the PTX interpreter models.
pub const MODELLED: &str = "modelled";

/// A step is timed whole and in phases, and takes longer than a kernel.
const STEP_BUDGETS: u32 = 8;
/// Steps between two waits on a GPU.
const STEPS_PER_WAIT: usize = 10;

/// Checks and times what the options name.
pub fn run(options: &BenchOptions) -> Result<Report> {
    run_cases(options, cases::all)
}

/// Like [`run`], with the caller's cases.
pub fn run_cases(options: &BenchOptions, cases: impl Fn(&Sizes, Format) -> Vec<Case>) -> Result<Report> {
    options.device.run(options.precision, Probe)?;
    if options.device == Device::Cpu && options.precision == Precision::Bf16 {
        return Err(Error::Device {
            device: options.device.to_string(),
            problem: "rounds to bf16 and computes in fp32, so its times are of no use".into(),
            remedy: "use --precision fp32, or --device cuda or emulated".into(),
        });
    }
    let (device, kernels) = open(options.device)?;
    check_names(options, kernels.is_some(), &cases)?;
    let properties = kernels.as_ref().map(KernelDevice::properties).transpose()?;
    let modelled = matches!(device, Device::Ptx { .. });
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        device: device.to_string(),
        device_name: properties.as_ref().map_or_else(
            || format!("{} threads", rayon::current_num_threads()),
            |properties| properties.name.clone(),
        ),
        timing: match (modelled, properties.as_ref().is_some_and(|p| p.gpu)) {
            (true, _) => MODELLED,
            (false, true) => "cuda events",
            (false, false) => "wall clock",
        },
        precision: options.precision,
        model: options.model,
        l2_bytes: properties.as_ref().filter(|p| p.gpu).map(|p| p.l2_bytes),
        multiprocessors: properties.as_ref().filter(|p| p.gpu).map(|p| p.multiprocessors),
        ceilings: modelled.then_some(Ceilings::H200_PLAN),
        kernels: Vec::new(),
    };
    if let (Some(kernels), Some(properties), Some(format)) =
        (&kernels, &properties, options.precision.format())
    {
        let mut bench = Bench::new(kernels, properties, options.budget)?;
        report.ceilings = report.ceilings.or(bench.ceilings);
        for &batch_size in &options.batch_sizes {
            let sizes = Sizes::new(options.model, batch_size);
            let chosen: Vec<Case> =
                cases(&sizes, format).into_iter().filter(|case| options.wants(case.kernel)).collect();
            let progress =
                Progress::new(format!("batch of {batch_size}"), Some(chosen.len() as u64), "kernels");
            for case in chosen {
                progress.message(case.kernel);
                report.kernels.push(match modelled {
                    true => modelled_entry(kernels, &case, batch_size)?,
                    false => bench.entry(&case, batch_size)?,
                });
                progress.advance(1);
            }
            progress.finish();
        }
    }
    if options.wants(STEP) {
        for &batch_size in &options.batch_sizes {
            let sizes = Sizes::new(options.model, batch_size);
            report.kernels.push(match options.precision.format().filter(|_| modelled) {
                Some(format) => modelled_step_entry(options, &sizes, format, batch_size)?,
                None => step_entry(options, device, &sizes, batch_size)?,
            });
        }
    }
    Ok(report)
}

/// Bytes and operations of every kernel, and its minimum time at these peak rates, from the formulas alone. Nothing
/// runs, and no device is needed.
pub fn roofline(options: &BenchOptions, ceilings: Ceilings) -> Result<Report> {
    check_names(options, true, &cases::all)?;
    let Some(format) = options.precision.format() else {
        let remedy = "use --precision fp32, bf16 or bf16x3";
        return Err(Error::argument("--precision", "no kernel computes in it", remedy));
    };
    let of_batch = |&batch_size: &usize| {
        let cases = cases::all(&Sizes::new(options.model, batch_size), format).into_iter();
        cases
            .filter(|case| options.wants(case.kernel))
            .map(|case| Entry::of(&case, batch_size, Some(&ceilings)))
            .collect::<Vec<Entry>>()
    };
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        device: "none".into(),
        device_name: "formulas alone".into(),
        timing: "nothing ran",
        precision: options.precision,
        model: options.model,
        l2_bytes: None,
        multiprocessors: None,
        ceilings: Some(ceilings),
        kernels: options.batch_sizes.iter().flat_map(of_batch).collect(),
    })
}

impl BenchOptions {
    fn wants(&self, kernel: &str) -> bool {
        self.kernels.is_empty() || self.kernels.iter().any(|name| names(name, kernel))
    }
}

/// Whether `name` is the kernel's name or that of its file, such as `linear` for `linear_forward`.
fn names(name: &str, kernel: &str) -> bool {
    kernel.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Opens the device that `auto` stands for, and its kernels if it has any.
fn open(device: Device) -> Result<(Device, Option<KernelDevice>)> {
    Ok(match device {
        Device::Auto => match launchers::gpu(0) {
            Ok(gpu) => (Device::Cuda(0), Some(gpu)),
            Err(_) => (Device::Cpu, None),
        },
        Device::Cuda(index) => (device, Some(launchers::gpu(index)?)),
        Device::Emulated => (device, Some(launchers::emulated(None)?)),
        Device::Ptx { .. } => {
            let interpretation = Interpretation::from_environment()?.timed()?;
            (device, Some(launchers::interpreted(interpretation)?))
        }
        Device::Cpu | Device::Reference => (device, None),
    })
}

fn check_names(
    options: &BenchOptions,
    has_kernels: bool,
    cases: &impl Fn(&Sizes, Format) -> Vec<Case>,
) -> Result<()> {
    let mut known: Vec<&str> = Vec::new();
    for case in cases(&Sizes::new(options.model, 1), Format::Fp32) {
        if !known.contains(&case.kernel) {
            known.push(case.kernel);
        }
    }
    known.push(STEP);
    for name in &options.kernels {
        if !known.iter().any(|kernel| names(name, kernel)) {
            let closest = known.iter().max_by(|a, b| {
                let likeness = |kernel: &str| strsim::jaro_winkler(name, kernel);
                likeness(a).total_cmp(&likeness(b))
            });
            return Err(Error::argument(
                "--kernel",
                format!("no kernel is called {name:?}"),
                format!(
                    "did you mean {}? There are {}",
                    closest.expect("the step at least"),
                    known.join(", ")
                ),
            ));
        }
        if !has_kernels && !names(name, STEP) {
            return Err(Error::argument(
                "--kernel",
                format!("{name} runs on a GPU or the emulator"),
                "use --device cuda or --device emulated, or --kernel step",
            ));
        }
    }
    Ok(())
}

/// Opens the device in the requested precision, so that an unusable one is an error before work begins.
struct Probe;

impl BackendTask for Probe {
    type Output = ();

    fn run<B: Backend>(self, _: B) -> Result<()> {
        Ok(())
    }
}

/// An open device with its peak rates.
struct Bench<'a> {
    device: &'a KernelDevice,
    timer: Timer<'a>,
    ceilings: Option<Ceilings>,
}

impl<'a> Bench<'a> {
    fn new(device: &'a KernelDevice, properties: &Properties, budget: Duration) -> Result<Self> {
        let mut timer = Timer::new(device, properties, budget)?;
        let ceilings = Ceilings::measure(device, properties, &mut timer)?;
        Ok(Bench { device, timer, ceilings })
    }

    fn entry(&mut self, case: &Case, batch_size: usize) -> Result<Entry> {
        let prepared = (case.prepare)(0);
        let worst = prepared.check(self.device)?;
        let ok = worst.is_none_or(|worst| worst.ok());
        let of_scale = |of: fn(&Worst) -> f64| worst.as_ref().map_or(0.0, |worst| of(worst) / worst.scale);
        let timed = if ok { Some(self.timer.launch(&prepared)?) } else { None };
        let ms = timed.map(|(times, _)| times.ms);
        let entry = Entry::of(case, batch_size, self.ceilings.as_ref());
        Ok(Entry {
            error: Some(of_scale(|worst| worst.off)).filter(|error| error.is_finite()),
            tolerance: Some(of_scale(|worst| worst.limit)),
            ok,
            times: timed.map_or_else(EntryTimes::default, |(times, _)| times.into()),
            cold: timed.map(|(_, cold)| cold).filter(|_| self.ceilings.is_some()),
            gb_per_s: ms.map(|ms| case.cost.bytes as f64 / ms / 1e6),
            tflop_per_s: ms.map(|ms| case.cost.flops as f64 / ms / 1e9),
            share: entry.floor_ms.zip(ms).map(|(floor, ms)| floor / ms),
            ..entry
        })
    }
}

/// A case with the times that the PTX interpreter models.
fn modelled_entry(device: &KernelDevice, case: &Case, batch_size: usize) -> Result<Entry> {
    device.take_observations();
    let worst = (case.prepare)(0).check(device)?;
    let launches = device.take_observations().times;
    let of_scale = |of: fn(&Worst) -> f64| worst.as_ref().map_or(0.0, |worst| of(worst) / worst.scale);
    let entry = Entry::of(case, batch_size, Some(&Ceilings::H200_PLAN));
    let times = EntryTimes::modelled(&launches);
    Ok(Entry {
        error: Some(of_scale(|worst| worst.off)).filter(|error| error.is_finite()),
        tolerance: Some(of_scale(|worst| worst.limit)),
        ok: worst.is_none_or(|worst| worst.ok()),
        share: entry.floor_ms.zip(times.ms).map(|(floor, ms)| floor / ms),
        times,
        ..entry
    })
}

fn modelled_step_entry(
    options: &BenchOptions,
    sizes: &Sizes,
    format: Format,
    batch_size: usize,
) -> Result<Entry> {
    let interpretation = Interpretation::from_environment()?.timed()?;
    let (launches, finite) = modelled_step(sizes, format, interpretation)?;
    Ok(Entry {
        times: EntryTimes::modelled(&launches),
        launches: table(&launches),
        ..Entry::of_step(options, sizes, batch_size, finite)
    })
}

impl Entry {
    /// Entry of a case that has not run: only what the formulas give.
    fn of(case: &Case, batch_size: usize, ceilings: Option<&Ceilings>) -> Self {
        Entry {
            name: case.kernel.into(),
            batch_size,
            shape: case.shape.clone(),
            bytes: Some(case.cost.bytes),
            flops: Some(case.cost.flops),
            error: None,
            tolerance: None,
            ok: true,
            times: EntryTimes::default(),
            cold: None,
            gb_per_s: None,
            tflop_per_s: None,
            share: None,
            floor_ms: ceilings.map(|ceilings| ceilings.floor_ms(case.cost, case.format)),
            phases: None,
            launches: String::new(),
        }
    }

    /// A step that is not timed yet.
    fn of_step(options: &BenchOptions, sizes: &Sizes, batch_size: usize, finite: bool) -> Self {
        let (layers, nodes, edges) = (options.model.layers, sizes.nodes(), sizes.edges());
        Entry {
            name: STEP.into(),
            batch_size,
            shape: format!("{layers} layers, {nodes} nodes, {edges} edges"),
            bytes: None,
            flops: Some(step_flops(sizes)),
            error: None,
            tolerance: None,
            ok: finite,
            times: EntryTimes::default(),
            cold: None,
            gb_per_s: None,
            tflop_per_s: None,
            share: None,
            floor_ms: None,
            phases: None,
            launches: String::new(),
        }
    }
}

fn step_entry(options: &BenchOptions, device: Device, sizes: &Sizes, batch_size: usize) -> Result<Entry> {
    let steps_per_wait = if matches!(device, Device::Cuda(_)) { STEPS_PER_WAIT } else { 1 };
    let task = StepTask { sizes, budget: options.budget * STEP_BUDGETS, steps_per_wait };
    let StepTimes { step, phases, finite } = device.run(options.precision, task)?;
    Ok(Entry {
        times: step.into(),
        tflop_per_s: Some(step_flops(sizes) as f64 / step.ms / 1e9),
        phases: Some(phases),
        ..Entry::of_step(options, sizes, batch_size, finite)
    })
}
