//! top_k: the case of the bench with values whose sums are exact, with scores that only roundings order, and with NaN.

use crate::support::agreement::{agree_in_two_orders, exactly, outputs};
use crate::support::cases::no_device;
use crate::support::{Values, wide};
use scenerank::backend::cuda::launchers::top_k::MAX_K;
use scenerank::backend::reference::top_k::top_k as reference;
use scenerank::bench::case::Case;
use scenerank::bench::cases::top_k::{Searches, search};

/// Small integers, so that sums are exact and many scores are equal.
fn whole_numbers(queries: usize, rows: usize, width: usize, passes: Vec<usize>, seed: u64) -> Case {
    let of = Searches { queries, rows, width, passes, seed };
    exactly(search(of, |of| {
        let mut values = Values::new(of.seed);
        [of.queries, of.rows]
            .map(|rows| values.signed(rows * of.width).iter().map(|v| (v * 2.5).round()).collect())
    }))
}

#[test]
fn whole_numbers_come_in_the_references_order() {
    if no_device() {
        return;
    }
    let mut seed = 0;
    for (rows, width) in [(0, 5), (1, 1), (31, 3), (255, 13), (256, 32), (257, 33), (700, 7)] {
        for k in [1, 8, rows, rows + 3] {
            seed += 1;
            agree_in_two_orders(&whole_numbers(3, rows, width, vec![k.clamp(1, MAX_K)], seed));
        }
    }
}

#[test]
fn a_pass_goes_on_where_the_one_before_ended() {
    if no_device() {
        return;
    }
    agree_in_two_orders(&whole_numbers(2, 300, 4, vec![1, 120, MAX_K, 60], 7));
}

#[test]
fn unit_vectors_come_in_order_but_for_rounding() {
    if no_device() {
        return;
    }
    for (seed, (rows, width, k)) in (100..).zip([(600, 300, 20), (300, 129, 128), (65, 31, 5)]) {
        let case = search(Searches { queries: 2, rows, width, passes: vec![k], seed }, |of| {
            let (rows, width, mut values) = (of.rows, of.width, Values::new(of.seed));
            let mut unit = |rows: usize| -> Vec<f32> {
                let mut all = values.signed(rows * width);
                for row in all.chunks_mut(width) {
                    let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                    row.iter_mut().for_each(|v| *v /= length);
                }
                all
            };
            let (mut queries, mut embeddings) = (unit(of.queries), unit(rows));
            // The first query's best row has duplicates, next to it and far from it.
            queries[..width].copy_from_slice(&embeddings[..width]);
            embeddings.copy_within(0..width, width);
            embeddings.copy_within(0..width, (rows - 1) * width);
            [queries, embeddings]
        });
        let [queries, embeddings] = (case.prepare)(0).host.wide_inputs();
        let [_, written] = [1, 2].map(|order| outputs(order, case.kernel, &case.prepare));
        let [scores, found] = written.try_into().expect("two outputs");
        // Products of unit vectors have at most `width` roundings of 6e-8 each, of a sum of at most 1.
        let limit = width as f64 * 6e-8;
        for ((query, scores), found) in queries.chunks(width).zip(scores.chunks(k)).zip(found.chunks(k)) {
            let want = reference(query, &embeddings, rows);
            let exact = |row: f64| want.iter().find(|(r, _)| *r == row as usize).expect("a row").1;
            let got: Vec<(f64, f64)> = found.iter().copied().zip(scores.iter().copied()).collect();
            for (at, &(row, score)) in got.iter().enumerate() {
                assert!((score - exact(row)).abs() <= limit, "{at}: {score} of row {row}");
                assert!((score - want[at].1).abs() <= limit, "{at}: {score} is out of order");
            }
            let in_order = |a: &(f64, f64), b: &(f64, f64)| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0);
            assert!(got.is_sorted_by(in_order), "{got:?}");
        }
    }
}

#[test]
fn what_is_no_number_comes_last() {
    if no_device() {
        return;
    }
    const INDEX: [f32; 9] =
        [f32::NAN, -0.0, f32::NEG_INFINITY, 0.0, f32::INFINITY, -f32::NAN, -1.0, f32::MAX, 1e-40];
    let of = Searches { queries: 1, rows: INDEX.len(), width: 1, passes: vec![MAX_K], seed: 0 };
    let case = search(of, |_| [vec![1.0], INDEX.to_vec()]);
    for order in [1, 2] {
        let [scores, rows] = outputs(order, case.kernel, &case.prepare).try_into().expect("two outputs");
        assert_eq!(rows[..10], [4.0, 7.0, 8.0, 1.0, 3.0, 6.0, 2.0, 0.0, 5.0, -1.0]);
        let numbers = [f32::INFINITY, f32::MAX, 1e-40, 0.0, 0.0, -1.0, f32::NEG_INFINITY];
        assert_eq!(scores[..7], wide(&numbers)[..]);
        assert!(scores[7..].iter().all(|score| score.is_nan()));
    }
}
