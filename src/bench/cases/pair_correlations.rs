//! pair_correlations: all pairs of the test images, and the keys of a strip of them.

use super::{ROUNDING, test_images};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::pair_correlations::{
    COUNTS, KEYS, MOMENTS, TILE, pair_correlations, pair_count, pair_keys, summing_blocks,
};
use crate::backend::cuda::launchers::strips::Strips;
use crate::backend::reference::pair_correlations::{key, round};
use crate::bench::case::{Case, Cost, Host, OtherLengths, Prepared, all, all_mut};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

const STRIP_ROWS: usize = 192;
/// Threads of a block that sums.
const THREADS: usize = 256;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let columns = test_images(sizes);
    vec![keys(columns), correlations(columns)]
}

/// `[rows, columns]` of either matrix. Similarities lie within 0..1 and have ties, at the ends.
fn strips(rows: usize, columns: usize) -> Vec<Vec<f64>> {
    let mut values = Values::new();
    let mut strip = |scale: f32| -> Vec<f64> {
        values.signed(rows * columns).into_iter().map(|value| f64::from(scale * value)).collect()
    };
    let (scores, similarities) = (strip(1.0), strip(2.0));
    vec![scores, similarities.into_iter().map(|similarity| similarity.clamp(0.0, 1.0)).collect()]
}

fn keys(columns: usize) -> Case {
    // In the middle, where rows are of mean length.
    let first_row = columns / 2 - STRIP_ROWS / 2;
    let earlier = pair_count(columns) - pair_count(columns - first_row);
    let pairs = pair_count(columns - first_row) - pair_count(columns - first_row - STRIP_ROWS);
    Case {
        kernel: "pair_keys",
        shape: format!("[{STRIP_ROWS}, {columns}] scores and similarities from {first_row}"),
        // Reads what lies above the diagonal, and writes as many keys, all of eight bytes.
        cost: Cost::of(2 * 2 * KEYS * pairs, 0),
        format: Format::Fp32,
        // That of the comparison.
        tolerance: ROUNDING,
        prepare: Box::new(move || Prepared {
            host: Host {
                doubles: strips(STRIP_ROWS, columns),
                others: OtherLengths { counts: KEYS * pair_count(columns), ..Default::default() },
                ..Default::default()
            },
            launch: Box::new(move |device, arrays| {
                let ([], [], [], others) = arrays.parts();
                let (scores, similarities) = (all(&others.doubles[0]), all(&others.doubles[1]));
                let of = Strips { scores, similarities, columns, first_row };
                pair_keys(device, &mut all_mut(&mut others.counts), of)
            }),
            expected: Box::new(move |host| {
                let mut keys = vec![i64::MIN as f64; KEYS * pair_count(columns)];
                let entries = (0..STRIP_ROWS)
                    .flat_map(|row| (first_row + row + 1..columns).map(move |column| row * columns + column));
                let of_strip = entries.flat_map(|entry| [host.doubles[0][entry], host.doubles[1][entry]]);
                for (to, value) in keys[KEYS * earlier..].iter_mut().zip(of_strip) {
                    *to = key(value) as f64;
                }
                vec![keys]
            }),
        }),
    }
}

fn correlations(columns: usize) -> Case {
    let pairs = pair_count(columns);
    let merges = pairs.div_ceil(TILE).next_power_of_two().ilog2() as usize;
    // Times that all keys are read or written: written as they are made of as many values; read for sums and deviations; in
    // either round read and written by the tiles, by each merge, and for the ranks; read for the products.
    let passes = 2 + 2 + 2 * 2 * (1 + merges + 1) + 1;
    Case {
        kernel: "pair_correlations",
        shape: format!("[{columns}, {columns}], {pairs} pairs, {merges} merges twice"),
        // Keys are of eight bytes. Two sums, then two differences, three products and three sums for each pair; comparisons,
        // of integers, do not count as floating-point.
        cost: Cost::of(2 * KEYS * pairs * passes, 10 * pairs),
        format: Format::Fp32,
        // That of the comparison, and of sums in double precision.
        tolerance: 1.001 * ROUNDING,
        prepare: Box::new(move || Prepared {
            host: Host {
                doubles: strips(columns, columns),
                others: OtherLengths {
                    pairs: 2 * KEYS * pairs,
                    counts: COUNTS,
                    sums: MOMENTS * summing_blocks(pairs),
                    ..Default::default()
                },
                ..Default::default()
            },
            launch: Box::new(move |device, arrays| {
                let ([], [], [], others) = arrays.parts();
                let (scores, similarities) = (all(&others.doubles[0]), all(&others.doubles[1]));
                let of = Strips { scores, similarities, columns, first_row: 0 };
                // Sorting leaves ranks, so keys are made each time.
                let len = KEYS * pairs;
                let [mut keys, scratch] = others.pairs.slices_mut([0..len, len..2 * len]);
                pair_keys(device, &mut keys, of)?;
                let (counts, sums) = (&mut others.counts, &mut others.wide_sums);
                pair_correlations(device, &mut all_mut(counts), &mut all_mut(sums), keys, scratch)
            }),
            expected: Box::new(move |host| {
                let values: Vec<[f64; KEYS]> = (0..columns)
                    .flat_map(|row| (row + 1..columns).map(move |column| row * columns + column))
                    .map(|entry| [host.doubles[0][entry], host.doubles[1][entry]])
                    .collect();
                vec![counts(&values), moments(&values)]
            }),
        }),
    }
}

/// As the kernels count: of either round, and the halves of the sums of products of ranks.
fn counts(values: &[[f64; KEYS]]) -> Vec<f64> {
    let mut pairs: Vec<(i64, i64)> = values.iter().map(|&[x, y]| (key(x), key(y))).collect();
    let rounds = [round(&mut pairs), round(&mut pairs)];
    let of_rounds = rounds.iter().flat_map(|by| [by.inversions, by.tied, by.tied_both]);
    let mut halves = [0i64; 6];
    for &(x, y) in &pairs {
        let (u, v) = (x - pairs.len() as i64, y - pairs.len() as i64);
        for (halves, product) in halves.chunks_exact_mut(2).zip([u * u, v * v, u * v]) {
            halves[0] += product >> 32;
            halves[1] += product & 0xffff_ffff;
        }
    }
    of_rounds.map(|count| count as f64).chain(halves.map(|half| half as f64)).collect()
}

/// The sums of each block, whose threads take pairs in turns.
fn moments(values: &[[f64; KEYS]]) -> Vec<f64> {
    let blocks = summing_blocks(values.len());
    let sum = |which: usize| values.iter().map(|pair| pair[which]).sum::<f64>();
    let [mean_x, mean_y] = [sum(0), sum(1)].map(|sum| sum / values.len() as f64);
    let mut moments = vec![0.0; MOMENTS * blocks];
    for (turn, values) in values.chunks(THREADS).enumerate() {
        let of_block = &mut moments[turn % blocks * MOMENTS..][..MOMENTS];
        for &[x, y] in values {
            let (dx, dy) = (x - mean_x, y - mean_y);
            for (sum, term) in of_block.iter_mut().zip([x, y, dx * dx, dy * dy, dx * dy]) {
                *sum += term;
            }
        }
    }
    moments
}
