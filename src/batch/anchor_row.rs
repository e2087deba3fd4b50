//! The training images other than one anchor (the *others*), at positions `0..count`.

use std::ops::Range;

use crate::data::similarity::Similarity;

/// Similarity row s_A of an anchor A, without the anchor itself.
#[derive(Clone, Copy)]
pub(super) struct AnchorRow<'a> {
    similarity: Similarity<'a>,
    first_image: usize,
    count: usize,
    anchor: usize,
}

impl<'a> AnchorRow<'a> {
    pub(super) fn new(similarity: Similarity<'a>, images: &Range<usize>, anchor: usize) -> Self {
        assert!(images.contains(&anchor), "anchor {anchor} is not a training image ({images:?})");
        AnchorRow { similarity, first_image: images.start, count: images.len() - 1, anchor }
    }

    /// Number of others.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Image at a position. Images from the anchor on are shifted by one.
    pub(super) fn image(&self, position: usize) -> usize {
        let image = self.first_image + position;
        image + usize::from(image >= self.anchor)
    }

    /// Similarity s_AX of the image X at a position.
    pub(super) fn similarity(&self, position: usize) -> f32 {
        self.similarity.get(self.anchor, self.image(position))
    }

    /// Whole row of similarities: O(count) reads or dot products.
    pub(super) fn scan(&self) -> Vec<f32> {
        (0..self.count).map(|position| self.similarity(position)).collect()
    }
}
