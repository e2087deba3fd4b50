//! Input of a training step: drawn triples of images, and their graphs concatenated into one batch.

mod anchor_row;
mod extremes;
pub mod graph_batch;
pub mod philox;
mod row_scan;
mod strategies;
pub mod triples;
