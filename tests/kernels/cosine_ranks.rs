//! cosine_ranks: the kernel against the reference. Products of two f32 are exact in double precision and both sum them in
//! one order, so ranks are equal, whatever the values.

use crate::support::cases::{check, columns, rows, seeds};
use crate::support::{Values, all, devices, indices_to_device, same_bits, to_device, wide};
use proptest::prelude::*;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::cosine_ranks::{Queries, cosine_ranks};
use scenerank::backend::reference::cosine_ranks::cosine_ranks as reference;

fn ranks(device: &Device, queries: &[f32], index: &[f32], width: usize, truth: &[u32]) -> Vec<u32> {
    let mut ranks = to_device(device, &vec![-7; truth.len()]);
    let (queries, index) = (to_device(device, queries), to_device(device, index));
    let truth_there = indices_to_device(device, truth);
    let of = Queries {
        queries: all(&queries),
        index: all(&index),
        truth: all(&truth_there),
        rows: index.len() / width,
        width,
    };
    cosine_ranks(device, &mut ranks.slice_mut(0..truth.len()), of).expect("a launch");
    let ranks = device.download(&ranks, 0..truth.len()).expect("a download");
    ranks.into_iter().map(|rank| u32::try_from(rank).expect("a rank")).collect()
}

/// Ranks as `same_bits` compares them; they lie far below 2^24, where floats are exact.
fn ranks_in_all_orders(order: u64, queries: &[f32], index: &[f32], width: usize, truth: &[u32]) -> Vec<u32> {
    let [ranks] = same_bits(order, |device, _| {
        [ranks(device, queries, index, width, truth).into_iter().map(|rank| rank as f32).collect()]
    });
    ranks.into_iter().map(|rank| rank as u32).collect()
}

#[test]
fn ranks_are_the_references() {
    // Around the part of 512 rows too.
    let index_rows = prop_oneof![3 => 1..=80usize, 2 => prop::sample::select(vec![511, 512, 513, 1100])];
    let shapes = (rows(), index_rows, columns(), any::<bool>(), seeds());
    check(40, shapes, |(count, rows, width, coarse, seed)| {
        let mut values = Values::new(seed);
        let mut draw = |len| -> Vec<f32> {
            let values = values.signed(len);
            // Few values, so that many rows tie.
            if coarse { values.iter().map(|v| (v * 1.5).round()).collect() } else { values }
        };
        let (queries, index) = (draw(count * width), draw(rows * width));
        let truth = values.indices(count, rows);
        let got = ranks_in_all_orders(seed, &queries, &index, width, &truth);
        assert_eq!(got, reference(&wide(&queries), &wide(&index), width, &truth));
    });
}

#[test]
fn copies_of_the_true_row_rank_before_it_wherever_they_lie() {
    for device in devices() {
        let (rows, width) = (600, 300);
        let mut values = Values::new(3);
        let mut index = values.signed(rows * width);
        // Neighbours, another tile, another part, the last row.
        for copy in [1, 65, 513, rows - 1] {
            index.copy_within(0..width, copy * width);
        }
        let queries = [&index[..width], &index[..width], &values.signed(width)].concat();
        let got = ranks(&device, &queries, &index, width, &[0, 513, 1]);
        assert_eq!(got[..2], [5, 5]);
        assert_eq!(got, reference(&wide(&queries), &wide(&index), width, &[0, 513, 1]));
    }
}

#[test]
fn where_all_rows_are_the_same_every_rank_is_the_last() {
    for device in devices() {
        for rows in [1, 2, 64, 700] {
            let index = vec![0.1f32; rows * 7];
            let truth = [0, rows as u32 - 1, rows as u32 / 2];
            assert_eq!(ranks(&device, &index[..7].repeat(3), &index, 7, &truth), [rows as u32; 3]);
        }
        assert!(ranks(&device, &[], &[1.0; 4], 2, &[]).is_empty());
    }
}

#[test]
fn what_is_no_number_counts_against_the_query() {
    for device in devices() {
        let index = [1.0, f32::NAN, 3.0, 2.0];
        let got = ranks(&device, &[1.0, 1.0, f32::NAN], &index, 1, &[2, 1, 0]);
        assert_eq!(got, [2, 4, 4]);
        assert_eq!(got, reference(&[1.0, 1.0, f64::NAN], &wide(&index), 1, &[2, 1, 0]));
    }
}
