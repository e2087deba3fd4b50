//! Retrieval with sentences: each caption of an image as a query for that image.
//!
//! A caption becomes a graph by the names that it has in the vocabulary ([`sentence`](crate::data::sentence)). A caption without
//! such a name cannot be a query; it counts as not found.

use serde::Serialize;

use super::{Embeddings, RetrievalMetrics, ranks};
use crate::backend::device::{Arithmetic, Device};
use crate::data::scene_graph::{SceneGraph, SceneGraphBuf};
use crate::data::sentence::Lexicon;
use crate::data::{Dataset, Split};
use crate::error::Result;

/// Rank of a query that is not found.
const NOT_FOUND: u32 = u32::MAX;

/// Captions as queries, and their retrieval metrics.
#[derive(Clone, Debug, Serialize)]
pub struct CaptionLevel {
    /// Number of captions of the split's images.
    pub queries: usize,
    /// Number of those that name no known object.
    pub not_understood: usize,
    /// Metrics over all captions.
    #[serde(flatten)]
    pub metrics: RetrievalMetrics,
}

/// Ranks each image of the split, on `place`, for each of its captions. `embed` embeds the queries; `index [images, D]` holds the
/// split's embeddings by the same method.
pub fn caption_level(
    place: (Device, Arithmetic),
    dataset: &Dataset,
    split: Split,
    index: Embeddings<'_>,
    embed: impl Fn(&[SceneGraph<'_>]) -> Result<Vec<f32>>,
) -> Result<CaptionLevel> {
    let (vocabulary, images) = (dataset.vocabulary(), dataset.split(split));
    let lexicon = Lexicon::new(vocabulary);
    let (mut graphs, mut targets, mut queries) = (Vec::new(), Vec::new(), 0);
    for (image, target) in images.zip(0..) {
        for caption in dataset.captions(image) {
            queries += 1;
            let graph = lexicon.understand(caption).graph;
            if !graph.objects.is_empty() {
                graphs.push(graph.augmented(vocabulary));
                targets.push(target);
            }
        }
    }
    let views: Vec<_> = graphs.iter().map(SceneGraphBuf::view).collect();
    let values = embed(&views)?;
    let mut found = ranks(place.0, place.1, Embeddings::new(&values, index.width())?, index, &targets)?;
    let not_understood = queries - found.len();
    found.resize(queries, NOT_FOUND);
    Ok(CaptionLevel { queries, not_understood, metrics: RetrievalMetrics::new(&found) })
}
