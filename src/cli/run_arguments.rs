//! Arguments shared by the commands that use a trained run.

use std::path::{Path, PathBuf};

use clap::Args;
use scenerank::Result;
use scenerank::compare::results::leave_result;
use scenerank::data::Split;
use scenerank::run::{Run, TrainedModel, Which};
use serde::Serialize;

use super::DeviceArguments;

#[derive(Args)]
pub struct RunArguments {
    /// Folder of a trained run, or one of its checkpoints, such as step-000408.safetensors.
    pub run: PathBuf,
    /// Checkpoint to use in a folder.
    #[arg(long, value_enum, default_value_t)]
    checkpoint: Which,
    /// Data file of the run, if it has moved, or another collection that was prepared with --vocabulary-from and this run.
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    /// Similarity matrix or caption vectors of the run, if that file has moved.
    #[arg(long, value_name = "NPY")]
    supervision: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
}

impl RunArguments {
    pub fn open(&self) -> Result<Run> {
        let mut run = Run::map(
            &self.run,
            self.checkpoint,
            self.data.as_deref(),
            self.device.device,
            self.device.arithmetic(),
        )?;
        if let Some(path) = &self.supervision {
            run.move_supervision(path.clone());
        }
        Ok(run)
    }

    /// Opens the model alone.
    pub fn open_model(&self) -> Result<TrainedModel> {
        TrainedModel::open(
            &self.run,
            self.checkpoint,
            self.data.as_deref(),
            self.device.device,
            self.device.arithmetic(),
        )
    }

    /// Folder of the run.
    pub fn folder(&self) -> &Path {
        match self.run.is_file() {
            true => self.run.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")),
            false => &self.run,
        }
    }

    /// Leaves a command's result in the run's folder, under the name of the split and of the checkpoint unless they are the
    /// test images and the best one. `compare` takes these files as results on the run's own data, so those on another
    /// collection are not kept.
    pub fn leave_result(&self, run: &Run, command: &str, split: Split, result: &impl Serialize) {
        if !run.has_own_data() {
            return;
        }
        let checkpoint = match (self.run.is_file(), self.checkpoint) {
            (true, _) => self.run.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
            (false, Which::Best) => None,
            (false, Which::Last) => Some("last".into()),
        };
        let checkpoint = checkpoint.filter(|name| name != "best");
        leave_result(self.folder(), command, split, checkpoint.as_deref(), result);
    }
}
