//! Triples (anchor A, positive P, negative N) of training images: one per anchor and epoch. Every training
//! image is an anchor once per epoch (paper, "Sampling"; docs/model.md, "Triples").
//!
//! With s_X = s_AX, over the training images other than A, the strategies draw *exactly* from:
//!
//! ```text
//! random       (P, N) uniform over the pairs with s_P > s_N
//! extreme      P = argmax s, N = argmin s; ties to the lowest index, P != N; the same in every epoch
//! probability  Pr(P) = s_P / sum_X s_X,   Pr(N | P) = (1 - s_N) / sum_{X != P} (1 - s_X)
//! reject       Pr(P, N) proportional to s_P (1 - s_N) over the pairs with s_P >= s_N and P != N
//! ```
//!
//! In `probability` only N is redrawn if it equals P; in `reject` the pair is redrawn. A draw is a pure
//! function of (seed, epoch, anchor). Triples therefore do not depend on threads or order, and a resumed run
//! draws the same triples as an uninterrupted one.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::anchor_row::AnchorRow;
use super::extremes::{Extremes, extremes};
use super::philox::{Philox, Role, join};
use super::strategies::AnchorDraw;
use crate::data::similarity::Similarity;
use crate::{Error, Result};

/// Strategy for choosing the positive and negative of an anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// Any two images; the more similar one is the positive.
    Random,
    /// The most and the least similar image.
    Extreme,
    /// The positive in proportion to its similarity, the negative in proportion to its dissimilarity.
    Probability,
    /// As `probability`, but redrawn until the positive is at least as similar as the negative.
    Reject,
}

/// Three different images, as indices into the dataset, and the similarities that supervise them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Triple {
    /// Anchor A.
    pub anchor: u32,
    /// Positive P.
    pub positive: u32,
    /// Negative N.
    pub negative: u32,
    /// Similarity s_AP of anchor and positive.
    pub similarity_positive: f32,
    /// Similarity s_AN of anchor and negative.
    pub similarity_negative: f32,
}

/// Draws the triples of a training run. Threads can share it.
pub struct TripleSampler<'a> {
    similarity: Similarity<'a>,
    images: Range<usize>,
    sampling: Sampling,
    seed: u64,
    philox: Philox,
    /// Extremes of each image for `extreme`; otherwise empty.
    extremes: Vec<Extremes>,
}

impl<'a> TripleSampler<'a> {
    /// Creates a sampler for the training `images`, given as indices into `similarity`. `extreme` searches
    /// all pairs here, on all threads; for the other strategies this is cheap.
    pub fn new(
        similarity: Similarity<'a>,
        images: Range<usize>,
        sampling: Sampling,
        seed: u64,
    ) -> Result<Self> {
        let bound = similarity.len().min(u32::MAX as usize);
        if images.end > bound {
            return Err(Error::argument(
                "training images",
                format!("images {} to {} are asked for, there are {bound}", images.start, images.end),
                "use the similarities that were prepared with this dataset",
            ));
        }
        if images.len() < 3 {
            return Err(Error::argument(
                "training images",
                format!("a triple needs 3 different images, the training split has {}", images.len()),
                "prepare a larger dataset or a larger training split",
            ));
        }
        let extremes = match sampling {
            Sampling::Extreme => extremes(similarity, &images),
            Sampling::Random | Sampling::Probability | Sampling::Reject => Vec::new(),
        };
        Ok(TripleSampler { similarity, images, sampling, seed, philox: Philox::new(seed), extremes })
    }

    /// Similarities from which triples are drawn.
    pub fn similarity(&self) -> Similarity<'a> {
        self.similarity
    }

    /// Training images.
    pub fn images(&self) -> Range<usize> {
        self.images.clone()
    }

    /// Strategy for drawing triples.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// Key of the random numbers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// All training images in the order of an epoch, sorted by a random number each: O(N log N).
    pub fn anchor_order(&self, epoch: u32) -> Vec<u32> {
        let mut keyed: Vec<(u64, u32)> = self
            .images
            .clone()
            .map(|image| {
                let image = image as u32;
                let [a, b, ..] = self.philox.draw(epoch, image, Role::Order, 0);
                (join(a, b), image)
            })
            .collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(_, image)| image).collect()
    }

    /// Draws the triple of a training image in an epoch. Returns `None` if the strategy gives no pair any
    /// weight, as in a row of zeros; such an anchor must be skipped. The expected cost is a few similarities,
    /// whatever the number of images. A row that accepts almost nothing is scanned once.
    pub fn draw(&self, epoch: u32, anchor: u32) -> Option<Triple> {
        let row = AnchorRow::new(self.similarity, &self.images, anchor as usize);
        let draw = AnchorDraw { row, philox: self.philox, epoch, anchor };
        let (positive, negative) = match self.sampling {
            Sampling::Extreme => return self.extreme(anchor),
            Sampling::Random => draw.random(),
            Sampling::Probability => draw.probability(),
            Sampling::Reject => draw.reject(),
        }?;
        Some(Triple {
            anchor,
            positive: row.image(positive.position) as u32,
            negative: row.image(negative.position) as u32,
            similarity_positive: positive.similarity,
            similarity_negative: negative.similarity,
        })
    }

    fn extreme(&self, anchor: u32) -> Option<Triple> {
        let Extremes { positive, negative } = self.extremes[anchor as usize - self.images.start];
        let similarity_to = |image: u32| self.similarity.get(anchor as usize, image as usize);
        let triple = Triple {
            anchor,
            positive,
            negative,
            similarity_positive: similarity_to(positive),
            similarity_negative: similarity_to(negative),
        };
        // If the largest similarity is zero, the whole row is zero.
        (triple.similarity_positive > 0.0).then_some(triple)
    }
}
