//! row_correlations: a strip of the test images' scores and similarities.

use super::{ROUNDING, SEED, near, test_images};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::row_correlations::{COUNTS, MOMENTS, row_correlations};
use crate::backend::cuda::launchers::strips::Strips;
use crate::backend::reference::row_correlations::row_sums;
use crate::bench::case::{Case, Cost, Host, OtherLengths, Prepared, all, all_mut};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

const STRIP_ROWS: usize = 192;
/// Rows that differ by more than where their own image stands: the reference takes a second for some twenty.
const DIFFERENT_ROWS: usize = 4;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let columns = test_images(sizes);
    vec![Case {
        kernel: "row_correlations",
        shape: format!("[{STRIP_ROWS}, {columns}] scores and similarities"),
        // Reads both, writes counts and sums, all of eight bytes. Floating-point: two sums, then two differences, three
        // products and three sums for each column; comparisons, of integers, do not count as such.
        cost: Cost::of(2 * STRIP_ROWS * (2 * columns + COUNTS + MOMENTS), STRIP_ROWS * 10 * (columns - 1)),
        format: Format::Fp32,
        // That of the comparison, and of sums of thousands of terms in double precision.
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
            let mut strip = || {
                let patterns = values.signed(DIFFERENT_ROWS * (columns - 1));
                let patterns: Vec<&[f32]> = patterns.chunks_exact(columns - 1).collect();
                let row = |row: usize| {
                    let (before, after) = patterns[row % DIFFERENT_ROWS].split_at(row);
                    [before, &[1.0], after].concat().into_iter().map(f64::from)
                };
                (0..STRIP_ROWS).flat_map(row).collect::<Vec<f64>>()
            };
            Prepared {
                host: Host {
                    doubles: vec![strip(), strip()],
                    others: OtherLengths {
                        counts: STRIP_ROWS * COUNTS,
                        sums: STRIP_ROWS * MOMENTS,
                        ..Default::default()
                    },
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([], [], [], others) = arrays.parts();
                    let (scores, similarities) = (all(&others.doubles[0]), all(&others.doubles[1]));
                    let of = Strips { scores, similarities, columns, first_row: 0 };
                    let (counts, sums) = (&mut others.counts, &mut others.wide_sums);
                    row_correlations(device, &mut all_mut(counts), &mut all_mut(sums), of)
                }),
                expected: near(1.001 * ROUNDING, move |host| {
                    let rows = |strip: usize| host.doubles[strip].chunks_exact(columns);
                    let few = rows(0).zip(rows(1)).take(DIFFERENT_ROWS).enumerate();
                    let few: Vec<_> = few.map(|(row, (x, y))| row_sums(x, y, row)).collect();
                    let all = || (0..STRIP_ROWS).map(|row| few[row % DIFFERENT_ROWS]);
                    let counts = all().flat_map(|of| {
                        let [uu, vv, uv] = of.rank_products.map(|sum| sum as i64);
                        let (tied_x, tied_y) = (of.tied_x as i64, of.tied_y as i64);
                        [of.concordant_minus_discordant, tied_x, tied_y, uu, vv, uv]
                    });
                    let counts = counts.map(|count| count as f64).collect();
                    vec![counts, all().flat_map(|of| of.deviation_products).collect()]
                }),
            }
        }),
    }]
}
