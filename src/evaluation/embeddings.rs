//! A view of image embeddings, one row per image.

use crate::backend::Backend;
use crate::backend::cpu::stored_rows::StoredRows;
use crate::files::npy::StoredValues;
use crate::{Error, Result};

/// View of `[images, width]` embeddings, row-major; every value is finite.
#[derive(Clone, Copy, Debug)]
pub struct Embeddings<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> From<Embeddings<'a>> for StoredRows<'a> {
    fn from(embeddings: Embeddings<'a>) -> Self {
        StoredRows::checked(StoredValues::Single(embeddings.values), embeddings.width)
    }
}

impl<'a> Embeddings<'a> {
    /// Checks the shape, and that every value is finite: one pass over the values.
    pub fn new(values: &'a [f32], width: usize) -> Result<Self> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(Error::argument(
                "embeddings",
                format!("{} values cannot be divided into rows of {width}", values.len()),
                "give as many values as images times the width",
            ));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::argument(
                "embeddings",
                format!("row {}, column {} is {}", at / width, at % width, values[at]),
                "every value must be finite; check the model or file they come from",
            ));
        }
        Ok(Embeddings { values, width })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of values per image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All values, row-major.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Copies the embeddings to the memory of `backend`.
    pub(super) fn upload<B: Backend>(&self, backend: &mut B) -> Result<B::Buffer> {
        let mut buffer = backend.allocate(self.values.len())?;
        backend.upload(self.values, &mut buffer, 0)?;
        Ok(buffer)
    }

    /// Embedding of one image.
    pub fn row(&self, image: usize) -> &'a [f32] {
        &self.values[image * self.width..][..self.width]
    }
}
