//! Agreement at 1,000 images and at the 4,537 of the paper's test set (10.3 million pairs), on all threads.
//!
//! `row_kendall` is what validation computes each epoch. `agreement` computes everything: all three
//! correlations by row and over all pairs, including inner products. `all_pairs_ranks` is only tau-b
//! and rho of all pairs. `retrieval_ranks` are those of one query for each image.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use scenerank::backend::cpu::Cpu;
use scenerank::backend::device::{Device, Precision};
use scenerank::data::similarity::Similarity;
use scenerank::evaluation::rank_correlations::Ranks;
use scenerank::evaluation::{Embeddings, agreement, normal_features, ranks, row_kendall};

const WIDTH: usize = 300;

fn evaluation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("evaluation");
    group.sample_size(10).measurement_time(Duration::from_secs(10)).warm_up_time(Duration::from_secs(1));
    for images in [1_000usize, 4_537] {
        let values = normal_features(images, WIDTH, 1);
        let embeddings = Embeddings::new(&values, WIDTH).expect("finite rows");
        // One common direction, as caption vectors have, keeps similarities within 0..1.
        let mut captions = normal_features(images, WIDTH, 2);
        for row in captions.chunks_exact_mut(WIDTH) {
            row[0] += 1.0;
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter_mut().for_each(|v| *v /= norm);
        }
        let similarity = Similarity::Factored { vectors: &captions, width: WIDTH };
        group.bench_function(BenchmarkId::new("row_kendall", images), |bencher| {
            bencher
                .iter(|| row_kendall(&mut Cpu::new(), black_box(embeddings), &values, similarity, 0..images))
        });
        group.bench_function(BenchmarkId::new("agreement", images), |bencher| {
            let embeddings = black_box(embeddings);
            bencher.iter(|| agreement(Device::Cpu, Precision::Fp32, embeddings, similarity, 0..images, None))
        });
        let targets: Vec<u32> = (0..images as u32).collect();
        let queries = normal_features(images, WIDTH, 5);
        let queries = Embeddings::new(&queries, WIDTH).expect("finite rows");
        group.bench_function(BenchmarkId::new("retrieval_ranks", images), |bencher| {
            bencher.iter(|| ranks(Device::Cpu, Precision::Fp32, black_box(queries), embeddings, &targets))
        });
        let pairs = images * (images - 1) / 2;
        let x: Vec<f64> = normal_features(1, pairs, 3).into_iter().map(f64::from).collect();
        let y: Vec<f64> = normal_features(1, pairs, 4).into_iter().map(f64::from).collect();
        let mut correlations = Ranks::parallel();
        group.bench_function(BenchmarkId::new("all_pairs_ranks", images), |bencher| {
            bencher.iter(|| correlations.correlate(black_box(&x), &y))
        });
    }
    group.finish();
}

criterion_group!(benches, evaluation);
criterion_main!(benches);
