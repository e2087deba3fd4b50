//! Whole steps: the CPU backend against the reference, reproducible bits, and the two modes of batch norm.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::backend::cpu::Cpu;
use scenerank::backend::pass::Readout;
use scenerank::backend::reference::Reference;
use scenerank::backend::{Backend, Stages};
use scenerank::batch::graph_batch::{BatchSize, GraphBatch};
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::loss::{Loss, LossKind};
use scenerank::model::{Model, TrainingState};
use scenerank::network::activations::Activations;
use scenerank::network::config::ModelConfig;
use scenerank::network::tensors::NamedTensors;
use scenerank::optimizer::Adam;
use scenerank::step::{StepResult, StepTask};

use crate::support::{
    BatchShape, EPS, Margins, SMALL, Tolerance, capacity, random_batch, random_parameters, relative_error,
    sized_batch, switched_off,
};
use scenerank::backend::device::BackendTask;

const LOSSES: [LossKind; 3] = [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce];

/// Widths of the paper, for which products use their blocked code paths, and a small vocabulary.
const WIDE: ModelConfig = ModelConfig {
    object_types: 60,
    predicate_types: 20,
    layers: 2,
    state_width: 300,
    hidden_width: 512,
    ..SMALL
};

const RANKING: Loss = Loss { kind: LossKind::Ranking, temperature: 1.0, margin: 0.5 };

fn shape(triples: usize) -> BatchShape {
    BatchShape { triples, objects: 8, relationships: 9, oddities: true }
}

fn step<B: Backend>(
    backend: B,
    config: ModelConfig,
    tensors: &NamedTensors,
    batch: &GraphBatch,
    loss: Loss,
) -> StepResult {
    StepTask { config, tensors, batch, loss, adam: Adam::new(1e-3) }.run(backend).unwrap()
}

/// Compares all results of a step; gradients only if all ReLUs decided alike. Returns whether they did.
fn compare_steps(case: &str, got: &StepResult, want: &StepResult, margins: &mut Margins) -> bool {
    // Five to fifteen blocks deep, each adding some roundings, which batch norm may magnify: 1e-5 in norm is
    // about a hundred roundings. A ReLU that rounds to the other side changes embeddings by its input, which
    // is close to zero.
    margins.assert_norm_close("embeddings", case, &got.embedding, &want.embedding, 1e-5);
    margins.assert_close("loss", case, &[got.loss], &[want.loss], Tolerance::relative(1e-5));
    let flips: usize = got
        .masks
        .iter()
        .zip(&want.masks)
        .map(|(got, want)| {
            assert_eq!((&got.0, got.1), (&want.0, want.1), "blocks and columns");
            got.2.iter().zip(&want.2).filter(|(got, want)| got != want).count()
        })
        .sum();
    let all: usize = want.masks.iter().map(|mask| mask.2.len()).sum();
    assert!(flips * 10_000 <= all, "{case}: {flips} of {all} ReLUs differ");
    for (name, want) in &want.next {
        if name.contains("running") {
            margins.assert_norm_close("running statistics", case, &got.next[name].values, &want.values, 1e-5);
        }
    }
    if flips > 0 {
        return false;
    }
    for (name, want) in &want.gradients {
        let case = format!("{case}: {name}");
        margins.assert_norm_close("gradients", &case, &got.gradients[name].values, &want.values, 1e-4);
    }
    true
}

#[test]
fn a_step_equals_the_reference() {
    let (mut margins, mut exact, mut plain) = (Margins::default(), 0, Margins::default());
    for kind in LOSSES {
        for (layers, affine, seed) in [(1, false, 1), (2, true, 2), (3, true, 3), (5, false, 4), (5, true, 5)]
        {
            let config = ModelConfig { layers, ..SMALL };
            let batch = random_batch(config, shape(4), seed);
            let tensors = random_parameters(config, affine, seed);
            let loss = Loss { kind, temperature: 0.8, margin: 0.2 };
            let case = format!("{kind:?}, {layers} layers, seed {seed}");
            let want = step(Reference::<f64>::new(), config, &tensors, &batch, loss);
            let got = step(Cpu::new(), config, &tensors, &batch, loss);
            exact += usize::from(compare_steps(&case, &got, &want, &mut margins));
            let got = step(Reference::<f32>::new(), config, &tensors, &batch, loss);
            compare_steps(&format!("{case}, reference"), &got, &want, &mut plain);
        }
    }
    assert!(exact >= 12, "masks agreed in {exact} of 15 cases only");
    println!("the reference in f32:");
}

#[test]
fn a_wide_step_equals_the_reference() {
    let mut margins = Margins::default();
    let batch = random_batch(WIDE, shape(3), 1);
    let tensors = random_parameters(WIDE, true, 1);
    let want = step(Reference::<f64>::new(), WIDE, &tensors, &batch, RANKING);
    let got = step(Cpu::new(), WIDE, &tensors, &batch, RANKING);
    compare_steps("wide", &got, &want, &mut margins);
}

#[test]
fn steps_of_batches_without_edges_equal_the_reference() {
    let mut margins = Margins::default();
    for (nodes, edges) in [(3, 0), (9, 0), (9, 1), (70, 2)] {
        let batch = sized_batch(SMALL, nodes, edges, 3);
        let tensors = random_parameters(SMALL, true, 3);
        let want = step(Reference::<f64>::new(), SMALL, &tensors, &batch, RANKING);
        let got = step(Cpu::new(), SMALL, &tensors, &batch, RANKING);
        let case = format!("{nodes} nodes, {edges} edges");
        margins.assert_norm_close("embeddings", &case, &got.embedding, &want.embedding, 1e-5);
        assert!(got.gradients.values().all(|t| t.values.iter().all(|v| v.is_finite())), "{case}");
        assert!(got.next.values().all(|t| t.values.iter().all(|v| v.is_finite())), "{case}");
    }
}

#[test]
fn a_step_of_a_network_with_something_switched_off_equals_the_reference() {
    let (mut margins, mut exact) = (Margins::default(), 0);
    for config in switched_off(SMALL) {
        for seed in 1..5 {
            let batch = random_batch(config, shape(4), seed);
            let tensors = random_parameters(config, true, seed);
            let case = format!("{config:?}, seed {seed}");
            let want = step(Reference::<f64>::new(), config, &tensors, &batch, RANKING);
            let got = step(Cpu::new(), config, &tensors, &batch, RANKING);
            exact += usize::from(compare_steps(&case, &got, &want, &mut margins));
            for (name, before) in tensors.iter().filter(|(name, _)| name.contains("running")) {
                assert_eq!(want.next[name] == *before, !config.batch_norm, "{case}: {name}");
            }
        }
    }
    assert!(exact >= 12, "masks agreed in {exact} of 16 cases only");
}

/// Embeddings computed by a step, with batch statistics if there are any.
fn train_embeddings<B: Backend>(
    backend: B,
    config: ModelConfig,
    tensors: &NamedTensors,
    batch: &GraphBatch,
) -> Vec<f32> {
    step(backend, config, tensors, batch, RANKING).embedding
}

#[test]
fn without_batch_norm_a_graph_does_not_see_its_neighbours_in_training_either() {
    let (image, in_image) = (SMALL.object_types as u32 - 1, SMALL.predicate_types as u32 - 1);
    let graphs: Vec<SceneGraphBuf> = (0..6)
        .map(|i| {
            SceneGraphBuf::augmented(&[i, 2 * i, 3], &[(0, i, 1), (1, 2, 0), (2, i, 2)], image, in_image)
        })
        .collect();
    let of = |graphs: &[&SceneGraphBuf]| {
        let views = graphs.iter().map(|graph| graph.view());
        let mut batch = GraphBatch::of_graphs(views, SMALL.object_types, SMALL.predicate_types);
        batch.similarity_positive = vec![0.9; graphs.len() / 3];
        batch.similarity_negative = vec![0.2; graphs.len() / 3];
        batch
    };
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(|i| &graphs[i]);
    // Three graphs alone, and the same graphs with three others between them.
    let (alone, together) = (of(&[a, b, c]), of(&[a, d, b, e, c, f]));
    for batch_norm in [false, true] {
        let config = ModelConfig { batch_norm, ..SMALL };
        let tensors = random_parameters(config, true, 1);
        let both = |batch: &GraphBatch| train_embeddings(Reference::<f32>::new(), config, &tensors, batch);
        let every_second = |all: Vec<f32>| -> Vec<f32> {
            all.chunks_exact(config.state_width).step_by(2).flatten().copied().collect()
        };
        assert_eq!(both(&alone) == every_second(both(&together)), !batch_norm, "the reference");
        // Products with another number of rows may sum in another order: some roundings, which batch norm
        // would hide.
        let cpu = |batch: &GraphBatch| train_embeddings(Cpu::new(), config, &tensors, batch);
        let error = relative_error(&cpu(&alone), &every_second(cpu(&together)));
        assert!(if batch_norm { error > 1e-2 } else { error < 1e-6 }, "batch norm {batch_norm}: {error:e}");
        // The same function in training and evaluation, to the bit.
        let mut model = Model::new(Cpu::new(), config, &tensors, together.size()).unwrap();
        assert_eq!(model.embed(&together).unwrap() == cpu(&together), !batch_norm, "in evaluation");
    }
}

/// Computed by hand from arbitrary node states: the mean of the rows without the image node's, normalised.
#[test]
fn the_image_node_can_be_left_out_of_the_mean() {
    let (image, in_image) = (SMALL.object_types as u32 - 1, SMALL.predicate_types as u32 - 1);
    let whole = SceneGraphBuf::augmented(&[4, 7, 1], &[(0, 2, 1)], image, in_image);
    let only_image = SceneGraphBuf::augmented(&[], &[], image, in_image);
    // Like a query that lost the edges to its image node.
    let mut without_image = SceneGraphBuf { node_object: vec![5, 6], ..Default::default() };
    without_image.push_edge(0, 1, 1);
    let graphs = [&whole, &only_image, &without_image].map(SceneGraphBuf::view);
    let batch = GraphBatch::of_graphs(graphs.into_iter(), SMALL.object_types, SMALL.predicate_types);
    let width = SMALL.state_width;
    let mut rng = StdRng::seed_from_u64(1);
    let states: Vec<f32> = (0..7 * width).map(|_| rng.random_range(-1.0..1.0)).collect();
    for (image_node_in_mean, rows) in [(true, [0..4, 4..5, 5..7]), (false, [0..3, 4..5, 5..7])] {
        let want = rows.into_iter().flat_map(|rows| {
            let states = &states[rows.start * width..rows.end * width];
            let mean = |c| states.iter().skip(c).step_by(width).sum::<f32>() / rows.len() as f32;
            let mean: Vec<f32> = (0..width).map(mean).collect();
            let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt();
            mean.into_iter().map(move |value| value / length).collect::<Vec<_>>()
        });
        let want: Vec<f32> = want.collect();
        let config = ModelConfig { image_node_in_mean, ..SMALL };
        let mut activations = Activations::new(config, batch.size(), |len| vec![f32::NAN; len]);
        activations.layers.last_mut().expect("a layer").node_state = states.clone();
        let (batch, activations) = (&batch, &activations);
        let mut got = vec![f32::NAN; want.len()];
        let embedding = &mut got;
        Stages::readout(&mut Cpu::new(), Readout { config, batch, activations, embedding }).unwrap();
        // Components of unit vectors, with a few roundings each.
        crate::support::assert_close("cpu", &got, &want, Tolerance::absolute(4.0 * EPS));
        let embedding = &mut got;
        let mut reference = Reference::<f32>::new();
        Stages::readout(&mut reference, Readout { config, batch, activations, embedding }).unwrap();
        crate::support::assert_close("reference", &got, &want, Tolerance::absolute(4.0 * EPS));
    }
}

/// A model and its training state.
struct Run<B: Backend> {
    model: Model<B>,
    state: TrainingState<B>,
}

impl<B: Backend> Run<B> {
    fn new(backend: B, config: ModelConfig, tensors: &NamedTensors, capacity: BatchSize) -> Self {
        let model = Model::new(backend, config, tensors, capacity).unwrap();
        let state = TrainingState::new(&model).unwrap();
        Run { model, state }
    }

    fn train(&mut self, batches: &[GraphBatch]) {
        for batch in batches {
            self.model.load_batch(batch).unwrap();
            self.model.train_step(&RANKING, &Adam::new(1e-3), &mut self.state).unwrap();
        }
    }

    /// Complete result of a step, as bits.
    fn bits(&mut self) -> Vec<u32> {
        let mut bits = vec![self.model.mean_loss(&self.state).unwrap().to_bits()];
        bits.extend(self.model.embedding().unwrap().into_iter().map(f32::to_bits));
        let (first, second) = self.model.moments(&self.state).unwrap();
        let gradients = self.model.gradients(&self.state).unwrap();
        for tensors in [self.model.tensors().unwrap(), gradients, first, second] {
            bits.extend(tensors.values().flat_map(|tensor| &tensor.values).map(|v| v.to_bits()));
        }
        bits
    }
}

fn batches(config: ModelConfig, count: u64) -> Vec<GraphBatch> {
    (0..count).map(|seed| random_batch(config, shape(3 + seed as usize % 3), seed)).collect()
}

/// Parameters after several steps. Adam divides by the size of the gradient, so an entry whose gradient is
/// nearly zero may move either way; all other entries must move alike.
#[test]
fn several_steps_stay_with_the_reference() {
    let batches = batches(SMALL, 6);
    let tensors = random_parameters(SMALL, true, 1);
    let mut want = Run::new(Reference::<f64>::new(), SMALL, &tensors, capacity(&batches));
    let mut got = Run::new(Cpu::new(), SMALL, &tensors, capacity(&batches));
    let mut margins = Margins::default();
    for (done, batch) in batches.iter().enumerate() {
        want.train(std::slice::from_ref(batch));
        got.train(std::slice::from_ref(batch));
        let losses =
            [&mut got.model.mean_loss(&got.state).unwrap(), &mut want.model.mean_loss(&want.state).unwrap()]
                .map(|loss| *loss);
        let case = format!("step {}", done + 1);
        margins.assert_close("loss", &case, &losses[..1], &losses[1..], Tolerance::relative(1e-4));
    }
    let (want, got) = (want.model.tensors().unwrap(), got.model.tensors().unwrap());
    for (name, want) in &want {
        // Their difference, relative to the distance moved.
        let moved = |values: &[f32]| -> Vec<f32> {
            values.iter().zip(&tensors[name].values).map(|(after, before)| after - before).collect()
        };
        let (want, got) = (moved(&want.values), moved(&got[name].values));
        margins.assert_norm_close("movement", name, &got, &want, 1e-2);
    }
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let batches = batches(SMALL, 4);
    let run = || {
        let tensors = random_parameters(SMALL, true, 1);
        let mut run = Run::new(Cpu::new(), SMALL, &tensors, capacity(&batches));
        run.train(&batches);
        run.bits()
    };
    assert_eq!(run(), run());
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    // Rows that threads share unevenly, down to single ones, in small and large products.
    let small: Vec<GraphBatch> =
        [(3, 1), (7, 11), (33, 65), (65, 33), (130, 131)].map(|(n, e)| sized_batch(SMALL, n, e, 1)).to_vec();
    let cases = [
        (SMALL, small),
        (SMALL, batches(SMALL, 3)),
        (ModelConfig { state_width: 1, hidden_width: 1, ..SMALL }, batches(SMALL, 2)),
        (ModelConfig { state_width: 3, hidden_width: 1, ..SMALL }, batches(SMALL, 2)),
        (
            WIDE,
            vec![random_batch(WIDE, shape(3), 1), sized_batch(WIDE, 7, 4, 2), sized_batch(WIDE, 129, 67, 3)],
        ),
    ];
    for (config, batches) in cases {
        let tensors = random_parameters(config, true, 1);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut run = Run::new(Cpu::new(), config, &tensors, capacity(&batches));
                let mut bits = Vec::new();
                for batch in &batches {
                    run.train(std::slice::from_ref(batch));
                    bits.push(run.bits());
                }
                bits
            })
        };
        let one = run(1);
        for threads in [2, 3, 7] {
            for ((step, one), other) in one.iter().enumerate().zip(&run(threads)) {
                assert!(one == other, "width {}: {threads} threads, step {step}", config.state_width);
            }
        }
    }
}

#[test]
fn spare_capacity_does_not_change_bits() {
    let batches = batches(SMALL, 3);
    let tensors = random_parameters(SMALL, true, 1);
    let run = |capacity: BatchSize| {
        let mut run = Run::new(Cpu::new(), SMALL, &tensors, capacity);
        run.train(&batches[..1]);
        run.bits()
    };
    let tight = batches[0].size();
    assert_eq!(run(tight), run(BatchSize { graphs: 90, nodes: 1000, edges: 3000 }));

    // The content that an earlier, larger batch left in the buffers does not matter either.
    let large = random_batch(SMALL, shape(9), 9);
    let mut used = Run::new(Cpu::new(), SMALL, &tensors, capacity(&[large.clone(), batches[0].clone()]));
    used.model.load_batch(&large).unwrap();
    used.model.forward_backward(&RANKING, &mut used.state).unwrap();
    used.model.load_batch(&batches[0]).unwrap();
    used.model.forward_backward(&RANKING, &mut used.state).unwrap();
    let mut fresh = Run::new(Cpu::new(), SMALL, &tensors, tight);
    fresh.train(&batches[..1]);
    let (used, fresh) =
        (used.model.gradients(&used.state).unwrap(), fresh.model.gradients(&fresh.state).unwrap());
    assert_eq!(used, fresh);
}

#[test]
fn saving_and_continuing_equals_not_stopping() {
    let batches = batches(SMALL, 4);
    let tensors = random_parameters(SMALL, false, 1);
    let capacity = capacity(&batches);
    let mut whole = Run::new(Cpu::new(), SMALL, &tensors, capacity);
    whole.train(&batches[..2]);
    let saved = whole.model.tensors().unwrap();
    let (first, second) = whole.model.moments(&whole.state).unwrap();
    let mut continued = Run::new(Cpu::new(), SMALL, &saved, capacity);
    continued.state.restore(&mut continued.model, whole.state.steps, &first, &second).unwrap();
    whole.train(&batches[2..]);
    continued.train(&batches[2..]);
    assert_eq!(whole.bits(), continued.bits());
}

/// Batch norm is folded into the weights once, and again after each change of the parameters.
#[test]
fn embeddings_follow_the_parameters() {
    let mut margins = Margins::default();
    for config in [SMALL, ModelConfig { l2_norm: false, ..SMALL }, WIDE] {
        let (tensors, batch) = (random_parameters(config, true, 1), random_batch(config, shape(4), 2));
        let mut model = Model::new(Cpu::new(), config, &tensors, batch.size()).unwrap();
        let mut state = TrainingState::new(&model).unwrap();
        for step in 0..3 {
            let got = model.embed(&batch).unwrap();
            let now = model.tensors().unwrap();
            let fresh = Model::new(Cpu::new(), config, &now, batch.size()).unwrap().embed(&batch).unwrap();
            assert_eq!(got, fresh, "step {step}");
            let mut reference = Model::new(Reference::<f64>::new(), config, &now, batch.size()).unwrap();
            let want = reference.embed(&batch).unwrap();
            margins.assert_norm_close("embeddings", &format!("step {step}"), &got, &want, 1e-5);
            model.load_batch(&batch).unwrap();
            model.forward_backward(&RANKING, &mut state).unwrap();
            let moved = model.embed(&batch).unwrap();
            assert_ne!(moved, got, "a forward pass in training moves the running statistics");
            model.load_batch(&batch).unwrap();
            model.train_step(&RANKING, &Adam::new(1e-2), &mut state).unwrap();
        }
    }
}

/// With the running statistics every row is computed independently.
#[test]
fn in_evaluation_a_graph_does_not_see_its_neighbours() {
    let config = SMALL;
    let tensors = random_parameters(config, true, 1);
    let mut rng = StdRng::seed_from_u64(1);
    let (image, in_image) = (config.object_types as u32 - 1, config.predicate_types as u32 - 1);
    let graphs: Vec<SceneGraphBuf> = (0..40)
        .map(|i| {
            let objects: Vec<u32> = (0..i % 9).map(|_| rng.random_range(0..image)).collect();
            let edges: Vec<_> = (0..if objects.is_empty() { 0 } else { i % 7 })
                .map(|_| {
                    let mut end = || rng.random_range(0..objects.len() as u32);
                    (end(), 0, end())
                })
                .collect();
            SceneGraphBuf::augmented(&objects, &edges, image, in_image)
        })
        .collect();
    let of = |graphs: &mut dyn Iterator<Item = &SceneGraphBuf>| {
        GraphBatch::of_graphs(graphs.map(SceneGraphBuf::view), config.object_types, config.predicate_types)
    };
    let all = of(&mut graphs.iter());
    let mut model = Model::new(Cpu::new(), config, &tensors, all.size()).unwrap();
    let together = model.embed(&all).unwrap();
    let before = model.tensors().unwrap();
    let mut margins = Margins::default();
    let mut backwards = model.embed(&of(&mut graphs.iter().rev())).unwrap();
    let width = config.state_width;
    for (index, graph) in graphs.iter().enumerate() {
        let alone = model.embed(&of(&mut std::iter::once(graph))).unwrap();
        let case = format!("graph {index}");
        let with_others = &together[index * width..][..width];
        // Only the order of a product's sums may change with the number of rows.
        let tolerance = Tolerance::absolute(1e-6);
        margins.assert_close("alone", &case, &alone, with_others, tolerance);
        let last = backwards.split_off(backwards.len() - width);
        margins.assert_close("in another order", &case, &last, with_others, tolerance);
        let length = alone.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        assert!((length - 1.0).abs() < 4.0 * EPS, "{case}: an embedding of length {length}");
    }
    assert_eq!(model.tensors().unwrap(), before, "embedding must not move running statistics");

    let mut reference = Model::new(Reference::<f64>::new(), config, &tensors, all.size()).unwrap();
    margins.assert_norm_close("reference", "all", &together, &reference.embed(&all).unwrap(), 1e-5);
}

/// Running statistics after a step, from the formula (momentum 0.1, the mean, and the unbiased variance), for
/// values that are easy to compute: layer 0 of a batch with two edges.
#[test]
fn running_statistics_take_a_tenth_of_the_batchs_and_the_unbiased_variance() {
    let config = ModelConfig {
        object_types: 3,
        predicate_types: 2,
        layers: 1,
        state_width: 2,
        hidden_width: 3,
        ..SMALL
    };
    let graph = SceneGraphBuf {
        node_object: vec![0, 1],
        edge_subject: vec![0, 1, 0],
        edge_predicate: vec![0, 1, 1],
        edge_object: vec![1, 0, 0],
    };
    let mut batch = GraphBatch::of_graphs([graph.view(); 3].into_iter(), 3, 2);
    batch.similarity_positive = vec![0.9];
    batch.similarity_negative = vec![0.2];
    let tensors = random_parameters(config, true, 1);
    let value = |name: &str, at: usize| f64::from(tensors[name].values[at]);
    let mut margins = Margins::default();
    for (backend, next) in [
        ("cpu", step(Cpu::new(), config, &tensors, &batch, RANKING).next),
        ("reference", step(Reference::<f64>::new(), config, &tensors, &batch, RANKING).next),
    ] {
        for c in 0..config.hidden_width {
            let z: Vec<f64> = (0..9)
                .map(|edge| {
                    let edge = edge % 3;
                    let node = |n: u32, d: usize| value("object_embedding.weight", n as usize * 2 + d);
                    let types =
                        (graph.edge_subject[edge], graph.edge_predicate[edge], graph.edge_object[edge]);
                    (0..2)
                        .map(|d| {
                            let w = |part: usize| {
                                value("layers.0.edge.hidden.linear.weight", c * 6 + part * 2 + d)
                            };
                            let e = value("predicate_embedding.weight", types.1 as usize * 2 + d);
                            w(0) * node(types.0, d) + w(1) * e + w(2) * node(types.2, d)
                        })
                        .sum()
                })
                .collect();
            let mean = z.iter().sum::<f64>() / 9.0;
            let unbiased = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / 8.0;
            for (kind, seen) in [("running_mean", mean), ("running_var", unbiased)] {
                let name = format!("layers.0.edge.hidden.norm.{kind}");
                let want = 0.9 * value(&name, c) + 0.1 * seen;
                let got = f64::from(next[&name].values[c]);
                // Rounded once to single precision, from values around 1.
                margins.assert_close(kind, backend, &[got], &[want], Tolerance::absolute(EPS));
            }
        }
    }
}

#[test]
fn comparisons_see_nan() {
    assert_eq!(relative_error(&[f32::NAN, 1.0], &[0.0, 1.0]), f64::INFINITY);
    assert_eq!(relative_error(&[1.0], &[f32::NAN]), f64::INFINITY);
    for (got, want) in [(f32::NAN, 1.0), (1.0, f32::NAN), (f32::NAN, f32::NAN)] {
        let compared = std::panic::catch_unwind(|| {
            crate::support::assert_close(
                "nan",
                &[0.0, got],
                &[0.0, want],
                Tolerance { absolute: 1e30, relative: 1e30 },
            )
        });
        assert!(compared.is_err(), "{got} passed for {want}");
    }
}
