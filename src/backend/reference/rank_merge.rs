//! rank_merge: batch norm over the rows of all ranks, from what each rank has computed over its own rows.

use num_traits::Float;

use crate::backend::NORM_EPSILON;

/// Two values of a column over the rows of a rank, and the number of these rows.
pub type Part<F> = (usize, [F; 2]);

/// Mean of a column over the rows of all ranks, and sum of squared deviations from it, given mean and rstd of each rank.
/// Returns the number of rows too.
pub fn merged_statistics<F: Float>(parts: &[Part<F>]) -> (usize, [F; 2]) {
    let number = |value: f64| F::from(value).expect("a float");
    let rows: usize = parts.iter().map(|&(rows, _)| rows).sum();
    let sum = |term: &dyn Fn(F, [F; 2]) -> F| {
        parts.iter().fold(F::zero(), |sum, &(rows, part)| sum + term(number(rows as f64), part))
    };
    let mean = sum(&|rows, [mean, _]| rows * mean) / number(rows.max(1) as f64);
    let deviation = sum(&|rows, [of_rank, rstd]| {
        let variance = F::one() / (rstd * rstd) - number(NORM_EPSILON);
        rows * (variance.max(F::zero()) + (of_rank - mean) * (of_rank - mean))
    });
    (rows, [mean, deviation])
}

/// Constant and slope that the backward subtracts, `d_z = scale d - constant - slope z`, given d_weight and d_bias over the rows
/// of each rank that has any, and mean, rstd and scale of the column.
pub fn merged_terms<F: Float>(parts: &[Part<F>], [mean, rstd, scale]: [F; 3]) -> [F; 2] {
    let rows: usize = parts.iter().map(|&(rows, _)| rows).sum();
    let rows = F::from(rows.max(1)).expect("a float");
    let with_rows = parts.iter().filter(|(rows, _)| *rows > 0);
    let [d_weight, d_bias] =
        with_rows.fold([F::zero(); 2], |[a, b], &(_, [of_weight, of_bias])| [a + of_weight, b + of_bias]);
    let slope = scale * rstd * d_weight / rows;
    [scale * d_bias / rows - slope * mean, slope]
}
