//! What public files contain beyond their formats: NaN, ids as text, words of several fields, accents, endless lines.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use scenerank::data::contents::{DatasetContents, IMAGE, IN_IMAGE, TypeContents};
use scenerank::data::prepare::{Reading, prepare};
use scenerank::data::stages::Stages;
use scenerank::data::subset::{choose, write_subset};
use scenerank::data::words::Tokeniser;
use scenerank::data::{Dataset, Split};
use serde_json::{Value, json};

use crate::raw_files::{RawFiles, gzip, in_one_line};

fn prepared(files: &RawFiles) -> (Stages, u64) {
    let stages = prepare(&files.preparation(), files.path("out.data")).unwrap();
    (stages, Dataset::open(files.path("out.data")).unwrap().fingerprint())
}

fn refused(files: &RawFiles) -> String {
    prepare(&files.preparation(), files.path("refused.data")).unwrap_err().to_string()
}

fn text(files: &RawFiles, name: &str) -> String {
    std::fs::read_to_string(files.path(name)).unwrap()
}

/// `text` with `new` in place of the first `old`, which must be there.
fn with(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "{old} in {text}");
    text.replacen(old, new, 1)
}

#[test]
fn nan_is_no_id_and_no_box() {
    let files = RawFiles::new();
    let (plain, fingerprint) = prepared(&files);
    let images = text(&files, "image_data.json");
    for spelled in ["NaN", "Infinity", "-Infinity"] {
        let spelled = format!("\"coco_id\": {spelled} ");
        files.write("image_data.json", &with(&images, "\"coco_id\":null", &spelled));
        let (stages, found) = prepared(&files);
        assert_eq!((stages.with_coco_id, stages.spellings.not_finite, found), (7, 1, fingerprint));
    }
    files.write(
        "image_data.json",
        &with(&images, "\"coco_id\":null", "\"coco_id\":null,\"width\":NaN,\"url\":NaN"),
    );
    assert_eq!(prepared(&files).1, fingerprint);

    let graphs = text(&files, "scene_graphs.json");
    files.write(
        "scene_graphs.json",
        &with(&graphs, "\"object_id\":11", "\"x\":NaN,\"y\":1,\"w\":-Infinity,\"h\":4,\"object_id\":11"),
    );
    let (stages, found) = prepared(&files);
    // Two of them in the image data.
    assert_eq!((stages.spellings.not_finite, found), (4, fingerprint));
    assert_eq!(stages.oddities.objects_without_box, plain.oddities.objects_without_box);

    // Where a value must be given, NaN is refused, with its place in the file as it is.
    for (old, new, problem) in [
        (
            "[\"ball\",\"thing\"]",
            "[NaN]",
            "not of the expected schema: invalid type: NaN or infinity, expected a string",
        ),
        (
            "\"predicate\":\"throws\"",
            "\"predicate\": -Infinity",
            "invalid type: NaN or infinity, expected a string",
        ),
        ("\"object_id\":83", "\"object_id\": NaN", "an id is missing or negative"),
        ("\"object_id\":83", "\"object_id\": Nan", "not JSON"),
    ] {
        let wrong = with(&with(&graphs, "\"object_id\":81", "\"x\":NaN,\"object_id\":81"), old, new);
        files.write("scene_graphs.json", &wrong);
        let error = refused(&files);
        let column: usize =
            error.split("column ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        let token = wrong.find(new).unwrap() + new.len();
        assert!(error.contains(problem), "{error}");
        assert!(error.contains("scene_graphs.json: line 1, column "), "{error}");
        assert!(column.abs_diff(token) <= 3, "column {column}, the value ends at {token}");
    }
    files.write("scene_graphs.json", &with(&graphs, "\"image_id\":7", "\"image_id\":NaN"));
    let error = refused(&files);
    assert!(error.contains("scene_graphs.json: record 2: it has no `image_id`; check"), "{error}");
}

#[test]
fn respelled_ids_are_counted() {
    let files = RawFiles::new();
    let (plain, fingerprint) = prepared(&files);
    assert_eq!(plain.spellings, Default::default());
    let images = text(&files, "image_data.json");
    let images =
        with(&with(&images, "\"coco_id\":null", "\"coco_id\":-1"), "\"coco_id\":105", "\"coco_id\":105.0");
    files.write("image_data.json", &with(&images, "\"image_id\":1,", "\"image_id\":\"1\","));
    let graphs = text(&files, "scene_graphs.json");
    let graphs = with(
        &graphs,
        "\"object_id\":11,",
        "\"object_id\":11.0,\"merged_object_ids\":[\"9\", 8.0, -1, NaN, null],",
    );
    files.write("scene_graphs.json", &with(&graphs, "\"subject_id\":11", "\"subject_id\":\"11\""));
    let captions = text(&files, "captions.json");
    files.write("captions.json", &with(&captions, "\"image_id\":999", "\"image_id\":\"999\""));
    let (stages, found) = prepared(&files);
    let json = serde_json::to_value(&stages).unwrap();
    assert_eq!([&json["respelled_ids"], &json["placeholder_ids"], &json["not_finite"]], [7, 2, 1]);
    let line =
        "7 ids as text or with a fraction, 2 negative or empty ids read as none, 1 NaN or infinite values";
    assert!(in_one_line(&stages).contains(line), "{stages}");
    assert_eq!(found, fingerprint);
    assert_eq!(Stages { spellings: plain.spellings, ..stages }, plain);
}

/// GQA's ids are texts; exports write numbers.
#[test]
fn gqa_relations_may_name_objects_by_number() {
    let files = RawFiles::new();
    let graph = |object: Value| {
        let relations = json!([{ "name": "throws", "object": object }]);
        let objects = json!({ "1": { "name": "man", "relations": relations }, "2": { "name": "ball", "relations": [] },
            "3": { "name": "dog", "relations": [] } });
        let graphs = (1..=8).map(|id| (id.to_string(), json!({ "objects": objects.clone() })));
        files.write("scene_graphs.json", &Value::Object(graphs.collect()).to_string());
        prepared(&files)
    };
    assert_eq!(graph(json!("2")), graph(json!(2)));
}

#[test]
fn the_vector_is_the_last_fields_of_a_line() {
    let files = RawFiles::new();
    let (_, fingerprint) = prepared(&files);
    let glove = text(&files, "glove.txt");
    for added in [
        "a b 1 2 3",
        ". . . 1 1 2 3",
        "5 1 2 3",
        "1 2 3 4 5",
        " 1 2 3",
        "\t1\t2\t3",
        "\u{a0} 1 2 3",
        "x\u{a0}y 1 2 3",
        "\u{85} 1 2 3",
        "\u{2028}z 1 2 3",
        "x\u{b}y 1 2 3",
        "x\u{c}y 1 2 3",
    ] {
        for text in [format!("{added}\n{glove}"), format!("{glove}{added}\n"), format!("{glove}{added}\r\n")]
        {
            files.write("glove.txt", &text);
            assert_eq!(prepared(&files).1, fingerprint, "{text:?}");
        }
        files.write("glove.txt", &format!("8 3\n{added}\n{glove}"));
        assert_eq!(prepared(&files).1, fingerprint, "{added:?}");
    }
    // A vector with a number too many belongs to a word of two fields.
    files.write("glove.txt", &format!("{glove}man 1 1 2 3\n"));
    assert_eq!(prepared(&files).1, fingerprint);
}

#[test]
fn zeros_may_follow_any_gzip_member() {
    let files = RawFiles::new();
    let (plain, fingerprint) = prepared(&files);
    for name in ["scene_graphs.json", "image_data.json", "captions.json", "glove.txt"] {
        let text = text(&files, name);
        let (first, second) = text.split_at(text.len() / 2);
        let member = |text: &str| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let bytes = [member(first), vec![0; 300_000], member(second), vec![0; 7]].concat();
        std::fs::write(files.path(name), bytes).unwrap();
    }
    assert_eq!(prepared(&files), (plain, fingerprint));
}

/// Files whose captions of image 1 are `caption`, and whose word vectors have `word`.
fn captioned(caption: &str, word: &str) -> RawFiles {
    let files = RawFiles::new();
    let captions = with(&text(&files, "captions.json"), "\"A man, a DOG.\\n\"", &json!(caption).to_string());
    let captions =
        with(&captions, "\"image_id\":101,\"caption\":\"dog\"", "\"image_id\":999,\"caption\":\"dog\"");
    files.write("captions.json", &captions);
    let glove = text(&files, "glove.txt");
    files.write("glove.txt", &format!("{glove}{word} 0 3 4\n"));
    files
}

#[test]
fn words_of_any_script_are_looked_up() {
    for (caption, word) in [
        ("Un CAFÉ, s'il vous plaît", "café"),
        ("cafe\u{301}", "café"),
        ("café", "cafe\u{301}"),
        ("男性 馬 木", "男性"),
        ("男性が馬に乗っている。", "馬"),
        ("Ένας σκύλος", "σκύλος"),
    ] {
        let files = captioned(caption, word);
        let mut preparation = files.preparation();
        preparation.split = "1:0:0".parse().unwrap();
        prepare(&preparation, files.path("out.data")).unwrap();
        let data = Dataset::open(files.path("out.data")).unwrap();
        let vector = |data: &Dataset| {
            let image = data.find_image(1)?;
            Some(data.caption_vectors()[3 * image..][..3].to_vec())
        };
        assert_eq!(vector(&data).unwrap(), [0.0, 0.6, 0.8], "{caption}");
        assert_eq!(data.tokeniser(), Tokeniser::Unicode);
        assert_eq!(data.metadata()["options"]["tokeniser"], "unicode");
        // The words of older versions, on request.
        preparation.reading.tokeniser = Tokeniser::Ascii;
        prepare(&preparation, files.path("old.data")).unwrap();
        let data = Dataset::open(files.path("old.data")).unwrap();
        assert_eq!((vector(&data), data.tokeniser()), (None, Tokeniser::Ascii), "{caption}");
    }
    // Neither tokeniser changes a text in ASCII.
    let files = RawFiles::new();
    let (plain, fingerprint) = prepared(&files);
    let mut preparation = files.preparation();
    preparation.reading.tokeniser = Tokeniser::Ascii;
    let stages = prepare(&preparation, files.path("ascii.data")).unwrap();
    let data = Dataset::open(files.path("ascii.data")).unwrap();
    assert_eq!((stages, data.fingerprint()), (plain, fingerprint));
}

#[test]
fn the_tokeniser_is_known_of_older_files_and_of_subsets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.data");
    let files = RawFiles::new();
    prepare(&files.preparation(), files.path("out.data")).unwrap();
    let data = Dataset::open(files.path("out.data")).unwrap();
    let images: Vec<usize> = data.split(Split::All).collect();
    write_subset(&data, &images, &path).unwrap();
    assert_eq!(Dataset::open(&path).unwrap().tokeniser(), Tokeniser::Unicode);
    assert!(choose(&data, 1).is_err() || data.image_count() > 0);

    let write = |metadata: Value| {
        let mut contents = DatasetContents {
            word_width: 1,
            objects: vec![TypeContents::new(IMAGE, None)],
            predicates: vec![TypeContents::new(IN_IMAGE, None)],
            metadata,
            ..Default::default()
        };
        let mut image =
            scenerank::data::contents::ImageContents { caption_vector: vec![1.0], ..Default::default() };
        image.graph.node_object = vec![0];
        contents.images[0] = vec![image];
        contents.write(&path).unwrap();
        Dataset::open(&path)
    };
    assert_eq!(write(json!({})).unwrap().tokeniser(), Tokeniser::Ascii);
    assert_eq!(write(json!({ "options": { "seed": 1 } })).unwrap().tokeniser(), Tokeniser::Ascii);
    let error = write(json!({ "options": { "tokeniser": "future" } })).unwrap_err().to_string();
    assert!(error.contains("x.data: metadata: unknown variant `future`"), "{error}");
}

#[test]
fn useless_word_vectors_are_blamed_themselves() {
    let files = RawFiles::new();
    files.write("glove.txt", "Mann 1 2 3\nHund 1 2 3\n");
    let error = refused(&files);
    assert!(error.contains("glove.txt: words: none of the"), "{error}");
    assert!(
        error.contains("which begin with `Mann`; give vectors of words in the language of the captions"),
        "{error}"
    );
    // Only the names have vectors.
    files.write("glove.txt", "image 1 2 3\non 1 2 3\n");
    let error = refused(&files);
    assert!(
        error.contains("glove.txt: words: no caption of the 6 images has a word with a vector"),
        "{error}"
    );
}

/// Text that packs a thousand times smaller, as that of a gzip bomb.
#[test]
fn gzip_bombs_are_refused_unless_allowed() {
    let files = RawFiles::new();
    let (_, fingerprint) = prepared(&files);
    for name in ["scene_graphs.json", "image_data.json", "captions.json", "glove.txt"] {
        let plain = text(&files, name);
        let lines = "\n".repeat(6 << 20);
        files.write(name, &format!("{plain}{lines}"));
        std::fs::rename(gzip(&files.path(name)), files.path(name)).unwrap();
        let error = refused(&files);
        assert!(
            error.contains(&format!("{name}: gzip stream: it unpacks to more than 200 times its size")),
            "{error}"
        );
        assert!(error.ends_with("unpack it with gunzip or raise --max-expansion"), "{error}");
        let mut preparation = files.preparation();
        preparation.reading = Reading { most_expansion: 2000, ..Default::default() };
        prepare(&preparation, files.path("out.data")).unwrap();
        assert_eq!(Dataset::open(files.path("out.data")).unwrap().fingerprint(), fingerprint, "{name}");
        files.write(name, &plain);
    }
}

#[test]
fn endless_lines_and_records_are_refused() {
    let long = "x".repeat(5 << 20);
    for (name, old, new, problem) in [
        (
            "glove.txt",
            "man 3 4 0",
            format!("{} 3 4 0", &long[..3 << 20]),
            "line 1: a line of more than 2097152 bytes",
        ),
        (
            "captions.json",
            "\"unheard-of\"",
            format!("\"{long}\""),
            "after 5 records: a record of more than 4 MiB",
        ),
        (
            "scene_graphs.json",
            "\"throws\"",
            format!("\"{long}\""),
            "after 0 records: a record of more than 4 MiB",
        ),
        ("image_data.json", "\"coco_id\":null", format!("\"url\":\"{long}\""), "a record of more than 4 MiB"),
    ] {
        let files = RawFiles::new();
        files.write(name, &with(&text(&files, name), old, &new));
        let error = refused(&files);
        assert!(error.contains(problem) && error.chars().count() <= 300, "{error}");
    }
    // What is skipped may be long.
    let files = RawFiles::new();
    let (_, fingerprint) = prepared(&files);
    let captions = with(&text(&files, "captions.json"), "\"year\":2017", &format!("\"year\":\"{long}\""));
    files.write("captions.json", &captions);
    assert_eq!(prepared(&files).1, fingerprint);
}

/// A pipe has one reader and no length, as `<(zcat glove.txt.gz)` of a shell.
#[cfg(unix)]
#[test]
fn inputs_may_be_pipes() {
    let files = RawFiles::new();
    let (_, fingerprint) = prepared(&files);
    for name in ["scene_graphs.json", "glove.txt"] {
        let content = std::fs::read(files.path(name)).unwrap();
        std::fs::remove_file(files.path(name)).unwrap();
        let made = std::process::Command::new("mkfifo").arg(files.path(name)).status().unwrap();
        assert!(made.success());
        let path = files.path(name);
        let writer = std::thread::spawn(move || std::fs::write(path, content).unwrap());
        assert_eq!(prepared(&files).1, fingerprint, "{name}");
        writer.join().unwrap();
        std::fs::remove_file(files.path(name)).unwrap();
        // The other file is read from a pipe alone.
        let whole = RawFiles::new();
        std::fs::copy(whole.path(name), files.path(name)).unwrap();
    }
}
