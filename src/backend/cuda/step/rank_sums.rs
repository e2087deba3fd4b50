//! Sums over the rows of all ranks: batch norm's statistics, the terms of its backward, and the gradients.
//!
//! The launches of a stage compute over this rank's rows, as with one rank. What they leave is gathered from all ranks and
//! merged (`kernels/rank_merge.cu`) before the next launch reads it: by NCCL between GPUs, otherwise through the host.

use bytemuck::Zeroable;

use super::activations::{Block, norm, statistics};
use super::batch::Batch;
use crate::backend::Mode;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Element};
use crate::backend::cuda::device::exchange::{Communicator, ID_BYTES};
use crate::backend::cuda::launchers::batch_norm::Sums;
use crate::backend::cuda::launchers::rank_merge::{self, Parts};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;
use crate::network::parameters::{BlockKind, BlockLayout, Parameters};
use crate::ranks::Ranks;

/// The ranks, and memory for what they exchange. With one rank nothing is exchanged, and the memory stays empty.
pub(crate) struct RankSums {
    ranks: Ranks,
    /// NCCL, on a GPU of a program that has it.
    communicator: Option<Communicator>,
    /// `[Batch::SIZES]` sizes of this rank's batch.
    own_sizes: Buffer<i32>,
    /// `[ranks, Batch::SIZES]` sizes of the batches of all ranks.
    sizes: Buffer<i32>,
    /// `[2, C]` two values per column over the rows of this rank.
    own: Buffer<f32>,
    /// `[ranks, 2, C]` these values of all ranks.
    all: Buffer<f32>,
    /// `[running_count]` each: take the place of the running statistics in launches over the rows of this rank.
    unused: [Buffer<f32>; 2],
}

impl RankSums {
    /// One rank.
    pub(crate) fn one(device: &Device) -> Result<Self> {
        RankSums::new(device, Ranks::default())
    }

    /// All of `ranks`.
    pub(crate) fn new(device: &Device, ranks: Ranks) -> Result<Self> {
        let communicator = match ranks.is_one() {
            true => None,
            false => {
                let of_first = |id: [u8; ID_BYTES]| ranks.of_first(id);
                device.communicator(ranks.rank(), ranks.count(), &of_first)?
            }
        };
        Ok(RankSums {
            communicator,
            own_sizes: device.allocate(0)?,
            sizes: device.allocate(0)?,
            own: device.allocate(0)?,
            all: device.allocate(0)?,
            unused: [device.allocate(0)?, device.allocate(0)?],
            ranks,
        })
    }

    /// Whether there is one rank.
    pub(crate) fn is_one(&self) -> bool {
        self.ranks.is_one()
    }

    /// Running mean and variance that the launches of a forward update: the model's with one rank.
    pub(crate) fn running<'a>(
        &'a mut self,
        device: &Device,
        of_model: [&'a mut Buffer<f32>; 2],
    ) -> Result<[&'a mut Buffer<f32>; 2]> {
        if self.is_one() {
            return Ok(of_model);
        }
        let count = of_model[0].len();
        for unused in &mut self.unused {
            if unused.len() < count {
                *unused = device.allocate(count)?;
            }
        }
        Ok(self.unused.each_mut())
    }

    /// Gathers the sizes of the ranks' batches. First exchange of a step.
    pub(crate) fn gather_sizes(&mut self, device: &Device, mode: Mode, batch: &Batch) -> Result<()> {
        if self.is_one() || mode == Mode::Evaluate {
            return Ok(());
        }
        let RankSums { ranks, communicator, own_sizes, sizes, .. } = self;
        device.reserve(own_sizes, Batch::SIZES)?;
        device.copy_on_device(batch.sizes(), own_sizes.slice_mut(0..Batch::SIZES))?;
        gather(device, ranks, communicator.as_ref(), own_sizes, (sizes, Batch::SIZES))
    }

    /// Replaces a block's statistics over the rows of this rank by those over the rows of all, and updates the running
    /// statistics.
    pub(crate) fn merge_statistics<T: StoredElement>(
        &mut self,
        device: &Device,
        mode: Mode,
        (layer, kind): (usize, BlockKind),
        parameters: &mut Parameters<Buffer<f32>>,
        block: &mut Block<T>,
    ) -> Result<()> {
        let layout = parameters.layout.block(layer, kind);
        if self.is_one() || mode == Mode::Evaluate || !layout.batch_norm {
            return Ok(());
        }
        let columns = layout.outputs;
        let RankSums { ranks, communicator, own, all, .. } = self;
        device.reserve(own, 2 * columns)?;
        device.copy_on_device(block.norm.mean.slice(0..columns), own.slice_mut(0..columns))?;
        device.copy_on_device(block.norm.rstd.slice(0..columns), own.slice_mut(columns..2 * columns))?;
        gather(device, ranks, communicator.as_ref(), own, (all, 2 * columns))?;
        let Parameters { values, running_mean, running_var, .. } = parameters;
        let running = [running_mean, running_var].map(|all| all.slice_mut(layout.running.clone()));
        let to = statistics(layout, values, &mut block.norm);
        rank_merge::rank_merge_statistics(device, to, running, self.parts(kind, columns))
    }

    /// Replaces the terms in `sums`, which a backward over the rows of this rank has left, by those over the rows of all. The
    /// gradients with respect to the norm's parameters remain those over this rank's rows.
    pub(crate) fn merge_sums<T: StoredElement>(
        &mut self,
        device: &Device,
        (layout, kind): (&BlockLayout, BlockKind),
        block: &Block<T>,
        gradients: &Buffer<f32>,
        sums: &mut Sums,
    ) -> Result<()> {
        if self.is_one() || !layout.batch_norm {
            return Ok(());
        }
        let columns = layout.outputs;
        let of_norm = layout.norm_weight.start..layout.norm_bias.end;
        assert_eq!(of_norm.len(), 2 * columns, "weight and bias side by side");
        let RankSums { ranks, communicator, own, all, .. } = self;
        device.reserve(own, 2 * columns)?;
        device.copy_on_device(gradients.slice(of_norm), own.slice_mut(0..2 * columns))?;
        gather(device, ranks, communicator.as_ref(), own, (all, 2 * columns))?;
        rank_merge::rank_merge_sums(
            device,
            &mut sums.terms_mut(columns),
            norm(block),
            self.parts(kind, columns),
        )
    }

    /// Replaces `gradients[range]` by their sums over all ranks.
    pub(crate) fn sum_gradients(
        &mut self,
        device: &Device,
        gradients: &mut Buffer<f32>,
        range: std::ops::Range<usize>,
    ) -> Result<()> {
        match &self.communicator {
            _ if self.is_one() => Ok(()),
            Some(communicator) => communicator.sum(gradients.slice_mut(range)),
            None => {
                let mut values = device.download(gradients, range.clone())?;
                self.ranks.sum(&mut values);
                device.upload(&values, gradients.slice_mut(range))
            }
        }
    }

    /// Values of all ranks over the rows of a block of this kind.
    fn parts(&self, kind: BlockKind, columns: usize) -> Parts<'_> {
        let ranks = self.ranks.count();
        Parts {
            parts: self.all.slice(0..ranks * 2 * columns),
            sizes: self.sizes.slice(0..ranks * Batch::SIZES),
            ranks,
            size: match kind {
                BlockKind::EdgeHidden | BlockKind::EdgeHeads => Batch::EDGES,
                BlockKind::NodeHidden | BlockKind::NodeOutput => Batch::NODES,
            },
        }
    }
}

/// Writes the first `len` values of `own` of every rank to `all`, in the order of ranks.
fn gather<T: Element + Zeroable>(
    device: &Device,
    ranks: &Ranks,
    communicator: Option<&Communicator>,
    own: &Buffer<T>,
    (all, len): (&mut Buffer<T>, usize),
) -> Result<()> {
    let of_all = ranks.count() * len;
    device.reserve(all, of_all)?;
    match communicator {
        Some(communicator) => communicator.all_gather(own.slice(0..len), all.slice_mut(0..of_all)),
        None => device.upload(&ranks.gather(&device.download(own, 0..len)?), all.slice_mut(0..of_all)),
    }
}
