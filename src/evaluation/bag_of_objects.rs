//! Baseline that uses the objects of a scene but not their relationships: tf-idf of the object types.
//!
//! ```text
//! tf(t, X)  = number of occurrences of type t in the graph of X
//! idf(t)    = 1 + ln((1 + images) / (1 + images with t)),   over the training images
//! f_X       = tf(t, X) idf(t) over all t, divided by its norm, so that inner products are cosines
//! ```
//!
//! The ones in idf keep the weights of a type in every image above 0, and those of an unseen type finite.

use std::ops::Range;

use crate::data::Dataset;
use crate::data::scene_graph::SceneGraph;

/// Weights of the object types.
pub struct BagOfObjects {
    /// `[object types]` weights, including `image` (the last), whose weight is 0.
    idf: Vec<f32>,
}

impl BagOfObjects {
    /// Counts the types in `images`, the training split.
    pub fn fit(dataset: &Dataset, images: Range<usize>) -> Self {
        let mut images_with = vec![0usize; dataset.object_count()];
        let count = images.len();
        for image in images {
            let mut types = objects(dataset.graph(image)).to_vec();
            types.sort_unstable();
            types.dedup();
            types.iter().for_each(|&object| images_with[object as usize] += 1);
        }
        let weigh = |&with: &usize| (1.0 + ((1 + count) as f64 / (1 + with) as f64).ln()) as f32;
        let mut idf: Vec<f32> = images_with.iter().map(weigh).collect();
        if let Some(image) = idf.last_mut() {
            *image = 0.0;
        }
        BagOfObjects { idf }
    }

    /// Number of values per image, one per object type.
    pub fn width(&self) -> usize {
        self.idf.len()
    }

    /// Weight of an object type.
    pub fn idf(&self, object: u32) -> f32 {
        self.idf[object as usize]
    }

    /// `[graphs, width]` rows of unit norm; zeros for a graph without objects.
    pub fn embed(&self, graphs: &[SceneGraph<'_>]) -> Vec<f32> {
        let mut values = vec![0.0; graphs.len() * self.width()];
        for (graph, row) in graphs.iter().zip(values.chunks_exact_mut(self.width())) {
            graph.node_object.iter().for_each(|&object| row[object as usize] += self.idf(object));
            normalise(row);
        }
        values
    }
}

/// Types of the objects, without the image node.
fn objects<'a>(graph: SceneGraph<'a>) -> &'a [u32] {
    &graph.node_object[..graph.node_count() - 1]
}

/// Divides a row by its norm; zeros stay zero.
pub(super) fn normalise(row: &mut [f32]) {
    let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
    row.iter_mut().for_each(|value| *value /= norm);
}
