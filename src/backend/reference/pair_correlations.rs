//! pair_correlations: what the rank correlations of many pairs follow from, by two sorts.

/// What a round counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Pairs of entries in the wrong order.
    pub inversions: u64,
    /// Pairs of entries with equal first halves.
    pub tied: u64,
    /// Pairs of equal entries.
    pub tied_both: u64,
}

/// Sorts `pairs`, and turns each (a, b) into (b, rank of a): the number of entries below a, plus that of those up to it.
pub fn round(pairs: &mut Vec<(i64, i64)>) -> Round {
    let inversions = sort(pairs);
    let choose_two = |run: &[(i64, i64)]| (run.len() as u64) * (run.len() as u64 - 1) / 2;
    let tied_both = pairs.chunk_by(|a, b| a == b).map(choose_two).sum();
    let (mut tied, mut ranked) = (0, Vec::with_capacity(pairs.len()));
    for run in pairs.chunk_by(|a, b| a.0 == b.0) {
        tied += choose_two(run);
        let rank = (2 * ranked.len() + run.len()) as i64;
        ranked.extend(run.iter().map(|&(_, second)| (second, rank)));
    }
    *pairs = ranked;
    Round { inversions, tied, tied_both }
}

/// Sorts and gives the number of inversions: whenever an entry of the right half goes first, those that are left of the
/// left half.
fn sort(values: &mut [(i64, i64)]) -> u64 {
    if values.len() < 2 {
        return 0;
    }
    let (left, right) = values.split_at_mut(values.len() / 2);
    let mut inversions = sort(left) + sort(right);
    let (mut i, mut j, mut merged) = (0, 0, Vec::with_capacity(left.len() + right.len()));
    while i < left.len() && j < right.len() {
        if right[j] < left[i] {
            inversions += (left.len() - i) as u64;
            merged.push(right[j]);
            j += 1;
        } else {
            merged.push(left[i]);
            i += 1;
        }
    }
    merged.extend_from_slice(&left[i..]);
    merged.extend_from_slice(&right[j..]);
    values.copy_from_slice(&merged);
    inversions
}

/// Sums of u u, v v and u v over pairs of ranks of n entries, where u and v are the ranks less n.
pub fn rank_products(ranks: &[(i64, i64)]) -> [i128; 3] {
    let n = ranks.len() as i128;
    ranks.iter().fold([0; 3], |[uu, vv, uv], &(x, y)| {
        let (u, v) = (i128::from(x) - n, i128::from(y) - n);
        [uu + u * u, vv + v * v, uv + u * v]
    })
}

/// A finite number's key: an integer of the same order.
pub fn key(value: f64) -> i64 {
    let bits = (value + 0.0).to_bits() as i64;
    if bits < 0 { bits ^ i64::MAX } else { bits }
}
