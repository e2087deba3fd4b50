//! Retrieval with incomplete queries, over levels of noise (paper, "Image Retrieval").

use serde::Serialize;

use super::{Embeddings, QueryEdges, RetrievalMetrics, incomplete_query, ranks};
use crate::backend::device::{Device, Precision};
use crate::data::scene_graph::{SceneGraph, SceneGraphBuf};
use crate::data::{Dataset, Split};
use crate::error::Result;

/// What happens to the graphs of a split before they are queries.
#[derive(Clone, Copy, Debug)]
pub struct QueryNoise {
    /// Which images.
    pub split: Split,
    /// Edges removed from each query, M.
    pub removed: usize,
    /// Which edges are drawn from.
    pub edges: QueryEdges,
    /// Of the edges that are removed.
    pub seed: u64,
}

/// The queries of one level of noise, and how well they found their images.
#[derive(Clone, Debug, Serialize)]
pub struct NoiseLevel {
    /// Edges removed from each query, M.
    pub removed: usize,
    /// Over all images of the split.
    #[serde(flatten)]
    pub metrics: RetrievalMetrics,
    /// `[images, D]`: the queries' embeddings, in the order of the split.
    #[serde(skip)]
    pub queries: Vec<f32>,
}

/// Every image's graph, incomplete.
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

/// Ranks, on `device`, each image of the split for its own incomplete query, which `embed` turns into a row, among `index
/// [images, D]`, the split's embeddings by the same method.
pub fn noise_level(
    device: Device,
    precision: Precision,
    dataset: &Dataset,
    index: Embeddings<'_>,
    noise: QueryNoise,
    embed: impl Fn(&[SceneGraph<'_>]) -> Result<Vec<f32>>,
) -> Result<NoiseLevel> {
    let graphs = incomplete_queries(dataset, noise);
    let views: Vec<_> = graphs.iter().map(SceneGraphBuf::view).collect();
    let queries = embed(&views)?;
    let targets: Vec<u32> = (0..graphs.len() as u32).collect();
    let ranks = ranks(device, precision, Embeddings::new(&queries, index.width())?, index, &targets)?;
    Ok(NoiseLevel { removed: noise.removed, metrics: RetrievalMetrics::new(&ranks), queries })
}
