//! Embeddings in files: whose they are is known and checked, and rows from outside are compared by cosine unless asked otherwise.

use std::fs;
use std::path::Path;

use crate::program::{SMALL_NETWORK, Workplace, refuse, run, run_json};
use scenerank::data::{Dataset, Split};
use scenerank::files::npy::{read_npy, write_npy};
use scenerank::files::origin::Origin;
use serde_json::Value;

struct Runs {
    work: Workplace,
    dataset: Dataset,
    /// Embeddings of all images by the run `one`.
    all: String,
}

impl Runs {
    /// Runs `one` and `two` with different seeds.
    fn new() -> Self {
        let work = Workplace::new();
        let data = work.data.display().to_string();
        for (name, seed) in [("one", "1"), ("two", "2")] {
            let out = work.text(name);
            let train = ["train", &data, "--out", &out, "--epochs", "1", "--seed", seed, "--device", "cpu"];
            run([&train[..], &SMALL_NETWORK].concat());
        }
        let all = work.text("all.npy");
        run(["embed", &work.text("one"), "--out", &all, "--device", "cpu"]);
        Runs { dataset: Dataset::open(&work.data).unwrap(), all, work }
    }

    fn search(&self, name: &str, more: &[&str]) -> Vec<String> {
        let image = self.dataset.image_id(0).to_string();
        let start = [
            "search",
            &self.work.text(name),
            "--image",
            &image,
            "-k",
            "5",
            "--device",
            "cpu",
            "--embeddings",
        ];
        start.iter().chain(more).map(ToString::to_string).collect()
    }
}

fn scores(found: &Value, name: &str) -> Vec<(u64, f64)> {
    let images = found.as_array().unwrap();
    images.iter().map(|image| (image["image_id"].as_u64().unwrap(), image[name].as_f64().unwrap())).collect()
}

#[test]
fn embeddings_of_another_model_are_refused() {
    let runs = Runs::new();
    let all = runs.all.as_str();
    // The file knows its own images.
    let found = run_json(runs.search("one", &[all, "--json"]));
    let parts = ["all.npy: origin: is of another model", "--any-origin"];
    refuse(runs.search("two", &[all]), &parts);
    refuse(
        runs.search("one", &[all, "--checkpoint", "last", "--split", "test"]),
        &["all.npy: origin: is of other images"],
    );
    let test = runs.work.text("test.npy");
    run(["embed", &runs.work.text("one"), "--out", &test, "--split", "test", "--device", "cpu"]);
    let of_test = run_json(runs.search("one", &[&test, "--json"]));
    let ids: Vec<u64> = runs.dataset.split(Split::Test).map(|image| runs.dataset.image_id(image)).collect();
    assert!(scores(&of_test, "cosine").iter().all(|(id, _)| ids.contains(id)));
    refuse(runs.search("one", &[&test, "--split", "all"]), &["test.npy: origin: is of other images"]);
    // Rows of the same images in another order.
    let mut lines: Vec<String> =
        (0..runs.dataset.image_count()).map(|image| runs.dataset.image_id(image).to_string()).collect();
    lines.swap(0, 1);
    fs::write(runs.work.path("ids.txt"), lines.join("\n")).unwrap();
    refuse(
        runs.search("one", &[all, "--ids", &runs.work.text("ids.txt")]),
        &["all.npy: origin: is of other images"],
    );

    // A file without a description.
    let stray = runs.work.text("stray.npy");
    fs::copy(all, &stray).unwrap();
    let parts = ["stray.npy: origin: ", "stray.npy.json is missing", "--any-origin"];
    refuse(runs.search("one", &[&stray]), &parts);
    assert_eq!(run_json(runs.search("one", &[&stray, "--any-origin", "--json"])), found);

    // A description of another file, or a damaged one.
    let beside = Origin::beside(Path::new(all));
    let mut bytes = fs::read(all).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(all, &bytes).unwrap();
    let parts = ["all.npy: content: differs from the checksum in ", "all.npy.json", "write both files again"];
    refuse(runs.search("one", &[all]), &parts);
    fs::write(beside, "{}").unwrap();
    refuse(runs.search("one", &[all]), &["all.npy.json: line 1, column 2: not a description of embeddings"]);
}

#[test]
fn embeddings_of_other_data_are_refused() {
    let runs = Runs::new();
    let path = Path::new(&runs.all);
    let mut origin = Origin::read_beside(path).unwrap().unwrap();
    origin.data = "0123456789abcdef".into();
    origin.write_beside(path).unwrap();
    refuse(runs.search("one", &[&runs.all]), &["all.npy: origin: is of other data"]);
}

#[test]
fn rows_from_outside_are_compared_by_cosine() {
    let runs = Runs::new();
    let matrix = read_npy(Path::new(&runs.all)).unwrap();
    // The same directions with other lengths: each row is longer than the one before.
    let mut longer = matrix.values.clone();
    let scale = |row: usize| 1.0 + row as f32;
    longer
        .chunks_mut(matrix.width)
        .enumerate()
        .for_each(|(row, values)| values.iter_mut().for_each(|v| *v *= scale(row)));
    let file = runs.work.text("longer.npy");
    write_npy(Path::new(&file), &longer, matrix.width).unwrap();

    let want = scores(&run_json(runs.search("one", &[&runs.all, "--json"])), "cosine");
    let got = scores(&run_json(runs.search("one", &[&file, "--any-origin", "--json"])), "cosine");
    for (want, got) in want.iter().zip(&got) {
        assert!(want.0 == got.0 && (want.1 - got.1).abs() < 1e-6, "{want:?} {got:?}");
    }
    let by_product = ["--any-origin", "--measure", "inner-product"];
    let found = run_json(runs.search("one", &[&[&file[..], "--json"], &by_product[..]].concat()));
    assert!(found[0].get("cosine").is_none(), "{found}");
    assert!(scores(&found, "inner_product")[0].1 > 2.0, "{found}");
    let printed = run(runs.search("one", &[&[&file[..]], &by_product[..]].concat()));
    assert!(printed.contains(": inner product ") && !printed.contains("cosine"), "{printed}");

    // evaluate: the lengths of rows say nothing, unless inner products are asked for; the output names which.
    let evaluate = |more: &[&str]| {
        let start = ["evaluate", &runs.work.text("one"), "--device", "cpu", "--embeddings"].map(String::from);
        start.into_iter().chain(more.iter().map(ToString::to_string)).collect::<Vec<_>>()
    };
    let tau = |file: &str, more: &[&str]| {
        let found = run_json(evaluate(&[&[file, "--json"], more].concat()));
        (found["rows"][1]["per_image"]["kendall"].as_f64().unwrap(), found["measure"].clone())
    };
    let (of_model, measure) = tau(&runs.all, &[]);
    assert_eq!(measure, "cosine");
    assert!((tau(&file, &[]).0 - of_model).abs() < 5e-3);
    let (by_length, measure) = tau(&file, &["--measure", "inner-product"]);
    assert_eq!(measure, "inner-product");
    assert!((by_length - of_model).abs() > 0.02, "{by_length} {of_model}");
    assert!(run(evaluate(&[&file])).contains("longer.npy: compared by the cosines of its rows"));
}

#[test]
fn features_written_for_other_images_are_refused() {
    let runs = Runs::new();
    let path = Path::new(&runs.all);
    let mut origin = Origin::read_beside(path).unwrap().unwrap();
    origin.image_ids.swap(0, 1);
    origin.write_beside(path).unwrap();
    let arguments = ["evaluate", &runs.work.text("one"), "--embeddings", &runs.all, "--device", "cpu"];
    refuse(arguments, &["all.npy.json: image-ids: are not those of the split test"]);
}

/// Double precision that single precision cannot hold: a whole row would become zeros.
#[test]
fn features_below_single_precision_are_refused() {
    use npyz::WriterBuilder;
    let runs = Runs::new();
    let images = runs.dataset.split(Split::Test).len();
    let file = runs.work.path("tiny.npy");
    let write = |values: Vec<f64>| {
        let file = fs::File::create(&file).unwrap();
        let shape = [images as u64, 2];
        let mut npy =
            npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd().unwrap();
        npy.extend(values).unwrap();
        npy.finish().unwrap();
    };
    let tiny = file.display().to_string();
    let arguments = ["evaluate", &runs.work.text("one"), "--embeddings", &tiny, "--device", "cpu"];
    write((0..2 * images).map(|at| 1e-200 * (1.0 + at as f64)).collect());
    refuse(
        arguments,
        &["tiny.npy: row 0: the largest value is 2e-200, too small for single precision", "scale"],
    );
    // Small values beside others, as of a classifier's probabilities, and rows of zeros are accepted.
    write((0..2 * images).map(|at| if at % 2 == 0 { 1e-60 } else { 1.0 + (at / 2 % 7) as f64 }).collect());
    run(arguments);
}

#[test]
fn many_queries_at_once_give_the_answers_of_each() {
    let runs = Runs::new();
    let (run_folder, queries) = (runs.work.text("one"), runs.work.text("queries.jsonl"));
    // Type 0 is the image.
    let graph = |object: usize| format!("[[{:?}]]", runs.dataset.object_name(object));
    let graphs = [graph(1), graph(2), graph(3)];
    fs::write(&queries, graphs.join("\n\n")).unwrap();
    let search = |more: &[&str]| {
        let start = ["search", &run_folder, "--device", "cpu", "-k", "4"];
        start.iter().chain(more).map(ToString::to_string).collect::<Vec<_>>()
    };
    let vectors = runs.work.text("vectors.npy");
    let rows: Vec<f32> = graphs
        .iter()
        .flat_map(|graph| {
            let out = runs.work.text("query.npy");
            run(search(&["--graph", graph, "--query-out", &out]));
            read_npy(Path::new(&out)).unwrap().values
        })
        .collect();
    write_npy(Path::new(&vectors), &rows, rows.len() / 3).unwrap();
    let files = [&[][..], &["--embeddings", &runs.all]];
    for index in files {
        let each: Vec<Value> = graphs
            .iter()
            .map(|graph| run_json(search(&[&["--graph", graph, "--json"], index].concat())))
            .collect();
        for file in [&queries, &vectors] {
            let many = run_json(search(&[&["--queries", file, "--json"], index].concat()));
            let many = many.as_array().unwrap();
            assert_eq!(many.len(), 3);
            for (number, (answer, alone)) in many.iter().zip(&each).enumerate() {
                assert_eq!(answer["query"], number + 1);
                assert_eq!(&answer["images"], alone);
            }
        }
    }
    let text = run(search(&["--queries", &queries]));
    assert!(text.starts_with("query 1\n1. image ") && text.contains("\nquery 3\n1. image "), "{text}");

    let bad = |text: &str, parts: &[&str]| {
        fs::write(&queries, text).unwrap();
        refuse(search(&["--queries", &queries]), parts);
    };
    bad(&format!("{}\n[[\"man\"\n", graphs[0]), &["queries.jsonl: line 2, column ", "write a list"]);
    bad("[[\"no such thing\"]]\n", &["queries.jsonl: line 1, statement 1"]);
    bad("\n", &["queries.jsonl: queries: there are none"]);
    write_npy(Path::new(&vectors), &[0.5; 9], 3).unwrap();
    refuse(search(&["--queries", &vectors]), &["vectors.npy: shape: [3, 3], the width of the run is 12"]);
}
