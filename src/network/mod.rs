//! The network as sizes and names: its configuration, where its parameters lie, the tensors of a checkpoint.

pub mod activations;
pub(crate) mod batch_size;
pub mod config;
pub mod parameters;
pub mod tensors;
