//! A trained run, opened for use: its model alone, or with the data of a collection.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::backend::cpu::stored_rows::StoredRows;
use crate::backend::device::{Arithmetic, BackendTask, Device};
use crate::data::new_graphs::{GraphReading, NewGraphCounts, read_new_graphs};
use crate::data::scene_graph::{SceneGraph, SceneGraphBuf};
use crate::data::similarity::Similarity;
use crate::data::supervision::Supervision;
use crate::data::vocabulary::Vocabulary;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::evaluation::embed::embed_graphs;
use crate::evaluation::{Embeddings, nearest, nearest_many, nearest_stored, nearest_stored_many};
use crate::files::origin::Origin;
use crate::network::tensors::NamedTensors;
use crate::progress::Progress;
use crate::train::checkpoint::{self, BEST, Checkpoint, LAST, RunConfig};
use crate::train::first_parameters;

/// Checkpoint of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// The epoch with the best validation result.
    #[default]
    Best,
    /// The latest state of the training.
    Last,
}

/// Graphs of a file that are embedded at a time.
const GRAPHS_AT_A_TIME: usize = 8192;

/// Embedded graphs of a file.
#[derive(Default)]
pub struct FileRows {
    /// `[rows]` id of each graph.
    pub ids: Vec<u64>,
    /// `[rows]` file of each graph's image; empty if the file does not name them.
    pub image_files: Vec<String>,
    /// `[rows, D]` embeddings.
    pub rows: Vec<f32>,
}

/// Model of a run folder. It needs no data: the checkpoint has the names of its types.
pub struct TrainedModel {
    /// Path of the checkpoint.
    path: PathBuf,
    /// Checkpoint of the run.
    pub checkpoint: Checkpoint,
    vocabulary: Vocabulary,
    device: Device,
    arithmetic: Arithmetic,
}

impl TrainedModel {
    /// Opens the model of the run in `folder`, or of the checkpoint file of that name.
    ///
    /// `data` is the new path of the data file, if it has moved. It is read only for a checkpoint of an older version, which
    /// has no vocabulary.
    pub fn open(
        folder: &Path,
        which: Which,
        data: Option<&Path>,
        device: Device,
        arithmetic: impl Into<Arithmetic>,
    ) -> Result<Self> {
        let (path, checkpoint) = open_checkpoint(folder, which)?;
        let vocabulary = match &checkpoint.config.vocabulary {
            Some(vocabulary) => vocabulary.clone(),
            None => checkpoint::open_data(&checkpoint.config, data)?.vocabulary().clone(),
        };
        Ok(TrainedModel { path, checkpoint, vocabulary, device, arithmetic: arithmetic.into() })
    }

    /// Names of the types that the model knows.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Path of the checkpoint.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Width of the embeddings, D.
    pub fn width(&self) -> usize {
        self.checkpoint.config.model.state_width
    }

    /// Embeddings of graphs, `[graphs, D]`, each row of unit length.
    pub fn embed(&self, graphs: &[SceneGraph<'_>]) -> Result<Vec<f32>> {
        embed_graphs(self.place(), self.checkpoint.config.model, &self.checkpoint.tensors, graphs, None)
    }

    /// Embeds the graphs of a file. Also returns what was left out.
    pub fn embed_file(&self, path: &Path, reading: &GraphReading) -> Result<(FileRows, NewGraphCounts)> {
        let mut all = FileRows::default();
        let counts = self.embed_parts(path, reading, |part| {
            all.ids.extend(part.ids);
            all.image_files.extend(part.image_files);
            all.rows.extend(part.rows);
            Ok(())
        })?;
        Ok((all, counts))
    }

    /// Embeds the graphs of a file of any length, and calls `each` with a part after the other.
    pub fn embed_parts(
        &self,
        path: &Path,
        reading: &GraphReading,
        mut each: impl FnMut(FileRows) -> Result<()>,
    ) -> Result<NewGraphCounts> {
        let mut part = FileRows::default();
        let mut waiting: Vec<SceneGraphBuf> = Vec::new();
        let mut finish = |part: &mut FileRows, waiting: &mut Vec<SceneGraphBuf>| -> Result<()> {
            part.rows = self.embed(&waiting.iter().map(SceneGraphBuf::view).collect::<Vec<_>>())?;
            waiting.clear();
            each(std::mem::take(part))
        };
        let counts = read_new_graphs(path, reading, &self.vocabulary, |found| {
            part.ids.push(found.id);
            part.image_files.extend(found.image_file);
            waiting.push(found.graph);
            match waiting.len() == GRAPHS_AT_A_TIME {
                true => finish(&mut part, &mut waiting),
                false => Ok(()),
            }
        })?;
        if !waiting.is_empty() {
            finish(&mut part, &mut waiting)?;
        }
        Ok(counts)
    }

    /// Runs `task` on the device for which the run was opened.
    pub fn compute<T: BackendTask>(&self, task: T) -> Result<T::Output> {
        self.device.run(self.arithmetic, task)
    }

    /// Device of the computations, and how it computes.
    pub fn place(&self) -> (Device, Arithmetic) {
        (self.device, self.arithmetic)
    }

    /// Finds the `k` rows of `index [images, D]` nearest to `query [D]`, with their cosines.
    pub fn nearest(&self, query: &[f32], index: &[f32], k: usize) -> Result<Vec<(usize, f32)>> {
        let rows = |values| Embeddings::new(values, self.width());
        nearest(self.device, self.arithmetic, rows(query)?, rows(index)?, k)
    }

    /// Like [`TrainedModel::nearest`], for stored rows. If no device was named, this runs on the CPU: reading the rows
    /// once is faster than copying them to another device.
    pub fn nearest_stored(&self, query: &[f32], rows: StoredRows<'_>, k: usize) -> Result<Vec<(usize, f32)>> {
        match self.device {
            Device::Auto | Device::Cpu => nearest_stored(Embeddings::new(query, self.width())?, rows, k),
            _ => self.nearest(query, &rows.to_single(), k),
        }
    }

    /// [`TrainedModel::nearest`] of each row of `queries [queries, D]`; each row of `index` is read once for all of them.
    pub fn nearest_many(&self, queries: &[f32], index: &[f32], k: usize) -> Result<Vec<Vec<(usize, f32)>>> {
        let rows = |values| Embeddings::new(values, self.width());
        nearest_many(self.device, self.arithmetic, rows(queries)?, rows(index)?, k)
    }

    /// [`TrainedModel::nearest_stored`] of each row of `queries [queries, D]`.
    pub fn nearest_stored_many(
        &self,
        queries: &[f32],
        rows: StoredRows<'_>,
        k: usize,
    ) -> Result<Vec<Vec<(usize, f32)>>> {
        match self.device {
            Device::Auto | Device::Cpu => {
                nearest_stored_many(Embeddings::new(queries, self.width())?, rows, k)
            }
            _ => self.nearest_many(queries, &rows.to_single(), k),
        }
    }
}

/// Model of a run folder, and the data of its collection or of another one in the same types.
pub struct Run {
    /// Model of the run.
    pub model: Arc<TrainedModel>,
    /// Data on which the run was trained, or another collection.
    pub dataset: Dataset,
    /// Opened when it is first asked for: most commands do not need it.
    supervision: OnceLock<Supervision>,
    /// New place of the supervision's file, if it has moved.
    moved_supervision: Option<PathBuf>,
}

impl Run {
    /// Opens the run in `folder` like [`Run::map`], and verifies all of its data.
    pub fn open(
        folder: &Path,
        which: Which,
        data: Option<&Path>,
        device: Device,
        arithmetic: impl Into<Arithmetic>,
    ) -> Result<Self> {
        let run = Self::map(folder, which, data, device, arithmetic)?;
        run.dataset.verify(0..run.dataset.image_count())?;
        Ok(run)
    }

    /// Opens the run in `folder`. `data` is the path of its data file, if that has moved, or of another collection that was
    /// prepared with the vocabulary of the run. Methods of the run verify the images that they read; other images are to be verified
    /// before they are read ([`Dataset::verify`]).
    pub fn map(
        folder: &Path,
        which: Which,
        data: Option<&Path>,
        device: Device,
        arithmetic: impl Into<Arithmetic>,
    ) -> Result<Self> {
        let (path, checkpoint) = open_checkpoint(folder, which)?;
        let dataset = open_collection(&checkpoint.config, data)?;
        let vocabulary = dataset.vocabulary().clone();
        let model = TrainedModel { path, checkpoint, vocabulary, device, arithmetic: arithmetic.into() };
        Ok(Run::new(Arc::new(model), dataset))
    }

    /// Opens the data of a model that is already open: its own, or like [`Run::map`] that at `data`.
    pub fn of_model(model: Arc<TrainedModel>, data: Option<&Path>) -> Result<Self> {
        let dataset = open_collection(&model.checkpoint.config, data)?;
        Ok(Run::new(model, dataset))
    }

    fn new(model: Arc<TrainedModel>, dataset: Dataset) -> Self {
        Run { model, dataset, supervision: OnceLock::new(), moved_supervision: None }
    }

    /// Whether the data is that on which the run was trained, not another collection.
    pub fn has_own_data(&self) -> bool {
        self.dataset.fingerprint_digits() == self.model.checkpoint.config.fingerprint
    }

    /// Sets the place of the similarity matrix or the caption vectors that supervised the training, if that has moved.
    pub fn move_supervision(&mut self, path: PathBuf) {
        self.moved_supervision = Some(path);
    }

    /// Similarities that supervised the training, or those of another collection. The first call opens and checks them.
    pub fn similarity(&self) -> Result<Similarity<'_>> {
        self.similarity_of(std::iter::once(0..self.dataset.image_count()))
    }

    /// [`Run::similarity`] of some images. Only these may be compared: others are not verified.
    pub fn similarity_of(&self, images: impl IntoIterator<Item = Range<usize>>) -> Result<Similarity<'_>> {
        let supervision = match self.supervision.get() {
            Some(supervision) => supervision,
            None => {
                let (config, moved) = (&self.model.checkpoint.config, self.moved_supervision.as_deref());
                let opened = checkpoint::open_supervision(config, moved, &self.dataset)?;
                self.supervision.get_or_init(|| opened)
            }
        };
        match supervision {
            Supervision::Captions => self.dataset.similarity_of(images),
            Supervision::Matrix(_) | Supervision::Vectors(_) => Ok(supervision.view(&self.dataset)),
        }
    }

    /// Width of the embeddings, D.
    pub fn width(&self) -> usize {
        self.model.width()
    }

    /// Embeddings of graphs, `[graphs, D]`.
    pub fn embed(&self, graphs: &[SceneGraph<'_>]) -> Result<Vec<f32>> {
        self.embed_by(&self.model.checkpoint.tensors, graphs)
    }

    /// Embeddings of a split's images, `[images, D]`.
    pub fn embed_split(&self, split: Split) -> Result<Vec<f32>> {
        self.embed_images(self.dataset.split(split))
    }

    /// Embeddings of a range of images, `[images, D]`.
    pub fn embed_images(&self, images: Range<usize>) -> Result<Vec<f32>> {
        self.dataset.verify(images.clone())?;
        self.embed(&images.map(|image| self.dataset.graph(image)).collect::<Vec<_>>())
    }

    /// Like [`Run::embed_split`], with the network before training.
    pub fn embed_split_untrained(&self, split: Split) -> Result<Vec<f32>> {
        let RunConfig { model, train, .. } = &self.model.checkpoint.config;
        let tensors = first_parameters(&self.dataset, *model, train.seed);
        self.embed_by(&tensors, &self.graphs(split)?)
    }

    /// Origin of the embeddings of these images.
    pub fn origin(&self, images: Range<usize>) -> Origin {
        let ids = images.map(|image| self.dataset.image_id(image)).collect();
        Origin::new(self.model.checkpoint.model_id(), self.dataset.fingerprint_digits(), ids)
    }

    /// Files that the run was opened from.
    pub fn inputs(&self) -> Vec<&Path> {
        let recorded = self.model.checkpoint.config.train.supervision();
        let supervision = self.moved_supervision.as_deref().or(recorded);
        [self.model.path(), self.dataset.path()].into_iter().chain(supervision).collect()
    }

    /// Runs `task` on the device for which the run was opened.
    pub fn compute<T: BackendTask>(&self, task: T) -> Result<T::Output> {
        self.model.compute(task)
    }

    /// Device of the computations, and how it computes.
    pub fn place(&self) -> (Device, Arithmetic) {
        self.model.place()
    }

    /// Finds the `k` rows of `index [images, D]` nearest to `query [D]`, with their cosines.
    pub fn nearest(&self, query: &[f32], index: &[f32], k: usize) -> Result<Vec<(usize, f32)>> {
        self.model.nearest(query, index, k)
    }

    /// Scene graphs of a split.
    pub fn graphs(&self, split: Split) -> Result<Vec<SceneGraph<'_>>> {
        let images = self.dataset.split(split);
        self.dataset.verify(images.clone())?;
        Ok(images.map(|image| self.dataset.graph(image)).collect())
    }

    /// Embeds graphs of the data with these tensors, under a progress bar.
    fn embed_by(&self, tensors: &NamedTensors, graphs: &[SceneGraph<'_>]) -> Result<Vec<f32>> {
        let progress = Progress::new("embed", Some(graphs.len() as u64), "graphs");
        let config = self.model.checkpoint.config.model;
        let embeddings = embed_graphs(self.place(), config, tensors, graphs, Some(&progress))?;
        progress.finish();
        // Embeddings are returned only if the file was not changed while it was read.
        self.dataset.check_unchanged()?;
        Ok(embeddings)
    }
}

/// Data of the run, or at `path` another collection in its types, of which nothing is read yet.
fn open_collection(config: &RunConfig, path: Option<&Path>) -> Result<Dataset> {
    let dataset = Dataset::map(path.unwrap_or(&config.data))?;
    let is_own = dataset.fingerprint_digits() == config.fingerprint;
    let has_types =
        || config.vocabulary.as_ref().is_some_and(|types| types.has_types_of(dataset.vocabulary()));
    match is_own || path.is_some() && has_types() {
        true => Ok(dataset),
        // Tells what is wrong with it.
        false => checkpoint::open_collection(config, path),
    }
}

fn open_checkpoint(folder: &Path, which: Which) -> Result<(PathBuf, Checkpoint)> {
    let path = checkpoint_path(folder, which)?;
    let checkpoint = checkpoint::load(&path)?;
    checkpoint::check_neighbour(&path, &checkpoint.config)?;
    Ok((path, checkpoint))
}

/// Path of the checkpoint in `folder`, or `folder` itself if that is a file, such as one of several kept models.
fn checkpoint_path(folder: &Path, which: Which) -> Result<PathBuf> {
    if folder.is_file() {
        return Ok(folder.to_path_buf());
    }
    let (wanted, other) = match which {
        Which::Best => (folder.join(BEST), folder.join(LAST)),
        Which::Last => (folder.join(LAST), folder.join(BEST)),
    };
    if wanted.exists() {
        return Ok(wanted);
    }
    Err(match other.exists() {
        true => Error::invalid(
            folder,
            "checkpoint",
            format!("{} is missing", wanted.display()),
            "finish an epoch, or use --checkpoint last",
        ),
        false => Error::invalid(folder, "run folder", "holds no checkpoint", "train a run into it first"),
    })
}
