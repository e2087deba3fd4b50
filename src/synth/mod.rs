//! A synthetic collection in the public formats of Visual Genome, COCO and GloVe, to try the program without
//! downloads and to test it at any scale.
//!
//! ```text
//! draws         one random generator per image and purpose, and draws from lists
//! scene_model   the world: scenes, their objects and activities, predicates      (tables -> SceneModel)
//! image         (seed, index) -> Depiction -> AnnotatedGraph
//! object        a named box
//! layout        positions of the objects of an image, by their relationships
//! captions      Depiction -> five captions                                       a second, partial view
//! word_vectors  words of the same scene or meaning are close to each other
//! writer        writes everything to disk
//! ```
//! A scene graph and the captions of its image are two noisy views of one [`image::Depiction`], so a graph
//! says something about the captions but not everything. Most captions describe the activity, one
//! relationship among about a dozen. A model that reads relationships can therefore outperform one that
//! counts objects.
//!
//! The noise is at the rates of the constants in [`image`]: names in upper case, rare names, duplicates,
//! isolated objects, images with too many or too few objects, without a COCO id, or with a shared one.

pub mod captions;
mod draws;
pub mod image;
mod layout;
mod object;
pub mod scene_model;
pub(crate) mod word_vectors;
mod writer;

use std::path::PathBuf;

pub use writer::write_collection;

/// Options for writing a collection.
#[derive(Clone, Debug)]
pub struct SynthConfig {
    /// Number of images.
    pub images: u64,
    /// Seed that selects the images; a longer collection begins with the images of a shorter one.
    pub seed: u64,
    /// Width of the word vectors.
    pub word_width: usize,
    /// Whether to compress the files (`.gz`).
    pub gzip: bool,
    /// Whether to replace existing files.
    pub force: bool,
}

impl Default for SynthConfig {
    fn default() -> Self {
        SynthConfig { images: 5000, seed: 1, word_width: 100, gzip: false, force: false }
    }
}

/// Files of a collection.
#[derive(Clone, Debug)]
pub struct SynthFiles {
    /// Visual Genome's `scene_graphs.json`.
    pub scene_graphs: PathBuf,
    /// Visual Genome's `image_data.json`.
    pub image_data: PathBuf,
    /// COCO captions.
    pub captions: PathBuf,
    /// Word vectors in GloVe's text format.
    pub glove: PathBuf,
}
