//! Retrieval with incomplete queries, over levels of noise (paper, "Image Retrieval").

use serde::Serialize;

use super::{Embeddings, QueryEdges, RetrievalMetrics, incomplete_query, ranks};
use crate::data::scene_graph::SceneGraphBuf;
use crate::data::{Dataset, Split};
use crate::error::Result;
use crate::run::Run;

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

/// Every image's graph without `remove` edges.
pub fn incomplete_queries(
    dataset: &Dataset,
    split: Split,
    remove: usize,
    edges: QueryEdges,
    seed: u64,
) -> Vec<SceneGraphBuf> {
    let in_image = dataset.predicate_count() as u32 - 1;
    dataset
        .split(split)
        .map(|image| {
            incomplete_query(dataset.graph(image), remove, edges, in_image, seed, dataset.image_id(image))
        })
        .collect()
}

/// Ranks each image of `split` for its own incomplete query among `index [images, D]`, the split's embeddings.
pub fn noise_level(
    run: &Run,
    split: Split,
    index: &[f32],
    remove: usize,
    edges: QueryEdges,
    seed: u64,
) -> Result<NoiseLevel> {
    let graphs = incomplete_queries(&run.dataset, split, remove, edges, seed);
    let views: Vec<_> = graphs.iter().map(SceneGraphBuf::view).collect();
    let queries = run.embed(&views)?;
    let targets: Vec<u32> = (0..graphs.len() as u32).collect();
    let width = run.width();
    let ranks = ranks(Embeddings::new(&queries, width)?, Embeddings::new(index, width)?, &targets)?;
    Ok(NoiseLevel { removed: remove, metrics: RetrievalMetrics::new(&ranks), queries })
}
