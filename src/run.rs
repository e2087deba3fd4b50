//! A trained run, opened for use: its model's parameters and its data.

use std::path::{Path, PathBuf};

use crate::backend::cpu::stored_rows::StoredRows;
use crate::backend::device::{BackendTask, Device, Precision};
use crate::data::scene_graph::SceneGraph;
use crate::data::similarity::Similarity;
use crate::data::supervision::Supervision;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::evaluation::embed::embed_graphs;
use crate::evaluation::{Embeddings, nearest, nearest_stored};
use crate::network::tensors::NamedTensors;
use crate::train::checkpoint::{self, BEST, Checkpoint, LAST, RunConfig};
use crate::train::first_parameters;

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// Of the epoch with the best validation.
    #[default]
    Best,
    /// As training left it.
    Last,
}

/// A run folder's checkpoint and data.
pub struct Run {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The data that it was trained on.
    pub dataset: Dataset,
    supervision: Supervision,
    device: Device,
    precision: Precision,
}

impl Run {
    /// Opens the run in `folder`; `data` says where its data lies now, if not where the run found it.
    pub fn open(
        folder: &Path,
        which: Which,
        data: Option<&Path>,
        device: Device,
        precision: Precision,
    ) -> Result<Self> {
        let path = checkpoint_path(folder, which)?;
        let checkpoint = checkpoint::load(&path)?;
        let dataset = checkpoint::open_data(&checkpoint.config, data)?;
        let train = &checkpoint.config.train;
        let (matrix, vectors) = (train.similarity.as_deref(), train.caption_vectors.as_deref());
        let supervision = Supervision::open(matrix, vectors, &dataset)?;
        Ok(Run { checkpoint, dataset, supervision, device, precision })
    }

    /// The similarities that supervised it.
    pub fn similarity(&self) -> Similarity<'_> {
        self.supervision.view(&self.dataset)
    }

    /// Width of its embeddings.
    pub fn width(&self) -> usize {
        self.checkpoint.config.model.state_width
    }

    /// The embeddings of graphs, `[graphs, D]`.
    pub fn embed(&self, graphs: &[SceneGraph<'_>]) -> Result<Vec<f32>> {
        self.embed_by(&self.checkpoint.tensors, graphs)
    }

    /// The embeddings of a split's images, `[images, D]`.
    pub fn embed_split(&self, split: Split) -> Result<Vec<f32>> {
        self.embed(&self.graphs(split))
    }

    /// The same by the network as it was before training.
    pub fn embed_split_untrained(&self, split: Split) -> Result<Vec<f32>> {
        let RunConfig { model, train, .. } = &self.checkpoint.config;
        let tensors = first_parameters(&self.dataset, *model, train.seed);
        self.embed_by(&tensors, &self.graphs(split))
    }

    /// Runs `task` on the device that the run was opened for.
    pub fn compute<T: BackendTask>(&self, task: T) -> Result<T::Output> {
        self.device.run(self.precision, task)
    }

    /// Where and how precisely it computes.
    pub fn place(&self) -> (Device, Precision) {
        (self.device, self.precision)
    }

    /// The `k` rows of `index [images, D]` nearest to `query [D]`, and their cosines.
    pub fn nearest(&self, query: &[f32], index: &[f32], k: usize) -> Result<Vec<(usize, f32)>> {
        let rows = |values| Embeddings::new(values, self.width());
        nearest(self.device, self.precision, rows(query)?, rows(index)?, k)
    }

    /// The same of rows as they are stored. Where the device was not named they are compared on the CPU: to read them
    /// once is quicker than to bring them to another device.
    pub fn nearest_stored(&self, query: &[f32], rows: StoredRows<'_>, k: usize) -> Result<Vec<(usize, f32)>> {
        match self.device {
            Device::Auto | Device::Cpu => nearest_stored(Embeddings::new(query, self.width())?, rows, k),
            _ => self.nearest(query, &rows.to_single(), k),
        }
    }

    /// The scene graphs of a split.
    pub fn graphs(&self, split: Split) -> Vec<SceneGraph<'_>> {
        self.dataset.split(split).map(|image| self.dataset.graph(image)).collect()
    }

    fn embed_by(&self, tensors: &NamedTensors, graphs: &[SceneGraph<'_>]) -> Result<Vec<f32>> {
        embed_graphs(self.device, self.precision, self.checkpoint.config.model, tensors, graphs)
    }
}

fn checkpoint_path(folder: &Path, which: Which) -> Result<PathBuf> {
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
