//! Times of every kernel and of a whole training step, beside the peak rates of the device.
//!
//! Each launcher runs at each of the model's shapes. Its error against the reference in double precision comes first; a
//! wrong kernel is not timed. Its time ([`timing`]) follows, with the rates that its cost ([`case::Cost`]) implies, and
//! the minimum time at the measured peak rates ([`ceilings`]). The command `bench`, the benches in `benches/kernels.rs`
//! and the tests of the kernels in `tests/kernels` share the cases ([`cases`]): inputs, launches, expectations and
//! tolerances are defined once.

pub mod baseline;
pub mod case;
pub mod cases;
pub mod ceilings;
pub mod chain;
pub mod check;
pub mod entry;
pub mod launches;
pub mod matrix;
pub mod occupancy;
pub mod plan;
pub mod processor;
pub mod report;
pub mod sizes;
pub mod step;
pub mod timeline;
pub mod timing;
pub mod values;

use std::time::Duration;

use scenerank_matmul::Amx;

use crate::backend::cuda::device::Device as KernelDevice;
use crate::backend::cuda::device::interpreter::Interpretation;
use crate::backend::cuda::launchers;
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::device::{Arithmetic, Device, Precision};
use crate::backend::family;
use crate::backend::kernels::Kernels;
use crate::error::{Error, Result};
use crate::network::config::ModelConfig;
use crate::progress::Progress;

use case::Case;
use ceilings::Ceilings;
use entry::{Bench, Entry};
use launches::EmptyLaunches;
use processor::processor_name;
use report::{Grids, Report};
use sizes::Sizes;

/// Name of the whole step among the kernels.
pub const STEP: &str = "step";

/// Options of a bench.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Device to run on.
    pub device: Device,
    /// Number format of the computation.
    pub precision: Precision,
    /// Family of the products on tensor cores. With `auto`, the report has entries for each that the device has.
    pub family: Kernels,
    /// Sizes of the network.
    pub model: ModelConfig,
    /// Numbers of triples per batch; the report has entries for each.
    pub batch_sizes: Vec<usize>,
    /// Names of launchers, of kernel files, or `step`; empty for all.
    pub kernels: Vec<String>,
    /// Approximate time for each kernel; a step gets eight times as much, and on the CPU five more for its parts.
    pub budget: Duration,
    /// What grids cover.
    pub grids: Grids,
    /// Whether each launch of a captured step is timed too.
    pub timeline: bool,
    /// Numbers of threads of a step on the CPU; empty for those of the process.
    pub threads: Vec<usize>,
}

/// Timing of a report whose times the PTX interpreter models.
pub const MODELLED: &str = "modelled";

/// Takes a report with one more entry than before.
pub type EachEntry<'a> = &'a mut dyn FnMut(&Report) -> Result<()>;

/// Checks and times what the options name.
pub fn run(options: &BenchOptions) -> Result<Report> {
    run_cases(options, cases::all)
}

/// Like [`run`], with the caller's cases.
pub fn run_cases(options: &BenchOptions, cases: impl Fn(&Sizes, Format) -> Vec<Case>) -> Result<Report> {
    run_with(options, cases, &mut |_| Ok(()))
}

/// Like [`run_cases`]; `each` is called after each entry.
pub fn run_with(
    options: &BenchOptions,
    cases: impl Fn(&Sizes, Format) -> Vec<Case>,
    each: EachEntry<'_>,
) -> Result<Report> {
    // An unusable device is an error before work begins.
    let family = options.device.family(options.arithmetic())?;
    if options.device == Device::Cpu && options.precision == Precision::Bf16 && Amx::new().is_none() {
        return Err(Error::Device {
            device: options.device.to_string(),
            problem: "has no matrix instructions for bf16 (AMX), rounds and computes in fp32, so its times are of no use".into(),
            remedy: "use --precision fp32, or --device cuda or emulated".into(),
        });
    }
    let (device, kernels) = open(options.device)?;
    if !options.threads.is_empty() && device != Device::Cpu {
        let remedy = "use --device cpu, or leave the option out";
        return Err(Error::argument("--threads", format!("the device is {device}"), remedy));
    }
    check_names(options, kernels.is_some(), &cases)?;
    let asked = options.family;
    let families = families(options, family, kernels.as_ref());
    let of_families: Vec<BenchOptions> =
        families.iter().map(|&family| BenchOptions { family, ..options.clone() }).collect();
    let options = &of_families[0];
    let properties = kernels.as_ref().map(KernelDevice::properties).transpose()?;
    let modelled = matches!(device, Device::Ptx { .. });
    let gpu = properties.as_ref().filter(|properties| properties.gpu);
    let mut report = Report {
        device: device.to_string(),
        device_name: properties.as_ref().map_or_else(
            || {
                let threads = format!("{} threads", rayon::current_num_threads());
                processor_name().map_or(threads.clone(), |name| format!("{name}, {threads}"))
            },
            |properties| properties.name.clone(),
        ),
        timing: match (modelled, gpu.is_some()) {
            (true, _) => MODELLED,
            (false, true) => "cuda events",
            (false, false) => "wall clock",
        },
        driver: gpu.map(|gpu| gpu.driver.clone()),
        most_clocks_mhz: gpu.and_then(|gpu| gpu.clocks_mhz),
        l2_bytes: gpu.map(|gpu| gpu.l2_bytes),
        multiprocessors: gpu.map(|gpu| gpu.multiprocessors),
        ceilings: modelled.then_some(Ceilings::H200_PLAN),
        families: families.into_iter().filter(|&family| family != Kernels::Auto).collect(),
        ..Report::empty(options)
    };
    // A named family must do where the check of wgmma faults.
    if let (Some(kernels), Kernels::Auto, Some(format)) = (&kernels, asked, options.format()) {
        report.choice = family::choice(kernels, format, options.arithmetic().triples)?;
    }
    if let (Some(kernels), Some(properties), Some(format)) = (&kernels, &properties, options.format()) {
        let mut bench = Bench::new(kernels, properties, options.budget)?;
        report.ceilings = report.ceilings.or(bench.ceilings);
        if !modelled {
            report.empty_launches = Some(EmptyLaunches::measure(kernels, properties.multiprocessors)?);
        }
        for &batch_size in &options.batch_sizes {
            let sizes = options.sizes(batch_size);
            let others = of_families[1..].iter().filter_map(BenchOptions::format);
            let all = with_products(cases(&sizes, format), others.map(|format| cases(&sizes, format)));
            let chosen: Vec<Case> = all.into_iter().filter(|case| options.wants(case.kernel)).collect();
            let progress =
                Progress::new(format!("batch of {batch_size}"), Some(chosen.len() as u64), "kernels");
            for case in chosen {
                progress.message(case.kernel);
                report.kernels.push(match modelled {
                    true => Entry::modelled(kernels, &case, &sizes)?,
                    false => bench.entry(&case, &sizes)?,
                });
                each(&report)?;
                progress.advance(1);
            }
            progress.finish();
        }
    }
    if options.wants(STEP) {
        for &batch_size in &options.batch_sizes {
            if !options.threads.is_empty() {
                for &threads in &options.threads {
                    report.kernels.push(Entry::step_on_threads(options, device, batch_size, threads)?);
                    each(&report)?;
                }
                continue;
            }
            let sizes = options.sizes(batch_size);
            for options in &of_families {
                report.kernels.push(match options.format().filter(|_| modelled) {
                    Some(format) => Entry::modelled_step(options, &sizes, format)?,
                    None => Entry::step(options, device, &sizes)?,
                });
                each(&report)?;
            }
        }
    }
    Ok(report)
}

/// Bytes, operations and longest chain of every kernel, its minimum time at these peak rates and its likely time, from the
/// formulas alone. Nothing runs, and no device is needed.
pub fn roofline(options: &BenchOptions, ceilings: Ceilings) -> Result<Report> {
    check_names(options, true, &cases::all)?;
    options.arithmetic().check()?;
    let Some(format) = options.format() else {
        let remedy = "use --precision fp32, bf16 or bf16x3";
        return Err(Error::argument("--precision", "no kernel computes in it", remedy));
    };
    let mut kernels = Vec::new();
    for &batch_size in &options.batch_sizes {
        let sizes = options.sizes(batch_size);
        for case in cases::all(&sizes, format).into_iter().filter(|case| options.wants(case.kernel)) {
            let prepared = (case.prepare)(sizes.spare_rows(case.grows));
            kernels.push(Entry::of(&case, &prepared, &sizes, Some(&ceilings))?);
        }
    }
    let families = Some(format.kernels()).filter(|&family| family != Kernels::Auto).into_iter().collect();
    Ok(Report { ceilings: Some(ceilings), families, kernels, ..Report::empty(options) })
}

/// Names for `--kernel`, each with its shapes at the first batch size.
pub fn list(options: &BenchOptions) -> Vec<(&'static str, Vec<String>)> {
    let sizes = options.sizes(options.batch_sizes.first().copied().unwrap_or(1));
    let format = options.format().unwrap_or(Format::Fp32);
    let mut names: Vec<(&'static str, Vec<String>)> = Vec::new();
    for case in cases::all(&sizes, format).into_iter().filter(|case| options.wants(case.kernel)) {
        match names.iter_mut().find(|(name, _)| *name == case.kernel) {
            Some((_, shapes)) => shapes.push(case.shape),
            None => names.push((case.kernel, vec![case.shape])),
        }
    }
    if options.wants(STEP) {
        names.push((STEP, vec![format!("{} layers, forward to update", options.model.layers)]));
    }
    names
}

impl BenchOptions {
    /// Number format and family of the computation.
    fn arithmetic(&self) -> Arithmetic {
        let arithmetic = Arithmetic::new(self.precision, self.family);
        Arithmetic { triples: self.batch_sizes.first().copied().unwrap_or(arithmetic.triples), ..arithmetic }
    }

    /// Format of the CUDA kernels' products, or `None` for formats that they do not have.
    fn format(&self) -> Option<Format> {
        self.arithmetic().format()
    }

    fn sizes(&self, batch_size: usize) -> Sizes {
        let sizes = Sizes::new(self.model, batch_size);
        if self.grids == Grids::Training { sizes.with_training_grids() } else { sizes }
    }

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

/// Families to bench, of which `used` is the one of the options: with `auto`, all that the device has.
fn families(options: &BenchOptions, used: Kernels, kernels: Option<&KernelDevice>) -> Vec<Kernels> {
    let other = options.format().and_then(Format::by_warpgroups);
    let has_both = kernels.zip(other).is_some_and(|(kernels, other)| other.runs_on(kernels));
    match options.family {
        Kernels::Auto if has_both => vec![Kernels::Mma, Kernels::Wgmma],
        _ => vec![used],
    }
}

/// `cases`, and after each product those of the `others`, which are the same cases in other families.
fn with_products(cases: Vec<Case>, others: impl Iterator<Item = Vec<Case>>) -> Vec<Case> {
    let is_product = |case: &Case| case.format.kernels() != Kernels::Auto;
    let mut others: Vec<_> = others.map(|cases| cases.into_iter().filter(is_product)).collect();
    let mut all = Vec::new();
    for case in cases {
        let multiplies = is_product(&case);
        all.push(case);
        if multiplies {
            all.extend(others.iter_mut().filter_map(Iterator::next));
        }
    }
    all
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
                    "did you mean {}? `scenerank bench --list` prints all names",
                    closest.expect("the step at least")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sizes::SMALL;

    #[test]
    fn each_product_is_followed_by_the_same_one_of_the_other_family() {
        let sizes = Sizes::new(SMALL, 1);
        let of = |format| cases::all(&sizes, format);
        let names = |cases: &[Case]| -> Vec<(&str, String)> {
            cases.iter().map(|case| (case.kernel, case.shape.clone())).collect()
        };
        let both = with_products(of(Format::Bf16), [of(Format::Bf16Warpgroup)].into_iter());
        let (products, others): (Vec<Case>, Vec<Case>) =
            both.into_iter().partition(|case| case.format.kernels() != Kernels::Auto);
        assert!(!products.is_empty() && !others.is_empty());
        for pair in products.chunks(2) {
            assert_eq!(names(&pair[..1]), names(&pair[1..]));
            assert_eq!([&pair[0], &pair[1]].map(|case| case.format), [Format::Bf16, Format::Bf16Warpgroup]);
        }
        let mut alone = of(Format::Bf16);
        assert_eq!(products.len() / 2 + others.len(), alone.len());
        alone.retain(|case| case.format.kernels() == Kernels::Auto);
        assert_eq!(names(&others), names(&alone));
        // Without another family nothing is added.
        assert_eq!(names(&with_products(of(Format::Fp32), [].into_iter())), names(&of(Format::Fp32)));
    }
}
