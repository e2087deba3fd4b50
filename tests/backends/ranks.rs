//! Steps shared by several ranks: equal on all ranks, and equal to the step of one rank up to the order of sums.

use std::ops::Range;

use crate::cuda_step::kernel_device;
use crate::ranks_of_threads::all_of;
use crate::support::{
    BatchShape, SMALL, capacity, random_batch, random_parameters, relative_error, switched_off,
};
use scenerank::backend::Backend;
use scenerank::backend::cpu::Cpu;
use scenerank::backend::cuda::Cuda;
use scenerank::backend::cuda::launchers::linear::StoredFormat;
use scenerank::backend::reference::Reference;
use scenerank::batch::graph_batch::GraphBatch;
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::loss::{Loss, LossKind};
use scenerank::model::{Model, TrainingState};
use scenerank::network::config::ModelConfig;
use scenerank::network::tensors::NamedTensors;
use scenerank::optimizer::Adam;
use scenerank::ranks::Ranks;

const RANKING: Loss = Loss { kind: LossKind::Ranking, temperature: 0.8, margin: 0.2 };

/// Triples of each batch. Three ranks share them as 3, 2, 2 triples, then 1, 0, 0, then 1, 1, 0.
const TRIPLES: [usize; 3] = [7, 1, 2];

/// Training of some steps.
struct Steps {
    config: ModelConfig,
    tensors: NamedTensors,
    batches: Vec<GraphBatch>,
    adam: Adam,
    /// Number of steps, each on the next batch.
    count: usize,
}

/// Share of a rank of so many triples.
type Share = fn(&Ranks, usize) -> Range<usize>;

impl Steps {
    fn new(config: ModelConfig, count: usize) -> Self {
        let batch = |(i, &triples): (usize, &usize)| {
            let shape = BatchShape { triples, objects: 7, relationships: 8, oddities: true };
            random_batch(config, shape, 30 + i as u64)
        };
        Steps {
            config,
            tensors: random_parameters(config, true, 5),
            batches: TRIPLES.iter().enumerate().map(batch).collect(),
            adam: Adam::new(1e-3),
            count,
        }
    }
}

/// State after some steps.
struct Left {
    gradients: NamedTensors,
    tensors: NamedTensors,
    moments: [NamedTensors; 2],
    /// Norm of the last gradient.
    norm: f64,
}

impl Left {
    /// All values, as bits.
    fn bits(&self) -> Vec<u32> {
        let [first, second] = &self.moments;
        let tensors = [&self.gradients, &self.tensors, first, second].into_iter().flatten();
        tensors.flat_map(|(_, tensor)| &tensor.values).map(|value| value.to_bits()).collect()
    }
}

/// Batch of some of the triples.
fn part_of(config: ModelConfig, batch: &GraphBatch, triples: Range<usize>) -> GraphBatch {
    let all = batch.similarity_positive.len();
    let graph = |graph: usize| {
        let nodes = batch.graph_offsets[graph]..batch.graph_offsets[graph + 1];
        let mut part = SceneGraphBuf::default();
        part.node_object.extend(&batch.node_object[nodes.start as usize..nodes.end as usize]);
        for (edge, subject) in batch.edge_subject.iter().enumerate().filter(|(_, node)| nodes.contains(node))
        {
            let object = batch.edge_object[edge] - nodes.start;
            part.push_edge(subject - nodes.start, batch.edge_predicate[edge], object);
        }
        part
    };
    let graphs = (0..3).flat_map(|role| triples.clone().map(move |triple| role * all + triple));
    let graphs: Vec<SceneGraphBuf> = graphs.map(graph).collect();
    let views = graphs.iter().map(SceneGraphBuf::view);
    let mut part = GraphBatch::of_graphs(views, config.object_types, config.predicate_types);
    part.similarity_positive = batch.similarity_positive[triples.clone()].to_vec();
    part.similarity_negative = batch.similarity_negative[triples].to_vec();
    part
}

/// Takes the steps as one of the ranks.
fn train<B: Backend>(mut backend: B, ranks: &Ranks, steps: &Steps, share: Share) -> Left {
    backend.join(ranks).unwrap();
    let most = capacity(&steps.batches);
    let mut model = Model::new(backend, steps.config, &steps.tensors, most).unwrap();
    let mut state = TrainingState::new(&model).unwrap();
    for batch in steps.batches.iter().cycle().take(steps.count) {
        let triples = batch.similarity_positive.len();
        model.load_batch(&part_of(steps.config, batch, share(ranks, triples))).unwrap();
        model.share_step(triples);
        model.train_step(&RANKING, &steps.adam, &mut state).unwrap();
    }
    let (first, second) = model.moments(&state).unwrap();
    Left {
        gradients: model.gradients(&state).unwrap(),
        tensors: model.tensors().unwrap(),
        moments: [first, second],
        norm: model.gradient_norm(&mut state).unwrap(),
    }
}

/// A number of steps, and the largest errors in norm relative to one rank: of the gradients of the first step, and of the
/// parameters and running statistics after all steps.
struct Limits {
    steps: usize,
    gradients: f64,
    tensors: f64,
}

/// Two and three ranks end with the same bits on all, and close to one rank.
fn ranks_agree<B: Backend>(name: &str, backend: impl Fn() -> B + Sync, config: ModelConfig, limits: Limits) {
    let clipped = |adam: Adam| Adam { clip_norm: Some(0.05), ..adam };
    let even: Share = Ranks::share;
    // The first rank takes one triple, the last one the others.
    let uneven: Share = |ranks, triples| match ranks.rank() {
        0 => 0..triples.min(1),
        rank if rank + 1 == ranks.count() => triples.min(1)..triples,
        _ => triples..triples,
    };
    let cases = [
        ("one step", Steps::new(config, 1), even),
        ("many steps", Steps::new(config, limits.steps), even),
        ("uneven shares", Steps::new(config, 3), uneven),
        ("clipped", Steps { adam: clipped(Adam::new(1e-3)), ..Steps::new(config, 2) }, even),
    ];
    for (case, steps, share) in cases {
        let want = train(backend(), &Ranks::default(), &steps, even);
        for count in [2, 3] {
            let got = all_of(count, |ranks| train(backend(), &ranks, &steps, share));
            let case = format!("{name}, {case}, {count} ranks");
            for (rank, other) in got.iter().enumerate().skip(1) {
                assert!(other.bits() == got[0].bits(), "{case}: rank {rank} differs from rank 0");
            }
            if steps.count == 1 {
                near(&case, &got[0].gradients, &want.gradients, limits.gradients);
                assert!((got[0].norm / want.norm - 1.0).abs() < limits.gradients, "{case}: norm");
            }
            near(&case, &got[0].tensors, &want.tensors, limits.tensors);
        }
    }
}

fn near(case: &str, got: &NamedTensors, want: &NamedTensors, limit: f64) {
    for (name, want) in want {
        let error = relative_error(&got[name].values, &want.values);
        assert!(error <= limit, "{case}: {name}: relative error {error:.2e}, limit {limit:.0e}");
    }
}

/// In double precision two orders of a sum differ by some 1e-16 of its terms. Adam divides gradients that cancel by their own
/// size, so the error of a parameter grows beyond that, but not to what a wrong term would leave.
#[test]
fn ranks_of_the_reference_agree() {
    for config in [SMALL].into_iter().chain(switched_off(SMALL)) {
        let limits = Limits { steps: 30, gradients: 1e-6, tensors: 1e-6 };
        ranks_agree("reference", Reference::<f64>::new, config, limits);
    }
}

/// As between the CPU backend and the reference (`training_step.rs`): a hundred roundings in norm for values, ten times that
/// for gradients. Over 30 steps Adam, which divides small gradients by their size, magnifies the difference.
#[test]
fn ranks_of_the_cpu_agree() {
    ranks_agree("cpu", Cpu::new, SMALL, Limits { steps: 30, gradients: 1e-4, tensors: 5e-3 });
}

/// In bf16, stored activations and gradients have 8 bits, and another order of a sum may round to the other side: as between a
/// step and PyTorch's (`docs/determinism.md`).
#[test]
fn ranks_of_the_cpu_agree_when_it_rounds_to_bf16() {
    ranks_agree(
        "cpu, bf16",
        Cpu::rounding_to_bf16,
        SMALL,
        Limits { steps: 30, gradients: 0.15, tensors: 0.15 },
    );
}

/// As on the CPU.
#[test]
fn ranks_of_the_kernels_agree() {
    let cuda = || kernel_device(None).map(|device| Cuda::new(device, StoredFormat::FP32).unwrap());
    if cuda().is_none() {
        return;
    }
    let limits = Limits { steps: 3, gradients: 1e-4, tensors: 5e-3 };
    // Few steps of two layers: the emulator takes a tenth of a second for each.
    let config = ModelConfig { layers: 2, ..SMALL };
    ranks_agree("kernels", || cuda().expect("as before"), config, limits);
    let bf16 = || Cuda::new(kernel_device(None).expect("as before"), StoredFormat::BF16).unwrap();
    ranks_agree("kernels, bf16", bf16, config, Limits { steps: 3, gradients: 0.15, tensors: 0.15 });
}
