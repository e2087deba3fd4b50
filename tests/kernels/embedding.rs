//! embedding: the cases of the bench with random tables, and the gradient against finite differences.

use crate::support::agreement::{all_agree, outputs};
use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{check, columns, seeds};
use crate::support::{Values, assert_within, wide};
use half::bf16;
use proptest::prelude::*;
use proptest::sample::subsequence;
use scenerank::backend::reference::edge_gather as reference;
use scenerank::bench::cases::embedding::{Tables, backward, forward};

/// Number of rows of a table, and the types that occur, ascending; there may be none.
fn occurring(rows: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = (usize, Vec<u32>)> {
    rows.prop_flat_map(|rows| {
        let types: Vec<u32> = (0..rows as u32).collect();
        (Just(rows), subsequence(types, 0..=rows))
    })
}

fn tables(
    rows: std::ops::RangeInclusive<usize>,
    width: impl Strategy<Value = usize>,
) -> impl Strategy<Value = Tables> {
    let tables = ([occurring(rows.clone()), occurring(rows)], width, seeds());
    tables.prop_map(|([(objects, object_types), (predicates, predicate_types)], width, seed)| Tables {
        rows: [objects, predicates],
        types: [object_types, predicate_types],
        width,
        seed,
    })
}

#[test]
fn rows_go_to_their_types_and_the_rest_is_zero() {
    check(200, tables(1..=90, columns()), |tables| {
        all_agree(tables.seed, [forward::<f32>(tables.clone()), backward::<f32>(tables.clone())]);
        all_agree(tables.seed, [forward::<bf16>(tables.clone()), backward::<bf16>(tables)]);
    });
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    check(200, tables(1..=5, 1..=4usize), |tables| {
        let case = backward::<f32>(tables.clone());
        let d_rows = (case.prepare)(0).host.wide_stored::<2>();
        let d_tables = outputs(tables.seed, case.kernel, &case.prepare);
        for (i, d_table) in d_tables.iter().enumerate() {
            let table = wide(&Values::new(tables.seed).signed(d_table.len()));
            let want = central_differences(&table, |table| {
                let rows = reference::embedding_lookup(table, &tables.types[i], tables.width);
                weighted_sum(&d_rows[i], &rows)
            });
            // The kernel copies, so only the finite differences have an error, below 1e-8.
            assert_within("d_table", d_table, &want, 1e-8);
        }
    });
}
