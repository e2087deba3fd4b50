//! Counts and sums from which the correlations of scores with similarities follow.

/// What the correlations of the n pairs (x, y) of a row follow from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CorrelationSums {
    /// n.
    pub entries: u64,
    /// Number of pairs of entries, out of n (n - 1) / 2, whose order in x and in y agrees, less those whose orders differ.
    pub concordant_minus_discordant: i64,
    /// Number of pairs of entries that are equal in x.
    pub tied_x: u64,
    /// Number of pairs of entries that are equal in y.
    pub tied_y: u64,
    /// Sums of u u, v v and u v: u is the number of entries below x less the number above it; v is the same for y.
    pub rank_products: [i128; 3],
    /// Sums of dx dx, dy dy and dx dy of the deviations from the means.
    pub deviation_products: [f64; 3],
}
