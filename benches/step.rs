//! One training step at the paper's size (16 triples, 1,056 nodes, 1,728 edges) on the CPU backend.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use scenerank::backend::cpu::Cpu;
use scenerank::loss::{Loss, LossKind};
use scenerank::model::{Model, TrainingState};
use scenerank::optimizer::Adam;

fn step(criterion: &mut Criterion) {
    let batch = support::paper_batch(16);
    let tensors = support::random_parameters(support::PAPER, false, 1);
    let mut model = Model::new(Cpu::new(), support::PAPER, &tensors, batch.size()).expect("a model");
    let mut state = TrainingState::new(&model).expect("a state");
    let loss = Loss { kind: LossKind::Ranking, temperature: 1.0, margin: 0.5 };
    let adam = Adam::new(1e-4);
    model.load_batch(&batch).expect("a batch");

    let mut group = criterion.benchmark_group("step");
    group.sample_size(20);
    group.bench_function("train_step, 16 triples", |bencher| {
        bencher.iter(|| model.train_step(&loss, &adam, &mut state).expect("a step"));
    });
    group.bench_function("embed, 48 graphs", |bencher| {
        bencher.iter(|| model.embed(&batch).expect("embeddings"));
    });
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
