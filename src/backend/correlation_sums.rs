//! Counts and sums for computing the correlations between scores and similarities.

/// Sufficient statistics for the correlations of a row's n pairs (x, y).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CorrelationSums {
    /// Number n of pairs (x, y) in the row.
    pub entries: u64,
    /// Number of concordant minus number of discordant pairs of entries, out of n (n - 1) / 2.
    pub concordant_minus_discordant: i64,
    /// Number of pairs of entries that are equal in x.
    pub tied_x: u64,
    /// Number of pairs of entries that are equal in y.
    pub tied_y: u64,
    /// Sums of u u, v v and u v. u is the number of entries below x minus the number above it; v is the same
    /// for y.
    pub rank_products: [i128; 3],
    /// Sums of dx dx, dy dy and dx dy, where dx and dy are deviations from the means.
    pub deviation_products: [f64; 3],
}
