//! Uninformative baseline: embeddings drawn from a normal distribution (paper, Table 2, "Normal Features").

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Distribution, StandardNormal};

/// `[images, width]` values of N(0, 1), with each row divided by its norm.
///
/// Rows are normalised like every other embedding: inner products are cosines, and a long vector does not
/// rank first or last in every row. The same arguments give the same values on every machine.
pub fn normal_features(images: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut row = vec![0.0f64; width];
    let mut values = Vec::with_capacity(images * width);
    for _ in 0..images {
        row.fill_with(|| StandardNormal.sample(&mut rng));
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-12);
        values.extend(row.iter().map(|value| (value / norm) as f32));
    }
    values
}
