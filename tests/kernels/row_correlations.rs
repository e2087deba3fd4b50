//! row_correlations: the kernel's counts are the reference's, its sums within rounding.

use crate::support::cases::{check, seeds};
use crate::support::scores::{Kind, draw, kind};
use crate::support::{Values, all, devices, same_bits, to_device};
use proptest::prelude::*;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::row_correlations::{COUNTS, MOMENTS, row_correlations};
use scenerank::backend::cuda::launchers::strips::Strips;
use scenerank::backend::reference::row_correlations::row_sums;

/// Counts and moments of each row of the strips.
fn sums(
    device: &Device,
    scores: &[f64],
    similarities: &[f64],
    columns: usize,
    first_row: usize,
) -> (Vec<i64>, Vec<f64>) {
    let rows = scores.len() / columns;
    let (scores, similarities) = (to_device(device, scores), to_device(device, similarities));
    let mut counts = to_device(device, &vec![i64::MIN; rows * COUNTS]);
    let mut moments = to_device(device, &vec![f64::NAN; rows * MOMENTS]);
    let of = Strips { scores: all(&scores), similarities: all(&similarities), columns, first_row };
    let (to, sums_to) = (&mut counts.slice_mut(0..rows * COUNTS), &mut moments.slice_mut(0..rows * MOMENTS));
    row_correlations(device, to, sums_to, of).expect("a launch");
    let counts = device.download(&counts, 0..rows * COUNTS).expect("a download");
    (counts, device.download(&moments, 0..rows * MOMENTS).expect("a download"))
}

/// Compares with the reference.
fn compare(
    scores: &[f64],
    similarities: &[f64],
    columns: usize,
    first_row: usize,
    got: &(Vec<i64>, Vec<f64>),
) {
    let rows = scores.chunks_exact(columns).zip(similarities.chunks_exact(columns)).enumerate();
    for (row, (x, y)) in rows {
        let want = row_sums(x, y, first_row + row);
        let counts = [
            want.concordant_minus_discordant,
            want.tied_x as i64,
            want.tied_y as i64,
            want.rank_products[0] as i64,
            want.rank_products[1] as i64,
            want.rank_products[2] as i64,
        ];
        assert_eq!(got.0[row * COUNTS..][..COUNTS], counts, "row {row} of {columns} columns");
        // Each of n terms is at most 4 m m of the largest magnitudes m, its factors off by the mean's n roundings, and
        // the sum has n more.
        let largest = |values: &[f64]| values.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        let (mx, my, n) = (largest(x), largest(y).min(1.0), (columns - 1) as f64);
        for (moment, scale) in [mx * mx, my * my, mx * my].into_iter().enumerate() {
            let (got, want) = (got.1[row * MOMENTS + moment], want.deviation_products[moment]);
            let limit = 16.0 * (n + 4.0).powi(2) * (f64::EPSILON / 2.0) * scale;
            let off = (got - want).abs();
            assert!(
                off <= limit,
                "row {row}, moment {moment}: {got}, not {want}: off by {off:e} > {limit:e}"
            );
        }
    }
}

#[test]
fn counts_are_the_references_and_sums_within_rounding() {
    // Around the threads of a block too.
    let columns = prop_oneof![4 => 1..=70usize, 1 => prop::sample::select(vec![256, 257, 258, 300])];
    let shapes = columns
        .prop_flat_map(|columns| (Just(columns), 0..columns))
        .prop_flat_map(|(columns, first)| (Just(columns), Just(first), 0..=(columns - first).min(5)));
    check(60, (shapes, kind(), kind(), seeds()), |((columns, first, rows), of_x, of_y, seed)| {
        let mut values = Values::new(seed);
        let (x, y) = (draw(&mut values, of_x, rows * columns), draw(&mut values, of_y, rows * columns));
        let [counts, moments] = same_bits(seed, |device, _| {
            let (counts, moments) = sums(device, &x, &y, columns, first);
            [bytemuck::pod_collect_to_vec(&counts), bytemuck::pod_collect_to_vec(&moments)]
        });
        let got = (bytemuck::pod_collect_to_vec(&counts), bytemuck::pod_collect_to_vec(&moments));
        compare(&x, &y, columns, first, &got);
    });
}

/// More entries than a block holds, and than a tile: 1,024 of either.
#[test]
fn long_rows_pass_in_tiles() {
    for device in devices() {
        for columns in [1024, 1025, 1026, 2300] {
            let mut values = Values::new(columns as u64);
            let x = draw(&mut values, Kind::Distinct, columns);
            let y = draw(&mut values, Kind::Few, columns);
            compare(&x, &y, columns, columns / 2, &sums(&device, &x, &y, columns, columns / 2));
        }
    }
}

#[test]
fn known_rows() {
    for device in devices() {
        // Of the middle image; its own entries, NaN here, are not read. Ranks 1 2 3 against 1 3 2.
        let (x, y) = ([0.1, 0.2, f64::NAN, 0.3], [0.25, 0.75, f64::NAN, 0.5]);
        let (counts, moments) = sums(&device, &x, &y, 4, 2);
        assert_eq!(counts, [1, 0, 0, 8, 8, 4]);
        for (got, want) in moments.iter().zip([0.02, 0.125, 0.025]) {
            assert!((got - want).abs() < 1e-15, "{moments:?}");
        }
        // Below 0 and above 1 similarities tie; -0 ties with 0.
        let (x, y) = ([9.0, -0.0, 0.0, 5.0, 7.0], [9.0, -3.0, 0.0, 1.0, 1.5]);
        assert_eq!(sums(&device, &x, &y, 5, 0).0, [4, 1, 2, 18, 16, 16]);
        // One other image, and none.
        assert_eq!(sums(&device, &[1.0, 2.0], &[1.0, 0.5], 2, 0), (vec![0; COUNTS], vec![0.0; MOMENTS]));
        assert_eq!(sums(&device, &[1.0], &[1.0], 1, 0).0, [0; COUNTS]);
        assert_eq!(sums(&device, &[], &[], 3, 0), (vec![], vec![]));
    }
}
