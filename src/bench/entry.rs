//! Entries of a report: a case or a step, checked, timed, and beside its minimum and its likely time.

use std::time::Duration;

use scenerank_ptx::timing::{LaunchTime, Micros, table};
use serde::Serialize;

use crate::backend::cuda::device::Device as KernelDevice;
use crate::backend::cuda::device::interpreter::Interpretation;
use crate::backend::cuda::device::properties::Properties;
use crate::backend::cuda::launchers;
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::device::Device;
use crate::backend::kernels::Kernels;
use crate::bench::case::{Case, Prepared};
use crate::bench::ceilings::Ceilings;
use crate::bench::chain::Chain;
use crate::bench::check::Worst;
use crate::bench::plan::Plan;
use crate::bench::processor::Processor;
use crate::bench::sizes::Sizes;
use crate::bench::step::{Phases, StepTask, StepTimes, modelled_step, step_flops};
use crate::bench::timeline::Timeline;
use crate::bench::timing::{Timer, Times};
use crate::bench::{BenchOptions, STEP};
use crate::error::{Error, Result};

/// A step is timed whole and in phases, and takes longer than a kernel.
const STEP_BUDGETS: u32 = 8;
/// Steps between two waits on a GPU.
const STEPS_PER_WAIT: usize = 10;

/// Result of a kernel at a shape, or of a step.
#[derive(Debug, Default, Serialize)]
pub struct Entry {
    /// Name of the launcher, or `step`.
    pub name: String,
    /// Number of triples.
    pub batch_size: usize,
    /// Sizes.
    pub shape: String,
    /// Family of the products; `auto` for what does not multiply on tensor cores.
    pub family: Kernels,
    /// Minimum number of bytes read and written.
    pub bytes: Option<u64>,
    /// Number of floating-point operations.
    pub flops: Option<u64>,
    /// Longest serial chain of a block: by formula, or modelled from the PTX. Modelled steps are instructions.
    pub chain: Option<Chain>,
    /// Number of blocks of the launch with the most waves; some may have no work.
    pub blocks: Option<u64>,
    /// Waves on an H200 of those of these blocks that have work.
    pub waves: Option<f64>,
    /// Error of the value that used most of its limit, against the reference in double precision, relative to the
    /// largest expected magnitude of the output. `None` if it is not finite.
    pub error: Option<f64>,
    /// Limit of the same value, relative to the same magnitude; `None` if nothing ran.
    pub tolerance: Option<f64>,
    /// Whether all values are within their limits. A wrong kernel is not timed.
    pub ok: bool,
    /// Median and spread.
    #[serde(flatten)]
    pub times: EntryTimes,
    /// Whether the arrays were read from memory rather than from the L2 cache.
    pub cold: Option<bool>,
    /// Median in milliseconds with all arrays in the L2 cache; `None` if they do not fit.
    pub warm_ms: Option<f64>,
    /// Achieved memory throughput in GB/s.
    pub gb_per_s: Option<f64>,
    /// Achieved arithmetic throughput in TFLOP/s.
    pub tflop_per_s: Option<f64>,
    /// Minimum time at the peak rates, as a share of the time taken.
    pub share: Option<f64>,
    /// Likely time on an H200 in ms: by formula, or modelled from the PTX.
    pub likely_ms: Option<f64>,
    /// Minimum time at the peak rates, in ms.
    pub floor_ms: Option<f64>,
    /// Times of the phases of a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
    /// Products and passes of a step on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<Processor>,
    /// Launches of a captured step, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// Table of a step's launches, if they are modelled.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub launches: String,
}

/// Times of an entry; `None` for a wrong kernel. Modelled times are the likely one, the optimistic one and the pessimistic
/// one; their samples are launches.
#[derive(Debug, Default, Serialize)]
pub struct EntryTimes {
    /// Median in milliseconds.
    pub ms: Option<f64>,
    /// 5th percentile.
    pub ms_low: Option<f64>,
    /// 95th percentile.
    pub ms_high: Option<f64>,
    /// Number of samples.
    pub samples: usize,
}

impl EntryTimes {
    /// Sum over modelled launches.
    pub(crate) fn modelled(launches: &[LaunchTime]) -> Self {
        let Micros { optimistic, likely, pessimistic } = Micros::sum(launches);
        let [ms, ms_low, ms_high] = [likely, optimistic, pessimistic].map(|micros| Some(micros / 1e3));
        EntryTimes { ms, ms_low, ms_high, samples: launches.len() }
    }
}

impl From<Times> for EntryTimes {
    fn from(times: Times) -> Self {
        let Times { ms, ms_low, ms_high, samples } = times;
        EntryTimes { ms: Some(ms), ms_low: Some(ms_low), ms_high: Some(ms_high), samples }
    }
}

/// An open device with its peak rates.
pub(super) struct Bench<'a> {
    device: &'a KernelDevice,
    timer: Timer<'a>,
    pub(super) ceilings: Option<Ceilings>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(device: &'a KernelDevice, properties: &Properties, budget: Duration) -> Result<Self> {
        let mut timer = Timer::new(device, properties, budget)?;
        let ceilings = Ceilings::measure(device, properties, &mut timer)?;
        Ok(Bench { device, timer, ceilings })
    }

    /// Checks a case, and times it if it is right.
    pub(super) fn entry(&mut self, case: &Case, sizes: &Sizes) -> Result<Entry> {
        let prepared = (case.prepare)(sizes.spare_rows(case.grows));
        let worst = prepared.check(self.device)?;
        let ok = worst.as_ref().is_none_or(Worst::ok);
        let measured = if ok { Some(self.timer.launch(&prepared)?) } else { None };
        let ms = measured.map(|measured| measured.times.ms);
        let entry = Entry::of(case, &prepared, sizes, self.ceilings.as_ref())?;
        Ok(Entry {
            ok,
            times: measured.map_or_else(EntryTimes::default, |measured| measured.times.into()),
            cold: measured.map(|measured| measured.cold).filter(|_| self.ceilings.is_some()),
            warm_ms: measured.and_then(|measured| measured.warm).map(|warm| warm.ms),
            gb_per_s: ms.map(|ms| case.cost.bytes as f64 / ms / 1e6),
            tflop_per_s: ms.map(|ms| case.cost.flops as f64 / ms / 1e9),
            share: entry.floor_ms.zip(ms).map(|(floor, ms)| floor / ms),
            ..entry.with_error(worst)
        })
    }
}

impl Entry {
    /// Entry of a case that has not run: only what the formulas give.
    pub(super) fn of(
        case: &Case,
        prepared: &Prepared,
        sizes: &Sizes,
        ceilings: Option<&Ceilings>,
    ) -> Result<Self> {
        let Plan { launches, blocks, waves } = Plan::of(prepared)?;
        let waves = waves * sizes.filled(case.grows);
        let floor_us = 1e3 * Ceilings::H200_PLAN.floor_ms(case.cost, case.format);
        Ok(Entry {
            name: case.kernel.into(),
            batch_size: sizes.triples(),
            shape: case.shape.clone(),
            family: case.format.kernels(),
            bytes: Some(case.cost.bytes),
            flops: Some(case.cost.flops),
            chain: Some(case.chain),
            blocks: Some(blocks),
            waves: Some(waves),
            ok: true,
            likely_ms: Some(case.chain.likely_us(launches, waves, floor_us) / 1e3),
            floor_ms: ceilings.map(|ceilings| ceilings.floor_ms(case.cost, case.format)),
            ..Entry::default()
        })
    }

    /// A case with the times that the PTX interpreter models.
    pub(super) fn modelled(device: &KernelDevice, case: &Case, sizes: &Sizes) -> Result<Self> {
        device.take_observations();
        let prepared = (case.prepare)(sizes.spare_rows(case.grows));
        let worst = prepared.check(device)?;
        let launches = device.take_observations().times;
        let entry = Entry::of(case, &prepared, sizes, Some(&Ceilings::H200_PLAN))?;
        let times = EntryTimes::modelled(&launches);
        Ok(Entry {
            ok: worst.as_ref().is_none_or(Worst::ok),
            chain: Some(modelled_chain(&launches)),
            waves: launches.iter().map(|launch| launch.waves).max_by(f64::total_cmp),
            share: entry.floor_ms.zip(times.ms).map(|(floor, ms)| floor / ms),
            likely_ms: times.ms,
            times,
            ..entry.with_error(worst)
        })
    }

    /// A step with the times that the PTX interpreter models.
    pub(super) fn modelled_step(options: &BenchOptions, sizes: &Sizes, format: Format) -> Result<Self> {
        let interpretation = Interpretation::from_environment()?.timed()?;
        let (launches, finite) = modelled_step(sizes, format, interpretation)?;
        let times = EntryTimes::modelled(&launches);
        Ok(Entry {
            chain: Some(modelled_chain(&launches)),
            likely_ms: times.ms,
            times,
            launches: table(&launches),
            ..Entry::of_step(options, sizes, finite)
        })
    }

    /// A timed step on this number of threads.
    pub(super) fn step_on_threads(
        options: &BenchOptions,
        device: Device,
        batch_size: usize,
        threads: usize,
    ) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| {
            Error::argument("--threads", format!("{threads} threads: {error}"), "use fewer threads")
        })?;
        pool.install(|| Entry::step(options, device, &options.sizes(batch_size)))
    }

    /// A timed step.
    pub(super) fn step(options: &BenchOptions, device: Device, sizes: &Sizes) -> Result<Self> {
        let steps_per_wait = if matches!(device, Device::Cuda(_)) { STEPS_PER_WAIT } else { 1 };
        let task = StepTask { sizes, budget: options.budget * STEP_BUDGETS, steps_per_wait };
        let StepTimes { step, phases, finite } = device.run(options.arithmetic(), task)?;
        let timeline = match options.format().filter(|_| options.timeline) {
            Some(format) => match device {
                Device::Cuda(index) => Some(Timeline::measure(launchers::gpu(index)?, format, sizes)?),
                Device::Emulated => Some(Timeline::measure(launchers::emulated(None)?, format, sizes)?),
                _ => None,
            },
            None => None,
        };
        let processor = match device {
            Device::Cpu => {
                Some(Processor::measure(sizes, options.precision, options.budget * STEP_BUDGETS / 2)?)
            }
            _ => None,
        };
        let floor_ms = processor.as_ref().map(|processor| processor.floor_ms(step_flops(sizes)));
        Ok(Entry {
            floor_ms,
            share: floor_ms.map(|floor| floor / step.ms),
            processor,
            times: step.into(),
            tflop_per_s: Some(step_flops(sizes) as f64 / step.ms / 1e9),
            phases: Some(phases),
            timeline,
            ..Entry::of_step(options, sizes, finite)
        })
    }

    /// A step that is not timed yet.
    fn of_step(options: &BenchOptions, sizes: &Sizes, finite: bool) -> Self {
        let (layers, nodes, edges) = (options.model.layers, sizes.nodes(), sizes.edges());
        Entry {
            name: STEP.into(),
            batch_size: sizes.triples(),
            shape: format!("{layers} layers, {nodes} nodes, {edges} edges"),
            family: options.family,
            flops: Some(step_flops(sizes)),
            ok: finite,
            ..Entry::default()
        }
    }

    /// The entry with the error of the value that used most of its limit.
    fn with_error(self, worst: Option<Worst>) -> Self {
        let of_scale = |of: fn(&Worst) -> f64| worst.as_ref().map_or(0.0, |worst| of(worst) / worst.scale);
        Entry {
            error: Some(of_scale(|worst| worst.off)).filter(|error| error.is_finite()),
            tolerance: Some(of_scale(|worst| worst.limit)),
            ..self
        }
    }
}

/// The family in words, after the name of a product or of a step; nothing for what does not multiply on tensor cores.
pub(super) fn by(family: Kernels) -> &'static str {
    match family {
        Kernels::Auto => "",
        Kernels::Mma => " by mma.sync",
        Kernels::Wgmma => " by wgmma",
    }
}

/// Instructions and cycles of the slowest blocks of launches that follow each other.
fn modelled_chain(launches: &[LaunchTime]) -> Chain {
    let chains = launches.iter().map(|launch| launch.chain);
    chains.fold(Chain::default(), |sum, (cycles, instructions)| {
        sum + Chain { steps: instructions.into(), cycles: cycles.into() }
    })
}
