//! The launchers: one file per `kernels/<name>.cu`, one safe function per kernel, and what they share.

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
pub mod readout_loss;
pub mod row_correlations;
pub mod stored;
pub mod strips;
pub mod top_k;
pub mod weight_copy;

use super::device::kernel::{KernelFile, KernelInfo};

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

/// The kernel files and what they offer: loaded when a device opens.
pub const FILES: &[KernelFile] = &[
    adam::FILE,
    batch_norm::FILE,
    positional_file!("ceilings", ceilings::KERNELS),
    cosine_ranks::FILE,
    draw_triples::FILE,
    edge_hidden::FILE,
    edge_pool::FILE,
    embedding::FILE,
    graph_batch::FILE,
    inner_products::FILE,
    l2_normalise::FILE,
    positional_file!("linear_bf16", linear::BF16_KERNELS),
    positional_file!("linear_bf16x3", linear::BF16X3_KERNELS),
    positional_file!("linear_fp32", linear::FP32_KERNELS),
    readout_loss::FILE,
    row_correlations::FILE,
    top_k::FILE,
];
