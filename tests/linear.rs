//! linear: the products in every format against the reference in double precision.
//!
//! Bounds hold for every value: with M = sum of |a| |b| over its terms, operands rounded with relative errors of up to u
//! move it by (2 u + u^2) M, and each addition by an eps of a partial sum, which is at most M.

mod kernel_support;

use kernel_support::{ROWS, Values, devices, poisoned, to_device, to_host, wide};
use scenerank::backend::cuda::buffer::Buffer;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::linear::{
    Format, Matrix, MatrixMut, Output, linear_backward_input, linear_backward_weight, linear_forward,
};
use scenerank::backend::reference::linear as reference;

const FORMATS: [Format; 4] = [Format::Fp32, Format::Tf32, Format::Bf16, Format::Bf16x3];

/// Inputs and outputs: below, at and above a tile, no multiple of anything, one.
const WIDTHS: [(usize, usize); 5] = [(13, 19), (64, 64), (65, 1), (1, 65), (100, 67)];

/// What the operands' rounding may move of M.
fn operand_error(format: Format) -> f64 {
    let both = |bits: i32| 2.0 * 2f64.powi(-bits) + 2f64.powi(-2 * bits);
    match format {
        Format::Fp32 => 0.0,
        Format::Tf32 => both(11),
        Format::Bf16 => both(8),
        // Each operand's rest is at most 2^-17 of it, and the product of the two lows, left out, 2^-16 of the product.
        Format::Bf16x3 => both(17) + 2f64.powi(-16),
    }
}

/// Of all: tensor cores may truncate where they add, and the format of two bf16 adds three times a term.
fn error(format: Format, terms: usize) -> f64 {
    let additions = if format == Format::Bf16x3 { 3 * terms } else { terms };
    operand_error(format) + f64::from(f32::EPSILON) * (additions as f64 + 4.0)
}

/// Panics where `got` is further from `want` than `error` of `magnitude`, value by value (NaN is).
#[track_caller]
fn assert_near(name: &str, got: &[f32], want: &[f64], magnitude: &[f64], error: f64) {
    assert_eq!(got.len(), want.len(), "{name}: length");
    for (i, (&got, (want, magnitude))) in got.iter().zip(want.iter().zip(magnitude)).enumerate() {
        let (off, limit) = ((f64::from(got) - want).abs(), error * magnitude);
        assert!(
            off <= limit,
            "{name}[{i}]: {got} where {want} is expected: off by {off:.3e}, limit {limit:.3e}"
        );
    }
}

fn matrix(buffer: &Buffer<f32>, rows: usize, columns: usize) -> Matrix<'_> {
    Matrix::new(buffer.slice(0..buffer.len()), rows, columns)
}

fn matrix_mut(buffer: &mut Buffer<f32>, rows: usize, columns: usize) -> MatrixMut<'_> {
    let len = buffer.len();
    MatrixMut::new(buffer.slice_mut(0..len), rows, columns)
}

fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.abs()).collect()
}

#[derive(Clone, Copy, Debug)]
enum Product {
    Forward,
    BackwardInput,
    BackwardWeight,
}

const PRODUCTS: [Product; 3] = [Product::Forward, Product::BackwardInput, Product::BackwardWeight];

/// A layer's random values.
struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    d_y: Vec<f32>,
}

impl Case {
    fn new(rows: usize, inputs: usize, outputs: usize, seed: u64) -> Self {
        let mut values = Values::new(seed);
        let (x, weight) = (values.signed(rows * inputs), values.signed(outputs * inputs));
        Case { rows, inputs, outputs, x, weight, d_y: values.signed(rows * outputs) }
    }

    /// What the reference makes of values that `of` was applied to.
    fn reference(&self, product: Product, of: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
        let Case { inputs, outputs, .. } = *self;
        let [x, weight, d_y] = [&self.x, &self.weight, &self.d_y].map(|values| of(&wide(values)));
        match product {
            Product::Forward => reference::linear(&x, &weight, inputs, outputs),
            Product::BackwardInput => reference::linear_backward_input(&d_y, &weight, inputs, outputs),
            Product::BackwardWeight => {
                let mut d_weight = vec![f64::NAN; outputs * inputs];
                reference::linear_backward_weight(&d_y, &x, inputs, outputs, &mut d_weight);
                d_weight
            }
        }
    }

    /// The product on the device, and how many values the buffer for parts has then.
    fn compute(&self, product: Product, device: &Device, format: Format) -> (Vec<f32>, usize) {
        let Case { rows, inputs, outputs, .. } = *self;
        let [x, weight, d_y] = [&self.x, &self.weight, &self.d_y].map(|values| to_device(device, values));
        let (x, weight) = (matrix(&x, rows, inputs), matrix(&weight, outputs, inputs));
        let d_y = matrix(&d_y, rows, outputs);
        let (rows, columns) = match product {
            Product::Forward => (rows, outputs),
            Product::BackwardInput => (rows, inputs),
            Product::BackwardWeight => (outputs, inputs),
        };
        let (mut out, mut parts) = (poisoned(device, rows * columns), poisoned(device, 0));
        let to = &mut matrix_mut(&mut out, rows, columns);
        match product {
            Product::Forward => linear_forward(device, format, to, x, weight, Output::Replace),
            Product::BackwardInput => linear_backward_input(device, format, to, d_y, weight, Output::Replace),
            Product::BackwardWeight => linear_backward_weight(device, format, to, d_y, x, &mut parts),
        }
        .expect("a launch");
        (to_host(device, &out), parts.len())
    }

    /// The product on every device in every format: within its bound, and with the same bits everywhere.
    fn check(&self, product: Product, devices: &[Device], formats: &[Format]) {
        let want = self.reference(product, <[f64]>::to_vec);
        let magnitude = self.reference(product, magnitudes);
        let Case { rows, inputs, outputs, .. } = *self;
        let terms = match product {
            Product::Forward => inputs,
            Product::BackwardInput => outputs,
            Product::BackwardWeight => rows,
        };
        for &format in formats {
            let name = format!("{product:?} in {format:?} [{rows}, {inputs} -> {outputs}]");
            let mut seen = devices.iter().map(|device| self.compute(product, device, format).0);
            let Some(first) = seen.next() else { return };
            assert_near(&name, &first, &want, &magnitude, error(format, terms));
            assert!(seen.all(|other| other == first), "{name}: orders of threads change the bits");
        }
    }
}

#[test]
fn all_three_products_agree_with_the_reference() {
    let devices = devices();
    let mut random = Values::new(99);
    let fixed = ROWS.iter().flat_map(|&rows| WIDTHS.map(|(inputs, outputs)| (rows, inputs, outputs)));
    let drawn: Vec<_> = (0..12)
        .map(|_| {
            let sizes = random.indices(3, 200);
            (sizes[0] as usize, 1 + sizes[1] as usize, 1 + sizes[2] as usize)
        })
        .collect();
    for (seed, (rows, inputs, outputs)) in (0..).zip(fixed.chain(drawn)) {
        let case = Case::new(rows, inputs, outputs, seed);
        for product in PRODUCTS {
            case.check(product, &devices, &FORMATS);
        }
    }
}

#[test]
fn products_of_many_tiles_agree_with_the_reference() {
    // 33 x 8 tiles of 128 x 128, from where on they are taken; the last ones are partial.
    let (many, several) = (4219, 1021);
    let devices: Vec<Device> = devices().into_iter().take(1).collect();
    let formats = [Format::Tf32, Format::Bf16, Format::Bf16x3];
    Case::new(many, 21, several, 5).check(Product::Forward, &devices, &formats);
    Case::new(many, several, 21, 6).check(Product::BackwardInput, &devices, &formats);
    Case::new(257, several, many, 7).check(Product::BackwardWeight, &devices, &formats);
}

/// Products of one term each have no error but that of their operands: the largest of many comes near its bound. So a
/// format that computed in another's place would be seen.
#[test]
fn every_format_has_its_own_precision() {
    let (rows, outputs) = (257, 70);
    let mut values = Values::new(4);
    let (x, weight) = (values.signed(rows), values.signed(outputs));
    for device in devices() {
        let (x_there, weight_there) = (to_device(&device, &x), to_device(&device, &weight));
        for (format, least) in [
            (Format::Fp32, 0.0),
            (Format::Bf16x3, 2f64.powi(-17)),
            (Format::Tf32, 2f64.powi(-11)),
            (Format::Bf16, 2f64.powi(-8)),
        ] {
            let mut y = poisoned(&device, rows * outputs);
            let mut target = matrix_mut(&mut y, rows, outputs);
            let (x_there, weight_there) = (matrix(&x_there, rows, 1), matrix(&weight_there, outputs, 1));
            linear_forward(&device, format, &mut target, x_there, weight_there, Output::Replace)
                .expect("a launch");
            let got = to_host(&device, &y);
            let worst = (0..rows * outputs).fold(0.0, |worst: f64, i| {
                let want = f64::from(x[i / outputs]) * f64::from(weight[i % outputs]);
                worst.max((f64::from(got[i]) / want - 1.0).abs())
            });
            assert!(worst >= least, "{format:?}: {worst:.3e} is more precise than the format");
            assert!(worst <= error(format, 1), "{format:?}: {worst:.3e}");
        }
    }
}

#[test]
fn parts_of_wider_matrices_are_read_written_and_added_to() {
    // The second at multiples of 16 bytes, where copies are wide.
    for (rows, width, hidden) in [(70, 21, 34), (70, 20, 36)] {
        let mut values = Values::new(1);
        let (x, weight) = (values.signed(rows * width), values.signed(hidden * 3 * width));
        let before = values.signed(rows * 2 * hidden);
        let part_of_weight: Vec<f64> =
            weight.chunks_exact(3 * width).flat_map(|row| wide(&row[2 * width..])).collect();
        let product = reference::linear(&wide(&x), &part_of_weight, width, hidden);
        let magnitude =
            reference::linear(&magnitudes(&wide(&x)), &magnitudes(&part_of_weight), width, hidden);
        for (device, format) in devices().iter().flat_map(|device| FORMATS.map(|format| (device, format))) {
            let (x_there, weight_there) = (to_device(device, &x), to_device(device, &weight));
            let x_there = matrix(&x_there, rows, width);
            let part = matrix(&weight_there, hidden, 3 * width).columns(2 * width, width);
            let mut y = to_device(device, &before);
            let mut target = matrix_mut(&mut y, rows, 2 * hidden);
            let mut target = target.columns(hidden, hidden);
            linear_forward(device, format, &mut target, x_there, part, Output::Add).expect("a launch");
            let got = to_host(device, &y);
            let of = |values: &[f32], column: usize| -> Vec<f32> {
                values.chunks_exact(2 * hidden).flat_map(|row| row[column..][..hidden].to_vec()).collect()
            };
            assert_eq!(of(&got, 0), of(&before, 0), "columns beside the part");
            let added = of(&before, hidden);
            let sums = |to: &[f64], from: Vec<f64>| -> Vec<f64> {
                to.iter().zip(from).map(|(to, from)| to + from).collect()
            };
            let want = sums(&product, wide(&added));
            let magnitude = sums(&magnitude, magnitudes(&wide(&added)));
            assert_near(
                &format!("{format:?} y"),
                &of(&got, hidden),
                &want,
                &magnitude,
                error(format, width + 1),
            );
        }
    }
}

#[test]
fn a_gradient_in_many_parts_has_the_same_bits_each_time() {
    let case = Case::new(2000, 40, 30, 2);
    let devices = devices();
    for device in devices.iter().take(1) {
        let (_, parts) = case.compute(Product::BackwardWeight, device, Format::Bf16);
        assert!(parts > 40 * 30, "so many rows are split");
    }
    case.check(Product::BackwardWeight, &devices, &FORMATS);
}
