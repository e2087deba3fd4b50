//! Arguments shared by the commands that use a trained run.

use std::path::PathBuf;

use clap::Args;
use scenerank::Result;
use scenerank::run::{Run, TrainedModel, Which};

use super::DeviceArguments;

#[derive(Args)]
pub struct RunArguments {
    /// Folder of a trained run.
    pub run: PathBuf,
    /// Checkpoint to use.
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
        let DeviceArguments { device, precision } = self.device;
        let mut run = Run::open(&self.run, self.checkpoint, self.data.as_deref(), device, precision)?;
        if let Some(path) = &self.supervision {
            run.move_supervision(path.clone());
        }
        Ok(run)
    }

    /// Opens the model alone.
    pub fn open_model(&self) -> Result<TrainedModel> {
        let DeviceArguments { device, precision } = self.device;
        TrainedModel::open(&self.run, self.checkpoint, self.data.as_deref(), device, precision)
    }
}
