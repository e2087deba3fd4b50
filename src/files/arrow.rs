//! Writes embeddings as an Arrow IPC file (Feather, version 2), which vector engines and data frames read
//! without a copy.
//!
//! Columns: `image_id` (u64), `split` (string), `embedding` (fixed-size list of f32). The entry `scenerank` of the schema's
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

/// Writes `[rows, width]` values, with the split of each row's image; `origin` has their ids. The file appears complete or not at
/// all.
pub fn write_arrow(
    path: &Path,
    origin: &Origin,
    splits: &[&str],
    values: &[f32],
    width: usize,
) -> Result<()> {
    let ids = &origin.image_ids;
    assert!(width > 0 && values.len() == ids.len() * width, "arrow: a row of {width} for every id");
    assert_eq!(ids.len(), splits.len(), "arrow: a split for every id");
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let list = DataType::FixedSizeList(Arc::clone(&item), width as i32);
    let fields = vec![
        Field::new("image_id", DataType::UInt64, false),
        Field::new("split", DataType::Utf8, false),
        Field::new("embedding", list, false),
    ];
    let metadata = HashMap::from([(ORIGIN.to_string(), origin.to_schema_entry())]);
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let batches = ids
        .chunks(ROWS_PER_BATCH)
        .zip(splits.chunks(ROWS_PER_BATCH))
        .zip(values.chunks(ROWS_PER_BATCH * width))
        .map(|((ids, splits), values)| {
            let values: ArrayRef = Arc::new(Float32Array::from(values.to_vec()));
            let columns: Vec<ArrayRef> = vec![
                Arc::new(UInt64Array::from(ids.to_vec())),
                Arc::new(StringArray::from(splits.to_vec())),
                Arc::new(FixedSizeListArray::try_new(Arc::clone(&item), width as i32, values, None)?),
            ];
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
