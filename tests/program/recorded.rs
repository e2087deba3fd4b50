//! What runs record about themselves, and what compares them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::program::{SMALL_NETWORK, Workplace, refuse, run, run_json};

/// Trains with the small network.
fn train(work: &Workplace, name: &str, more: &[&str]) {
    let data = work.data.display().to_string();
    let network = if more.contains(&"--resume") { &[][..] } else { &SMALL_NETWORK[..] };
    let out = work.text(name);
    run([&["train", &data, "--out", &out, "--device", "cpu"][..], network, more].concat());
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_run_records_who_trained_it_and_goes_on_counting_seconds() {
    let work = Workplace::new();
    train(&work, "run", &["--epochs", "2", "--learning-rate", "1e-3", "--clip-norm", "0.5"]);
    let record = json(&work.path("run/run.json"));
    let dataset = scenerank::data::Dataset::open(&work.data).unwrap();
    assert_eq!(record["data"]["fingerprint"], format!("{:016x}", dataset.fingerprint()));
    assert_eq!(record["data"]["train"], dataset.split(scenerank::data::Split::Train).len());
    let command = &record["commands"][0];
    assert_eq!(command["version"], env!("CARGO_PKG_VERSION"));
    assert!(command["command"].as_str().unwrap().starts_with("scenerank train "), "{command}");
    assert_eq!(command["device"], "cpu");
    assert_eq!((&command["driver"], command["exit"].as_str()), (&Value::Null, Some("finished")));
    assert!(command["start"].as_str().unwrap() <= command["end"].as_str().unwrap());

    // The options train the same run again.
    let config = work.text("run/config.toml");
    let data = work.data.display().to_string();
    run(["train", &data, "--out", &work.text("again"), "--config", &config]);
    let [first, again] = ["run", "again"].map(|name| work.last(name));
    assert_eq!(first.config, again.config);
    assert!(first.tensors == again.tensors && first.moments == again.moments);

    let seconds = |name: &str| -> Vec<f64> {
        let text = fs::read_to_string(work.path(name).join("metrics.jsonl")).unwrap();
        let of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["seconds"].as_f64().unwrap();
        text.lines().map(of).collect()
    };
    let before = *seconds("run").last().unwrap();
    train(&work, "run", &["--resume", "--epochs", "4"]);
    let all = seconds("run");
    assert!(all.windows(2).all(|pair| pair[0] <= pair[1]) && *all.last().unwrap() > before, "{all:?}");
    assert_eq!(json(&work.path("run/run.json"))["commands"].as_array().unwrap().len(), 2);
    assert!(fs::read_to_string(&config).unwrap().contains("epochs = 4"));

    // An error is recorded too.
    let out = work.text("diverged");
    let arguments = ["train", &data, "--out", &out, "--learning-rate", "1e30", "--device", "cpu"];
    refuse([&arguments[..], &SMALL_NETWORK[..]].concat(), &[" became "]);
    let exit = json(&work.path("diverged/run.json"))["commands"][0]["exit"].clone();
    assert!(exit.as_str().unwrap().contains(" became "), "{exit}");
}

#[test]
fn runs_are_compared_by_what_differs() {
    let work = Workplace::new();
    train(&work, "a", &["--epochs", "2", "--learning-rate", "1e-3"]);
    train(&work, "b", &["--epochs", "2", "--learning-rate", "3e-3", "--loss", "triplet"]);
    let [a, b] = ["a", "b"].map(|name| work.text(name));
    let evaluation = run_json(["evaluate", &a, "--json"]);
    let retrieval = run_json(["retrieve", &a, "--noise", "3", "--json"]);
    // Results for another split or checkpoint do not replace those of the best one for the test images.
    run(["evaluate", &a, "--split", "validation"]);
    run(["evaluate", &work.text("a/last.safetensors")]);
    assert!(
        work.path("a/evaluation-validation.json").exists() && work.path("a/evaluation-last.json").exists()
    );
    assert_eq!(json(&work.path("a/evaluation.json")), evaluation);
    assert_eq!(json(&work.path("a/retrieval.json")), retrieval);

    let out = work.text("comparison");
    let compared = run_json(["compare", &a, &b, "--out", &out, "--json"]);
    assert_eq!(compared["runs"], serde_json::json!(["a", "b"]));
    let differences = serde_json::json!([
        { "name": "loss", "values": ["ranking", "triplet"] },
        { "name": "learning-rate", "values": [1e-3, 3e-3] },
    ]);
    assert_eq!(compared["differences"], differences);
    let result = |name: &str| {
        let found = compared["results"].as_array().unwrap().iter().find(|of| of["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {compared}"))["values"].clone()
    };
    assert_eq!(result("epochs"), serde_json::json!([2.0, 2.0]));
    assert_eq!(
        result("test tau, row"),
        serde_json::json!([evaluation["rows"][0]["per_image"]["kendall"], null])
    );
    assert_eq!(result("MRR"), serde_json::json!([retrieval["levels"][0]["mrr"], null]));
    let best = work.last("b").progress.best.unwrap();
    assert_eq!(result("validation tau")[1], best.1);

    assert_eq!(json(&work.path("comparison/compare.json")), compared);
    let page = fs::read_to_string(work.path("comparison/compare.html")).unwrap();
    for part in ["<th scope=\"col\">learning-rate</th>", "<td>triplet</td>", "<svg", "Validation, row-wise"] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    assert!(fs::read_to_string(work.path("comparison/compare.svg")).unwrap().starts_with("<svg"));
    let text = run(["compare", &a, &b]);
    assert!(
        text.contains("learning-rate") && text.contains("triplet") && !text.contains("hidden-width"),
        "{text}"
    );

    refuse(["compare", &work.text("none")], &["none: run folder: holds no checkpoint"]);
}

#[test]
fn a_grid_trains_all_combinations_and_compares_them() {
    let work = Workplace::new();
    let grid = work.text("grid.toml");
    let text = "learning-rate = [1e-3, 3e-3]\nschedule = [\"constant\", \"cosine\"]\nepochs = 1\nlayers = 1\nstate-width = 8\nhidden-width = 8\n";
    fs::write(&grid, text).unwrap();
    let (data, out) = (work.data.display().to_string(), work.text("grid"));
    let arguments = ["reproduce", &data, "--grid", &grid, "--out", &out, "--device", "cpu", "--jobs", "2"];
    let assert = crate::program::scenerank().args(arguments).arg("--json").assert().success();
    let result: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let log = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(log.contains("3 of 4 runs, about ") && log.contains("4 of 4 runs"), "{log}");
    assert_eq!(result["missing"], serde_json::json!([]));
    let comparison = &result["comparison"];
    let named = "learning-rate=0.003,schedule=cosine,seed=1";
    assert_eq!(comparison["runs"][3], named);
    assert_eq!(comparison["differences"].as_array().unwrap().len(), 2);
    // Measured on the test images.
    let mrr = comparison["results"].as_array().unwrap().iter().find(|of| of["name"] == "MRR").unwrap();
    assert!(
        mrr["values"].as_array().unwrap().iter().all(|value| value.as_f64().is_some_and(|mrr| mrr > 0.0))
    );
    assert!(work.path("grid/compare.html").exists());
    assert!(work.path("grid/runs").join(named).join("result.json").exists());
    // Finished runs are skipped.
    let trained = fs::metadata(work.path("grid/runs").join(named).join("last.safetensors"))
        .unwrap()
        .modified()
        .unwrap();
    run(arguments);
    assert_eq!(
        fs::metadata(work.path("grid/runs").join(named).join("last.safetensors"))
            .unwrap()
            .modified()
            .unwrap(),
        trained
    );
    fs::write(&grid, "learning-rat = [1]\n").unwrap();
    refuse(arguments, &["grid.toml: learning-rat: unknown field"]);
}

/// Serves a folder and prints what TensorBoard's own pages would get.
const TENSORBOARD: &str = r#"
import json, os, sys, time, urllib.parse, urllib.request
from tensorboard import default, program
board = program.TensorBoard(default.get_plugins())
board.configure(argv=["tensorboard", "--logdir", sys.argv[1], "--port", "0", "--load_fast", "false"])
url = board.launch()
def get(path, body=None, **query):
    path = url + "data/plugin/" + path + "?" + urllib.parse.urlencode(query)
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(path, data=body and json.dumps(body).encode(), headers=kind)
    return urllib.request.urlopen(request).read()
for _ in range(300):
    tags = json.loads(get("scalars/tags"))
    if any("loss/epoch" in of for of in tags.values()):
        break
    time.sleep(0.1)
run = next(iter(tags))
statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
request = {"experimentName": "", "allowedStatuses": statuses, "colParams": [], "startIndex": 0, "sliceSize": 10}
groups = json.loads(get("hparams/session_groups", request))
projected = json.loads(get("projector/runs"))[0]
sets = {}
for of in json.loads(get("projector/info", run=projected))["embeddings"]:
    where = {"run": projected, "name": of["tensorName"]}
    names = get("projector/metadata", **where).decode().splitlines()
    sets[of["tensorName"]] = {"bytes": len(get("projector/tensor", **where)), "names": names}
scalars = {tag: json.loads(get("scalars/scalars", run=run, tag=tag)) for tag in tags[run]}
json.dump({"scalars": scalars, "groups": groups["sessionGroups"], "projector": sets}, sys.stdout)
sys.stdout.flush()
os._exit(0)
"#;

/// With the real TensorBoard: `SCENERANK_TENSORBOARD_PYTHON` names a Python that has it.
#[test]
fn tensorboard_shows_the_run() {
    let Ok(python) = std::env::var("SCENERANK_TENSORBOARD_PYTHON") else {
        println!(
            "skipped: tensorboard_shows_the_run: SCENERANK_TENSORBOARD_PYTHON names no Python with tensorboard"
        );
        return;
    };
    let work = Workplace::new();
    train(&work, "run", &["--epochs", "2", "--learning-rate", "1e-3", "--validate-every", "5"]);
    let output =
        Command::new(python).args(["-W", "ignore", "-c", TENSORBOARD, &work.text("run")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let points =
        |tag: &str| shown["scalars"][tag].as_array().unwrap_or_else(|| panic!("{tag}: {shown}")).len();
    assert_eq!((points("loss/step"), points("learning_rate"), points("gradient_norm")), (2, 2, 2));
    assert_eq!((points("loss/epoch"), points("graphs_per_second")), (2, 2));
    // After steps 5, 10, 13, 15, 20, 25 and 26.
    assert_eq!(points("validation/kendall"), 7);
    let group = &shown["groups"][0];
    assert_eq!(group["hparams"]["learning-rate"], 1e-3);
    assert_eq!(group["hparams"]["loss"], "ranking");
    assert_eq!(group["hparams"]["batch-norm"], true);
    assert_eq!(group["sessions"][0]["status"], "STATUS_SUCCESS");
    let mut metrics = group["metricValues"].as_array().unwrap().iter();
    assert!(metrics.any(|of| of["name"]["tag"] == "validation/kendall"), "{group}");
    let dataset = scenerank::data::Dataset::open(&work.data).unwrap();
    let objects = &shown["projector"]["objects"];
    assert_eq!(objects["bytes"], 4 * 12 * dataset.object_count());
    assert_eq!(objects["names"][0], dataset.object_name(0));
    let images = dataset.split(scenerank::data::Split::Validation);
    let validated = &shown["projector"]["validation-images"];
    assert_eq!(validated["bytes"], 4 * 12 * images.len());
    assert!(validated["names"][0].as_str().unwrap().starts_with(&dataset.image_id(images.start).to_string()));
}
