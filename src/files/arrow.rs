//! Writes embeddings as an Arrow IPC file (Feather, version 2), which vector engines and data frames read
//! without a copy.
//!
//! Columns: `image_id` (u64), `split` (string) or, for rows of a file of graphs that names its images, `image_file` (string), and
//! `embedding` (fixed-size list of f32). The entry `scenerank` of the schema's
//! metadata is JSON that tells the model and the data.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray, UInt64Array};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};

use crate::Result;
use crate::files::atomic_file::write_atomically;
use crate::files::origin::Origin;

/// Rows per record batch: 10 MB at the paper's width, which readers hold at a time.
const ROWS_PER_BATCH: usize = 8192;

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
        (true, files) if !files.is_empty() => {
            Some(("image_file", files.iter().map(String::as_str).collect()))
        }
        _ => None,
    };
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let list = DataType::FixedSizeList(Arc::clone(&item), width as i32);
    let mut fields = vec![Field::new("image_id", DataType::UInt64, false)];
    fields.extend(texts.as_ref().map(|(name, _)| Field::new(*name, DataType::Utf8, false)));
    fields.push(Field::new("embedding", list, false));
    let metadata = HashMap::from([(ORIGIN.to_string(), origin.to_schema_entry())]);
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let batches = (0..ids.len()).step_by(ROWS_PER_BATCH).map(|start| {
        let rows = start..ids.len().min(start + ROWS_PER_BATCH);
        let values: ArrayRef =
            Arc::new(Float32Array::from(values[rows.start * width..rows.end * width].to_vec()));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(ids[rows.clone()].to_vec()))];
        if let Some((_, texts)) = &texts {
            columns.push(Arc::new(StringArray::from(texts[rows].to_vec())));
        }
        let list = FixedSizeListArray::try_new(Arc::clone(&item), width as i32, values, None)?;
        columns.push(Arc::new(list));
        RecordBatch::try_new(Arc::clone(&schema), columns)
    });
    write_atomically(path, |file| {
        let write = || -> std::result::Result<(), ArrowError> {
            let mut writer = FileWriter::try_new(file, &schema)?;
            for batch in batches {
                writer.write(&batch?)?;
            }
            writer.finish()
        };
        write().map_err(|error| match error {
            ArrowError::IoError(_, error) => error,
            error => std::io::Error::other(error),
        })
    })
}
