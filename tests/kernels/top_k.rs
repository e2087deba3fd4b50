//! top_k: the kernels against the reference in double precision.

use crate::support::{Values, devices, poisoned, to_device, wide};
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::top_k::{Found, MAX_K, Search, UNBOUNDED, lists_len, top_k};
use scenerank::backend::reference::top_k::top_k as reference;

/// Passes over `embeddings [n, width]`, `k` rows each, as many as there are in `counts`: `[pass][query]` rows and
/// scores.
fn passes(
    device: &Device,
    queries: &[f32],
    embeddings: &[f32],
    width: usize,
    counts: &[usize],
) -> Vec<Vec<Vec<(i32, f32)>>> {
    let (count, rows) = (queries.len() / width, embeddings.len() / width);
    let (queries, embeddings) = (to_device(device, queries), to_device(device, embeddings));
    let mut bound = to_device(device, &vec![UNBOUNDED; count]);
    counts
        .iter()
        .map(|&k| {
            let mut scores = poisoned(device, count * k);
            let mut indices = to_device(device, &vec![-7; count * k]);
            // As keys, all bits set would come before any row.
            let mut lists = to_device(device, &vec![u64::MAX; lists_len(count, rows, k)]);
            let mut found = Found {
                scores: scores.slice_mut(0..count * k),
                indices: indices.slice_mut(0..count * k),
                bound: bound.slice_mut(0..count),
            };
            let of = Search {
                queries: queries.slice(0..queries.len()),
                embeddings: embeddings.slice(0..embeddings.len()),
                rows,
                width,
            };
            let len = lists.len();
            top_k(device, &mut found, &mut lists.slice_mut(0..len), of, k).expect("a launch");
            let indices = device.download(&indices, 0..count * k).expect("a download");
            let scores = device.download(&scores, 0..count * k).expect("a download");
            let all: Vec<(i32, f32)> = indices.into_iter().zip(scores).collect();
            all.chunks(k).map(<[_]>::to_vec).collect()
        })
        .collect()
}

/// Where sums are exact, so that the answer is.
#[test]
fn whole_numbers_come_in_the_references_order() {
    for device in devices() {
        let mut case = 0;
        for (rows, width) in [(0, 5), (1, 1), (31, 3), (255, 13), (256, 32), (257, 33), (700, 7)] {
            for k in [1, 8, rows, rows + 3] {
                let k = k.clamp(1, MAX_K);
                case += 1;
                let mut values = Values::new(case);
                // Few values, so that many scores are equal.
                let mut whole =
                    |count| values.signed(count).iter().map(|v| (v * 2.5).round()).collect::<Vec<f32>>();
                let (queries, embeddings) = (whole(3 * width), whole(rows * width));
                let got = passes(&device, &queries, &embeddings, width, &[k]).remove(0);
                for (query, got) in queries.chunks(width).zip(got) {
                    let want = reference(&wide(query), &wide(&embeddings), k);
                    let name = format!("{rows} rows of {width}, k {k}");
                    for (at, got) in got.into_iter().enumerate() {
                        match want.get(at) {
                            Some(&(row, score)) => {
                                assert_eq!(got, (row as i32, score as f32), "{name}: {at}")
                            }
                            None => assert!(got.0 == -1 && got.1.is_nan(), "{name}: {at}: {got:?}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn unit_vectors_come_in_order_but_for_rounding() {
    for device in devices() {
        for (case, (rows, width, k)) in [(600, 300, 20), (300, 129, 128), (65, 31, 5)].into_iter().enumerate()
        {
            let mut values = Values::new(100 + case as u64);
            let mut unit = |rows: usize| -> Vec<f32> {
                let mut all = values.signed(rows * width);
                for row in all.chunks_mut(width) {
                    let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                    row.iter_mut().for_each(|v| *v /= length);
                }
                all
            };
            let (mut queries, mut embeddings) = (unit(2), unit(rows));
            // Duplicates, near and far, the best of the first query.
            queries[..width].copy_from_slice(&embeddings[..width]);
            embeddings.copy_within(0..width, width);
            embeddings.copy_within(0..width, (rows - 1) * width);
            let got = passes(&device, &queries, &embeddings, width, &[k]).remove(0);
            // Products of unit vectors: at most `width` roundings of 6e-8 each of a sum of at most 1.
            let limit = width as f64 * 6e-8;
            for (query, got) in queries.chunks(width).zip(got) {
                let want = reference(&wide(query), &wide(&embeddings), rows);
                let exact = |row: i32| want.iter().find(|(r, _)| *r == row as usize).expect("a row").1;
                for (at, &(row, score)) in got.iter().enumerate() {
                    assert!((f64::from(score) - exact(row)).abs() <= limit, "{at}: {score} of row {row}");
                    assert!((f64::from(score) - want[at].1).abs() <= limit, "{at}: {score} is out of order");
                }
                let in_order = |a: &(i32, f32), b: &(i32, f32)| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0);
                assert!(got.is_sorted_by(in_order), "{got:?}");
            }
        }
    }
}

#[test]
fn a_pass_goes_on_where_the_one_before_ended() {
    for device in devices() {
        let (rows, width) = (300, 4);
        let mut values = Values::new(7);
        let whole: Vec<f32> = values.signed((rows + 2) * width).iter().map(|v| (v * 2.5).round()).collect();
        let (queries, embeddings) = whole.split_at(2 * width);
        let passes = passes(&device, queries, embeddings, width, &[1, 120, MAX_K, 60]);
        for (at, query) in queries.chunks(width).enumerate() {
            let all: Vec<(i32, f32)> = passes.iter().flat_map(|pass| pass[at].clone()).collect();
            let want = reference(&wide(query), &wide(embeddings), rows);
            assert!(all[..rows].iter().zip(&want).all(|(g, w)| *g == (w.0 as i32, w.1 as f32)), "query {at}");
            assert!(all[rows..].iter().all(|&(row, score)| row == -1 && score.is_nan()), "query {at}");
        }
    }
}

#[test]
fn what_is_no_number_comes_last() {
    for device in devices() {
        let embeddings =
            [f32::NAN, -0.0, f32::NEG_INFINITY, 0.0, f32::INFINITY, -f32::NAN, -1.0, f32::MAX, 1e-40];
        let got = passes(&device, &[1.0], &embeddings, 1, &[MAX_K]).remove(0).remove(0);
        let rows: Vec<i32> = got.iter().map(|&(row, _)| row).collect();
        assert_eq!(rows[..10], [4, 7, 8, 1, 3, 6, 2, 0, 5, -1]);
        let scores: Vec<f32> = got.iter().map(|&(_, score)| score).collect();
        assert_eq!(scores[..7], [f32::INFINITY, f32::MAX, 1e-40, 0.0, 0.0, -1.0, f32::NEG_INFINITY]);
        assert!(scores[7..].iter().all(|score| score.is_nan()));
    }
}
