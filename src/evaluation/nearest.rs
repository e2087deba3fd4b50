//! The k nearest images of one query by inner product: every image is compared (`top_k` of each backend).

use super::Embeddings;
use crate::backend::Backend;
use crate::backend::device::{BackendTask, Device, Precision};
use crate::{Error, Result};

/// The `k` images (or all, if fewer) with the greatest inner product with `query`, best first, ties by the lower
/// index; with their inner products. The CPU sums them in double precision, other devices in their own.
pub fn nearest(
    device: Device,
    precision: Precision,
    query: Embeddings<'_>,
    embeddings: Embeddings<'_>,
    k: usize,
) -> Result<Vec<(usize, f32)>> {
    if query.len() != 1 || query.width() != embeddings.width() {
        return Err(Error::argument(
            "query",
            format!(
                "{} rows of {} values, where one row of {} is compared",
                query.len(),
                query.width(),
                embeddings.width()
            ),
            "embed the query with the model that embedded the images",
        ));
    }
    device.run(precision, Nearest { query, embeddings, k })
}

struct Nearest<'a> {
    query: Embeddings<'a>,
    embeddings: Embeddings<'a>,
    k: usize,
}

impl BackendTask for Nearest<'_> {
    type Output = Vec<(usize, f32)>;

    fn run<B: Backend>(self, mut backend: B) -> Result<Self::Output> {
        let mut upload = |embeddings: Embeddings<'_>| -> Result<B::Buffer> {
            let mut buffer = backend.allocate(embeddings.values().len())?;
            backend.upload(embeddings.values(), &mut buffer, 0)?;
            Ok(buffer)
        };
        let (query, embeddings) = (upload(self.query)?, upload(self.embeddings)?);
        backend.top_k(&query, &embeddings, self.embeddings.len(), self.embeddings.width(), self.k)
    }
}
