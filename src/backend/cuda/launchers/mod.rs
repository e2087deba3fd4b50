//! Launchers: one file per `kernels/<name>.cu`, one safe function per kernel, and shared definitions.

pub mod adam;
pub mod batch_norm;
pub mod batch_places;
pub mod ceilings;
pub mod cosine_ranks;
pub mod draw_triples;
pub mod edge_hidden;
pub mod edge_pool;
pub mod embedding;
pub mod graph_batch;
pub mod inner_products;
pub mod l2_normalise;
pub mod linear;
pub mod lists;
pub(crate) mod norm_arguments;
pub mod rank_merge;
pub mod readout_loss;
pub mod row_correlations;
pub mod stored;
pub mod strips;
pub mod top_k;
pub mod weight_copy;

use super::device::Device;
use super::device::interpreter::Interpretation;
use super::device::kernel::KernelFile;
use crate::error::Result;

/// Opens the GPU with this index, with all kernels loaded.
pub fn gpu(index: usize) -> Result<Device> {
    Device::gpu(index, FILES)
}

/// Opens the emulator with all kernels. A `seed` shuffles the order of blocks, and of threads between
/// barriers.
pub fn emulated(seed: Option<u64>) -> Result<Device> {
    Device::emulated(seed, FILES)
}

/// Opens the PTX interpreter with all kernels.
pub fn interpreted(interpretation: Interpretation) -> Result<Device> {
    Device::interpreted(interpretation, FILES)
}

/// All kernel files, loaded when a device opens.
pub const FILES: &[KernelFile] = &[
    adam::FILE,
    batch_norm::FILE,
    ceilings::FILE,
    cosine_ranks::FILE,
    draw_triples::FILE,
    edge_hidden::FILE,
    edge_pool::FILE,
    embedding::FILE,
    graph_batch::FILE,
    inner_products::FILE,
    l2_normalise::FILE,
    linear::BF16_FILE,
    linear::BF16X3_FILE,
    linear::FP32_FILE,
    linear::BF16_WARPGROUP_FILES[0],
    linear::BF16_WARPGROUP_FILES[1],
    linear::BF16_WARPGROUP_FILES[2],
    linear::BF16_WARPGROUP_FILES[3],
    linear::BF16X3_WARPGROUP_FILES[0],
    linear::BF16X3_WARPGROUP_FILES[1],
    linear::BF16X3_WARPGROUP_FILES[2],
    linear::BF16X3_WARPGROUP_FILES[3],
    rank_merge::FILE,
    readout_loss::FILE,
    row_correlations::FILE,
    top_k::FILE,
];
