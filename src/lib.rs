//! Image embeddings from scene graphs, learnt from relative caption similarity.
//!
//! A graph convolutional network maps an image's scene graph (objects, and relationships between them) to a unit
//! vector. It is supervised by nothing but triples of images: an anchor whose captions resemble those of a positive
//! more than those of a negative (Maheshwari, Chaudhry and Vinay: *Scene Graph Embeddings Using Relative Similarity
//! Supervision*, AAAI 2021). Forward and backward are written by hand.
//!
//! A batch's way through the rooms, which is also the order in which they may use each other:
//!
//! ```text
//! synth, data    raw public files -> one memory-mapped data file -> scene graphs, similarities
//! batch          triples drawn (random, extreme, probability, reject), graphs concatenated -> GraphBatch
//! model          parameters and their layout; forward and backward, once, above the backend seam
//! backend        the stages of a step: reference/ (plain loops), cpu/ (fused passes, GEMM), cuda/ (kernels), cuda/ (our kernels)
//! loss           ranking, triplet, InfoNCE: value and slope of a triple
//! optimizer      Adam
//! config, checkpoint, train, run     a training run, and a trained one opened for use
//! evaluation     Kendall, Spearman, Pearson; retrieval with incomplete queries; nearest images
//! report         progress, metrics, TensorBoard events, tables, plots
//! explore        a trained run as a local web page
//! reproduce      the paper's models and our baselines, trained and measured, beside the paper's numbers
//! step           one step of given inputs, dumped whole, to be checked against autograd
//! bench          every kernel and a step: right first, then how fast, beside what the device reaches at most
//! ```

#![deny(missing_docs)]

pub mod backend;
pub mod batch;
pub mod bench;
pub mod checkpoint;
mod checkpoint_writer;
pub mod config;
pub mod data;
pub mod error;
pub mod evaluation;
pub mod explore;
pub mod files;
pub mod loss;
pub mod model;
pub mod network;
pub mod optimizer;
pub mod progress;
pub mod report;
pub mod reproduce;
pub mod run;
pub mod step;
pub mod synth;
pub mod train;

pub use error::{Error, Result};
