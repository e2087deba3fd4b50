//! rank_merge: batch norm over the rows of all ranks (`kernels/rank_merge.cu`).

use super::batch_norm::{Norm, Statistics};
use super::norm_arguments::NormStatisticsArguments;
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;

kernel_arguments! {
    struct RankParts {
        /// `[ranks, 2, columns]` two values per column of each rank.
        parts: Pointer<f32>,
        /// `[ranks, sizes_each]` sizes of each rank's batch.
        sizes: Pointer<i32>,
        ranks: i32,
        sizes_each: i32,
        size: i32,
        columns: i32,
    }

    struct RankMergeStatistics {
        norm: NormStatisticsArguments,
        /// `[C]` running mean, updated; `running_var` likewise.
        running_mean: PointerMut<f32>,
        running_var: PointerMut<f32>,
        of: RankParts,
    }

    struct RankMergeSums {
        /// `[2, C]` terms of the backward, overwritten.
        terms: PointerMut<f32>,
        /// `[C]` mean of each column; `rstd` and `scale` likewise.
        mean: Pointer<f32>,
        rstd: Pointer<f32>,
        scale: Pointer<f32>,
        of: RankParts,
    }
}

const STATISTICS: Kernel<RankMergeStatistics> = Kernel::new("rank_merge_statistics", [128, 1, 1]);
const SUMS: Kernel<RankMergeSums> = Kernel::new("rank_merge_sums", [128, 1, 1]);

/// Kernels of `kernels/rank_merge.cu`.
pub(crate) const FILE: KernelFile =
    KernelFile { name: "rank_merge", kernels: &[STATISTICS.info(), SUMS.info()] };

/// What all ranks have computed over their rows, in the order of ranks.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// `[ranks, 2, C]` two values per column of each rank.
    pub parts: Slice<'a, f32>,
    /// `[ranks, sizes each]` sizes of each rank's batch.
    pub sizes: Slice<'a, i32>,
    /// Number of ranks.
    pub ranks: usize,
    /// Index of the number of rows among a rank's sizes.
    pub size: usize,
}

impl Parts<'_> {
    /// Panics unless there are values of `columns` columns.
    #[track_caller]
    fn arguments(&self, columns: usize) -> RankParts {
        let sizes_each = self.sizes.len() / self.ranks;
        check_len("rank_merge: parts", self.parts.len(), self.ranks * 2 * columns);
        check_len("rank_merge: sizes", sizes_each, self.size + 1);
        RankParts {
            parts: self.parts.into(),
            sizes: self.sizes.into(),
            ranks: int(self.ranks),
            sizes_each: int(sizes_each),
            size: int(self.size),
            columns: int(columns),
        }
    }
}

/// Merges mean and rstd of each rank into the statistics over the rows of all, and updates the running mean and variance.
pub fn rank_merge_statistics(
    device: &Device,
    mut to: Statistics<'_>,
    [mut running_mean, mut running_var]: [SliceMut<'_, f32>; 2],
    of: Parts<'_>,
) -> Result<()> {
    let columns = to.mean.len();
    check_len("rank_merge: running_mean", running_mean.len(), columns);
    check_len("rank_merge: running_var", running_var.len(), columns);
    let arguments = RankMergeStatistics {
        norm: to.arguments(columns),
        running_mean: (&mut running_mean).into(),
        running_var: (&mut running_var).into(),
        of: of.arguments(columns),
    };
    // SAFETY: lengths were checked; all that is written is borrowed mutably.
    unsafe { device.launch(&STATISTICS, Blocks::cover(columns, &STATISTICS), &arguments) }
}

/// Sums d_weight and d_bias of each rank into the `terms [2, C]` of the backward of `norm` over the rows of all.
pub fn rank_merge_sums(
    device: &Device,
    terms: &mut SliceMut<'_, f32>,
    norm: Norm<'_>,
    of: Parts<'_>,
) -> Result<()> {
    let columns = norm.mean.len();
    norm.check(columns);
    check_len("rank_merge: terms", terms.len(), 2 * columns);
    let arguments = RankMergeSums {
        terms: terms.into(),
        mean: norm.mean.into(),
        rstd: norm.rstd.into(),
        scale: norm.scale.into(),
        of: of.arguments(columns),
    };
    // SAFETY: lengths were checked; only the terms are written, which are borrowed mutably.
    unsafe { device.launch(&SUMS, Blocks::cover(columns, &SUMS), &arguments) }
}
