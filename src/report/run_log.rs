//! Records of a run: `metrics.jsonl`, one JSON object per line, and TensorBoard events with the same numbers.
//!
//! ```json
//! {"kind":"step","epoch":1,"step":50,"loss":0.69,"seconds":12.1}
//! {"kind":"epoch","epoch":1,"step":89,"loss":0.68,"validation_kendall":0.21,"skipped_anchors":0,"seconds":31.5}
//! ```
//!
//! Epochs and steps count from 1. The loss of a step is the mean over its triples, that of an epoch the mean
//! over all its triples.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
        /// Seconds since the start of the command.
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
        /// Seconds since the start of the command.
        seconds: f64,
    },
}

impl Record {
    /// Whether the record belongs to the first `epochs` epochs and `steps` steps.
    fn within(&self, epochs: usize, steps: u64) -> bool {
        match *self {
            Record::Step { step, .. } => step <= steps,
            // A run that was stopped at the last step of an epoch still has to write the record of that
            // epoch.
            Record::Epoch { epoch, .. } => epoch <= epochs,
        }
    }
}

/// Appends records to the files of a run.
pub struct RunLog {
    path: PathBuf,
    file: File,
    events: EventWriter,
}

impl RunLog {
    /// Opens the records of the run in `folder`, keeping those of the first `epochs` and `steps`. Later
    /// records were written after the checkpoint from which training continues, and are dropped.
    pub fn open(folder: &Path, epochs: usize, steps: u64) -> Result<Self> {
        let path = folder.join(METRICS);
        if path.exists() {
            let kept: Vec<Record> =
                read_records(&path)?.into_iter().filter(|record| record.within(epochs, steps)).collect();
            write_atomically(&path, |writer| {
                kept.iter().try_for_each(|record| write_record(writer, record))
            })?;
        }
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file("write", &path))?;
        Ok(RunLog { file, events: EventWriter::create(folder)?, path })
    }

    /// Appends a record.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        write_record(&mut self.file, record).map_err(Error::file("write", &self.path))?;
        match *record {
            Record::Step { step, loss, .. } => self.events.scalar("loss/step", step, loss),
            Record::Epoch { step, loss, validation_kendall, .. } => {
                self.events.scalar("loss/epoch", step, loss as f32)?;
                if let Some(tau) = validation_kendall {
                    self.events.scalar("validation/kendall", step, tau as f32)?;
                }
                self.events.flush()
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
