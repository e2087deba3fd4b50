//! Embeddings in a mapped file, so that a million of them need no memory of their own.

use std::path::Path;

use super::measure::Measure;
use crate::backend::cpu::stored_rows::StoredRows;
use crate::files::npy::{MappedMatrix, StoredValues, map_npy, read_npy};
use crate::{Error, Result};

/// Rows of a `.npy` file.
pub struct EmbeddingsFile {
    rows: Rows,
}

enum Rows {
    /// Used in place, in the layout of the file.
    Mapped(MappedMatrix),
    /// Converted from double precision, or another order of bytes or of storage.
    Read { values: Vec<f32>, width: usize },
}

impl EmbeddingsFile {
    /// Opens a two-dimensional array. Row-major arrays of half or single precision, as written by `embed`,
    /// are mapped. Others are read and converted to single precision. Checks that every value is finite, in
    /// one pass over the file on all threads.
    pub fn open(path: &Path) -> Result<Self> {
        let rows = match map_npy(path)? {
            Some(matrix) => Rows::Mapped(matrix),
            None => {
                let matrix = read_npy(path)?;
                Rows::Read { values: matrix.values, width: matrix.width }
            }
        };
        let (values, width) = rows.stored();
        if let Some((at, value)) = values.find_not_finite() {
            return Err(Error::invalid(
                path,
                format!("row {}, column {}", at / width, at % width),
                format!("the value is {value}"),
                "every value must be finite; check how the file was made",
            ));
        }
        Ok(EmbeddingsFile { rows })
    }

    /// The rows in single precision and in memory, prepared for this measure.
    pub fn prepared(self, measure: Measure) -> Self {
        let rows = self.rows();
        let (mut values, width) = (rows.to_single().into_owned(), rows.width());
        measure.prepare(&mut values, width);
        EmbeddingsFile { rows: Rows::Read { values, width } }
    }

    /// An error if another process has written to the file since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        match &self.rows {
            Rows::Mapped(matrix) => matrix.check_unchanged(),
            Rows::Read { .. } => Ok(()),
        }
    }

    /// Rows of the file.
    pub fn rows(&self) -> StoredRows<'_> {
        let (values, width) = self.rows.stored();
        StoredRows::checked(values, width)
    }
}

impl Rows {
    fn stored(&self) -> (StoredValues<'_>, usize) {
        match self {
            Rows::Read { values, width } => (StoredValues::Single(values), *width),
            Rows::Mapped(matrix) => (matrix.values(), matrix.width()),
        }
    }
}
