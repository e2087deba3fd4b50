//! The commands on `--device emulated`: the same results as on the CPU, except for rounding.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::program::{SMALL_NETWORK, run, run_json, small_data};
use crate::support::{BatchShape, SMALL, random_batch, random_parameters, relative_error, switched_off};
use scenerank::backend::cuda::launchers;
use scenerank::backend::device::{Device as ComputeDevice, Precision};
use scenerank::data::{Dataset, Split};
use scenerank::evaluation::{Embeddings, RetrievalMetrics, ranks};
use scenerank::files::npy::read_npy;
use scenerank::files::tensor_file::{TensorData, TensorFile, to_safetensors};
use scenerank::network::config::ModelConfig;
use serde_json::Value;
use tempfile::TempDir;

const DEVICES: [&str; 2] = ["emulated", "cpu"];

/// Whether the emulator is built; reports a skip if not.
pub(crate) fn emulator_is_there() -> bool {
    match launchers::emulated(None) {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    }
}

/// One run on the emulated device, which the commands then use on both devices.
struct Fixture {
    folder: TempDir,
    run: String,
    dataset: Dataset,
}

impl Fixture {
    /// Reports a skip and returns `None` if the emulator is not built.
    fn new() -> Option<Self> {
        if !emulator_is_there() {
            return None;
        }
        let folder = TempDir::new().unwrap();
        let data = small_data(folder.path(), 1);
        let out = folder.path().join("run").display().to_string();
        let words = ["--epochs", "1", "--learning-rate", "1e-3", "--device", "emulated", "--out", &out];
        run([&["train", data.to_str().unwrap()], &SMALL_NETWORK[..], &words].concat());
        Some(Fixture { dataset: Dataset::open(&data).unwrap(), run: out, folder })
    }

    fn text(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Output of a command on both devices.
    fn both(&self, command: &str, more: &[&str]) -> [Value; 2] {
        DEVICES.map(|device| run_json([&[command, &self.run, "--device", device, "--json"], more].concat()))
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn assert_close(name: &str, got: f64, want: f64, limit: f64) {
    let agrees = (got - want).abs() <= limit;
    assert!(agrees, "{name}: {got} where {want} is expected, limit {limit:e}");
}

#[test]
fn embed_evaluate_retrieve_and_search() {
    let Some(fixture) = Fixture::new() else { return };
    let test = fixture.dataset.split(Split::Test).len();

    let files = DEVICES.map(|device| {
        let out = fixture.text(&format!("{device}.npy"));
        run(["embed", &fixture.run, "--out", &out, "--device", device]);
        read_npy(Path::new(&out)).unwrap()
    });
    assert_eq!(files[0].rows, fixture.dataset.image_count());
    for (got, want) in files[0].values.iter().zip(&files[1].values) {
        // Components of unit vectors, after two layers with about a hundred roundings.
        assert_close("embedding", f64::from(*got), f64::from(*want), 2e-5);
    }

    let features = fixture.text("cpu.npy");
    let [got, want] = fixture.both("evaluate", &["--embeddings", &features]);
    assert_eq!(got["rows"].as_array().unwrap().len(), 4);
    for (got, want) in got["rows"].as_array().unwrap().iter().zip(want["rows"].as_array().unwrap()) {
        assert_eq!(got["name"], want["name"]);
        if got["name"] == features.as_str() || got["name"] == "normal features" {
            // The embeddings are the same on both devices, so the kernels count the same pairs.
            for kind in ["kendall", "spearman"] {
                assert_eq!(got["per_image"][kind], want["per_image"][kind], "{} {kind}", got["name"]);
            }
            let [got, want] = [got, want].map(|row| number(&row["per_image"]["pearson"]));
            assert_close("pearson", got, want, 1e-13);
        }
        for over in ["per_image", "all_pairs"] {
            // Pairs of cosines that agree to 1e-5 may change places: each changes the tau of its row by 4 /
            // (n (n - 1)).
            for (kind, limit) in [("kendall", 0.05), ("spearman", 0.05), ("pearson", 1e-4)] {
                let name = format!("{} {over} {kind}", got["name"]);
                assert_close(&name, number(&got[over][kind]), number(&want[over][kind]), limit);
            }
        }
    }

    let curves = fixture.text("curves");
    let [got, want] = fixture.both("retrieve", &["--noise", "3", "--sweep", "2", "--out", &curves]);
    for (got, want) in got["levels"].as_array().unwrap().iter().zip(want["levels"].as_array().unwrap()) {
        assert_eq!(got["removed"], want["removed"]);
        for metric in ["mrr", "recall_at_1", "recall_at_5"] {
            // One image changes places with another.
            assert_close(metric, number(&got[metric]), number(&want[metric]), 1.01 / test as f64);
        }
    }

    // Ranks of the queries embedded by the emulator, computed on the CPU.
    let (index, queries) = (fixture.text("index.npy"), fixture.text("queries.npy"));
    run(["embed", &fixture.run, "--out", &index, "--split", "test", "--device", "emulated"]);
    let more =
        ["--noise", "12", "--queries-out", &queries, "--out", &curves, "--device", "emulated", "--json"];
    let got = run_json([&["retrieve", &fixture.run], &more[..]].concat());
    let [index, queries] = [index, queries].map(|path| read_npy(Path::new(&path)).unwrap());
    let [index, queries] = [&index, &queries].map(|of| Embeddings::new(&of.values, of.width).unwrap());
    let targets: Vec<u32> = (0..test as u32).collect();
    let want = ranks(ComputeDevice::Cpu, Precision::Fp32, queries, index, &targets).unwrap();
    let want = RetrievalMetrics::new(&want);
    assert_eq!(number(&got["levels"][0]["mrr"]), want.mrr);
    assert_eq!(number(&got["levels"][0]["recall_at_5"]), want.recall_at_5);

    let image = fixture.dataset.image_id(0).to_string();
    for k in ["5", "1000"] {
        let [got, want] = fixture.both("search", &["--image", &image, "-k", k]);
        let (got, want) = (got.as_array().unwrap(), want.as_array().unwrap());
        assert_eq!(got.len(), want.len());
        for (at, (found, wanted)) in got.iter().zip(want).enumerate() {
            assert_close("cosine", number(&found["cosine"]), number(&wanted["cosine"]), 1e-5);
            // The same image, or one whose cosine is practically equal.
            let same = |other: &&Value| other["image_id"] == found["image_id"];
            let there = want.iter().find(same).map(|other| number(&other["cosine"]));
            let last = number(&want[want.len() - 1]["cosine"]);
            assert_close(&format!("rank {at}"), number(&found["cosine"]), there.unwrap_or(last), 1e-5);
        }
    }
}

#[test]
fn demo_runs() {
    if !emulator_is_there() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let [got, want] = DEVICES.map(|device| {
        let out = folder.path().join(device);
        let words = ["--images", "120", "--epochs", "1", "--json", "--device", device, "--out"];
        let results = run_json([&["demo"], &words[..], &[out.to_str().unwrap()]].concat());
        assert_eq!(results["retrieve"]["levels"].as_array().unwrap().len(), 20);
        read_npy(&out.join("run/embeddings.npy")).unwrap()
    });
    assert!(got.rows > 30 && got.rows == want.rows);
    for (got, want) in got.values.iter().zip(&want.values) {
        // Two steps of Adam, which moves by full steps even for the smallest gradients: observed are 3e-5.
        assert_close("embedding", f64::from(*got), f64::from(*want), 3e-4);
    }
}

/// Writes the inputs of a step, as `step` reads them.
pub(crate) fn write_step(path: &Path, config: ModelConfig) {
    let shape = BatchShape { triples: 3, objects: 7, relationships: 6, oddities: true };
    let batch = random_batch(config, shape, 1);
    let mut tensors: Vec<(String, Vec<usize>, TensorData)> = random_parameters(config, true, 1)
        .into_iter()
        .map(|(name, tensor)| (format!("param.{name}"), tensor.shape, TensorData::F32(tensor.values)))
        .collect();
    for (name, values) in [
        ("node_object", batch.node_object),
        ("node_graph", batch.node_graph),
        ("edge_subject", batch.edge_subject),
        ("edge_predicate", batch.edge_predicate),
        ("edge_object", batch.edge_object),
    ] {
        let values: Vec<i32> = values.into_iter().map(|value| value as i32).collect();
        tensors.push((format!("batch.{name}"), vec![values.len()], TensorData::I32(values)));
    }
    for (name, values) in [
        ("similarity_positive", batch.similarity_positive),
        ("similarity_negative", batch.similarity_negative),
    ] {
        tensors.push((format!("batch.{name}"), vec![values.len()], TensorData::F32(values)));
    }
    let config = serde_json::json!({
        "layers": config.layers, "state_dim": config.state_width, "hidden_dim": config.hidden_width,
        "batch_norm": config.batch_norm, "l2_norm": config.l2_norm,
        "image_node_in_mean": config.image_node_in_mean,
        "loss": "ranking", "temperature": 1.0, "margin": 0.5, "learning_rate": 1e-3,
    });
    let metadata = [("config".to_string(), config.to_string())];
    fs::write(path, to_safetensors(&tensors, metadata)).unwrap();
}

/// Compares loss, embeddings and gradients of two dumped steps.
pub(crate) fn assert_steps_agree(got: &TensorFile, want: &TensorFile, limit: f64) {
    let mut names = want.names();
    names.retain(|name| name == "loss" || name == "embedding" || name.starts_with("grad."));
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        let [got, want] = [got, want].map(|file| file.tensor(&name).unwrap().values);
        let error = relative_error(&got, &want);
        assert!(error <= limit, "{name}: {error:e}");
    }
}

/// `tests/oracle.rs` compares with an independent implementation, if available.
#[test]
fn step_gives_the_loss_and_gradients_of_the_cpu() {
    if !emulator_is_there() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let input = folder.path().join("in");
    for config in [SMALL, switched_off(SMALL)[3]] {
        write_step(&input, config);
        compare_steps(&folder, &input, DEVICES);
    }
}

/// Compares the step of the first device with that of the second.
pub(crate) fn compare_steps(folder: &TempDir, input: &Path, devices: [&str; 2]) {
    let [got, want] = devices.map(|device| {
        let out = folder.path().join(device);
        run([
            OsStr::new("step"),
            input.as_os_str(),
            out.as_os_str(),
            OsStr::new("--device"),
            device.as_ref(),
        ]);
        TensorFile::read(&out).unwrap()
    });
    // As in tests/backends/training_step.rs, where no ReLU input is close to zero.
    assert_steps_agree(&got, &want, 1e-4);
}
