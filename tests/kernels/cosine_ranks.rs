//! cosine_ranks: the case of the bench at random shapes, with ties and with NaN.

use crate::support::Values;
use crate::support::agreement::{agree, agree_in_two_orders, with};
use crate::support::cases::{check, columns, no_device, rows, seeds};
use proptest::prelude::*;
use scenerank::bench::case::Case;
use scenerank::bench::cases::cosine_ranks::{Ranking, ranks};

#[test]
fn ranks_are_the_references() {
    // Also sizes around the chunk of 512 rows.
    let index_rows = prop_oneof![3 => 1..=80usize, 2 => prop::sample::select(vec![511, 512, 513, 1100])];
    let shapes = (rows(), index_rows, columns(), any::<bool>(), seeds());
    check(40, shapes, |(queries, rows, width, coarse, seed)| {
        let truth: Vec<i32> =
            Values::new(seed).indices(queries, rows).into_iter().map(|row| row as i32).collect();
        let case = with(ranks(Ranking { queries, rows, width, seed }), move |_, prepared| {
            prepared.host.indices = vec![truth.clone()];
            // Few distinct values, so that many rows tie.
            let values = prepared.host.inputs.iter_mut().flatten().filter(|_| coarse);
            values.for_each(|value| *value = (*value * 1.5).round());
        });
        agree(seed, &case);
    });
}

/// Queries in an index, and their true rows.
fn of(queries: Vec<f32>, index: Vec<f32>, width: usize, truth: Vec<i32>) -> Case {
    let shape = Ranking { queries: truth.len(), rows: index.len() / width, width, seed: 0 };
    with(ranks(shape), move |_, prepared| {
        prepared.host.inputs = vec![queries.clone(), index.clone()];
        prepared.host.indices = vec![truth.clone()];
    })
}

#[test]
fn copies_of_the_true_row_rank_before_it_wherever_they_lie() {
    if no_device() {
        return;
    }
    let (rows, width) = (600, 300);
    let mut values = Values::new(3);
    let mut index = values.signed(rows * width);
    // Neighbouring rows, rows of another tile and of another chunk, and the last row.
    for copy in [1, 65, 513, rows - 1] {
        index.copy_within(0..width, copy * width);
    }
    let queries = [&index[..width], &index[..width], &values.signed(width)].concat();
    let case = of(queries, index, width, vec![0, 513, 1]);
    assert_eq!(agree_in_two_orders(&case)[0][..2], [5.0, 5.0]);
}

#[test]
fn where_all_rows_are_the_same_every_rank_is_the_last() {
    if no_device() {
        return;
    }
    for rows in [1, 2, 64, 700] {
        let index = vec![0.1f32; rows * 7];
        let truth = vec![0, rows as i32 - 1, rows as i32 / 2];
        let case = of(index[..7].repeat(3), index, 7, truth);
        assert_eq!(agree_in_two_orders(&case)[0], [rows as f64; 3]);
    }
    assert!(agree_in_two_orders(&of(Vec::new(), vec![1.0; 4], 2, Vec::new())).is_empty());
}

#[test]
fn what_is_no_number_counts_against_the_query() {
    if no_device() {
        return;
    }
    let case = of(vec![1.0, 1.0, f32::NAN], vec![1.0, f32::NAN, 3.0, 2.0], 1, vec![2, 1, 0]);
    assert_eq!(agree_in_two_orders(&case)[0], [2.0, 4.0, 4.0]);
}
