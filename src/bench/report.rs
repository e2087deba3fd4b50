//! Results of a bench, as JSON and as a table.

use scenerank_ptx::timing::{LaunchTime, Micros};
use serde::Serialize;

use crate::backend::device::Precision;
use crate::bench::MODELLED;
use crate::bench::ceilings::Ceilings;
use crate::bench::step::Phases;
use crate::bench::timing::Times;
use crate::network::config::ModelConfig;
use crate::report::table::plain_table;
use crate::terminal::{count, duration, wrap};

/// Results of one bench.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// `cpu`, `reference`, `emulated`, `ptx`, `cuda:0`, or `none` for a roofline.
    pub device: String,
    /// Name of the device, from its driver.
    pub device_name: String,
    /// `cuda events`; `wall clock`, which on the emulator says nothing about a GPU; or `modelled`, on the PTX interpreter. A
    /// step is always timed by `wall clock` unless it is modelled.
    pub timing: &'static str,
    /// Number format.
    pub precision: Precision,
    /// The network.
    pub model: ModelConfig,
    /// Size of the L2 cache in bytes, if known.
    pub l2_bytes: Option<usize>,
    /// Number of streaming multiprocessors, on a GPU.
    pub multiprocessors: Option<usize>,
    /// Peak rates of the device: measured on a GPU, assumed in a roofline and beside modelled times.
    pub ceilings: Option<Ceilings>,
    /// Entries of kernels by shape, and of the step.
    pub kernels: Vec<Entry>,
}

/// Result of a kernel at a shape, or of a step.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Name of the launcher, or `step`.
    pub name: String,
    /// Number of triples.
    pub batch_size: usize,
    /// Sizes.
    pub shape: String,
    /// Minimum number of bytes read and written.
    pub bytes: Option<u64>,
    /// Number of floating-point operations.
    pub flops: Option<u64>,
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
    /// Achieved memory throughput in GB/s.
    pub gb_per_s: Option<f64>,
    /// Achieved arithmetic throughput in TFLOP/s.
    pub tflop_per_s: Option<f64>,
    /// Minimum time at the peak rates, as a share of the time taken.
    pub share: Option<f64>,
    /// Minimum time at the peak rates, in ms.
    pub floor_ms: Option<f64>,
    /// Times of the phases of a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
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

/// Lines of a table above its rows.
const HEADER_LINES: usize = 2;

/// Text for a missing value.
fn absent() -> String {
    "-".into()
}

impl Report {
    /// Exit code: 1 if a kernel is wrong, otherwise 0.
    pub fn exit_code(&self) -> i32 {
        i32::from(self.kernels.iter().any(|entry| !entry.ok))
    }

    /// Table of the entries: a line with kernel and shape, and below it a line of numbers.
    pub fn text(&self) -> String {
        let [middle, low, high] = match self.timing == MODELLED {
            true => ["likely", "optimistic", "pessimistic"],
            false => ["time", "5%", "95%"],
        };
        let mut table = plain_table([
            "B", "bytes", "FLOP", "error", "limit", middle, low, high, "GB/s", "TFLOP/s", "floor", "share",
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

    /// Names the device, the clock and the peak rates, and lists the phases of each step.
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
        for entry in self.kernels.iter().filter(|entry| !entry.launches.is_empty()) {
            words.push_str(&format!("\nlaunches of a step of {}:\n{}", entry.batch_size, entry.launches));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_numbers_fit() {
        let times = Times { ms: 123.4, ms_low: 123.4, ms_high: 123.4, samples: 3 };
        let entry = Entry {
            name: "linear_backward_states".into(),
            batch_size: 65_535,
            shape: "relu(norm([4325310, 300])) at unit length -> 1024, edge.hidden".into(),
            bytes: Some(123_456_789),
            flops: Some(123_456_789),
            error: Some(1.2e-12),
            tolerance: Some(1.2e-12),
            ok: false,
            times: times.into(),
            cold: Some(true),
            gb_per_s: Some(4321.0),
            tflop_per_s: Some(432.1),
            share: Some(1.0),
            floor_ms: Some(123.4),
            phases: None,
            launches: String::new(),
        };
        let report = Report {
            version: "0",
            device: "cuda:0".into(),
            device_name: "GPU".into(),
            timing: "cuda events",
            precision: Precision::Bf16,
            model: ModelConfig::PAPER,
            l2_bytes: None,
            multiprocessors: None,
            ceilings: None,
            kernels: vec![entry],
        };
        let text = report.text();
        assert!(text.lines().all(|line| line.chars().count() <= crate::terminal::WIDTH), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("WRONG: linear_backward_states")).count(), 1);
    }
}
