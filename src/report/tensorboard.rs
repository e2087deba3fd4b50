//! Writes scalars for TensorBoard: an event file of protobuf messages in TFRecord frames.
//!
//! ```text
//! frame  length u64 | masked crc32c(length) u32 | message | masked crc32c(message) u32      (little-endian)
//! mask   rotate_right(crc, 15) + 0xa282ead8
//! ```
//!
//! The first message states the version `brain.Event:2`; the others hold a scalar, or options of the run for the
//! HParams plugin. The messages contain the parts of TensorFlow's `event.proto` and `summary.proto` that these need.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::hparams;
use crate::{Error, Result};

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Optional, as in TensorFlow's `oneof`, so that a zero is also written.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

/// A new event file in a log folder.
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Creates an event file in `folder`, which is created if necessary. Existing event files are kept;
    /// TensorBoard shows all of them as one run.
    pub fn create(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        let (path, file) = create_new(folder)?;
        let mut writer = EventWriter { path, file: BufWriter::new(file) };
        let version = Some("brain.Event:2".to_owned());
        writer.write(Event { wall_time: wall_time(), file_version: version, ..Default::default() })?;
        // Makes a run visible before it has logged anything.
        writer.flush()?;
        Ok(writer)
    }

    /// Path of the event file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a value of the curve `tag`, such as `loss/training`.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f32) -> Result<()> {
        self.value(step, Value { tag: tag.to_owned(), simple_value: Some(value), metadata: None })
    }

    /// Writes the options of a run and the names of its results, for the HParams plugin. Options that are neither
    /// numbers, truth values nor texts are left out.
    pub fn hyperparameters(&mut self, options: &serde_json::Value, results: &[&str]) -> Result<()> {
        let options = options.as_object().into_iter().flatten();
        let values: Vec<(&String, hparams::Value)> =
            options.filter_map(|(name, value)| Some((name, hparams::Value::of(value)?))).collect();
        let infos = values
            .iter()
            .map(|(name, value)| hparams::HParamInfo { name: name.to_string(), kind: value.kind() });
        let experiment = hparams::Experiment {
            hparam_infos: infos.collect(),
            metric_infos: results.iter().map(|tag| hparams::MetricInfo::of(tag)).collect(),
        };
        let hparams = values.into_iter().map(|(name, value)| (name.clone(), value)).collect();
        let start = hparams::RunStart { hparams, start_time_secs: wall_time() };
        self.plugin("_hparams_/experiment", hparams::Of::Experiment(experiment))?;
        self.plugin("_hparams_/session_start_info", hparams::Of::Start(start))
    }

    /// Writes that the run has ended, for the HParams plugin.
    pub fn hyperparameters_end(&mut self) -> Result<()> {
        let end = hparams::RunEnd { status: hparams::SUCCESS, end_time_secs: wall_time() };
        self.plugin("_hparams_/session_end_info", hparams::Of::End(end))
    }

    fn plugin(&mut self, tag: &str, of: hparams::Of) -> Result<()> {
        let content = hparams::PluginData { version: 0, of: Some(of) }.encode_to_vec();
        let metadata =
            Some(Metadata { plugin_data: Some(PluginData { plugin_name: "hparams".into(), content }) });
        self.value(0, Value { tag: tag.to_owned(), simple_value: None, metadata })
    }

    fn value(&mut self, step: u64, value: Value) -> Result<()> {
        let summary = Some(Summary { value: vec![value] });
        self.write(Event { wall_time: wall_time(), step: step as i64, summary, ..Default::default() })
    }

    /// Passes all data to the operating system, so that a running TensorBoard sees it.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::file("write", &self.path))
    }

    fn write(&mut self, event: Event) -> Result<()> {
        write_frame(&mut self.file, &event.encode_to_vec()).map_err(Error::file("write", &self.path))
    }
}

/// Creates `events.out.tfevents.<seconds>.scenerank.<number>`. TensorBoard looks for the first three words
/// and orders the files of a folder by name. The number distinguishes files of the same second.
fn create_new(folder: &Path) -> Result<(PathBuf, File)> {
    let seconds = wall_time() as u64;
    let mut number = 0;
    loop {
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.scenerank.{number}"));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(Error::file("create", &path)(error)),
        }
    }
}

/// Seconds since 1970; 0 if the clock of the machine is before that.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn write_frame(writer: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = (message.len() as u64).to_le_bytes();
    writer.write_all(&length)?;
    writer.write_all(&masked_crc32c(&length).to_le_bytes())?;
    writer.write_all(message)?;
    writer.write_all(&masked_crc32c(message).to_le_bytes())
}

/// Masked so that a checksum is never computed over bytes that contain their own checksum.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_events(path: &Path) -> Vec<Event> {
        let bytes = fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at_checked(count)?;
            rest = left;
            Some(taken)
        };
        let mut events = Vec::new();
        while let Some(length) = take(8) {
            assert_eq!(take(4).unwrap(), masked_crc32c(length).to_le_bytes());
            let message = take(u64::from_le_bytes(length.try_into().unwrap()) as usize).unwrap();
            assert_eq!(take(4).unwrap(), masked_crc32c(message).to_le_bytes());
            events.push(Event::decode(message).unwrap());
        }
        events
    }

    #[test]
    fn scalars_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("new/logs");
        let mut writer = EventWriter::create(&logs).unwrap();
        let scalars =
            [("loss/training", 0, 0.0), ("loss/training", 16, -1.5), ("tau", 1 << 40, f32::INFINITY)];
        for (tag, step, value) in scalars {
            writer.scalar(tag, step, value).unwrap();
        }
        writer.flush().unwrap();

        let events = read_events(writer.path());
        assert_eq!(events.len(), 1 + scalars.len());
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!(events[0].summary, None);
        for (event, (tag, step, value)) in events[1..].iter().zip(scalars) {
            assert_eq!((event.step, event.file_version.clone()), (step as i64, None));
            let value = Value { tag: tag.to_owned(), simple_value: Some(value), metadata: None };
            assert_eq!(event.summary, Some(Summary { value: vec![value] }));
            assert!(event.wall_time >= events[0].wall_time && event.wall_time > 1e9);
        }
    }

    #[test]
    fn two_writers_of_one_second_have_two_files() {
        let folder = tempfile::tempdir().unwrap();
        let writers: Vec<EventWriter> = (0..3).map(|_| EventWriter::create(folder.path()).unwrap()).collect();
        assert!(writers.windows(2).all(|pair| pair[0].path() != pair[1].path()));
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = EventWriter::create(file.path()).err().unwrap();
        assert!(error.to_string().starts_with(&format!("{}: cannot create", file.path().display())));
    }

    /// Output of the `RecordWriter` of the Python package `tensorboard`.
    #[test]
    fn known_frames() {
        let known: [(&[u8], &[u8]); 2] = [
            (b"", b"\0\0\0\0\0\0\0\0\x29\x03\x98\x07\xd8\xea\x82\xa2"),
            (b"scenerank", b"\x09\0\0\0\0\0\0\0\x37\xf9\x71\x39scenerank\x03\xdd\x4c\x60"),
        ];
        for (message, expected) in known {
            let mut frame = Vec::new();
            write_frame(&mut frame, message).unwrap();
            assert_eq!(frame, expected);
        }
    }
}
