//! Results of a bench, as JSON and as a table.

use serde::Serialize;

use crate::backend::device::Precision;
use crate::bench::ceilings::Ceilings;
use crate::bench::step::Phases;
use crate::bench::timing::Times;
use crate::network::config::ModelConfig;
use crate::report::table::plain_table;
use crate::terminal::{count, duration, wrap};

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// `cpu`, `reference`, `emulated`, `cuda:0`, or `none` of a roofline.
    pub device: String,
    /// Name of the device, from its driver.
    pub device_name: String,
    /// `cuda events`, or `wall clock`, which on the emulator says nothing about a GPU. A step's is always `wall clock`.
    pub timing: &'static str,
    /// Number format.
    pub precision: Precision,
    /// The network.
    pub model: ModelConfig,
    /// Size of the L2 cache in bytes, if known.
    pub l2_bytes: Option<usize>,
    /// Number of streaming multiprocessors, on a GPU.
    pub multiprocessors: Option<usize>,
    /// Highest rates of the device: measured on a GPU, assumed in a roofline.
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
}

/// Times, none of what is wrong.
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

impl From<Times> for EntryTimes {
    fn from(times: Times) -> Self {
        let Times { ms, ms_low, ms_high, samples } = times;
        EntryTimes { ms: Some(ms), ms_low: Some(ms_low), ms_high: Some(ms_high), samples }
    }
}

/// Lines of a table above its rows.
const HEADER_LINES: usize = 2;

/// Text for a value that there is not.
fn absent() -> String {
    "-".into()
}

impl Report {
    /// 0, or 1 where something is wrong.
    pub fn exit_code(&self) -> i32 {
        i32::from(self.kernels.iter().any(|entry| !entry.ok))
    }

    /// Table of the entries: a line with kernel and shape, and below it a line of numbers.
    pub fn text(&self) -> String {
        let mut table = plain_table([
            "B", "bytes", "FLOP", "error", "limit", "time", "5%", "95%", "GB/s", "TFLOP/s", "floor", "share",
        ]);
        for entry in &self.kernels {
            let number = |value: Option<f64>, digits: usize| {
                value.map_or(absent(), |value| format!("{value:.digits$}"))
            };
            let cost = |value: Option<u64>| value.map_or(absent(), |value| count(value as f64));
            let time = |ms: Option<f64>| ms.map_or(absent(), |ms| duration(ms / 1e3));
            let scientific = |value: Option<f64>| value.map_or(absent(), |value| format!("{value:.1e}"));
            table.add_row([
                format!("{:>5}", entry.batch_size),
                cost(entry.bytes),
                cost(entry.flops),
                scientific(entry.error),
                scientific(entry.tolerance),
                time(entry.times.ms),
                time(entry.times.ms_low),
                time(entry.times.ms_high),
                number(entry.gb_per_s, 1),
                number(entry.tflop_per_s, 3),
                time(entry.floor_ms),
                entry.share.map_or(absent(), |share| format!("{:.0}%", 100.0 * share)),
            ]);
        }
        let table = table.to_string();
        let mut lines = table.lines();
        let mut text: Vec<String> = lines.by_ref().take(HEADER_LINES).map(String::from).collect();
        for (entry, numbers) in self.kernels.iter().zip(lines) {
            let wrong = if entry.ok { "" } else { "WRONG: " };
            text.push(wrap(&format!("{wrong}{} {}", entry.name, entry.shape), 0, 2));
            text.push(numbers.into());
        }
        text.join("\n")
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
                let [load_batch, forward, loss, backward, update] =
                    [load_batch, forward, loss, backward, update].map(|ms| duration(ms / 1e3));
                let phases = format!(
                    "phases of a step with {} triples, each waited for: load_batch {load_batch}, forward {forward}, \
                     loss {loss}, backward {backward}, update {update}",
                    entry.batch_size
                );
                words.push('\n');
                words.push_str(&wrap(&phases, 0, 2));
            }
        }
        words
    }
}
