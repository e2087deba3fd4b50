//! The stages of a step, composed of launches: the batch and the training set on the device, blocks and layers' inputs.

pub mod batch;
pub mod block;
pub mod layer_input;
pub mod training_set;
