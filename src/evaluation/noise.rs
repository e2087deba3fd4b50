//! Retrieval with incomplete queries, over levels of noise (paper, "Image Retrieval").

use serde::Serialize;

use super::{Embeddings, QueryEdges, RetrievalMetrics, incomplete_query, ranks};
use crate::backend::device::{Arithmetic, Device};
use crate::data::scene_graph::{SceneGraph, SceneGraphBuf};
use crate::data::{Dataset, Split};
use crate::error::Result;

/// Selection of queries, and the noise applied to them.
#[derive(Clone, Copy, Debug)]
pub struct QueryNoise {
    /// Images whose graphs are the queries.
    pub split: Split,
    /// Number of edges removed from each query, M.
    pub removed: usize,
    /// Edges that may be removed.
    pub edges: QueryEdges,
    /// Seed for the removed edges.
    pub seed: u64,
}

/// Queries at one level of noise, and their retrieval metrics.
#[derive(Clone, Debug, Serialize)]
pub struct NoiseLevel {
    /// Number of edges removed from each query, M.
    pub removed: usize,
    /// Metrics over all images of the split.
    #[serde(flatten)]
    pub metrics: RetrievalMetrics,
    /// `[images, D]` embeddings of the queries, in the order of the split.
    #[serde(skip)]
    pub queries: Vec<f32>,
}

/// Incomplete graphs of all images in the split.
pub fn incomplete_queries(dataset: &Dataset, noise: QueryNoise) -> Vec<SceneGraphBuf> {
    let QueryNoise { split, removed, edges, seed } = noise;
    let in_image = dataset.predicate_count() as u32 - 1;
    dataset
        .split(split)
        .map(|image| {
            incomplete_query(dataset.graph(image), removed, edges, in_image, seed, dataset.image_id(image))
        })
        .collect()
}

/// Ranks each image of the split, on `device`, for its own incomplete query. `embed` embeds the queries;
/// `index [images, D]` holds the split's embeddings by the same method.
pub fn noise_level(
    device: Device,
    arithmetic: impl Into<Arithmetic>,
    dataset: &Dataset,
    index: Embeddings<'_>,
    noise: QueryNoise,
    embed: impl Fn(&[SceneGraph<'_>]) -> Result<Vec<f32>>,
) -> Result<NoiseLevel> {
    let graphs = incomplete_queries(dataset, noise);
    let views: Vec<_> = graphs.iter().map(SceneGraphBuf::view).collect();
    let queries = embed(&views)?;
    let targets: Vec<u32> = (0..graphs.len() as u32).collect();
    let ranks = ranks(device, arithmetic, Embeddings::new(&queries, index.width())?, index, &targets)?;
    Ok(NoiseLevel { removed: noise.removed, metrics: RetrievalMetrics::new(&ranks), queries })
}
