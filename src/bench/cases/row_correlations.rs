//! row_correlations: a strip of scores and similarities of the test images.

use super::test_images;
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::row_correlations::{COUNTS, MOMENTS, row_correlations};
use crate::backend::cuda::launchers::strips::Strips;
use crate::backend::reference::row_correlations::row_sums;
use crate::bench::case::{Case, Cost, Grows, Host, OtherLengths, Prepared, all, all_mut};
use crate::bench::chain::Chain;
use crate::bench::check::{Output, largest};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

const STRIP_ROWS: usize = 192;
/// Number of rows with distinct values: the reference takes a second for about twenty.
const DIFFERENT_ROWS: usize = 4;

/// Rows of scores and similarities of consecutive images.
#[derive(Clone, Copy, Debug)]
pub struct Strip {
    /// Number of columns, one per image.
    pub columns: usize,
    /// Image of the first row.
    pub first_row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Period after which the values of the rows repeat, except at the row's own image.
    pub different_rows: usize,
    /// Seed of the values.
    pub seed: u64,
}

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    vec![sums(Strip {
        columns: test_images(sizes),
        first_row: 0,
        rows: STRIP_ROWS,
        different_rows: DIFFERENT_ROWS,
        seed: sizes.seed,
    })]
}

/// Counts and moments of each row. The arrays in double precision are scores and similarities.
pub fn sums(Strip { columns, first_row, rows, different_rows, seed }: Strip) -> Case {
    Case {
        kernel: "row_correlations",
        shape: format!("[{rows}, {columns}] scores and similarities"),
        // Reads both; writes counts and sums, all of eight bytes. Each column takes two sums, then two differences,
        // three products and three sums. Comparisons are of integers and do not count.
        cost: Cost::of(2 * rows * (2 * columns + COUNTS + MOMENTS), rows * 10 * (columns - 1)),
        chain: Chain::loads(3),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let mut values = Values::new(seed);
            let mut strip = || {
                let others = columns - 1;
                let patterns = values.signed(different_rows * others);
                let row = |row: usize| {
                    let pattern = &patterns[row % different_rows * others..][..others];
                    let (before, after) = pattern.split_at(first_row + row);
                    [before, &[1.0], after].concat().into_iter().map(f64::from)
                };
                (0..rows).flat_map(row).collect::<Vec<f64>>()
            };
            Prepared {
                host: Host {
                    doubles: vec![strip(), strip()],
                    others: OtherLengths {
                        counts: rows * COUNTS,
                        sums: rows * MOMENTS,
                        ..Default::default()
                    },
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([], [], [], others) = arrays.parts();
                    let (scores, similarities) = (all(&others.doubles[0]), all(&others.doubles[1]));
                    let of = Strips { scores, similarities, columns, first_row };
                    let (counts, sums) = (&mut others.counts, &mut others.wide_sums);
                    row_correlations(device, &mut all_mut(counts), &mut all_mut(sums), of)
                }),
                expected: Box::new(move |host, _| {
                    let strip = |strip: usize| host.doubles[strip].chunks_exact(columns);
                    let few = strip(0).zip(strip(1)).take(different_rows).enumerate();
                    let few: Vec<_> = few
                        .map(|(row, (x, y))| (row_sums(x, y, first_row + row), moment_limits(x, y)))
                        .collect();
                    let all = || (0..rows).map(|row| few[row % different_rows]);
                    let counts = all().flat_map(|(of, _)| {
                        let [uu, vv, uv] = of.rank_products.map(|sum| sum as i64);
                        let (tied_x, tied_y) = (of.tied_x as i64, of.tied_y as i64);
                        [of.concordant_minus_discordant, tied_x, tied_y, uu, vv, uv]
                    });
                    let counts = counts.map(|count| count as f64).collect();
                    let moments = all().flat_map(|(of, _)| of.deviation_products).collect();
                    let limits = all().flat_map(|(_, limits)| limits).collect();
                    let moments = Output { limits, ..Output::exact("moments", moments) };
                    // Without rows there is no output.
                    if rows == 0 { Vec::new() } else { vec![Output::exact("counts", counts), moments] }
                }),
            }
        }),
    }
}

/// Largest error of the three moments of a row. Each of n terms is at most 4 m m, with the largest magnitude m. Its
/// factors have the n roundings of the mean, and the sum has n more.
fn moment_limits(x: &[f64], y: &[f64]) -> [f64; MOMENTS] {
    let (x, y, n) = (largest(x), largest(y).min(1.0), x.len() as f64);
    [x * x, y * y, x * y].map(|scale| 16.0 * (n + 3.0).powi(2) * (f64::EPSILON / 2.0) * scale)
}
