//! The commands on `--device emulated`: the same results as on the CPU, but for rounding.

mod program;

use std::path::Path;

use program::{SMALL_NETWORK, run, run_json, small_data};
use scenerank::data::{Dataset, Split};
use scenerank::npy::read_npy;
use serde_json::Value;
use tempfile::TempDir;

const DEVICES: [&str; 2] = ["emulated", "cpu"];

/// One run on the emulated device, which the commands then use on both.
struct Fixture {
    folder: TempDir,
    run: String,
    dataset: Dataset,
}

impl Fixture {
    /// None, said so, where the emulator cannot be built.
    fn new() -> Option<Self> {
        if let Err(error) = scenerank::backend::cuda::device::Device::emulated(None) {
            println!("skipped: {error}");
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

    /// What a command says on both devices.
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
        // Components of unit vectors, two layers of some hundred roundings.
        assert_close("embedding", f64::from(*got), f64::from(*want), 2e-5);
    }

    let [got, want] = fixture.both("evaluate", &[]);
    for (got, want) in got["rows"].as_array().unwrap().iter().zip(want["rows"].as_array().unwrap()) {
        assert_eq!(got["name"], want["name"]);
        for over in ["per_image", "all_pairs"] {
            // A pair of cosines that agree to 1e-5 may change places: each moves tau by 4 / (n (n - 1)) of its row.
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
            // One image that changes places with another.
            assert_close(metric, number(&got[metric]), number(&want[metric]), 1.01 / test as f64);
        }
    }

    let image = fixture.dataset.image_id(0).to_string();
    for k in ["5", "1000"] {
        let [got, want] = fixture.both("search", &["--image", &image, "-k", k]);
        let (got, want) = (got.as_array().unwrap(), want.as_array().unwrap());
        assert_eq!(got.len(), want.len());
        for (at, (found, wanted)) in got.iter().zip(want).enumerate() {
            assert_close("cosine", number(&found["cosine"]), number(&wanted["cosine"]), 1e-5);
            // The same image, or one whose cosine is as good as the same.
            let same = |other: &&Value| other["image_id"] == found["image_id"];
            let there = want.iter().find(same).map(|other| number(&other["cosine"]));
            let last = number(&want[want.len() - 1]["cosine"]);
            assert_close(&format!("rank {at}"), number(&found["cosine"]), there.unwrap_or(last), 1e-5);
        }
    }
    let resumed = ["--resume", "--epochs", "2", "--device", "cpu", "--out", &fixture.run];
    run([&["train", fixture.dataset.path().to_str().unwrap()], &resumed[..]].concat());
}

#[test]
fn demo_runs() {
    let Some(folder) = scenerank::backend::cuda::device::Device::emulated(None).map_or_else(
        |error| {
            println!("skipped: {error}");
            None
        },
        |_| Some(TempDir::new().unwrap()),
    ) else {
        return;
    };
    let out = folder.path().join("demo");
    let out = out.to_str().unwrap();
    let started = std::time::Instant::now();
    let results =
        run_json(["demo", "--images", "60", "--epochs", "1", "--out", out, "--device", "emulated", "--json"]);
    println!("{:?} {results}", started.elapsed());
}
