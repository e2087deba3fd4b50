//! row_correlations: counts and sums for the correlations of a row; compares every pair of entries.

use crate::backend::correlation_sums::CorrelationSums;

/// Counts and sums of row `diagonal` of the scores and similarities, without its entry with itself.
pub fn row_sums(scores: &[f64], similarities: &[f64], diagonal: usize) -> CorrelationSums {
    let pairs: Vec<(f64, f64)> = scores
        .iter()
        .zip(similarities)
        .enumerate()
        .filter(|&(column, _)| column != diagonal)
        .map(|(_, (&x, &y))| (x, y.clamp(0.0, 1.0)))
        .collect();
    correlation_sums(&pairs)
}

/// Counts and sums of the pairs (x, y).
fn correlation_sums(pairs: &[(f64, f64)]) -> CorrelationSums {
    let n = pairs.len();
    let mut of = CorrelationSums {
        entries: n as u64,
        concordant_minus_discordant: 0,
        tied_x: 0,
        tied_y: 0,
        rank_products: [0; 3],
        deviation_products: [0.0; 3],
    };
    for (i, a) in pairs.iter().enumerate() {
        for b in &pairs[..i] {
            of.concordant_minus_discordant += order(a.0, b.0) * order(a.1, b.1);
            of.tied_x += u64::from(a.0 == b.0);
            of.tied_y += u64::from(a.1 == b.1);
        }
        let u: i64 = pairs.iter().map(|b| order(a.0, b.0)).sum();
        let v: i64 = pairs.iter().map(|b| order(a.1, b.1)).sum();
        of.rank_products = add(of.rank_products, [u * u, v * v, u * v].map(i128::from));
    }
    let mean_x = pairs.iter().map(|pair| pair.0).sum::<f64>() / n as f64;
    let mean_y = pairs.iter().map(|pair| pair.1).sum::<f64>() / n as f64;
    for &(x, y) in pairs {
        let (dx, dy) = (x - mean_x, y - mean_y);
        of.deviation_products = add(of.deviation_products, [dx * dx, dy * dy, dx * dy]);
    }
    of
}

/// 1 if a is greater, -1 if b is greater, 0 if they are equal.
fn order(a: f64, b: f64) -> i64 {
    i64::from(a > b) - i64::from(a < b)
}

fn add<T: std::ops::Add<Output = T> + Copy>(sums: [T; 3], terms: [T; 3]) -> [T; 3] {
    std::array::from_fn(|i| sums[i] + terms[i])
}
