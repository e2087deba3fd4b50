//! How two rows from outside are compared: by cosine, which is the paper's similarity, or by inner product as they are.

use clap::ValueEnum;
use rayon::prelude::*;
use serde::Serialize;

/// Comparison of two rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Inner product of the rows divided by their lengths.
    #[default]
    Cosine,
    /// Inner product of the rows as they are: longer rows count more.
    InnerProduct,
}

/// Rows whose length is 1 within this distance are left as they are: rounding of single precision.
const UNIT: f64 = 1e-6;

impl Measure {
    /// Prepares `[rows, width]` values, so that their inner products are this measure: cosines need rows of unit length. A row of
    /// zeros stays one. Lengths are computed in double precision.
    pub fn prepare(self, values: &mut [f32], width: usize) {
        if self == Measure::InnerProduct {
            return;
        }
        values.par_chunks_exact_mut(width).for_each(|row| {
            let length = length(row);
            if length > 0.0 && (length - 1.0).abs() > UNIT {
                row.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
            }
        });
    }

    /// Name in a sentence, in the plural.
    pub fn plural(self) -> &'static str {
        match self {
            Measure::Cosine => "cosines",
            Measure::InnerProduct => "inner products",
        }
    }
}

fn length(row: &[f32]) -> f64 {
    row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_do_not_depend_on_the_lengths() {
        let rows = [[3.0f32, 4.0], [3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0], [0.6, 0.8]];
        let mut values = rows.concat();
        Measure::Cosine.prepare(&mut values, 2);
        let want = [[0.6f32, 0.8], [0.6, 0.8], [0.6, 0.8], [0.0, 0.0], [0.6, 0.8]].concat();
        assert!(values.iter().zip(want).all(|(got, want)| (got - want).abs() <= f32::EPSILON), "{values:?}");
        let mut raw = rows.concat();
        Measure::InnerProduct.prepare(&mut raw, 2);
        assert_eq!(raw, rows.concat());
    }
}
