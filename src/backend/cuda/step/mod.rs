//! State shared by the stages of a step: the batch and the training set on the device, saved activations,
//! blocks, layer inputs.

pub mod activations;
pub mod batch;
pub(crate) mod block;
pub mod layer_input;
pub(crate) mod rank_sums;
pub mod training_set;
