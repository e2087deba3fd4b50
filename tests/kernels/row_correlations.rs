//! row_correlations: the case of the bench with random values and ties, and rows with known counts.

use crate::support::Values;
use crate::support::agreement::{agree, agree_in_two_orders, with};
use crate::support::cases::{check, no_device, seeds};
use crate::support::scores::{Kind, draw, kind};
use proptest::prelude::*;
use scenerank::backend::cuda::launchers::row_correlations::{COUNTS, MOMENTS};
use scenerank::bench::case::Case;
use scenerank::bench::cases::row_correlations::{Strip, sums};

/// Rows of scores and similarities.
fn of(scores: Vec<f64>, similarities: Vec<f64>, columns: usize, first_row: usize) -> Case {
    let rows = scores.len() / columns;
    let strip = Strip { columns, first_row, rows, different_rows: rows.max(1), seed: 0 };
    with(sums(strip), move |_, prepared| {
        prepared.host.doubles = vec![scores.clone(), similarities.clone()];
    })
}

#[test]
fn counts_are_the_references_and_sums_within_rounding() {
    // Also sizes around the number of threads of a block.
    let columns = prop_oneof![4 => 1..=70usize, 1 => prop::sample::select(vec![256, 257, 258, 300])];
    let shapes = columns
        .prop_flat_map(|columns| (Just(columns), 0..columns))
        .prop_flat_map(|(columns, first)| (Just(columns), Just(first), 0..=(columns - first).min(5)));
    check(60, (shapes, kind(), kind(), seeds()), |((columns, first, rows), of_x, of_y, seed)| {
        let mut values = Values::new(seed);
        let [x, y] = [of_x, of_y].map(|kind| draw(&mut values, kind, rows * columns));
        agree(seed, &of(x, y, columns, first));
    });
}

/// More entries than a block and a tile hold, which is 1,024 each.
#[test]
fn long_rows_pass_in_tiles() {
    if no_device() {
        return;
    }
    for columns in [1024, 1025, 1026, 2300] {
        let mut values = Values::new(columns as u64);
        let [x, y] = [Kind::Distinct, Kind::Few].map(|kind| draw(&mut values, kind, columns));
        agree_in_two_orders(&of(x, y, columns, columns / 2));
    }
}

/// Counts and moments of one row.
fn known(scores: &[f64], similarities: &[f64], image: usize) -> [Vec<f64>; 2] {
    let case = of(scores.to_vec(), similarities.to_vec(), scores.len(), image);
    agree_in_two_orders(&case).try_into().expect("as many outputs")
}

#[test]
fn known_rows() {
    if no_device() {
        return;
    }
    // The row of the middle image, whose own entries, NaN here, are not read. Ranks are 1 2 3 against 1 3 2.
    let [counts, moments] = known(&[0.1, 0.2, f64::NAN, 0.3], &[0.25, 0.75, f64::NAN, 0.5], 2);
    assert_eq!(counts, [1.0, 0.0, 0.0, 8.0, 8.0, 4.0]);
    for (got, want) in moments.iter().zip([0.02, 0.125, 0.025]) {
        assert!((got - want).abs() < 1e-15, "{moments:?}");
    }
    // Similarities below 0 tie, as do those above 1; -0 ties with 0.
    let [counts, _] = known(&[9.0, -0.0, 0.0, 5.0, 7.0], &[9.0, -3.0, 0.0, 1.0, 1.5], 0);
    assert_eq!(counts, [4.0, 1.0, 2.0, 18.0, 16.0, 16.0]);
    // Rows with one other image, and with none.
    assert_eq!(known(&[1.0, 2.0], &[1.0, 0.5], 0), [vec![0.0; COUNTS], vec![0.0; MOMENTS]]);
    assert_eq!(known(&[1.0], &[1.0], 0)[0], [0.0; COUNTS]);
    assert!(agree_in_two_orders(&of(Vec::new(), Vec::new(), 3, 0)).is_empty());
}
