//! embedding: rows copied to and from a table.

mod kernel_support;

use half::bf16;
use kernel_support::calculus::{central_differences, weighted_sum};
use kernel_support::cases::{check, columns, seeds};
use kernel_support::stored::{rounded, stored, stored_to_host, unwritten};
use kernel_support::{
    Counted, Values, all, all_mut, assert_within, indices_with_room, poisoned, same_bits, to_device, to_host,
    wide,
};
use proptest::prelude::*;
use proptest::sample::subsequence;
use scenerank::backend::cuda::embedding::{embedding_backward, embedding_forward};
use scenerank::backend::cuda::stored::StoredElement;
use scenerank::backend::reference::edge_gather as reference;

/// A table's rows, and the types that occur, ascending.
fn occurring(rows: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = (usize, Vec<u32>)> {
    rows.prop_flat_map(|rows| {
        let types: Vec<u32> = (0..rows as u32).collect();
        (Just(rows), subsequence(types, 0..=rows))
    })
}

/// The table, the rows' gradient, the gathered rows, and the gradient of the table.
fn kernels<T: StoredElement>(rows: usize, types: &[u32], width: usize, seed: u64) -> [Vec<f32>; 4] {
    let mut values = Values::new(seed);
    let (table, d_rows) = (values.signed(rows * width), rounded::<T>(values.signed(types.len() * width)));
    let count = types.len();
    let [gathered, d_table] = same_bits(seed, |device, spare| {
        let counted = Counted::new(device, count, spare);
        let types = indices_with_room(device, types, spare);
        let mut gathered = unwritten::<T>(device, count + spare, width);
        let mut d_table = poisoned(device, table.len());
        let (table, d_rows) = (to_device(device, &table), stored::<T>(device, &d_rows, width, spare));
        let to = &mut all_mut(&mut gathered);
        embedding_forward(device, to, all(&table), all(&types), counted.rows(), width).expect("a launch");
        embedding_backward(device, all_mut(&mut d_table), all(&d_rows), all(&types), counted.rows(), width)
            .expect("a launch");
        [stored_to_host(device, &gathered, count, width), to_host(device, &d_table)]
    });
    [table, d_rows, gathered, d_table]
}

fn rows_go_to_their_types<T: StoredElement>(rows: usize, types: &[u32], width: usize, seed: u64) {
    let [table, d_rows, gathered, d_table] = kernels::<T>(rows, types, width, seed);
    assert_eq!(gathered, rounded::<T>(reference::embedding_lookup(&table, types, width)));
    let mut want = vec![f32::NAN; rows * width];
    reference::embedding_lookup_backward(&d_rows, types, width, &mut want);
    assert_eq!(d_table, want);
}

#[test]
fn rows_go_to_their_types_and_the_rest_is_zero() {
    check(200, (occurring(1..=90), columns(), seeds()), |((rows, types), width, seed)| {
        rows_go_to_their_types::<f32>(rows, &types, width, seed);
        rows_go_to_their_types::<bf16>(rows, &types, width, seed);
    });
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    check(200, (occurring(1..=5), 1..=4usize, seeds()), |((rows, types), width, seed)| {
        let [table, d_rows, _, d_table] = kernels::<f32>(rows, &types, width, seed);
        let want = central_differences(&wide(&table), |table| {
            weighted_sum(&wide(&d_rows), &reference::embedding_lookup(table, &types, width))
        });
        // The kernel copies; the differences are off by less than 1e-8.
        assert_within("d_table", &d_table, &want, 1e-8);
    });
}
