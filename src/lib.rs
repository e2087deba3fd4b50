//! Image embeddings from scene graphs, learnt from relative caption similarity.

#![deny(missing_docs)]

pub mod atomic_file;
pub mod backend;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod error;
pub mod evaluation;
pub mod loss;
pub mod model;
pub mod npy;
pub mod optimizer;
pub mod report;
pub mod run;
pub mod step;
pub mod synth;
pub mod train;

pub use error::{Error, Result};
