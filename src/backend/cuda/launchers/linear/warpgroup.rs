//! Products by the instructions of a warpgroup, on GPUs of compute capability 9.0 (`kernels/matmul_warpgroup.cuh`). A run's
//! products all use the same family of instructions, so training does not use these until every product has them.

use half::bf16;

use super::arguments::LinearForwardNorm;
use super::dynamic_shared::WARPGROUP_COLUMNS;
use super::{Forward, Matrix, StoredFormat, Weights, dynamic_shared_bytes};
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::kernel::{Blocks, Kernel, KernelArguments, KernelFile, KernelInfo};
use crate::backend::cuda::launchers::batch_norm::{BatchStatistics, Norm};
use crate::backend::cuda::launchers::norm_arguments::StatisticsArguments;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;

/// Rows of a tile.
const TILE_ROWS: usize = 128;
/// Two warpgroups that multiply and one that copies.
const THREADS: u32 = 384;

/// Kernels of a format, each by the tile's columns.
#[derive(Clone, Copy)]
pub(super) struct WarpgroupKernels<T: StoredElement> {
    forward_norm: [Kernel<LinearForwardNorm<T>>; 3],
}

const fn kernel<A: KernelArguments>(name: &'static str) -> Kernel<A> {
    Kernel::new(name, [THREADS, 1, 1]).with_dynamic_shared(dynamic_shared_bytes(name))
}

macro_rules! tiles {
    ($name:literal) => {
        [
            kernel(concat!($name, "_128x152")),
            kernel(concat!($name, "_128x224")),
            kernel(concat!($name, "_128x256")),
        ]
    };
}

impl WarpgroupKernels<bf16> {
    pub(super) const BF16: Self = WarpgroupKernels { forward_norm: tiles!("linear_forward_norm_bf16") };
}

impl<T: StoredElement> WarpgroupKernels<T> {
    const fn infos(&self) -> [KernelInfo; 3] {
        let [one, two, three] = &self.forward_norm;
        [one.info(), two.info(), three.info()]
    }
}

/// Kernels of `kernels/linear_warpgroup_bf16.cu`.
pub(crate) const WARPGROUP_BF16_FILE: KernelFile =
    KernelFile { name: "linear_warpgroup_bf16", kernels: &WarpgroupKernels::BF16.infos() };

/// Index in [`WARPGROUP_COLUMNS`] of the tile that covers so many columns with the fewest columns beyond them; the widest
/// of several.
fn tile(columns: usize) -> usize {
    let covered = |&at: &usize| (columns.next_multiple_of(WARPGROUP_COLUMNS[at]), usize::MAX - at);
    (0..WARPGROUP_COLUMNS.len()).min_by_key(covered).expect("three tiles")
}

/// Whether the format has these products, and the device code of them.
pub fn has_warpgroups<T: StoredElement>(device: &Device, format: StoredFormat<T>) -> bool {
    format.kernels.warpgroup.is_some_and(|kernels| device.has(&kernels.forward_norm[0]))
}

/// Computes `y = relu(norm(z)) weight^T` and the statistics of y, where `of.x` is z with its norm. No matrix may be split.
/// Panics unless format and device have these products ([`has_warpgroups`]).
pub fn linear_forward_warpgroup<T: StoredElement>(
    device: &Device,
    format: StoredFormat<T>,
    of: Forward<'_, T, (Matrix<'_, T>, Norm<'_>)>,
    statistics: Option<BatchStatistics<'_>>,
) -> Result<()> {
    let Forward { rows, y, x: (z, norm), weight } = of;
    norm.check(z.columns);
    let at = tile(y.columns);
    let kernel = format.kernels.warpgroup.expect("a format with products of warpgroups").forward_norm[at];
    assert!(device.has(&kernel), "linear_forward_warpgroup: the device has no such products");
    let across = y.columns.div_ceil(WARPGROUP_COLUMNS[at]);
    // Without rows there is one block per strip of columns, for the sums.
    let blocks = Blocks::new(across, y.rows.div_ceil(TILE_ROWS).max(1), 1);
    let statistics = StatisticsArguments::new(device, statistics, y.rows, y.columns)?;
    let mut product = Forward { rows, y, x: z, weight };
    let product = product.arguments("linear_forward_warpgroup", Weights::InOnePart);
    let arguments = LinearForwardNorm { product, norm: norm.into(), statistics };
    // SAFETY: shapes were checked; a matrix's slice holds its rows, a norm's its columns, and the sums have
    // room; everything written is borrowed mutably.
    unsafe { device.launch(&kernel, blocks, &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tile_covers_the_columns_best() {
        // The widths of the paper's model, then equal coverings, then few columns.
        let wanted = [(300, 152), (512, 256), (1024, 256), (1324, 224), (608, 152), (1, 152), (225, 256)];
        for (columns, of_tile) in wanted {
            assert_eq!(WARPGROUP_COLUMNS[tile(columns)], of_tile, "{columns} columns");
        }
    }
}
