//! edge_hidden: the cases of the bench with random graphs, sums with the same bits in every launch, and the gradients
//! against finite differences.

use crate::support::agreement::{agree, assert_same_bits, at_most, with};
use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{
    Edge, Graphs, TYPES, check, columns, graphs, no_device, rows, seeds, small_graphs,
};
use crate::support::{Values, assert_within, wide};
use half::bf16;
use scenerank::backend::L2_EPSILON;
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::bench::case::Case;
use scenerank::bench::cases::edge_hidden::{Edges, lookup, sum_ends, sum_types};
use scenerank::bench::check::{Output, largest};
use scenerank::bench::matrix::HostMatrix;

/// Every fifth length is the smallest divisor of an l2 normalisation.
fn some_without_length(case: Case) -> Case {
    with(case, |_, prepared| {
        let lengths = prepared.host.inputs[0].iter_mut().filter(|length| !length.is_nan());
        lengths.step_by(5).for_each(|length| *length = L2_EPSILON as f32);
    })
}

fn agree_in<T: StoredElement>(of: &Edges) {
    let order = of.seed;
    let looked_up = agree(order, &lookup::<T>(of.clone(), true));
    let alone = agree(order, &lookup::<T>(of.clone(), false));
    assert_same_bits("without statistics", &alone[0], &looked_up[0]);
    let sums = agree(order, &sum_ends::<T>(of.clone(), false));
    agree(order, &some_without_length(sum_ends::<T>(of.clone(), true)));
    let in_one_launch = agree(order, &sum_types::<T>(of.clone()));
    // Longer lists are cut into chunks, which are added up in another order.
    if of.most_ends_of_a_row() <= 64 {
        assert_same_bits("sums in one launch with those by predicate", &in_one_launch[1], &sums[0]);
    }
}

fn agrees_with_plain_loops((graphs, hidden, seed): (Graphs, usize, u64)) {
    let batch = graphs.batch();
    let by_node = Edges::by_node(&batch, TYPES, hidden, seed);
    agree_in::<f32>(&by_node);
    agree_in::<bf16>(&by_node);
}

#[test]
fn sums_and_their_backward_agree_with_plain_loops() {
    check(100, (graphs(), columns(), seeds()), agrees_with_plain_loops);
}

#[test]
fn sums_by_type_agree_with_plain_loops() {
    check(10, (graphs(), columns(), seeds()), |(graphs, hidden, seed)| {
        agree_in::<bf16>(&Edges::by_type(&graphs.batch(), hidden, seed));
    });
}

#[test]
fn one_node_takes_all_ends_of_600_edges() {
    if no_device() {
        return;
    }
    let edge = Edge { subject: 0, predicate: 2, object: 0, copies: 600 };
    agrees_with_plain_loops((Graphs { sizes: vec![1], edges: vec![edge] }, 130, 1));
}

/// Statistics of `rows` edges far from zero, where a plain sum of squares would cancel.
fn statistics_agree<T: StoredElement>(rows: usize, hidden: usize, seed: u64) {
    let nodes = 5u32;
    let pairs = Values::new(seed).indices(rows, (nodes * nodes) as usize);
    let of = Edges {
        predicate: (0..rows as u32).map(|edge| edge % TYPES as u32).collect(),
        predicates: TYPES,
        ends: [
            pairs.iter().map(|pair| pair % nodes).collect(),
            pairs.iter().map(|pair| pair / nodes).collect(),
        ],
        rows: nodes as usize,
        hidden,
        seed,
    };
    let case = with(lookup::<T>(of, true), move |spare, prepared| {
        let projected = &mut prepared.host.stored[0];
        let far = projected.wide().iter().map(|&value| 100.0 + value as f32).collect();
        *projected = HostMatrix::new::<T>(far, hidden).with_room(spare);
    });
    // No edge is far from all others. Results of about 1 go through some ten roundings and a sum whose chunks have 64 rows;
    // larger ones are off by as much more. Only z has other limits.
    let most = |of: &Output| if of.name == "z" { f64::INFINITY } else { 4e-6 * largest(&of.values).max(1.0) };
    agree(seed, &at_most(case, most));
}

#[test]
fn statistics_agree_with_the_reference() {
    check(200, (rows(), columns(), seeds()), |(rows, hidden, seed)| {
        statistics_agree::<f32>(rows, hidden, seed);
        statistics_agree::<bf16>(rows, hidden, seed);
    });
}

/// Whole groups of 32 chunks of 64 rows, and partial ones.
#[test]
fn statistics_of_several_groups_agree_with_the_reference() {
    if no_device() {
        return;
    }
    for rows in [2047, 2048, 2049, 4096, 6500] {
        statistics_agree::<f32>(rows, 35, rows as u64);
        statistics_agree::<bf16>(rows, 35, rows as u64);
    }
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    check(200, (small_graphs(), 1..=3usize, seeds()), |(graphs, hidden, seed)| {
        let of = Edges::by_node(&graphs.batch(), TYPES, hidden, seed);
        let case = sum_types::<f32>(of.clone());
        let [d_z] = (case.prepare)(0).host.wide_stored();
        let written = agree(seed, &case);
        let ends = of.ends[0].iter().zip(&of.ends[1]).zip(&of.predicate);
        // The z of an edge is the sum of three rows.
        let z = |edge_projected: &[f64], projected: &[f64]| -> Vec<f64> {
            let row = |((&s, &o), &p): ((&u32, &u32), &u32)| {
                let [s, o, p] = [s, o, p].map(|row| row as usize * hidden);
                (0..hidden)
                    .map(|c| edge_projected[p + c] + projected[2 * s + c] + projected[2 * o + hidden + c])
                    .collect::<Vec<f64>>()
            };
            ends.clone().flat_map(row).collect()
        };
        let mut values = Values::new(seed);
        let edge_projected = wide(&values.signed(TYPES * hidden));
        let projected = wide(&values.signed(of.rows * 2 * hidden));
        // Sums of up to six numbers below 2, and the terms that are subtracted.
        let limit = 2.1 * (5e-7 + 1e-7 * of.predicate.len() as f64);
        let want = central_differences(&edge_projected, |edges| weighted_sum(&d_z, &z(edges, &projected)));
        assert_within("sums by predicate", &written[0], &want, limit);
        let want = central_differences(&projected, |ends| weighted_sum(&d_z, &z(&edge_projected, ends)));
        assert_within("sums by end", &written[1], &want, limit);
    });
}
