//! Image embeddings from scene graphs, learnt from relative caption similarity.
//!
//! A graph convolutional network maps an image's scene graph (objects and the relationships between them) to a unit
//! vector. Triples of images supervise it: the captions of an anchor resemble those of a positive more than those of a
//! negative (Maheshwari, Chaudhry and Vinay: *Scene Graph Embeddings Using Relative Similarity Supervision*, AAAI 2021).
//! Forward and backward are written by hand. `docs/model.md` has the formulas.
//!
//! [`train::train`] trains a model, and so does the `scenerank` program. [`run::Run`] opens what it leaves:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use scenerank::backend::device::{Device, Precision};
//! use scenerank::data::Split;
//! use scenerank::data::sentence::Lexicon;
//! use scenerank::run::{Run, Which};
//!
//! # fn main() -> scenerank::Result<()> {
//! let run = Run::open(Path::new("runs/paper"), Which::Best, None, Device::Auto, Precision::Fp32)?;
//! // [images, D], each row of unit length.
//! let index = run.embed_split(Split::All)?;
//! let sentence = Lexicon::new(run.model.vocabulary()).understand("a man riding a horse on the beach");
//! let query = sentence.graph.augmented(run.model.vocabulary());
//! for (image, cosine) in run.nearest(&run.embed(&[query.view()])?, &index, 8)? {
//!     println!("image {}: {cosine:.4}", run.dataset.image_id(image));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`run::TrainedModel`] opens the model alone. It embeds graphs that the run never saw, where its data is not at hand:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use scenerank::backend::device::{Device, Precision};
//! use scenerank::data::new_graphs::{GraphReading, read_new_graphs};
//! use scenerank::data::scene_graph::SceneGraphBuf;
//! use scenerank::run::{TrainedModel, Which};
//!
//! # fn main() -> scenerank::Result<()> {
//! let model = TrainedModel::open(Path::new("runs/paper"), Which::Best, None, Device::Auto, Precision::Fp32)?;
//! let mut graphs = Vec::new();
//! // Visual Genome's format, GQA's, or a list of graphs such as [[["man", "riding", "horse"]], [["tree"]]].
//! let path = Path::new("graphs.json");
//! let counts = read_new_graphs(path, &GraphReading::default(), model.vocabulary(), |found| {
//!     graphs.push(found.graph);
//!     Ok(())
//! })?;
//! let rows = model.embed(&graphs.iter().map(SceneGraphBuf::view).collect::<Vec<_>>())?;
//! println!("{} rows of {} values; unknown names: {:?}", graphs.len(), model.width(), counts.unknown_objects);
//! # let _ = rows;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/train_and_search.rs` goes the whole way, from raw files to a search.
//!
//! The rooms, from the lowest to the highest. Each imports only from those before it (`docs/architecture.md`).
//!
//! ```text
//! error        what is wrong, where, and what to do about it; text that fits a terminal
//! progress     progress of long work
//! ranks        processes that train one model together, and what they exchange
//! network      sizes of the network, layout of its parameters
//! files        npy, safetensors, Arrow; files written whole or not at all
//! loss         ranking, triplet, InfoNCE: value and slope of a triple
//! optimizer    Adam
//! synth        a synthetic collection                  -> raw public files
//! data         raw public files -> one mapped file     -> scene graphs, similarities
//! batch        triples drawn, graphs concatenated      -> GraphBatch
//! backend      the stages of a step: reference/ (plain loops), cpu/ (fused passes), cuda/ (kernels)
//! model        forward and backward, once, above the backend seam
//! evaluation   Kendall, Spearman, Pearson; retrieval with incomplete queries; nearest images
//! report       metrics, TensorBoard events, tables, plots
//! train        options, the training loop, checkpoints
//! run          a trained run opened for use
//! compare      runs side by side: options that differ, results, curves
//! explore      a trained run as a local web page
//! reproduce    the paper's models and the baselines, trained and measured, beside the paper's numbers
//! step         one step of given inputs, dumped whole, to be checked against autograd
//! bench        every kernel and a step: first the error, then the time beside the device's ceilings
//! cli          the commands
//! ```

#![deny(missing_docs)]

pub mod backend;
pub mod batch;
pub mod bench;
pub mod compare;
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
pub mod ranks;
pub mod report;
pub mod reproduce;
pub mod run;
pub mod step;
pub mod synth;
pub mod terminal;
pub mod train;

pub use error::{Error, Result};
