//! Image embeddings from scene graphs, learnt from relative caption similarity.

#![deny(missing_docs)]

pub mod data;
pub mod error;
pub mod report;
pub mod synth;

pub use error::{Error, Result};
