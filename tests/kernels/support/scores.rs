//! Values to correlate, with or without ties, in order or not.

use proptest::prelude::{Just, Strategy, prop_oneof};

use super::{Values, wide};

/// Kind of values to correlate.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Distinct values of either sign.
    Distinct,
    /// Five distinct values, including -0 and 0.
    Few,
    /// The same value everywhere.
    Constant,
    /// Distinct values in ascending order.
    Sorted,
    /// Values in descending order, each twice.
    Reversed,
}

/// Draws `count` values of this kind.
pub fn draw(values: &mut Values, kind: Kind, count: usize) -> Vec<f64> {
    let values = wide(&values.signed(count)).into_iter();
    match kind {
        // Sums of distant bits, so that low bits also decide.
        Kind::Distinct => values.enumerate().map(|(i, v)| 1.2 * v + 1e-12 * i as f64).collect(),
        Kind::Few => values.map(|v| (2.4 * v).round() / 2.0 * if v < 0.1 { -1.0 } else { 1.0 }).collect(),
        Kind::Constant => vec![0.3; count],
        Kind::Sorted => (0..count).map(|i| 0.1 * i as f64 - 7.0).collect(),
        Kind::Reversed => (0..count).map(|i| 1.0 - (i / 2) as f64).collect(),
    }
}

/// Any kind of values.
pub fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Distinct),
        3 => Just(Kind::Few),
        1 => Just(Kind::Constant),
        1 => Just(Kind::Sorted),
        1 => Just(Kind::Reversed)
    ]
}
