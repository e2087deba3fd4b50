//! A small set of raw files in a temporary folder; `prepare.rs` computes the result by hand.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use scenerank::data::prepare::Preparation;
use scenerank::data::selection::{Filter, GraphSource, Sources};
use scenerank::data::stages::Stages;
use serde_json::{Value, json};
use tempfile::TempDir;

pub struct RawFiles {
    pub folder: TempDir,
}

impl RawFiles {
    /// Files of the images 1 to 8; see [`graph`]. COCO ids are 100 + image id, but image 8 has 107 like image
    /// 7, and image 6 has none. Image 5 has no caption.
    pub fn new() -> Self {
        let files = RawFiles { folder: TempDir::new().unwrap() };
        files.write("scene_graphs.json", &Value::Array((1..=8).rev().map(graph).collect()).to_string());
        let image_data: Vec<Value> = (1..=8u64)
            .map(|id| json!({ "image_id": id, "coco_id": match id { 6 => None, 8 => Some(107), _ => Some(100 + id) } }))
            .collect();
        files.write("image_data.json", &Value::Array(image_data).to_string());
        let annotations = json!([
            { "id": 1, "image_id": 101, "caption": "A man, a DOG.\n" },
            { "id": 2, "image_id": 101, "caption": "dog" },
            { "id": 3, "image_id": 102, "caption": "man" },
            { "id": 4, "image_id": 102, "caption": "zzz qqq" },
            { "id": 5, "image_id": 103, "caption": "dog" },
            { "id": 6, "image_id": 104, "caption": "unheard-of" },
            { "id": 7, "image_id": 107, "caption": "ball" },
            { "id": 7, "image_id": 107, "caption": "ball" },
            { "id": 8, "image_id": 999, "caption": "not wanted" },
        ]);
        files.write(
            "captions.json",
            &json!({ "info": { "year": 2017 }, "images": [{ "id": 101 }],
            "annotations": annotations })
            .to_string(),
        );
        files.write(
            "glove.txt",
            "man 3 4 0\ndog 0 0 2\nball 1 0 0\nball 9 9 9\nimage 0 1 0\non 1 1 1\n. . 5 5 5\n",
        );
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// Every image but 5 and 6 has captions; types must occur twice.
    pub fn preparation(&self) -> Preparation {
        Preparation {
            sources: Sources {
                graphs: GraphSource::SceneGraphs(self.path("scene_graphs.json")),
                image_data: self.path("image_data.json"),
                captions: vec![self.path("captions.json")],
            },
            glove: self.path("glove.txt"),
            filter: Filter { min_object_occurrences: 2, min_predicate_occurrences: 2, ..Default::default() },
            split: "3:1:1".parse().unwrap(),
            split_by: Default::default(),
            seed: 1,
            reading: Default::default(),
        }
    }
}

/// Objects man, Dog (two names), ball; relationships `man - throws -> ball` twice and `dog - ON -> man`.
/// Image 3 also has a `unicorn` and a relationship `rides`, both too rare. The only caption of image 4 is
/// unknown.
pub fn graph(id: u64) -> Value {
    let object = |number: u64, name: &str| json!({ "object_id": 10 * id + number, "names": [name, "thing"] });
    let relation = |subject: u64, predicate: &str, target: u64| json!({ "subject_id": 10 * id + subject, "predicate": predicate, "object_id": 10 * id + target });
    let mut objects = vec![object(1, " man "), object(2, "Dog"), object(3, "ball")];
    let mut relationships = vec![relation(1, "throws", 3), relation(2, " ON", 1), relation(1, "Throws", 3)];
    if id == 3 {
        objects.insert(0, object(4, "unicorn"));
        relationships.push(relation(1, "rides", 2));
        relationships.push(relation(1, "on", 4));
    }
    json!({ "image_id": id, "objects": objects, "relationships": relationships })
}

pub fn gzip(path: &Path) -> PathBuf {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&std::fs::read(path).unwrap()).unwrap();
    // Deliberately without `.gz`: the content decides.
    let packed = path.with_extension("packed");
    std::fs::write(&packed, encoder.finish().unwrap()).unwrap();
    packed
}

/// The counts of a preparation as printed, without line breaks.
pub fn in_one_line(stages: &Stages) -> String {
    stages.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
