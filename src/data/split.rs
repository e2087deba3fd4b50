//! Splits of a data file, and how its images are divided among them.

use std::fmt;
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

/// Shuffles `images` by `seed`: sorts by a hash of the image id. The order depends neither on the order of
/// the raw file nor on the version of a random number generator.
pub fn shuffle<T>(images: &mut [T], seed: u64, image_id: impl Fn(&T) -> u64) {
    images.sort_by_key(|image| {
        let id = image_id(image);
        (xxh3_64_with_seed(&id.to_le_bytes(), seed), id)
    });
}
