//! Results of a bench, as JSON and as a table.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backend::device::Precision;
use crate::backend::family::Choice;
use crate::backend::kernels::Kernels;
use crate::bench::baseline::{Baseline, Comparison};
use crate::bench::ceilings::Ceilings;
use crate::bench::entry::{Entry, by};
use crate::bench::launches::EmptyLaunches;
use crate::bench::step::Phases;
use crate::bench::{BenchOptions, MODELLED};
use crate::error::Result;
use crate::files::atomic_file::write_atomically;
use crate::network::config::ModelConfig;
use crate::report::table::plain_table;
use crate::terminal::{count, duration, wrap};

/// Rows that grids cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grids {
    /// Those of the largest batch, as in training.
    Training,
    /// Those of the batch.
    Exact,
}

/// What the program was built from.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Build {
    /// Commit of the sources.
    pub commit: &'static str,
    /// Compiler of the kernels, and their architectures.
    pub kernels: &'static str,
    /// Compiler of everything else.
    pub rustc: &'static str,
}

/// Results of one bench.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Sources and compilers.
    pub build: Build,
    /// `cpu`, `reference`, `emulated`, `ptx`, `cuda:0`, or `none` for a roofline.
    pub device: String,
    /// Name of the device, from its driver.
    pub device_name: String,
    /// `cuda events`; `wall clock`, which on the emulator says nothing about a GPU; or `modelled`, on the PTX interpreter. A
    /// step is always timed by `wall clock` unless it is modelled.
    pub timing: &'static str,
    /// Newest CUDA version that the GPU's driver supports.
    pub driver: Option<String>,
    /// Highest clocks of the GPU's multiprocessors and memory in MHz.
    pub most_clocks_mhz: Option<[u32; 2]>,
    /// Number format.
    pub precision: Precision,
    /// Families of the products on tensor cores, each with its entries; empty for a device or a precision without these.
    pub families: Vec<Kernels>,
    /// What `--kernels auto` chooses on this device for the first batch size, and why; `None` without a choice, or if a family
    /// was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// The network.
    pub model: ModelConfig,
    /// Rows that grids cover.
    pub grids: Grids,
    /// Size of the L2 cache in bytes, if known.
    pub l2_bytes: Option<usize>,
    /// Number of streaming multiprocessors, on a GPU.
    pub multiprocessors: Option<usize>,
    /// Peak rates of the device: measured on a GPU, assumed in a roofline and beside modelled times.
    pub ceilings: Option<Ceilings>,
    /// Times of launches without work.
    pub empty_launches: Option<EmptyLaunches>,
    /// Entries of kernels by shape, and of the step.
    pub kernels: Vec<Entry>,
    /// Comparison with an earlier report, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Comparison>,
}

/// Columns of a table at most.
pub const TABLE_WIDTH: usize = 120;

/// Lines of a table above its rows.
const HEADER_LINES: usize = 2;

/// Timing of a roofline.
const NOTHING_RAN: &str = "nothing ran";

/// Text for a missing value.
fn absent() -> String {
    "-".into()
}

/// A column: its name, and its text for an entry.
type Column = (&'static str, fn(&Entry) -> String);

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or(absent(), |value| format!("{value:.digits$}"))
}

fn cost(value: Option<u64>) -> String {
    value.map_or(absent(), |value| count(value as f64))
}

fn time(ms: Option<f64>) -> String {
    ms.map_or(absent(), |ms| duration(ms / 1e3))
}

fn scientific(value: Option<f64>) -> String {
    value.map_or(absent(), |value| format!("{value:.1e}"))
}

const BATCH: Column = ("B", |entry| format!("{:>5}", entry.batch_size));
const THREADS: Column =
    ("threads", |entry| entry.processor.as_ref().map_or(absent(), |processor| processor.threads.to_string()));
const BYTES: Column = ("bytes", |entry| cost(entry.bytes));
const FLOPS: Column = ("FLOP", |entry| cost(entry.flops));
/// Steps and cycles of each.
const CHAIN: Column = ("chain", |entry| entry.chain.map_or(absent(), |chain| chain.to_string()));
const ERROR: Column = ("error", |entry| scientific(entry.error));
const LIMIT: Column = ("limit", |entry| scientific(entry.tolerance));
const FLOOR: Column = ("floor", |entry| time(entry.floor_ms));
const SHARE: Column =
    ("share", |entry| entry.share.map_or(absent(), |share| format!("{:.0}%", 100.0 * share)));
const WAVES: Column = ("waves", |entry| number(entry.waves, 2));

/// Columns of what ran.
const TIMED_COLUMNS: [Column; 15] = [
    BATCH,
    THREADS,
    BYTES,
    FLOPS,
    CHAIN,
    ERROR,
    LIMIT,
    ("time", |entry| time(entry.times.ms)),
    ("5%", |entry| time(entry.times.ms_low)),
    ("95%", |entry| time(entry.times.ms_high)),
    ("warm", |entry| time(entry.warm_ms)),
    ("GB/s", |entry| number(entry.gb_per_s, 1)),
    ("TFLOP/s", |entry| number(entry.tflop_per_s, 3)),
    FLOOR,
    SHARE,
];

/// Columns of what the PTX interpreter models.
const MODELLED_COLUMNS: [Column; 12] = [
    BATCH,
    BYTES,
    FLOPS,
    ERROR,
    LIMIT,
    FLOOR,
    ("chain", |entry| time(entry.chain.map(|chain| chain.micros() / 1e3))),
    WAVES,
    ("likely", |entry| time(entry.times.ms)),
    ("optimistic", |entry| time(entry.times.ms_low)),
    ("pessimistic", |entry| time(entry.times.ms_high)),
    SHARE,
];

/// Columns of formulas.
const ROOFLINE_COLUMNS: [Column; 9] = [
    BATCH,
    BYTES,
    FLOPS,
    FLOOR,
    CHAIN,
    ("takes", |entry| time(entry.chain.map(|chain| chain.micros() / 1e3))),
    ("blocks", |entry| entry.blocks.map_or(absent(), |blocks| blocks.to_string())),
    WAVES,
    ("likely", |entry| time(entry.likely_ms)),
];

impl Report {
    /// A report without entries, for which nothing ran.
    pub fn empty(options: &BenchOptions) -> Self {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            build: Build {
                commit: env!("SCENERANK_COMMIT"),
                kernels: env!("SCENERANK_CUDA"),
                rustc: env!("SCENERANK_RUSTC"),
            },
            device: "none".into(),
            device_name: "formulas alone".into(),
            timing: NOTHING_RAN,
            driver: None,
            most_clocks_mhz: None,
            precision: options.precision,
            families: Vec::new(),
            choice: None,
            model: options.model,
            grids: options.grids,
            l2_bytes: None,
            multiprocessors: None,
            ceilings: None,
            empty_launches: None,
            kernels: Vec::new(),
            baseline: None,
        }
    }

    /// Exit code: 1 if a kernel is wrong, 3 if one is slower than in the baseline, otherwise 0.
    pub fn exit_code(&self) -> i32 {
        let is_wrong = self.kernels.iter().any(|entry| !entry.ok);
        let is_slower = self.baseline.as_ref().is_some_and(Comparison::is_slower);
        if is_wrong { 1 } else { 3 * i32::from(is_slower) }
    }

    /// Refuses a baseline of another device, format, network or grid.
    pub fn check_baseline(&self, baseline: &Baseline) -> Result<()> {
        let now = serde_json::to_value(self).and_then(serde_json::from_value).expect("plain fields");
        baseline.check(&now)
    }

    /// The report as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain fields")
    }

    /// Writes the JSON to a file. A reader finds the old report or the new one, never half of one.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, |file| writeln!(file, "{}", self.json()))
    }

    /// Table of the entries: a line with kernel and shape, and below it a line of numbers. Columns without a number are left
    /// out.
    pub fn text(&self) -> String {
        let mut columns = match self.timing {
            MODELLED => MODELLED_COLUMNS.to_vec(),
            NOTHING_RAN => ROOFLINE_COLUMNS.to_vec(),
            _ => TIMED_COLUMNS.to_vec(),
        };
        columns.retain(|(_, value)| self.kernels.iter().any(|entry| value(entry) != absent()));
        let mut table = plain_table(columns.iter().map(|(name, _)| *name));
        for entry in &self.kernels {
            table.add_row(columns.iter().map(|(_, value)| value(entry)));
        }
        let table = table.to_string();
        let mut lines = table.lines();
        let mut text: Vec<String> = lines.by_ref().take(HEADER_LINES).map(String::from).collect();
        for (entry, numbers) in self.kernels.iter().zip(lines) {
            let wrong = if entry.ok { "" } else { "WRONG: " };
            text.push(wrap(&format!("{wrong}{}{} {}", entry.name, by(entry.family), entry.shape), 0, 2));
            text.push(numbers.into());
        }
        text.join("\n")
    }

    /// Names the device, the clock and the peak rates, and lists the phases of each step.
    pub fn caption(&self) -> String {
        let mut words = format!("{} ({}), {}", self.device, self.device_name, self.timing);
        if let Some(driver) = &self.driver {
            words.push_str(&format!(", driver for CUDA {driver}"));
        }
        match &self.ceilings {
            Some(ceilings) => words.push_str(&format!(
                "; ceilings: copy {:.0} GB/s, fp32 {:.1}, bf16 {:.1} TFLOP/s",
                ceilings.copy_gb_per_s, ceilings.fp32_tflop_per_s, ceilings.bf16_tflop_per_s
            )),
            None if self.device == "emulated" => words.push_str(", which says nothing about a GPU"),
            None => {}
        }
        if let Some(varied) = self.ceilings.and_then(|ceilings| ceilings.bf16_varied_tflop_per_s) {
            words.push_str(&format!(", bf16 with operands that change {varied:.1}"));
        }
        if let Some(EmptyLaunches { single_us, in_graph_us, overlapped_us }) = self.empty_launches {
            let [single, in_graph, overlapped] =
                [single_us, in_graph_us, overlapped_us].map(|micros| duration(micros / 1e6));
            let launches = format!(
                "an empty launch: {single} between two events, {in_graph} in a graph of 100, {overlapped} if they overlap"
            );
            words.push('\n');
            words.push_str(&wrap(&launches, 0, 2));
        }
        if let Some(choice) = &self.choice {
            words.push('\n');
            words.push_str(&wrap(&choice.words(), 0, 2));
        }
        for entry in &self.kernels {
            if let Some(Phases { load_batch, forward, loss, backward, update }) = entry.phases {
                let [load_batch, forward, loss, backward, update] =
                    [load_batch, forward, loss, backward, update].map(|ms| duration(ms / 1e3));
                let phases = format!(
                    "phases of a step{} with {} triples, each waited for: load_batch {load_batch}, forward {forward}, \
                     loss {loss}, backward {backward}, update {update}",
                    by(entry.family),
                    entry.batch_size
                );
                words.push('\n');
                words.push_str(&wrap(&phases, 0, 2));
            }
        }
        for entry in &self.kernels {
            if let Some(processor) = &entry.processor {
                words.push_str(&format!(
                    "\nparts of a step with {} triples:\n{}",
                    entry.batch_size,
                    processor.text()
                ));
            }
        }
        for (entry, timeline) in
            self.kernels.iter().filter_map(|entry| Some((entry, entry.timeline.as_ref()?)))
        {
            let (by, triples) = (by(entry.family), entry.batch_size);
            words.push_str(&format!("\ntimeline of a step{by} of {triples}:\n{}", timeline.text()));
        }
        if let Some(comparison) = &self.baseline {
            words.push('\n');
            words.push_str(&comparison.text());
        }
        for entry in self.kernels.iter().filter(|entry| !entry.launches.is_empty()) {
            let (by, triples) = (by(entry.family), entry.batch_size);
            words.push_str(&format!("\nlaunches of a step{by} of {triples}:\n{}", entry.launches));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::device::Device;
    use crate::bench::chain::Chain;
    use crate::bench::timing::Times;

    fn options() -> BenchOptions {
        BenchOptions {
            device: Device::Emulated,
            precision: Precision::Bf16,
            family: Kernels::Auto,
            model: ModelConfig::PAPER,
            batch_sizes: vec![16],
            kernels: Vec::new(),
            budget: Duration::ZERO,
            grids: Grids::Training,
            timeline: false,
            threads: Vec::new(),
        }
    }

    #[test]
    fn wide_numbers_fit() {
        let times = Times { ms: 123.4, ms_low: 123.4, ms_high: 123.4, samples: 3 };
        let entry = || Entry {
            name: "linear_backward_states".into(),
            batch_size: 65_535,
            shape: "relu(norm([4325310, 300])) at unit length -> 1024, edge.hidden".into(),
            family: Kernels::Wgmma,
            bytes: Some(123_456_789),
            flops: Some(123_456_789),
            chain: Some(Chain { steps: 1_234, cycles: 1_234 * 5_678 }),
            blocks: Some(123_456_789),
            waves: Some(12_345.67),
            error: Some(1.2e-12),
            tolerance: Some(1.2e-12),
            times: times.into(),
            cold: Some(true),
            warm_ms: Some(123.4),
            gb_per_s: Some(4321.0),
            tflop_per_s: Some(432.1),
            share: Some(1.0),
            likely_ms: Some(123.4),
            floor_ms: Some(123.4),
            ..Entry::default()
        };
        for timing in ["cuda events", MODELLED, NOTHING_RAN] {
            let report = Report { timing, kernels: vec![entry()], ..Report::empty(&options()) };
            let text = report.text();
            assert!(text.lines().all(|line| line.chars().count() <= TABLE_WIDTH), "{text}");
            let wrong =
                text.lines().filter(|line| line.starts_with("WRONG: linear_backward_states by wgmma "));
            assert_eq!(wrong.count(), 1);
        }
    }

    #[test]
    fn a_report_is_written_whole() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("bench.json");
        let mut report = Report::empty(&options());
        for count in 0..3 {
            report.write(&path).unwrap();
            let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(read["kernels"].as_array().unwrap().len(), count);
            report.kernels.push(Entry::default());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file remains");
        let error = report.write(&folder.path().join("missing/bench.json")).unwrap_err().to_string();
        assert!(error.contains("bench.json"), "{error}");
    }
}
