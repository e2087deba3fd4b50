//! Order-preserving integer keys. The rank correlations only compare values, and integers compare without
//! branches and sort faster than floats.

/// Maps a finite `value` to an integer with the same order; -0 and 0, which are equal, map to the same key.
///
/// Bit patterns of positive floats already ascend with their value. Those of negative floats descend, so
/// their bits are flipped. The sign bit is set on positive ones to place them above.
#[inline]
pub(super) fn key(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    bits ^ (((bits as i64 >> 63) as u64) | 1 << 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ascend_with_their_values() {
        let ascending = [f64::MIN, -2.0, -1.0, -1e-300, 0.0, 1e-300, 0.5, 1.0, f64::MAX];
        assert!(ascending.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        assert_eq!(key(-0.0), key(0.0));
    }
}
