//! A synthetic collection in the public formats of Visual Genome, COCO and GloVe, to try the engine without any
//! download and to test it at any scale.
//!
//! ```text
//! draws         one random generator per image and purpose, and how lists are drawn from
//! scene_model   the world: scenes, their objects and activities, predicates      (tables -> SceneModel)
//! image         (seed, index) -> Depiction -> AnnotatedGraph
//! object        a named box
//! layout        where the objects of an image are, by their relationships
//! captions      Depiction -> five captions                                       a second, partial view
//! word_vectors  words of the same scene or meaning are near each other
//! writer        all of it to disk
//! ```
//! A scene graph and the captions of its image are two noisy views of one [`image::Depiction`], so a graph
//! says something about the captions but not all. The activity, one relationship among a dozen, decides what most
//! captions tell: a model that reads relationships can do better than one that counts objects.
//!
//! Noise is part of it, at the rates of the constants in [`image`]: names in upper case, rare names, duplicates,
//! isolated objects, images with too many or too few objects, without a COCO id, or sharing one.

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

/// What collection to write.
#[derive(Clone, Debug)]
pub struct SynthConfig {
    /// Number of images.
    pub images: u64,
    /// Which images of the world; a longer collection begins with the images of a shorter one.
    pub seed: u64,
    /// Width of the word vectors.
    pub word_width: usize,
    /// Whether to compress the files (`.gz`).
    pub gzip: bool,
    /// Whether to replace files that are already there.
    pub force: bool,
}

impl Default for SynthConfig {
    fn default() -> Self {
        SynthConfig { images: 5000, seed: 1, word_width: 100, gzip: false, force: false }
    }
}

/// The files of a collection.
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
