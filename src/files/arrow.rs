//! Writes embeddings as an Arrow IPC file (Feather, version 2), which vector engines and data frames read
//! without a copy, or as an Arrow IPC stream, whose rows can be used while others are computed.
//!
//! Columns: `image_id` (u64), `split` (string) or, for rows of a file of graphs that names its images, `image_file` (string), and
//! `embedding` (fixed-size list of f32). The entry `scenerank` of the schema's
//! metadata is JSON that tells the model and the data; a stream has it too, without the fingerprint of the data, which is known only
//! at its end.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray, UInt64Array};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{ArrowError, DataType, Field, Schema};

use crate::Result;
use crate::files::atomic_file::write_atomically;
use crate::files::origin::Origin;

/// Rows per record batch: 10 MB at the paper's width, which readers hold at a time.
const ROWS_PER_BATCH: usize = 8192;

/// Column of the images' files.
const IMAGE_FILE: &str = "image_file";

/// Key of the origin in the schema.
pub const ORIGIN: &str = "scenerank";

/// Writes `[rows, width]` values; `origin` has their ids. `splits` has the split of each row's image, or nothing for rows of a
/// file of graphs. The file appears complete or not at all.
pub fn write_arrow(
    path: &Path,
    origin: &Origin,
    splits: &[&str],
    values: &[f32],
    width: usize,
) -> Result<()> {
    let ids = &origin.image_ids;
    assert!(width > 0 && values.len() == ids.len() * width, "arrow: a row of {width} for every id");
    let of_splits = if origin.of_graphs { 0 } else { ids.len() };
    assert_eq!(splits.len(), of_splits, "arrow: a split for every image");
    let texts: Option<(&str, Vec<&str>)> = match (origin.of_graphs, &origin.image_files) {
        (false, _) => Some(("split", splits.to_vec())),
        (true, files) if !files.is_empty() => Some((IMAGE_FILE, files.iter().map(String::as_str).collect())),
        _ => None,
    };
    let schema = schema(origin, texts.as_ref().map(|(name, _)| *name), width);
    let batches = (0..ids.len()).step_by(ROWS_PER_BATCH).map(|start| {
        let rows = start..ids.len().min(start + ROWS_PER_BATCH);
        let texts = texts.as_ref().map(|(_, texts)| &texts[rows.clone()]);
        batch(&schema, &ids[rows.clone()], texts, &values[rows.start * width..rows.end * width])
    });
    write_atomically(path, |file| {
        let write = || -> std::result::Result<(), ArrowError> {
            let mut writer = FileWriter::try_new(file, &schema)?;
            for batch in batches {
                writer.write(&batch?)?;
            }
            writer.finish()
        };
        write().map_err(into_io)
    })
}

/// Embeddings of a file of graphs, written as a stream while they are computed.
pub struct ArrowStream<W: Write> {
    schema: Arc<Schema>,
    writer: StreamWriter<W>,
}

impl<W: Write> ArrowStream<W> {
    /// Begins a stream of rows of `width` values that `model` computes. `with_files`: every row names the file of its image.
    pub fn new(to: W, model: String, width: usize, with_files: bool) -> std::io::Result<Self> {
        let origin = Origin::of_graphs(model, String::new(), Vec::new(), Vec::new());
        let schema = schema(&origin, with_files.then_some(IMAGE_FILE), width);
        let writer = StreamWriter::try_new(to, &schema).map_err(into_io)?;
        Ok(ArrowStream { schema, writer })
    }

    /// Writes rows: their ids, the files of their images if the stream has them, and `[rows, width]` values.
    pub fn write(&mut self, ids: &[u64], image_files: &[String], values: &[f32]) -> std::io::Result<()> {
        let files: Vec<&str> = image_files.iter().map(String::as_str).collect();
        let files = self.schema.column_with_name(IMAGE_FILE).map(|_| &files[..]);
        let written = batch(&self.schema, ids, files, values).and_then(|batch| self.writer.write(&batch));
        written.and_then(|()| self.writer.flush()).map_err(into_io)
    }

    /// Ends the stream.
    pub fn finish(mut self) -> std::io::Result<()> {
        self.writer.finish().map_err(into_io)
    }
}

/// Columns of the rows, of which `texts` names one.
fn schema(origin: &Origin, texts: Option<&str>, width: usize) -> Arc<Schema> {
    let mut fields = vec![Field::new("image_id", DataType::UInt64, false)];
    fields.extend(texts.map(|name| Field::new(name, DataType::Utf8, false)));
    fields.push(Field::new("embedding", DataType::FixedSizeList(item(), width as i32), false));
    let metadata = HashMap::from([(ORIGIN.to_string(), origin.to_schema_entry())]);
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// A value of an embedding.
fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, false))
}

/// Rows of one batch: their ids, the texts if the schema has a column of them, and their values.
fn batch(
    schema: &Arc<Schema>,
    ids: &[u64],
    texts: Option<&[&str]>,
    values: &[f32],
) -> std::result::Result<RecordBatch, ArrowError> {
    let width = values.len() / ids.len().max(1);
    let values: ArrayRef = Arc::new(Float32Array::from(values.to_vec()));
    let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(ids.to_vec()))];
    if let Some(texts) = texts {
        columns.push(Arc::new(StringArray::from(texts.to_vec())));
    }
    columns.push(Arc::new(FixedSizeListArray::try_new(item(), width as i32, values, None)?));
    RecordBatch::try_new(Arc::clone(schema), columns)
}

fn into_io(error: ArrowError) -> std::io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        error => std::io::Error::other(error),
    }
}
