//! Spearman's rho: Pearson's r of the ranks; tied values share the mean of their ranks.
//!
//! Twice a mean rank is an integer, and so is twice its distance from the mean of all ranks, n + 1:
//! ```text
//! u = 2 rank(x) - (n + 1),  v = 2 rank(y) - (n + 1),  rho = sum u v / sqrt(sum u^2 * sum v^2)
//! ```
//! The three sums are therefore exact, in any order. Sorting (x, y) by x lets x be replaced by u in place.
//! Sorting (y, u) by y then gives the ranks of y in order, without an index.

use rayon::prelude::*;

use super::order::{first, pack, second};

/// Reusable working memory: 16 bytes per observation, allocated by the first call.
#[derive(Debug, Default)]
pub struct Spearman {
    pairs: Vec<u128>,
    parallel: bool,
}

impl Spearman {
    /// For many small problems, each on the calling thread.
    pub fn new() -> Self {
        Self::default()
    }

    /// For one large problem: sorts on all threads of the current rayon pool. The result is the same.
    pub fn parallel() -> Self {
        Spearman { parallel: true, ..Self::default() }
    }

    /// Computes rho of the finite values `x[i], y[i]`. Returns `None` if it is undefined: fewer than two
    /// observations, or one side constant.
    pub fn rho(&mut self, x: &[f64], y: &[f64]) -> Option<f64> {
        assert_eq!(x.len(), y.len(), "spearman: one y per x");
        self.pairs.clear();
        self.pairs.extend(x.iter().zip(y).map(|(&x, &y)| pack(x, y)));
        let n = self.pairs.len();

        self.sort();
        let mut sum_uu = 0i128;
        for_each_tie(&mut self.pairs, |tie, start, end| {
            let u = centred_rank(start, end, n);
            sum_uu += i128::from(u) * i128::from(u) * (end - start) as i128;
            for pair in tie {
                // The second half is only carried along, so its order does not matter.
                *pair = (u128::from(second(*pair)) << 64) | u128::from(u as u64);
            }
        });

        self.sort();
        let (mut sum_vv, mut sum_uv) = (0i128, 0i128);
        for_each_tie(&mut self.pairs, |tie, start, end| {
            let v = i128::from(centred_rank(start, end, n));
            sum_vv += v * v * (end - start) as i128;
            sum_uv += v * tie.iter().map(|&pair| i128::from(second(pair) as i64)).sum::<i128>();
        });

        rho_of_sums([sum_uu, sum_vv, sum_uv])
    }

    fn sort(&mut self) {
        if self.parallel {
            self.pairs.par_sort_unstable();
        } else {
            self.pairs.sort_unstable();
        }
    }
}

/// rho from the sums of u u, v v and u v; `None` if it is undefined.
pub(super) fn rho_of_sums([sum_uu, sum_vv, sum_uv]: [i128; 3]) -> Option<f64> {
    if sum_uu == 0 || sum_vv == 0 {
        return None;
    }
    let rho = sum_uv as f64 / (sum_uu as f64).sqrt() / (sum_vv as f64).sqrt();
    Some(rho.clamp(-1.0, 1.0))
}

/// Twice the mean of the ranks start + 1 ..= end, minus n + 1.
fn centred_rank(start: usize, end: usize, n: usize) -> i64 {
    (start + 1 + end) as i64 - (n + 1) as i64
}

/// Calls `visit(run, start, end)` for each run of pairs with equal first halves.
fn for_each_tie(sorted: &mut [u128], mut visit: impl FnMut(&mut [u128], usize, usize)) {
    let mut start = 0;
    while start < sorted.len() {
        let value = first(sorted[start]);
        let run = sorted[start..].iter().take_while(|&&pair| first(pair) == value).count();
        visit(&mut sorted[start..start + run], start, start + run);
        start += run;
    }
}
