//! Conversion of boxes, sizes and addresses from raw files to a data file, including odd ones.

use crate::raw_files::{RawFiles, graph, in_one_line};
use scenerank::data::Dataset;
use scenerank::data::object_box::{ImageSize, ObjectBox};
use scenerank::data::prepare::prepare;
use scenerank::data::selection::GraphSource;
use scenerank::data::stages::Stages;
use scenerank::data::subset::write_subset;
use serde_json::{Value, json};

/// Box of object `number` in image `id`, with the numbers of [`graph`].
fn box_of(id: u64, number: u64) -> [u64; 4] {
    [10 * number + id, 5 * number, 30 + number, 20 + id]
}

/// Graphs with a box for each object, in Visual Genome's fields.
fn graphs() -> Vec<Value> {
    let mut graphs: Vec<Value> = (1..=8).map(graph).collect();
    for graph in &mut graphs {
        let image = graph["image_id"].as_u64().unwrap();
        for object in graph["objects"].as_array_mut().unwrap() {
            let number = object["object_id"].as_u64().unwrap() - 10 * image;
            for (field, value) in ["x", "y", "w", "h"].into_iter().zip(box_of(image, number)) {
                object[field] = json!(value);
            }
        }
    }
    graphs
}

/// Writes image data in which every image is 200 by 100 and has an address.
fn write_image_data(files: &RawFiles, change: impl Fn(u64, &mut Value)) {
    let text = std::fs::read_to_string(files.path("image_data.json")).unwrap();
    let mut images: Value = serde_json::from_str(&text).unwrap();
    for image in images.as_array_mut().unwrap() {
        let id = image["image_id"].as_u64().unwrap();
        (image["width"], image["height"]) = (json!(200), json!(100));
        image["url"] = json!(format!("https://example.org/VG/{id}.jpg?a=1&b=2"));
        change(id, image);
    }
    files.write("image_data.json", &images.to_string());
}

fn prepared(files: &RawFiles, graphs: &Value) -> (Stages, Dataset) {
    files.write("scene_graphs.json", &graphs.to_string());
    let stages = prepare(&files.preparation(), files.path("out.data")).unwrap();
    (stages, Dataset::open(files.path("out.data")).unwrap())
}

fn boxes(data: &Dataset, id: u64) -> Vec<Option<[u64; 4]>> {
    let image = data.find_image(id).unwrap();
    let numbers = |found: ObjectBox| [found.x, found.y, found.width, found.height].map(u64::from);
    data.boxes(image).map(|found| found.map(numbers)).collect()
}

/// Man, dog and ball are numbers 1 to 3. The unicorn of image 3 precedes them in the file and has a rare
/// type.
fn check_all(data: &Dataset) {
    for id in [1, 2, 3, 7, 8] {
        let want: Vec<_> = (1..=3).map(|number| Some(box_of(id, number))).collect();
        assert_eq!(boxes(data, id), want, "image {id}");
        let image = data.find_image(id).unwrap();
        assert_eq!(data.image_size(image), Some(ImageSize { width: 200, height: 100 }));
        let names = data.object_names(data.graph(image));
        assert_eq!(names, ["man", "dog", "ball"], "image {id}");
    }
}

#[test]
fn boxes_stay_with_their_objects_through_the_filters() {
    let files = RawFiles::new();
    write_image_data(&files, |_, _| ());
    let (stages, data) = prepared(&files, &Value::Array(graphs()));
    check_all(&data);
    assert_eq!(data.url(data.find_image(3).unwrap()), Some("https://example.org/VG/3.jpg?a=1&b=2"));
    let pictures = stages.pictures;
    assert_eq!((pictures.images_with_size, pictures.boxes, pictures.boxes_cut, pictures.urls), (6, 18, 0, 6));
    assert_eq!((stages.oddities.objects_without_box, stages.oddities.boxes_without_area), (0, 0));

    // A subset keeps the boxes.
    let images = [data.find_image(3).unwrap(), data.find_image(7).unwrap()];
    let mut images = images.to_vec();
    images.sort();
    write_subset(&data, &images, files.path("subset.data")).unwrap();
    let subset = Dataset::open(files.path("subset.data")).unwrap();
    for id in [3, 7] {
        assert_eq!(boxes(&subset, id), boxes(&data, id));
        assert_eq!(subset.url(subset.find_image(id).unwrap()), data.url(data.find_image(id).unwrap()));
    }
}

#[test]
fn objects_json_and_gqa_give_the_same_boxes() {
    let files = RawFiles::new();
    write_image_data(&files, |_, _| ());
    let graphs = graphs();
    let part = |field: &str| {
        let of_image = |graph: &Value| json!({ "image_id": graph["image_id"], field: graph[field] });
        files.write(
            &format!("{field}.json"),
            &graphs.iter().rev().map(of_image).collect::<Vec<_>>().into_iter().collect::<Value>().to_string(),
        )
    };
    let pair = GraphSource::ObjectsAndRelationships(part("objects"), part("relationships"));

    let gqa: serde_json::Map<String, Value> = graphs
        .iter()
        .map(|graph| {
            let mut objects = serde_json::Map::new();
            for object in graph["objects"].as_array().unwrap() {
                let mut object = object.clone();
                let id = object["object_id"].to_string();
                object["name"] = object["names"][0].clone();
                object["relations"] = graph["relationships"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|relation| relation["subject_id"] == object["object_id"])
                    .map(|relation| json!({ "name": relation["predicate"], "object": relation["object_id"].to_string() }))
                    .collect();
                objects.insert(id, object);
            }
            (graph["image_id"].to_string(), json!({ "width": 200, "height": 100, "objects": objects }))
        })
        .collect();
    let gqa = GraphSource::SceneGraphs(files.write("gqa.json", &Value::Object(gqa).to_string()));
    for (name, graphs) in [("pair", pair), ("gqa", gqa)] {
        // GQA's own size takes precedence; the other formats have none if `image_data.json` has none.
        write_image_data(&files, |_, image| {
            if name == "gqa" {
                (image["width"], image["height"]) = (json!(7), json!(null));
            }
        });
        let mut preparation = files.preparation();
        preparation.sources.graphs = graphs;
        prepare(&preparation, files.path("out.data")).unwrap();
        check_all(&Dataset::open(files.path("out.data")).unwrap());
    }
}

#[test]
fn files_without_boxes_have_none() {
    let files = RawFiles::new();
    let (stages, data) = prepared(&files, &Value::Array((1..=8).map(graph).collect()));
    assert_eq!(stages.oddities.objects_without_box, 25);
    assert_eq!(stages.pictures, Default::default());
    for image in 0..data.image_count() {
        assert_eq!((data.image_size(image), data.url(image), data.boxes(image).count()), (None, None, 0));
    }
    // Empty sections are not written: the file is the same as in older versions.
    let bytes = std::fs::read(files.path("out.data")).unwrap();
    for name in ["image_size", "object_box", "url_text"] {
        assert!(!bytes[..4096].windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
    }
}

#[test]
fn odd_boxes_are_cut_or_left_out_and_counted() {
    let files = RawFiles::new();
    write_image_data(&files, |id, image| match id {
        7 => image["height"] = json!(null),
        8 => image["width"] = json!(0),
        _ => {}
    });
    let mut graphs = graphs();
    let mut set = |id: usize, number: usize, numbers: [Value; 4]| {
        for (field, value) in ["x", "y", "w", "h"].into_iter().zip(numbers) {
            graphs[id - 1]["objects"][number - 1][field] = value;
        }
    };
    // Across the left and upper border, across the right and lower one, and completely outside.
    set(1, 1, [json!(-5), json!(-1), json!(25), json!(11)]);
    set(1, 2, [json!(190), json!(95.4), json!(1e300), json!(6)]);
    set(1, 3, [json!(200), json!(0), json!(10), json!(10)]);
    // No width, no numbers, half a pixel.
    set(2, 1, [json!(5), json!(5), json!(0), json!(10)]);
    set(2, 2, [json!(5), json!(null), json!(10), json!(10)]);
    set(2, 3, [json!(4.4), json!(4.6), json!(10.2), json!(0.7)]);
    let (stages, data) = prepared(&files, &Value::Array(graphs));
    assert_eq!(boxes(&data, 1), [Some([0, 0, 20, 10]), Some([190, 95, 10, 5]), None]);
    assert_eq!(boxes(&data, 2), [None; 3]);
    // The boxes of this image are unknown, those of others are not.
    assert_eq!(boxes(&data, 7), [None; 3]);
    assert_eq!(data.image_size(data.find_image(8).unwrap()), None);
    let (pictures, oddities) = (stages.pictures, stages.oddities);
    assert_eq!((pictures.boxes_cut, pictures.boxes_outside), (2, 1));
    assert_eq!((pictures.images_with_size, pictures.boxes_without_image_size), (4, 6));
    assert_eq!((oddities.objects_without_box, oddities.boxes_without_area), (1, 2));
    // Images 1 and 2 keep two and none, images 3 and 4 three each.
    assert_eq!(pictures.boxes, 2 + 6);
    let text = in_one_line(&stages);
    assert!(
        text.contains("8 kept, 2 of them cut at the border; 1 outside, 6 in images of unknown size"),
        "{text}"
    );
}

#[test]
fn addresses_are_of_the_web() {
    let files = RawFiles::new();
    write_image_data(&files, |id, image| match id {
        1 => image["url"] = json!("javascript:alert(1)"),
        2 => image["url"] = json!("file:///etc/passwd"),
        3 => image["url"] = json!("https://example.org/\" onerror=\"alert(1)"),
        7 => image["url"] = json!(null),
        _ => {}
    });
    let (stages, data) = prepared(&files, &Value::Array(graphs()));
    assert_eq!((stages.pictures.urls, stages.pictures.urls_refused), (2, 3));
    for id in [1, 2, 3, 7] {
        assert_eq!(data.url(data.find_image(id).unwrap()), None, "image {id}");
    }
    assert_eq!(data.url(data.find_image(8).unwrap()), Some("https://example.org/VG/8.jpg?a=1&b=2"));
}

#[test]
fn words_in_place_of_numbers_are_refused() {
    let files = RawFiles::new();
    let prepare_error = || prepare(&files.preparation(), files.path("out.data")).unwrap_err().to_string();
    let mut wrong = graphs();
    wrong[4]["objects"][1]["w"] = json!("wide");
    files.write("scene_graphs.json", &Value::Array(wrong).to_string());
    let error = prepare_error();
    assert!(
        error.contains("scene_graphs.json: line 1, column ") && error.contains("invalid type"),
        "{error}"
    );
    files.write("scene_graphs.json", &Value::Array(graphs()).to_string());
    for (field, value) in [("width", json!("640")), ("url", json!(7))] {
        write_image_data(&files, |id, image| {
            if id == 2 {
                image[field] = value.clone();
            }
        });
        let error = prepare_error();
        assert!(
            error.contains("image_data.json: line 1, column ") && error.contains("invalid type"),
            "{error}"
        );
    }
}
