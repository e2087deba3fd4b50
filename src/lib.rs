//! Image embeddings from scene graphs, learnt from relative caption similarity.

#![deny(missing_docs)]

pub mod atomic_file;
pub mod data;
pub mod error;
pub mod evaluation;
pub mod npy;
pub mod report;

pub use error::{Error, Result};
