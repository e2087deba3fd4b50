//! Values to correlate: with ties or without, in order or not.

use proptest::prelude::{Just, Strategy, prop_oneof};

use super::{Values, wide};

/// What the values of a correlation are like.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// All different, of either sign.
    Distinct,
    /// Five values, -0 and 0 among them.
    Few,
    /// One value.
    Constant,
    /// Ascending, all different.
    Sorted,
    /// Descending, each twice.
    Reversed,
}

/// `count` such values.
pub fn draw(values: &mut Values, kind: Kind, count: usize) -> Vec<f64> {
    let values = wide(&values.signed(count)).into_iter();
    match kind {
        // Sums of bits far apart, so that low bits decide too.
        Kind::Distinct => values.enumerate().map(|(i, v)| 1.2 * v + 1e-12 * i as f64).collect(),
        Kind::Few => values.map(|v| (2.4 * v).round() / 2.0 * if v < 0.1 { -1.0 } else { 1.0 }).collect(),
        Kind::Constant => vec![0.3; count],
        Kind::Sorted => (0..count).map(|i| 0.1 * i as f64 - 7.0).collect(),
        Kind::Reversed => (0..count).map(|i| 1.0 - (i / 2) as f64).collect(),
    }
}

/// Any of them.
pub fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Distinct),
        3 => Just(Kind::Few),
        1 => Just(Kind::Constant),
        1 => Just(Kind::Sorted),
        1 => Just(Kind::Reversed)
    ]
}
