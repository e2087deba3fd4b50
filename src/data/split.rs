//! Splits of a data file, and how its images are divided among them.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A selection of the images of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Images that the model learns from.
    Train,
    /// Images that select the best epoch.
    Validation,
    /// Images that are only evaluated.
    Test,
    /// Every image.
    All,
}

impl Split {
    /// The three splits, in storage order.
    pub const PARTS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
            Split::All => "all",
        })
    }
}

/// Ratio of train, validation and test, such as `70:20:10`.
///
/// Train gets `floor(n * train / sum)` of n images, validation `floor(n * validation / sum)`, and test the
/// rest. This rounding gives the paper's 4,537 test images of 45,358. If the share of test is 0, train gets
/// the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SplitRatio([u32; 3]);

impl Default for SplitRatio {
    fn default() -> Self {
        SplitRatio([70, 20, 10])
    }
}

impl SplitRatio {
    /// Number of images in train, validation and test.
    pub fn counts(self, images: usize) -> [usize; 3] {
        let sum: u64 = self.0.iter().map(|&share| u64::from(share)).sum();
        let part = |share: u32| (images as u128 * u128::from(share) / u128::from(sum)) as usize;
        let (train, validation) = (part(self.0[0]), part(self.0[1]));
        let rest = images - train - validation;
        if self.0[2] > 0 { [train, validation, rest] } else { [train + rest, validation, 0] }
    }
}

impl FromStr for SplitRatio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shares: Vec<u32> = text.split(':').map_while(|share| share.parse().ok()).collect();
        match shares[..] {
            [train, validation, test] if text.split(':').count() == 3 && train > 0 => {
                Ok(SplitRatio([train, validation, test]))
            }
            _ => Err("three whole numbers TRAIN:VALIDATION:TEST with TRAIN above 0, such as 70:20:10".into()),
        }
    }
}

impl TryFrom<String> for SplitRatio {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for SplitRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [train, validation, test] = self.0;
        write!(f, "{train}:{validation}:{test}")
    }
}

impl From<SplitRatio> for String {
    fn from(ratio: SplitRatio) -> String {
        ratio.to_string()
    }
}

/// What is assigned to a split as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// All images of one photograph, known by its COCO id: they have the same captions, so that one of them in test would
    /// repeat one of train.
    #[default]
    Photograph,
    /// Each image.
    Image,
}

/// An image, to be assigned to a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Visual Genome id.
    pub image_id: u64,
    /// COCO id.
    pub coco_id: u64,
}

/// Divides `images` into train, validation and test by `seed`.
///
/// The images are put in the order of a hash of the least image id of their group. A group of several images goes to the split
/// in whose part of this order it begins, or to the one with the most room if it does not fit there. Single images then fill the
/// splits in the same order. The numbers of images are those of `ratio`, unless a group fits nowhere.
pub fn divide<T>(
    mut images: Vec<T>,
    ratio: SplitRatio,
    by: SplitBy,
    seed: u64,
    ids: impl Fn(&T) -> Ids,
) -> [Vec<T>; 3] {
    let mut first: HashMap<u64, u64> = HashMap::new();
    for Ids { image_id, coco_id } in images.iter().map(&ids) {
        first.entry(coco_id).and_modify(|first| *first = image_id.min(*first)).or_insert(image_id);
    }
    let group = |image: &T| match by {
        SplitBy::Photograph => first[&ids(image).coco_id],
        SplitBy::Image => ids(image).image_id,
    };
    let mut left = ratio.counts(images.len());
    // Stable: the images of a group stay together, in the order of their ids.
    images.sort_by_key(|image| ids(image).image_id);
    shuffle(&mut images, seed, group);
    let groups: Vec<Range<usize>> = images
        .chunk_by(|a, b| group(a) == group(b))
        .scan(0, |end, chunk| {
            *end += chunk.len();
            Some(*end - chunk.len()..*end)
        })
        .collect();
    let counts = left;
    let mut part_of = vec![0; images.len()];
    let (single, several): (Vec<_>, Vec<_>) = groups.into_iter().partition(|range| range.len() == 1);
    for range in several {
        let at = match range.start {
            start if start < counts[0] => 0,
            start if start < counts[0] + counts[1] => 1,
            _ => 2,
        };
        let most = (0..3).rev().max_by_key(|&part| left[part]).expect("three splits");
        let part = if left[at] >= range.len() { at } else { most };
        left[part] = left[part].saturating_sub(range.len());
        part_of[range].fill(part);
    }
    for range in single {
        // Without room anywhere, a group was larger than every split.
        let part = (0..3).find(|&part| left[part] > 0).unwrap_or(0);
        left[part] = left[part].saturating_sub(1);
        part_of[range].fill(part);
    }
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    images.into_iter().zip(part_of).for_each(|(image, part)| parts[part].push(image));
    parts
}

/// Pairs of images of one photograph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Twins {
    /// Number of pairs.
    pub pairs: u64,
    /// Number of those whose images are in different splits.
    pub in_different_splits: u64,
}

impl Twins {
    /// Counts the pairs of images, given by COCO id and number of their split.
    pub fn count(images: impl IntoIterator<Item = (u64, usize)>) -> Self {
        let mut photographs: HashMap<u64, [u64; 3]> = HashMap::new();
        images.into_iter().for_each(|(coco_id, part)| photographs.entry(coco_id).or_default()[part] += 1);
        let pairs = |count: u64| count * (count - 1) / 2;
        let mut twins = Twins::default();
        for parts in photographs.into_values() {
            let all = pairs(parts.iter().sum());
            let within: u64 = parts.into_iter().filter(|&count| count > 0).map(pairs).sum();
            twins.pairs += all;
            twins.in_different_splits += all - within;
        }
        twins
    }
}

impl fmt::Display for Twins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pairs, {} of them in different splits", self.pairs, self.in_different_splits)
    }
}

/// Shuffles `images` by `seed`: sorts by a hash of the image id. The order depends neither on the order of
/// the raw file nor on the version of a random number generator.
pub fn shuffle<T>(images: &mut [T], seed: u64, image_id: impl Fn(&T) -> u64) {
    images.sort_by_key(|image| {
        let id = image_id(image);
        (xxh3_64_with_seed(&id.to_le_bytes(), seed), id)
    });
}
