//! Random numbers of a collection: one generator per image and purpose, and draws from it.
//!
//! A generator depends only on (seed, image, purpose), and a direction only on its label. Images can
//! therefore be generated in any order, and a part that draws more numbers does not affect the others.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::StandardNormal;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Independent random sequences of an image.
#[derive(Clone, Copy)]
pub(super) enum Stream {
    Role = 1,
    Depiction,
    Size,
    Graph,
    Captions,
}

/// Generator for one random sequence of image `index`.
pub(super) fn stream(seed: u64, index: u64, stream: Stream) -> Xoshiro256PlusPlus {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&index.to_le_bytes());
    key[8] = stream as u8;
    Xoshiro256PlusPlus::seed_from_u64(xxh3_64_with_seed(&key, seed))
}

/// Random direction with length near 1, which depends on `label` alone.
pub(super) fn seeded_normal(label: &str, width: usize) -> Vec<f32> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(xxh3_64(label.as_bytes()));
    let scale = 1.0 / (width as f32).sqrt();
    (0..width).map(|_| rng.sample::<f32, _>(StandardNormal) * scale).collect()
}

/// Draws from `list`; the k-th entry (from 0) has weight 1/(k+2).
pub(super) fn zipf<T: Clone>(rng: &mut impl Rng, list: &[T]) -> T {
    list[weighted(rng, (0..list.len()).map(rank_weight))].clone()
}

/// Weight of entry `rank` (from 0) of a list.
pub(super) fn rank_weight(rank: usize) -> f64 {
    1.0 / (rank as f64 + 2.0)
}

/// Draws an index with the given weights.
pub(super) fn weighted(rng: &mut impl Rng, weights: impl ExactSizeIterator<Item = f64> + Clone) -> usize {
    let last = weights.len() - 1;
    let mut left = rng.random::<f64>() * weights.clone().sum::<f64>();
    let found = weights.clone().position(|weight| {
        left -= weight;
        left < 0.0
    });
    // Rounding may leave a remainder after the last weight.
    found.unwrap_or(last)
}

/// Draws `count` different entries of `list`; earlier entries are more likely. Returns them in the order
/// drawn.
pub(super) fn sample_distinct(rng: &mut impl Rng, list: &[usize], count: usize) -> Vec<usize> {
    // Efraimidis and Spirakis: taking the largest u^(1/weight), here ln(u) / weight, draws by weight.
    let mut keyed: Vec<(f64, usize)> = (0..list.len())
        .map(|rank| ((1.0 - rng.random::<f64>()).ln() / rank_weight(rank), list[rank]))
        .collect();
    keyed.sort_by(|a, b| b.0.total_cmp(&a.0));
    keyed.truncate(count);
    keyed.into_iter().map(|(_, entry)| entry).collect()
}
