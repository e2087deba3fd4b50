//! Kendall's tau-b, exact, in O(n log n) (Knight, "A Computer Method for Calculating Kendall's Tau with Ungrouped
//! Data", 1966).
//!
//! ```text
//! tau_b = (C - D) / sqrt((P - X) (P - Y))
//! ```
//! There are P = n (n - 1) / 2 pairs of observations: C concordant, D discordant, X tied in x, Y tied in y.
//! Sort by x, then y. A pair is then discordant exactly if its y values are in the wrong order. (Pairs tied
//! in x are sorted by y, so they never are.) Merge sort counts these pairs while it sorts y:
//!
//! ```text
//! merge: whenever an element of the right half precedes k remaining ones of the left, D += k
//! ```
//! With XY pairs tied in both, C - D = P - X - Y + XY - 2 D. All counts are exact integers.

use rayon::prelude::*;

use super::order::{first, pack, second};

/// Length below which merge sort switches to insertion sort.
const INSERTION: usize = 24;
/// Length below which a parallel count does not split further: about 100 us of work per task.
const PARALLEL: usize = 1 << 15;

/// Reusable working memory: 32 bytes per observation, allocated by the first call.
#[derive(Debug, Default)]
pub struct Kendall {
    pairs: Vec<u128>,
    y: Vec<u64>,
    scratch: Vec<u64>,
    parallel: bool,
}

impl Kendall {
    /// For many small problems, each on the calling thread.
    pub fn new() -> Self {
        Self::default()
    }

    /// For one large problem, on all threads of the current rayon pool. The result is the same.
    pub fn parallel() -> Self {
        Kendall { parallel: true, ..Self::default() }
    }

    /// Computes tau-b of the finite values `x[i], y[i]`. Returns `None` if it is undefined: fewer than two
    /// observations, or one side constant.
    pub fn tau(&mut self, x: &[f64], y: &[f64]) -> Option<f64> {
        assert_eq!(x.len(), y.len(), "kendall: one y per x");
        let n = x.len();
        self.y.resize(n, 0);
        self.scratch.resize(n, 0);
        if self.parallel {
            x.par_iter().zip(y).map(|(&x, &y)| pack(x, y)).collect_into_vec(&mut self.pairs);
            self.pairs.par_sort_unstable();
        } else {
            self.pairs.clear();
            self.pairs.extend(x.iter().zip(y).map(|(&x, &y)| pack(x, y)));
            self.pairs.sort_unstable();
        }
        for (y, &pair) in self.y.iter_mut().zip(&self.pairs) {
            *y = second(pair);
        }
        let tied_x = tied_pairs(self.pairs.iter().map(|&pair| first(pair)));
        let tied_both = tied_pairs(self.pairs.iter().copied());
        let discordant = if self.parallel {
            sort_and_count_parallel(&mut self.y, &mut self.scratch)
        } else {
            sort_and_count(&mut self.y, &mut self.scratch)
        };
        let tied_y = tied_pairs(self.y.iter().copied());

        // In u64 all sums stay below 2^64 for n < 2^32; the difference is signed.
        let concordant_minus_discordant = i128::from(pair_count(n as u64) + tied_both)
            - i128::from(tied_x)
            - i128::from(tied_y)
            - 2 * i128::from(discordant);
        tau_b(n as u64, concordant_minus_discordant, tied_x, tied_y)
    }
}

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

/// Number of pairs of equal values in a sorted sequence.
fn tied_pairs<T: PartialEq + Copy>(mut sorted: impl Iterator<Item = T>) -> u64 {
    let Some(mut current) = sorted.next() else { return 0 };
    let (mut ties, mut run) = (0, 0);
    for value in sorted {
        run = if value == current { run + 1 } else { 0 };
        // The value ties with each of the `run` equal ones before it.
        ties += run;
        current = value;
    }
    ties
}

/// Sorts `values` and returns the number of pairs in the wrong order; `scratch` has the same length.
fn sort_and_count(values: &mut [u64], scratch: &mut [u64]) -> u64 {
    if values.len() <= INSERTION {
        return insertion_sort_and_count(values);
    }
    let middle = values.len() / 2;
    let (left, right) = values.split_at_mut(middle);
    let (scratch_left, scratch_right) = scratch.split_at_mut(middle);
    let inversions = sort_and_count(left, scratch_left) + sort_and_count(right, scratch_right);
    inversions + merge_and_count(values, middle, scratch)
}

/// Like [`sort_and_count`], with the halves on different threads.
fn sort_and_count_parallel(values: &mut [u64], scratch: &mut [u64]) -> u64 {
    if values.len() <= PARALLEL {
        return sort_and_count(values, scratch);
    }
    let middle = values.len() / 2;
    let (left, right) = values.split_at_mut(middle);
    let (scratch_left, scratch_right) = scratch.split_at_mut(middle);
    let (of_left, of_right) = rayon::join(
        || sort_and_count_parallel(left, scratch_left),
        || sort_and_count_parallel(right, scratch_right),
    );
    of_left + of_right + merge_and_count(values, middle, scratch)
}

fn insertion_sort_and_count(values: &mut [u64]) -> u64 {
    let mut inversions = 0;
    for i in 1..values.len() {
        let value = values[i];
        let mut hole = i;
        while hole > 0 && values[hole - 1] > value {
            values[hole] = values[hole - 1];
            hole -= 1;
        }
        values[hole] = value;
        inversions += (i - hole) as u64;
    }
    inversions
}

/// Merges the sorted halves `values[..middle]` and `values[middle..]`.
fn merge_and_count(values: &mut [u64], middle: usize, scratch: &mut [u64]) -> u64 {
    if values[middle - 1] <= values[middle] {
        return 0;
    }
    let (left, right) = values.split_at(middle);
    let (mut i, mut j, mut inversions) = (0, 0, 0u64);
    while i < left.len() && j < right.len() {
        // Arithmetic instead of a branch, which would be unpredictable.
        let take_right = right[j] < left[i];
        scratch[i + j] = if take_right { right[j] } else { left[i] };
        inversions += (left.len() - i) as u64 * u64::from(take_right);
        i += usize::from(!take_right);
        j += usize::from(take_right);
    }
    let rest = i + j;
    if i < left.len() {
        scratch[rest..].copy_from_slice(&left[i..]);
    } else {
        scratch[rest..].copy_from_slice(&right[j..]);
    }
    values.copy_from_slice(scratch);
    inversions
}
