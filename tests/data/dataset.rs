//! The data file: a written file is read back, and every damage is detected.

use std::io::{Seek, SeekFrom, Write};

use proptest::prelude::*;
use scenerank::data::contents::{DatasetContents, IMAGE, IN_IMAGE, ImageContents, TypeContents};
use scenerank::data::format::{ALIGNMENT, Container, MAX_SECTIONS, Writer};
use scenerank::data::object_box::{ImageSize, ObjectBox};
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::data::{Dataset, Split};
use tempfile::TempDir;

fn contents() -> DatasetContents {
    let image = |image_id: u64| ImageContents {
        image_id,
        coco_id: image_id + 100,
        captions: vec![format!("caption of {image_id}"), "é".into()],
        caption_vector: vec![image_id as f32 / 10.0, 0.5],
        graph: SceneGraphBuf::augmented(&[0, 1, 0], &[(0, 0, 1), (2, 0, 2)], 2, 1),
        size: (image_id != 5).then_some(ImageSize { width: 20, height: 10 + image_id as u16 }),
        boxes: match image_id {
            5 => Vec::new(),
            _ => vec![
                ObjectBox { x: image_id as u16, y: 0, width: 2, height: 10 },
                ObjectBox::NONE,
                ObjectBox { x: 0, y: 3, width: 20, height: 4 },
            ],
        },
        url: if image_id == 9 { String::new() } else { format!("http://a.b/{image_id}") },
    };
    DatasetContents {
        word_width: 2,
        objects: vec![
            TypeContents::new("image", Some(vec![1.0, 2.0])),
            TypeContents::new("dog", None),
            TypeContents::new(IMAGE, Some(vec![3.0, 4.0])),
        ],
        predicates: vec![TypeContents::new("on", Some(vec![5.0, 6.0])), TypeContents::new(IN_IMAGE, None)],
        images: [vec![image(9), image(2), image(5)], vec![], vec![image(1)]],
        metadata: serde_json::json!({ "made": "by hand" }),
    }
}

fn write(contents: &mut DatasetContents) -> (TempDir, std::path::PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("small.data");
    contents.write(&path).unwrap();
    (folder, path)
}

#[test]
fn what_is_written_is_read() {
    let (_folder, path) = write(&mut contents());
    let data = Dataset::open(&path).unwrap();
    assert_eq!(data.path(), path);
    assert_eq!([0, 1, 2, 3].map(|image| data.image_id(image)), [2, 5, 9, 1]);
    assert_eq!(
        [Split::Train, Split::Validation, Split::Test].map(|split| data.split(split)),
        [0..3, 3..3, 3..4]
    );
    assert_eq!((data.find_image(1), data.find_image(9), data.find_image(3)), (Some(3), Some(2), None));
    assert_eq!(data.captions(1).collect::<Vec<_>>(), ["caption of 5", "é"]);
    assert_eq!(data.caption_vectors(), [0.2, 0.5, 0.5, 0.5, 0.9, 0.5, 0.1, 0.5]);
    assert_eq!(data.graph(2), contents().images[0][0].graph.view());
    assert_eq!(data.object_vectors(), [1., 2., 0., 0., 3., 4.]);
    assert_eq!([data.object_known(0), data.object_known(1), data.predicate_known(1)], [true, false, false]);
    // An annotated object called `image` keeps its own type, different from that of the image node.
    assert_eq!((data.vocabulary().find_object("image"), data.object_name(2)), (Some(0), "image"));
    assert_eq!(data.metadata()["made"], "by hand");
    for (image, id) in [2u16, 5, 9, 1].into_iter().enumerate() {
        let known = id != 5;
        let size = known.then_some(ImageSize { width: 20, height: 10 + id });
        assert_eq!(data.image_size(image), size, "{id}");
        let first = known.then_some(ObjectBox { x: id, y: 0, width: 2, height: 10 });
        let last = known.then_some(ObjectBox { x: 0, y: 3, width: 20, height: 4 });
        assert_eq!(data.boxes(image).collect::<Vec<_>>(), [first, None, last], "{id}");
        assert_eq!(data.url(image).map(str::to_owned), (id != 9).then(|| format!("http://a.b/{id}")));
    }
    let similarity = data.similarity();
    assert_eq!((similarity.len(), similarity.get(0, 3)), (4, 0.27));
}

/// As in files written before these sections existed.
#[test]
fn sections_of_pictures_may_be_missing() {
    let mut without = contents();
    for image in without.images.iter_mut().flatten() {
        (image.size, image.boxes, image.url) = (None, Vec::new(), String::new());
    }
    let (_folder, path) = write(&mut without);
    let file = Container::open(&path).unwrap();
    for name in ["image_size", "object_box"] {
        assert!(file.optional_section::<u16>(name).unwrap().is_none(), "{name}");
    }
    let data = Dataset::open(&path).unwrap();
    assert_eq!(data.graph(2), contents().images[0][0].graph.view());
    for image in 0..data.image_count() {
        assert_eq!((data.image_size(image), data.boxes(image).count(), data.url(image)), (None, 0, None));
    }
}

#[test]
fn fingerprint_follows_the_content() {
    let fingerprint = |contents: &mut DatasetContents| {
        let (_folder, path) = write(contents);
        Dataset::open(path).unwrap().fingerprint()
    };
    let mut other = contents();
    other.images[0][1].caption_vector[0] += 1e-6;
    assert_eq!(fingerprint(&mut contents()), fingerprint(&mut contents()));
    assert_ne!(fingerprint(&mut contents()), fingerprint(&mut other));
    // Where the data comes from is no part of it.
    let mut renamed = contents();
    renamed.metadata = serde_json::json!({ "sources": { "glove": "other.txt.gz" } });
    assert_eq!(fingerprint(&mut contents()), fingerprint(&mut renamed));
}

/// Flips every single byte: header, table, sections and the zeros between them.
#[test]
fn a_flipped_byte_is_found_wherever_it_is() {
    let (folder, path) = write(&mut contents());
    let whole = std::fs::read(&path).unwrap();
    let damaged = folder.path().join("damaged.data");
    std::fs::write(&damaged, &whole).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&damaged).unwrap();
    let mut put = |at: usize, byte: u8| {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[byte]).unwrap();
    };
    let mut problems = std::collections::BTreeSet::new();
    for (at, &byte) in whole.iter().enumerate() {
        put(at, byte ^ 0x20);
        let error = Container::open(&damaged).unwrap_err().to_string();
        assert!(error.contains("damaged.data: ") && error.contains("; "), "{error}");
        problems.insert(error.split(": ").nth(1).unwrap().to_string());
        put(at, byte);
    }
    Container::open(&damaged).unwrap();
    for place in [
        "header",
        "section metadata",
        "section edge_subject",
        "section caption_vectors",
        "section image_size",
        "section object_box",
        "section url_text",
        "section predicate_vectors",
    ] {
        assert!(problems.contains(place), "{place} is not in {problems:?}");
    }
}

/// Many images, whose caption vectors take several blocks.
fn many_images() -> DatasetContents {
    let mut contents = contents();
    contents.word_width = 1000;
    let types = contents.objects.iter_mut().chain(&mut contents.predicates);
    types.filter_map(|entry| entry.vector.as_mut()).for_each(|vector| vector.resize(1000, 0.5));
    let pattern = contents.images[0][0].clone();
    let image = |id: u64| ImageContents {
        image_id: id,
        coco_id: id + 7,
        captions: vec![format!("number {id}")],
        caption_vector: (0..1000).map(|at| (id * 1000 + at) as f32 / 1e6).collect(),
        ..pattern.clone()
    };
    contents.images = [(0..300).map(image).collect(), vec![], (300..400).map(image).collect()];
    contents
}

/// Everything of an image.
fn all_of(data: &Dataset, image: usize) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        (data.image_id(image), data.coco_id(image)),
        data.graph(image),
        data.captions(image).collect::<Vec<_>>(),
        data.caption_vectors_of(image..image + 1),
        data.image_size(image),
        data.boxes(image).collect::<Vec<_>>(),
        data.url(image)
    )
}

/// A flipped byte is found when the file is opened, or before an image with this byte is used. Other images can be used.
#[test]
fn a_flipped_byte_is_found_before_its_image_is_used() {
    let (_folder, path) = write(&mut many_images());
    let good = Dataset::open(&path).unwrap();
    let want: Vec<String> = (0..400).map(|image| all_of(&good, image)).collect();
    drop(good);
    let whole = std::fs::read(&path).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut put = |at: usize, byte: u8| {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[byte]).unwrap();
    };
    let (mut at_once, mut later, mut used) = (0, 0, 0);
    for at in (0..whole.len()).step_by(7919) {
        put(at, whole[at] ^ 0x20);
        match Dataset::map(&path) {
            Err(_) => at_once += 1,
            Ok(data) => {
                for image in (0..400).step_by(57) {
                    match data.verify(image..image + 1) {
                        Ok(()) => {
                            assert!(all_of(&data, image) == want[image], "byte {at}, image {image}");
                            used += 1;
                        }
                        Err(error) => assert!(error.to_string().contains(": damaged: "), "{error}"),
                    }
                }
                let error = data.verify(0..400).unwrap_err().to_string();
                assert!(error.contains(": section ") && error.contains("; prepare it again"), "{error}");
                later += 1;
            }
        }
        put(at, whole[at]);
    }
    assert!(at_once > 0 && later > 50 && used > later, "{at_once} {later} {used}");
    Dataset::map(&path).unwrap().verify(0..400).unwrap();

    // A command reads the image that it prints, and no other: here one whose vector is in another block.
    let vector = whole.windows(4).position(|bytes| bytes == (200_000f32 / 1e6).to_le_bytes()).unwrap();
    put(vector, whole[vector] ^ 1);
    let inspect = |more: &[&str]| {
        let mut command = assert_cmd::Command::cargo_bin("scenerank").unwrap();
        command.arg("inspect").arg(&path).args(more).assert()
    };
    inspect(&["--image", "5"]).success();
    inspect(&["--image", "200"]).code(2);
    inspect(&[]).code(2);
}

#[test]
#[should_panic(expected = "image 300 is read before it was verified")]
fn an_image_that_was_not_verified_is_not_read() {
    let (_folder, path) = write(&mut many_images());
    let data = Dataset::map(path).unwrap();
    data.verify(0..10).unwrap();
    assert_eq!(data.graph(9).node_count(), 4);
    data.graph(300);
}

/// Files of older versions have no checksums of blocks. They are verified whole.
#[test]
fn a_file_without_checksums_of_blocks_is_verified_whole() {
    let (_folder, path) = write(&mut contents());
    let fingerprint = Dataset::map(&path).unwrap().fingerprint();
    let mut old = std::fs::read(&path).unwrap();
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let sections = u32::from_le_bytes(old[12..16].try_into().unwrap());
    let entry = 64 * sections as usize;
    assert!(old[entry..].starts_with(b"block_checksums\0"));
    let before = entry - 64;
    let end = number(&old, before + 32) + number(&old, before + 40);
    old.truncate(end as usize);
    old[entry..entry + 64].fill(0);
    old[12..16].copy_from_slice(&(sections - 1).to_le_bytes());
    old[16..24].copy_from_slice(&end.to_le_bytes());
    old[24..32].fill(0);
    let checksum = xxhash_rust::xxh3::xxh3_64(&old[..4096]);
    old[24..32].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(&path, &old).unwrap();
    let data = Dataset::map(&path).unwrap();
    data.verify(0..4).unwrap();
    assert_eq!((data.fingerprint(), data.captions(1).next()), (fingerprint, Some("caption of 5")));
    let last = old.len() - 1;
    old[last] ^= 1;
    std::fs::write(&path, &old).unwrap();
    assert!(Dataset::map(&path).unwrap_err().to_string().contains("damaged: its checksum does not match"));
}

#[test]
fn header_errors_are_told_apart() {
    let (folder, path) = write(&mut contents());
    let whole = std::fs::read(&path).unwrap();
    let damaged = folder.path().join("damaged.data");
    let mut version = whole.clone();
    version[8] = 99;
    let cases = [
        (version, "format version 99, this program reads version 1; prepare it again with this version"),
        (whole[..whole.len() - 1].to_vec(), "truncated"),
        (whole[..1000].to_vec(), "truncated: 1000 bytes"),
        ([whole.clone(), vec![0]].concat(), "too long"),
        (b"PK\x03\x04 something else".to_vec(), "not a scenerank data file"),
        (Vec::new(), "not a scenerank data file"),
    ];
    for (bytes, problem) in cases {
        std::fs::write(&damaged, bytes).unwrap();
        let error = Dataset::open(&damaged).unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains("damaged.data"), "`{problem}` is not in: {error}");
        let assert =
            assert_cmd::Command::cargo_bin("scenerank").unwrap().arg("inspect").arg(&damaged).assert();
        assert.code(2);
    }
}

/// Files with intact bytes but inconsistent content.
#[test]
fn contradictions_are_found() {
    type Change = fn(&mut DatasetContents);
    let cases: [(Change, &str); 14] = [
        (|c| c.images[0][0].graph.node_object[0] = 3, "graph of image 9: a type or node is out of range"),
        (|c| c.images[0][0].graph.edge_predicate[0] = 7, "graph of image 9: a type or node"),
        (|c| c.images[0][0].graph.edge_subject[0] = 4, "graph of image 9: a type or node"),
        (|c| c.images[0][0].graph.edge_object[4] = 0, "graph of image 9: its image node"),
        (|c| c.images[0][0].graph.edge_object.truncate(4), "section edge_object: not one entry per edge"),
        (|c| c.images[0][0].caption_vector[1] = f32::NAN, "section caption_vectors: a value is not finite"),
        (|c| c.images[0][0].image_id = 2, "section image_id: image ids are not ascending"),
        (|c| c.objects[1].name = "image".into(), "two object types are called `image`"),
        (|c| c.images[0][0].boxes[0].x = 19, "boxes of image 9: a box is not within the image"),
        (|c| c.images[0][0].boxes[0].height = 0, "boxes of image 9: a box is not within the image"),
        (|c| c.images[0][0].size = None, "boxes of image 9: a box is not within the image"),
        (|c| c.images[0][0].boxes.truncate(2), "section object_box: not a box per object"),
        (
            |c| c.images[0][0].size = Some(ImageSize { width: 0, height: 3 }),
            "section image_size: not a width",
        ),
        (|c| c.images[0][0].url = "data:x".into(), "section url_text: an address is not http or https"),
    ];
    for (change, problem) in cases {
        let mut wrong = contents();
        change(&mut wrong);
        let (_folder, path) = write(&mut wrong);
        let error = Dataset::open(path).unwrap_err().to_string();
        assert!(
            error.contains(problem) && error.contains("prepare it again"),
            "`{problem}` is not in: {error}"
        );
    }
}

#[test]
fn an_unfinished_file_leaves_nothing_and_keeps_the_old_one() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("old.data");
    std::fs::write(&path, "old").unwrap();
    let mut writer = Writer::create(&path).unwrap();
    writer.section("numbers", [[1u32, 2, 3]]).unwrap();
    drop(writer);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn sections_are_typed_and_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("typed.data");
    let mut writer = Writer::create(&path).unwrap();
    writer.section("numbers", [[1u32, 2, 3]]).unwrap();
    writer.finish().unwrap();
    let file = Container::open(&path).unwrap();
    assert!(
        file.section::<f32>("numbers")
            .unwrap_err()
            .to_string()
            .contains("section numbers: does not hold f32")
    );
    assert!(file.section::<u32>("letters").unwrap_err().to_string().contains("section letters: missing"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any sections, in any chunks, are read back unchanged and aligned.
    #[test]
    fn sections_round_trip(sections in prop::collection::vec(
        prop::collection::vec(prop::collection::vec(any::<u32>(), 0..40), 0..5), 0..MAX_SECTIONS + 1)
    ) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("any.data");
        let mut writer = Writer::create(&path).unwrap();
        for (index, chunks) in sections.iter().enumerate() {
            match index % 3 {
                0 => writer.section::<u32, _>(&format!("section {index}"), chunks).unwrap(),
                1 => {
                    let bytes = chunks.iter().map(|chunk| chunk.iter().map(|&v| v as u8).collect::<Vec<u8>>());
                    writer.section(&format!("section {index}"), bytes).unwrap()
                }
                _ => {
                    let wide = chunks.iter().map(|chunk| chunk.iter().map(|&v| u64::from(v)).collect::<Vec<u64>>());
                    writer.section(&format!("section {index}"), wide).unwrap()
                }
            }
        }
        writer.finish().unwrap();
        let file = Container::open(&path).unwrap();
        for (index, chunks) in sections.iter().enumerate() {
            let name = format!("section {index}");
            let want = chunks.concat();
            let address = match index % 3 {
                0 => {
                    let section = file.section::<u32>(&name).unwrap();
                    prop_assert_eq!(file.slice(&section), &want);
                    file.slice(&section).as_ptr() as usize
                }
                1 => {
                    let section = file.section::<u8>(&name).unwrap();
                    prop_assert!(file.slice(&section).iter().copied().eq(want.iter().map(|&v| v as u8)));
                    file.slice(&section).as_ptr() as usize
                }
                _ => {
                    let section = file.section::<u64>(&name).unwrap();
                    prop_assert!(file.slice(&section).iter().copied().eq(want.iter().map(|&v| u64::from(v))));
                    file.slice(&section).as_ptr() as usize
                }
            };
            prop_assert!(want.is_empty() || address % ALIGNMENT as usize == 0);
        }
    }
}
