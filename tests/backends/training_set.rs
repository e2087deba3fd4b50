//! Training on a device that stores the training set equals training that loads every batch, bit for bit.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use crate::cuda_step::kernel_device;
use crate::program::Workplace;
use scenerank::backend::cuda::Cuda;
use scenerank::backend::cuda::launchers::linear::StoredFormat;
use scenerank::batch::graph_batch::{BatchSize, GraphBatch};
use scenerank::batch::triples::{Sampling, Triple, TripleSampler};
use scenerank::data::similarity::Similarity;
use scenerank::data::supervision::Supervision;
use scenerank::data::{Dataset, Split};
use scenerank::files::npy::write_npy;
use scenerank::model::{Model, TrainingState};
use scenerank::network::config::ModelConfig;
use scenerank::network::tensors::NamedTensors;
use scenerank::report::run_log::METRICS;
use scenerank::train::checkpoint::{self, LAST};
use scenerank::train::config::TrainConfig;
use scenerank::train::{TrainOutcome, first_parameters, train_on};
use serde_json::Value;

/// Configuration of a small network for some steps of `batch_size` triples.
pub(crate) fn config(sampling: Sampling, batch_size: usize, epochs: usize) -> TrainConfig {
    TrainConfig {
        layers: 1,
        state_width: 8,
        hidden_width: 8,
        learning_rate: 1e-3,
        sampling,
        batch_size,
        epochs,
        ..Default::default()
    }
}

/// A backend on the emulator, or on what `SCENERANK_TEST_DEVICE` names. Reports a skip and returns `None` if the emulator is
/// not built.
fn backend() -> Option<Cuda<f32>> {
    backend_in_order(None)
}

/// Like [`backend`], with the order of threads and blocks shuffled by the seed. With a seed, the branch runs as late as possible.
fn backend_in_order(seed: Option<u64>) -> Option<Cuda<f32>> {
    Some(Cuda::new(kernel_device(seed)?, StoredFormat::FP32).expect("an empty backend"))
}

/// Result of training: mean loss and number of anchors without a triple for each epoch; steps; all tensors,
/// as bits.
#[derive(Debug, PartialEq)]
struct Left {
    epochs: Vec<(u64, u64)>,
    steps: u64,
    tensors: BTreeMap<String, Vec<u32>>,
}

fn bits<'a>(parts: impl IntoIterator<Item = (&'static str, &'a NamedTensors)>) -> BTreeMap<String, Vec<u32>> {
    let mut all = BTreeMap::new();
    for (prefix, tensors) in parts {
        for (name, tensor) in tensors {
            let bits = tensor.values.iter().map(|value| value.to_bits()).collect();
            all.insert(format!("{prefix}{name}"), bits);
        }
    }
    all
}

/// Trains as the program does, interrupted after each of the first `stops` steps.
fn trained(work: &Workplace, config: &TrainConfig, stops: usize) -> Left {
    let dataset = Dataset::open(&work.data).unwrap();
    let run = work.path("run");
    let _ = std::fs::remove_dir_all(&run);
    let go = |stop: bool| -> TrainOutcome {
        let resume = run.join(LAST).exists().then(|| checkpoint::load(&run.join(LAST)).unwrap());
        let backend = backend().expect("as before");
        train_on(backend, &dataset, config.clone(), &run, resume, &AtomicBool::new(stop)).unwrap()
    };
    for _ in 0..stops {
        assert!(go(true).interrupted);
    }
    let outcome = go(false);
    let last = checkpoint::load(&run.join(LAST)).unwrap();
    let (first, second) = last.moments.unwrap();
    let records = std::fs::read_to_string(run.join(METRICS)).unwrap();
    let records = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let epochs = records.filter(|record| record["kind"] == "epoch");
    Left {
        epochs: epochs
            .map(|record| {
                let loss = record["loss"].as_f64().unwrap();
                (loss.to_bits(), record["skipped_anchors"].as_u64().unwrap())
            })
            .collect(),
        steps: outcome.steps,
        tensors: bits([("", &last.tensors), ("first ", &first), ("second ", &second)]),
    }
}

/// Initial model of the training.
fn first_model(dataset: &Dataset, config: &TrainConfig) -> (Model<Cuda<f32>>, TrainingState<Cuda<f32>>) {
    first_model_on(backend().expect("as before"), dataset, config)
}

fn first_model_on(
    backend: Cuda<f32>,
    dataset: &Dataset,
    config: &TrainConfig,
) -> (Model<Cuda<f32>>, TrainingState<Cuda<f32>>) {
    let network = config.model(dataset.object_count(), dataset.predicate_count());
    let graphs = (0..dataset.image_count()).map(|image| dataset.graph(image));
    let capacity = BatchSize::bound(graphs, 3 * config.batch_size);
    let tensors = first_parameters(dataset, network, config.seed);
    let model = Model::new(backend, network, &tensors, capacity).unwrap();
    let state = TrainingState::new(&model).unwrap();
    (model, state)
}

/// Batch of these triples: anchors, then positives, then negatives.
fn batch_of(dataset: &Dataset, network: ModelConfig, triples: &[Triple]) -> GraphBatch {
    let role = |image: fn(&Triple) -> u32| {
        triples.iter().map(move |triple| image(triple) as usize).map(|image| dataset.graph(image))
    };
    let graphs = role(|t| t.anchor).chain(role(|t| t.positive)).chain(role(|t| t.negative));
    let mut batch = GraphBatch::of_graphs(graphs, network.object_types, network.predicate_types);
    batch.similarity_positive = triples.iter().map(|triple| triple.similarity_positive).collect();
    batch.similarity_negative = triples.iter().map(|triple| triple.similarity_negative).collect();
    batch
}

/// The same training with every batch drawn, assembled and loaded here; also returns the number of batches
/// without a triple.
fn loaded(work: &Workplace, config: &TrainConfig) -> (Left, usize) {
    let dataset = Dataset::open(&work.data).unwrap();
    let supervision =
        Supervision::open(config.similarity.as_deref(), config.caption_vectors.as_deref(), &dataset).unwrap();
    let images = dataset.split(Split::Train);
    let sampler =
        TripleSampler::new(supervision.view(&dataset), images.clone(), config.sampling, config.seed).unwrap();
    let (mut model, mut state) = first_model(&dataset, config);
    let network = model.config();
    let (mut epochs, mut empty) = (Vec::new(), 0);
    for epoch in 0..config.epochs as u32 {
        let (mut sum, mut count, mut skipped) = (0.0, 0, 0);
        for anchors in sampler.anchor_order(epoch).chunks(config.batch_size) {
            let triples: Vec<Triple> =
                anchors.iter().filter_map(|&anchor| sampler.draw(epoch, anchor)).collect();
            skipped += (anchors.len() - triples.len()) as u64;
            if triples.is_empty() {
                empty += 1;
                continue;
            }
            model.load_batch(&batch_of(&dataset, network, &triples)).unwrap();
            model.train_step(&config.loss(), &config.adam(images.len()), &mut state).unwrap();
            sum += f64::from(model.mean_loss(&state).unwrap()) * triples.len() as f64;
            count += triples.len();
        }
        epochs.push(((sum / count as f64).to_bits(), skipped));
    }
    let (first, second) = model.moments(&state).unwrap();
    let tensors = bits([("", &model.tensors().unwrap()), ("first ", &first), ("second ", &second)]);
    (Left { epochs, steps: state.steps, tensors }, empty)
}

/// Caption vectors in a file, mostly those of the data. Every other image has none, and therefore no triple.
/// Every tenth is so dissimilar to others that rejection finds nothing, but a scan of its row does.
pub(crate) fn odd_vectors(work: &Workplace) -> std::path::PathBuf {
    let dataset = Dataset::open(&work.data).unwrap();
    let Similarity::Factored { vectors, width } = dataset.similarity() else {
        panic!("captions have vectors")
    };
    let mut vectors = vectors.to_vec();
    for (image, vector) in vectors.chunks_exact_mut(width).enumerate() {
        let factor = match image {
            _ if image % 2 == 1 => 0.0,
            _ if image % 10 == 0 => 1e-5,
            _ => 1.0,
        };
        vector.iter_mut().for_each(|value| *value *= factor);
    }
    let path = work.path("vectors.npy");
    write_npy(&path, &vectors, width).unwrap();
    path
}

#[test]
fn every_supervision_trains_alike() {
    if backend().is_none() {
        return;
    }
    let work = Workplace::new();
    let images = Dataset::open(&work.data).unwrap().image_count();
    let matrix = work.path("matrix.npy");
    // A matrix that is not symmetric and does not come from vectors.
    let values: Vec<f32> = (0..images * images).map(|at| (at * 7919 % 1009) as f32 / 1009.0).collect();
    write_npy(&matrix, &values, images).unwrap();
    for config in [
        TrainConfig { image_node_in_mean: false, ..config(Sampling::Probability, 16, 1) },
        config(Sampling::Random, 40, 1),
        config(Sampling::Reject, 16, 1),
        config(Sampling::Extreme, 16, 1),
        TrainConfig { similarity: Some(matrix), ..config(Sampling::Probability, 16, 1) },
        // As many as there are anchors, and more.
        config(Sampling::Probability, 1000, 1),
    ] {
        let (want, _) = loaded(&work, &config);
        assert!(trained(&work, &config, 0) == want, "{config:?}");
    }
}

/// Anchors and whole batches without a triple, triples drawn by the host, and a run that is interrupted
/// repeatedly.
#[test]
fn what_rejection_does_not_find_and_where_a_run_stops_change_nothing() {
    if backend().is_none() {
        return;
    }
    let work = Workplace::new();
    let config = TrainConfig { caption_vectors: Some(odd_vectors(&work)), ..config(Sampling::Reject, 3, 2) };
    let (want, empty) = loaded(&work, &config);
    assert!(empty > 1, "batches without a triple");
    assert!(want.epochs.iter().all(|&(_, skipped)| skipped > 40), "{:?}", want.epochs);
    for stops in [0, 5] {
        let got = trained(&work, &config, stops);
        assert_eq!((&got.epochs, got.steps), (&want.epochs, want.steps), "{stops} stops");
        assert!(got == want, "{stops} stops: tensors");
    }
}

/// Embedding uses the same slots as the batches of the steps.
#[test]
fn batches_loaded_between_two_steps_change_nothing() {
    if backend().is_none() {
        return;
    }
    let work = Workplace::new();
    let config = config(Sampling::Probability, 16, 1);
    let dataset = Dataset::open(&work.data).unwrap();
    let images = dataset.split(Split::Train);
    let sampler =
        TripleSampler::new(dataset.similarity(), images.clone(), config.sampling, config.seed).unwrap();
    let order = sampler.anchor_order(0);
    let run = |loads: &[usize]| -> (Vec<(f32, usize)>, NamedTensors) {
        let (mut model, mut state) = first_model(&dataset, &config);
        let network = model.config();
        let graphs = || images.clone().map(|image| dataset.graph(image));
        assert!(model.load_training_set(graphs(), &sampler).unwrap());
        model.begin_epoch(&sampler, 0, &order, 0).unwrap();
        for step in 0..5 {
            for batch in 0..loads[step % loads.len()] {
                let few = graphs().skip(batch).take(7);
                let few = GraphBatch::of_graphs(few, network.object_types, network.predicate_types);
                assert_eq!(model.embed(&few).unwrap().len(), 7 * network.state_width);
            }
            assert_eq!(model.next_batch().unwrap(), 16);
            model.train_step(&config.loss(), &config.adam(images.len()), &mut state).unwrap();
        }
        (model.take_losses(&mut state).unwrap(), model.tensors().unwrap())
    };
    let want = run(&[0]);
    // Odd and even numbers, so that steps follow a batch in either slot.
    for loads in [&[1][..], &[3, 0, 2]] {
        assert!(run(loads) == want, "{loads:?} batches");
    }
}

/// Grids cover the largest batch of the epochs so far: the first epoch has the smallest graphs as anchors, the second
/// the largest, and the third the smallest again, and more of them. Whether the next batch is assembled early or late changes nothing.
#[test]
fn an_epoch_of_larger_batches_has_larger_grids() {
    if backend().is_none() {
        return;
    }
    const BATCH: usize = 8;
    let work = Workplace::new();
    let config = config(Sampling::Reject, BATCH, 3);
    let dataset = Dataset::open(&work.data).unwrap();
    let images = dataset.split(Split::Train);
    let sampler =
        TripleSampler::new(dataset.similarity(), images.clone(), config.sampling, config.seed).unwrap();
    let mut by_size: Vec<u32> = images.clone().map(|image| image as u32).collect();
    by_size.sort_by_key(|&image| dataset.graph(image as usize).edge_count());
    let orders = [&by_size[..20], &by_size[by_size.len() - 20..], &by_size[..24]];
    let train = |kept: bool, seed: Option<u64>| -> (Vec<(f32, usize)>, NamedTensors, Vec<BatchSize>) {
        let backend = backend_in_order(seed).expect("as before");
        let (mut model, mut state) = first_model_on(backend, &dataset, &config);
        if kept {
            let graphs = images.clone().map(|image| dataset.graph(image));
            assert!(model.load_training_set(graphs, &sampler).unwrap());
        }
        let (mut losses, mut largest) = (Vec::new(), Vec::new());
        for (epoch, order) in orders.into_iter().enumerate() {
            let mut size = BatchSize::default();
            if kept {
                model.begin_epoch(&sampler, epoch as u32, order, 0).unwrap();
            }
            for anchors in order.chunks(BATCH) {
                let triples: Vec<Triple> =
                    anchors.iter().filter_map(|&anchor| sampler.draw(epoch as u32, anchor)).collect();
                let batch = batch_of(&dataset, model.config(), &triples);
                size = size.max_of_each(batch.size());
                match kept {
                    true => assert_eq!(model.next_batch().unwrap(), triples.len()),
                    false => model.load_batch(&batch).unwrap(),
                }
                model.train_step(&config.loss(), &config.adam(images.len()), &mut state).unwrap();
                losses.push((model.mean_loss(&state).unwrap(), triples.len()));
            }
            largest.push(size);
        }
        (losses, model.tensors().unwrap(), largest)
    };
    let (want, tensors, largest) = train(false, None);
    assert!(largest[0].nodes < largest[1].nodes && largest[0].edges < largest[1].edges, "{largest:?}");
    assert!(largest[2].edges < largest[1].edges, "{largest:?}");
    for seed in [None, Some(3)] {
        let (got, got_tensors, _) = train(true, seed);
        assert_eq!(got, want, "{seed:?}");
        assert!(got_tensors == tensors, "{seed:?}: tensors");
    }
}
