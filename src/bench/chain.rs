//! Serial chains: what a block does one step after another, however many blocks run beside it.
//!
//! ```text
//! likely time = hand-over of each launch + the longer of the minimum time at the peak rates, and waves * longest chain
//! waves       = blocks with work / blocks that an H200 holds at once, at least 1
//! ```
//! Bytes and operations say what is impossible; a chain says what one block waits for. Each case gives its chain by
//! formula, as it gives its cost. `--device ptx` models the chain from the kernel's PTX instead.

use std::fmt;
use std::ops::Add;

use serde::Serialize;

/// Cycles of a load that hits L2 on Hopper.
const LOAD_CYCLES: u64 = 280;
/// Loads in series at the end of a kernel whose last block merges sums: a fence, an atomic, and two passes over the
/// sums of the others.
const TAIL_LOADS: usize = 10;
/// Cycles of a product's step over [`PRODUCT_INNER`] values of the inner dimension: a stage of the pipeline, whose copies
/// are in flight during the stages before it. relu(norm(x)) is computed one stage ahead of the products, beside them. The
/// PTX interpreter models 390 cycles for bf16.
const PRODUCT_CYCLES: u64 = 400;
/// See [`PRODUCT_CYCLES`].
const PRODUCT_INNER: usize = 32;
/// Rows of a list that are loaded before the first of them is used (`kernels/lists.cuh`).
const LISTED_AT_ONCE: usize = 4;
/// Rows of a chunk of column sums, of which each warp reads every eighth (`kernels/strip_sums.cuh`).
const CHUNK_ROWS: usize = 64;
const CHUNK_WARPS: usize = 8;

/// Clock of a busy H200 in GHz, and the time between two launches that overlap, in microseconds.
const GHZ: f64 = 1.755;
const HAND_OVER_US: f64 = 0.9;

/// Longest chain of steps of any block of a case's launches, one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// Number of steps.
    pub steps: u64,
    /// Cycles of all steps.
    pub cycles: u64,
}

impl Chain {
    /// Chain of `count` loads, each of which depends on the one before it.
    pub fn loads(count: usize) -> Self {
        Chain { steps: count as u64, cycles: LOAD_CYCLES * count as u64 }
    }

    /// Chain of a thread that loads the number of rows, then all that it needs.
    pub fn at_once() -> Self {
        Chain::loads(2)
    }

    /// Chain of a block that walks a list: its range, then each group of entries and their rows.
    pub fn list(entries: usize) -> Self {
        Chain::loads(2 + 2 * entries.div_ceil(LISTED_AT_ONCE))
    }

    /// Chain of the longest list in a range of `offsets`, if no block walks more than `most` entries.
    pub fn longest_list(offsets: &[u32], most: usize) -> Self {
        let lengths = offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
        Chain::list(lengths.max().unwrap_or(0).min(most))
    }

    /// Chain of a block that sums the columns of a chunk of rows, and of the strip's last block, which merges the chunks.
    pub fn column_sums(rows: usize) -> Self {
        let of_warp = rows.min(CHUNK_ROWS).div_ceil(CHUNK_WARPS);
        (Chain::at_once() + Chain::loads(of_warp.div_ceil(LISTED_AT_ONCE))).with_tail_if(rows > CHUNK_ROWS)
    }

    /// Chain of a block that walks `inner` values of a product's inner dimension.
    pub fn product(inner: usize) -> Self {
        let steps = inner.div_ceil(PRODUCT_INNER) as u64;
        // The first stage is waited for, and the tile is stored.
        Chain { steps, cycles: PRODUCT_CYCLES * steps } + Chain::loads(3)
    }

    /// The chain, followed by the merge of all blocks' sums in the last one if it `merges` them.
    pub fn with_tail_if(self, merges: bool) -> Self {
        if merges { self + Chain::loads(TAIL_LOADS) } else { self }
    }

    /// The longer of two chains.
    pub fn or(self, other: Self) -> Self {
        if other.cycles > self.cycles { other } else { self }
    }

    /// Time of the chain in microseconds.
    pub fn micros(self) -> f64 {
        self.cycles as f64 / (1e3 * GHZ)
    }

    /// Likely time in microseconds of `launches` launches, of which the largest runs in `waves` waves and which cannot take
    /// less than `floor_us`. A block that begins late begins its chain late.
    pub fn likely_us(self, launches: usize, waves: f64, floor_us: f64) -> f64 {
        launches as f64 * HAND_OVER_US + floor_us.max(waves.max(1.0) * self.micros())
    }
}

impl Add for Chain {
    type Output = Chain;

    fn add(self, other: Self) -> Self {
        Chain { steps: self.steps + other.steps, cycles: self.cycles + other.cycles }
    }
}

impl fmt::Display for Chain {
    /// Number of steps and mean cycles of one, such as `34x280`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.steps, self.cycles / self.steps.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::Chain;

    #[test]
    fn a_chain_grows_with_the_longest_list_until_lists_are_cut() {
        let chain = |most| Chain::longest_list(&[0, 3, 3, 1011, 1020], most);
        // A range, its length, and 252 groups of an entry and its row.
        assert_eq!(chain(usize::MAX), Chain::loads(2 + 2 * 252));
        assert_eq!(chain(64), Chain::loads(2 + 2 * 16));
        assert_eq!(Chain::longest_list(&[0], 64), Chain::loads(2));
        assert_eq!(chain(64).to_string(), "34x280");
    }

    #[test]
    fn the_likely_time_is_that_of_the_chain_or_of_the_floor() {
        let chain = Chain { steps: 10, cycles: 17_550 };
        assert_eq!(chain.micros(), 10.0);
        assert!((chain.likely_us(1, 0.2, 1.0) - 10.9).abs() < 1e-9);
        assert!((chain.likely_us(2, 1.2, 1.0) - 13.8).abs() < 1e-9, "a second wave begins late");
        assert!((chain.likely_us(1, 0.2, 50.0) - 50.9).abs() < 1e-9);
        assert_eq!(chain.or(Chain::loads(1)), chain);
    }
}
