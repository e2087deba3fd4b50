//! linear: the cases of the bench at random shapes in every format; the choice of tiles, parts of wider matrices, two
//! products in one launch, and the gradients against finite differences.

use crate::support::agreement::{
    agree, agree_in_orders, agree_in_two_orders, agree_once, assert_same_bits, outputs_once, with,
};
use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{FORMATS, check, no_device, product_formats, rows, seeds};
use crate::support::{ROWS, Values, assert_within, devices, spare};
use half::bf16;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::device::rows::Rows;
use scenerank::backend::cuda::launchers::linear::{
    Backward, Format, Forward, Input, LinearGradients, Matrix, MatrixMut, StoredFormat, linear_backward,
    linear_forward,
};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::linear as reference;
use scenerank::bench::case::Case;
use scenerank::bench::cases::linear::backward::{BackwardProduct, backward};
use scenerank::bench::cases::linear::forward::{Ends, ForwardProduct, Types, forward, forward_two};
use scenerank::bench::cases::linear::{Launches, Part, Product, X};
use scenerank::bench::check::Output;
use scenerank::bench::matrix::HostMatrix;

/// Numbers of inputs and outputs: below, at and above a tile, odd ones, and 1.
const WIDTHS: [(usize, usize); 5] = [(13, 19), (64, 64), (65, 1), (1, 65), (100, 67)];

/// Number of nodes that edges gather from.
const NODES: usize = 9;

fn sizes(rows: usize, inputs: usize, outputs: usize, format: Format, seed: u64) -> Product {
    Product { what: "test", rows, inputs, outputs, format, seed }
}

/// Position of x among columns that no kernel may read.
fn part(product: Product) -> Part {
    let multiple = if product.format.is_stored_in_bf16() { bf16::ROW_MULTIPLE } else { f32::ROW_MULTIPLE };
    let start = product.rows % 5 * multiple;
    Part { start, of: start + product.inputs + product.rows % 3 }
}

/// Forward products of x and of relu(norm(x)), with and without added rows of nodes.
fn forwards(product: Product) -> [Case; 4] {
    [(false, false), (false, true), (true, false), (true, true)].map(|(activated, gathers)| {
        let mut values = Values::new(product.seed);
        let of = [0; 2].map(|_| values.indices(product.rows, NODES));
        let (part, ends) = (part(product), gathers.then_some(Ends { of, nodes: NODES }));
        forward(ForwardProduct { product, activated, with_statistics: true, part, ends })
    })
}

fn backwards(product: Product) -> [Case; 3] {
    [X::Values, X::Activated, X::ActivatedWithSums]
        .map(|x| backward(BackwardProduct { product, x, part: part(product) }))
}

fn all_products_agree(rows: usize, inputs: usize, outputs: usize, seed: u64) {
    for format in FORMATS {
        let product = sizes(rows, inputs, outputs, format, seed);
        for case in forwards(product).iter().chain(&backwards(product)) {
            agree_in_orders(&[seed, seed + 1], case);
        }
    }
}

#[test]
fn all_products_agree_with_the_reference() {
    if no_device() {
        return;
    }
    let sizes = ROWS.iter().flat_map(|&rows| WIDTHS.map(|(inputs, outputs)| (rows, inputs, outputs)));
    for (seed, (rows, inputs, outputs)) in (0..).zip(sizes) {
        all_products_agree(rows, inputs, outputs, seed);
    }
}

#[test]
fn products_of_any_sizes_agree_with_the_reference() {
    check(20, (rows(), 1..=200usize, 1..=200usize, seeds()), |(rows, inputs, outputs, seed)| {
        all_products_agree(rows, inputs, outputs, seed);
    });
}

#[test]
fn the_backward_products_agree_with_finite_differences() {
    check(50, (1..=4usize, 1..=4usize, 1..=4usize, seeds()), |(rows, inputs, outputs, seed)| {
        for format in FORMATS {
            let product = sizes(rows, inputs, outputs, format, seed);
            let (x, part) = (X::Values, product.whole());
            let case = backward(BackwardProduct { product, x, part });
            agree(seed, &case);
            let prepared = (case.prepare)(0);
            let [d_y, x, weight] = prepared.host.wide_stored();
            let loss = |x: &[f64], weight: &[f64]| {
                weighted_sum(&d_y, &reference::linear(x, weight, inputs, outputs))
            };
            // The limits of the kernels, plus the error of the finite differences.
            let [d_x, d_weight, ..] = &(prepared.expected)(&prepared.host, &[])[..] else { panic!() };
            let want = central_differences(&x, |x| loss(x, &weight));
            // Both in double precision: a loss below 10 is off by 1e-15 or two, over 2e-5.
            assert_within("d_x", &d_x.values, &want, 1e-9);
            let want = central_differences(&weight, |weight| loss(&x, weight));
            assert_within("d_weight", &d_weight.values, &want, 1e-9);
        }
    });
}

#[test]
fn products_of_many_tiles_agree_with_the_reference() {
    // 33 x 8 tiles of 128 x 128: the smallest grid that uses this tile. The last tiles are partial.
    let (many, several) = (4219, 1021);
    let [.., activated, _] = forwards(sizes(many, 21, several, Format::Bf16, 5));
    agree_once(&activated, 0);
    let [.., with_sums] = backwards(sizes(many, several, 21, Format::Bf16, 6));
    agree_once(&with_sums, 0);
    // Few columns, and rows for two groups of the column sums, in a grid for so many rows that this tile is used.
    let (rows, few, spare) = (2171, 130, 132 * 128);
    for format in [Format::Bf16, Format::Bf16x3] {
        let forwards = forwards(sizes(rows, 21, few, format, 7));
        let backwards = backwards(sizes(rows, few, 21, format, 8));
        forwards.iter().chain(&backwards).for_each(|case| agree_once(case, spare));
    }
}

/// Few rows in a grid for so many that the larger tile is used.
#[test]
fn the_tile_that_a_bound_chooses_changes_no_bit() {
    for device in devices().iter().take(1) {
        for format in [Format::Bf16, Format::Bf16x3] {
            let forwards = forwards(sizes(70, 21, 1021, format, 8));
            let backwards = backwards(sizes(70, 1021, 21, format, 9));
            for (at, case) in forwards.iter().chain(&backwards).enumerate() {
                let (small, small_parts) = outputs_once(device, case, 0);
                let (large, large_parts) = outputs_once(device, case, 4149);
                small.iter().zip(&large).for_each(|(small, large)| {
                    assert_same_bits(&format!("{} in {format:?}", case.shape), small, large);
                });
                let more = large_parts > small_parts;
                assert_eq!(more, at >= forwards.len(), "{}: room for more parts", case.shape);
            }
        }
    }
}

/// Products of one term have only the error of their operands, and the largest of many comes close to its bound. A
/// format that computed in place of another would therefore show. In bf16 the operands and the product are also stored
/// in bf16.
#[test]
fn every_format_has_its_own_precision() {
    if no_device() {
        return;
    }
    let (rows, outputs) = (257, 70);
    for (format, least) in
        [(Format::Fp32, 0.0), (Format::Bf16x3, 2f64.powi(-17)), (Format::Bf16, 2f64.powi(-9))]
    {
        let case = forward(ForwardProduct::plain(sizes(rows, 1, outputs, format, 4)));
        let [x, weight, _] = (case.prepare)(0).host.wide_stored();
        let y = &agree_in_two_orders(&case)[0];
        let worst = (0..rows * outputs).fold(0.0, |worst: f64, i| {
            worst.max((y[i] / (x[i / outputs] * weight[i % outputs]) - 1.0).abs())
        });
        assert!(worst >= least, "{format:?}: {worst:.3e} is more precise than the format");
    }
}

/// Two parts of a wider weight, stacked. The products have the same bits as those of separate matrices, and nothing
/// else is written.
#[test]
fn parts_of_wider_matrices_are_read_and_written() {
    if no_device() {
        return;
    }
    // The second shape is at multiples of 16 bytes, where copies are wide. The last ones have their split inside a tile
    // and beyond it.
    for (rows, width, hidden) in [(70, 21, 34), (70, 20, 36), (300, 8, 70)] {
        for format in product_formats() {
            let product = sizes(rows, width, 2 * hidden, format, 3);
            match format {
                Format::Bf16 => check_parts(product, hidden, StoredFormat::BF16),
                Format::Bf16Warpgroup => check_parts(product, hidden, StoredFormat::BF16_WARPGROUP),
                Format::Fp32 => check_parts(product, hidden, StoredFormat::FP32),
                Format::Bf16x3 => check_parts(product, hidden, StoredFormat::BF16X3),
                Format::Bf16x3Warpgroup => check_parts(product, hidden, StoredFormat::BF16X3_WARPGROUP),
            }
        }
    }
}

/// Rows of three parts, each padded to `part`. The first and the last hold the halves of `weight`; all other values are
/// `other`.
fn in_parts(weight: &[f64], width: usize, part: usize, other: f64) -> Vec<f64> {
    let (left, right) = weight.split_at(weight.len() / 2);
    let rows = left.chunks_exact(width).zip(right.chunks_exact(width));
    let padding = vec![other; part - width];
    rows.flat_map(|(left, right)| [left, &padding, &vec![other; part], right, &padding].concat()).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

fn check_parts<T: StoredElement>(product: Product, hidden: usize, format: StoredFormat<T>) {
    let Product { rows, inputs: width, .. } = product;
    let plain = forward(ForwardProduct::plain(product));
    let y = agree(1, &plain).remove(0);
    let part = T::stride(width);
    // The product is written into columns of a wider matrix.
    let (before, whole) = (8, 8 + 2 * hidden + 1);
    let case = with(plain, move |spare, prepared| {
        let weight = prepared.host.stored[1].wide();
        let weight = in_parts(&weight, width, part, f64::NAN);
        prepared.host.stored[1] = HostMatrix::new::<T>(narrow(&weight), 3 * part);
        prepared.host.stored_outputs[0] =
            HostMatrix::new::<T>(vec![7.0; rows * whole], whole).with_room(spare);
        prepared.launch = Box::new(move |device, arrays| {
            let ([x, weight, _], [y], parts) = arrays.stored_as::<T>().parts::<3, 1, 6, 3, 6>();
            let (_, [.., count], ..) = parts;
            let bound = rows + spare;
            let x = Input::Values(Matrix::new(x, bound, width));
            let weight = Matrix::new(weight, hidden, 3 * part).stacked(0, 2 * part, width);
            let mut y = MatrixMut::new(y, bound, whole);
            let y = y.columns(before, 2 * hidden);
            linear_forward(device, format, Forward { rows: Rows { count, bound }, y, x, weight }, None)
        });
        let row = |row: &[f64]| [&vec![7.0; before], row, &[7.0]].concat();
        let wider = y.chunks_exact(2 * hidden).flat_map(row).collect::<Vec<f64>>();
        let after = expected_after(&prepared.host.outputs[4..]);
        prepared.expected = Box::new(move |_, _| [vec![Output::exact("y", wider.clone())], after()].concat());
    });
    agree_in_two_orders(&case);

    let of = BackwardProduct { product, x: X::Values, part: product.whole() };
    let [d_x, d_weight, ..] = &agree(1, &backward(of))[..] else { panic!() };
    let (d_x, d_weight) = (d_x.clone(), in_parts(d_weight, width, width, 7.0));
    let case = with(backward(of), move |spare, prepared| {
        let weight = prepared.host.stored[2].wide();
        let weight = in_parts(&weight, width, part, f64::NAN);
        prepared.host.stored[2] = HostMatrix::new::<T>(narrow(&weight), 3 * part);
        prepared.host.outputs[0] = vec![7.0; hidden * 3 * width];
        prepared.launch = Box::new(move |device, arrays| {
            let ([d_y, x, weight], [d_x], parts) = arrays.stored_as::<T>().parts::<3, 1, 4, 1, 3>();
            let (_, [count], [d_weight, ..], others) = parts;
            let bound = rows + spare;
            let mut d_weight = MatrixMut::new(d_weight, hidden, 3 * width);
            let to = LinearGradients {
                x: MatrixMut::new(d_x, bound, width),
                weight: d_weight.stacked(0, 2 * width, width),
                norm: None,
            };
            let d_y = Matrix::new(d_y, bound, 2 * hidden);
            let x = Input::Values(Matrix::new(x, bound, width));
            let weight = Matrix::new(weight, hidden, 3 * part).stacked(0, 2 * part, width);
            let of = Backward { rows: Rows { count, bound }, to, d_y, x, weight };
            linear_backward(device, format, of, &mut others.parts)
        });
        let (d_x, d_weight) = (d_x.clone(), d_weight.clone());
        prepared.expected = Box::new(move |_, _| {
            let [d_norm_weight, d_norm_bias] =
                ["d_norm_weight", "d_norm_bias"].map(|name| Output::exact(name, Vec::new()));
            let [d_x, d_weight] =
                [("d_x", &d_x), ("d_weight", &d_weight)].map(|(name, of)| Output::exact(name, of.clone()));
            vec![d_x, d_weight, d_norm_weight, d_norm_bias]
        });
    });
    agree_in_two_orders(&case);
}

/// Running statistics, which no launch here updates.
fn expected_after(running: &[Vec<f32>]) -> impl Fn() -> Vec<Output> + 'static {
    let wide = |values: &Vec<f32>| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    let (mean, var) = (wide(&running[0]), wide(&running[1]));
    move || {
        let none = ["mean", "rstd", "scale", "shift"].map(|name| Output::exact(name, Vec::new()));
        let [mean, var] = [("running_mean", &mean), ("running_var", &var)]
            .map(|(name, values)| Output::exact(name, values.clone()));
        none.into_iter().chain([mean, var]).collect()
    }
}

/// Both products have the same bits as in separate launches.
fn two_agree(device: &Device, order: u64, of: Types) {
    let one = agree_in_orders(&[order, order + 1], &forward_two(of, Launches::One));
    let (two, _) = outputs_once(device, &forward_two(of, Launches::Two), 0);
    one.iter().zip(&two).for_each(|(one, two)| assert_same_bits(&format!("{of:?}"), one, two));
}

#[test]
fn two_products_in_a_launch_have_the_bits_of_each() {
    let devices = devices();
    let Some(device) = devices.first() else { return };
    check(
        20,
        (rows(), rows(), 1..=80usize, 1..=100usize, seeds()),
        |(first, second, hidden, inputs, seed)| {
            for format in FORMATS {
                let room = [spare(seed), spare(seed / 8)];
                two_agree(device, seed, Types { rows: [first, second], room, inputs, hidden, format, seed });
            }
        },
    );
    for format in product_formats() {
        two_agree(
            device,
            1,
            Types { rows: [70, 9], room: [0, 64], inputs: 21, hidden: 80, format, seed: 12 },
        );
        two_agree(device, 1, Types { rows: [0, 0], room: [0, 0], inputs: 5, hidden: 3, format, seed: 11 });
    }
    // Grids for so many rows that the larger tile is used, once because of the first product and once because of the
    // second.
    for format in [Format::Bf16, Format::Bf16x3] {
        let of = Types { rows: [70, 130], room: [4149, 0], inputs: 21, hidden: 449, format, seed: 11 };
        two_agree(device, 1, of);
        two_agree(device, 1, Types { rows: [130, 70], room: [0, 4149], hidden: 1021, ..of });
    }
}

#[test]
fn a_gradient_in_many_parts_has_the_same_bits_each_time() {
    for device in devices().iter().take(1) {
        for format in product_formats() {
            let [case, ..] = backwards(sizes(2000, 40, 30, format, 2));
            let (_, parts) = outputs_once(device, &case, 0);
            assert!(parts > 40 * 30, "so many rows are split");
            agree_in_two_orders(&case);
        }
    }
}
