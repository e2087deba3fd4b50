//! The compiled part of the Python package `scenerank`.
//!
//! Arrays pass as the bytes of their values, to which the package around this module gives shapes. Errors of the engine become
//! `ValueError` with the engine's own message.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use scenerank::backend::device::{Device, Precision};
use scenerank::data::new_graphs::{GraphReading, named_graphs};
use scenerank::data::query_graph::{QueryGraph, Statement};
use scenerank::data::raw::predictions::{Limits, Predictions};
use scenerank::data::scene_graph::SceneGraphBuf;
use scenerank::data::sentence::Lexicon;
use scenerank::data::{Dataset, Split};
use scenerank::evaluation::{EmbeddingsFile, nearest_stored_many};
use scenerank::files::origin::Origin;
use scenerank::run::{self, FileRows, TrainedModel, Which};
use scenerank::train::checkpoint::{self, LAST};
use scenerank::train::config::{TrainConfig, TrainOptions};

/// Ids, files of images, rows, and counts as JSON, of a file of graphs.
type FileParts<'py> = (Vec<u64>, Vec<String>, Bound<'py, PyBytes>, String);

/// Time between two looks at Python's signals.
const SIGNALS: Duration = Duration::from_millis(100);

fn refused(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// The value of this name, as in JSON.
fn named<T: serde::de::DeserializeOwned>(what: &str, name: &str) -> PyResult<T> {
    serde_json::from_value(name.into()).map_err(|error| refused(format!("{what}: {error}")))
}

fn bytes<'py>(py: Python<'py>, values: &[f32]) -> Bound<'py, PyBytes> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    PyBytes::new(py, &bytes)
}

fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
}

/// A trained run. Its data is opened when images of it are asked for.
#[pyclass(frozen)]
struct Run {
    data: Option<PathBuf>,
    model: Arc<TrainedModel>,
    with_data: OnceLock<run::Run>,
}

impl Run {
    fn with_data(&self) -> PyResult<&run::Run> {
        if let Some(run) = self.with_data.get() {
            return Ok(run);
        }
        let opened = run::Run::of_model(Arc::clone(&self.model), self.data.as_deref()).map_err(refused)?;
        Ok(self.with_data.get_or_init(|| opened))
    }

    fn embed_all(&self, graphs: &[SceneGraphBuf]) -> PyResult<Vec<f32>> {
        let views: Vec<_> = graphs.iter().map(SceneGraphBuf::view).collect();
        self.model.embed(&views).map_err(refused)
    }
}

#[pymethods]
impl Run {
    #[new]
    fn new(
        py: Python<'_>,
        folder: PathBuf,
        checkpoint: &str,
        data: Option<PathBuf>,
        device: &str,
        precision: &str,
    ) -> PyResult<Self> {
        let which = match checkpoint {
            "best" => Which::Best,
            "last" => Which::Last,
            other => return Err(refused(format!("checkpoint: {other:?}; use best or last"))),
        };
        let (device, precision): (Device, Precision) =
            (named("device", device)?, named("precision", precision)?);
        let open = || TrainedModel::open(&folder, which, data.as_deref(), device, precision);
        let model = Arc::new(py.detach(open).map_err(refused)?);
        Ok(Run { data, model, with_data: OnceLock::new() })
    }

    fn width(&self) -> usize {
        self.model.width()
    }

    fn id(&self) -> String {
        self.model.checkpoint.model_id()
    }

    /// Names of objects and predicates, without those of the image node and its edges.
    fn names(&self) -> (Vec<String>, Vec<String>) {
        let vocabulary = self.model.vocabulary();
        (vocabulary.annotated_objects().to_vec(), vocabulary.annotated_predicates().to_vec())
    }

    /// Configuration of the run as JSON.
    fn config(&self) -> String {
        serde_json::to_string(&self.model.checkpoint.config).expect("plain fields")
    }

    /// Embeddings of graphs, one row each.
    fn embed<'py>(
        &self,
        py: Python<'py>,
        graphs: Vec<Vec<Statement>>,
        skip_unknown: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let vocabulary = self.model.vocabulary();
        let mut converted = Vec::with_capacity(graphs.len());
        if skip_unknown {
            let counts = named_graphs(graphs, vocabulary, |found| {
                converted.push(found.graph);
                Ok(())
            });
            if let Some(graph) = counts.map_err(refused)?.left_out.first() {
                return Err(refused(format!("graphs: graph {graph} has no object of a known name")));
            }
        } else {
            for (number, statements) in graphs.iter().enumerate() {
                let graph = QueryGraph::new(statements, vocabulary);
                let graph = graph.map_err(|problem| refused(format!("graphs: graph {number}: {problem}")))?;
                converted.push(graph.augmented(vocabulary));
            }
        }
        Ok(bytes(py, &py.detach(|| self.embed_all(&converted))?))
    }

    /// Ids, files of images, embeddings and counts of a file of graphs.
    fn embed_file<'py>(
        &self,
        py: Python<'py>,
        path: PathBuf,
        data_info: Option<PathBuf>,
        limits: (f64, f64, usize, usize),
    ) -> PyResult<FileParts<'py>> {
        let (min_object_score, min_relationship_score, top_objects, top_relationships) = limits;
        let limits = Limits { min_object_score, min_relationship_score, top_objects, top_relationships };
        let predictions = data_info.map(|info| Predictions { info, limits });
        let reading = GraphReading { predictions, ..GraphReading::default() };
        let found = py.detach(|| self.model.embed_file(&path, &reading)).map_err(refused)?;
        let (FileRows { ids, image_files, rows }, counts) = found;
        let counts = serde_json::to_string(&counts).expect("plain fields");
        Ok((ids, image_files, bytes(py, &rows), counts))
    }

    /// Ids and embeddings of a split's images.
    fn embeddings<'py>(&self, py: Python<'py>, split: &str) -> PyResult<(Vec<u64>, Bound<'py, PyBytes>)> {
        let split: Split = named("split", split)?;
        let run = py.detach(|| self.with_data())?;
        let ids = run.dataset.split(split).map(|image| run.dataset.image_id(image)).collect();
        let rows = py.detach(|| run.embed_split(split)).map_err(refused)?;
        Ok((ids, bytes(py, &rows)))
    }

    /// Captions of an image of the data.
    fn captions(&self, image_id: u64) -> PyResult<Vec<String>> {
        let dataset = &self.with_data()?.dataset;
        let image = dataset.find_image(image_id);
        let image = image.ok_or_else(|| refused(format!("image_id: the data has no image {image_id}")))?;
        dataset.verify(image..image + 1).map_err(refused)?;
        Ok(dataset.captions(image).map(str::to_string).collect())
    }

    /// The graph that a sentence describes, and the words that were not understood.
    fn understand(&self, text: &str) -> (Vec<Statement>, Vec<String>) {
        let vocabulary = self.model.vocabulary();
        let sentence = Lexicon::new(vocabulary).understand(text);
        (sentence.statements(vocabulary), sentence.not_understood)
    }
}

/// Rows of a file that `embed` wrote, mapped.
#[pyclass(frozen)]
struct Embeddings {
    file: EmbeddingsFile,
    origin: Option<Origin>,
}

#[pymethods]
impl Embeddings {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let open =
            || Ok(Embeddings { origin: Origin::read_beside(&path)?, file: EmbeddingsFile::open(&path)? });
        py.detach(open).map_err(|error: scenerank::Error| refused(error))
    }

    fn shape(&self) -> (usize, usize) {
        (self.file.rows().len(), self.file.rows().width())
    }

    /// Ids of the rows; `None` if no description lies beside the file.
    fn ids(&self) -> Option<Vec<u64>> {
        self.origin.as_ref().map(|origin| origin.image_ids.clone())
    }

    /// Files of the rows' images, or nothing if they are not known.
    fn image_files(&self) -> Vec<String> {
        self.origin.as_ref().map_or(Vec::new(), |origin| origin.image_files.clone())
    }

    /// Identity of the model that computed the rows.
    fn model(&self) -> Option<String> {
        self.origin.as_ref().map(|origin| origin.model.clone())
    }

    /// Rows and cosines of the `k` nearest rows of each query, one query after the other.
    fn nearest<'py>(
        &self,
        py: Python<'py>,
        queries: &[u8],
        k: usize,
    ) -> PyResult<(Vec<usize>, Bound<'py, PyBytes>)> {
        let (queries, width) = (values(queries), self.file.rows().width());
        let found = py.detach(|| {
            let queries = scenerank::evaluation::Embeddings::new(&queries, width)?;
            let found = nearest_stored_many(queries, self.file.rows(), k)?;
            self.file.check_unchanged()?;
            Ok(found.concat())
        });
        let found = found.map_err(|error: scenerank::Error| refused(error))?;
        let (rows, cosines): (Vec<usize>, Vec<f32>) = found.into_iter().unzip();
        Ok((rows, bytes(py, &cosines)))
    }
}

/// Trains a run and returns its outcome as JSON. `options` is JSON of the options by the names of the command line.
#[pyfunction]
fn train(py: Python<'_>, data: PathBuf, out: PathBuf, options: &str, resume: bool) -> PyResult<String> {
    let options: TrainOptions =
        serde_json::from_str(options).map_err(|error| refused(format!("options: {error}")))?;
    let stop = AtomicBool::new(false);
    let (outcome, signal) = py.detach(|| {
        std::thread::scope(|scope| {
            let training = scope.spawn(|| train_run(&data, &out, options, resume, &stop));
            let mut signal = Ok(());
            while !training.is_finished() {
                std::thread::sleep(SIGNALS);
                if signal.is_ok() {
                    signal = Python::attach(|py| py.check_signals());
                    stop.store(signal.is_err(), Ordering::Relaxed);
                }
            }
            (training.join(), signal)
        })
    });
    let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(refused)?;
    // The step was finished and saved.
    signal?;
    Ok(serde_json::to_string(&outcome).expect("plain fields"))
}

fn train_run(
    data: &Path,
    out: &Path,
    options: TrainOptions,
    resume: bool,
    stop: &AtomicBool,
) -> scenerank::Result<scenerank::train::TrainOutcome> {
    let dataset = Dataset::open(data)?;
    let before = match resume {
        true => Some(checkpoint::load(&out.join(LAST))?),
        false => None,
    };
    let base = before.as_ref().map_or_else(TrainConfig::default, |before| before.config.train.clone());
    scenerank::train::train(&dataset, options.resolve(&base)?, out, before, stop)
}

#[pymodule]
fn _scenerank(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Progress is for terminals of commands; a notebook shows what it wants.
    scenerank::progress::hide();
    module.add_class::<Run>()?;
    module.add_class::<Embeddings>()?;
    module.add_function(wrap_pyfunction!(train, module)?)
}
