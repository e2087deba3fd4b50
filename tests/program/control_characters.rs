//! Names and captions with control characters: no command lets them reach the terminal.

use std::fs;

use scenerank::data::Dataset;
use serde_json::{Value, json};

use crate::program::{SMALL_NETWORK, run, run_json, scenerank};

/// Changes colours and title, clears the screen, goes back in the line, reverses the text.
const NASTY: &str = "x\u{1b}[31m\u{1b}]0;t\u{7}\u{9b}2J\r\u{8}\u{202e}\u{7f}\ny";
const SHOWN: &str = r"x\u001b[31m\u001b]0;t\u0007\u009b2J\r\u0008\u202e\u007f\ny";

/// Checks the outputs of a command; returns its standard output and error.
fn outputs(arguments: &[&str]) -> (String, String) {
    let output = scenerank().args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    for text in [&out, &error] {
        let found = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(found, None, "{arguments:?}: {text:?}");
    }
    (out, error)
}

#[test]
fn names_and_captions_cannot_control_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let graphs: Vec<Value> = (1..=20)
        .map(|id| {
            json!({ "image_id": id,
                "objects": [{ "object_id": 1, "names": [NASTY] }, { "object_id": 2, "names": ["dog"] },
                    { "object_id": 3, "names": ["man"] }],
                "relationships": [{ "subject_id": 1, "predicate": NASTY, "object_id": id % 2 + 2 }] })
        })
        .collect();
    let images: Vec<Value> = (1..=20).map(|id| json!({ "image_id": id, "coco_id": id })).collect();
    let captions: Vec<Value> = (1..=20u32)
        .map(|id| {
            let word = ["dog", "man"][id as usize % 2];
            json!({ "id": id, "image_id": id, "caption": format!("{word} {NASTY}") })
        })
        .collect();
    for (name, value) in [
        ("graphs", json!(graphs)),
        ("images", json!(images)),
        ("captions", json!({ "annotations": captions })),
    ] {
        fs::write(path(name), value.to_string()).unwrap();
    }
    fs::write(path("glove"), "dog 1 0\nman 0.5 1\n").unwrap();
    let (data, model) = (path("data"), path("run"));
    let [graphs, images, captions, glove] = ["graphs", "images", "captions", "glove"].map(path);
    outputs(&[
        "prepare",
        "--scene-graphs",
        &graphs,
        "--image-data",
        &images,
        "--captions",
        &captions,
        "--glove",
        &glove,
        "--min-occurrences",
        "1",
        "--split",
        "60:20:20",
        "--out",
        &data,
    ]);
    let dataset = Dataset::open(&data).unwrap();
    let name = (0..dataset.object_count()).map(|object| dataset.object_name(object).to_string());
    let name = name.into_iter().find(|name| name.contains('\u{1b}')).expect("the name is kept as it is");
    let image = dataset.image_id(0).to_string();
    let train = ["train", &data, "--out", &model, "--epochs", "1", "--device", "cpu", "--sampling", "random"];
    outputs(&[&train[..], &SMALL_NETWORK].concat());

    let (text, _) = outputs(&["inspect", &data, "--image", &image]);
    assert!(text.contains(SHOWN), "{text}");
    let (text, _) = outputs(&["inspect", &data, "--vocabulary"]);
    assert!(text.contains(&SHOWN.to_lowercase()), "{text}");
    let (text, _) = outputs(&["search", &model, "--device", "cpu", "--image", &image]);
    assert!(text.contains(SHOWN), "{text}");
    for command in ["evaluate", "retrieve"] {
        outputs(&[command, &model, "--device", "cpu"]);
    }
    // An error that suggests names.
    let query = path("query");
    fs::write(&query, json!([[format!("{NASTY}z")]]).to_string()).unwrap();
    let (_, error) = outputs(&["search", &model, "--device", "cpu", "--graph", &query]);
    assert!(error.contains("the data has no object") && error.contains(r"x\u001b"), "{error}");

    // JSON has the same values.
    outputs(&["inspect", &data, "--image", &image, "--vocabulary", "--json"]);
    let facts = run_json(["inspect", &data, "--image", &image, "--json"]);
    assert_eq!(facts["image"]["objects"][0], name);
    assert!(facts["image"]["captions"][0].as_str().unwrap().contains(NASTY));
    outputs(&["search", &model, "--device", "cpu", "--image", &image, "--json"]);
    let found = run_json(["search", &model, "--device", "cpu", "--image", &image, "--json"]);
    assert!(found[0]["captions"][0].as_str().unwrap().contains(NASTY));

    // Arguments in the messages of the argument parser, and paths in results.
    for arguments in [&["inspect", NASTY][..], &[NASTY], &["train", &data, "--out", "x", "--loss", NASTY]] {
        let (_, error) = outputs(arguments);
        assert!(error.contains(r"\u001b[31m"), "{error}");
    }
    outputs(&["search", &model, &format!("--split={NASTY}")]);
    let long = "x".repeat(100_000);
    let (_, error) = outputs(&["train", &data, "--out", "x", "--loss", &long]);
    assert!(error.len() < 1000, "{} bytes", error.len());
    #[cfg(unix)]
    {
        let out = path("a\u{1b}[31mb.npy");
        outputs(&["embed", &model, "--device", "cpu", "--out", &out]);
        outputs(&["evaluate", &model, "--device", "cpu", "--split", "all", "--embeddings", &out]);
    }
    assert!(run(["completions", "bash"]).contains("complete -F"));
}
