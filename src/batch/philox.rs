//! Philox4x32-10, a counter-based random number generator (Salmon et al., "Parallel Random Numbers: As Easy as
//! 1, 2, 3", SC 2011): 128 random bits are a pure function of a key and a counter.
//!
//! There is no state, so every draw can be computed anywhere, in any order and on any device. A resumed run
//! needs only the seed. One round, with the 32-bit halves of two products:
//!
//! ```text
//! (hi0, lo0) = 0xD2511F53 * c0      (hi1, lo1) = 0xCD9E8D57 * c2
//! c = (hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0)
//! k = k + (0x9E3779B9, 0xBB67AE85)
//! ```

/// Purpose of a random number. It is part of the counter, so different purposes never share bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// Position of the anchor in the order of an epoch.
    Order = 0,
    /// The positive of a triple.
    Positive = 1,
    /// The negative of a triple.
    Negative = 2,
    /// Positive and negative at once.
    Pair = 3,
}

/// Random number generator; its key is the seed.
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// Creates the generator of `seed`; the low half is the first key word.
    pub fn new(seed: u64) -> Self {
        Philox { key: [seed as u32, (seed >> 32) as u32] }
    }

    /// Returns the four words at the counter `(epoch, anchor, role, trial)`.
    pub fn draw(&self, epoch: u32, anchor: u32, role: Role, trial: u32) -> [u32; 4] {
        self.block([epoch, anchor, role as u32, trial])
    }

    fn block(&self, mut c: [u32; 4]) -> [u32; 4] {
        const ROUNDS: usize = 10;
        let mut k = self.key;
        for _ in 0..ROUNDS {
            let first = 0xD251_1F53 * u64::from(c[0]);
            let second = 0xCD9E_8D57 * u64::from(c[2]);
            c = [
                (second >> 32) as u32 ^ c[1] ^ k[0],
                second as u32,
                (first >> 32) as u32 ^ c[3] ^ k[1],
                first as u32,
            ];
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        c
    }
}

/// Joins two words; the first is the low half.
pub fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Uniform integer in `0..n` from 64 random bits: the high half of the product (`__umul64hi` in CUDA). The
/// error of each value's probability is at most 2^-64.
pub fn index_below(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

/// Uniform multiple of 2^-24 in [0, 1), from the high 24 bits.
pub fn unit_f32(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Uniform multiple of 2^-53 in [0, 1), from the high 53 bits.
pub fn unit_f64(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published by the authors with Random123 (`kat_vectors`, philox4x32, 10 rounds).
    #[test]
    fn known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(Philox::new(join(key[0], key[1])).block(counter), expected);
        }
    }

    #[test]
    fn the_counter_is_epoch_anchor_role_trial() {
        let philox = Philox::new(7);
        assert_eq!(philox.draw(1, 2, Role::Pair, 4), philox.block([1, 2, 3, 4]));
    }

    #[test]
    fn ranges_are_half_open() {
        for n in [1, 2, 3, 31_750, u64::from(u32::MAX)] {
            assert_eq!(index_below(0, n), 0);
            assert_eq!(index_below(u64::MAX, n), n - 1);
        }
        assert_eq!(unit_f32(0), 0.0);
        assert_eq!(unit_f32(u32::MAX), 1.0 - 2f32.powi(-24));
        assert_eq!(unit_f64(0), 0.0);
        assert_eq!(unit_f64(u64::MAX), 1.0 - 2f64.powi(-53));
    }
}
