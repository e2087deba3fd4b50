//! Every bad input ends with exit code 2 and one line that names the file, place, problem and remedy.

use std::path::Path;

use crate::raw_files::{RawFiles, graph, gzip};
use scenerank::data::prepare::prepare;
use scenerank::data::similarity_matrix::SimilarityMatrix;
use serde_json::{Value, json};

/// Runs the program; standard error must be one error line that contains all `parts`.
fn refuse(arguments: &[&str], parts: &[&str]) {
    let assert = assert_cmd::Command::cargo_bin("scenerank").unwrap().args(arguments).assert().code(2);
    let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    for part in parts {
        assert!(errors[0].contains(part), "`{part}` is not in: {}", errors[0]);
    }
    assert!(assert.get_output().stdout.is_empty());
}

/// Prepares with `option` set to `file`; no file may remain at the target.
fn refuse_prepare(files: &RawFiles, option: &str, file: &Path, parts: &[&str]) {
    refuse_prepare_with(files, &[(option, file)], &[], parts);
}

fn refuse_prepare_with(files: &RawFiles, replaced: &[(&str, &Path)], more: &[&str], parts: &[&str]) {
    let defaults = [
        ("--scene-graphs", "scene_graphs.json"),
        ("--image-data", "image_data.json"),
        ("--captions", "captions.json"),
        ("--glove", "glove.txt"),
    ];
    let out = files.path("refused.data");
    let mut arguments = vec!["prepare".to_string(), "--out".into(), out.display().to_string()];
    if !more.contains(&"--min-occurrences") {
        arguments.extend(["--min-occurrences".into(), "2".into()]);
    }
    for (option, name) in defaults {
        let replacement = replaced.iter().find(|(replaced, _)| *replaced == option);
        let path = replacement.map_or_else(|| files.path(name), |(_, path)| path.to_path_buf());
        arguments.extend([option.into(), path.display().to_string()]);
    }
    arguments.extend(more.iter().map(|argument| argument.to_string()));
    refuse(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), parts);
    assert!(!out.exists());
    let left = std::fs::read_dir(files.folder.path()).unwrap().flatten();
    assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with(".scenerank")));
}

#[test]
fn missing_files() {
    let files = RawFiles::new();
    for option in ["--scene-graphs", "--image-data", "--captions", "--glove"] {
        let parts = ["nowhere.json: cannot read", "check the path"];
        refuse_prepare(&files, option, &files.path("nowhere.json"), &parts);
    }
    refuse(
        &["inspect", files.path("none.data").to_str().unwrap()],
        &["none.data: cannot read", "check the path"],
    );
    let folder = files.folder.path().to_str().unwrap();
    refuse(&["inspect", folder], &["not a file"]);
}

#[test]
fn truncated_files() {
    let files = RawFiles::new();
    for (option, name) in [
        ("--scene-graphs", "scene_graphs.json"),
        ("--image-data", "image_data.json"),
        ("--captions", "captions.json"),
    ] {
        let whole = std::fs::read_to_string(files.path(name)).unwrap();
        let cut = files.write("cut.json", &whole[..whole.len() - 40]);
        refuse_prepare(
            &files,
            option,
            &cut,
            &["cut.json: line 1, column ", "truncated", "download it again"],
        );
        let packed = std::fs::read(gzip(&files.path(name))).unwrap();
        // Truncated in the data, and in the checksum after it.
        for missing in [packed.len() / 3, 4] {
            std::fs::write(files.path("cut.gz"), &packed[..packed.len() - missing]).unwrap();
            refuse_prepare(
                &files,
                option,
                &files.path("cut.gz"),
                &["cut.gz: gzip stream: truncated", "download it again"],
            );
        }
        let mut damaged = packed;
        let checksum = damaged.len() - 6;
        damaged[checksum] ^= 1;
        std::fs::write(files.path("bad.gz"), &damaged).unwrap();
        refuse_prepare(
            &files,
            option,
            &files.path("bad.gz"),
            &["bad.gz: gzip stream: damaged", "download it again"],
        );
    }
    let packed = std::fs::read(gzip(&files.path("glove.txt"))).unwrap();
    std::fs::write(files.path("cut.gz"), &packed[..packed.len() - 12]).unwrap();
    refuse_prepare(&files, "--glove", &files.path("cut.gz"), &["cut.gz: gzip stream: truncated"]);
    let empty = files.write("empty.json", "");
    refuse_prepare(&files, "--scene-graphs", &empty, &["empty.json", "truncated"]);
}

#[test]
fn json_of_another_schema() {
    let files = RawFiles::new();
    let cases = [
        ("--scene-graphs", r#"[{"image_id":1,"objects":[]}]"#, "missing field `relationships`"),
        ("--scene-graphs", r#"[{"image_id":"one","objects":[],"relationships":[]}]"#, "invalid type"),
        ("--scene-graphs", r#"{"1":{"objects":[]}}"#, "invalid type"),
        (
            "--scene-graphs",
            r#"[{"image_id":1,"objects":[],"relationships":[{"predicate":"on","subject_id":1}]}]"#,
            "a relationship needs `subject_id` and `object_id`",
        ),
        ("--image-data", r#"{"image_id":1}"#, "expected a list of records"),
        ("--captions", r#"{"images":[]}"#, "missing field `annotations`"),
        ("--captions", r#"{"annotations":[{"id":1,"image_id":2}]}"#, "missing field `caption`"),
        ("--captions", r#"[1]"#, "expected a map whose field `annotations` is a list"),
    ];
    for (option, text, problem) in cases {
        let file = files.write("schema.json", text);
        let parts =
            ["schema.json: line 1, column ", "not of the expected schema", problem, "check that it is"];
        refuse_prepare(&files, option, &file, &parts);
    }
    let file = files.write("syntax.json", "[{\"image_id\": 1,\n oops}]");
    refuse_prepare(&files, "--image-data", &file, &["syntax.json: line 2, column ", "not JSON"]);
    std::fs::write(files.path("latin.json"), b"[{\"url\": \"caf\xe9\"}]").unwrap();
    let parts = ["latin.json: line 1, column ", "not UTF-8 text; save the file in UTF-8"];
    refuse_prepare(&files, "--image-data", &files.path("latin.json"), &parts);
    let file = files.write("more.json", "[] []");
    refuse_prepare(&files, "--image-data", &file, &["more.json", "trailing characters"]);
    let file = files.write("gqa.json", r#"{"n16":{"objects":{}}}"#);
    refuse_prepare(&files, "--scene-graphs", &file, &["image `n16`", "not a Visual Genome image id"]);
}

#[test]
fn relationship_with_an_absent_object() {
    let files = RawFiles::new();
    let mut graphs: Vec<Value> = (1..=8).map(graph).collect();
    graphs[1]["relationships"][1]["object_id"] = json!(777);
    let file = files.write("absent.json", &Value::Array(graphs).to_string());
    let parts = [
        "absent.json: image 2, relationship 2",
        "its object, object 777",
        "not among",
        "--skip-absent-objects",
    ];
    refuse_prepare(&files, "--scene-graphs", &file, &parts);
    let gqa = files.write(
        "gqa.json",
        r#"{"5":{"objects":{"1":{"name":"a","relations":[{"name":"on","object":"9"}]}}}}"#,
    );
    refuse_prepare(&files, "--scene-graphs", &gqa, &["gqa.json: image 5, relationship 1", "object 9"]);

    let mut preparation = files.preparation();
    preparation.sources.graphs = scenerank::data::selection::GraphSource::SceneGraphs(file);
    preparation.filter.skip_absent_objects = true;
    let stages = prepare(&preparation, files.path("out.data")).unwrap();
    assert_eq!(stages.oddities.relationships_without_object, 1);
}

#[test]
fn images_that_appear_twice_or_in_one_of_two_files() {
    let files = RawFiles::new();
    let twice = files.write("twice.json", &json!([graph(1), graph(2), graph(1)]).to_string());
    refuse_prepare(
        &files,
        "--scene-graphs",
        &twice,
        &["twice.json: image 1: it appears twice", "remove one"],
    );
    let ids = files.write("ids.json", r#"[{"image_id":1,"coco_id":4},{"image_id":1,"coco_id":5}]"#);
    refuse_prepare(&files, "--image-data", &ids, &["ids.json: image 1: it has two COCO ids, 4 and 5"]);

    let objects = files.write("objects.json", r#"[{"image_id":1,"objects":[]}]"#);
    let relation = r#"{"predicate":"on","subject":{"object_id":1},"object":{"object_id":1}}"#;
    let relationships =
        files.write("relationships.json", &format!(r#"[{{"image_id":2,"relationships":[{relation}]}}]"#));
    let path = |path: &Path| path.to_str().unwrap().to_string();
    let arguments = [
        "prepare",
        "--objects",
        &path(&objects),
        "--relationships",
        &path(&relationships),
        "--image-data",
        &path(&files.path("image_data.json")),
        "--captions",
        &path(&files.path("captions.json")),
        "--glove",
        &path(&files.path("glove.txt")),
        "--out",
        &path(&files.path("out.data")),
    ];
    refuse(&arguments, &["relationships.json: image 2", "objects.json does not have it", "one release"]);
}

#[test]
fn images_with_no_captions() {
    let files = RawFiles::new();
    let captions = files.write("other.json", r#"{"annotations":[{"id":1,"image_id":4711,"caption":"dog"}]}"#);
    let parts = [
        "scene_graphs.json: join",
        "no image has captions",
        "8 images, 7 have a COCO id",
        "image_data.json",
        "other.json",
    ];
    refuse_prepare(&files, "--captions", &captions, &parts);
}

#[test]
fn no_image_left_and_too_few_images() {
    let files = RawFiles::new();
    let parts = [
        "scene_graphs.json: filter: no image is left",
        "8 images in the graph file",
        "7 with a COCO id",
        "6 with captions",
        "0 object and 0 predicate types",
        "6 have too few objects",
        "lower --min-occurrences",
    ];
    refuse_prepare_with(&files, &[], &["--min-occurrences", "100"], &parts);
    let parts = ["split: 2 images for train, at least 3 are needed", "--split"];
    refuse_prepare_with(
        &files,
        &[],
        &["--split", "1:1:1"],
        &[parts[0].replace("2 images", "1 images").as_str(), parts[1]],
    );
    refuse_prepare_with(&files, &[], &["--split", "1:1"], &["--split"]);
}

#[test]
fn glove_lines() {
    let files = RawFiles::new();
    let cases = [
        ("man 1 2 3\ndog 1 2\n", "line 2: 2 numbers, where the first line has 3"),
        ("man one two three\ndog\n", "line 1: a word without numbers"),
        ("2 4\nman 1 2 3\n", "line 1: vectors of 4 numbers are announced, and 3 follow in most lines"),
        (
            "cat 1 2 3\nhorse 1 2 3\n",
            "words: none of the 12 words of captions and names is among its 2 words",
        ),
        ("man 1 2 3\n\ndog 1 x 3\n", "line 3: `x` is not a finite number"),
        ("man 1 2 3\ndog 1 nan 3\n", "line 2: `nan` is not a finite number"),
        (
            "18446744073709551615 18446744073709551615\nman 1 2 3\n",
            "line 1: vectors of 18446744073709551615 numbers",
        ),
        ("3 0\nman 1 2 3\n", "line 1: vectors of 0 numbers"),
        ("man\n", "line 1: a word without numbers"),
        ("", "no word vectors"),
    ];
    for (text, problem) in cases {
        let file = files.write("wrong.txt", text);
        refuse_prepare(
            &files,
            "--glove",
            &file,
            &[
                "wrong.txt: ",
                problem,
                if problem.starts_with("words") { "give vectors" } else { "use a GloVe text file" },
            ],
        );
    }
}

#[test]
fn unwritable_target_keeps_the_old_file() {
    let files = RawFiles::new();
    let error = prepare(&files.preparation(), files.path("no/such/folder.data")).unwrap_err().to_string();
    assert!(error.contains("folder.data: cannot create") && error.contains("check the path"), "{error}");
    std::fs::write(files.path("out.data"), "old").unwrap();
    let mut preparation = files.preparation();
    preparation.glove = files.write("wrong.txt", "");
    prepare(&preparation, files.path("out.data")).unwrap_err();
    assert_eq!(std::fs::read(files.path("out.data")).unwrap(), b"old");
}

#[test]
fn unknown_image() {
    let files = RawFiles::new();
    prepare(&files.preparation(), files.path("out.data")).unwrap();
    let parts = ["--image: ", "out.data has no image 4711", "such as"];
    refuse(&["inspect", files.path("out.data").to_str().unwrap(), "--image", "4711"], &parts);
}

/// Content of a `.npy` file, version 1.0, whose header is padded to `header_bytes`.
fn npy(descr: &str, order: &str, shape: &str, header_bytes: usize, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
    while header.len() + 11 < header_bytes {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn similarity_matrices() {
    let files = RawFiles::new();
    let path = files.path("matrix.npy");
    // The last two are rounding errors at the ends of the range.
    let values = [0.0f32, 0.25, 1.0009766, -0.0005];
    let in_single =
        |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    let in_half = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect()
    };
    let (singles, halves) = (in_single(&values), in_half(&values));
    for (descr, data) in [("<f4", &singles), ("<f2", &halves)] {
        std::fs::write(&path, npy(descr, "False", "(2, 2)", 128, data)).unwrap();
        let matrix = SimilarityMatrix::open(&path, 2).unwrap();
        let view = matrix.view();
        assert_eq!([(0, 0), (0, 1), (1, 0), (1, 1)].map(|(x, y)| view.get(x, y)), [0.0, 0.25, 1.0, 0.0]);
    }
    let mut nan = singles.clone();
    nan[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    let cases = [
        (npy("<f4", "False", "(2, 3)", 128, &singles), "shape: [2, 3], expected [2, 2]"),
        (npy("<f4", "False", "(4,)", 128, &singles), "shape: [4], expected [2, 2]"),
        (npy("<f8", "False", "(2, 2)", 128, &singles), "dtype: '<f8', expected '<f2' or '<f4'"),
        (npy(">f4", "False", "(2, 2)", 128, &singles), "dtype: '>f4'"),
        (npy("<f4", "True", "(2, 2)", 128, &singles), "order: Fortran order, expected C order"),
        (npy("<f4", "False", "(2, 2)", 128, &singles[..15]), "data: truncated: 16 bytes expected, 15 found"),
        (npy("<f4", "False", "(2, 2)", 128, &[singles.clone(), vec![0]].concat()), "data: too long"),
        (npy("<f4", "False", "(2, 2)", 127, &singles), "not a multiple of 4"),
        (npy("<f4", "False", "(2, 2)", 128, &nan), "row 1, column 0: NaN"),
        (b"not numpy".to_vec(), "header: not a .npy file"),
        (Vec::new(), "header: not a .npy file"),
        (
            npy("<f4", "False", "(2, 2)", 128, &in_single(&[0.0, 1.0, f32::INFINITY, 0.0])),
            "row 1, column 0: inf",
        ),
        (
            npy("<f2", "False", "(2, 2)", 128, &in_half(&[0.0, f32::NEG_INFINITY, 0.0, 0.0])),
            "row 0, column 1: -inf",
        ),
    ];
    for (bytes, problem) in cases {
        std::fs::write(&path, bytes).unwrap();
        let error = SimilarityMatrix::open(&path, 2).unwrap_err().to_string();
        assert!(error.contains("matrix.npy: ") && error.contains(problem), "`{problem}` is not in: {error}");
        assert!(error.contains("numpy.save"), "{error}");
    }
    // Other scales: percent, a cosine below 0, a logit.
    for (value, place) in [(100.0f32, 1), (-0.25, 2), (1.002, 3), (-7.5, 0)] {
        let mut values = [0.5; 4];
        values[place] = value;
        for bytes in [
            npy("<f4", "False", "(2, 2)", 128, &in_single(&values)),
            npy("<f2", "False", "(2, 2)", 128, &in_half(&values)),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = SimilarityMatrix::open(&path, 2).unwrap_err().to_string();
            let found = format!("matrix.npy: row {}, column {}: ", place / 2, place % 2);
            assert!(error.contains(&found), "{error}");
            assert!(error.contains(" is outside 0 to 1; save similarities from 0 to 1"), "{error}");
        }
    }
}
