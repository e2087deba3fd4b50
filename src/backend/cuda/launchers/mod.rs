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
pub mod readout_loss;
pub mod row_correlations;
pub mod stored;
pub mod strips;
pub mod top_k;
pub mod weight_copy;

/// The kernel files and what they offer: loaded when a device opens.
pub(crate) const FILES: &[(&str, &[&str])] = &[
    ("adam", adam::KERNELS),
    ("batch_norm", batch_norm::KERNELS),
    ("ceilings", ceilings::KERNELS),
    ("cosine_ranks", cosine_ranks::KERNELS),
    ("draw_triples", draw_triples::KERNELS),
    ("edge_hidden", edge_hidden::KERNELS),
    ("edge_pool", edge_pool::KERNELS),
    ("embedding", embedding::KERNELS),
    ("graph_batch", graph_batch::KERNELS),
    ("inner_products", inner_products::KERNELS),
    ("l2_normalise", l2_normalise::KERNELS),
    ("linear_bf16", linear::BF16_KERNELS),
    ("linear_bf16x3", linear::BF16X3_KERNELS),
    ("linear_fp32", linear::FP32_KERNELS),
    ("readout_loss", readout_loss::KERNELS),
    ("row_correlations", row_correlations::KERNELS),
    ("top_k", top_k::KERNELS),
];
