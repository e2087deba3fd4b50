//! Nanoseconds per triple, by number of images: constant except for cache effects of the caption vectors. For
//! `extreme` the one-time search is measured.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use scenerank::batch::philox::{Philox, Role, unit_f32};
use scenerank::batch::triples::{Sampling, TripleSampler};
use scenerank::data::similarity::Similarity;

/// Width of the smallest public word vectors: 200 MB for a million images.
const WIDTH: usize = 50;

/// Unit vectors `sqrt(0.7) e + sqrt(0.3) u` with random unit `u` orthogonal to `e`: similarities of 0.7 +-
/// 0.04, like those of captions.
fn caption_vectors(images: usize, width: usize) -> Vec<f32> {
    let philox = Philox::new(1);
    let mut vectors = vec![0.0; images * width];
    vectors.par_chunks_exact_mut(width).enumerate().for_each(|(image, vector)| {
        for (column, value) in vector.iter_mut().enumerate() {
            *value = unit_f32(philox.draw(0, image as u32, Role::Order, column as u32)[0]) - 0.5;
        }
        vector[0] = 0.0;
        let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|v| *v *= 0.3f32.sqrt() / norm);
        vector[0] = 0.7f32.sqrt();
    });
    vectors
}

fn draws(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("draw");
    group.throughput(Throughput::Elements(1));
    for images in [10_000, 100_000, 1_000_000] {
        let vectors = caption_vectors(images, WIDTH);
        let similarity = Similarity::Factored { vectors: &vectors, width: WIDTH };
        for sampling in [Sampling::Probability, Sampling::Random, Sampling::Reject] {
            let sampler = TripleSampler::new(similarity, 0..images, sampling, 3).expect("enough images");
            let order = sampler.anchor_order(0);
            let mut draw = 0;
            group.bench_function(BenchmarkId::new(format!("{sampling:?}"), images), |bencher| {
                bencher.iter(|| {
                    draw += 1;
                    let triple = sampler.draw((draw / images) as u32, order[draw % images]);
                    assert!(black_box(triple).is_some());
                });
            });
        }
    }
}

fn orders(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("anchor_order");
    group.sample_size(10);
    for images in [10_000, 1_000_000] {
        let vectors = vec![0.0; images];
        let similarity = Similarity::Factored { vectors: &vectors, width: 1 };
        let sampler = TripleSampler::new(similarity, 0..images, Sampling::Random, 3).expect("enough images");
        group.throughput(Throughput::Elements(images as u64));
        group.bench_function(BenchmarkId::from_parameter(images), |bencher| {
            bencher.iter(|| black_box(sampler.anchor_order(1)));
        });
    }
}

fn extremes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("extreme_search");
    group.sample_size(10);
    // A tenth of the paper's training set at full width: 6 GFLOP; the cost grows quadratically.
    let (images, width) = (3_175, 300);
    let vectors = caption_vectors(images, width);
    let similarity = Similarity::Factored { vectors: &vectors, width };
    // Elements are floating-point operations.
    group.throughput(Throughput::Elements((2 * images * images * width) as u64));
    group.bench_function(BenchmarkId::from_parameter(images), |bencher| {
        bencher.iter(|| {
            let sampler = TripleSampler::new(similarity, 0..images, Sampling::Extreme, 3);
            sampler.expect("enough images").draw(0, 0)
        });
    });
}

criterion_group!(benches, draws, orders, extremes);
criterion_main!(benches);
