//! The ten nearest of a million embeddings of width 300, on all threads. The file is mapped and in the page
//! cache.
//!
//! `open` maps and checks every value; `nearest` compares every row with one query, `nearest of 100` with a hundred. `rank for 25` ranks a
//! row for 25 queries, as the curve of `explore` does. `scripts/vector_engine/faiss_flat.py` takes turns with faiss.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use scenerank::evaluation::{
    Embeddings, EmbeddingsFile, nearest_stored, nearest_stored_many, normal_features, rank, rank_many,
};
use scenerank::files::npy::{write_npy, write_npy_half};

const ROWS: usize = 1_000_000;
const WIDTH: usize = 300;
const QUERIES: usize = 100;

fn search(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let query = normal_features(1, WIDTH, 1);
    let query = Embeddings::new(&query, WIDTH).expect("a finite row");
    let queries = normal_features(QUERIES, WIDTH, 3);
    let queries = Embeddings::new(&queries, WIDTH).expect("finite rows");
    let values = normal_features(ROWS, WIDTH, 2);
    let mut group = criterion.benchmark_group("search");
    group.measurement_time(Duration::from_secs(8)).warm_up_time(Duration::from_secs(1));
    for (name, bytes) in [("f16", 2), ("f32", 4)] {
        group.sample_size(20);
        let path = folder.path().join(name);
        if bytes == 2 { write_npy_half(&path, &values, WIDTH) } else { write_npy(&path, &values, WIDTH) }
            .expect("room for the file");
        group.throughput(Throughput::Bytes((ROWS * WIDTH * bytes) as u64));
        group.bench_function(BenchmarkId::new("open", name), |bencher| {
            bencher.iter(|| EmbeddingsFile::open(black_box(&path)).expect("a good file"))
        });
        let file = EmbeddingsFile::open(&path).expect("a good file");
        group.bench_function(BenchmarkId::new("nearest", name), |bencher| {
            bencher.iter(|| nearest_stored(black_box(query), file.rows(), 10).expect("one width"))
        });
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("nearest of 100", name), |bencher| {
            bencher.iter(|| nearest_stored_many(black_box(queries), file.rows(), 10).expect("one width"))
        });
        let curve = Embeddings::new(&queries.values()[..25 * WIDTH], WIDTH).expect("finite rows");
        group.bench_function(BenchmarkId::new("rank for 25", name), |bencher| {
            bencher.iter(|| rank_many(black_box(curve), file.rows(), 5).expect("one width"))
        });
        group.bench_function(BenchmarkId::new("rank for 1", name), |bencher| {
            bencher.iter(|| rank(black_box(query), file.rows(), 5).expect("one width"))
        });
    }
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
