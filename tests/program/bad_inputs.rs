//! Every option that names an input, with every kind of wrong file: exit code 2 and one short line that names the file, without
//! control characters.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use flate2::Compression;
use flate2::write::GzEncoder;
use scenerank::files::npy::write_npy;

use crate::program::{SMALL_NETWORK, Workplace, refuse, run, scenerank};

/// Most characters of an error, without `error: `.
const MOST: usize = 300;

/// Data, raw files and a run, which no test changes.
struct Place {
    work: Workplace,
    run: String,
}

/// The place of all tests of this module that run at a time. The last one removes its folder.
fn place() -> Arc<Place> {
    static PLACE: Mutex<Weak<Place>> = Mutex::new(Weak::new());
    let mut shared = PLACE.lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let work = Workplace::new();
        let (data, run_folder) = (work.text("data1"), work.text("run"));
        let options = ["--out", &run_folder, "--epochs", "1", "--device", "cpu"];
        run(["train", &data].into_iter().chain(options).chain(SMALL_NETWORK));
        let place = Arc::new(Place { work, run: run_folder });
        *shared = Arc::downgrade(&place);
        place
    })
}

/// Kinds of wrong files, written into `folder`: name of the kind and path.
fn wrong_files(folder: &Path) -> BTreeMap<&'static str, PathBuf> {
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let utf16 =
        |bytes: fn(u16) -> [u8; 2]| "[{\"a\": 1}]\n".encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let marked = |mark: &[u8], text: Vec<u8>| [mark, &text].concat();
    let noise =
        |length: u32| (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<u8>>();
    let page = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n".to_vec();
    let files: [(&str, &str, Vec<u8>); 24] = [
        ("empty", "wrong.json", vec![]),
        ("zip", "wrong.npy", [b"PK\x03\x04\x14\0\0\0\x08\0".to_vec(), noise(500)].concat()),
        ("xz", "wrong.xz", [b"\xfd7zXZ\0\0\x04".to_vec(), noise(500)].concat()),
        ("bzip2", "wrong.bz2", [b"BZh91AY&SY".to_vec(), noise(500)].concat()),
        ("zstd", "wrong.zst", [b"\x28\xb5\x2f\xfd\x24".to_vec(), noise(500)].concat()),
        ("gzip", "wrong.txt", gzip(b"hello\n")),
        (
            "gzip of a zip",
            "wrong.json.gz",
            gzip(&[b"PK\x03\x04\x14\0\0\0\x08\0".to_vec(), noise(500)].concat()),
        ),
        ("gzip bomb", "bomb.gz", gzip(&[b' '; 5 << 20])),
        ("page", "wrong.html", page.clone()),
        ("gzip of a page", "page.gz", gzip(&page)),
        (
            "pointer",
            "pointer.npy",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n".to_vec(),
        ),
        ("utf-16", "utf16.txt", marked(b"\xff\xfe", utf16(u16::to_le_bytes))),
        ("utf-16, big-endian", "utf16be.txt", marked(b"\xfe\xff", utf16(u16::to_be_bytes))),
        ("utf-16 without a mark", "utf16plain.txt", utf16(u16::to_le_bytes)),
        ("latin-1", "latin.txt", b"[[\"caf\xe9\"]]\ncaf\xe9 1 2\n".to_vec()),
        ("noise", "noise.bin", noise(100_000)),
        ("zeros", "zeros.bin", vec![0; 100_000]),
        ("long line", "line.txt", vec![b'a'; 3 << 20]),
        ("controls", "controls.txt", b"\x1b]0;title\x07\x1b[31m\x1b[2J\r\n".repeat(2000)),
        ("strings with controls", "strings.json", {
            let text = "\\u001b[31m\\u0007".repeat(20_000);
            format!("[[\"{text}\", \"{text}\", \"{text}\"], \"{text}\"]").into_bytes()
        }),
        ("nested", "nested.json", vec![b'['; 200_000]),
        ("another schema", "schema.json", {
            let long = "x".repeat(100_000);
            format!("{{\"{long}\": \"{long}\", \"epochs\": \"{long}\"}}").into_bytes()
        }),
        (
            "header of a .npy file",
            "header.npy",
            b"\x93NUMPY\x01\0\x20\0{\"\x1b[31m\": \x1b[2J,,, \n\n\n          ".to_vec(),
        ),
        ("header of a safetensors file", "header.safetensors", {
            let long = "\\u001b".repeat(20_000);
            let header = format!("{{\"{long}\":{{\"dtype\":\"{long}\"}}}}");
            [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
        }),
    ];
    let mut paths = BTreeMap::new();
    for (kind, name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
        paths.insert(kind, folder.join(name));
    }
    let npy = folder.join("array.npy");
    write_npy(&npy, &[0.5; 3], 3).unwrap();
    paths.insert("array of another shape", npy);
    fs::create_dir(folder.join("folder.json")).unwrap();
    paths.insert("folder", folder.join("folder.json"));
    paths.insert("missing", folder.join("nowhere.json"));
    let long = folder.join("long_name".repeat(20)).join("long_name".repeat(20));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("end.json"), "nothing").unwrap();
    paths.insert("long path", long.join("end.json"));
    #[cfg(unix)]
    {
        fs::write(folder.join("a\u{1b}[31m\nb.json"), "nothing").unwrap();
        paths.insert("name with controls", folder.join("a\u{1b}[31m\nb.json"));
        paths.insert("endless", PathBuf::from("/dev/zero"));
    }
    paths
}

/// Name of the file in a message.
fn shown_name(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.replace('\u{1b}', "\\u001b").replace('\n', "\\n")
}

/// Runs the program; returns what is wrong with its refusal, if anything.
fn complaint(arguments: &[String], path: &Path) -> Option<String> {
    // Without progress, which a slow machine prints.
    let output = scenerank().arg("--quiet").args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    let problem = if output.status.code() != Some(2) {
        format!("exit {:?}", output.status.code())
    } else if errors.len() != 1 || text.lines().count() != 1 {
        "not one line".into()
    } else if errors[0].chars().count() > MOST {
        format!("{} characters", errors[0].chars().count())
    } else if !errors[0].contains(&shown_name(path)) {
        "the file is not named".into()
    } else if text.contains(|c: char| c.is_control() && c != '\n') {
        "control characters".into()
    } else if !errors[0].contains("; ") {
        "no remedy".into()
    } else if ["os error 21", "valid UTF-8", "fill whole buffer"]
        .iter()
        .any(|words| errors[0].contains(words))
    {
        "words of the system".into()
    } else if !output.stdout.is_empty() {
        "standard output".into()
    } else {
        return None;
    };
    let shown: String = text.chars().take(600).collect();
    Some(format!("{problem}: {} ... {}: {shown:?}", arguments[0], arguments.last().unwrap()))
}

/// Runs a command with every kind of wrong file but `fitting` ones.
fn check(fitting: &[&str], arguments: impl Fn(&Path) -> Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut complaints = Vec::new();
    let mut tried = 0;
    for (kind, path) in wrong_files(folder.path()) {
        if fitting.contains(&kind) {
            continue;
        }
        tried += 1;
        complaints.extend(complaint(&arguments(&path), &path).map(|text| format!("{kind}: {text}")));
    }
    assert!(tried > 20);
    assert!(complaints.is_empty(), "{} of {tried}:\n{}", complaints.len(), complaints.join("\n"));
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

/// Arguments of `prepare` with one input replaced.
fn prepare_with(option: &str, path: &Path) -> Vec<String> {
    let place = place();
    let raw = |name: &str| place.work.text(&format!("raw1/{name}"));
    let mut inputs = BTreeMap::from([
        ("--image-data", raw("image_data.json")),
        ("--captions", raw("captions.json")),
        ("--glove", raw("glove.txt")),
    ]);
    match option {
        "--objects" | "--relationships" => {
            inputs.extend([
                ("--objects", raw("scene_graphs.json")),
                ("--relationships", raw("scene_graphs.json")),
            ]);
        }
        _ => drop(inputs.insert("--scene-graphs", raw("scene_graphs.json"))),
    }
    *inputs.get_mut(option).unwrap() = path.display().to_string();
    let options = inputs.into_iter().flat_map(|(option, path)| [option.to_string(), path]);
    let out = words(&["prepare", "--out", &place.work.text("refused.data"), "--min-occurrences", "15"]);
    out.into_iter().chain(options).collect()
}

macro_rules! prepare_tests {
    ($($name:ident: $option:literal,)+) => {
        $(#[test]
        fn $name() {
            let _place = place();
            check(&[], |path| prepare_with($option, path));
        })+
    };
}

prepare_tests! {
    scene_graphs: "--scene-graphs",
    objects: "--objects",
    relationships: "--relationships",
    image_data: "--image-data",
    captions: "--captions",
    word_vectors: "--glove",
}

#[test]
fn data_files() {
    let place = place();
    let out = place.work.text("never");
    check(&[], |path| words(&["inspect", path.to_str().unwrap()]));
    check(&[], |path| words(&["train", path.to_str().unwrap(), "--out", &out]));
    check(&[], |path| words(&["reproduce", path.to_str().unwrap(), "--out", &out]));
    check(&[], |path| words(&["evaluate", &place.run, "--data", path.to_str().unwrap()]));
}

#[test]
fn supervision_and_features() {
    let place = place();
    let (work, run) = (&place.work, &place.run);
    let (data, out) = (work.text("data1"), work.text("never"));
    for option in ["--similarity", "--caption-vectors"] {
        check(&[], |path| words(&["train", &data, "--out", &out, option, path.to_str().unwrap()]));
    }
    for option in ["--features", "--caption-vectors"] {
        check(&[], |path| words(&["reproduce", &data, "--out", &out, option, path.to_str().unwrap()]));
    }
    check(&[], |path| words(&["evaluate", run, "--device", "cpu", "--embeddings", path.to_str().unwrap()]));
    // A folder is what this option expects.
    check(&["folder"], |path| {
        words(&["reproduce", &data, "--out", &out, "--images", path.to_str().unwrap()])
    });
    let image = run_image();
    check(&[], |path| {
        let options = ["--any-origin", "--device", "cpu", "--embeddings", path.to_str().unwrap()];
        words(&[&["search", run, "--image", &image], &options[..]].concat())
    });
}

#[test]
fn moved_supervision() {
    let place = place();
    let (work, data) = (&place.work, place.work.text("data1"));
    let images = scenerank::data::Dataset::open(&data).unwrap().image_count();
    let (matrix, run_folder) = (work.text("matrix.npy"), work.text("supervised"));
    let values: Vec<f32> = (0..images * images).map(|at| (at % 101) as f32 / 100.0).collect();
    write_npy(Path::new(&matrix), &values, images).unwrap();
    let options = ["--out", &run_folder, "--epochs", "1", "--device", "cpu", "--similarity", &matrix];
    run(["train", &data].into_iter().chain(options).chain(SMALL_NETWORK));
    check(&[], |path| {
        words(&["evaluate", &run_folder, "--device", "cpu", "--supervision", path.to_str().unwrap()])
    });
}

/// Id of an image of the data.
fn run_image() -> String {
    let data = scenerank::data::Dataset::open(place().work.path("data1")).unwrap();
    data.image_id(0).to_string()
}

#[test]
fn query_graphs_ids_and_options() {
    let place = place();
    let (work, run) = (&place.work, &place.run);
    check(&[], |path| words(&["search", run, "--device", "cpu", "--graph", path.to_str().unwrap()]));
    let all = work.text("all.npy");
    crate::program::run(["embed", run, "--device", "cpu", "--out", &all]);
    let image = run_image();
    // Without ids, the number of rows is wrong.
    check(&["empty"], |path| {
        let options =
            ["--any-origin", "--device", "cpu", "--embeddings", &all, "--ids", path.to_str().unwrap()];
        words(&[&["search", run, "--image", &image], &options[..]].concat())
    });
    let (data, out) = (work.text("data1"), work.text("never"));
    // A file of options may be empty.
    check(&["empty"], |path| words(&["train", &data, "--out", &out, "--config", path.to_str().unwrap()]));
}

#[test]
fn descriptions_of_embeddings() {
    let place = place();
    let (work, run) = (&place.work, &place.run);
    let (all, image) = (work.text("described.npy"), run_image());
    crate::program::run(["embed", run, "--device", "cpu", "--out", &all]);
    let beside = work.path("described.npy.json");
    let folder = tempfile::tempdir().unwrap();
    for (kind, path) in wrong_files(folder.path()) {
        if !path.is_file() {
            continue;
        }
        fs::copy(&path, &beside).unwrap();
        let arguments = words(&["search", run, "--device", "cpu", "--image", &image, "--embeddings", &all]);
        assert_eq!(complaint(&arguments, &beside), None, "{kind}");
    }
}

#[test]
fn checkpoints_and_steps() {
    let place = place();
    let folder = tempfile::tempdir().unwrap();
    let out = place.work.text("never.safetensors");
    check(&[], |path| words(&["step", path.to_str().unwrap(), &out]));
    let (mut complaints, run_folder) = (Vec::new(), folder.path().join("run"));
    fs::create_dir(&run_folder).unwrap();
    let (data, run_text) = (place.work.text("data1"), run_folder.to_str().unwrap());
    for (kind, path) in wrong_files(folder.path()) {
        if !path.is_file() {
            continue;
        }
        for name in ["best.safetensors", "last.safetensors"] {
            fs::copy(&path, run_folder.join(name)).unwrap();
        }
        for (arguments, name) in [
            (&["evaluate", run_text][..], "best.safetensors"),
            (&["retrieve", run_text, "--checkpoint", "last"], "last.safetensors"),
            (&["train", &data, "--out", run_text, "--resume"], "last.safetensors"),
        ] {
            complaints.extend(
                complaint(&words(arguments), &run_folder.join(name)).map(|text| format!("{kind}: {text}")),
            );
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Refusals that name what a file is, and what to do.
#[test]
fn what_a_file_is_is_named() {
    let place = place();
    let folder = tempfile::tempdir().unwrap();
    let files = wrong_files(folder.path());
    let data = place.work.text("data1");
    let text = |kind: &str| files[kind].display().to_string();
    for (kind, parts) in [
        ("zip", ["a zip archive", "unzip it"]),
        ("xz", ["xz-compressed", "unxz"]),
        ("bzip2", ["bzip2-compressed", "bunzip2"]),
        ("page", ["a web page (HTML)", "download the file itself"]),
        ("pointer", ["a Git LFS pointer", "git lfs pull"]),
        ("utf-16", ["UTF-16 text", "UTF-8"]),
        ("utf-16 without a mark", ["UTF-16 text", "UTF-8"]),
    ] {
        let path = text(kind);
        for option in ["--scene-graphs", "--image-data", "--captions", "--glove"] {
            refuse(prepare_with(option, Path::new(&path)), &parts);
        }
        refuse(["inspect", &path], &parts);
        refuse(["train", &data, "--out", "never", "--similarity", &path], &parts);
        refuse(["train", &data, "--out", "never", "--config", &path], &parts);
        refuse(["search", &place.run, "--device", "cpu", "--graph", &path], &parts);
        refuse(["evaluate", &place.run, "--device", "cpu", "--embeddings", &path], &parts);
        refuse(["step", &path, "never"], &parts);
    }
    for (kind, parts) in
        [("gzip of a zip", ["a zip archive", "unzip it"]), ("gzip of a page", ["a web page", "itself"])]
    {
        refuse(prepare_with("--glove", &files[kind]), &parts);
        refuse(prepare_with("--captions", &files[kind]), &parts);
    }
    refuse(
        ["search", &place.run, "--device", "cpu", "--graph", &text("gzip")],
        &["gzip-compressed", "gunzip"],
    );
}

/// Numbers near the largest integer, and long or odd values of options.
#[test]
fn numbers_are_bounded() {
    let place = place();
    let (data, out) = (place.work.text("data1"), place.work.text("bounded"));
    let reproduce =
        |more: &[&str]| words(&[&["reproduce", &data, "--out", &out, "--epochs", "1"], more].concat());
    for seeds in ["1001", "1000000000", "18446744073709551615"] {
        refuse(reproduce(&["--seeds", seeds]), &["--seeds: is", "give at most 1000"]);
    }
    for budget in ["18446744073709551616s", "99999999999999999999999999y", "-1s", "nan"] {
        scenerank().args(reproduce(&["--budget", budget])).assert().code(2);
    }
    for (option, value) in
        [("--temperature", "1e39"), ("--learning-rate", "1e-50"), ("--learning-rate", "1e308")]
    {
        let parts = [option, "is 1e", "give a positive number within single precision"];
        refuse(["train", &data, "--out", &out, option, value], &parts);
    }
    refuse(["train", &data, "--out", &out, "--margin=-1e300"], &["--margin: is -1e300", "finite"]);
    refuse(
        ["train", &data, "--out", &out, "--layers", "10000000"],
        &["--layers: is 10000000", "at most 100"],
    );
    refuse(["train", &data, "--out", &out, "--batch-size", "0"], &["--batch-size: is 0"]);
}

/// A budget as long as a number can tell is no limit.
#[test]
fn the_longest_budget_is_accepted() {
    let work = Workplace::new();
    let out = work.text("report");
    let data = work.text("data1");
    let mut arguments = vec!["reproduce", &data, "--out", &out, "--epochs", "1", "--device", "cpu"];
    arguments.extend(SMALL_NETWORK);
    // Stops before the first run, after all checks of the budget.
    arguments.extend(["--budget", "0s"]);
    run(&arguments);
    *arguments.last_mut().unwrap() = "18446744073709551615s";
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("scenerank"))
        .args(&arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The first run has started: the deadline was computed.
    let runs = work.path("report/runs");
    while !runs.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the first run");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Inputs that went wrong in earlier versions, if they are available.
#[test]
fn cases_that_went_wrong() {
    let place = place();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases");
    if !cases.is_dir() {
        println!("skipped: no ../shared/cases");
        return;
    }
    let out = place.work.text("case.data");
    let prepare = |case: &str, graphs: &str, glove: &str| {
        let file = |name: &str| cases.join(case).join(name).display().to_string();
        let [graphs, images, captions, glove] = [graphs, "id.json", "cap.json", glove].map(file);
        words(
            &[
                &["prepare", "--scene-graphs", &graphs, "--image-data", &images, "--captions", &captions][..],
                &["--glove", &glove, "--min-occurrences", "1", "--split", "60:20:20", "--out", &out],
            ]
            .concat(),
        )
    };
    let text = run(prepare("captions_not_in_ascii", "sg.json", "glove.txt"));
    assert!(text.contains("0 without known word"), "{text}");
    run(prepare("visual_genome_1_0_id", "sg.json", "glove.txt"));
    refuse(
        prepare("zip_as_downloaded", "scene_graphs.json.zip", "glove.txt"),
        &["a zip archive", "unzip it"],
    );
    refuse(prepare("zip_as_downloaded", "sg.json", "glove.6B.zip"), &["glove.6B.zip", "a zip archive"]);
    refuse(prepare("page_instead_of_glove", "sg.json", "glove.txt"), &["page_instead_of_glove/glove.txt: "]);
    let case = |path: &str| cases.join(path).display().to_string();
    let npy = case("npy-multiline-error/x.npy");
    refuse(["evaluate", &place.run, "--device", "cpu", "--embeddings", &npy], &["x.npy: header: "]);
    for (name, parts) in [
        ("layers-1e7", ["layers is 10000000", "at most 100"]),
        ("temperature-0", ["temperature is 0", "positive number"]),
    ] {
        let input = case(&format!("step-layers-and-temperature/{name}.safetensors"));
        refuse(["step", &input, &place.work.text("never"), "--device", "reference"], &parts);
    }
    let data = case("terminal-escapes/x.data");
    for arguments in [&["inspect", &data, "--image", "1"][..], &["inspect", &data, "--vocabulary"]] {
        let text = run(arguments);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}
