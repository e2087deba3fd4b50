//! The commands from end to end: their files, their output, and their errors for bad input.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{refuse, run, run_json, scenerank};
use scenerank::data::{Dataset, Split};
use scenerank::files::npy::{read_npy, write_npy};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Output of `demo` for a small collection.
struct Demo {
    folder: TempDir,
    results: Value,
    run: String,
}

impl Demo {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let out = folder.path().join("demo");
        let out = out.to_str().unwrap();
        let results = run_json(["demo", "--images", "300", "--epochs", "1", "--out", out, "--json"]);
        Demo { results, run: format!("{out}/run"), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.text(name)
    }

    fn dataset(&self) -> Dataset {
        Dataset::open(self.path("demo/data")).unwrap()
    }
}

fn names(folder: &Path) -> HashSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn demo_leaves_data_and_a_run() {
    let demo = Demo::new();
    let (raw, run) = (names(&demo.path("demo/raw")), names(&demo.path("demo/run")));
    for file in ["scene_graphs.json", "image_data.json", "captions.json", "glove.txt"] {
        assert!(raw.contains(file), "{file} is not in {raw:?}");
    }
    for file in [
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "training.svg",
        "embeddings.npy",
        "recall.csv",
        "recall.svg",
        "noise.csv",
        "noise.svg",
    ] {
        assert!(run.contains(file), "{file} is not in {run:?}");
    }
    assert!(run.iter().any(|name| name.contains("tfevents")), "{run:?}");
    let everything = raw.union(&run).chain(&names(&demo.path("demo"))).cloned().collect::<Vec<_>>();
    assert!(everything.iter().all(|name| !name.starts_with(".scenerank")), "{everything:?}");

    let dataset = demo.dataset();
    let embeddings = read_npy(&demo.path("demo/run/embeddings.npy")).unwrap();
    assert_eq!(embeddings.rows, dataset.image_count());
    let test = dataset.split(Split::Test).len();
    assert_eq!(demo.results["evaluate"]["images"], test);
    let names: Vec<&Value> =
        demo.results["evaluate"]["rows"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["ranking + probability", "untrained network", "normal features"]);
    assert_eq!(demo.results["retrieve"]["levels"].as_array().unwrap().len(), 20);

    // A second demo would mix with the first.
    let out = demo.text("demo");
    refuse(["demo", "--out", &out], &["demo: folder: already holds a demo", "--out"]);
    // The same names in the tables of the separate commands.
    let table = crate::program::run(["evaluate", &demo.run]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with(&format!("{test} test images")) && lines[0].ends_with(" r"), "{table}");
    let tau = number(&demo.results["evaluate"]["rows"][0]["per_image"]["kendall"]);
    let row = lines.iter().find(|line| line.starts_with("ranking + probability ")).unwrap();
    assert!(row.contains(&format!(" {tau:.3} ")), "{table}");
    let table = crate::program::run(["retrieve", &demo.run]);
    assert!(table.lines().any(|line| line.starts_with("12 ")), "{table}");
}

#[test]
fn evaluate_and_retrieve_agree_with_the_files_they_write() {
    let demo = Demo::new();
    let [embeddings, captions, queries] =
        ["embeddings.npy", "captions.npy", "queries.npy"].map(|name| demo.text(name));
    let ids = demo.text("ids.txt");
    let words = ["--split", "test", "--ids", &ids, "--caption-vectors", &captions, "--json"];
    let written = run_json([&["embed", &demo.run, "--out", &embeddings], &words[..]].concat());
    let dataset = demo.dataset();
    let test = dataset.split(Split::Test);
    assert_eq!(written, json!({ "out": embeddings, "images": test.len(), "width": 128 }));
    let want: Vec<String> = test.clone().map(|image| dataset.image_id(image).to_string()).collect();
    assert_eq!(fs::read_to_string(&ids).unwrap().lines().collect::<Vec<_>>(), want);
    let matrix = read_npy(Path::new(&embeddings)).unwrap();
    for row in matrix.values.chunks(matrix.width) {
        let length: f32 = row.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
    let vectors = read_npy(Path::new(&captions)).unwrap();
    let width = dataset.word_width();
    assert_eq!(vectors.values, dataset.caption_vectors()[test.start * width..test.end * width]);

    let out = demo.text("curves");
    let retrieval = run_json(
        [&["retrieve", &demo.run, "--sweep", "3"][..], &["--queries-out", &queries, "--out", &out, "--json"]]
            .concat(),
    );
    let levels = retrieval["levels"].as_array().unwrap();
    let removed: Vec<&Value> = levels.iter().map(|level| &level["removed"]).collect();
    assert_eq!(removed, [1, 2, 3, 12]);
    assert_eq!(names(&demo.path("curves")).len(), 4);
    let noise = fs::read_to_string(demo.path("curves/noise.csv")).unwrap();
    assert_eq!(noise.lines().count(), 4, "{noise}");
    assert!(noise.starts_with("model,removed,mrr,recall_at_1,recall_at_5\nmodel,1,"), "{noise}");

    // The model's own embeddings from a file give the model's row, for the split as for all images.
    let all = demo.text("all.npy");
    run(["embed", &demo.run, "--out", &all]);
    let evaluation = run_json(["evaluate", &demo.run, "--embeddings", &embeddings, "--json"]);
    let of_all = run_json(["evaluate", &demo.run, "--embeddings", &all, "--json"]);
    let agreement = |evaluation: &Value, row: usize| {
        let row = &evaluation["rows"][row];
        (row["per_image"].clone(), row["all_pairs"].clone())
    };
    assert_eq!(evaluation["rows"][1]["name"], embeddings);
    assert_eq!(agreement(&evaluation, 0), agreement(&evaluation, 1));
    let (file, model) = (agreement(&of_all, 1), agreement(&of_all, 0));
    for kind in ["kendall", "spearman", "pearson"] {
        // Graphs are embedded in other batches, so the last bits may differ.
        assert!((number(&file.0[kind]) - number(&model.0[kind])).abs() < 1e-2, "{of_all}");
    }
    let few = demo.text("few.npy");
    write_npy(Path::new(&few), &[0.5; 10], 2).unwrap();
    let parts = ["few.npy: shape: 5 rows, where the split has", "scenerank embed --ids"];
    refuse(["evaluate", &demo.run, "--embeddings", &few], &parts);
    let none = demo.text("none.npy");
    refuse(["evaluate", &demo.run, "--embeddings", &none], &["none.npy: cannot read", "check the path"]);

    compare_with_peer(&evaluation, &levels[3], &[&embeddings, &captions, &queries]);
}

/// Compares with SciPy, on the files written by the commands.
fn compare_with_peer(evaluation: &Value, retrieval: &Value, files: &[&str; 3]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/peer/metrics.py");
    let Some(python) = std::env::var_os("SCENERANK_PEER_PYTHON").filter(|_| script.exists()) else {
        println!("skipped: SCENERANK_PEER_PYTHON names no Python with SciPy, or ../shared/peer is not there");
        return;
    };
    let options = ["--embeddings", files[0], "--captions", files[1], "--queries", files[2]];
    let output = Command::new(python).arg(script).args(options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let peer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let compare = |name: &str, got: &Value, want: &Value| {
        let agrees = (number(got) - number(want)).abs() < 1e-6;
        assert!(agrees, "{name}: got {got}, want {want}");
    };
    for over in ["per_image", "all_pairs"] {
        for kind in ["kendall", "spearman", "pearson"] {
            let got = &evaluation["rows"][0][over][kind];
            compare(&format!("{over} {kind}"), got, &peer["correlations"][over][kind]);
        }
    }
    for (ours, theirs) in [("mrr", "mrr"), ("recall_at_1", "r@1"), ("recall_at_5", "r@5")] {
        compare(ours, &retrieval[ours], &peer["retrieval"]["worst"][theirs]);
    }
}

#[test]
fn search_finds_images_by_image_and_by_graph() {
    let demo = Demo::new();
    let dataset = demo.dataset();
    let query = dataset.image_id(0).to_string();
    let found = run_json(["search", &demo.run, "--image", &query, "-k", "5", "--json"]);
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|image| image["image_id"] != dataset.image_id(0)), "it found itself");
    let cosines: Vec<f64> = found.iter().map(|image| number(&image["cosine"])).collect();
    assert!(cosines.is_sorted_by(|a, b| a >= b) && cosines[0] <= 1.0 + 1e-6, "{cosines:?}");
    for image in found {
        let index = dataset.find_image(image["image_id"].as_u64().unwrap()).unwrap();
        let similarity = f64::from(dataset.similarity().get(0, index));
        assert!((number(&image["caption_similarity"]) - similarity).abs() < 1e-6);
        assert!(!image["captions"].as_array().unwrap().is_empty());
    }
    // Existing embeddings give the same answer; a k beyond the number of images returns all of them.
    let all = demo.text("all.npy");
    run(["embed", &demo.run, "--out", &all]);
    let again = run_json(["search", &demo.run, "--image", &query, "-k", "5", "--embeddings", &all, "--json"]);
    assert_eq!(again[0]["image_id"], found[0]["image_id"]);
    let everything = run_json(["search", &demo.run, "--image", &query, "-k", "4294967295", "--json"]);
    assert_eq!(everything.as_array().unwrap().len(), dataset.image_count() - 1);
    let parts = ["all.npy: origin: is of other images than those of --split"];
    refuse(["search", &demo.run, "--image", &query, "--embeddings", &all, "--split", "test"], &parts);

    let (object, predicate) = (dataset.object_name(0), dataset.predicate_name(0));
    let statements =
        json!([[object, predicate, object], [format!("{object}#2"), predicate, object], [object]]);
    let text = statements.to_string().replace("],", "],\n");
    assert_eq!(text.lines().count(), 3);
    let graph = demo.write("query.json", &text);
    let found = run_json(["search", &demo.run, "--graph", &graph, "-k", "3", "--split", "test", "--json"]);
    assert_eq!(found.as_array().unwrap().len(), 3);
    assert!(found[0]["caption_similarity"].is_null());
    let printed = run(["search", &demo.run, "--graph", &graph, "-k", "2", "--split", "test"]);
    assert!(printed.starts_with("1. image ") && printed.contains("\n2. image "), "{printed}");

    let misspelt = format!("{object}x");
    let search = |text: &str, parts: &[&str]| {
        let graph = demo.write("wrong.json", text);
        refuse(["search", &demo.run, "--graph", &graph], &[&["wrong.json: "], parts].concat());
    };
    let suggestion = format!("such as {object}");
    let unknown = |kind: &str, name: &str| format!("the data has no {kind} {name:?}");
    search(
        &json!([[object], [misspelt, predicate, object]]).to_string(),
        &["statement 2", &unknown("object", &misspelt), &suggestion],
    );
    search(
        &json!([[object, "onn", object]]).to_string(),
        &["statement 1", &unknown("predicate", "onn"), "such as on"],
    );
    // All misspelt names at once, each once.
    let all = json!([[object, "onn", misspelt], [format!("{object}yy")], ["onn", "onn", misspelt]]);
    let parts = [
        "statement 1: the data has no ",
        &format!("object {misspelt:?} ({object} or "),
        "predicate \"onn\" (on or ",
        &format!("object {:?} ({object} or ", format!("{object}yy")),
        "in statement 3?)",
    ];
    search(&all.to_string(), &parts);
    // The graph itself, and from standard input.
    let inline = json!([[object, predicate, object]]).to_string();
    let arguments = ["search", &demo.run, "-k", "3", "--json", "--graph"];
    let of_text = run_json([&arguments[..], &[&inline]].concat());
    let file = demo.write("inline.json", &inline);
    assert_eq!(of_text, run_json([&arguments[..], &[&file]].concat()));
    let piped = scenerank().args(arguments).arg("-").write_stdin(inline).assert().success();
    assert_eq!(of_text, serde_json::from_slice::<Value>(&piped.get_output().stdout).unwrap());
    refuse([&arguments[..], &["[[1]]"]].concat(), &["--graph: line 1, column "]);
    search("[[\"man\",\n \"on\" \"hat\"]]", &["line 2, column 7", "write a list such as"]);
    search("[[\"man\", 3]]", &["line 1, column ", "invalid type"]);
    search("[[\"man\"", &["line 1, column 7", "EOF"]);
    search("{}", &["line 1, column ", "expected a sequence"]);
    search("[]", &["list: is empty"]);
    search("[[]]", &["statement 1: has 0 names"]);
    search("[[\"man\", \"on\"]]", &["statement 1: has 2 names"]);
    search("", &["line 1, column 0", "EOF"]);
    let none = demo.text("none.json");
    refuse(["search", &demo.run, "--graph", &none], &["none.json: cannot read", "check the path"]);
    refuse(["search", &demo.run, "--image", "4711"], &["--image: ", "there is no image 4711"]);
    refuse(["search", &demo.run], &["required arguments were not provided"]);
    refuse(["search", &demo.run, "--image", &query, "--graph", &graph], &["cannot be used with"]);
}

#[test]
fn inspect_shows_what_the_data_holds() {
    let demo = Demo::new();
    let (data, dataset) = (demo.text("demo/data"), demo.dataset());
    let facts = run_json(["inspect", &data, "--json", "--vocabulary"]);
    assert_eq!(facts["fingerprint"], format!("{:016x}", dataset.fingerprint()));
    assert_eq!(facts["vocabulary"]["objects"].as_array().unwrap().len(), dataset.object_count());
    let text = run(["inspect", &data]);
    assert!(text.contains("object types") && text.contains("fingerprint"), "{text}");
    let image = dataset.image_id(3).to_string();
    let text = run(["inspect", &data, "--image", &image]);
    assert!(dataset.captions(3).all(|caption| text.contains(caption.trim())), "{text}");
    let figures = demo.text("figures");
    run(["inspect", &data, "--plots", &figures]);
    assert!(names(Path::new(&figures)).contains("similarity_curves.svg"));
    let captions = demo.text("captions.jsonl");
    run(["inspect", &data, "--captions", &captions]);
    let lines = fs::read_to_string(&captions).unwrap();
    let images: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(images.len(), dataset.image_count());
    for (image, line) in images.iter().enumerate() {
        assert_eq!(line["image_id"], dataset.image_id(image));
        assert_eq!(line["captions"], json!(dataset.captions(image).collect::<Vec<_>>()));
    }
}

#[test]
fn numbers_out_of_range() {
    let demo = Demo::new();
    let image = demo.dataset().image_id(0).to_string();
    let out = demo.text("new");
    refuse(["search", &demo.run, "--image", &image, "-k", "0"], &["-k", "0"]);
    refuse(["search", &demo.run, "--image", &image, "-k", "-1"], &["-1"]);
    refuse(["retrieve", &demo.run, "--sweep", "0"], &["--sweep", "1..=1000"]);
    refuse(["retrieve", &demo.run, "--sweep", "18446744073709551615"], &["--sweep"]);
    refuse(["synth", &out, "--images", "0"], &["--images: 0 images cannot be made"]);
    refuse(["demo", "--out", &out, "--images", "0"], &["--images: 0 images cannot be made"]);
    refuse(["demo", "--out", &out, "--images", "5"], &["scene_graphs.json: filter: no image is left"]);
    refuse(["synth", &out, "--word-width", "0"], &["--word-width: "]);
    // However many edges are removed, one remains.
    let curves = demo.text("curves");
    let most = usize::MAX.to_string();
    let arguments = ["retrieve", &demo.run, "--out", &curves, "--json", "--noise"];
    let [all, many] = [&most, "1000"].map(|noise| run_json([&arguments[..], &[noise]].concat()));
    assert_eq!(all["levels"][0]["mrr"], many["levels"][0]["mrr"]);
}

#[test]
fn every_command_has_examples() {
    /// The narrowest common terminal; a wider example would be wrapped, and could not be pasted.
    const TERMINAL_WIDTH: usize = 80;
    let help = run(["--help"]);
    let commands = help.split_once("Commands:\n").unwrap().1.lines().take_while(|line| !line.is_empty());
    // Deeper lines continue a description.
    let commands = commands.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() >= 11, "{help}");
    for command in commands.into_iter().filter(|&command| command != "help") {
        let help = run([command, "--help"]);
        let example = format!("\n  scenerank {command}");
        assert!(help.contains("Example") && help.contains(&example), "{help}");
        let examples = help.split_once("Example").unwrap().1;
        for line in examples.lines().take_while(|line| !line.is_empty()) {
            assert!(line.chars().count() < TERMINAL_WIDTH, "{command}: {line}");
        }
    }
    let script = run(["completions", "bash"]);
    assert!(script.contains("complete -F _scenerank") && script.contains("--similarity"), "{script}");
    refuse(["completions", "dos"], &["'dos'"]);
    refuse(["evaluate", "runs/paper", "--jsn"], &["--jsn"]);
}

#[test]
fn help_of_train_groups_its_options() {
    let help = run(["train", "--help"]);
    let places = ["\nOptimization:\n", "\nModel:\n", "\nComputation:\n", "\nData:\n", "\nOutput:\n"]
        .map(|heading| help.find(heading).unwrap_or_else(|| panic!("no {heading:?} in {help}")));
    assert!(places.is_sorted(), "{help}");
    let [optimization, model, ..] = places;
    assert!((optimization..model).contains(&help.find("--loss").unwrap()), "{help}");
    assert!(help.find("--layers").unwrap() > model, "{help}");
}

#[test]
fn quiet_prints_results_only() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("demo").display().to_string();
    let demo = ["demo", "--out", &out, "--images", "300", "--epochs", "1", "--quiet"];
    let output = crate::program::scenerank().args(demo).output().unwrap();
    assert!(output.status.success() && !output.stdout.is_empty());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    refuse(["inspect", "vg.data", "-q", "-v"], &["'--quiet'", "'--verbose...'"]);
}

/// A reader that closes the pipe early, as `head` does, ends the program without an error.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_panic() {
    use std::process::Stdio;
    let demo = Demo::new();
    let data = demo.text("demo/data");
    for arguments in [&["inspect", &data, "--json"][..], &["completions", "bash"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let program = Command::new(assert_cmd::cargo::cargo_bin("scenerank"))
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&program.stderr), "", "{arguments:?}");
        assert_eq!(program.status.code(), Some(0), "{arguments:?}");
    }
    // A full disk behind standard output is an error.
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        let mut program = Command::new(assert_cmd::cargo::cargo_bin("scenerank"));
        let output = program.args(["inspect", &data]).stdout(full).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.starts_with("error: standard output: cannot write: "), "{text}");
        assert_eq!(output.status.code(), Some(2));
    }
}
