//! Draws the positive and negative of one anchor in one epoch by rejection, which needs no row of
//! similarities.
//!
//! Since 0 <= s <= 1, a uniformly drawn other image X that is accepted with probability s_AX has a
//! distribution proportional to s_AX. This takes 1 / mean(s) trials on average, with one similarity each:
//!
//! ```text
//! for trial in 0..1024 { X = uniform other image; if uniform [0, 1) < s_AX { return X } }
//! return the exact draw from the whole row
//! ```
//!
//! The accepted image does not depend on the number of trials. Stopping at the limit and drawing from the row
//! therefore keeps the distribution, up to the 2^-24 steps of the uniform number. The random numbers of trial
//! t are the Philox block (epoch, anchor, role, t); the row scan uses t = 1024.

use super::anchor_row::AnchorRow;
use super::philox::{Philox, Role, index_below, join, unit_f32};
use super::row_scan;

/// Number of trials before the exact row scan; with a mean similarity of 0.01 one draw in 30,000 needs the
/// scan.
const MAX_TRIALS: u32 = 1024;

/// A drawn image: its position in the anchor's row, and its similarity to the anchor.
#[derive(Clone, Copy)]
pub(super) struct Pick {
    pub(super) position: usize,
    pub(super) similarity: f32,
}

/// The row of one anchor, and its random numbers in one epoch.
pub(super) struct AnchorDraw<'a> {
    pub(super) row: AnchorRow<'a>,
    pub(super) philox: Philox,
    pub(super) epoch: u32,
    pub(super) anchor: u32,
}

impl AnchorDraw<'_> {
    /// Uniform over the pairs with s_P > s_N: draws an unordered pair and orders it; draws again if the two
    /// tie.
    pub(super) fn random(&self) -> Option<(Pick, Pick)> {
        for trial in 0..MAX_TRIALS {
            let [a, b, c, d] = self.words(Role::Pair, trial);
            let first = index_below(join(a, b), self.row.count() as u64) as usize;
            // Uniform over the other images except the first draw: shifting by one skips it, as the row skips
            // the anchor.
            let second = index_below(join(c, d), self.row.count() as u64 - 1) as usize;
            let second = second + usize::from(second >= first);
            let (first, second) = (self.pick(first), self.pick(second));
            if first.similarity > second.similarity {
                return Some((first, second));
            }
            if second.similarity > first.similarity {
                return Some((second, first));
            }
        }
        self.scan_for_pair(row_scan::random)
    }

    /// P with weight s_P, then N != P with weight 1 - s_N.
    pub(super) fn probability(&self) -> Option<(Pick, Pick)> {
        let positive = (0..MAX_TRIALS).find_map(|trial| self.positive(trial)).or_else(|| {
            let row = self.row.scan();
            self.scan_for_one(Role::Positive, row.iter().map(|&s| f64::from(s)))
        })?;
        let other = |pick: &Pick| pick.position != positive.position;
        let negative =
            (0..MAX_TRIALS).filter_map(|trial| self.negative(trial)).find(other).or_else(|| {
                let row = self.row.scan();
                let weights = row.iter().enumerate().map(|(position, &s)| {
                    if position == positive.position { 0.0 } else { 1.0 - f64::from(s) }
                });
                self.scan_for_one(Role::Negative, weights)
            })?;
        Some((positive, negative))
    }

    /// P with weight s_P and N with weight 1 - s_N; both are redrawn while s_P < s_N or P = N.
    pub(super) fn reject(&self) -> Option<(Pick, Pick)> {
        let mut trials = 0..MAX_TRIALS;
        while let Some(positive) = trials.find_map(|trial| self.positive(trial))
            && let Some(negative) = trials.find_map(|trial| self.negative(trial))
        {
            if positive.similarity >= negative.similarity && positive.position != negative.position {
                return Some((positive, negative));
            }
        }
        self.scan_for_pair(row_scan::reject)
    }

    fn positive(&self, trial: u32) -> Option<Pick> {
        self.accept(Role::Positive, trial, |s| s)
    }

    fn negative(&self, trial: u32) -> Option<Pick> {
        self.accept(Role::Negative, trial, |s| 1.0 - s)
    }

    /// Runs one trial: draws a uniform other image, and accepts it with probability `weight` of its
    /// similarity.
    fn accept(&self, role: Role, trial: u32, weight: impl Fn(f32) -> f32) -> Option<Pick> {
        let [a, b, c, _] = self.words(role, trial);
        let pick = self.pick(index_below(join(a, b), self.row.count() as u64) as usize);
        (unit_f32(c) < weight(pick.similarity)).then_some(pick)
    }

    fn scan_for_one(&self, role: Role, weights: impl Iterator<Item = f64> + Clone) -> Option<Pick> {
        let [a, b, ..] = self.words(role, MAX_TRIALS);
        row_scan::weighted(weights, join(a, b)).map(|position| self.pick(position))
    }

    fn scan_for_pair(
        &self,
        draw: impl Fn(&[f32], u64, u64) -> Option<(usize, usize)>,
    ) -> Option<(Pick, Pick)> {
        let [a, b, c, d] = self.words(Role::Pair, MAX_TRIALS);
        let (positive, negative) = draw(&self.row.scan(), join(a, b), join(c, d))?;
        Some((self.pick(positive), self.pick(negative)))
    }

    fn words(&self, role: Role, trial: u32) -> [u32; 4] {
        self.philox.draw(self.epoch, self.anchor, role, trial)
    }

    fn pick(&self, position: usize) -> Pick {
        Pick { position, similarity: self.row.similarity(position) }
    }
}
