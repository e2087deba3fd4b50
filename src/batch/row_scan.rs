//! Draws from the distribution of a strategy by scanning a whole row of similarities, if rejection would take
//! too long.
//!
//! Sums are in f64 and the draws invert the cumulative weights, so these functions also define each strategy.
//! Rows are indexed by position; `None` means that every weight is zero.

use super::philox::{index_below, unit_f64};

/// Draws a position with probability proportional to its weight.
pub(super) fn weighted(weights: impl Iterator<Item = f64> + Clone, bits: u64) -> Option<usize> {
    let total: f64 = weights.clone().sum();
    let target = unit_f64(bits) * total;
    let mut cumulative = 0.0;
    let mut last_possible = None;
    for (position, weight) in weights.enumerate() {
        if weight > 0.0 {
            cumulative += weight;
            last_possible = Some(position);
            if cumulative > target {
                break;
            }
        }
    }
    // `target` can round up to the total; the last position with a weight is drawn then.
    last_possible
}

/// Draws `(P, N)` uniformly from the pairs with s_P > s_N: P in proportion to the number of smaller
/// similarities, then N uniformly among those.
pub(super) fn random(row: &[f32], positive_bits: u64, negative_bits: u64) -> Option<(usize, usize)> {
    let order = ascending(row);
    let mut pairs_up_to = Vec::with_capacity(row.len());
    let mut smaller = 0;
    let mut pairs = 0;
    for (rank, &position) in order.iter().enumerate() {
        if row[position] > row[order[smaller]] {
            smaller = rank;
        }
        pairs += smaller as u64;
        pairs_up_to.push(pairs);
    }
    if pairs == 0 {
        return None;
    }
    let pair = index_below(positive_bits, pairs);
    let rank = pairs_up_to.partition_point(|&up_to| up_to <= pair);
    let smaller = pairs_up_to[rank] - pairs_up_to[rank - 1];
    Some((order[rank], order[index_below(negative_bits, smaller) as usize]))
}

/// Draws `(P, N)` with weight s_P (1 - s_N) from the pairs with s_N <= s_P and N != P, by sorting and prefix
/// sums.
pub(super) fn reject(row: &[f32], positive_bits: u64, negative_bits: u64) -> Option<(usize, usize)> {
    let order = ascending(row);
    let similarity = |rank: usize| f64::from(row[order[rank]]);
    let mut positive_weights = Vec::with_capacity(row.len());
    let mut group_starts_at = 0;
    let mut dissimilarity = 0.0;
    while group_starts_at < order.len() {
        // Images with equal similarities may be each other's negatives, so a group of them shares one sum.
        let s = similarity(group_starts_at);
        let mut end = group_starts_at;
        while end < order.len() && similarity(end) == s {
            dissimilarity += 1.0 - s;
            end += 1;
        }
        positive_weights.resize(end, s * (dissimilarity - (1.0 - s)));
        group_starts_at = end;
    }
    let positive = weighted(positive_weights.iter().copied(), positive_bits)?;
    let s = similarity(positive);
    let eligible = (0..order.len()).take_while(|&rank| similarity(rank) <= s);
    let negative_weights = eligible.map(|rank| if rank == positive { 0.0 } else { 1.0 - similarity(rank) });
    let negative = weighted(negative_weights, negative_bits)?;
    Some((order[positive], order[negative]))
}

/// Positions sorted by similarity, then by position.
fn ascending(row: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_unstable_by(|&a, &b| row[a].total_cmp(&row[b]).then(a.cmp(&b)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Position in the unit interval, as 64 random bits.
    fn bits(fraction: f64) -> u64 {
        (fraction * 2f64.powi(64)) as u64
    }

    #[test]
    fn weighted_inverts_the_cumulative_weights() {
        let weights = [0.0, 1.0, 0.0, 3.0, 0.0];
        for (fraction, expected) in [(0.0, 1), (0.24, 1), (0.26, 3), (0.999, 3)] {
            assert_eq!(weighted(weights.into_iter(), bits(fraction)), Some(expected));
        }
        assert_eq!(weighted(weights.into_iter(), u64::MAX), Some(3));
        assert_eq!(weighted([0.0; 4].into_iter(), 0), None);
        assert_eq!(weighted(std::iter::empty(), 0), None);
    }

    #[test]
    fn random_enumerates_every_ordered_pair_once() {
        let row = [0.5, 0.1, 0.5, 0.9, 0.1];
        let mut pairs = Vec::new();
        for positive in 0..8 {
            for negative in 0..12 {
                pairs.extend(random(
                    &row,
                    bits((positive as f64 + 0.5) / 8.0),
                    bits((negative as f64 + 0.5) / 12.0),
                ));
            }
        }
        for p in 0..5 {
            for n in 0..5 {
                let seen = pairs.iter().filter(|&&pair| pair == (p, n)).count();
                assert_eq!(seen, if row[p] > row[n] { 12 } else { 0 }, "({p}, {n})");
            }
        }
        assert_eq!(random(&[0.4; 5], 1, 2), None);
    }

    #[test]
    fn reject_has_no_pair_without_weight() {
        assert_eq!(reject(&[0.0; 4], bits(0.3), bits(0.7)), None);
        assert_eq!(reject(&[1.0; 4], bits(0.3), bits(0.7)), None);
        // The only image with 1 - s > 0 is the least similar one: it can only be N.
        assert!(matches!(reject(&[1.0, 0.2, 1.0], bits(0.3), bits(0.7)), Some((0 | 2, 1))));
    }
}
