//! Every reader of the program as a function of bytes: any input gives a value or an error of one line, and never a panic.
//!
//! `fuzz/` drives these functions with libFuzzer; `fuzzed.rs` drives them with random changes of valid files.
#![allow(dead_code)] // each of the two uses its part

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arrow_array::builder::{Int32Builder, ListBuilder, StringBuilder, StringDictionaryBuilder};
use arrow_array::types::Int8Type;
use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_ipc::writer::StreamWriter;
use scenerank::Result;
use scenerank::data::Dataset;
use scenerank::data::new_graphs::{GraphReading, read_new_graphs};
use scenerank::data::prepare::prepare;
use scenerank::data::query_graph::read_query_graph;
use scenerank::data::selection::GraphSource;
use scenerank::data::similarity_matrix::SimilarityMatrix;
use scenerank::evaluation::EmbeddingsFile;
use scenerank::files::npy::{read_npy, write_npy};
use scenerank::files::tensor_file::{TensorData, TensorFile, to_sealed_safetensors};
use scenerank::report::run_log::read_records;
use scenerank::train::checkpoint;
use scenerank::train::config::TrainOptions;
use serde_json::json;

use crate::raw_files::{RawFiles, gzip};

macro_rules! readers {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A kind of input.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reader {
            $($(#[$doc])* $name,)*
        }

        impl Reader {
            pub const ALL: &[Reader] = &[$(Reader::$name),*];
        }
    };
}

readers! {
    SceneGraphs,
    Gqa,
    Objects,
    Relationships,
    ImageData,
    Captions,
    WordVectors,
    /// Captions, compressed.
    Gzip,
    /// An Arrow stream of graphs.
    ArrowGraphs,
    Query,
    Options,
    Records,
    DataFile,
    Checkpoint,
    Npy,
    Similarity,
    Origin,
}

use Reader::*;

impl Reader {
    /// Name of the reader's folder in `fuzz/inputs`.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Reader with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reader| reader.name() == name)
    }
}

/// Valid files of every kind, and a data file to read others with.
pub struct Readers {
    files: RawFiles,
    dataset: Dataset,
    objects: PathBuf,
    relationships: PathBuf,
}

impl Readers {
    /// Those of this process.
    pub fn get() -> &'static Self {
        static READERS: OnceLock<Readers> = OnceLock::new();
        READERS.get_or_init(Readers::new)
    }

    fn new() -> Self {
        let files = RawFiles::new();
        prepare(&files.preparation(), files.path("out.data")).unwrap();
        let dataset = Dataset::open(files.path("out.data")).unwrap();
        let object =
            |id: u64, name: &str| json!({ "object_id": id, "names": [name], "x": 1, "y": 2, "w": 3, "h": 4 });
        let image = |id: u64| json!({ "image_id": id, "objects": [object(1, "man"), object(2, "ball")] });
        let objects = files.write("objects.json", &json!([image(1), image(2), image(3)]).to_string());
        let related = |id: u64| json!({ "image_id": id, "relationships": [{ "relationship_id": id, "predicate": "throws", "subject": { "object_id": 1, "name": "man" }, "object": { "object_id": 2, "name": "ball" } }] });
        let relationships = files.write("relationships.json", &json!([related(1), related(2)]).to_string());
        let gqa = json!({ "1": { "width": 50, "height": 40, "objects": {
            "7": { "name": "man", "x": 1, "y": 2, "w": 3, "h": 4, "relations": [{ "name": "throws", "object": "8" }] },
            "8": { "name": "ball", "x": 1, "y": 2, "w": 3, "h": 4, "relations": [] } } } });
        files.write("gqa.json", &gqa.to_string());
        gzip(&files.path("captions.json"));
        fs::write(files.path("graphs.arrows"), arrow_graphs()).unwrap();
        files.write("query.json", r#"[["man", "throws", "ball"], ["man#2"]]"#);
        files.write("options.toml", "epochs = 3\nlearning-rate = 1e-3\nloss = \"triplet\"\nlayers = 2\n");
        files.write(
            "records.jsonl",
            "{\"kind\":\"step\",\"epoch\":1,\"step\":2,\"loss\":0.5,\"seconds\":0.1}\n",
        );
        write_npy(&files.path("rows.npy"), &[0.6, 0.8, 1.0, 0.0, 0.0, 1.0], 2).unwrap();
        let images = dataset.image_count();
        write_npy(&files.path("similarity.npy"), &vec![0.5; images * images], images).unwrap();
        let origin = scenerank::files::origin::Origin::new("a1".into(), "b2".into(), vec![1, 2, 3]);
        origin.write_beside(&files.path("rows.npy")).unwrap();
        let tensor = ("layers.0.weight".to_string(), vec![2, 2], TensorData::F32(vec![0.5; 4]));
        let metadata = ["config", "progress"].map(|key| (key.to_string(), json!({ "epoch": 1 }).to_string()));
        fs::write(files.path("last.safetensors"), to_sealed_safetensors(&[tensor], metadata)).unwrap();
        Readers { files, dataset, objects, relationships }
    }

    /// A valid input.
    pub fn valid(&self, reader: Reader) -> Vec<u8> {
        let name = match reader {
            SceneGraphs => "scene_graphs.json",
            Gqa => "gqa.json",
            Objects => "objects.json",
            Relationships => "relationships.json",
            ImageData => "image_data.json",
            Captions => "captions.json",
            WordVectors => "glove.txt",
            Gzip => "captions.packed",
            ArrowGraphs => "graphs.arrows",
            Query => "query.json",
            Options => "options.toml",
            Records => "records.jsonl",
            DataFile => "out.data",
            Checkpoint => "last.safetensors",
            Npy => "rows.npy",
            Similarity => "similarity.npy",
            Origin => "rows.npy.json",
        };
        fs::read(self.files.path(name)).unwrap()
    }

    /// Reads these bytes. Panics if the message of an error has several lines.
    pub fn read(&self, reader: Reader, bytes: &[u8]) {
        let folder = tempfile::Builder::new().prefix("input").tempdir_in(self.files.folder.path()).unwrap();
        let path = folder.path().join("input");
        fs::write(&path, bytes).unwrap();
        if let Err(error) = self.read_file(reader, &path) {
            let message = error.to_string();
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }

    fn read_file(&self, reader: Reader, path: &Path) -> Result<()> {
        let mut preparation = self.files.preparation();
        let out = path.with_extension("data");
        let input = path.to_path_buf();
        match reader {
            SceneGraphs | Gqa => preparation.sources.graphs = GraphSource::SceneGraphs(input),
            Objects => {
                let relationships = self.relationships.clone();
                preparation.sources.graphs = GraphSource::ObjectsAndRelationships(input, relationships);
            }
            Relationships => {
                let objects = self.objects.clone();
                preparation.sources.graphs = GraphSource::ObjectsAndRelationships(objects, input);
            }
            ImageData => preparation.sources.image_data = input,
            Captions | Gzip => preparation.sources.captions = vec![input],
            WordVectors => preparation.glove = input,
            ArrowGraphs => {
                let reading = GraphReading::default();
                return read_new_graphs(path, &reading, self.dataset.vocabulary(), |_| Ok(())).map(|_| ());
            }
            Query => return read_query_graph(path, self.dataset.vocabulary()).map(|_| ()),
            Options => return TrainOptions::read(path)?.resolve(&Default::default()).map(|_| ()),
            Records => return read_records(path).map(|_| ()),
            DataFile => return Dataset::open(path).map(|_| ()),
            Checkpoint => {
                let file = TensorFile::read(path);
                for name in file.iter().flat_map(TensorFile::names) {
                    let _ = file.as_ref().unwrap().tensor(&name);
                }
                return checkpoint::load(path).map(|_| ());
            }
            Npy => {
                EmbeddingsFile::open(path)?;
                return read_npy(path).map(|_| ());
            }
            Similarity => {
                return SimilarityMatrix::open(path, self.dataset.image_count()).map(|_| ());
            }
            Origin => {
                let rows = path.with_file_name("rows.npy");
                fs::copy(self.files.path("rows.npy"), &rows).unwrap();
                fs::rename(path, scenerank::files::origin::Origin::beside(&rows)).unwrap();
                return scenerank::files::origin::Origin::read_beside(&rows).map(|_| ());
            }
        }
        prepare(&preparation, out).map(|_| ())
    }
}

/// A stream of two batches with a dictionary: a man throws a ball.
fn arrow_graphs() -> Vec<u8> {
    let mut objects = ListBuilder::new(StringDictionaryBuilder::<Int8Type>::new());
    objects.append_value([Some("man"), Some("ball")]);
    let [mut subjects, mut related] = [0, 1].map(|_| ListBuilder::new(Int32Builder::new()));
    subjects.append_value([Some(0)]);
    related.append_value([Some(1)]);
    let mut predicates = ListBuilder::new(StringBuilder::new());
    predicates.append_value([Some("throws")]);
    let columns: [(&str, ArrayRef); 5] = [
        ("image_id", Arc::new(UInt64Array::from(vec![7]))),
        ("objects", Arc::new(objects.finish())),
        ("subject", Arc::new(subjects.finish())),
        ("predicate", Arc::new(predicates.finish())),
        ("object", Arc::new(related.finish())),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    (0..2).for_each(|_| writer.write(&batch).unwrap());
    writer.into_inner().unwrap()
}
