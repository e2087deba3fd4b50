//! Records of a run: `metrics.jsonl`, one JSON object per line, and TensorBoard events with the same numbers.
//!
//! ```json
//! {"kind":"step","epoch":1,"step":50,"loss":0.69,"learning_rate":0.0001,"gradient_norm":0.03,"seconds":12.1}
//! {"kind":"validation","epoch":1,"step":60,"validation_kendall":0.19,"seconds":20.4}
//! {"kind":"epoch","epoch":1,"step":89,"loss":0.68,"validation_kendall":0.21,"skipped_anchors":0,"graphs_per_second":170.2,"seconds":31.5}
//! ```
//!
//! Epochs and steps count from 1. The loss of a step is the mean over its triples, that of an epoch the mean
//! over all its triples.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::atomic_file::write_atomically;
use crate::files::text::for_each_line;
use crate::report::tensorboard::EventWriter;

/// File name of the records.
pub const METRICS: &str = "metrics.jsonl";

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// A step, recorded at intervals.
    Step {
        /// Epoch.
        epoch: usize,
        /// Optimizer step of the run.
        step: u64,
        /// Mean loss of the step's triples.
        loss: f32,
        /// Learning rate of the step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        learning_rate: Option<f64>,
        /// Norm of the gradient with respect to all parameters, before clipping.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gradient_norm: Option<f64>,
        /// Seconds that the run has trained, over all commands that continued it.
        seconds: f64,
    },
    /// A validation within an epoch.
    Validation {
        /// Epoch.
        epoch: usize,
        /// Optimizer steps of the run so far.
        step: u64,
        /// Row-wise Kendall tau of the validation images.
        validation_kendall: f64,
        /// Seconds that the run has trained, over all commands that continued it.
        seconds: f64,
    },
    /// The end of an epoch.
    Epoch {
        /// Epoch.
        epoch: usize,
        /// Optimizer steps of the run so far.
        step: u64,
        /// Mean loss of the epoch's triples.
        loss: f64,
        /// Row-wise Kendall tau of the validation images; `None` if there are fewer than 3.
        validation_kendall: Option<f64>,
        /// Number of anchors for which no triple could be drawn.
        skipped_anchors: u64,
        /// Graphs per second in the steps of the epoch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        graphs_per_second: Option<f64>,
        /// Seconds that the run has trained, over all commands that continued it.
        seconds: f64,
    },
}

impl Record {
    /// Whether the record belongs to the first `epochs` epochs and `steps` steps.
    fn within(&self, epochs: usize, steps: u64) -> bool {
        match *self {
            Record::Step { step, .. } | Record::Validation { step, .. } => step <= steps,
            // A run that was stopped at the last step of an epoch still has to write the record of that
            // epoch.
            Record::Epoch { epoch, .. } => epoch <= epochs,
        }
    }

    /// Seconds that the run had trained.
    pub fn seconds(&self) -> f64 {
        match *self {
            Record::Step { seconds, .. }
            | Record::Validation { seconds, .. }
            | Record::Epoch { seconds, .. } => seconds,
        }
    }
}

/// Appends records to the files of a run.
pub struct RunLog {
    path: PathBuf,
    file: File,
    events: EventWriter,
    seconds: f64,
}

impl RunLog {
    /// Opens the records of the run in `folder`, keeping those of the first `epochs` and `steps`. Later
    /// records were written after the checkpoint from which training continues, and are dropped.
    pub fn open(folder: &Path, epochs: usize, steps: u64) -> Result<Self> {
        let path = folder.join(METRICS);
        let mut seconds = 0.0;
        if path.exists() {
            let kept: Vec<Record> =
                read_records(&path)?.into_iter().filter(|record| record.within(epochs, steps)).collect();
            seconds = kept.last().map_or(0.0, Record::seconds);
            write_atomically(&path, |writer| {
                kept.iter().try_for_each(|record| write_record(writer, record))
            })?;
        }
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file("write", &path))?;
        Ok(RunLog { file, events: EventWriter::create(folder)?, path, seconds })
    }

    /// Seconds that the run had trained when it was opened.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Tells TensorBoard that a training with these options begins.
    pub fn begin(&mut self, options: &Value) -> Result<()> {
        self.events.hyperparameters(options, &["validation/kendall", "loss/epoch"])?;
        self.events.flush()
    }

    /// Tells TensorBoard that the training has ended.
    pub fn end(&mut self) -> Result<()> {
        self.events.hyperparameters_end()?;
        self.events.flush()
    }

    /// Appends a record.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        write_record(&mut self.file, record).map_err(Error::file("write", &self.path))?;
        let events = &mut self.events;
        let mut scalar = |tag: &str, step: u64, value: Option<f64>| match value {
            Some(value) => events.scalar(tag, step, value as f32),
            None => Ok(()),
        };
        match *record {
            Record::Step { step, loss, learning_rate, gradient_norm, .. } => {
                scalar("loss/step", step, Some(loss.into()))?;
                scalar("learning_rate", step, learning_rate)?;
                scalar("gradient_norm", step, gradient_norm)
            }
            Record::Validation { step, validation_kendall, .. } => {
                scalar("validation/kendall", step, Some(validation_kendall))?;
                events.flush()
            }
            Record::Epoch { step, loss, validation_kendall, graphs_per_second, .. } => {
                scalar("loss/epoch", step, Some(loss))?;
                scalar("validation/kendall", step, validation_kendall)?;
                scalar("graphs_per_second", step, graphs_per_second)?;
                events.flush()
            }
        }
    }
}

fn write_record(writer: &mut dyn Write, record: &Record) -> std::io::Result<()> {
    let line = serde_json::to_string(record).expect("plain fields");
    writeln!(writer, "{line}")
}

/// Reads all records of a run. A last line that was truncated while it was written is left out.
pub fn read_records(path: &Path) -> Result<Vec<Record>> {
    const MOST_LINE_BYTES: usize = 1 << 16;
    let mut lines = Vec::new();
    for_each_line(path, MOST_LINE_BYTES, |_, line| {
        lines.push(line.to_string());
        Ok(())
    })?;
    let mut records = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(record) => records.push(record),
            Err(_) if index + 1 == lines.len() => {}
            Err(error) => {
                let place = format!("line {}", index + 1);
                return Err(Error::invalid(
                    path,
                    place,
                    format!("is not a record ({error})"),
                    "remove the line",
                ));
            }
        }
    }
    Ok(records)
}
