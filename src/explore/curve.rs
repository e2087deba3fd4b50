//! Rank of an image against the number of edges removed from its query.

use std::sync::Arc;

use serde::Serialize;

use super::Collection;
use super::api::{Answer, Client, Removal, beside, embed, find, number};
use crate::data::scene_graph::SceneGraphBuf;
use crate::evaluation::{Embeddings, QueryEdges, incomplete_query, rank_many};

/// Largest number of points of a curve.
const MOST_POINTS: usize = 25;

#[derive(Serialize)]
pub(super) struct Curve {
    image_id: u64,
    images: usize,
    /// Number of edges that may be removed; one of them always stays.
    edges: usize,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    removed: usize,
    rank: usize,
    cosine: f32,
}

/// Returns the ranks of the image with this id for its own graph without 0, 1, 2... random edges, in the order that `seed` gives.
pub(super) async fn curve(collection: Arc<Collection>, id: &str, options: &str) -> Answer<Curve> {
    let id = number("an image id", id)?;
    let image = find(&collection, id)?;
    let Removal { edges, seed, .. } = Removal::parse(options, &["edges", "seed"])?;
    let whole = collection.run.dataset.graph(image);
    let in_image = collection.run.dataset.vocabulary().in_image_type();
    let count = match edges {
        QueryEdges::Augmented => whole.edge_predicate.len(),
        QueryEdges::Relationships => whole.edge_predicate.iter().filter(|&&of| of != in_image).count(),
    };
    let levels = levels(count.saturating_sub(1));
    let mut queries = Vec::with_capacity(levels.len());
    for &remove in &levels {
        // As an image is shown: nothing is left out of a whole graph.
        let graph = match remove {
            0 => SceneGraphBuf::from(whole),
            _ => incomplete_query(whole, remove, edges, in_image, seed, id),
        };
        queries.push(embed(&collection, graph).await?);
    }
    let shared = Arc::clone(&collection);
    let ranked = beside(move |client| points(&shared, image, &levels, &queries, client)).await?;
    Ok(Curve { image_id: id, images: collection.images.len(), edges: count, points: ranked })
}

/// The ranks of `image` for each of `queries`, which lack `levels` edges.
fn points(
    collection: &Collection,
    image: usize,
    levels: &[usize],
    queries: &[Vec<f32>],
    client: &Client<'_>,
) -> Answer<Vec<Point>> {
    let width = collection.run.width();
    let embeddings = Embeddings::new(&collection.embeddings, width)?;
    client.check()?;
    let queries = queries.concat();
    let ranks = rank_many(Embeddings::new(&queries, width)?, embeddings, image - collection.images.start)?;
    let point = |(&removed, (rank, cosine))| Point { removed, rank, cosine };
    Ok(levels.iter().zip(ranks).map(point).collect())
}

/// Numbers of removed edges from 0 to `most`: all of them, or evenly distributed if they are many.
fn levels(most: usize) -> Vec<usize> {
    let last = most.min(MOST_POINTS - 1);
    (0..=last).map(|point| if last == most { point } else { point * most / last }).collect()
}

#[cfg(test)]
mod tests {
    use super::levels;

    #[test]
    fn levels_begin_with_nothing_and_end_with_the_most() {
        assert_eq!(levels(0), [0]);
        assert_eq!(levels(3), [0, 1, 2, 3]);
        let many = levels(100);
        assert_eq!((many.len(), many[0], many[24]), (25, 0, 100));
        assert!(many.windows(2).all(|pair| pair[0] < pair[1]), "{many:?}");
    }
}
