//! Everything random of a collection: one generator per image and purpose, and the draws made with it.
//!
//! A generator follows from (seed, image, purpose), and a direction from its label. So images can be made in any order,
//! and a part that draws more leaves the others as they are.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::StandardNormal;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The independent random sequences of an image.
#[derive(Clone, Copy)]
pub(super) enum Stream {
    Role = 1,
    Depiction,
    Size,
    Graph,
    Captions,
}

/// The generator of one random sequence of image `index`.
pub(super) fn stream(seed: u64, index: u64, stream: Stream) -> Xoshiro256PlusPlus {
    let mut key = [0; 9];
    key[..8].copy_from_slice(&index.to_le_bytes());
    key[8] = stream as u8;
    Xoshiro256PlusPlus::seed_from_u64(xxh3_64_with_seed(&key, seed))
}

/// A random direction of length near 1 that depends on `label` alone.
pub(super) fn seeded_normal(label: &str, width: usize) -> Vec<f32> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(xxh3_64(label.as_bytes()));
    let scale = 1.0 / (width as f32).sqrt();
    (0..width).map(|_| rng.sample::<f32, _>(StandardNormal) * scale).collect()
}

/// One of `list`, whose k-th entry (from 0) has weight 1/(k+2).
pub(super) fn zipf<T: Clone>(rng: &mut impl Rng, list: &[T]) -> T {
    list[weighted(rng, (0..list.len()).map(rank_weight))].clone()
}

/// The weight of entry `rank` (from 0) of a list.
pub(super) fn rank_weight(rank: usize) -> f64 {
    1.0 / (rank as f64 + 2.0)
}

/// An index drawn with the given weights.
pub(super) fn weighted(rng: &mut impl Rng, weights: impl ExactSizeIterator<Item = f64> + Clone) -> usize {
    let last = weights.len() - 1;
    let mut left = rng.random::<f64>() * weights.clone().sum::<f64>();
    let found = weights.clone().position(|weight| {
        left -= weight;
        left < 0.0
    });
    // Rounding may leave a rest after the last weight.
    found.unwrap_or(last)
}

/// `count` different entries of `list` in the order drawn; earlier entries are likelier.
pub(super) fn sample_distinct(rng: &mut impl Rng, list: &[usize], count: usize) -> Vec<usize> {
    // Efraimidis and Spirakis: the largest of u^(1/weight), here of ln(u) / weight, is a draw by weight.
    let mut keyed: Vec<(f64, usize)> = (0..list.len())
        .map(|rank| ((1.0 - rng.random::<f64>()).ln() / rank_weight(rank), list[rank]))
        .collect();
    keyed.sort_by(|a, b| b.0.total_cmp(&a.0));
    keyed.truncate(count);
    keyed.into_iter().map(|(_, entry)| entry).collect()
}
