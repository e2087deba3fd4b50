//! What one training step consumes: the triples that supervise it and the random numbers that draw them.

mod anchor_row;
mod extremes;
pub mod philox;
mod row_scan;
mod strategies;
pub mod triples;
