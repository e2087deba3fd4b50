//! A model away from its data: graphs that it never saw, other collections in its types, generators' predictions, sentences.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt64Type};
use arrow_ipc::reader::StreamReader;
use scenerank::backend::device::{Device, Precision};
use scenerank::data::sentence::Lexicon;
use scenerank::data::{Dataset, Split};
use scenerank::files::npy::read_npy;
use scenerank::files::origin::Origin;
use scenerank::run::{Run, TrainedModel, Which};
use scenerank::train::checkpoint::{self, BEST, Checkpoint, LAST};
use serde_json::{Value, json};

use crate::program::{SMALL_NETWORK, Workplace, refuse, run, run_json, scenerank, small_data};

/// A graph: id of the image, names of objects, and relationships between them.
pub type NamedGraph = (u64, Vec<String>, Vec<(usize, String, usize)>);

/// A workplace with a run of one epoch, named `run`.
pub struct Trained {
    pub work: Workplace,
    run: String,
}

impl Trained {
    pub fn new() -> Self {
        let work = Workplace::new();
        let (data, run_folder) = (work.data.display().to_string(), work.text("run"));
        let train = ["train", &data, "--out", &run_folder, "--epochs", "1", "--device", "cpu"];
        run([&train[..], &SMALL_NETWORK].concat());
        Trained { run: run_folder, work }
    }

    fn dataset(&self) -> Dataset {
        Dataset::open(&self.work.data).unwrap()
    }

    /// Runs a command on the run, on the CPU.
    pub fn on_run(&self, command: &str, more: &[&str]) -> Vec<String> {
        let start = [command, &self.run, "--device", "cpu"];
        start.iter().chain(more).map(ToString::to_string).collect()
    }

    fn write(&self, name: &str, content: &Value) -> String {
        fs::write(self.work.path(name), content.to_string()).unwrap();
        self.work.text(name)
    }

    /// Rows by id that `embed` writes with these options.
    fn embed(&self, options: &[&str]) -> HashMap<u64, Vec<f32>> {
        let out = self.work.text("rows.npy");
        run(self.on_run("embed", &[&["--out", &out], options].concat()));
        rows(&out)
    }

    /// The graphs of test images: id, names of objects, relationships.
    pub fn graphs(&self) -> Vec<NamedGraph> {
        let data = self.dataset();
        data.split(Split::Test)
            .map(|image| {
                let graph = data.graph(image);
                (data.image_id(image), data.object_names(graph), data.relationships(graph))
            })
            .collect()
    }
}

fn rows(path: &str) -> HashMap<u64, Vec<f32>> {
    let path = Path::new(path);
    let (matrix, origin) = (read_npy(path).unwrap(), Origin::read_beside(path).unwrap().unwrap());
    let rows = matrix.values.chunks(matrix.width).map(<[f32]>::to_vec);
    origin.image_ids.into_iter().zip(rows).collect()
}

/// Graphs are embedded in other batches, so the last bits may differ.
fn assert_same_rows(got: &HashMap<u64, Vec<f32>>, want: &HashMap<u64, Vec<f32>>) {
    assert!(!want.is_empty());
    for (id, want) in want {
        let got = got.get(id).unwrap_or_else(|| panic!("no row of {id}"));
        let worst = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "image {id}: {worst}");
    }
}

#[test]
fn a_model_embeds_graphs_without_its_data_in_every_format() {
    let trained = Trained::new();
    let want = trained.embed(&[]);
    let graphs = trained.graphs();
    fs::remove_file(&trained.work.data).unwrap();
    let scene_graphs = trained.work.text("raw1/scene_graphs.json");
    assert_same_rows(&trained.embed(&["--graphs", &scene_graphs]), &want);
    let of_test: HashMap<u64, Vec<f32>> = graphs.iter().map(|(id, ..)| (*id, want[id].clone())).collect();

    let gqa: serde_json::Map<String, Value> = graphs
        .iter()
        .map(|(id, objects, relationships)| {
            let relations = |node: usize| -> Vec<Value> {
                let own = relationships.iter().filter(|(subject, ..)| *subject == node);
                own.map(|(_, name, object)| json!({ "name": name, "object": format!("o{object:03}") }))
                    .collect()
            };
            let objects: serde_json::Map<String, Value> = objects
                .iter()
                .enumerate()
                .map(|(node, name)| {
                    (format!("o{node:03}"), json!({ "name": name, "relations": relations(node) }))
                })
                .collect();
            (id.to_string(), json!({ "objects": objects }))
        })
        .collect();
    assert_same_rows(
        &trained.embed(&["--graphs", &trained.write("gqa.json", &Value::Object(gqa))]),
        &of_test,
    );

    // Graphs of a list have numbers.
    let numbered: HashMap<u64, Vec<f32>> =
        (0..).zip(&graphs).map(|(number, (id, ..))| (number, want[id].clone())).collect();
    let statements: Vec<Value> = graphs
        .iter()
        .map(|(_, objects, relationships)| {
            let name = |node: usize| format!("{}#{node}", objects[node].to_uppercase());
            let lone = (0..objects.len()).map(|node| json!([name(node)]));
            let related = relationships.iter().map(|(s, p, o)| json!([name(*s), p, name(*o)]));
            lone.chain(related).collect()
        })
        .collect();
    let list = trained.write("list.json", &Value::Array(statements.clone()));
    assert_same_rows(&trained.embed(&["--graphs", &list]), &numbered);
    // One graph alone.
    let first = HashMap::from([(0, numbered[&0].clone())]);
    assert_same_rows(&trained.embed(&["--graphs", &trained.write("one.json", &statements[0])]), &first);

    let (predictions, info) = predicted(&graphs);
    let predictions = trained.write("custom_prediction.json", &predictions);
    let info = trained.write("custom_data_info.json", &info);
    let all = ["--top-objects", "100", "--top-relationships", "1000"];
    let options = [&["--graphs", &predictions, "--data-info", &info], &all[..]].concat();
    assert_same_rows(&trained.embed(&options), &of_test);
    let origin = Origin::read_beside(Path::new(&trained.work.text("rows.npy"))).unwrap().unwrap();
    assert_eq!(origin.image_files[0], format!("images/{}.jpg", graphs[0].0));
    // A score removes what is below it.
    let fewer = [&options[..], &["--min-object-score", "0.5"]].concat();
    let fewer = run_json(
        trained.on_run("embed", &[&fewer[..], &["--out", &trained.work.text("f.npy"), "--json"]].concat()),
    );
    assert!(fewer["graphs"]["objects"].as_u64().unwrap() < graphs.iter().map(|g| g.1.len() as u64).sum());
}

/// Predictions of graphs, with scores that fall within an image.
fn predicted(graphs: &[NamedGraph]) -> (Value, Value) {
    let mut classes = vec!["__background__".to_string()];
    let mut predicates = classes.clone();
    let number = |names: &mut Vec<String>, name: &String| match names.iter().position(|other| other == name) {
        Some(at) => at,
        None => {
            names.push(name.clone());
            names.len() - 1
        }
    };
    let scores = |count: usize| (0..count).map(|at| 1.0 / (1.0 + at as f64)).collect::<Vec<_>>();
    let images: serde_json::Map<String, Value> = graphs
        .iter()
        .enumerate()
        .map(|(index, (_, objects, relationships))| {
            let labels: Vec<usize> = objects.iter().map(|name| number(&mut classes, name)).collect();
            let pairs: Vec<[usize; 2]> = relationships.iter().map(|(s, _, o)| [*s, *o]).collect();
            let related: Vec<usize> =
                relationships.iter().map(|(_, p, _)| number(&mut predicates, p)).collect();
            let image = json!({
                "bbox": vec![[0.0, 0.0, 10.0, 10.0]; objects.len()],
                "bbox_labels": labels, "bbox_scores": scores(objects.len()),
                "rel_pairs": pairs, "rel_labels": related, "rel_scores": scores(relationships.len()),
                "rel_all_scores": vec![vec![0.1; 51]; relationships.len()],
            });
            (index.to_string(), image)
        })
        .collect();
    let files: Vec<String> = graphs.iter().map(|(id, ..)| format!("images/{id}.jpg")).collect();
    let info = json!({ "idx_to_files": files, "ind_to_classes": classes, "ind_to_predicates": predicates });
    (Value::Object(images), info)
}

/// Records of one line each, as `embed --graphs` reads them.
pub fn lines(graphs: &[NamedGraph]) -> String {
    let line = |(id, objects, relationships): &NamedGraph| {
        json!({ "image_id": id, "objects": objects, "relationships": relationships }).to_string() + "\n"
    };
    graphs.iter().map(line).collect()
}

/// Rows by id of an Arrow stream.
fn streamed(bytes: &[u8]) -> HashMap<u64, Vec<f32>> {
    let mut rows = HashMap::new();
    for batch in StreamReader::try_new(bytes, None).unwrap() {
        let batch = batch.unwrap();
        let ids = batch["image_id"].as_primitive::<UInt64Type>().values().to_vec();
        let list = batch["embedding"].as_fixed_size_list();
        let width = list.value_length() as usize;
        let values = list.values().as_primitive::<Float32Type>().values();
        rows.extend(ids.into_iter().zip(values.chunks(width).map(<[f32]>::to_vec)));
    }
    rows
}

#[test]
fn graphs_stream_from_lines_to_arrow() {
    let trained = Trained::new();
    let want = trained.embed(&["--split", "test"]);
    let graphs = trained.graphs();
    let file = trained.work.text("graphs.jsonl");
    fs::write(&file, lines(&graphs)).unwrap();
    assert_same_rows(&trained.embed(&["--graphs", &file]), &want);
    let out = trained.work.text("rows.arrows");
    let said = run(trained.on_run("embed", &["--graphs", &file, "--out", &out]));
    assert!(said.contains(&format!("{} images of 12 values", graphs.len())), "{said}");
    assert_same_rows(&streamed(&fs::read(&out).unwrap()), &want);
    // From standard input to standard output; a record may end in another line than it begins.
    let piped = scenerank()
        .args(trained.on_run("embed", &["--graphs", "-", "--out", "-"]))
        .write_stdin(lines(&graphs).replace("\"objects\"", "\n\"objects\""))
        .assert()
        .code(0);
    let bytes = &piped.get_output().stdout;
    assert_same_rows(&streamed(bytes), &want);
    let schema = StreamReader::try_new(&bytes[..], None).unwrap().schema();
    let model = Origin::read_beside(Path::new(&trained.work.text("rows.npy"))).unwrap().unwrap().model;
    assert!(schema.metadata()["scenerank"].contains(&model));

    // An error leaves the file as it was.
    let before = fs::read(&out).unwrap();
    let on_file = |content: String, more: &[&str], parts: &[&str]| {
        fs::write(&file, content).unwrap();
        let options = [&["--graphs", &file, "--out", &out], more].concat();
        refuse(trained.on_run("embed", &options), parts);
        assert!(fs::read(&out).unwrap() == before, "the file was replaced");
    };
    let strange = lines(&graphs) + "{\"image_id\": 99, \"objects\": [\"man\", \"unicorn\"]}";
    let parts =
        ["graphs.jsonl: image 99: object \"unicorn\" is not a name that the model knows", "--unknown drop"];
    on_file(strange.clone(), &["--unknown", "error"], &parts);
    let absent = "{\"image_id\": 99, \"objects\": [\"man\"], \"relationships\": [[0, \"on\", 1]]}";
    on_file(
        absent.into(),
        &[],
        &["graphs.jsonl: image 99, relationship 1: its object, object 1, is not among"],
    );
    on_file(
        "{\"objects\": [\"man\"]}".into(),
        &[],
        &["graphs.jsonl: record 1: it has no `image_id`", "check that it is the file"],
    );
    on_file(lines(&graphs) + "{\"image_id\"", &[], &["graphs.jsonl: line", "truncated"]);
    on_file("{\"image_id\": 1, \"objects\": [\"unicorn\"]}".into(), &[], &["no object of a known name"]);
    fs::write(&file, strange).unwrap();
    let dropped = run(trained.on_run("embed", &["--graphs", &file, "--out", &out]));
    assert!(dropped.contains("unicorn 1"), "{dropped}");
    let refused = |more: &[&str], parts: &[&str]| refuse(trained.on_run("embed", more), parts);
    refused(&["--out", "-"], &["--out: is a stream", "give --graphs"]);
    refused(&["--graphs", &file, "--out", "-", "--format", "npy"], &["--out: is -", "--format arrow-stream"]);
    refused(&["--graphs", &file, "--out", "-", "--json"], &["--json: needs standard output too"]);
    refused(&["--graphs", &file, "--out", &out, "--ids", "ids.txt"], &["--ids: ", "image_id"]);
}

#[test]
fn a_part_of_the_rows_is_that_of_all_rows() {
    let trained = Trained::new();
    let whole = trained.embed(&[]);
    let (first, second) = (trained.embed(&["--rows", "0..7"]), trained.embed(&["--rows", "7..30"]));
    assert_eq!((first.len(), second.len()), (7, 23));
    assert!(first.keys().all(|id| !second.contains_key(id)));
    let both: HashMap<u64, Vec<f32>> = first.into_iter().chain(second).collect();
    assert_same_rows(&whole, &both);
    let of_test = trained.embed(&["--split", "test", "--rows", "1..2"]);
    let data = trained.dataset();
    assert_eq!(of_test.into_keys().collect::<Vec<_>>(), [data.image_id(data.split(Split::Test).start + 1)]);
    let out = trained.work.text("part.npy");
    let end = format!("0..{}", data.image_count() + 1);
    let parts = [&format!("--rows: ends at {}", data.image_count() + 1), "give rows of these images"];
    refuse(trained.on_run("embed", &["--out", &out, "--rows", &end]), &parts);
    let backwards =
        scenerank().args(trained.on_run("embed", &["--out", &out, "--rows", "3..2"])).assert().code(2);
    let said = String::from_utf8_lossy(&backwards.get_output().stderr).into_owned();
    assert!(said.contains("give A..B with A below B"), "{said}");
}

#[test]
fn unknown_names_are_left_out_and_counted() {
    let trained = Trained::new();
    let data = trained.dataset();
    let (object, predicate) = (data.object_name(0).to_string(), data.predicate_name(0).to_string());
    let graphs = json!([
        [
            [object, predicate, "yeti"],
            ["yeti#2", predicate, object],
            [object, "teasing", object],
            ["unicorn"]
        ],
        [["unicorn"]],
        [[object]],
    ]);
    let file = trained.write("strange.json", &graphs);
    let out = trained.work.text("strange.npy");
    let got = run_json(trained.on_run("embed", &["--graphs", &file, "--out", &out, "--json"]));
    let counts = &got["graphs"];
    assert_eq!(counts["unknown_objects"], json!([["unicorn", 2], ["yeti", 2]]));
    assert_eq!(counts["unknown_predicates"], json!([["teasing", 1]]));
    assert_eq!((&counts["relationships_of_unknown_objects"], &counts["left_out"]), (&json!(2), &json!([1])));
    assert_eq!((&counts["graphs"], &got["images"]), (&json!(2), &json!(2)));
    assert_eq!(rows(&out).into_keys().collect::<std::collections::BTreeSet<_>>(), [0, 2].into());
    let said = run(trained.on_run("embed", &["--graphs", &file, "--out", &out]));
    for line in [
        "left out: 4 objects of 2 names that the model does not know: unicorn 2, yeti 2",
        "left out: 1 relationships of 1 names that the model does not know: teasing 1",
        "left out: 2 relationships of these objects",
        "left out: 1 graphs without a known object: 1",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }

    let none = trained.write("none.json", &json!([[["unicorn"]]]));
    let parts = [
        "none.json: names: no object of a known name; the most frequent name is \"unicorn\"",
        "use names of the run",
    ];
    refuse(trained.on_run("embed", &["--graphs", &none, "--out", &out]), &parts);
    let mixed = trained.write("mixed.json", &json!([[["man"]], ["man"]]));
    refuse(
        trained.on_run("embed", &["--graphs", &mixed, "--out", &out]),
        &["mixed.json: record 2: graphs and statements in one list"],
    );
    // Other than the first graph may be wrong, and the file keeps its rows.
    let wrong = trained.write("wrong.json", &json!([[["man"]], [["man", "on"]]]));
    let parts = ["wrong.json: graph 2, statement 1: has 2 names"];
    refuse(trained.on_run("embed", &["--graphs", &wrong, "--out", &out]), &parts);
    assert_eq!(rows(&out).len(), 2);
}

#[test]
fn damaged_predictions_are_refused() {
    let trained = Trained::new();
    let (predictions, info) = predicted(&trained.graphs());
    let refused = |change: &dyn Fn(&mut Value, &mut Value), parts: &[&str]| {
        let (mut predictions, mut info) = (predictions.clone(), info.clone());
        change(&mut predictions, &mut info);
        let file = trained.write("custom_prediction.json", &predictions);
        let info = trained.write("custom_data_info.json", &info);
        let out = trained.work.text("out.npy");
        refuse(trained.on_run("embed", &["--graphs", &file, "--data-info", &info, "--out", &out]), parts);
    };
    refused(&|p, _| p["0"]["bbox_scores"] = json!([0.5]), &["image `0`: `bbox_scores` has 1 entries"]);
    refused(&|p, _| p["0"]["bbox_labels"][0] = json!(999), &["image `0`: class 999, of"]);
    refused(&|p, _| p["0"]["rel_labels"][0] = json!(999), &["image `0`: predicate 999, of"]);
    refused(&|p, _| p["0"]["rel_pairs"][0] = json!([0, 999]), &["image `0`: a pair of boxes 0 and 999"]);
    refused(&|_, i| i["idx_to_files"] = json!(["a.jpg"]), &["image `1`: --data-info names 1 images"]);
    refused(&|_, i| i["ind_to_classes"] = json!(7), &["custom_data_info.json: line 1", "expected schema"]);
}

#[test]
fn another_collection_is_prepared_in_the_types_of_a_run() {
    let trained = Trained::new();
    // Of another seed, so other images and another vocabulary.
    let foreign = small_data(trained.work.folder.path(), 2).display().to_string();
    let parts = ["data2: fingerprint: is ", "but the run was trained on data of ", "--vocabulary-from"];
    refuse(trained.on_run("evaluate", &["--data", &foreign]), &parts);
    let raw = |name: &str| trained.work.text(&format!("raw2/{name}"));
    let (graphs, images, captions) = (raw("scene_graphs.json"), raw("image_data.json"), raw("captions.json"));
    let (glove, other) = (raw("glove.txt"), trained.work.text("other.data"));
    let prepare = |more: &[&str]| {
        let start = ["prepare", "--scene-graphs", &graphs, "--image-data", &images, "--captions", &captions];
        let rest = ["--glove", &glove, "--out", &other, "--json"];
        start.iter().chain(&rest).chain(more).map(ToString::to_string).collect::<Vec<_>>()
    };
    let stages = run_json(prepare(&["--vocabulary-from", &trained.run]));
    let (own, data) = (trained.dataset(), Dataset::open(&other).unwrap());
    assert!(data.vocabulary().has_types_of(own.vocabulary()));
    assert_eq!(stages["object_types"], own.object_count() - 1);
    scenerank()
        .args(prepare(&["--vocabulary-from", &trained.run, "--min-occurrences", "3"]))
        .assert()
        .code(2);

    // The same rows whether the data file or the raw graphs are embedded.
    let rows = trained.embed(&["--data", &other]);
    assert_eq!(rows.len(), data.image_count());
    assert_same_rows(&trained.embed(&["--graphs", &graphs]), &rows);
    // Results of another collection are not the run's own.
    run(trained.on_run("evaluate", &[]));
    let recorded = || fs::read(trained.work.path("run/evaluation.json")).unwrap();
    let of_own = recorded();
    let table = run_json(trained.on_run("evaluate", &["--data", &other, "--json"]));
    assert!(recorded() == of_own, "replaced by the results of another collection");
    refuse(trained.on_run("retrieve", &["--data", &other]), &["--out: is not given", "name a folder"]);
    assert_eq!(table["images"], data.split(Split::Test).len());
    let retrieval = run_json(
        trained.on_run("retrieve", &["--data", &other, "--out", &trained.work.text("curves"), "--json"]),
    );
    assert_eq!(retrieval["images"], table["images"]);
    let id = data.image_id(0).to_string();
    let found = run_json(trained.on_run("search", &["--data", &other, "--image", &id, "-k", "3", "--json"]));
    let first = found[0]["image_id"].as_u64().unwrap();
    assert!(data.find_image(first).is_some() && !found[0]["captions"].as_array().unwrap().is_empty());

    // Supervision from a file is about the run's own images.
    let captions = trained.work.text("captions.npy");
    run(trained.on_run("embed", &["--out", &trained.work.text("a.npy"), "--caption-vectors", &captions]));
    let (own, supervised) = (trained.work.data.display().to_string(), trained.work.text("supervised"));
    let train = [
        "train",
        &own,
        "--out",
        &supervised,
        "--epochs",
        "1",
        "--caption-vectors",
        &captions,
        "--device",
        "cpu",
    ];
    run([&train[..], &SMALL_NETWORK].concat());
    let evaluate = ["evaluate", &supervised, "--data", &other, "--device", "cpu"];
    refuse(evaluate, &["--supervision: the run was supervised by a file about its own data"]);
    let of_other = trained.work.text("other_captions.npy");
    run(trained.on_run(
        "embed",
        &["--data", &other, "--out", &trained.work.text("b.npy"), "--caption-vectors", &of_other],
    ));
    run([&evaluate[..], &["--supervision", &of_other]].concat());
}

#[test]
fn rows_of_another_collection_are_searched_by_the_same_model() {
    let trained = Trained::new();
    small_data(trained.work.folder.path(), 2);
    let (mine, ids) = (trained.work.text("mine.npy"), trained.work.text("mine.txt"));
    let graphs = trained.work.text("raw2/scene_graphs.json");
    let object = trained.dataset().object_name(0).to_string();
    let query = trained.write("query.json", &json!([[object]]));
    let embed = ["--graphs", &graphs, "--out", &mine, "--ids", &ids];
    run(trained.on_run("embed", &embed));
    let data_less = trained.work.text("moved");
    fs::rename(&trained.work.data, &data_less).unwrap();
    // The origin names the model, so neither data nor ids are needed.
    let search = |more: &[&str]| {
        run_json(
            trained.on_run("search", &[&["--graph", &query, "--embeddings", &mine, "--json"], more].concat()),
        )
    };
    let found = search(&["-k", "5"]);
    assert!(found[0]["captions"].as_array().unwrap().is_empty() && found[0]["coco_id"].is_null());
    // The nearest by hand.
    let rows = rows(&mine);
    let query_out = trained.work.text("query.npy");
    search(&["--query-out", &query_out]);
    let query_row = read_npy(Path::new(&query_out)).unwrap().values;
    let cosine = |row: &Vec<f32>| row.iter().zip(&query_row).map(|(a, b)| a * b).sum::<f32>();
    let best = rows.values().map(cosine).fold(f32::MIN, f32::max);
    let id = found[0]["image_id"].as_u64().unwrap();
    assert!((cosine(&rows[&id]) - best).abs() < 1e-6, "{found}");
    refuse(
        trained.on_run("search", &["--image", "1", "--embeddings", &mine]),
        &["--image: the rows of --embeddings are graphs"],
    );
    // As rows of unknown origin, with the ids in a file.
    let options = ["--data", &data_less, "--any-origin", "--ids", &ids, "-k", "5"];
    let by_ids = search(&options);
    assert_eq!(by_ids[0]["image_id"], found[0]["image_id"]);
    // Rows of another model.
    let other = trained.work.text("other");
    let train = ["train", &data_less, "--out", &other, "--epochs", "1", "--seed", "9", "--device", "cpu"];
    run([&train[..], &SMALL_NETWORK].concat());
    refuse(
        ["search", &other, "--graph", &query, "--embeddings", &mine, "--device", "cpu"],
        &["mine.npy: origin: is of another model"],
    );
}

/// Rewrites the checkpoints of a run as those of a version without vocabularies.
fn make_old(trained: &Trained) {
    for name in [BEST, LAST] {
        let path = trained.work.path("run").join(name);
        let Checkpoint { mut config, progress, tensors, moments } = checkpoint::load(&path).unwrap();
        config.vocabulary = None;
        checkpoint::save(&path, &config, &progress, tensors, moments).unwrap();
    }
}

#[test]
fn checkpoints_without_a_vocabulary_are_read_with_their_data() {
    let trained = Trained::new();
    let want = trained.embed(&[]);
    make_old(&trained);
    let graphs = trained.work.text("raw1/scene_graphs.json");
    assert_same_rows(&trained.embed(&["--graphs", &graphs]), &want);
    let data = trained.work.data.display().to_string();
    let resume = ["train", &data, "--out", &trained.run, "--resume", "--epochs", "2", "--device", "cpu"];
    let network: Vec<&str> = resume.into_iter().chain(SMALL_NETWORK).collect();
    run(network);
    assert!(trained.work.last("run").config.vocabulary.is_some());
    make_old(&trained);
    let away = trained.work.text("away");
    fs::rename(&data, &away).unwrap();
    let out = trained.work.text("out.npy");
    refuse(trained.on_run("embed", &["--graphs", &graphs, "--out", &out]), &["data1: cannot read"]);
    run(trained.on_run("embed", &["--graphs", &graphs, "--out", &out, "--data", &away]));
}

#[test]
fn a_vocabulary_that_does_not_fit_its_model_is_refused() {
    let trained = Trained::new();
    let path = trained.work.path("run").join(BEST);
    let Checkpoint { mut config, progress, tensors, moments } = checkpoint::load(&path).unwrap();
    let model = |path: &Path| TrainedModel::open(path, Which::Best, None, Device::Cpu, Precision::Fp32);
    let of_model = model(Path::new(&trained.run)).unwrap();
    assert_eq!(of_model.vocabulary(), trained.dataset().vocabulary());
    let vocabulary = config.vocabulary.clone().unwrap();
    let fewer = vocabulary.objects()[1..].to_vec();
    let predicates = vocabulary.predicates().to_vec();
    let fewer = scenerank::data::vocabulary::Vocabulary::new(fewer, predicates, vocabulary.tokeniser());
    config.vocabulary = Some(fewer.unwrap());
    checkpoint::save(&path, &config, &progress, tensors, moments).unwrap();
    let error = model(Path::new(&trained.run)).err().unwrap().to_string();
    assert!(error.contains("metadata \"config\"") && error.contains("has names of"), "{error}");
}

#[test]
fn a_sentence_is_a_query() {
    let trained = Trained::new();
    let data = trained.dataset();
    let (first, second) = (data.object_name(0).to_string(), data.object_name(1).to_string());
    let predicate = data.predicate_name(0).to_string();
    let sentence = format!("A floccinaucious {first} {predicate} the {second}.");
    let got = run_json(trained.on_run("search", &["--text", &sentence, "-k", "4", "--json"]));
    assert_eq!(got["graph"], json!([[first, predicate, second]]));
    assert_eq!(got["not_understood"], json!(["floccinaucious"]));
    let query = trained.write("query.json", &got["graph"]);
    let want = run_json(trained.on_run("search", &["--graph", &query, "-k", "4", "--json"]));
    assert_eq!(got["images"], want);
    let printed = run(trained.on_run("search", &["--text", &sentence, "-k", "4"]));
    let graph = format!(
        "graph: [[\"{first}\", \"{predicate}\", \"{second}\"]]\nnot understood: floccinaucious\n1. image "
    );
    assert!(printed.starts_with(&graph), "{printed}");
    let parts = ["--text: \"colourless green ideas\" names no object", "name objects such as"];
    refuse(trained.on_run("search", &["--text", "colourless green ideas"]), &parts);

    let out = trained.work.text("curves");
    let options = ["--queries", "captions", "--out", &out];
    let retrieval = run_json(trained.on_run("retrieve", &[&options[..], &["--json"]].concat()));
    let captions = &retrieval["captions"];
    let count: usize = data.split(Split::Test).map(|image| data.captions(image).count()).sum();
    assert_eq!(captions["queries"], count);
    let recall = |k: &str| captions[k].as_f64().unwrap();
    let found = captions_found(&trained, 5);
    assert!((recall("recall_at_5") - found).abs() < 1e-9 && found > 0.0, "{captions}: {found}");
    assert!(recall("recall_at_1") <= found && found <= recall("recall_at_10"), "{captions}");
    let table = run(trained.on_run("retrieve", &options));
    assert!(table.contains("R@10") && table.contains("captions are queries for their own image"), "{table}");
}

/// Share of the test images' captions whose own image is among the first `k`, one caption at a time.
fn captions_found(trained: &Trained, k: usize) -> f64 {
    let folder = Path::new(&trained.run);
    let run = Run::open(folder, Which::Best, None, Device::Cpu, Precision::Fp32).unwrap();
    let (index, width) = (run.embed_split(Split::Test).unwrap(), run.width());
    let lexicon = Lexicon::new(run.model.vocabulary());
    let (mut found, mut count) = (0, 0);
    for (row, image) in run.dataset.split(Split::Test).enumerate() {
        for caption in run.dataset.captions(image) {
            count += 1;
            let graph = lexicon.understand(caption).graph;
            if graph.objects.is_empty() {
                continue;
            }
            let query = run.embed(&[graph.augmented(run.model.vocabulary()).view()]).unwrap();
            let score = |row: &[f32]| -> f32 { row.iter().zip(&query).map(|(a, b)| a * b).sum() };
            let own = score(&index[row * width..][..width]);
            let better = index.chunks(width).filter(|row| score(row) > own).count();
            found += usize::from(better < k);
        }
    }
    f64::from(found as u32) / f64::from(count)
}

#[test]
fn the_documented_example_works() {
    let trained = Trained::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/graphs");
    let path = |name: &str| folder.join(name).display().to_string();
    let out = trained.work.text("mine.npy");
    let options = ["--data-info", &path("custom_data_info.json"), "--min-object-score", "0.3", "--out", &out];
    run(trained.on_run("embed", &[&["--graphs", &path("custom_prediction.json")], &options[..]].concat()));
    let found =
        run(trained.on_run("search", &["--text", "a man on the street", "--embeddings", &out, "-k", "1"]));
    assert!(found.contains("1. image ") && found.contains("photographs/"), "{found}");
    run(trained.on_run("embed", &["--graphs", &path("graphs.json"), "--out", &out]));
    assert_eq!(rows(&out).len(), 3);
}
