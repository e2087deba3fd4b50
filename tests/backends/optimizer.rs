//! The optimizer of every backend against PyTorch's: AdamW, `clip_grad_norm_` and the schedulers. Without
//! `SCENERANK_PEER_PYTHON`, a Python with PyTorch, the test reports a skip.

use std::io::Write;
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::backend::Backend;
use scenerank::backend::cpu::Cpu;
use scenerank::backend::cuda::Cuda;
use scenerank::backend::cuda::launchers;
use scenerank::backend::cuda::launchers::linear::StoredFormat;
use scenerank::backend::pass::Update;
use scenerank::backend::reference::Reference;
use scenerank::network::parameters::{Layout, Parameters, Storage};
use scenerank::optimizer::schedule::{Course, RATE_STEPS, Schedule};
use scenerank::optimizer::{Adam, Moments, Part};
use serde_json::{Value, json};

use crate::support::SMALL;

const STEPS: u64 = 12;

/// Trains tensors by given gradients, once for each line. Prints the learning rate and the norm of each step, and all
/// parameters.
const PEER: &str = r#"
import json, sys, torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR

def train(of):
    flat = torch.tensor(of["values"], dtype=torch.float64)
    tensors = [torch.nn.Parameter(flat[a:b].clone()) for a, b, _ in of["tensors"]]
    of_group = lambda decays: [p for p, (_, _, d) in zip(tensors, of["tensors"]) if d == decays]
    groups = [{"params": of_group(True), "weight_decay": of["decay"]},
              {"params": of_group(False), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=of["rate"], betas=(0.9, 0.999), eps=1e-8)
    warmup, steps, last = of["warmup"], of["steps"], of["last"]
    if of["course"] == "constant":
        scheduler = ConstantLR(optimizer, factor=1.0)
    elif of["course"] == "linear":
        scheduler = LinearLR(optimizer, 1.0, last / of["rate"], steps - warmup)
    else:
        scheduler = CosineAnnealingLR(optimizer, steps - warmup, last)
    if warmup > 0:
        rising = LinearLR(optimizer, 1.0 / warmup, 1.0, warmup - 1)
        scheduler = SequentialLR(optimizer, [rising, scheduler], [warmup])
    rates, norms = [], []
    for gradient in of["gradients"]:
        gradient = torch.tensor(gradient, dtype=torch.float64)
        for p, (a, b, _) in zip(tensors, of["tensors"]):
            p.grad = gradient[a:b].clone()
        limit = of["clip"] if of["clip"] is not None else float("inf")
        norms.append(torch.nn.utils.clip_grad_norm_(tensors, limit).item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return {"rates": rates, "norms": norms, "values": torch.cat([p.detach() for p in tensors]).tolist()}

for line in sys.stdin.readlines():
    print(json.dumps(train(json.loads(line))))
"#;

/// A training by given gradients.
struct Case {
    layout: Layout,
    adam: Adam,
    values: Vec<f32>,
    gradients: Vec<Vec<f32>>,
}

impl Case {
    fn new(adam: Adam) -> Self {
        let layout = Layout::new(SMALL);
        let mut rng = StdRng::seed_from_u64(1);
        let mut draw = |scale: f32| -> Vec<f32> {
            (0..layout.parameter_count).map(|_| scale * rng.random_range(-1.0f32..1.0)).collect()
        };
        let values = draw(1.0);
        // Long and short ones in turn, so that some are clipped.
        let gradients = (0..STEPS).map(|step| draw([0.3, 0.003, 0.05][step as usize % 3])).collect();
        Case { layout, adam, values, gradients }
    }

    /// The training as a line for the peer.
    fn line(&self) -> String {
        let Adam { learning_rate, weight_decay, clip_norm, schedule, .. } = self.adam;
        let mut tensors: Vec<_> =
            self.layout.tensors().into_iter().filter(|t| t.storage == Storage::Parameters).collect();
        tensors.sort_by_key(|tensor| tensor.range.start);
        let decays = |name: &str| name.ends_with("linear.weight") || name.ends_with("embedding.weight");
        let tensors: Vec<_> = tensors.iter().map(|t| (t.range.start, t.range.end, decays(&t.name))).collect();
        let input = json!({
            "tensors": tensors, "values": self.values, "gradients": self.gradients,
            "rate": learning_rate, "decay": weight_decay, "clip": clip_norm,
            "course": schedule.course, "warmup": schedule.warmup, "steps": schedule.steps, "last": schedule.last,
        });
        format!("{input}\n")
    }

    /// Parameters after all steps of a backend, each in two parts, and the norms of the gradients.
    fn train<B: Backend>(&self, mut backend: B) -> (Vec<f32>, Vec<f64>) {
        let Case { layout, adam, values, gradients } = self;
        let count = values.len();
        let array = || backend.allocate(count).unwrap();
        let [values_on, first, second, mut gradient] = [array(), array(), array(), array()];
        let (running_mean, running_var) = (backend.allocate(1).unwrap(), backend.allocate(1).unwrap());
        let mut parameters =
            Parameters { layout: layout.clone(), values: values_on, running_mean, running_var };
        backend.upload(values, &mut parameters.values, 0).unwrap();
        let mut moments = Moments { first, second };
        let mut steps = backend.steps(layout).unwrap();
        let rates: Vec<f64> = (1..=RATE_STEPS as u64).map(|t| adam.rate_at(t)).collect();
        backend.load_rates(&mut steps, &rates).unwrap();
        let mut norms = Vec::new();
        for of_step in gradients {
            backend.upload(of_step, &mut gradient, 0).unwrap();
            backend.gradient_norm(&gradient, count, &mut steps).unwrap();
            norms.push(backend.last_gradient_norm(&steps).unwrap());
            for (range, ends_step) in [(count / 3..count, false), (0..count / 3, true)] {
                let part = Part { parameters: range, ends_step };
                let (parameters, moments, steps) = (&mut parameters, &mut moments, &mut steps);
                let gradients = &gradient;
                backend.adam_step(Update { adam, parameters, gradients, moments, steps, part }).unwrap();
            }
        }
        (backend.download(&parameters.values, 0..count).unwrap(), norms)
    }

    fn check(&self, backend: &str, (values, norms): (Vec<f32>, Vec<f64>), peer: &Value, limit: f64) {
        let numbers = |name: &str| peer[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap());
        for (step, (got, want)) in norms.iter().zip(numbers("norms")).enumerate() {
            assert!((got / want - 1.0).abs() < 1e-12, "{backend}: norm of step {step}: {got}, not {want}");
        }
        let errors = values.iter().zip(numbers("values")).map(|(&got, want)| (f64::from(got) - want).abs());
        let worst = errors.fold(0.0, f64::max);
        println!("{backend}: {worst:e}");
        assert!(worst <= limit, "{backend}: a parameter is {worst:e} from PyTorch's: {:?}", self.adam);
    }
}

/// What PyTorch makes of the cases.
fn peers(python: &str, cases: &[Case]) -> Vec<Value> {
    let mut child = Command::new(python)
        .args(["-W", "ignore", "-c", PEER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("SCENERANK_PEER_PYTHON runs");
    let lines: String = cases.iter().map(Case::line).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the peer failed");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn steered_steps_are_those_of_pytorch() {
    let Ok(python) = std::env::var("SCENERANK_PEER_PYTHON") else {
        println!(
            "skipped: steered_steps_are_those_of_pytorch: SCENERANK_PEER_PYTHON names no Python with PyTorch"
        );
        return;
    };
    let schedule = |course, warmup, last| Schedule { course, warmup, steps: STEPS, last };
    let cases = [
        (0.0, None, Schedule::default()),
        (0.3, None, schedule(Course::Constant, 4, 0.0)),
        (0.0, Some(1.0), schedule(Course::Cosine, 0, 0.0)),
        (0.3, Some(1.0), schedule(Course::Cosine, 3, 1e-3)),
        (0.1, Some(1e3), schedule(Course::Linear, 5, 2e-3)),
    ];
    let cases = cases.map(|(weight_decay, clip_norm, schedule)| {
        Case::new(Adam { weight_decay, clip_norm, schedule, ..Adam::new(0.02) })
    });
    let peers = peers(&python, &cases);
    assert_eq!(peers.len(), cases.len());
    for (case, peer) in cases.iter().zip(&peers) {
        for (t, want) in (1..).zip(peer["rates"].as_array().unwrap()) {
            let (got, want) = (case.adam.rate_at(t), want.as_f64().unwrap());
            assert!((got - want).abs() < 1e-15, "rate of step {t}: {got}, not {want}: {:?}", case.adam);
        }
        // The reference only rounds its result to single precision.
        case.check("reference", case.train(Reference::<f64>::new()), peer, 1e-7);
        // In single precision each step rounds twice a parameter below 2, by up to 6e-8 each, and a movement of up to 0.06
        // some ten times.
        let limit = STEPS as f64 * (2.0 * 6e-8 + 0.06 * 10.0 * 6e-8);
        case.check("cpu", case.train(Cpu::new()), peer, limit);
        match launchers::emulated(None) {
            Ok(device) => {
                let backend = Cuda::new(device, StoredFormat::FP32).unwrap();
                case.check("emulated", case.train(backend), peer, limit);
            }
            Err(error) => println!("skipped: {error}"),
        }
    }
}
