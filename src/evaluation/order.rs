//! Order-preserving integer keys. The rank correlations only compare values, and integers compare without
//! branches, sort faster than floats, and pack in pairs.

/// Maps a finite `value` to an integer with the same order; -0 and 0, which are equal, map to the same key.
///
/// Bit patterns of positive floats already ascend with their value. Those of negative floats descend, so
/// their bits are flipped. The sign bit is set on positive ones to place them above.
#[inline]
fn key(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    bits ^ (((bits as i64 >> 63) as u64) | 1 << 63)
}

/// Packs two values so that the packed integers ascend by `first`, then by `second`.
#[inline]
pub(super) fn pack(first: f64, second: f64) -> u128 {
    (u128::from(key(first)) << 64) | u128::from(key(second))
}

/// The first half of a packed pair.
#[inline]
pub(super) fn first(pair: u128) -> u64 {
    (pair >> 64) as u64
}

/// The second half of a packed pair.
#[inline]
pub(super) fn second(pair: u128) -> u64 {
    pair as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ascend_with_their_values() {
        let ascending = [f64::MIN, -2.0, -1.0, -1e-300, 0.0, 1e-300, 0.5, 1.0, f64::MAX];
        assert!(ascending.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        assert_eq!(key(-0.0), key(0.0));
        assert_eq!((first(pack(0.5, -2.0)), second(pack(0.5, -2.0))), (key(0.5), key(-2.0)));
    }
}
