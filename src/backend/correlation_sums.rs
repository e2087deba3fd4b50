//! What the correlations of scores with similarities follow from.

/// Of n pairs (x, y): those of a row, or of all images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CorrelationSums {
    /// n.
    pub entries: u64,
    /// Of the n (n - 1) / 2 pairs of entries, those of one order in x and y, less those of opposite orders.
    pub concordant_minus_discordant: i64,
    /// Pairs of entries that are equal in x.
    pub tied_x: u64,
    /// Pairs of entries that are equal in y.
    pub tied_y: u64,
    /// Sums of u u, v v and u v, where u is the number of entries below x less that of those above it, v the same of y.
    pub rank_products: [i128; 3],
    /// Sums of dx dx, dy dy and dx dy of the deviations from the means.
    pub deviation_products: [f64; 3],
}
