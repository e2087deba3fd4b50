//! Bits that threads set, once each.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A fixed number of bits, all clear at first. A set bit stays set, so the order in which threads see them does not matter.
#[derive(Debug)]
pub(super) struct Bits {
    words: Vec<AtomicU64>,
}

impl Bits {
    /// Room for at least `bits` bits.
    pub fn new(bits: usize) -> Self {
        Bits { words: (0..bits.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    pub fn get(&self, bit: usize) -> bool {
        self.words[bit / 64].load(Relaxed) >> (bit % 64) & 1 == 1
    }

    pub fn set(&self, bit: usize) {
        self.words[bit / 64].fetch_or(1 << (bit % 64), Relaxed);
    }
}
