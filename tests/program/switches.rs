//! Runs of networks with ablation switches off: later commands use the network as it was trained.

use std::fs;

use crate::program::{SMALL_NETWORK, Workplace, run_json};
use scenerank::backend::cpu::Cpu;
use scenerank::backend::device::{Device, Precision};
use scenerank::data::{Dataset, Split};
use scenerank::evaluation::{Embeddings, row_kendall};
use scenerank::files::tensor_file::{TensorData, TensorFile, to_sealed_safetensors};
use scenerank::network::config::ModelConfig;
use scenerank::network::tensors::{NamedTensors, Tensor};
use scenerank::run::{Run, Which};
use scenerank::train::checkpoint::{self, BEST, Checkpoint, LAST};
use scenerank::train::config::TrainConfig;
use serde_json::Value;

impl Workplace {
    /// Trains the small network into the folder `name`; returns the outcome.
    fn train(&self, name: &str, more: &[&str]) -> Value {
        let (data, out) = (self.data.display().to_string(), self.text(name));
        let arguments = ["train", &data, "--out", &out, "--learning-rate", "1e-3", "--json"];
        run_json([&arguments[..], &SMALL_NETWORK, more].concat())
    }

    fn evaluate(&self, name: &str) -> Value {
        run_json(["evaluate", &self.text(name), "--json"])
    }

    /// Embeddings of the validation images with the run's best checkpoint.
    fn embed(&self, name: &str) -> Vec<f32> {
        let run = Run::open(&self.path(name), Which::Best, None, Device::Cpu, Precision::Fp32).unwrap();
        run.embed_split(Split::Validation).unwrap()
    }

    fn switches(&self, name: &str) -> [bool; 3] {
        let ModelConfig { batch_norm, l2_norm, image_node_in_mean, .. } = self.last(name).config.model;
        [batch_norm, l2_norm, image_node_in_mean]
    }
}

#[test]
fn a_run_is_used_as_it_was_trained() {
    let work = Workplace::new();
    let dataset = Dataset::open(&work.data).unwrap();
    let file = work.path("off.toml");
    fs::write(&file, "batch-norm = false\nl2-norm = false\nimage-node-in-mean = false\n").unwrap();
    let file = file.display().to_string();
    work.train("paper", &["--epochs", "2"]);
    let mut seen: Vec<NamedTensors> = vec![work.last("paper").tensors];
    for (name, options) in [
        ("batch-norm", ["--batch-norm", "false"]),
        ("l2-norm", ["--l2-norm", "false"]),
        ("image-node", ["--image-node-in-mean", "false"]),
        ("all", ["--config", &file]),
    ] {
        let outcome = work.train(name, &[&["--epochs", "2"], &options[..]].concat());
        let tensors = work.last(name).tensors;
        assert!(!seen.contains(&tensors), "{name} trains as another network");
        seen.push(tensors);

        // Repeats the validation of the best epoch from its checkpoint. Other batches sum in another order:
        // up to three pairs next to a tie may swap, 1.6e-4 each.
        let embeddings = work.embed(name);
        let rows = Embeddings::new(&embeddings, 12).unwrap();
        let images = dataset.split(Split::Validation);
        let tau = row_kendall(&mut Cpu::new(), rows, &embeddings, dataset.similarity(), images).unwrap();
        let validated = outcome["best"][1].as_f64().unwrap();
        assert!((tau - validated).abs() < 5e-4, "{name}: {tau}, in training {validated}");
        work.evaluate(name);

        // With everything on, the same parameters give other embeddings.
        let path = work.path(name).join(BEST);
        let Checkpoint { mut config, progress, tensors, .. } = checkpoint::load(&path).unwrap();
        config.train =
            TrainConfig { batch_norm: true, l2_norm: true, image_node_in_mean: true, ..config.train };
        config.model = config.train.model(config.model.object_types, config.model.predicate_types);
        // In a folder of its own: the checkpoints of one folder must be of one run.
        let other = format!("{name}-on");
        fs::create_dir(work.path(&other)).unwrap();
        checkpoint::save(&work.path(&other).join(BEST), &config, &progress, tensors, None).unwrap();
        assert_ne!(work.embed(&other), embeddings, "{name}");
    }
    // The run continues with its own switches, and the command line takes precedence over a file.
    work.train("all", &["--resume", "--epochs", "3"]);
    assert_eq!(work.switches("all"), [false; 3]);
    work.train("mixed", &["--config", &file, "--l2-norm", "true", "--epochs", "1"]);
    assert_eq!(work.switches("mixed"), [false, true, false]);
}

/// A checkpoint from before the switches existed belongs to the paper's network.
#[test]
fn a_checkpoint_without_switches_has_everything_on() {
    let work = Workplace::new();
    work.train("run", &["--epochs", "1"]);
    let (before, last) = (work.evaluate("run"), work.last("run"));
    for name in [BEST, LAST] {
        let path = work.path("run").join(name);
        let file = TensorFile::read(&path).unwrap();
        let mut config: Value = file.metadata("config").unwrap();
        for part in ["train", "model"] {
            for switch in ["batch-norm", "l2-norm", "image-node-in-mean"] {
                assert_eq!(config[part].as_object_mut().unwrap().remove(switch), Some(true.into()));
            }
        }
        let progress: Value = file.metadata("progress").unwrap();
        let tensor = |name: String| {
            let Tensor { shape, values } = file.tensor(&name).unwrap();
            (name, shape, TensorData::F32(values))
        };
        let tensors: Vec<_> = file.names().into_iter().map(tensor).collect();
        let model: Value = file.metadata("model").unwrap();
        let metadata = [("config", config), ("progress", progress), ("model", model)]
            .map(|(key, value)| (key.to_string(), value.to_string()));
        fs::write(&path, to_sealed_safetensors(&tensors, metadata)).unwrap();
    }
    assert_eq!(work.last("run").config, last.config);
    assert_eq!(work.evaluate("run"), before);
    // When continued, it equals the run that was not interrupted.
    work.train("run", &["--resume", "--epochs", "2"]);
    work.train("whole", &["--epochs", "2"]);
    assert!(work.last("run").tensors == work.last("whole").tensors);
}
