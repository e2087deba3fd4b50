//! Drawn triples against the distributions stated in `batch::triples`, enumerated here from their formulas.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;
use scenerank::Error;
use scenerank::batch::philox::{Philox, Role, unit_f32};
use scenerank::batch::triples::{Sampling, Triple, TripleSampler};
use scenerank::data::similarity::Similarity;
use statrs::distribution::{ChiSquared, ContinuousCDF};

const DRAWS: u32 = 200_000;
/// Number of draws if each takes about a thousand trials before its row is scanned.
const SCANS: u32 = 50_000;
/// Smallest accepted p value. Seeds are fixed, so the result is constant; wrong distributions reach 1e-30 and
/// less.
const LOWEST_P_VALUE: f64 = 1e-4;
const RANDOMISED: [Sampling; 3] = [Sampling::Random, Sampling::Probability, Sampling::Reject];

/// A similarity that owns its values.
enum Collection {
    Factored(Vec<f32>, usize),
    F32(Vec<f32>, usize),
    F16(Vec<f16>, usize),
}

impl Collection {
    fn view(&self) -> Similarity<'_> {
        match self {
            Collection::Factored(vectors, width) => Similarity::Factored { vectors, width: *width },
            Collection::F32(values, images) => Similarity::MatrixF32 { values, images: *images },
            Collection::F16(values, images) => Similarity::MatrixF16 { values, images: *images },
        }
    }

    /// Unit vectors with entries in [-0.2, 0.8) before normalising: similarities from 0 (clamped) to 1.
    fn factored(seed: u64, images: usize, width: usize) -> Self {
        let mut vectors: Vec<f32> = uniform(seed, images * width).map(|u| u - 0.2).collect();
        for vector in vectors.chunks_exact_mut(width) {
            let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            vector.iter_mut().for_each(|v| *v /= norm);
        }
        Collection::Factored(vectors, width)
    }

    /// Asymmetric values in steps of 1/8 from below 0 to above 1, so that ties, zeros and ones occur.
    fn coarse(seed: u64, images: usize) -> Vec<f32> {
        uniform(seed, images * images).map(|u| ((u * 1.4 - 0.2) * 8.0).round() / 8.0).collect()
    }

    /// Matrix in which every row is `row`, except for the diagonal.
    fn of_rows(row: &[f32]) -> Self {
        Collection::F32(row.repeat(row.len()), row.len())
    }
}

fn uniform(seed: u64, count: usize) -> impl Iterator<Item = f32> {
    let philox = Philox::new(seed);
    (0..count as u32).map(move |i| unit_f32(philox.draw(0, i, Role::Order, 0)[0]))
}

/// `[images, images]` probabilities of (P, N), from the formulas.
fn exact(similarity: Similarity, images: Range<usize>, sampling: Sampling, anchor: usize) -> Vec<f64> {
    let others: Vec<usize> = images.filter(|&image| image != anchor).collect();
    let s = |x: usize| f64::from(similarity.get(anchor, x));
    let total: f64 = others.iter().map(|&x| s(x)).sum();
    let mut joint = vec![0.0; similarity.len() * similarity.len()];
    for &p in &others {
        let without_p: f64 = others.iter().filter(|&&x| x != p).map(|&x| 1.0 - s(x)).sum();
        for &n in others.iter().filter(|&&n| n != p) {
            joint[p * similarity.len() + n] = match sampling {
                Sampling::Random => f64::from(u8::from(s(p) > s(n))),
                Sampling::Probability => s(p) / total * (1.0 - s(n)) / without_p,
                Sampling::Reject if s(p) >= s(n) => s(p) * (1.0 - s(n)),
                Sampling::Reject => 0.0,
                Sampling::Extreme => unreachable!("not random"),
            };
        }
    }
    let sum: f64 = joint.iter().sum();
    joint.iter().map(|weight| weight / sum).collect()
}

/// Counts of (P, N) over the epochs; checks the consistency of each triple.
fn count(
    similarity: Similarity,
    images: Range<usize>,
    sampling: Sampling,
    anchor: usize,
    epochs: u32,
) -> Vec<u64> {
    let sampler = TripleSampler::new(similarity, images.clone(), sampling, 20_21).unwrap();
    let triples: Vec<Triple> = (0..epochs)
        .into_par_iter()
        .map(|epoch| sampler.draw(epoch, anchor as u32).expect("a triple"))
        .collect();
    let mut counts = vec![0; similarity.len() * similarity.len()];
    for triple in triples {
        let (p, n) = (triple.positive as usize, triple.negative as usize);
        assert_eq!(triple.anchor as usize, anchor);
        assert!(images.contains(&p) && images.contains(&n) && p != n && p != anchor && n != anchor);
        assert_eq!(triple.similarity_positive, similarity.get(anchor, p));
        assert_eq!(triple.similarity_negative, similarity.get(anchor, n));
        counts[p * similarity.len() + n] += 1;
    }
    counts
}

/// Pearson's chi-square test; cells that expect fewer than five draws are merged. Returns 0 if an impossible
/// draw occurred.
fn p_value(counts: &[u64], probabilities: &[f64]) -> f64 {
    let draws = counts.iter().sum::<u64>() as f64;
    let (mut statistic, mut cells) = (0.0, 0);
    let (mut rare_count, mut rare_expected) = (0.0, 0.0);
    let mut cell = |count: f64, expected: f64| {
        statistic += (count - expected).powi(2) / expected;
        cells += 1;
    };
    for (&count, &probability) in counts.iter().zip(probabilities) {
        let (count, expected) = (count as f64, probability * draws);
        if probability == 0.0 && count > 0.0 {
            return 0.0;
        } else if expected >= 5.0 {
            cell(count, expected);
        } else {
            rare_count += count;
            rare_expected += expected;
        }
    }
    if rare_expected > 0.0 {
        cell(rare_count, rare_expected);
    }
    ChiSquared::new(f64::from(cells - 1)).unwrap().sf(statistic)
}

fn check(name: &str, similarity: Similarity, images: Range<usize>, sampling: Sampling, anchor: usize) {
    check_draws(DRAWS, name, similarity, images, sampling, anchor);
}

fn check_draws(
    draws: u32,
    name: &str,
    similarity: Similarity,
    images: Range<usize>,
    sampling: Sampling,
    anchor: usize,
) {
    let counts = count(similarity, images.clone(), sampling, anchor, draws);
    let p = p_value(&counts, &exact(similarity, images, sampling, anchor));
    assert!(p > LOWEST_P_VALUE, "{name}, {sampling:?}, anchor {anchor}: p-value {p:e}");
}

#[test]
fn frequencies_follow_the_stated_distributions() {
    for (seed, images) in [(1, 6), (2, 9), (3, 12)] {
        let coarse = Collection::coarse(seed, images);
        let halves = coarse.iter().map(|&s| f16::from_f32(s)).collect();
        let collections = [
            ("factored", Collection::factored(seed, images, 5)),
            ("f32", Collection::F32(coarse, images)),
            ("f16", Collection::F16(halves, images)),
        ];
        for (name, collection) in &collections {
            for sampling in RANDOMISED {
                check(name, collection.view(), 0..images, sampling, 0);
                check(name, collection.view(), 1..images, sampling, images / 2);
                check(name, collection.view(), 0..images - 1, sampling, images - 2);
            }
        }
    }
}

#[test]
fn the_frequency_test_tells_the_strategies_apart() {
    let collection = Collection::factored(4, 8, 5);
    for drawn in RANDOMISED {
        let counts = count(collection.view(), 0..8, drawn, 3, DRAWS);
        for claimed in RANDOMISED {
            let p = p_value(&counts, &exact(collection.view(), 0..8, claimed, 3));
            assert_eq!(p > LOWEST_P_VALUE, drawn == claimed, "{drawn:?} as {claimed:?}: p-value {p:e}");
        }
    }
    // A probability that is a tenth too low in one cell of 42 is also detected.
    let mut wrong = exact(collection.view(), 0..8, Sampling::Probability, 3);
    let largest = (0..wrong.len()).max_by(|&a, &b| wrong[a].total_cmp(&wrong[b])).unwrap();
    wrong[largest] *= 0.9;
    let sum: f64 = wrong.iter().sum();
    wrong.iter_mut().for_each(|p| *p /= sum);
    let counts = count(collection.view(), 0..8, Sampling::Probability, 3, DRAWS);
    assert!(p_value(&counts, &wrong) < LOWEST_P_VALUE);
}

/// Rows that accept about one trial in 60,000, so that 98 of 100 draws need the row scan.
#[test]
fn row_scans_follow_the_same_distributions() {
    let faint = Collection::of_rows(&[0.0, 3e-5, 1e-5, 0.0, 2e-5, 1e-5, 5e-6, 4e-5]);
    check_draws(SCANS, "faint", faint.view(), 0..8, Sampling::Probability, 0);
    check_draws(SCANS, "faint", faint.view(), 0..8, Sampling::Reject, 0);
    let near = Collection::of_rows(&[1.0, 1.0 - 3e-5, 1.0 - 1e-5, 1.0, 1.0 - 2e-5, 1.0 - 2e-5]);
    check_draws(SCANS, "near", near.view(), 0..6, Sampling::Probability, 0);
    check_draws(SCANS, "near", near.view(), 0..6, Sampling::Reject, 0);
}

/// Only one image in 3,000 is similar at all, so half of the `random` draws need the row scan.
#[test]
fn the_row_scan_of_random_is_uniform_over_its_pairs() {
    let mut vectors = vec![0.0; 3000];
    (vectors[0], vectors[1700]) = (1.0, 0.5);
    let collection = Collection::Factored(vectors, 1);
    let counts = count(collection.view(), 0..3000, Sampling::Random, 0, 40_000);
    let p = p_value(&counts, &exact(collection.view(), 0..3000, Sampling::Random, 0));
    assert!(p > LOWEST_P_VALUE, "p-value {p:e}");
}

#[test]
fn anchors_without_a_valid_triple_are_none() {
    let draw = |row: &[f32], sampling| {
        let collection = Collection::of_rows(row);
        let sampler = TripleSampler::new(collection.view(), 0..row.len(), sampling, 5).unwrap();
        (0..20).map(|epoch| sampler.draw(epoch, 0)).collect::<Vec<_>>()
    };
    let pairs = |triples: Vec<Option<Triple>>| -> Vec<Option<(u32, u32)>> {
        triples.into_iter().map(|triple| triple.map(|t| (t.positive, t.negative))).collect()
    };
    for images in [3, 7] {
        for sampling in [Sampling::Random, Sampling::Extreme, Sampling::Probability, Sampling::Reject] {
            let zeros = draw(&vec![0.0; images], sampling);
            assert!(zeros.iter().all(Option::is_none), "{sampling:?}, zeros");
        }
        for sampling in RANDOMISED {
            let ones = draw(&vec![1.0; images], sampling);
            assert!(ones.iter().all(Option::is_none), "{sampling:?}, ones");
        }
        let equal = vec![0.4; images];
        assert!(draw(&equal, Sampling::Random).iter().all(Option::is_none));
        assert!(draw(&equal, Sampling::Probability).iter().all(Option::is_some));
        assert!(draw(&equal, Sampling::Reject).iter().all(Option::is_some));
        assert_eq!(pairs(draw(&equal, Sampling::Extreme)), vec![Some((1, 2)); 20]);
    }
    // Three images leave two others; if these differ, every draw gives the same triple.
    for sampling in [Sampling::Random, Sampling::Extreme, Sampling::Reject] {
        assert_eq!(pairs(draw(&[0.5, 0.2, 0.6], sampling)), vec![Some((2, 1)); 20], "{sampling:?}");
    }
}

#[test]
fn extremes_are_those_of_the_exact_similarities() {
    // More images than a block of the product has rows and columns; duplicates and clamped zeros give ties.
    let images = 1100;
    let Collection::Factored(mut vectors, width) = Collection::factored(6, images, 7) else { unreachable!() };
    vectors.copy_within(0..200 * width, 600 * width);
    let factored = Collection::Factored(vectors, width);
    let coarse = Collection::F32(Collection::coarse(7, 60), 60);
    for (collection, images) in
        [(&factored, 0..1100), (&factored, 37..1099), (&coarse, 0..60), (&coarse, 3..6)]
    {
        let similarity = collection.view();
        let sampler = TripleSampler::new(similarity, images.clone(), Sampling::Extreme, 0).unwrap();
        for anchor in images.clone() {
            let s = |x: &usize| similarity.get(anchor, *x);
            let others = || images.clone().filter(|&x| x != anchor);
            let positive = others().reduce(|best, x| if s(&x) > s(&best) { x } else { best }).unwrap();
            let negative = others()
                .filter(|&x| x != positive)
                .reduce(|best, x| if s(&x) < s(&best) { x } else { best })
                .unwrap();
            let expected = Triple {
                anchor: anchor as u32,
                positive: positive as u32,
                negative: negative as u32,
                similarity_positive: s(&positive),
                similarity_negative: s(&negative),
            };
            assert_eq!(sampler.draw(9, anchor as u32), (s(&positive) > 0.0).then_some(expected));
        }
    }
}

#[test]
fn orders_are_permutations_that_differ_by_epoch_and_seed() {
    let collection = Collection::factored(8, 500, 3);
    let order = |seed, epoch| {
        TripleSampler::new(collection.view(), 100..400, Sampling::Random, seed).unwrap().anchor_order(epoch)
    };
    let mut sorted = order(1, 0);
    sorted.sort_unstable();
    assert_eq!(sorted, (100..400).collect::<Vec<u32>>());
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
    assert_ne!(order(1, 0), order(1 + (1 << 32), 0));
}

#[test]
fn draws_depend_on_neither_threads_nor_order() {
    let collection = Collection::factored(9, 300, 5);
    for sampling in RANDOMISED {
        let sampler = TripleSampler::new(collection.view(), 0..300, sampling, 11).unwrap();
        let order = sampler.anchor_order(4);
        let parallel: Vec<_> = order.par_iter().map(|&anchor| sampler.draw(4, anchor)).collect();
        let mut sequential: Vec<_> = order.iter().rev().map(|&anchor| sampler.draw(4, anchor)).collect();
        sequential.reverse();
        assert_eq!(parallel, sequential);
        let next: Vec<_> = order.iter().map(|&anchor| sampler.draw(5, anchor)).collect();
        assert_ne!(parallel, next);
    }
}

#[test]
fn too_few_images_are_an_error() {
    let collection = Collection::factored(10, 5, 3);
    for images in [0..2, 4..4, 3..6] {
        let error = TripleSampler::new(collection.view(), images, Sampling::Probability, 0).err();
        let Some(Error::Argument { name, .. }) = error else { panic!("{error:?}") };
        assert_eq!(name, "training images");
    }
}
