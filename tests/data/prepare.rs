//! Preparation of a data file: every schema, with results computed by hand or counted independently.

use std::path::PathBuf;

use crate::raw_files::{RawFiles, graph, gzip, in_one_line};
use scenerank::data::prepare::{Preparation, Reading, prepare};
use scenerank::data::query_graph::read_query_graph;
use scenerank::data::selection::{CountOver, Filter, GraphSource, Selection, Sources, select};
use scenerank::data::split::{Ids, SplitBy, SplitRatio, Twins, divide};
use scenerank::data::stages::Stages;
use scenerank::data::{Dataset, Split};
use scenerank::train::config::TrainOptions;
use serde_json::{Value, json};

fn open(files: &RawFiles) -> Dataset {
    Dataset::open(files.path("out.data")).unwrap()
}

#[test]
fn every_stage_is_as_computed_by_hand() {
    let files = RawFiles::new();
    let stages = prepare(&files.preparation(), files.path("out.data")).unwrap();
    assert_eq!((stages.graph_file.images, stages.graph_file.objects), (8, 25));
    assert_eq!(stages.graph_file.relationships, 26);
    assert_eq!((stages.object_names, stages.predicate_names), (4, 3));
    assert_eq!((stages.with_coco_id, stages.joined.images), (7, 6));
    assert_eq!((stages.object_types, stages.predicate_types), (3, 2));
    assert_eq!((stages.filtered_graph_file.images, stages.filtered.images), (8, 6));
    // Each image has one duplicate; 2 of its relationships remain.
    assert_eq!((stages.duplicate_relationships, stages.filtered.relationships), (6, 12));
    assert_eq!((stages.captions_read, stages.captions_repeated, stages.captions), (9, 1, 8));
    assert_eq!((stages.captions_without_known_word, stages.images_without_known_word), (2, 1));
    assert_eq!((stages.kept.images, stages.splits), (5, [3, 1, 1]));

    let data = open(&files);
    assert_eq!((data.image_count(), data.word_width()), (5, 3));
    assert_eq!((data.split(Split::Train), data.split(Split::Validation)), (0..3, 3..4));
    assert_eq!((data.split(Split::Test), data.split(Split::All)), (4..5, 0..5));
    let mut ids: Vec<u64> = (0..5).map(|image| data.image_id(image)).collect();
    assert!(ids[..3].is_sorted());
    ids.sort();
    assert_eq!(ids, [1, 2, 3, 7, 8]);
    assert_eq!((data.find_image(4), data.find_image(99)), (None, None));
    for image in 0..5 {
        assert_eq!(data.find_image(data.image_id(image)), Some(image));
    }
    // Two images share one COCO id, and therefore captions and similarity.
    let (seven, eight) = (data.find_image(7).unwrap(), data.find_image(8).unwrap());
    assert_eq!((data.coco_id(seven), data.coco_id(eight)), (107, 107));
    assert_eq!(data.similarity().get(seven, eight), 1.0);
    assert_eq!(data.metadata()["sources"]["graphs"], json!(["scene_graphs.json"]));
    assert_eq!(data.metadata()["stages"]["kept"]["images"], 5);
}

#[test]
fn types_come_by_frequency_then_name_and_the_image_last() {
    let files = RawFiles::new();
    prepare(&files.preparation(), files.path("out.data")).unwrap();
    let data = open(&files);
    let objects: Vec<&str> = (0..data.object_count()).map(|t| data.object_name(t)).collect();
    let predicates: Vec<&str> = (0..data.predicate_count()).map(|t| data.predicate_name(t)).collect();
    assert_eq!(objects, ["ball", "dog", "man", "image"]);
    assert_eq!(predicates, ["throws", "on", "in image"]);
    assert_eq!([0, 3].map(|t| data.object_occurrences(t)), [8, 0]);
    assert_eq!([0, 1, 2].map(|t| data.predicate_occurrences(t)), [16, 9, 0]);
    assert_eq!(
        (data.vocabulary().find_object("man"), data.vocabulary().find_object("unicorn")),
        (Some(2), None)
    );
    assert_eq!(
        (data.vocabulary().find_predicate("in image"), data.vocabulary().find_predicate("rides")),
        (Some(2), None)
    );
    assert_eq!(data.object_vectors(), [1., 0., 0., 0., 0., 2., 3., 4., 0., 0., 1., 0.]);
    // `throws` is unknown; in `in image`, only `image` is known.
    assert_eq!(data.predicate_vectors(), [0., 0., 0., 1., 1., 1., 0., 1., 0.]);
    assert_eq!([0, 1, 2].map(|t| data.predicate_known(t)), [false, true, true]);
    assert!((0..4).all(|t| data.object_known(t)));
}

#[test]
fn graphs_are_augmented_and_lose_rare_types_and_duplicates() {
    let files = RawFiles::new();
    prepare(&files.preparation(), files.path("out.data")).unwrap();
    let data = open(&files);
    for id in [1, 3] {
        let graph = data.graph(data.find_image(id).unwrap());
        assert_eq!(graph.node_object, [2, 1, 0, 3], "image {id}");
        assert_eq!(graph.edge_subject, [0, 1, 0, 1, 2], "image {id}");
        assert_eq!(graph.edge_predicate, [0, 1, 2, 2, 2], "image {id}");
        assert_eq!(graph.edge_object, [2, 0, 3, 3, 3], "image {id}");
    }
}

#[test]
fn caption_vectors_are_means_of_unit_vectors() {
    let files = RawFiles::new();
    prepare(&files.preparation(), files.path("out.data")).unwrap();
    let data = open(&files);
    let vector = |id: u64| {
        let image = data.find_image(id).unwrap();
        data.caption_vectors()[3 * image..][..3].to_vec()
    };
    // "A man, a DOG." is the mean of (3, 4, 0) and (0, 0, 2): (1.5, 2, 1), with norm sqrt(7.25); "dog" is (0,
    // 0, 1).
    let norm = 7.25f32.sqrt();
    let want = [0.75 / norm, 1.0 / norm, 0.5 / norm + 0.5];
    for (got, want) in vector(1).iter().zip(want) {
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
    // One of the two captions of image 2 is unknown and counts as zero.
    for (got, want) in vector(2).iter().zip([0.3f32, 0.4, 0.0]) {
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
    let captions: Vec<&str> = data.captions(data.find_image(1).unwrap()).collect();
    assert_eq!(captions, ["A man, a DOG.", "dog"]);
}

fn selected(files: &RawFiles, preparation: &Preparation) -> scenerank::Result<Selection> {
    let target = files.path("selected.data");
    select(&preparation.sources, Reading::default().most_expansion, &preparation.filter, &target)
}

#[test]
fn occurrences_can_be_counted_over_joined_images() {
    let files = RawFiles::new();
    let mut preparation = files.preparation();
    preparation.filter.min_object_occurrences = 7;
    preparation.filter.count_over = CountOver::File;
    assert_eq!(selected(&files, &preparation).unwrap().stages.object_types, 3);
    preparation.filter.min_object_occurrences = 6;
    preparation.filter.count_over = CountOver::Joined;
    let joined = selected(&files, &preparation).unwrap();
    assert_eq!(joined.objects[0].occurrences, 6);
}

#[test]
fn images_with_too_many_objects_are_dropped_and_counted() {
    let files = RawFiles::new();
    let mut preparation = files.preparation();
    preparation.filter.min_object_occurrences = 1;
    preparation.filter.max_objects = 3;
    let stages = selected(&files, &preparation).unwrap().stages;
    assert_eq!((stages.too_many_objects, stages.filtered.images), (1, 5));
    preparation.filter = Filter { max_objects: 40, min_relationships: 3, ..preparation.filter };
    let stages = selected(&files, &preparation).unwrap().stages;
    assert_eq!((stages.too_few_relationships, stages.filtered.images), (5, 1));
}

/// All schemas of the same graphs give the same file, except for the names of the sources.
#[test]
fn every_schema_gives_the_same_data() {
    let files = RawFiles::new();
    let want = prepare(&files.preparation(), files.path("want.data")).unwrap();
    let want_data = Dataset::open(files.path("want.data")).unwrap();
    let graphs: Vec<Value> = (1..=8).map(graph).collect();

    let objects: Vec<Value> = graphs
        .iter()
        .map(|graph| {
            let mut objects = graph["objects"].clone();
            for object in objects.as_array_mut().unwrap() {
                // The other spelling of a name, and the id that relationships will use for it.
                let id = object["object_id"].as_u64().unwrap();
                *object =
                    json!({ "object_id": id + 5000, "merged_object_ids": [id], "name": object["names"][0] });
            }
            json!({ "image_id": graph["image_id"], "objects": objects })
        })
        .collect();
    let nested: Vec<Value> = graphs
        .iter()
        .map(|graph| {
            let relationships: Vec<Value> = graph["relationships"]
                .as_array()
                .unwrap()
                .iter()
                .map(|relation| {
                    json!({ "predicate": relation["predicate"], "relationship_id": 5,
                            "subject": { "object_id": relation["subject_id"], "name": "x" },
                            "object": { "object_id": relation["object_id"], "names": ["y"] } })
                })
                .collect();
            json!({ "relationships": relationships, "image_id": graph["image_id"] })
        })
        .collect();
    let gqa: serde_json::Map<String, Value> = graphs
        .iter()
        .map(|graph| {
            let objects: serde_json::Map<String, Value> = graph["objects"]
                .as_array()
                .unwrap()
                .iter()
                .map(|object| {
                    let relations: Vec<Value> = graph["relationships"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter(|relation| relation["subject_id"] == object["object_id"])
                        .map(|relation| {
                            json!({ "name": relation["predicate"], "object": relation["object_id"].to_string() })
                        })
                        .collect();
                    let body = json!({ "name": object["names"][0], "relations": relations, "x": 1 });
                    (object["object_id"].to_string(), body)
                })
                .collect();
            (graph["image_id"].to_string(), json!({ "objects": objects, "width": 640 }))
        })
        .collect();

    let packed = gzip(&files.path("scene_graphs.json"));
    let objects = files.write("objects.json", &Value::Array(objects).to_string());
    let relationships =
        files.write("relationships.json", &Value::Array(nested.into_iter().rev().collect()).to_string());
    let gqa = files.write("gqa.json", &Value::Object(gqa).to_string());
    let sources = [
        ("gzip", GraphSource::SceneGraphs(packed)),
        ("pair", GraphSource::ObjectsAndRelationships(objects, relationships)),
        ("gqa", GraphSource::SceneGraphs(gqa)),
    ];
    for (name, graphs) in sources {
        let mut preparation = files.preparation();
        preparation.sources.graphs = graphs;
        let got = prepare(&preparation, files.path("out.data")).unwrap();
        assert_eq!(got, want, "{name}");
        let data = open(&files);
        for image in 0..data.image_count() {
            let nodes = |data: &Dataset| {
                let graph = data.graph(image);
                let mut nodes = graph.node_object.to_vec();
                let mut edges: Vec<[u32; 3]> = (0..graph.edge_count())
                    .map(|edge| {
                        let object = |node: u32| graph.node_object[node as usize];
                        let (subject, target) = (graph.edge_subject[edge], graph.edge_object[edge]);
                        [object(subject), graph.edge_predicate[edge], object(target)]
                    })
                    .collect();
                nodes.sort();
                edges.sort();
                (nodes, edges)
            };
            assert_eq!(nodes(&data), nodes(&want_data), "{name}, image {image}");
        }
    }
}

#[test]
fn word2vec_header_and_words_with_spaces_are_accepted() {
    let files = RawFiles::new();
    let plain = prepare(&files.preparation(), files.path("out.data")).unwrap();
    let vectors = open(&files).caption_vectors().to_vec();
    let text = std::fs::read_to_string(files.path("glove.txt")).unwrap();
    files.write("glove.txt", &format!("7 3\n{text}at name@domain.com 1 2 3\n"));
    let stages = prepare(&files.preparation(), files.path("out.data")).unwrap();
    assert_eq!(stages, plain);
    assert_eq!(open(&files).caption_vectors(), vectors);
}

/// GloVe's first word, and every JSON file.
#[test]
fn a_byte_order_mark_is_no_part_of_a_text() {
    let files = RawFiles::new();
    let plain = prepare(&files.preparation(), files.path("out.data")).unwrap();
    let fingerprint = open(&files).fingerprint();
    for compressed in [false, true] {
        for name in ["scene_graphs.json", "image_data.json", "captions.json", "glove.txt"] {
            let text = std::fs::read_to_string(files.path(name)).unwrap();
            let marked = format!("\u{feff}{}", text.trim_start_matches('\u{feff}'));
            files.write(name, &marked);
            if compressed {
                std::fs::rename(gzip(&files.path(name)), files.path(name)).unwrap();
            }
            assert_eq!(prepare(&files.preparation(), files.path("out.data")).unwrap(), plain, "{name}");
            if compressed {
                files.write(name, &text);
            }
        }
    }
    assert_eq!(open(&files).fingerprint(), fingerprint);
    let config = files.write("train.toml", "\u{feff}epochs = 7\n");
    assert_eq!(TrainOptions::read(&config).unwrap().epochs, Some(7));
    let query = files.write("query.json", "\u{feff}[[\"man\", \"throws\", \"ball\"]]");
    read_query_graph(&query, open(&files).vocabulary()).unwrap();
}

/// Two caption files whose ids both begin at 1.
#[test]
fn captions_with_the_id_of_another_are_kept() {
    let files = RawFiles::new();
    let plain = prepare(&files.preparation(), files.path("out.data")).unwrap();
    let second = json!({ "annotations": [
        // Another image, and another text of the same image.
        { "id": 1, "image_id": 105, "caption": "a man" },
        { "id": 2, "image_id": 101, "caption": "a dog" },
        // Repetitions, one of them with white space around it.
        { "id": 3, "image_id": 102, "caption": "man" },
        { "id": 5, "image_id": 103, "caption": " dog\n" },
    ] });
    let mut preparation = files.preparation();
    preparation.sources.captions.push(files.write("second.json", &second.to_string()));
    let stages = prepare(&preparation, files.path("out.data")).unwrap();
    assert_eq!((stages.captions_repeated, stages.captions_clashing), (plain.captions_repeated + 2, 2));
    let data = open(&files);
    let captions = |id: u64| data.captions(data.find_image(id).unwrap()).collect::<Vec<_>>();
    assert_eq!(captions(5), ["a man"]);
    assert_eq!(captions(1), ["A man, a DOG.", "dog", "a dog"]);
    assert_eq!(captions(2), ["man", "zzz qqq"]);
    assert!(in_one_line(&stages).contains("2 with the id of another"), "{stages}");
}

#[test]
fn vectors_of_extreme_lengths_are_refused_by_line() {
    let files = RawFiles::new();
    let error = |text: &str| {
        files.write("glove.txt", text);
        prepare(&files.preparation(), files.path("out.data")).unwrap_err().to_string()
    };
    for scale in ["1e19", "3e38", "1e-20", "1e-45", "1e-200", "1e200", "2e6", "1e-7"] {
        let message = error(&format!("man 1 2 3\ndog 0 {scale} 0\nball 1 0 0\n"));
        let parts = [
            "glove.txt: line 2: the vector of `dog` has the length ",
            "outside 1e-6 to 1e6; scale the vectors",
        ];
        assert!(parts.iter().all(|part| message.contains(part)), "{scale}: {message}");
    }
    // Lengths near the ends of the range give the similarities of vectors of length 1. A word with a zero vector counts as
    // unknown in a caption.
    let vectors = |scale: &str, zero: &str| {
        files.write("glove.txt", &format!("man {scale} 0 0\ndog 0 {scale} 0\nball 0 0 {scale}\n{zero}"));
        let stages = prepare(&files.preparation(), files.path("out.data")).unwrap();
        (open(&files).caption_vectors().to_vec(), stages.captions_without_known_word)
    };
    let (unit, unknown) = vectors("1", "");
    for scale in ["9e5", "2e-6"] {
        let (scaled, _) = vectors(scale, "");
        assert!(unit.iter().zip(&scaled).all(|(a, b)| (a - b).abs() < 1e-6), "{unit:?} {scaled:?}");
    }
    assert_eq!(vectors("1", "zzz 0 0 0\nqqq 0 0 0\n"), (unit, unknown));
}

/// Images of one photograph are in one split; all others are where they were.
#[test]
fn a_photograph_is_in_one_split() {
    let images: Vec<Ids> =
        (0..500u64).map(|id| Ids { image_id: id, coco_id: if id % 5 == 4 { id - 1 } else { id } }).collect();
    let by =
        |by: SplitBy, seed: u64| divide(images.clone(), "70:20:10".parse().unwrap(), by, seed, |ids| *ids);
    let twins = |parts: &[Vec<Ids>; 3]| {
        let numbered = parts.iter().enumerate();
        Twins::count(numbered.flat_map(|(part, images)| images.iter().map(move |ids| (ids.coco_id, part))))
    };
    let place = |parts: &[Vec<Ids>; 3], id: u64| {
        parts.iter().position(|part| part.iter().any(|ids| ids.image_id == id))
    };
    for seed in 0..20 {
        let (together, apart) = (by(SplitBy::Photograph, seed), by(SplitBy::Image, seed));
        assert_eq!(together.each_ref().map(Vec::len), [350, 100, 50]);
        assert_eq!(apart.each_ref().map(Vec::len), [350, 100, 50]);
        assert_eq!(twins(&together), Twins { pairs: 100, in_different_splits: 0 });
        assert!(twins(&apart).in_different_splits > 20 && twins(&apart).pairs == 100);
        let mut ids: Vec<u64> = together.iter().flatten().map(|ids| ids.image_id).collect();
        ids.sort();
        assert!(ids.into_iter().eq(0..500));
        // Without twins both rules are one.
        let single = |by| {
            let images = images.iter().filter(|ids| ids.image_id % 5 != 4).copied().collect();
            divide(images, SplitRatio::default(), by, seed, |ids| *ids)
        };
        assert_eq!(single(SplitBy::Photograph), single(SplitBy::Image));
        assert!((0..500).filter(|&id| place(&together, id) != place(&apart, id)).count() < 250);
    }

    // The report of the preparation, and the option.
    let files = RawFiles::new();
    let mut apart = 0;
    for seed in 0..20 {
        let mut preparation = files.preparation();
        preparation.seed = seed;
        let stages = prepare(&preparation, files.path("out.data")).unwrap();
        assert_eq!(stages.twins, Twins { pairs: 1, in_different_splits: 0 });
        assert!(in_one_line(&stages).contains("1 pairs, 0 of them in different splits"), "{stages}");
        preparation.split_by = SplitBy::Image;
        let stages = prepare(&preparation, files.path("out.data")).unwrap();
        assert_eq!((stages.splits, stages.twins.pairs), ([3, 1, 1], 1));
        apart += stages.twins.in_different_splits;
    }
    assert!(apart > 3, "{apart} of 20");
}

/// Ids as exports of data frames write them, `id` in place of `image_id`, a blank word and zeros after a gzip member.
#[test]
fn other_spellings_of_the_same_files_give_the_same_data() {
    let files = RawFiles::new();
    prepare(&files.preparation(), files.path("out.data")).unwrap();
    let fingerprint = |files: &RawFiles| {
        prepare(&files.preparation(), files.path("out.data")).unwrap();
        let data = open(files);
        (0..data.image_count()).map(|image| (data.image_id(image), data.coco_id(image))).collect::<Vec<_>>()
    };
    let want = (fingerprint(&files), open(&files).fingerprint());
    let text = |name: &str| std::fs::read_to_string(files.path(name)).unwrap();
    let read = |name: &str| -> Value { serde_json::from_str(&text(name)).unwrap() };
    let mut images = read("image_data.json");
    for (number, record) in images.as_array_mut().unwrap().iter_mut().enumerate() {
        let coco_id = record["coco_id"].clone();
        record["coco_id"] = match (coco_id.as_u64(), number % 3) {
            (None, _) => json!(-1),
            (Some(id), 0) => json!(id as f64),
            (Some(id), 1) => json!(id.to_string()),
            (Some(id), _) => json!(id),
        };
        let id = record.as_object_mut().unwrap().remove("image_id").unwrap();
        record["id"] = id;
    }
    files.write("image_data.json", &images.to_string());
    let mut graphs = read("scene_graphs.json");
    for record in graphs.as_array_mut().unwrap() {
        let id = record.as_object_mut().unwrap().remove("image_id").unwrap();
        record["id"] = json!(id.as_u64().unwrap() as f64);
    }
    files.write("scene_graphs.json", &graphs.to_string());
    let mut captions = read("captions.json");
    for record in captions["annotations"].as_array_mut().unwrap() {
        record["image_id"] = json!(record["image_id"].to_string());
    }
    files.write("captions.json", &captions.to_string());
    let glove = text("glove.txt");
    files.write("glove.txt", &format!("{glove} 1 2 3\n"));
    assert_eq!((fingerprint(&files), open(&files).fingerprint()), want);

    let mut packed = std::fs::read(gzip(&files.path("captions.json"))).unwrap();
    packed.extend([0; 1000]);
    std::fs::write(files.path("captions.json"), &packed).unwrap();
    assert_eq!((fingerprint(&files), open(&files).fingerprint()), want);
    packed.extend(b"something that is no member of a gzip file");
    std::fs::write(files.path("captions.json"), &packed).unwrap();
    let error = prepare(&files.preparation(), files.path("out.data")).unwrap_err().to_string();
    assert!(error.contains("captions.json: gzip stream: damaged"), "{error}");
}

#[test]
fn same_seed_same_file_other_seed_other_split() {
    let files = RawFiles::new();
    let fingerprint = |seed: u64| {
        let mut preparation = files.preparation();
        preparation.seed = seed;
        prepare(&preparation, files.path("out.data")).unwrap();
        let data = open(&files);
        (data.fingerprint(), data.image_id(4))
    };
    assert_eq!(fingerprint(3), fingerprint(3));
    let last: std::collections::HashSet<u64> = (0..20).map(|seed| fingerprint(seed).1).collect();
    assert!(last.len() > 1, "20 seeds gave one split");
}

#[test]
fn splits_are_rounded_down_and_test_gets_the_rest() {
    let counts = |ratio: &str, images| ratio.parse::<SplitRatio>().unwrap().counts(images);
    assert_eq!(counts("70:20:10", 45_358), [31_750, 9_071, 4_537]);
    assert_eq!(counts("70:20:10", 8), [5, 1, 2]);
    assert_eq!(counts("1:0:0", 7), [7, 0, 0]);
    assert_eq!(counts("9:1:0", 15), [14, 1, 0]);
    for wrong in ["", "70:30", "0:1:1", "a:b:c", "70:20:10:0", "70:20:x"] {
        assert!(wrong.parse::<SplitRatio>().is_err(), "{wrong}");
    }
}

#[test]
fn inspect_tells_statistics_image_vocabulary_and_plots() {
    let files = RawFiles::new();
    prepare(&files.preparation(), files.path("out.data")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = assert_cmd::Command::cargo_bin("scenerank").unwrap();
        let assert = command.arg("inspect").arg(files.path("out.data")).args(arguments).assert().success();
        String::from_utf8(assert.get_output().stdout.clone()).unwrap()
    };
    let image = run(&["--image", "1"]);
    assert!(image.contains("man - throws -> ball") && image.contains("dog - on -> man"), "{image}");
    assert!(image.contains("A man, a DOG.") && image.contains("COCO 101"), "{image}");
    let table = run(&["--vocabulary"]);
    assert!(table.contains("0.16") && table.contains("throws"), "{table}");
    let plots = files.path("plots");
    let json = run(&["--json", "--vocabulary", "--image", "7", "--plots", plots.to_str().unwrap()]);
    let facts: Value = serde_json::from_str(&json).unwrap();
    let data = open(&files);
    assert_eq!(facts["fingerprint"], format!("{:016x}", data.fingerprint()));
    assert_eq!(facts["statistics"]["mean_objects"], 3.0);
    assert_eq!(facts["statistics"]["median_relationships"], 2.0);
    assert_eq!(facts["vocabulary"]["objects"][3]["name"], "image");
    assert_eq!(facts["image"]["relationships"][0], "man - throws -> ball");
    assert_eq!(facts["prepared"]["options"]["split"], "3:1:1");
    for name in ["similarity_curves.svg", "similarity_differences.svg"] {
        assert!(std::fs::read_to_string(plots.join(name)).unwrap().starts_with("<svg"), "{name}");
    }
}

/// Folder of the real files, if available.
fn real_data() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no ../shared/data");
    None
}

fn real_stages(folder: &std::path::Path, graphs: &str, minimum: u64) -> Stages {
    let sources = Sources {
        graphs: GraphSource::SceneGraphs(folder.join(graphs)),
        image_data: folder.join("image_data.json.gz"),
        captions: vec![folder.join("captions.json.gz")],
    };
    let filter =
        Filter { min_object_occurrences: minimum, min_predicate_occurrences: minimum, ..Default::default() };
    let beside = tempfile::TempDir::new().unwrap();
    let target = beside.path().join("data");
    select(&sources, Reading::default().most_expansion, &filter, &target).unwrap().stages
}

/// Counted independently of this program, from the same files.
#[test]
fn real_files_give_the_published_counts() {
    let Some(folder) = real_data() else { return };
    let means = |counts: &scenerank::data::stages::Counts| {
        [counts.mean_objects(), counts.mean_relationships()].map(|mean| (100.0 * mean).round() as u64)
    };
    for (minimum, types, images, mean) in
        [(25, (350, 86), 2023, [1431, 694]), (5, (921, 377), 2096, [1704, 1065])]
    {
        let stages = real_stages(&folder, "scene_graphs_recovered.json.gz", minimum);
        assert_eq!((stages.graph_file.images, stages.with_coco_id, stages.joined.images), (2163, 2163, 2163));
        assert_eq!((stages.graph_file.objects, stages.graph_file.relationships), (37_326, 25_204));
        assert_eq!((stages.object_names, stages.predicate_names), (1433, 1393));
        assert_eq!((stages.object_types, stages.predicate_types), types);
        assert_eq!((stages.filtered_graph_file.images, stages.filtered.images), (images, images));
        assert_eq!(means(&stages.filtered), mean);
    }
    for (minimum, types, images, joined, mean) in
        [(25, (20, 15), 139, 2, [376, 267]), (5, (188, 50), 448, 8, [565, 585])]
    {
        let stages = real_stages(&folder, "scene_graphs.json.gz", minimum);
        assert_eq!((stages.graph_file.images, stages.with_coco_id, stages.joined.images), (500, 234, 9));
        assert_eq!((stages.graph_file.objects, stages.graph_file.relationships), (3626, 4521));
        assert_eq!((stages.object_names, stages.predicate_names), (809, 245));
        assert_eq!((stages.object_types, stages.predicate_types), types);
        assert_eq!((stages.filtered_graph_file.images, stages.filtered.images), (images, joined));
        assert_eq!(means(&stages.filtered_graph_file), mean);
    }
}
