//! The baseline without information: embeddings drawn from a normal distribution (paper, Table 2, "Normal Features").

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Distribution, StandardNormal};

/// `[images, width]` values of N(0, 1), each row then divided by its norm.
///
/// Normalised because every other embedding is: inner products are cosines, and an image whose vector happens to be
/// long does not lead or trail every other image's row. The same arguments give the same values on every machine.
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
