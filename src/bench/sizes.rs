//! The shapes of cases: a network's sizes and a batch, of graphs of the paper's averages or of any others.

use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::batch::graph_batch::GraphBatch;
use crate::data::scene_graph::SceneGraphBuf;
use crate::network::config::ModelConfig;

/// A network that the emulator and the plain loops finish soon; widths are no multiples of a tile, but
/// the hidden one suits copies of 16 bytes in bf16 too, as the paper's.
pub const SMALL: ModelConfig = ModelConfig {
    object_types: 121,
    predicate_types: 31,
    layers: 3,
    state_width: 44,
    hidden_width: 72,
    ..ModelConfig::PAPER
};

/// Objects of a graph on average, its image node aside (paper, "Data").
const OBJECTS: usize = 21;
/// Relationships of a graph on average, edges `in image` aside.
const RELATIONSHIPS: usize = 15;

/// The seed of a bench's values.
const SEED: u64 = 1;

/// A network and a batch for it.
#[derive(Clone)]
pub struct Sizes {
    /// The network.
    pub config: ModelConfig,
    /// The batch's graphs; empty for a batch that was given without them.
    pub graphs: Rc<Vec<SceneGraphBuf>>,
    /// The batch.
    pub batch: Rc<GraphBatch>,
    /// The seed of the values.
    pub seed: u64,
}

impl Sizes {
    /// `triples` triples of graphs for this network.
    pub fn new(config: ModelConfig, triples: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let graphs = average_graphs(config, 3 * triples, &mut rng);
        let batch = batch_of(config, &graphs, &mut rng);
        Sizes { config, graphs: Rc::new(graphs), batch: Rc::new(batch), seed: SEED }
    }

    /// An indexed batch of any graphs, and a seed.
    pub fn of_batch(config: ModelConfig, batch: GraphBatch, seed: u64) -> Self {
        Sizes { config, graphs: Rc::default(), batch: Rc::new(batch), seed }
    }

    /// B.
    pub fn triples(&self) -> usize {
        self.batch.similarity_positive.len()
    }

    /// G: 3 B in a batch of triples.
    pub fn graphs(&self) -> usize {
        self.batch.size().graphs
    }

    /// N: 66 B in a bench.
    pub fn nodes(&self) -> usize {
        self.batch.size().nodes
    }

    /// E: 108 B in a bench.
    pub fn edges(&self) -> usize {
        self.batch.size().edges
    }
}

/// Random graphs of the paper's mean size: 22 nodes and 36 edges each. Types are drawn with a density of
/// one over their rank, so that few types are most of what occurs.
fn average_graphs(config: ModelConfig, count: usize, rng: &mut StdRng) -> Vec<SceneGraphBuf> {
    let (image, in_image) = (config.object_types as u32 - 1, config.predicate_types as u32 - 1);
    (0..count)
        .map(|_| {
            let objects: Vec<u32> = (0..OBJECTS).map(|_| draw_type(rng, image)).collect();
            let relationships: Vec<_> = (0..RELATIONSHIPS)
                .map(|_| {
                    let predicate = draw_type(rng, in_image);
                    (rng.random_range(0..OBJECTS as u32), predicate, rng.random_range(0..OBJECTS as u32))
                })
                .collect();
            SceneGraphBuf::augmented(&objects, &relationships, image, in_image)
        })
        .collect()
}

/// The batch of these triples, with similarities.
fn batch_of(config: ModelConfig, graphs: &[SceneGraphBuf], rng: &mut StdRng) -> GraphBatch {
    let triples = graphs.len() / 3;
    let views = graphs.iter().map(SceneGraphBuf::view);
    let mut batch = GraphBatch::of_graphs(views, config.object_types, config.predicate_types);
    batch.similarity_positive = (0..triples).map(|_| rng.random_range(0.5..1.0)).collect();
    batch.similarity_negative = (0..triples).map(|_| rng.random_range(0.2..0.8)).collect();
    batch
}

fn draw_type(rng: &mut StdRng, end: u32) -> u32 {
    (f64::from(end).powf(rng.random::<f64>()) as u32).min(end) - 1
}

#[cfg(test)]
mod tests {
    use super::{ModelConfig, Sizes};

    #[test]
    fn a_batch_has_the_averages_of_the_paper() {
        let sizes = Sizes::new(ModelConfig::PAPER, 16);
        assert_eq!((sizes.graphs(), sizes.nodes(), sizes.edges()), (48, 1056, 1728));
    }
}
