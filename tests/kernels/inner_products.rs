//! inner_products: the kernel against sums in double precision in the same order, to the last bit.

use crate::support::cases::{check, columns, seeds};
use crate::support::{Values, devices, same_bits, to_device};
use proptest::prelude::*;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::inner_products::inner_products;

/// The strip of `count` rows from `first` on.
fn strip(device: &Device, values: &[f32], width: usize, first: usize, count: usize) -> Vec<f64> {
    let rows = values.len() / width;
    let on_device = to_device(device, values);
    let mut products = to_device(device, &vec![f64::NAN; count * rows]);
    let to = &mut products.slice_mut(0..count * rows);
    inner_products(device, to, on_device.slice(0..values.len()), first, rows, width).expect("a launch");
    device.download(&products, 0..count * rows).expect("a download")
}

/// Products of two f32 are exact in double precision, and these sums run in the kernel's order.
fn expected(values: &[f32], width: usize, first: usize, count: usize) -> Vec<f64> {
    let rows: Vec<&[f32]> = values.chunks_exact(width).collect();
    let product =
        |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0, |sum, (&x, &y)| sum + f64::from(x) * f64::from(y));
    rows[first..first + count].iter().flat_map(|a| rows.iter().map(move |b| product(a, b))).collect()
}

#[test]
fn strips_equal_sums_in_order() {
    let rows = prop_oneof![3 => 1..=80usize, 1 => prop::sample::select(vec![127, 128, 129, 200])];
    let shapes = (rows, columns()).prop_flat_map(|(rows, width)| {
        (Just(rows), Just(width), 0..rows).prop_flat_map(|(rows, width, first)| {
            (Just(rows), Just(width), Just(first), 0..=rows - first, seeds())
        })
    });
    check(40, shapes, |(rows, width, first, count, seed)| {
        let values = Values::new(seed).signed(rows * width);
        let [got] = same_bits(seed, |device, _| {
            [bytemuck::pod_collect_to_vec::<f64, f32>(&strip(device, &values, width, first, count))]
        });
        let got: Vec<f64> = bytemuck::pod_collect_to_vec(&got);
        assert_eq!(got, expected(&values, width, first, count));
    });
}

#[test]
fn equal_rows_give_equal_products_wherever_they_lie() {
    for device in devices() {
        let (rows, width) = (130, 37);
        let pattern = Values::new(1).signed(2 * width);
        let values: Vec<f32> =
            (0..rows).flat_map(|row| pattern[row % 2 * width..][..width].to_vec()).collect();
        let products = strip(&device, &values, width, 0, rows);
        for row in 0..rows {
            for column in 0..rows {
                let same = products[row % 2 * rows + column % 2];
                assert_eq!(products[row * rows + column].to_bits(), same.to_bits(), "{row} {column}");
            }
        }
    }
}
