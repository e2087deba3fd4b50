//! linear: products of rows at unit length, x = u / |u| with u = relu(norm(z)), and their backward. The sums per end
//! provide the component parallel to u. The tests run the cases of the bench at random shapes, rows of length 0, and
//! the whole chain.

use std::rc::Rc;

use crate::support::agreement::{
    agree, agree_in_orders, agree_once, all_agree, assert_same_bits, outputs, outputs_once, with,
    with_poisoned_padding,
};
use crate::support::cases::{FORMATS, check, no_device, rows, seeds};
use crate::support::{ROWS, devices};
use half::bf16;
use scenerank::backend::L2_EPSILON;
use scenerank::backend::cuda::launchers::linear::Format;
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::l2_normalise as reference;
use scenerank::backend::reference::linear as reference_products;
use scenerank::bench::case::Case;
use scenerank::bench::cases::edge_hidden::{Edges, sum_ends};
use scenerank::bench::cases::linear::unit::{self, UnitProduct, length_error, lengths};
use scenerank::bench::cases::linear::{Error, Product};
use scenerank::bench::matrix::HostMatrix;

/// Numbers of inputs, and half the numbers of outputs, where the weight is split: below, at and above a tile, odd ones,
/// and 1.
const WIDTHS: [(usize, usize); 5] = [(13, 9), (64, 32), (65, 1), (1, 33), (100, 67)];

fn sizes(format: Format, (rows, inputs, half): (usize, usize, usize), seed: u64) -> Product {
    Product { what: "test", rows, inputs, outputs: 2 * half, format, seed }
}

/// The weight is the second matrix. Rows have no padding in single precision.
fn forward(of: UnitProduct) -> Case {
    let (case, Product { format, inputs, .. }) = (unit::forward(of), of.product);
    if format.is_stored_in_bf16() { with_poisoned_padding::<bf16>(case, 1, inputs) } else { case }
}

/// The weight is the third matrix.
fn backward(of: UnitProduct) -> Case {
    let (case, Product { format, inputs, .. }) = (unit::backward(of), of.product);
    if format.is_stored_in_bf16() { with_poisoned_padding::<bf16>(case, 2, inputs) } else { case }
}

fn agrees(sizes_of: (usize, usize, usize), seed: u64) {
    for format in FORMATS {
        for with_rows in [true, false] {
            let of = UnitProduct { product: sizes(format, sizes_of, seed), with_rows };
            for case in [forward(of), backward(of)] {
                agree_in_orders(&[seed, seed + 1], &case);
            }
        }
    }
}

#[test]
fn products_of_unit_rows_agree_with_the_reference() {
    if no_device() {
        return;
    }
    let sizes = ROWS.iter().flat_map(|&rows| WIDTHS.map(|(inputs, half)| (rows, inputs, half)));
    for (seed, sizes) in (0..).zip(sizes) {
        agrees(sizes, seed);
    }
    check(10, (rows(), 1..=200usize, 1..=100usize, seeds()), |(rows, inputs, half, seed)| {
        agrees((rows, inputs, half), seed);
    });
}

/// Few rows in grids for so many that the larger tile is used.
#[test]
fn the_tile_that_a_bound_chooses_changes_no_bit() {
    for device in devices().iter().take(1) {
        for format in [Format::Bf16, Format::Bf16x3] {
            let of = |sizes_of, seed| UnitProduct { product: sizes(format, sizes_of, seed), with_rows: true };
            for case in [forward(of((70, 21, 511), 1)), backward(of((70, 1021, 11), 2))] {
                let [small, large] = [0, 4149].map(|spare| outputs_once(device, &case, spare).0);
                for (small, large) in small.iter().zip(&large) {
                    assert_same_bits(&format!("{} in {format:?}", case.kernel), small, large);
                }
            }
        }
    }
}

/// Few columns, and rows for two groups of the column sums, in a grid for so many rows that the larger tile is used.
#[test]
fn products_of_many_tiles_agree_with_the_reference() {
    for format in [Format::Bf16, Format::Bf16x3] {
        for with_rows in [true, false] {
            let of = |sizes_of, seed| UnitProduct { product: sizes(format, sizes_of, seed), with_rows };
            agree_once(&forward(of((2171, 21, 65), 3)), 132 * 128);
            agree_once(&backward(of((2171, 130, 10), 4)), 132 * 128);
        }
    }
}

/// The case with these z, with norm(z) = z, in the element type of the format.
fn of_z(case: Case, product: Product, z: Vec<f32>) -> Case {
    let columns = product.inputs;
    let matrix = match product.format {
        Format::Bf16 => HostMatrix::new::<bf16>(z, columns),
        _ => HostMatrix::new::<f32>(z, columns),
    };
    with(case, move |spare, prepared| {
        prepared.host.stored[0] = matrix.clone().with_room(spare);
        for (of, value) in prepared.host.inputs.iter_mut().zip([0.0, 1.0, 1.0, 0.0]) {
            *of = vec![value; columns];
        }
    })
}

/// z of a case.
fn z_of(case: &Case) -> Vec<f32> {
    (case.prepare)(0).host.stored[0].wide().into_iter().map(|z| z as f32).collect()
}

/// Rows of zeros, rows with lengths below the smallest divisor and just above it, and a row with a NaN, which must stay
/// NaN.
#[test]
fn rows_without_length_are_divided_by_the_least() {
    if no_device() {
        return;
    }
    let (rows, inputs, half) = (5, 7, 3);
    for (order, format) in [1, 2].into_iter().flat_map(|order| FORMATS.map(|format| (order, format))) {
        let product = sizes(format, (rows, inputs, half), 5);
        let of = UnitProduct { product, with_rows: true };
        let mut z = z_of(&forward(of));
        z[..inputs].fill(-1.0);
        z[inputs..3 * inputs].fill(0.0);
        z[inputs + 2] = 1e-13;
        z[2 * inputs + 4] = 3e-12;
        let case = of_z(forward(of), product, z.clone());
        let third = f64::from(z_of(&case)[2 * inputs + 4]);
        let [healthy, lengths] = agree(order, &case).try_into().expect("two outputs");
        assert_eq!(lengths[..2], [f64::from(L2_EPSILON as f32); 2], "{format:?}");
        assert!((lengths[2] / third - 1.0).abs() < 1e-6, "{format:?}");
        agree(order, &of_z(backward(of), product, z.clone()));
        let without = UnitProduct { with_rows: false, ..of };
        all_agree(order, [forward(without), backward(without)].map(|case| of_z(case, product, z.clone())));
        z[3 * inputs + 1] = f32::NAN;
        let case = of_z(forward(of), product, z);
        let [y, lengths] = outputs(order, case.kernel, &case.prepare).try_into().expect("two outputs");
        let nan = |row: usize| y[row * 2 * half..][..2 * half].iter().filter(|y| y.is_nan()).count();
        assert_eq!([0, 1, 2, 3, 4].map(nan), [0, 0, 0, 2 * half, 0], "{format:?}");
        assert_eq!([0, 1, 2, 3, 4].map(|row| lengths[row].is_nan()), [false, false, false, true, false]);
        assert_eq!(y[..3 * 2 * half], healthy[..3 * 2 * half], "{format:?}: other rows");
    }
}

/// The whole chain of forward, sums per end and backward. The gradient of the sum of S (x W^T) with respect to u is
/// compared with that of the l2 normalisation in double precision.
///
/// With S' = S / |u|, the error of d_u is that of the product and of the stores, plus u times the error of t. t = (S' .
/// P) / |u| uses the stored S' and P, each rounded once. So the error of t is two roundings, plus the errors of P's
/// product and of the additions, relative to (|S'| . |P|) / |u|. |P| is the sum of the magnitudes of its terms.
#[test]
fn forward_sums_and_backward_are_the_gradient_of_the_normalisation() {
    check(40, (1..=40usize, 1..=40usize, 1..=40usize, seeds()), |(rows, inputs, half, seed)| {
        for format in FORMATS {
            let product = sizes(format, (rows, inputs, half), seed);
            match format {
                Format::Bf16 => check_way::<bf16>(product),
                _ => check_way::<f32>(product),
            }
        }
    });
}

fn check_way<T: StoredElement>(product: Product) {
    let Product { rows, inputs, outputs, format, seed, .. } = product;
    let (hidden, of) = (outputs / 2, UnitProduct { product, with_rows: true });
    // The length of the first row is below the smallest divisor, so its gradient is d_x over that divisor.
    let mut z = z_of(&forward(of));
    z[..inputs].fill(1e-14);
    let case = of_z(forward(of), product, z.clone());
    let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
    let [y, lengths_there] = agree(seed, &case).try_into().expect("two outputs");
    let host = (case.prepare)(0).host;

    // Each row is both ends of one edge, so S is twice d_z.
    let ends: Vec<u32> = (0..rows as u32).collect();
    let predicate = vec![0; rows];
    let edges = Edges { predicate, predicates: 1, ends: [ends.clone(), ends], rows, hidden, seed };
    let sums = sum_ends::<T>(edges, true);
    let d_z = (sums.prepare)(0).host.stored[0].wide();
    let s: Vec<f64> = d_z.chunks_exact(hidden).flat_map(|row| [row, row].concat()).collect();
    let (projected, lengths_there) = (narrow(&y), narrow(&lengths_there));
    let sums = with(sums, move |spare, prepared| {
        prepared.host.stored[1] = HostMatrix::new::<T>(projected.clone(), outputs).with_room(spare);
        prepared.host.inputs[0][..rows].copy_from_slice(&lengths_there);
    });
    let [over_lengths, along] = agree(seed, &sums).try_into().expect("two outputs");
    assert_eq!(along[0], 0.0, "{format:?}: a length below the least divisor");

    let weight = Rc::new(host.stored[1].clone());
    let (over_lengths, along) = (narrow(&over_lengths), narrow(&along));
    let of_forward = weight.clone();
    let case = with(of_z(backward(of), product, z), move |spare, prepared| {
        prepared.host.stored[1] = HostMatrix::new::<T>(over_lengths.clone(), outputs).with_room(spare);
        prepared.host.stored[2] = (*of_forward).clone();
        prepared.host.inputs[4][..rows].copy_from_slice(&along);
    });
    let d_u = &agree(seed, &case)[0];

    let part = T::stride(inputs);
    let rows_of_weight = |start: usize| -> Vec<f64> {
        let weight = weight.wide();
        weight.chunks_exact(3 * part).flat_map(|row| row[start..][..inputs].to_vec()).collect()
    };
    let weight = [rows_of_weight(0), rows_of_weight(2 * part)].concat();
    let u = host.stored[0].wide().into_iter().map(|z| z.max(0.0)).collect::<Vec<f64>>();
    let lengths = lengths(&u, inputs);
    let d_x = reference_products::linear_backward_input(&s, &weight, inputs, outputs);
    let want = reference::l2_normalise_backward(&u, &d_x, inputs);
    let magnitudes = |values: &[f64]| values.iter().map(|value| value.abs()).collect::<Vec<f64>>();
    let (s, weight) = (magnitudes(&s), magnitudes(&weight));
    let product = reference_products::linear_backward_input(&s, &weight, inputs, outputs);
    let projected = reference_products::linear(&u, &weight, inputs, outputs);
    let stored_once = T::ROUNDING;
    for (row, &length) in lengths.iter().enumerate() {
        let columns = row * outputs..(row + 1) * outputs;
        let dot: f64 = s[columns.clone()].iter().zip(&projected[columns]).map(|(s, p)| s * p).sum();
        let along = if row == 0 { 0.0 } else { dot / length / length / length };
        let error = Error::new(format, inputs.max(outputs), 0).strict;
        let error = 2.0 * (error + 2.0 * stored_once + 4.0 * length_error(inputs));
        for at in row * inputs..(row + 1) * inputs {
            let limit = error * (product[at] / length + u[at] * along);
            let limit = limit + stored_once * want[at].abs() + f64::from(f32::MIN_POSITIVE);
            let off = (d_u[at] - want[at]).abs();
            assert!(
                off <= limit,
                "{format:?} [{rows}, {inputs} -> {outputs}], {at}: {} where {} is expected, limit {limit:.3e}",
                d_u[at],
                want[at]
            );
        }
    }
}
