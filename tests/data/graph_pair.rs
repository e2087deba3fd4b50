//! Objects and relationships in two files: the data of the same graphs in one file, whatever the order of the second.

use std::fs;
use std::path::Path;

use scenerank::data::Dataset;
use scenerank::data::prepare::{Preparation, prepare};
use scenerank::data::selection::GraphSource;
use serde_json::{Value, json};

use crate::raw_files::{RawFiles, gzip};

/// Enough images that every kind of value of their graphs goes to a temporary file.
const IMAGES: u64 = 7_000;
/// An image that only the second file has, without relationships.
const ONLY_RELATED: u64 = 1_000_000;

/// An image of four objects, of which one was merged with another and one may be given twice. Some relationships refer to the
/// merged id, and some to an absent object.
fn graph(id: u64) -> Value {
    let object = |number: u64| {
        let name = ["man", "dog", "ball"][((id * 7 + number * number * 5) % 11 % 3) as usize];
        json!({ "object_id": 10 * id + number, "names": [name], "x": number, "y": id % 50, "w": 20, "h": 30 })
    };
    let mut objects: Vec<Value> = (0..4).map(object).collect();
    objects[3]["merged_object_ids"] = json!([10 * id + 9]);
    if id.is_multiple_of(13) {
        objects.insert(2, json!({ "object_id": 10 * id, "names": ["unicorn"] }));
    }
    let relation = |number: u64| {
        let predicate = ["throws", "on", "near"][((id + number) % 5 % 3) as usize];
        let (subject, object) = ((id + number) % 4, if number == 2 { 9 } else { (id / 4 + number) % 4 });
        json!({ "predicate": predicate, "subject_id": 10 * id + subject, "object_id": 10 * id + object })
    };
    let mut relationships: Vec<Value> = (0..2 + id % 4).map(relation).collect();
    if id.is_multiple_of(50) {
        relationships[0]["object_id"] = json!(10 * id + 8);
    }
    if has_no_relationships(id) {
        relationships.clear();
    }
    json!({ "image_id": id, "objects": objects, "relationships": relationships })
}

/// The second file does not have these images.
fn has_no_relationships(id: u64) -> bool {
    id.is_multiple_of(97)
}

/// Records with only `kept` of `objects` and `relationships`.
fn part(graphs: impl IntoIterator<Item = Value>, kept: &str) -> Vec<Value> {
    let part = |graph: Value| json!({ "image_id": graph["image_id"], kept: graph[kept] });
    graphs.into_iter().map(part).collect()
}

fn text(records: &[Value]) -> String {
    Value::Array(records.to_vec()).to_string()
}

/// Images and captions of the graphs.
fn files() -> (RawFiles, Vec<Value>) {
    let files = RawFiles::new();
    let images: Vec<Value> = (1..=IMAGES).map(|id| json!({ "image_id": id, "coco_id": id })).collect();
    files.write("image_data.json", &text(&images));
    let caption = |id: u64| {
        let text = ["a man", "dog", "ball"][id as usize % 3];
        json!({ "id": id, "image_id": id, "caption": text })
    };
    let captions: Vec<Value> = (1..=IMAGES).map(caption).collect();
    files.write("captions.json", &json!({ "annotations": captions }).to_string());
    // Ids neither rise nor fall with the number in the file.
    let graphs = (0..IMAGES).map(|number| graph(number * 4_999 % IMAGES + 1)).collect();
    (files, graphs)
}

/// Writes both files to a folder of their own, so that they have the same names in every data file.
fn pair(files: &RawFiles, folder: &str, objects: &[Value], relationships: &[Value]) -> Preparation {
    fs::create_dir_all(files.path(folder)).unwrap();
    let mut preparation = files.preparation();
    preparation.filter.skip_absent_objects = true;
    preparation.sources.graphs = GraphSource::ObjectsAndRelationships(
        files.write(&format!("{folder}/objects.json"), &text(objects)),
        files.write(&format!("{folder}/relationships.json"), &text(relationships)),
    );
    preparation
}

#[test]
fn every_order_of_two_files_gives_the_same_bytes() {
    let (files, graphs) = files();
    files.write("scene_graphs.json", &text(&graphs));
    let mut joined = files.preparation();
    joined.filter.skip_absent_objects = true;
    let want = prepare(&joined, files.path("joined.data")).unwrap();
    let fingerprint = Dataset::open(files.path("joined.data")).unwrap().fingerprint();
    assert!(want.oddities.relationships_without_object > 100 && want.oddities.repeated_objects > 500);
    assert_eq!(want.kept.images, IMAGES - IMAGES / 97);

    let objects = part(graphs.clone(), "objects");
    let related = || graphs.iter().filter(|graph| !has_no_relationships(graph["image_id"].as_u64().unwrap()));
    let mut in_order = part(related().cloned(), "relationships");
    in_order.insert(100, json!({ "image_id": ONLY_RELATED, "relationships": [] }));
    let reversed: Vec<Value> = in_order.iter().rev().cloned().collect();
    let count = in_order.len();
    // The factor is prime, and no divisor of the number of records.
    let mixed: Vec<Value> = (0..count).map(|number| in_order[number * 3_001 % count].clone()).collect();
    let mut bytes: Option<Vec<u8>> = None;
    for (order, relationships) in [("same", in_order), ("reversed", reversed), ("mixed", mixed)] {
        let preparation = pair(&files, order, &objects, &relationships);
        for compressed in [false, true] {
            if compressed {
                for path in ["objects.json", "relationships.json"].map(|name| files.path(order).join(name)) {
                    fs::rename(gzip(&path), &path).unwrap();
                }
            }
            let out = files.path("pair.data");
            assert_eq!(prepare(&preparation, &out).unwrap(), want, "{order}, compressed: {compressed}");
            assert_eq!(Dataset::open(&out).unwrap().fingerprint(), fingerprint, "{order}");
            let got = fs::read(&out).unwrap();
            assert!(*bytes.get_or_insert_with(|| got.clone()) == got, "{order}, compressed: {compressed}");
        }
    }
}

#[test]
fn two_files_that_do_not_match_are_refused() {
    let (files, graphs) = files();
    // None of them refers to an absent object.
    let sound = |id: u64| !id.is_multiple_of(50) && !has_no_relationships(id);
    let sound = graphs.into_iter().filter(|graph| sound(graph["image_id"].as_u64().unwrap()));
    let graphs: Vec<Value> = sound.take(40).collect();
    let (objects, relationships) = (part(graphs.clone(), "objects"), part(graphs.clone(), "relationships"));
    let out = files.path("refused.data");
    let refused = |preparation: &Preparation, parts: &[&str]| {
        let error = prepare(preparation, &out).unwrap_err().to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "`{part}` is not in: {error}"));
        let left = fs::read_dir(files.folder.path()).unwrap().flatten().map(|entry| entry.path());
        let is_left = |path: &Path| path.to_string_lossy().contains("/.scenerank") || path == out;
        assert!(left.into_iter().all(|path| !is_left(&path)), "{parts:?}");
    };
    let twice = |records: &[Value]| [records, &records[7..8]].concat();
    let seventh = format!("image {}: it appears twice in the file; remove one", graphs[7]["image_id"]);
    refused(&pair(&files, "pair", &twice(&objects), &relationships), &[&format!("objects.json: {seventh}")]);
    let preparation = pair(&files, "pair", &objects, &twice(&relationships));
    refused(&preparation, &[&format!("relationships.json: {seventh}")]);
    // An image with relationships that the first file does not have.
    let parts = [&format!("relationships.json: image {}", graphs[39]["image_id"]), "does not have it"];
    refused(&pair(&files, "pair", &objects[..39], &relationships), &parts);
    // An object of another image.
    let mut moved = relationships.clone();
    moved[20]["relationships"][1]["subject_id"] = json!(objects[19]["objects"][0]["object_id"]);
    let mut preparation = pair(&files, "pair", &objects, &moved);
    preparation.filter.skip_absent_objects = false;
    let place = format!("image {}, relationship 2: its subject, object ", moved[20]["image_id"]);
    refused(&preparation, &[&place, "--skip-absent-objects"]);
}
