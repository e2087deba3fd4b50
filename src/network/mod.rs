//! The network's configuration, layout of parameters, and named tensors of a checkpoint.

pub mod activations;
pub(crate) mod batch_size;
pub mod config;
pub mod parameters;
pub mod tensors;
