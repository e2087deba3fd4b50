//! Statistics of a data file, as the paper reports them for its data.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use serde::Serialize;

use super::dataset::Dataset;
use super::similarity::Similarity;
use super::split::Split;

/// Number of triples (A, X, Y) sampled for the similarity statistics; all triples would take one inner
/// product per pair.
const SAMPLED_TRIPLES: usize = 500_000;

/// Statistics of a data file; objects and relationships exclude image nodes and `in image` edges.
#[derive(Clone, Debug, Serialize)]
pub struct Statistics {
    /// Number of images in all splits.
    pub images: usize,
    /// Number of training images.
    pub train: usize,
    /// Number of validation images.
    pub validation: usize,
    /// Number of test images.
    pub test: usize,
    /// Number of object types, without `image`.
    pub object_types: usize,
    /// Number of predicate types, without `in image`.
    pub predicate_types: usize,
    /// Mean number of objects per image.
    pub mean_objects: f64,
    /// Mean number of relationships per image.
    pub mean_relationships: f64,
    /// Median number of relationships per image.
    pub median_relationships: f64,
    /// Third quartile of the number of relationships per image.
    pub third_quartile_relationships: f64,
    /// Number of captions of all images.
    pub captions: usize,
    /// Quantiles 0, 0.01, 0.25, 0.5, 0.75, 0.99, 1 of s_XY over sampled pairs X != Y.
    pub similarity_quantiles: [f32; 7],
    /// 99th percentile of |s_AX - s_AY| over sampled triples of different images.
    pub difference_99th_percentile: f32,
}

/// Quantiles reported in [`Statistics::similarity_quantiles`].
pub const QUANTILES: [f64; 7] = [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0];

/// Computes the statistics; `seed` selects the sampled triples.
pub fn statistics(data: &Dataset, seed: u64) -> Statistics {
    let images = data.image_count();
    let mut relationships = Vec::with_capacity(images);
    let mut objects = 0;
    for graph in (0..images).map(|image| data.graph(image)) {
        let graph_objects = graph.node_count() - 1;
        objects += graph_objects;
        relationships.push((graph.edge_count() - graph_objects) as f32);
    }
    let mean_relationships = relationships.iter().map(|&count| f64::from(count)).sum::<f64>() / images as f64;
    relationships.sort_by(f32::total_cmp);

    let (mut similarities, mut differences) = sample(data.similarity(), seed);
    similarities.sort_by(f32::total_cmp);
    differences.sort_by(f32::total_cmp);
    Statistics {
        images,
        train: data.split(Split::Train).len(),
        validation: data.split(Split::Validation).len(),
        test: data.split(Split::Test).len(),
        object_types: data.object_count() - 1,
        predicate_types: data.predicate_count() - 1,
        mean_objects: objects as f64 / images as f64,
        mean_relationships,
        median_relationships: f64::from(quantile(&relationships, 0.5)),
        third_quartile_relationships: f64::from(quantile(&relationships, 0.75)),
        captions: (0..images).map(|image| data.captions(image).count()).sum(),
        similarity_quantiles: QUANTILES.map(|q| quantile(&similarities, q)),
        difference_99th_percentile: quantile(&differences, 0.99),
    }
}

/// Samples s_AX and |s_AX - s_AY| for triples of different images; empty for fewer than three images.
pub fn sample(similarity: Similarity<'_>, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let images = similarity.len();
    if images < 3 {
        return (Vec::new(), Vec::new());
    }
    let mut random = StdRng::seed_from_u64(seed);
    let triples: Vec<[usize; 3]> = (0..SAMPLED_TRIPLES)
        .map(|_| {
            loop {
                let [a, x, y] = std::array::from_fn(|_| random.random_range(0..images));
                if a != x && a != y && x != y {
                    break [a, x, y];
                }
            }
        })
        .collect();
    triples
        .into_par_iter()
        .map(|[a, x, y]| {
            let s_ax = similarity.get(a, x);
            (s_ax, (s_ax - similarity.get(a, y)).abs())
        })
        .unzip()
}

/// The `q` quantile of ascending values, interpolated linearly; 0 if there are none.
pub fn quantile(sorted: &[f32], q: f64) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = q * last as f64;
    let below = sorted[position as usize];
    let above = sorted[(position as usize + 1).min(last)];
    below + (above - below) * position.fract() as f32
}
