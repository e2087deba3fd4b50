//! Word-vector baseline: the mean of the GloVe vectors of a scene's object names, normalised.

use super::bag_of_objects::normalise;
use crate::data::Dataset;
use crate::data::scene_graph::SceneGraph;

/// `[graphs, word_width]` rows of unit norm. The mean is over all objects except the image node and objects
/// whose name has no known word. Zeros for a graph without a known name.
pub fn mean_name_vectors(dataset: &Dataset, graphs: &[SceneGraph<'_>]) -> Vec<f32> {
    let width = dataset.word_width();
    let (vectors, image) = (dataset.object_vectors(), dataset.object_count() - 1);
    let mut values = vec![0.0; graphs.len() * width];
    for (graph, row) in graphs.iter().zip(values.chunks_exact_mut(width)) {
        for object in graph.node_object.iter().map(|&object| object as usize) {
            // The vector of a name without a known word is zero.
            if object != image {
                row.iter_mut().zip(&vectors[object * width..]).for_each(|(sum, value)| *sum += value);
            }
        }
        normalise(row);
    }
    values
}
