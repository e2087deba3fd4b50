//! Shapes of cases: the sizes of a network, and a batch of graphs with the paper's mean sizes or of other graphs.

use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::bench::case::Grows;
use crate::data::scene_graph::SceneGraphBuf;
use crate::network::config::ModelConfig;

/// A network that the emulator and the reference finish soon. Its widths are not multiples of a tile. Its hidden width,
/// like the paper's, allows 16-byte copies in bf16 too.
pub const SMALL: ModelConfig = ModelConfig {
    object_types: 121,
    predicate_types: 31,
    layers: 3,
    state_width: 44,
    hidden_width: 72,
    ..ModelConfig::PAPER
};

/// Mean number of objects per graph, without the image node (paper, "Data").
const OBJECTS: usize = 21;
/// Mean number of relationships per graph, without `in image` edges.
const RELATIONSHIPS: usize = 15;
const MEANS: [usize; 2] = [OBJECTS, RELATIONSHIPS];

/// Anchors of an epoch: about as many as the paper's training images.
const ANCHORS: usize = 32_000;

/// Seed of a bench's values.
const SEED: u64 = 1;

/// A network and a batch for it.
#[derive(Clone)]
pub struct Sizes {
    /// Sizes of the network.
    pub config: ModelConfig,
    /// Graphs of the batch; empty if the batch was given without them.
    pub graphs: Rc<Vec<SceneGraphBuf>>,
    /// Batch of the graphs.
    pub batch: Rc<GraphBatch>,
    /// Seed of the values.
    pub seed: u64,
    /// Largest batch, which grids cover; by default the batch itself.
    pub capacity: BatchSize,
}

impl Sizes {
    /// Sizes with a batch of `triples` triples of random graphs.
    pub fn new(config: ModelConfig, triples: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let graphs = average_graphs(config, 3 * triples, &mut rng);
        let batch = batch_of(config, &graphs, &mut rng);
        let capacity = batch.size();
        Sizes { config, graphs: Rc::new(graphs), batch: Rc::new(batch), seed: SEED, capacity }
    }

    /// The same sizes with the grids of training, which cover the largest batch of an epoch of such graphs.
    pub fn with_training_grids(self) -> Self {
        let mut rng = StdRng::seed_from_u64(11);
        let graphs = self.graphs();
        let batches = (3 * ANCHORS).div_ceil(graphs.max(1));
        let capacity = (0..batches).fold(self.capacity, |largest, _| {
            let mut of_batch = BatchSize { graphs, ..BatchSize::default() };
            for _ in 0..graphs {
                let [objects, relationships] =
                    MEANS.map(|mean| (mean as i32 + draw_difference(&mut rng, mean)) as usize);
                of_batch.nodes += objects + 1;
                of_batch.edges += objects + relationships;
            }
            largest.max_of_each(of_batch)
        });
        Sizes { capacity, ..self }
    }

    /// Share of a grid's rows that the batch has; the other blocks end at once.
    pub fn filled(&self, grows: Grows) -> f64 {
        let BatchSize { nodes, edges, .. } = self.capacity;
        let types = self.batch.object_occurrences.types.len();
        let (rows, bound) = match grows {
            Grows::Nothing => (1, 1),
            Grows::Nodes => (self.nodes(), nodes),
            Grows::Edges => (self.edges(), edges),
            Grows::ObjectTypes => (types, types + self.spare_rows(grows)),
        };
        rows as f64 / bound.max(1) as f64
    }

    /// Number of rows that a grid covers beyond those of the batch.
    pub fn spare_rows(&self, grows: Grows) -> usize {
        let BatchSize { nodes, edges, .. } = self.capacity;
        match grows {
            Grows::Nothing => 0,
            Grows::Nodes => nodes - self.nodes(),
            Grows::Edges => edges - self.edges(),
            Grows::ObjectTypes => {
                nodes.min(self.config.object_types) - self.batch.object_occurrences.types.len()
            }
        }
    }

    /// Sizes with a given batch.
    pub fn of_batch(config: ModelConfig, batch: GraphBatch, seed: u64) -> Self {
        let capacity = batch.size();
        Sizes { config, graphs: Rc::default(), batch: Rc::new(batch), seed, capacity }
    }

    /// B: number of triples.
    pub fn triples(&self) -> usize {
        self.batch.similarity_positive.len()
    }

    /// G: number of graphs, 3 B in a batch of triples.
    pub fn graphs(&self) -> usize {
        self.batch.size().graphs
    }

    /// N: number of nodes, 66 B in a bench.
    pub fn nodes(&self) -> usize {
        self.batch.size().nodes
    }

    /// E: number of edges, 108 B in a bench.
    pub fn edges(&self) -> usize {
        self.batch.size().edges
    }
}

/// Random graphs of the paper's mean size: 22 nodes and 36 edges. Sizes differ between graphs: each graph of the first half
/// is larger than the mean by as much as one of the second half is smaller. The density of a type is the inverse of its
/// rank, so that a few types are frequent.
fn average_graphs(config: ModelConfig, count: usize, rng: &mut StdRng) -> Vec<SceneGraphBuf> {
    let (image, in_image) = (config.object_types as u32 - 1, config.predicate_types as u32 - 1);
    let half: Vec<[i32; 2]> = (0..count / 2).map(|_| MEANS.map(|mean| draw_difference(rng, mean))).collect();
    let others = half.iter().map(|more| more.map(|more| -more));
    let differences = half.iter().copied().chain(others).chain(std::iter::repeat([0, 0]));
    differences
        .take(count)
        .map(|more| {
            let object_count = (OBJECTS as i32 + more[0]) as u32;
            let objects: Vec<u32> = (0..object_count).map(|_| draw_type(rng, image)).collect();
            let relationships: Vec<_> = (0..RELATIONSHIPS as i32 + more[1])
                .map(|_| {
                    let predicate = draw_type(rng, in_image);
                    (rng.random_range(0..object_count), predicate, rng.random_range(0..object_count))
                })
                .collect();
            SceneGraphBuf::augmented(&objects, &relationships, image, in_image)
        })
        .collect()
}

/// Batch of these triples, with random similarities.
fn batch_of(config: ModelConfig, graphs: &[SceneGraphBuf], rng: &mut StdRng) -> GraphBatch {
    let triples = graphs.len() / 3;
    let views = graphs.iter().map(SceneGraphBuf::view);
    let mut batch = GraphBatch::of_graphs(views, config.object_types, config.predicate_types);
    batch.similarity_positive = (0..triples).map(|_| rng.random_range(0.5..1.0)).collect();
    batch.similarity_negative = (0..triples).map(|_| rng.random_range(0.2..0.8)).collect();
    batch
}

/// Difference of up to three quarters of a mean.
fn draw_difference(rng: &mut StdRng, mean: usize) -> i32 {
    let most = mean as i32 * 3 / 4;
    rng.random_range(-most..=most)
}

fn draw_type(rng: &mut StdRng, end: u32) -> u32 {
    (f64::from(end).powf(rng.random::<f64>()) as u32).min(end) - 1
}

#[cfg(test)]
mod tests {
    use super::{Grows, ModelConfig, Sizes};

    #[test]
    fn a_batch_has_the_averages_of_the_paper() {
        let sizes = Sizes::new(ModelConfig::PAPER, 16);
        assert_eq!((sizes.graphs(), sizes.nodes(), sizes.edges()), (48, 1056, 1728));
    }

    #[test]
    fn grids_of_training_cover_the_largest_batch_of_an_epoch() {
        let kinds = [Grows::Nothing, Grows::Nodes, Grows::Edges, Grows::ObjectTypes];
        let spare = |sizes: &Sizes| kinds.map(|grows| sizes.spare_rows(grows));
        let exact = Sizes::new(ModelConfig::PAPER, 16);
        assert_eq!(spare(&exact)[..3], [0; 3]);
        // Of 2,000 batches of 48 graphs, the largest exceeds the mean by more than three standard deviations.
        let in_training = spare(&exact.clone().with_training_grids());
        let off = |mean: usize, deviation: f64| 3.0 * deviation * 48f64.sqrt() / mean as f64;
        for (rows, spare, deviation) in
            [(exact.nodes(), in_training[1], 8.9), (exact.edges(), in_training[2], 11.2)]
        {
            let share = spare as f64 / rows as f64;
            let least = off(rows, deviation);
            assert!(share > least && share < 1.6 * least, "{spare} rows beyond {rows}, at least {least}");
        }
        // All nodes may have different types.
        let types = exact.batch.object_occurrences.types.len();
        assert_eq!((in_training[0], in_training[3]), (0, exact.nodes() + in_training[1] - types));
        // Larger batches differ less.
        let many = Sizes::new(ModelConfig::PAPER, 256);
        assert!(spare(&many.clone().with_training_grids())[2] * 16 < many.edges());
    }
}
