//! Image embeddings from scene graphs, learnt from relative caption similarity.

#![deny(missing_docs)]

pub mod batch;
pub mod data;
pub mod error;
pub mod report;

pub use error::{Error, Result};
