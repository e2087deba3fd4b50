//! A trained run, opened for use: the parameters of its model, and its data.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::backend::cpu::stored_rows::StoredRows;
use crate::backend::device::{BackendTask, Device, Precision};
use crate::data::scene_graph::SceneGraph;
use crate::data::similarity::Similarity;
use crate::data::supervision::Supervision;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::evaluation::embed::embed_graphs;
use crate::evaluation::{Embeddings, nearest, nearest_stored};
use crate::files::origin::Origin;
use crate::network::tensors::NamedTensors;
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

/// Checkpoint and data of a run folder.
pub struct Run {
    /// Path of the checkpoint.
    path: PathBuf,
    /// Checkpoint of the run.
    pub checkpoint: Checkpoint,
    /// Data on which the run was trained.
    pub dataset: Dataset,
    /// Opened when it is first asked for: most commands do not need it.
    supervision: OnceLock<Supervision>,
    /// New place of the supervision's file, if it has moved.
    moved_supervision: Option<PathBuf>,
    device: Device,
    precision: Precision,
}

impl Run {
    /// Opens the run in `folder`, or the checkpoint file of that name; `data` is the path of its data file, if that has moved.
    pub fn open(
        folder: &Path,
        which: Which,
        data: Option<&Path>,
        device: Device,
        precision: Precision,
    ) -> Result<Self> {
        let path = checkpoint_path(folder, which)?;
        let checkpoint = checkpoint::load(&path)?;
        checkpoint::check_neighbour(&path, &checkpoint.config)?;
        let dataset = checkpoint::open_data(&checkpoint.config, data)?;
        let (supervision, moved_supervision) = (OnceLock::new(), None);
        Ok(Run { path, checkpoint, dataset, supervision, moved_supervision, device, precision })
    }

    /// Sets the place of the similarity matrix or the caption vectors that supervised the training, if that has moved.
    pub fn move_supervision(&mut self, path: PathBuf) {
        self.moved_supervision = Some(path);
    }

    /// Similarities that supervised the training. The first call opens and checks them.
    pub fn similarity(&self) -> Result<Similarity<'_>> {
        let supervision = match self.supervision.get() {
            Some(supervision) => supervision,
            None => {
                let moved = self.moved_supervision.as_deref();
                let opened = checkpoint::open_supervision(&self.checkpoint.config, moved, &self.dataset)?;
                self.supervision.get_or_init(|| opened)
            }
        };
        Ok(supervision.view(&self.dataset))
    }

    /// Width of the embeddings.
    pub fn width(&self) -> usize {
        self.checkpoint.config.model.state_width
    }

    /// Embeddings of graphs, `[graphs, D]`.
    pub fn embed(&self, graphs: &[SceneGraph<'_>]) -> Result<Vec<f32>> {
        self.embed_by(&self.checkpoint.tensors, graphs)
    }

    /// Embeddings of a split's images, `[images, D]`.
    pub fn embed_split(&self, split: Split) -> Result<Vec<f32>> {
        self.embed(&self.graphs(split))
    }

    /// Like [`Run::embed_split`], with the network before training.
    pub fn embed_split_untrained(&self, split: Split) -> Result<Vec<f32>> {
        let RunConfig { model, train, .. } = &self.checkpoint.config;
        let tensors = first_parameters(&self.dataset, *model, train.seed);
        self.embed_by(&tensors, &self.graphs(split))
    }

    /// Origin of the embeddings of these images.
    pub fn origin(&self, images: Range<usize>) -> Origin {
        let ids = images.map(|image| self.dataset.image_id(image)).collect();
        Origin::new(self.checkpoint.model_id(), self.checkpoint.config.fingerprint.clone(), ids)
    }

    /// Files that the run was opened from.
    pub fn inputs(&self) -> Vec<&Path> {
        let supervision = self.moved_supervision.as_deref().or(self.checkpoint.config.train.supervision());
        [self.path.as_path(), self.dataset.path()].into_iter().chain(supervision).collect()
    }

    /// Runs `task` on the device for which the run was opened.
    pub fn compute<T: BackendTask>(&self, task: T) -> Result<T::Output> {
        self.device.run(self.precision, task)
    }

    /// Device and precision used for computations.
    pub fn place(&self) -> (Device, Precision) {
        (self.device, self.precision)
    }

    /// Finds the `k` rows of `index [images, D]` nearest to `query [D]`, with their cosines.
    pub fn nearest(&self, query: &[f32], index: &[f32], k: usize) -> Result<Vec<(usize, f32)>> {
        let rows = |values| Embeddings::new(values, self.width());
        nearest(self.device, self.precision, rows(query)?, rows(index)?, k)
    }

    /// Like [`Run::nearest`], for stored rows. If no device was named, this runs on the CPU: reading the rows
    /// once is faster than copying them to another device.
    pub fn nearest_stored(&self, query: &[f32], rows: StoredRows<'_>, k: usize) -> Result<Vec<(usize, f32)>> {
        match self.device {
            Device::Auto | Device::Cpu => nearest_stored(Embeddings::new(query, self.width())?, rows, k),
            _ => self.nearest(query, &rows.to_single(), k),
        }
    }

    /// Scene graphs of a split.
    pub fn graphs(&self, split: Split) -> Vec<SceneGraph<'_>> {
        self.dataset.split(split).map(|image| self.dataset.graph(image)).collect()
    }

    fn embed_by(&self, tensors: &NamedTensors, graphs: &[SceneGraph<'_>]) -> Result<Vec<f32>> {
        let model = self.checkpoint.config.model;
        let embeddings = embed_graphs(self.device, self.precision, model, tensors, graphs)?;
        // Before anybody uses them.
        self.dataset.check_unchanged()?;
        Ok(embeddings)
    }
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
