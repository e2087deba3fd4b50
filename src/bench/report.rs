//! Results of a bench, as JSON and as a table.

use scenerank_ptx::timing::{LaunchTime, Micros};
use serde::Serialize;

use crate::backend::device::Precision;
use crate::bench::MODELLED;
use crate::bench::ceilings::Ceilings;
use crate::bench::step::Phases;
use crate::bench::timing::Times;
use crate::network::config::ModelConfig;
use crate::report::table::{Table, plain_table};

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// `cpu`, `reference`, `emulated`, `ptx`, `cuda:0`, or `none` of a roofline.
    pub device: String,
    /// Name of the device, from its driver.
    pub device_name: String,
    /// `cuda events`; `wall clock`, which on the emulator says nothing about a GPU; or `modelled`, on the PTX interpreter. A
    /// step's is always `wall clock` unless it is modelled.
    pub timing: &'static str,
    /// Number format.
    pub precision: Precision,
    /// The network.
    pub model: ModelConfig,
    /// Size of the L2 cache in bytes, if known.
    pub l2_bytes: Option<usize>,
    /// Number of streaming multiprocessors, on a GPU.
    pub multiprocessors: Option<usize>,
    /// Highest rates of the device: measured on a GPU, assumed in a roofline and beside modelled times.
    pub ceilings: Option<Ceilings>,
    /// Kernels by shape, and the step.
    pub kernels: Vec<Entry>,
}

/// A kernel at a shape, or a step.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// The launcher, or `step`.
    pub name: String,
    /// Number of triples.
    pub batch_size: usize,
    /// Sizes.
    pub shape: String,
    /// Least number of bytes to read and write.
    pub bytes: Option<u64>,
    /// Floating-point operations.
    pub flops: Option<u64>,
    /// Error against the reference in double precision, over the largest expected magnitude of the output, of the value that
    /// used most of its limit; none if it is no number.
    pub error: Option<f64>,
    /// The limit of the same value, over the same magnitude; none if nothing ran.
    pub tolerance: Option<f64>,
    /// Whether it is right; a wrong one is not timed.
    pub ok: bool,
    /// Median and spread.
    #[serde(flatten)]
    pub times: EntryTimes,
    /// Whether arrays came from beyond the L2 cache.
    pub cold: Option<bool>,
    /// Achieved memory throughput in GB/s.
    pub gb_per_s: Option<f64>,
    /// Achieved arithmetic throughput in TFLOP/s.
    pub tflop_per_s: Option<f64>,
    /// Least time at the ceilings, as a share of the time taken.
    pub share: Option<f64>,
    /// Least time at the ceilings, in ms.
    pub floor_ms: Option<f64>,
    /// Times of a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
    /// Table of a step's launches, if they are modelled.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub launches: String,
}

/// Times, none of what is wrong. Modelled times are the likely one, the optimistic one and the pessimistic one; samples are
/// launches.
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

impl Report {
    /// 0, or 1 where something is wrong.
    pub fn exit_code(&self) -> i32 {
        i32::from(self.kernels.iter().any(|entry| !entry.ok))
    }

    /// The entries; the phases of steps; what the columns mean.
    pub fn table(&self) -> Table {
        let [middle, low, high] = match self.timing == MODELLED {
            true => ["likely us", "optimistic", "pessimistic"],
            false => ["us", "5%", "95%"],
        };
        let mut table = plain_table([
            "kernel", "B", "shape", "MB", "MFLOP", "error", "of", middle, low, high, "GB/s", "TFLOP/s",
            "floor us", "share",
        ]);
        for entry in &self.kernels {
            let number = |value: Option<f64>, digits: usize| {
                value.map_or("-".to_string(), |value| format!("{value:.digits$}"))
            };
            let count = |value: Option<u64>| number(value.map(|value| value as f64 / 1e6), 2);
            let micros = |ms: Option<f64>| number(ms.map(|ms| ms * 1e3), 1);
            let scientific = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.1e}"));
            let error = match (entry.error, entry.ok) {
                (Some(_), true) => scientific(entry.error),
                (Some(error), false) => format!("WRONG {error:.1e}"),
                (None, false) => "WRONG".into(),
                (None, true) => "-".into(),
            };
            table.add_row([
                entry.name.clone(),
                entry.batch_size.to_string(),
                entry.shape.clone(),
                count(entry.bytes),
                count(entry.flops),
                error,
                scientific(entry.tolerance),
                micros(entry.times.ms),
                micros(entry.times.ms_low),
                micros(entry.times.ms_high),
                number(entry.gb_per_s, 1),
                number(entry.tflop_per_s, 3),
                micros(entry.floor_ms),
                entry.share.map_or("-".into(), |share| format!("{:.0}%", 100.0 * share)),
            ]);
        }
        table
    }

    /// What the table's times are, and the ceilings.
    pub fn caption(&self) -> String {
        let mut words = format!("{} ({}), {}", self.device, self.device_name, self.timing);
        match &self.ceilings {
            Some(ceilings) => words.push_str(&format!(
                "; ceilings: copy {:.0} GB/s, fp32 {:.1}, bf16 {:.1} TFLOP/s",
                ceilings.copy_gb_per_s, ceilings.fp32_tflop_per_s, ceilings.bf16_tflop_per_s
            )),
            None if self.device == "emulated" => words.push_str(", which says nothing about a GPU"),
            None => {}
        }
        for entry in &self.kernels {
            if let Some(Phases { load_batch, forward, loss, backward, update }) = entry.phases {
                words.push_str(&format!(
                    "\nphases of a step of {}, ms, each waited for: load_batch {load_batch:.3}, forward \
                     {forward:.3}, loss {loss:.3}, backward {backward:.3}, update {update:.3}",
                    entry.batch_size
                ));
            }
        }
        for entry in self.kernels.iter().filter(|entry| !entry.launches.is_empty()) {
            words.push_str(&format!("\nlaunches of a step of {}:\n{}", entry.batch_size, entry.launches));
        }
        words
    }
}
