//! Outputs: none replaces an input, another output or a file of another kind.

use std::fs;
use std::path::Path;

use crate::program::{SMALL_NETWORK, Workplace, refuse, run};
use scenerank::data::Dataset;

/// Arguments of `prepare` for the raw files of a workplace's data.
fn prepare(work: &Workplace, glove: &str, out: &str) -> Vec<String> {
    let raw = |name: &str| work.text(&format!("raw1/{name}"));
    let files = [
        ("--scene-graphs", raw("scene_graphs.json")),
        ("--image-data", raw("image_data.json")),
        ("--captions", raw("captions.json")),
        ("--glove", glove.to_string()),
        ("--out", out.to_string()),
    ];
    let options = files.into_iter().flat_map(|(option, path)| [option.to_string(), path]);
    ["prepare", "--min-occurrences", "15"].map(String::from).into_iter().chain(options).collect()
}

/// Runs a refused command, and checks that it leaves every file of the folder as it was.
fn refuse_and_keep(folder: &Path, arguments: &[String], parts: &[&str]) {
    let content = || -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries
            .filter(|path| path.is_file())
            .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = content();
    refuse(arguments, parts);
    assert!(content() == before, "{arguments:?} changed a file");
}

#[test]
fn prepare_replaces_only_data_files() {
    let work = Workplace::new();
    let glove = work.text("raw1/glove.txt");
    let raw = work.path("raw1");
    for name in ["scene_graphs.json", "image_data.json", "captions.json", "glove.txt"] {
        let out = work.text(&format!("raw1/{name}"));
        refuse_and_keep(
            &raw,
            &prepare(&work, &glove, &out),
            &["--out: ", "is the same file as the input", name],
        );
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&glove, work.path("link")).unwrap();
        fs::hard_link(&glove, work.path("hard")).unwrap();
        for name in ["link", "hard"] {
            let parts = ["--out: ", "is the same file as the input"];
            refuse_and_keep(&raw, &prepare(&work, &glove, &work.text(name)), &parts);
        }
    }
    fs::write(work.path("notes.txt"), "precious").unwrap();
    let parts = ["notes.txt exists and is not a data file", "choose another file"];
    refuse_and_keep(work.folder.path(), &prepare(&work, &glove, &work.text("notes.txt")), &parts);
    // A data file and an empty file are replaced.
    fs::write(work.path("empty"), "").unwrap();
    run(prepare(&work, &glove, &work.data.display().to_string()));
    run(prepare(&work, &glove, &work.text("empty")));
}

#[test]
fn embed_replaces_only_embeddings() {
    let work = Workplace::new();
    let data = work.data.display().to_string();
    let run_folder = work.text("run");
    run([&["train", &data, "--out", &run_folder, "--epochs", "1", "--device", "cpu"], &SMALL_NETWORK[..]]
        .concat());
    let embed = |more: &[&str]| -> Vec<String> {
        ["embed", &run_folder, "--device", "cpu"].iter().chain(more).map(ToString::to_string).collect()
    };
    let folder = work.folder.path();
    let refuse = |more: &[&str], parts: &[&str]| {
        refuse_and_keep(folder, &embed(more), parts);
        refuse_and_keep(&work.path("run"), &embed(more), parts);
    };
    let (out, ids) = (work.text("all.npy"), work.text("ids.txt"));
    refuse(&["--out", &data], &["--out: ", "is the same file as the input"]);
    refuse(&["--out", &work.text("run/best.safetensors")], &["--out: ", "is the same file as the input"]);
    refuse(
        &["--out", &work.text("run/metrics.jsonl")],
        &["--out: ", "metrics.jsonl exists and is not a .npy file"],
    );
    refuse(&["--out", &out, "--ids", &out], &["--ids: ", "is the same file as that of --out"]);
    refuse(
        &["--out", &out, "--ids", &format!("{out}.json")],
        &["--ids: ", "is the same file as that of --out"],
    );
    refuse(
        &["--out", &out, "--caption-vectors", &data],
        &["--caption-vectors: ", "is the same file as the input"],
    );
    refuse(&["--out", &out, "--ids", &work.text("raw1/glove.txt")], &["--ids: ", "is not a list of ids"]);

    run(embed(&["--out", &out, "--ids", &ids]));
    // Repeating it replaces its own files, but not by those of another format.
    run(embed(&["--out", &out, "--ids", &ids]));
    refuse(&["--out", &out, "--format", "arrow"], &["--out: ", "all.npy exists and is not an Arrow file"]);
    let image = Dataset::open(&work.data).unwrap().image_id(0).to_string();
    let query: Vec<String> =
        ["search", &run_folder, "--image", &image, "--query-out", &data].map(String::from).to_vec();
    refuse_and_keep(folder, &query, &["--query-out: ", "is the same file as the input"]);
    let queries: Vec<String> = ["retrieve", &run_folder, "--queries-out", &data].map(String::from).to_vec();
    refuse_and_keep(folder, &queries, &["--queries-out: ", "is the same file as the input"]);
    let captions: Vec<String> = ["inspect", &data, "--captions", &data].map(String::from).to_vec();
    refuse_and_keep(folder, &captions, &["--captions: ", "is the same file as the input"]);
}
