//! Exact search for the k nearest images of queries by inner product (`top_k` of each backend), and the rank of an image.

use rayon::prelude::*;

use super::Embeddings;
use crate::backend::Backend;
use crate::backend::cpu::rank_many;
use crate::backend::cpu::stored_rows::StoredRows;
use crate::backend::cpu::top_k::top_k_stored;
use crate::backend::cpu::top_k_many::top_k_many;
use crate::backend::device::{Arithmetic, BackendTask, Device};
use crate::{Error, Result};

/// Finds the `k` images (or all, if fewer) with the greatest inner products with `query`, best first; ties go
/// to the lower index. Returns them with their inner products. The CPU sums these in double precision, other
/// devices in their own precision.
pub fn nearest(
    device: Device,
    arithmetic: impl Into<Arithmetic>,
    query: Embeddings<'_>,
    embeddings: Embeddings<'_>,
    k: usize,
) -> Result<Vec<(usize, f32)>> {
    check_query(query, embeddings.width())?;
    device.run(arithmetic, Nearest { query, embeddings, k })
}

/// Like [`nearest`], for stored rows, on the CPU: exact for the stored values.
pub fn nearest_stored<'a>(
    query: Embeddings<'_>,
    rows: impl Into<StoredRows<'a>>,
    k: usize,
) -> Result<Vec<(usize, f32)>> {
    let rows = rows.into();
    check_query(query, rows.width())?;
    Ok(top_k_stored(query.values(), rows, k))
}

/// Like [`nearest_stored`], for each row of `queries`: the same rows, order and scores. Each stored row is read once for all
/// queries, by a product in single precision that leaves few rows to be scored.
pub fn nearest_stored_many<'a>(
    queries: Embeddings<'_>,
    rows: impl Into<StoredRows<'a>>,
    k: usize,
) -> Result<Vec<Vec<(usize, f32)>>> {
    let rows = rows.into();
    check_width(queries, rows.width())?;
    Ok(top_k_many(queries.values(), rows, k))
}

/// Like [`nearest`], for each row of `queries`. The CPU reads each embedding once for all queries, as [`nearest_stored_many`] does;
/// other devices copy the embeddings once.
pub fn nearest_many(
    device: Device,
    arithmetic: impl Into<Arithmetic>,
    queries: Embeddings<'_>,
    embeddings: Embeddings<'_>,
    k: usize,
) -> Result<Vec<Vec<(usize, f32)>>> {
    check_width(queries, embeddings.width())?;
    device.run(arithmetic, NearestMany { queries, embeddings, k })
}

/// Rank, from 1, of row `target` among `rows` by inner product with `query` (one row), and that inner
/// product; computed on the CPU. Rows with the same score rank before it, as in [`ranks`](super::ranks).
pub fn rank<'a>(
    query: Embeddings<'_>,
    rows: impl Into<StoredRows<'a>>,
    target: usize,
) -> Result<(usize, f32)> {
    let rows = rows.into();
    check_query(query, rows.width())?;
    check_target(target, rows)?;
    let mut own = 0.0;
    rows.scores(query.values(), target..target + 1, |_, score| own = score);
    let rank = rows.tasks().map(|task| {
        let mut count = 0;
        rows.scores(query.values(), task, |_, score| count += usize::from(score >= own));
        count
    });
    Ok((rank.sum(), own as f32))
}

/// [`rank`] for each row of `queries`. Each of `rows` is read once for all of them.
pub fn rank_many<'a>(
    queries: Embeddings<'_>,
    rows: impl Into<StoredRows<'a>>,
    target: usize,
) -> Result<Vec<(usize, f32)>> {
    let rows = rows.into();
    check_width(queries, rows.width())?;
    check_target(target, rows)?;
    let ranks = rank_many::rank_many(queries.values(), rows, target);
    Ok(ranks.into_iter().map(|(rank, own)| (rank, own as f32)).collect())
}

fn check_target(target: usize, rows: StoredRows<'_>) -> Result<()> {
    if target < rows.len() {
        return Ok(());
    }
    Err(Error::argument(
        "target",
        format!("is row {target}, there are {}", rows.len()),
        "a target is the row of an indexed image, from 0",
    ))
}

fn check_query(query: Embeddings<'_>, width: usize) -> Result<()> {
    if query.len() == 1 && query.width() == width {
        return Ok(());
    }
    Err(Error::argument(
        "query",
        format!("{} rows of {} values, where one row of {width} is compared", query.len(), query.width()),
        "embed the query with the model that embedded the images",
    ))
}

fn check_width(queries: Embeddings<'_>, width: usize) -> Result<()> {
    if queries.width() == width {
        return Ok(());
    }
    Err(Error::argument(
        "queries",
        format!("have {} values each, the rows have {width}", queries.width()),
        "embed the queries with the model that embedded the images",
    ))
}

struct NearestMany<'a> {
    queries: Embeddings<'a>,
    embeddings: Embeddings<'a>,
    k: usize,
}

impl BackendTask for NearestMany<'_> {
    type Output = Vec<Vec<(usize, f32)>>;

    fn run<B: Backend>(self, mut backend: B) -> Result<Self::Output> {
        let (rows, width) = (self.embeddings.len(), self.embeddings.width());
        let embeddings = self.embeddings.upload(&mut backend)?;
        backend.top_k_many(self.queries.values(), &embeddings, rows, width, self.k)
    }
}

struct Nearest<'a> {
    query: Embeddings<'a>,
    embeddings: Embeddings<'a>,
    k: usize,
}

impl BackendTask for Nearest<'_> {
    type Output = Vec<(usize, f32)>;

    fn run<B: Backend>(self, mut backend: B) -> Result<Self::Output> {
        let (query, embeddings) = (self.query.upload(&mut backend)?, self.embeddings.upload(&mut backend)?);
        backend.top_k(&query, &embeddings, self.embeddings.len(), self.embeddings.width(), self.k)
    }
}
