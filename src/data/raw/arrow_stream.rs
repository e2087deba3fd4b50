//! Reads the record batches of an Arrow IPC stream, or of an Arrow file, one at a time.
//!
//! A message is a marker of four bytes `ff`, the length of its metadata, the metadata and a body. A length of 0 ends the stream. A
//! file is a stream between `ARROW1` and a table of its batches that repeats `ARROW1` at the end; the table is not needed, so a file
//! may come from a pipe, or be compressed as a whole. polars 2 writes the first message of a file, the schema, without marker and
//! length; it ends at the next marker.
//!
//! Memory is that of one batch and of the dictionaries.

use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::{CompressionType, Endianness, Message, MessageHeader, root_as_message};
use arrow_schema::{ArrowError, Schema, SchemaRef};

use super::raw_file::{RawFile, read_error};
use crate::files::recognise::{ARROW_FILE, ARROW_STREAM};
use crate::terminal::excerpt;
use crate::{Error, Result};

/// Most zeros between the magic of a file and its stream. The format asks for two; some writers align the stream to 64 bytes.
const MOST_PADDING_BYTES: usize = 122;
/// Largest metadata of a message in bytes. That of a batch has a hundred bytes per column.
const MOST_METADATA_BYTES: u64 = 16 << 20;
/// Largest body of a message in bytes, which is read as a whole.
const MOST_BODY_BYTES: u64 = 1 << 30;
/// Bound of the numbers of rows and values that a message states. Sizes in bytes computed from them cannot overflow.
const MOST_VALUES: i64 = 1 << 40;

/// Place of the first message.
const SCHEMA: &str = "schema";
const DAMAGED: &str = "write the file again";
const AS_STREAM: &str = "write it again, as a stream if it has dictionaries: there they come first";
const TRUNCATED: &str = "close its writer, or write the file again";

/// Record batches of a stream.
pub(super) struct ArrowBatches {
    path: PathBuf,
    file: RawFile,
    /// Whether the stream lies in a file, which has a table of its batches behind it.
    in_file: bool,
    /// Marker and length of the next message, if they were read with the one before it.
    next_start: Option<Vec<u8>>,
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Number of batches read.
    count: u64,
}

impl ArrowBatches {
    /// Reads the schema.
    pub fn open(mut file: RawFile) -> Result<Self> {
        let path = file.path().to_path_buf();
        let first = file.content().fill_buf().map_err(|error| read_error(&path, error))?;
        let in_file = first.starts_with(ARROW_FILE);
        let schema = Schema::empty().into();
        let dictionaries = HashMap::new();
        let mut batches =
            ArrowBatches { path, file, in_file, next_start: None, schema, dictionaries, count: 0 };
        if in_file {
            batches.skip_start()?;
        }
        let Some(metadata) = batches.metadata(SCHEMA)? else {
            return Err(batches.error(SCHEMA, "the stream ends before it", DAMAGED));
        };
        let message = batches.message(&metadata, SCHEMA)?;
        let Some(schema) = message.header_as_schema() else {
            return Err(batches.error(SCHEMA, "the stream begins with another message", DAMAGED));
        };
        if schema.endianness() != Endianness::Little {
            return Err(batches.error(SCHEMA, "its numbers are big-endian", "write them little-endian"));
        }
        let schema = try_fb_to_schema(schema).map_err(|error| batches.damaged(SCHEMA, error))?;
        batches.body(&message, SCHEMA)?;
        batches.schema = schema.into();
        Ok(batches)
    }

    /// Columns of all batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of the batch that was read last, from 1.
    pub fn number(&self) -> u64 {
        self.count
    }

    /// The next batch, of these columns in this order; `None` behind the last one.
    pub fn next(&mut self, columns: &[usize]) -> Result<Option<RecordBatch>> {
        loop {
            let place = format!("batch {}", self.count + 1);
            let Some(metadata) = self.metadata(&place)? else {
                self.check_end()?;
                return Ok(None);
            };
            let message = self.message(&metadata, &place)?;
            let (body, version) = (Buffer::from(self.body(&message, &place)?), message.version());
            if let Some(batch) = message.header_as_record_batch() {
                self.check_batch(&batch, &body, &place)?;
                let schema = self.schema.clone();
                let decoder = RecordBatchDecoder::try_new(&body, batch, schema, &self.dictionaries, &version);
                let decoded =
                    decoder.and_then(|decoder| decoder.with_projection(Some(columns)).read_record_batch());
                self.count += 1;
                // Files may have dictionaries behind the batches that need them.
                let remedy = if self.in_file { AS_STREAM } else { DAMAGED };
                let cannot = |error: ArrowError| {
                    let problem = format!("cannot be decoded: {}", excerpt(&error.to_string()));
                    self.error(&place, &problem, remedy)
                };
                return decoded.map(Some).map_err(cannot);
            }
            let dictionary = match message.header_type() {
                MessageHeader::DictionaryBatch => message.header_as_dictionary_batch(),
                // Custom metadata, which no column needs.
                MessageHeader::NONE => continue,
                other => {
                    let problem = format!("a message of type {}", other.variant_name().unwrap_or("unknown"));
                    return Err(self.error(&place, &problem, "write record batches only"));
                }
            };
            let Some((dictionary, batch)) = dictionary.and_then(|given| Some((given, given.data()?))) else {
                return Err(self.error(&place, "a dictionary without values", DAMAGED));
            };
            self.check_batch(&batch, &body, &place)?;
            read_dictionary(&body, dictionary, &self.schema, &mut self.dictionaries, &version)
                .map_err(|error| self.damaged(&place, error))?;
        }
    }

    /// Skips the magic of a file and the zeros behind it.
    fn skip_start(&mut self) -> Result<()> {
        let path = &self.path;
        let content = self.file.content();
        content.consume(ARROW_FILE.len());
        for _ in 0..MOST_PADDING_BYTES {
            match content.fill_buf().map_err(|error| read_error(path, error))? {
                [0, ..] => content.consume(1),
                _ => break,
            }
        }
        Ok(())
    }

    /// Metadata of the next message; `None` at the marker that ends the stream.
    fn metadata(&mut self, place: &str) -> Result<Option<Vec<u8>>> {
        let start = match self.next_start.take() {
            Some(start) => start,
            None => self.some_bytes(8)?,
        };
        match start.len() {
            // Complete messages alone may be the rest of a writer that was stopped.
            0 => return Err(self.error(place, "truncated: the stream has no end marker", TRUNCATED)),
            8 => {}
            _ => return Err(self.truncated(place)),
        }
        if !start.starts_with(ARROW_STREAM) {
            if self.in_file && place == SCHEMA {
                return self.unmarked(start).map(Some);
            }
            return Err(self.error(place, "not a message of an Arrow stream", DAMAGED));
        }
        let bytes = u32::from_le_bytes(start[4..].try_into().expect("four bytes"));
        match u64::from(bytes) {
            0 => Ok(None),
            bytes if bytes <= MOST_METADATA_BYTES => self.bytes(bytes, place).map(Some),
            bytes => Err(self.error(place, &format!("its metadata claims {bytes} bytes"), DAMAGED)),
        }
    }

    /// Metadata of a schema without marker and length, which begins with `start`. Like all metadata it has a multiple of eight bytes.
    fn unmarked(&mut self, start: Vec<u8>) -> Result<Vec<u8>> {
        let mut metadata = start;
        while metadata.len() as u64 <= MOST_METADATA_BYTES {
            let next = self.bytes(8, SCHEMA)?;
            if next.starts_with(ARROW_STREAM) {
                self.next_start = Some(next);
                return Ok(metadata);
            }
            metadata.extend(next);
        }
        Err(self.error(SCHEMA, "not a message of an Arrow stream", DAMAGED))
    }

    fn message<'a>(&self, metadata: &'a [u8], place: &str) -> Result<Message<'a>> {
        root_as_message(metadata).map_err(|_| self.error(place, "damaged metadata", DAMAGED))
    }

    fn body(&mut self, message: &Message<'_>, place: &str) -> Result<Vec<u8>> {
        match u64::try_from(message.bodyLength()) {
            Ok(bytes) if bytes <= MOST_BODY_BYTES => self.bytes(bytes, place),
            Ok(bytes) => {
                let problem = format!("it claims {bytes} bytes, and at most {MOST_BODY_BYTES} are read");
                Err(self.error(place, &problem, "write batches of fewer rows, such as 8192"))
            }
            Err(_) => Err(self.error(place, "its body has a negative length", DAMAGED)),
        }
    }

    /// Checks what the decoder takes for granted: that the body is not compressed, and that its buffers lie within it.
    fn check_batch(&self, batch: &arrow_ipc::RecordBatch<'_>, body: &Buffer, place: &str) -> Result<()> {
        if let Some(compression) = batch.compression() {
            let name = match compression.codec() {
                CompressionType::LZ4_FRAME => "LZ4",
                CompressionType::ZSTD => "zstd",
                _ => "an unknown method",
            };
            let problem = format!("its columns are compressed with {name}");
            let remedy =
                "write it with compression None (\"uncompressed\"), and compress the whole with gzip";
            return Err(self.error(place, &problem, remedy));
        }
        let within = |buffer: &arrow_ipc::Buffer| {
            let end = buffer.offset().checked_add(buffer.length());
            buffer.offset() >= 0
                && buffer.length() >= 0
                && end.is_some_and(|end| end as u64 <= body.len() as u64)
        };
        let counts = 0..=MOST_VALUES;
        let stated = |node: &arrow_ipc::FieldNode| {
            counts.contains(&node.length()) && (0..=node.length()).contains(&node.null_count())
        };
        let is_valid = counts.contains(&batch.length())
            && batch.buffers().is_some_and(|buffers| buffers.iter().all(within))
            && batch.nodes().is_some_and(|nodes| nodes.iter().all(stated));
        match is_valid {
            true => Ok(()),
            false => Err(self.error(place, "its columns lie outside of its body", DAMAGED)),
        }
    }

    /// Checks that nothing follows a stream, and that a file is complete. Reads to the end, where gzip compares its checksum.
    fn check_end(&mut self) -> Result<()> {
        let path = &self.path;
        let mut last = Vec::new();
        let content = self.file.content();
        loop {
            let bytes = content.fill_buf().map_err(|error| read_error(path, error))?;
            if bytes.is_empty() {
                break;
            }
            last.extend_from_slice(&bytes[bytes.len().saturating_sub(ARROW_FILE.len())..]);
            last.drain(..last.len().saturating_sub(ARROW_FILE.len()));
            let count = bytes.len();
            content.consume(count);
        }
        match self.in_file {
            true if last != ARROW_FILE => Err(self.truncated("end of the file")),
            false if !last.is_empty() => {
                let remedy = "write one stream; parts are given one at a time";
                Err(self.error("end of the stream", "more bytes follow it", remedy))
            }
            _ => Ok(()),
        }
    }

    /// Up to `count` bytes; fewer at the end of the file.
    fn some_bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        // A stated length is no reason to reserve memory.
        let mut bytes = Vec::new();
        let read = self.file.content().take(count).read_to_end(&mut bytes);
        read.map_err(|error| read_error(&self.path, error))?;
        Ok(bytes)
    }

    fn bytes(&mut self, count: u64, place: &str) -> Result<Vec<u8>> {
        let bytes = self.some_bytes(count)?;
        match bytes.len() as u64 == count {
            true => Ok(bytes),
            false => Err(self.truncated(place)),
        }
    }

    fn truncated(&self, place: &str) -> Error {
        self.error(place, "truncated: the file ends early", TRUNCATED)
    }

    fn damaged(&self, place: &str, error: ArrowError) -> Error {
        self.error(place, &format!("damaged: {}", excerpt(&error.to_string())), DAMAGED)
    }

    /// An error at a place of the file.
    pub fn error(&self, place: &str, problem: &str, remedy: &str) -> Error {
        Error::invalid(&self.path, place, problem, remedy)
    }
}
