//! Kendall's tau-b and Spearman's rho of the same values, exact, in O(n log n).
//!
//! Both sides are sorted once. The sorts give the centred ranks `u = 2 rank(x) - (n + 1)` and `v = 2 rank(y) - (n + 1)`,
//! where tied values share the mean of their ranks. They are integers that ascend with the values, so
//!
//! - rho follows from the sums of u u, v v and u v;
//! - tau-b follows from the numbers of ties, and from the number of inversions of v in the order of x.
//!
//! An element of a sort is one integer: the upper bits of the value's key, and below them the value's index. Values that
//! differ only in lower bits are then sorted again, which happens rarely. All counts and sums are exact integers, so their
//! order does not matter.

use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use rayon::prelude::*;

use super::kendall::{inversions, pair_count, tau_b};
use super::order::key;
use super::spearman::rho_of_sums;

/// Largest number of elements of a task.
const TASK: usize = 1 << 16;

/// Reusable working memory: 28 bytes per observation, allocated by the first call.
#[derive(Debug, Default)]
pub struct Ranks {
    /// `[n]` elements of the sort of x, and of y.
    x: Vec<u64>,
    y: Vec<u64>,
    /// `[n]` centred ranks of x in the order of x; scratch memory afterwards.
    u: Vec<i32>,
    /// `[n]` centred ranks of y in the order of y, then in the order of x.
    v: Vec<i32>,
    /// `[n]` centred ranks of y by index.
    v_by_index: Vec<AtomicI32>,
    parallel: bool,
}

/// Both rank correlations. A correlation is `None` if it is undefined: fewer than two observations, or one side constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankCorrelations {
    /// Kendall's tau-b.
    pub tau: Option<f64>,
    /// Spearman's rho.
    pub rho: Option<f64>,
}

impl Ranks {
    /// For many small problems, each on the calling thread.
    pub fn new() -> Self {
        Self::default()
    }

    /// For one large problem, on all threads of the current rayon pool. The result is the same.
    pub fn parallel() -> Self {
        Ranks { parallel: true, ..Self::default() }
    }

    /// Correlations of the finite values `x[i], y[i]`, at most 2^31 - 1 of them.
    pub fn correlate(&mut self, x: &[f64], y: &[f64]) -> RankCorrelations {
        assert_eq!(x.len(), y.len(), "rank correlations: one y per x");
        let n = x.len();
        assert!(i32::try_from(n).is_ok(), "rank correlations of {n} observations");
        let Ranks { x: by_x, y: by_y, u, v, v_by_index, parallel } = self;
        let parallel = *parallel;
        u.resize(n, 0);
        v.resize(n, 0);
        v_by_index.resize_with(n, AtomicI32::default);
        let (of_x, of_y) = (Order::of(x), Order::of(y));
        let mut rank_x = || {
            of_x.sort(by_x, parallel);
            of_x.rank(Part::whole(by_x, u, parallel))
        };
        let mut rank_y = || {
            of_y.sort(by_y, parallel);
            let ties = of_y.rank(Part::whole(by_y, v, parallel));
            in_tasks(by_y, v, parallel, |element, rank| {
                v_by_index[of_y.index(*element)].store(*rank, Relaxed)
            });
            ties
        };
        let (x_ties, y_ties) = match parallel {
            true => rayon::join(rank_x, rank_y),
            false => (rank_x(), rank_y()),
        };
        in_tasks(by_x, v, parallel, |element, rank| *rank = v_by_index[of_x.index(*element)].load(Relaxed));
        let Both { tied: tied_both, products } = both(u, v);
        // From -n < v < n to 0 < v + n < 2 n.
        let shifted: &mut [u32] = bytemuck::cast_slice_mut(v);
        shifted.iter_mut().for_each(|rank| *rank = rank.wrapping_add(n as u32));
        let bits = u32::BITS - (2 * n as u32).leading_zeros();
        let discordant = inversions(shifted, bytemuck::cast_slice_mut(u), bits, parallel);
        let (tied_x, tied_y) = (x_ties.pairs, y_ties.pairs);
        let squares = |ties: Ties| squares_without_ties(n) - ties.cubes;
        // In u64 all sums stay below 2^64 for n < 2^32; the difference is signed.
        let concordant_minus_discordant = i128::from(pair_count(n as u64) + tied_both)
            - i128::from(tied_x)
            - i128::from(tied_y)
            - 2 * i128::from(discordant);
        RankCorrelations {
            tau: tau_b(n as u64, concordant_minus_discordant, tied_x, tied_y),
            rho: rho_of_sums([squares(x_ties), squares(y_ties), products]),
        }
    }
}

/// Calls `each` for the elements with their values, on all threads if `parallel`.
fn in_tasks(elements: &[u64], values: &mut [i32], parallel: bool, each: impl Fn(&u64, &mut i32) + Sync) {
    let task = |(elements, values): (&[u64], &mut [i32])| {
        elements.iter().zip(values).for_each(|(element, value)| each(element, value));
    };
    match parallel {
        true => elements.par_chunks(TASK).zip(values.par_chunks_mut(TASK)).for_each(task),
        false => task((elements, values)),
    }
}

/// Counts and sums over both sides.
struct Both {
    /// Number of pairs that are equal on both sides.
    tied: u64,
    /// Sum of the products of the centred ranks.
    products: i128,
}

/// Sorts the ranks `v` of values that are tied in `u`, which ascends, and counts ties of both.
fn both(u: &[i32], v: &mut [i32]) -> Both {
    let (mut tied, mut products, mut rest) = (0, 0, v);
    for equal in u.chunk_by(|a, b| a == b) {
        let others;
        (others, rest) = rest.split_at_mut(equal.len());
        if let [other] = others {
            products += i128::from(i64::from(equal[0]) * i64::from(*other));
            continue;
        }
        let total: i64 = others.iter().map(|&other| i64::from(other)).sum();
        products += i128::from(equal[0]) * i128::from(total);
        others.sort_unstable();
        let equal_twice = others.chunk_by(|a, b| a == b);
        tied += equal_twice.map(|equal| pair_count(equal.len() as u64)).sum::<u64>();
    }
    Both { tied, products }
}

/// Counts over the ties of one side.
#[derive(Clone, Copy, Debug, Default)]
struct Ties {
    /// Number of pairs of equal values.
    pairs: u64,
    /// Sum of t (t^2 - 1) / 3 over groups of t tied values. The sum of squared centred ranks is n (n^2 - 1) / 3 minus this.
    cubes: i128,
}

impl Ties {
    /// Ties of `len` values.
    fn of(len: usize) -> Self {
        Ties { pairs: pair_count(len as u64), cubes: squares_without_ties(len) }
    }

    fn and(self, other: Ties) -> Ties {
        Ties { pairs: self.pairs + other.pairs, cubes: self.cubes + other.cubes }
    }
}

/// Sum of the squares of `n` different centred ranks.
fn squares_without_ties(n: usize) -> i128 {
    let n = n as i128;
    n * (n * n - 1) / 3
}

/// Sorting of values as integers.
struct Order<'a> {
    values: &'a [f64],
    /// Number of lower bits of an element that hold the index.
    index_bits: u32,
}

impl<'a> Order<'a> {
    fn of(values: &'a [f64]) -> Self {
        Order { values, index_bits: usize::BITS - values.len().leading_zeros() }
    }

    /// Index of the value of an element.
    fn index(&self, element: u64) -> usize {
        (element & ((1 << self.index_bits) - 1)) as usize
    }

    /// Upper bits of the value's key.
    fn prefix(&self, element: u64) -> u64 {
        element >> self.index_bits
    }

    /// Fills `elements` and sorts them by prefix.
    fn sort(&self, elements: &mut Vec<u64>, parallel: bool) {
        let element = |(index, &value): (usize, &f64)| {
            (key(value) >> self.index_bits << self.index_bits) | index as u64
        };
        if parallel {
            self.values.par_iter().enumerate().map(element).collect_into_vec(elements);
            elements.par_sort_unstable();
        } else {
            elements.clear();
            elements.extend(self.values.iter().enumerate().map(element));
            elements.sort_unstable();
        }
    }

    /// Completes the order of elements that are sorted by prefix, and writes their centred ranks.
    fn rank(&self, part: Part<'_>) -> Ties {
        let Part { elements, ranks, start, task } = part;
        if elements.len() > task {
            let half = elements.len() / 2;
            let prefix = self.prefix(elements[half]);
            let middle = half + elements[half..].partition_point(|&other| self.prefix(other) == prefix);
            if middle < elements.len() {
                let (left, right) = elements.split_at_mut(middle);
                let (ranks_left, ranks_right) = ranks.split_at_mut(middle);
                let left = Part { elements: left, ranks: ranks_left, start, task };
                let right = Part { elements: right, ranks: ranks_right, start: start + middle, task };
                let (left, right) = rayon::join(|| self.rank(left), || self.rank(right));
                return left.and(right);
            }
        }
        for (place, rank) in (start..).zip(&mut *ranks) {
            *rank = self.centred_rank(place, place + 1);
        }
        let (mut ties, mut first) = (Ties::default(), 0);
        while let Some(distance) =
            elements[first..].windows(2).position(|pair| self.prefix(pair[0]) == self.prefix(pair[1]))
        {
            first += distance;
            let prefix = self.prefix(elements[first]);
            let alike = elements[first..].iter().take_while(|&&other| self.prefix(other) == prefix).count();
            let range = first..first + alike;
            ties = ties.and(self.rank_alike(&mut elements[range.clone()], &mut ranks[range], start + first));
            first += alike;
        }
        ties
    }

    /// Ranks elements of one prefix, which follow `start` others.
    fn rank_alike(&self, elements: &mut [u64], ranks: &mut [i32], start: usize) -> Ties {
        let exact = |element: u64| key(self.values[self.index(element)]);
        if elements.iter().any(|&element| exact(element) != exact(elements[0])) {
            elements.sort_unstable_by_key(|&element| exact(element));
        }
        let (mut ties, mut at) = (Ties::default(), 0);
        for tied in elements.chunk_by(|&a, &b| exact(a) == exact(b)) {
            let end = at + tied.len();
            ranks[at..end].fill(self.centred_rank(start + at, start + end));
            ties = ties.and(Ties::of(tied.len()));
            at = end;
        }
        ties
    }

    /// Twice the mean of the ranks start + 1 ..= end, minus n + 1. Its magnitude is below n.
    fn centred_rank(&self, start: usize, end: usize) -> i32 {
        ((start + 1 + end) as i64 - (self.values.len() + 1) as i64) as i32
    }
}

/// A part of sorted elements.
struct Part<'a> {
    elements: &'a mut [u64],
    /// One for each element.
    ranks: &'a mut [i32],
    /// Number of elements before this part.
    start: usize,
    /// Largest number of elements of a task.
    task: usize,
}

impl<'a> Part<'a> {
    fn whole(elements: &'a mut [u64], ranks: &'a mut [i32], parallel: bool) -> Self {
        let task = if parallel { TASK } else { elements.len() };
        Part { elements, ranks, start: 0, task }
    }
}
