//! Spearman's rho: Pearson's r of the ranks; tied values share the mean of their ranks.
//!
//! Twice a mean rank is an integer, and so is twice its distance from the mean of all ranks, n + 1:
//! ```text
//! u = 2 rank(x) - (n + 1),  v = 2 rank(y) - (n + 1),  rho = sum u v / sqrt(sum u^2 * sum v^2)
//! ```
//! The three sums are therefore exact, in any order ([`super::rank_correlations`]).

/// rho from the sums of u u, v v and u v; `None` if it is undefined.
pub(super) fn rho_of_sums([sum_uu, sum_vv, sum_uv]: [i128; 3]) -> Option<f64> {
    if sum_uu == 0 || sum_vv == 0 {
        return None;
    }
    let rho = sum_uv as f64 / (sum_uu as f64).sqrt() / (sum_vv as f64).sqrt();
    Some(rho.clamp(-1.0, 1.0))
}
