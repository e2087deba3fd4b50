//! What one training step consumes: triples of images drawn, and their graphs concatenated to one batch.

mod anchor_row;
mod extremes;
pub mod graph_batch;
pub mod philox;
mod row_scan;
mod strategies;
pub mod triples;
