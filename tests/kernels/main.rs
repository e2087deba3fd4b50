//! Tests of the kernels, one module per file of `kernels/`. Each kernel is compared with its reference, on the emulator
//! or on a GPU.
//!
//! [`far_rows`] reads and writes beyond 2^32 values, and [`limits`] tests the largest sizes. [`interpreter`] runs the PTX of all kernels. [`argument_layout`] compares the argument structs of Rust and CUDA.
//! [`machine_code`] and [`occupancy`] test the output of nvcc.

#[path = "../support/compiler.rs"]
mod compiler;
#[path = "../support/gpu.rs"]
mod gpu;
mod support;

mod adam;
mod batch_norm;
mod ceilings;
mod cosine_ranks;
mod draw_triples;
mod edge_hidden;
mod edge_pool;
mod embedding;
#[cfg(all(emulator, target_os = "linux"))]
mod far_rows;
mod graph_batch;
mod inner_products;
mod l2_normalise;
mod limits;
mod linear;
mod linear_states;
mod linear_unit;
mod linear_warpgroup;
mod rank_merge;
mod readout_loss;
mod row_correlations;
mod top_k;

mod argument_layout;
mod interpreter;
mod machine_code;
mod occupancy;
