//! Kendall's tau-b, exact, in O(n log n) (Knight, "A Computer Method for Calculating Kendall's Tau with Ungrouped
//! Data", 1966).
//!
//! ```text
//! tau_b = (C - D) / sqrt((P - X) (P - Y))
//! ```
//! There are P = n (n - 1) / 2 pairs of observations: C concordant, D discordant, X tied in x, Y tied in y.
//! Sort by x, then y ([`super::rank_correlations`]). A pair is then discordant exactly if its y values are in the wrong order. (Pairs
//! tied in x are sorted by y, so they never are.) The ranks of y are sorted by one digit after the other, and D grows by
//! the pairs that each digit decides:
//!
//! ```text
//! for each value of a bucket, in order: D += number of earlier values with a greater digit
//! then the values of each digit, in order, are a bucket for the next digit
//! ```
//! With XY pairs tied in both, C - D = P - X - Y + XY - 2 D. All counts are exact integers.

use pulp::Arch;
use rayon::prelude::*;

/// Bits of a digit.
const DIGIT_BITS: u32 = 8;
/// Values of a digit.
const DIGITS: usize = 1 << DIGIT_BITS;
/// Values of half a digit.
const HALF: usize = 1 << (DIGIT_BITS / 2);
/// Number of values of which all pairs are compared.
const FEW: usize = 64;

/// tau-b of `n` observations from the counts of their pairs; `None` if it is undefined.
pub(super) fn tau_b(n: u64, concordant_minus_discordant: i128, tied_x: u64, tied_y: u64) -> Option<f64> {
    let all = pair_count(n);
    if tied_x == all || tied_y == all {
        return None;
    }
    let tau =
        concordant_minus_discordant as f64 / ((all - tied_x) as f64).sqrt() / ((all - tied_y) as f64).sqrt();
    // Rounding may give a perfect agreement slightly above one.
    Some(tau.clamp(-1.0, 1.0))
}

/// Number of pairs among `n` items.
pub(super) fn pair_count(n: u64) -> u64 {
    n * n.saturating_sub(1) / 2
}

/// Number of pairs of `values` in the wrong order; all values are below `2^bits`. `scratch` has the same length. The order of
/// the values changes. Buckets are counted on all threads if `parallel`.
pub(super) fn inversions(values: &mut [u32], scratch: &mut [u32], bits: u32, parallel: bool) -> u64 {
    if bits == 0 {
        return 0;
    }
    if values.len() <= FEW {
        return count_all_pairs(values);
    }
    let shift = bits.saturating_sub(DIGIT_BITS);
    let digit = |value: u32| (value >> shift) as usize % DIGITS;
    let mut counts = [0u32; DIGITS];
    values.iter().for_each(|&value| counts[digit(value)] += 1);
    let between = pairs_of_digits(values, shift);
    let mut next = 0;
    let mut starts = counts.map(|count| {
        next += count as usize;
        next - count as usize
    });
    for &value in &*values {
        let place = &mut starts[digit(value)];
        scratch[*place] = value;
        *place += 1;
    }
    // The values of a bucket stay in their order.
    let (mut values, mut scratch) = (values, scratch);
    let mut buckets = counts.map(|count| {
        let bucket = scratch.split_off_mut(..count as usize).expect("the counts add up");
        (bucket, values.split_off_mut(..count as usize).expect("the counts add up"))
    });
    let within = |(bucket, scratch): &mut (&mut [u32], &mut [u32])| inversions(bucket, scratch, shift, false);
    between
        + match parallel {
            true => buckets.par_iter_mut().map(within).sum::<u64>(),
            false => buckets.iter_mut().map(within).sum::<u64>(),
        }
}

/// Number of pairs in the wrong order by their digits, the [`DIGIT_BITS`] bits from `shift` on.
fn pairs_of_digits(values: &[u32], shift: u32) -> u64 {
    // greater[h]: earlier values whose upper half digit exceeds h. greater_within[h][l]: earlier values with the upper half h and a
    // lower half above l.
    let (mut greater, mut greater_within) = ([0u32; HALF], [[0u32; HALF]; HALF]);
    let mut pairs = 0;
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for &value in values {
                let digit = (value >> shift) as usize % DIGITS;
                let (upper, lower) = (digit / HALF, digit % HALF);
                let within = &mut greater_within[upper];
                pairs += u64::from(greater[upper]) + u64::from(within[lower]);
                for place in 0..HALF {
                    greater[place] += u32::from(place < upper);
                    within[place] += u32::from(place < lower);
                }
            }
        },
    );
    pairs
}

/// Number of pairs in the wrong order, by comparing all.
fn count_all_pairs(values: &[u32]) -> u64 {
    let mut pairs = 0;
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (at, &value) in values.iter().enumerate() {
                pairs += values[..at].iter().map(|&earlier| u32::from(earlier > value)).sum::<u32>();
            }
        },
    );
    pairs.into()
}
