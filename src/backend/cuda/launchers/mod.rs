//! The launchers: one file per `kernels/<name>.cu`, one safe function per kernel, and what they share.

pub mod adam;
pub mod batch_norm;
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
pub mod pair_correlations;
pub mod readout_loss;
pub mod row_correlations;
pub mod stored;
pub mod strips;
pub mod top_k;
pub mod weight_copy;

use super::device::Device;
use super::device::kernel::{KernelFile, KernelInfo};
use crate::error::Result;

/// The GPU with this index, with all kernels loaded.
pub fn gpu(index: usize) -> Result<Device> {
    Device::gpu(index, FILES)
}

/// The emulator with all kernels. A `seed` shuffles the order of blocks, and of threads between barriers.
pub fn emulated(seed: Option<u64>) -> Result<Device> {
    Device::emulated(seed, FILES)
}

/// A file whose kernels take their parameters one by one.
macro_rules! positional_file {
    ($name:literal, $kernels:expr) => {
        KernelFile { name: $name, kernels: &positional_kernels::<{ $kernels.len() }>($kernels) }
    };
}

const fn positional_kernels<const N: usize>(names: &[&'static str]) -> [KernelInfo; N] {
    let unnamed = KernelInfo { name: "", threads: [0; 3], dynamic_shared_bytes: 0, arguments: None };
    let mut kernels = [unnamed; N];
    let mut i = 0;
    while i < N {
        kernels[i].name = names[i];
        kernels[i].dynamic_shared_bytes = linear::dynamic_shared_bytes(names[i]);
        i += 1;
    }
    kernels
}

/// All kernel files: loaded when a device opens.
pub(crate) const FILES: &[KernelFile] = &[
    adam::FILE,
    positional_file!("batch_norm", batch_norm::KERNELS),
    positional_file!("ceilings", ceilings::KERNELS),
    positional_file!("cosine_ranks", cosine_ranks::KERNELS),
    positional_file!("draw_triples", draw_triples::KERNELS),
    positional_file!("edge_hidden", edge_hidden::KERNELS),
    positional_file!("edge_pool", edge_pool::KERNELS),
    positional_file!("embedding", embedding::KERNELS),
    positional_file!("graph_batch", graph_batch::KERNELS),
    positional_file!("inner_products", inner_products::KERNELS),
    positional_file!("l2_normalise", l2_normalise::KERNELS),
    positional_file!("linear_bf16", linear::BF16_KERNELS),
    positional_file!("linear_bf16x3", linear::BF16X3_KERNELS),
    positional_file!("linear_fp32", linear::FP32_KERNELS),
    positional_file!("linear_tf32", linear::TF32_KERNELS),
    positional_file!("pair_correlations", pair_correlations::KERNELS),
    positional_file!("readout_loss", readout_loss::KERNELS),
    positional_file!("row_correlations", row_correlations::KERNELS),
    positional_file!("top_k", top_k::KERNELS),
];
