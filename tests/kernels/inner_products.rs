//! inner_products: the case of the bench at random shapes, and with equal rows.

use crate::support::Values;
use crate::support::agreement::{agree, agree_in_two_orders, with};
use crate::support::cases::{check, columns, no_device, seeds};
use proptest::prelude::*;
use scenerank::bench::cases::inner_products::{Strip, strip};

#[test]
fn strips_equal_sums_in_order() {
    let rows = prop_oneof![3 => 1..=80usize, 1 => prop::sample::select(vec![127, 128, 129, 200])];
    let shapes = (rows, columns()).prop_flat_map(|(rows, width)| {
        (Just(rows), Just(width), 0..rows).prop_flat_map(|(rows, width, first)| {
            (Just(rows), Just(width), Just(first), 0..=rows - first, seeds())
        })
    });
    check(40, shapes, |(rows, width, first_row, count, seed)| {
        agree(seed, &strip(Strip { rows, width, first_row, count, seed }));
    });
}

#[test]
fn equal_rows_give_equal_products_wherever_they_lie() {
    if no_device() {
        return;
    }
    let (rows, width) = (130, 37);
    let pattern = Values::new(1).signed(2 * width);
    let case = with(strip(Strip { rows, width, first_row: 0, count: rows, seed: 1 }), move |_, prepared| {
        let row = |row: usize| &pattern[row % 2 * width..][..width];
        prepared.host.inputs = vec![(0..rows).flat_map(row).copied().collect()];
    });
    let products = &agree_in_two_orders(&case)[0];
    for row in 0..rows {
        for column in 0..rows {
            let same = products[row % 2 * rows + column % 2];
            assert_eq!(products[row * rows + column].to_bits(), same.to_bits(), "{row} {column}");
        }
    }
}
