//! linear_warpgroup: products by the instructions of a warpgroup, at sizes that reach every tile and at random ones.

use crate::support::agreement::{agree_in_orders, agree_once, assert_same_bits, outputs_once};
use crate::support::cases::{OF_WARPGROUPS, check, rows, runs_on_device, seeds};
use crate::support::devices;
use scenerank::backend::cuda::launchers::linear::Format;
use scenerank::bench::case::Case;
use scenerank::bench::cases::linear::backward::{BackwardProduct, backward};
use scenerank::bench::cases::linear::forward::{Ends, ForwardProduct, Types, forward, forward_two};
use scenerank::bench::cases::linear::states::{self, States};
use scenerank::bench::cases::linear::unit::{self, UnitProduct};
use scenerank::bench::cases::linear::{Launches, Product, X};

/// Rows for which a grid has larger tiles.
pub const MANY_ROWS: usize = 9_216;

pub fn product(format: Format, [rows, inputs, outputs]: [usize; 3], seed: u64) -> Product {
    Product { what: "test", rows, inputs, outputs, format, seed }
}

/// The formats that the tests' device runs.
fn formats() -> impl Iterator<Item = Format> {
    OF_WARPGROUPS.into_iter().filter(|&format| runs_on_device(format))
}

/// All launchers at these sizes.
pub fn all(of: Product) -> Vec<Case> {
    let ends =
        || Ends { of: [0, 1].map(|by| (0..of.rows as u32).map(|i| (i * 5 + by) % 9).collect()), nodes: 9 };
    let forwards =
        [(false, false), (true, false), (false, true), (true, true)].map(|(activated, gathers)| {
            let ends = gathers.then(ends);
            forward(ForwardProduct { activated, with_statistics: true, ends, ..ForwardProduct::plain(of) })
        });
    let backwards = [X::Values, X::Activated, X::ActivatedWithSums]
        .map(|x| backward(BackwardProduct { product: of, x, part: of.whole() }));
    // The weight of these has two parts.
    let even = Product { outputs: of.outputs.next_multiple_of(2), ..of };
    let unit = UnitProduct { product: even, with_rows: true };
    let edges = Product { rows: of.rows + 3, outputs: even.outputs / 2, ..of };
    let types = Types {
        rows: [of.rows, 7],
        room: [0; 2],
        inputs: of.inputs,
        hidden: even.outputs / 2,
        format: of.format,
        seed: of.seed,
    };
    let others = [
        unit::forward(unit),
        unit::backward(unit),
        states::backward(States { nodes: even, edges }, Launches::One),
        forward_two(types, Launches::One),
    ];
    forwards.into_iter().chain(backwards).chain(others).collect()
}

#[test]
fn every_tile_agrees_with_the_reference() {
    // One stage of inner steps, fewer than the ring has, and more. Columns below, at and above a tile.
    let sizes = [[70, 21, 152], [129, 153, 224], [64, 330, 257], [130, 300, 300]];
    for format in formats() {
        for (seed, sizes) in (0..).zip(sizes) {
            for spare in [0, MANY_ROWS] {
                all(product(format, sizes, seed)).iter().for_each(|case| agree_once(case, spare));
            }
        }
        agree_in_orders(&[5, 6], &all(product(format, [130, 70, 160], 5))[6]);
    }
}

/// The same rows in grids for few and for many: in tiles of 64 and of 128 rows.
#[test]
fn the_tile_that_a_bound_chooses_changes_no_bit() {
    for device in devices().iter().take(1) {
        // Two parts of a weight's gradient, and three; chunks of rows in part.
        for (format, sizes) in
            formats().flat_map(|format| [[201, 70, 137], [777, 21, 33]].map(|of| (format, of)))
        {
            for case in all(product(format, sizes, 3)) {
                let [small, large] = [0, MANY_ROWS].map(|spare| outputs_once(device, &case, spare).0);
                for (small, large) in small.iter().zip(&large) {
                    assert_same_bits(case.kernel, small, large);
                }
            }
        }
    }
}

#[test]
fn products_of_any_sizes_agree_with_the_reference() {
    for format in formats() {
        check(3, (rows(), 1..=200usize, 1..=330usize, seeds()), |(rows, inputs, outputs, seed)| {
            all(product(format, [rows, inputs, outputs], seed)).iter().for_each(|case| {
                agree_in_orders(&[seed], case);
            });
        });
        // No rows: the sums of a norm, and gradients of 0.
        all(product(format, [0, 9, 17], 1)).iter().for_each(|case| agree_once(case, 70));
    }
}

#[test]
fn sums_of_many_rows_agree_with_the_reference() {
    for format in formats() {
        // Rows for two groups of the column sums, and for several parts of a weight's gradient.
        let of = product(format, [2171, 21, 30], 7);
        for spare in [300, MANY_ROWS] {
            agree_once(&forward(ForwardProduct::activated(of)), spare);
            let x = X::ActivatedWithSums;
            agree_once(&backward(BackwardProduct { product: of, x, part: of.whole() }), spare);
        }
    }
}
