//! `run.json` and `config.toml` of a run folder: which program trained on which data, where, when, and how it ended.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::TrainOutcome;
use super::checkpoint::RunConfig;
use crate::backend::Description;
use crate::backend::kernels::Kernels;
use crate::data::{Dataset, Split};
use crate::error::Result;
use crate::files::atomic_file::write_atomically;
use crate::files::text::read_json;
use crate::terminal::command_line;

/// File name of the record.
pub const RUN: &str = "run.json";
/// File name of the options of a run, as `train --config` reads them.
pub const CONFIG: &str = "config.toml";

/// Content of `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// Data of the run.
    pub data: DataRecord,
    /// Commands that trained the run, in order: the first one, and those that continued it.
    pub commands: Vec<CommandRecord>,
}

/// Data of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataRecord {
    /// Path of the data file.
    pub path: PathBuf,
    /// Fingerprint of the data, in hexadecimal.
    pub fingerprint: String,
    /// Number of training images.
    pub train: usize,
    /// Number of validation images.
    pub validation: usize,
    /// Number of test images.
    pub test: usize,
    /// Number of object types, with `image`.
    pub object_types: usize,
    /// Number of predicate types, with `in image`.
    pub predicate_types: usize,
}

/// A command that trained a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandRecord {
    /// Version of the program.
    pub version: String,
    /// Commit of the program.
    pub commit: String,
    /// Command line, with shell quoting.
    pub command: String,
    /// Name, operating system and architecture of the machine.
    pub host: String,
    /// Number of CPU threads.
    pub threads: usize,
    /// Device of the training.
    pub device: String,
    /// Newest CUDA version that the GPU's driver supports.
    pub driver: Option<String>,
    /// Family of the products on tensor cores; `None` if the device or the precision has none, and in records of older
    /// versions.
    #[serde(default)]
    pub kernels: Option<Kernels>,
    /// Time of the start, UTC.
    pub start: String,
    /// Time of the end, UTC; `None` while it trains, or if it was killed.
    pub end: Option<String>,
    /// How it ended: `finished`, `stopped`, or the message of an error.
    pub exit: Option<String>,
}

/// Record of a training in progress.
pub(super) struct OpenRecord {
    path: PathBuf,
    record: RunRecord,
}

impl OpenRecord {
    /// Adds this process to the record of the run in `folder`, and writes its configuration.
    pub(super) fn begin(
        folder: &Path,
        config: &RunConfig,
        dataset: &Dataset,
        device: Description,
    ) -> Result<Self> {
        let settings = toml::to_string(&config.train).expect("plain fields");
        write_atomically(folder.join(CONFIG), |file| file.write_all(settings.as_bytes()))?;
        let path = folder.join(RUN);
        // A record that cannot be read does not stop a training.
        let before = RunRecord::read(folder).ok().flatten();
        let count = |split| dataset.split(split).len();
        let mut record = RunRecord {
            data: DataRecord {
                path: config.data.clone(),
                fingerprint: config.fingerprint.clone(),
                train: count(Split::Train),
                validation: count(Split::Validation),
                test: count(Split::Test),
                object_types: dataset.object_count(),
                predicate_types: dataset.predicate_count(),
            },
            commands: before.map_or(Vec::new(), |record| record.commands),
        };
        record.commands.push(CommandRecord {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("SCENERANK_COMMIT").into(),
            command: command_line(std::env::args_os().map(|word| word.to_string_lossy().into_owned())),
            host: host(),
            threads: rayon::current_num_threads(),
            device: device.name,
            driver: device.driver,
            kernels: Some(device.kernels).filter(|&kernels| kernels != Kernels::Auto),
            start: now(),
            end: None,
            exit: None,
        });
        let open = OpenRecord { path, record };
        open.write()?;
        Ok(open)
    }

    /// Records how the training ended.
    pub(super) fn end(mut self, outcome: &Result<TrainOutcome>) -> Result<()> {
        let command = self.record.commands.last_mut().expect("this process");
        command.end = Some(now());
        command.exit = Some(match outcome {
            Ok(outcome) if outcome.interrupted => "stopped".into(),
            Ok(_) => "finished".into(),
            Err(error) => error.to_string(),
        });
        self.write()
    }

    fn write(&self) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.record).expect("plain fields");
        write_atomically(&self.path, |file| writeln!(file, "{json}"))
    }
}

impl RunRecord {
    /// Record of the run in `folder`; `None` if there is none, as in runs of older versions.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(RUN);
        match path.exists() {
            true => read_json(&path, "remove the file").map(Some),
            false => Ok(None),
        }
    }
}

/// Current time, UTC.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Name of the machine, its operating system and architecture.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| ["HOSTNAME", "COMPUTERNAME"].iter().find_map(|name| std::env::var(name).ok()));
    let name = name.unwrap_or_else(|| "unknown".into());
    format!("{}, {} {}", name.trim(), std::env::consts::OS, std::env::consts::ARCH)
}
