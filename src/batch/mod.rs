//! Triples of images drawn, and their graphs concatenated to one batch.

pub mod graph_batch;
