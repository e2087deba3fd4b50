//! embedding: rows copied to and from both tables.

use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{check, columns, seeds};
use crate::support::stored::{rounded, stored, stored_to_host, unwritten};
use crate::support::{
    Counted, Values, all, all_mut, assert_within, indices_with_room, poisoned, same_bits, to_device, to_host,
    wide,
};
use half::bf16;
use proptest::prelude::*;
use proptest::sample::subsequence;
use scenerank::backend::cuda::launchers::embedding::{
    Lookup, LookupGradient, Occurring, embedding_backward, embedding_forward,
};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::edge_gather as reference;

/// A table's rows, and the types that occur, ascending.
fn occurring(rows: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = (usize, Vec<u32>)> {
    rows.prop_flat_map(|rows| {
        let types: Vec<u32> = (0..rows as u32).collect();
        (Just(rows), subsequence(types, 0..=rows))
    })
}

/// Both tables: their rows, and the types that occur.
type Tables = [(usize, Vec<u32>); 2];

fn tables(rows: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Tables> {
    [occurring(rows.clone()), occurring(rows)]
}

/// What goes in and comes out of one table's lookup: the table, the rows' gradient, the gathered rows, and the gradient
/// of the table.
type Lookups = [[Vec<f32>; 4]; 2];

fn kernels<T: StoredElement>(tables: &Tables, width: usize, seed: u64) -> Lookups {
    let mut values = Values::new(seed);
    let inputs = tables
        .each_ref()
        .map(|(rows, types)| (values.signed(rows * width), rounded::<T>(values.signed(types.len() * width))));
    let counts = tables.each_ref().map(|(_, types)| types.len());
    let outputs: [Vec<f32>; 4] = same_bits(seed, |device, spare| {
        let counted = counts.map(|count| Counted::new(device, count, spare));
        let types = tables.each_ref().map(|(_, types)| indices_with_room(device, types, spare));
        let of = [0, 1].map(|i| Occurring { types: all(&types[i]), rows: counted[i].rows() });
        let mut gathered = counts.map(|count| unwritten::<T>(device, count + spare, width));
        let mut d_tables = inputs.each_ref().map(|(table, _)| poisoned(device, table.len()));
        let table = inputs.each_ref().map(|(table, _)| to_device(device, table));
        let d_rows = inputs.each_ref().map(|(_, d_rows)| stored::<T>(device, d_rows, width, spare));
        let [objects, predicates] = &mut gathered;
        let lookups = [
            Lookup { rows: all_mut(objects), table: all(&table[0]), of: of[0] },
            Lookup { rows: all_mut(predicates), table: all(&table[1]), of: of[1] },
        ];
        embedding_forward(device, lookups, width).expect("a launch");
        let [objects, predicates] = &mut d_tables;
        let lookups = [
            LookupGradient { d_table: all_mut(objects), d_rows: all(&d_rows[0]), of: of[0] },
            LookupGradient { d_table: all_mut(predicates), d_rows: all(&d_rows[1]), of: of[1] },
        ];
        embedding_backward(device, lookups, width).expect("a launch");
        let gathered = [0, 1].map(|i| stored_to_host(device, &gathered[i], counts[i], width));
        let [objects, predicates] = gathered;
        let [d_objects, d_predicates] = d_tables.map(|d_table| to_host(device, &d_table));
        [objects, predicates, d_objects, d_predicates]
    });
    let [objects, predicates, d_objects, d_predicates] = outputs;
    let [(object_table, object_rows), (predicate_table, predicate_rows)] = inputs;
    [
        [object_table, object_rows, objects, d_objects],
        [predicate_table, predicate_rows, predicates, d_predicates],
    ]
}

fn rows_go_to_their_types<T: StoredElement>(tables: &Tables, width: usize, seed: u64) {
    let lookups = kernels::<T>(tables, width, seed);
    for ([table, d_rows, gathered, d_table], (rows, types)) in lookups.into_iter().zip(tables) {
        assert_eq!(gathered, rounded::<T>(reference::embedding_lookup(&table, types, width)));
        let mut want = vec![f32::NAN; rows * width];
        reference::embedding_lookup_backward(&d_rows, types, width, &mut want);
        assert_eq!(d_table, want);
    }
}

#[test]
fn rows_go_to_their_types_and_the_rest_is_zero() {
    check(200, (tables(1..=90), columns(), seeds()), |(tables, width, seed)| {
        rows_go_to_their_types::<f32>(&tables, width, seed);
        rows_go_to_their_types::<bf16>(&tables, width, seed);
    });
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    check(200, (tables(1..=5), 1..=4usize, seeds()), |(tables, width, seed)| {
        let lookups = kernels::<f32>(&tables, width, seed);
        for ([table, d_rows, _, d_table], (_, types)) in lookups.into_iter().zip(&tables) {
            let want = central_differences(&wide(&table), |table| {
                weighted_sum(&wide(&d_rows), &reference::embedding_lookup(table, types, width))
            });
            // The kernel copies; the differences are off by less than 1e-8.
            assert_within("d_table", &d_table, &want, 1e-8);
        }
    });
}
