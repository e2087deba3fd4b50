//! linear: the products of the backward that make d_y, batch norm's backward of (d, z), while they read it: the bits of two
//! launches, and near the reference in double precision.

mod kernel_support;

use half::bf16;
use kernel_support::cases::{check, rows, seeds};
use kernel_support::products::{
    FORMATS, addition_error, assert_near, magnitudes, matrix, matrix_mut, operand_error, stored_error,
};
use kernel_support::stored::{rounded, stored, stored_to_host, unwritten};
use kernel_support::{
    Counted, ROWS, Values, all, all_mut, devices, poisoned, spare, to_device, to_host, wide,
};
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::device::buffer::Buffer;
use scenerank::backend::cuda::launchers::batch_norm::{
    Norm, NormBackward, NormGradient, Sums, batch_norm_backward,
};
use scenerank::backend::cuda::launchers::linear::{
    Backward, Format, Gradient, Input, LinearGradients, WeightParts, linear_backward,
};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::linear as reference;

/// Inputs and outputs: below, at and above a tile; of whole copies of 16 bytes, and not.
const WIDTHS: [(usize, usize); 6] = [(13, 19), (64, 64), (65, 1), (1, 65), (100, 67), (36, 100)];

/// What x is, and whether the sums of its norm's backward are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum X {
    Values,
    Activated,
    ActivatedWithSums,
}

const ALL: [X; 3] = [X::Values, X::Activated, X::ActivatedWithSums];

/// Where d_y is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// In a launch before, and stored.
    Before,
    /// By the products, or where they take the larger tile before them, as they see fit.
    ByProducts,
}

/// A layer's random values.
struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    d: Vec<f32>,
    z: Vec<f32>,
    /// Of x and of z: mean, rstd, weight and bias.
    norms: [[Vec<f32>; 4]; 2],
    /// `[2, O]`: what is subtracted.
    terms: Vec<f32>,
}

/// d_x, d_W, and where they are wanted the gradients of the norm's weight and bias; and what is left in d's place.
#[derive(PartialEq)]
struct Outcome {
    gradients: Vec<Vec<f32>>,
    d: Vec<f32>,
}

impl Case {
    /// The values as this format stores them.
    fn new(format: Format, (rows, inputs, outputs): (usize, usize, usize), seed: u64) -> Self {
        let mut values = Values::new(seed);
        let mut stored = |count: usize| match format {
            Format::Bf16 => rounded::<bf16>(values.signed(count)),
            _ => values.signed(count),
        };
        let (x, weight) = (stored(rows * inputs), stored(outputs * inputs));
        let (d, z) = (stored(rows * outputs), stored(rows * outputs));
        let norms = [inputs, outputs]
            .map(|n| [values.signed(n), values.positive(n), values.signed(n), values.signed(n)]);
        Case { rows, inputs, outputs, x, weight, d, z, norms, terms: values.signed(2 * outputs) }
    }

    fn compute(&self, x: X, made: Made, device: &Device, format: Format, spare: usize) -> Outcome {
        match format {
            Format::Bf16 => self.compute_as::<bf16>(x, made, device, format, spare),
            _ => self.compute_as::<f32>(x, made, device, format, spare),
        }
    }

    fn compute_as<T: StoredElement>(
        &self,
        kind: X,
        made: Made,
        device: &Device,
        format: Format,
        spare: usize,
    ) -> Outcome {
        let Case { rows, inputs, outputs, .. } = *self;
        let (counted, bound) = (Counted::new(device, rows, spare), rows + spare);
        let [x, z] = [(&self.x, inputs), (&self.z, outputs)]
            .map(|(v, columns)| stored::<T>(device, v, columns, spare));
        let mut d = stored::<T>(device, &self.d, outputs, spare);
        let (weight, terms) = (stored::<T>(device, &self.weight, inputs, 0), to_device(device, &self.terms));
        let norms = self.norms.each_ref().map(|norm| norm.each_ref().map(|of| to_device(device, of)));
        let [norm_x, norm_z] = norms.each_ref().map(norm);
        let mut d_x = unwritten::<T>(device, bound, inputs);
        let mut d_weight = poisoned(device, outputs * inputs);
        let mut columns = [0; 2].map(|_| poisoned(device, inputs));
        let [d_norm_weight, d_norm_bias] = &mut columns;
        let sums = &mut Sums::new(device).expect("memory");
        let gradient = NormGradient {
            weight: all_mut(d_norm_weight),
            bias: all_mut(d_norm_bias),
            batch_statistics: true,
            sums,
        };
        let mut of = NormBackward { d: all_mut(&mut d), z: all(&z), norm: norm_z, terms: all(&terms) };
        let d_y = if made == Made::Before {
            batch_norm_backward(device, &mut of, counted.rows()).expect("a launch");
            Gradient::Values(matrix(&d, bound, outputs))
        } else {
            Gradient::ThroughNorm(of)
        };
        let x = matrix(&x, bound, inputs);
        linear_backward(
            device,
            format,
            Backward {
                rows: counted.rows(),
                to: LinearGradients {
                    x: matrix_mut(&mut d_x, bound, inputs),
                    weight: matrix_mut(&mut d_weight, outputs, inputs),
                    norm: (kind == X::ActivatedWithSums).then_some(gradient),
                },
                d_y,
                x: if kind == X::Values { Input::Values(x) } else { Input::Activated(x, norm_x) },
                weight: matrix(&weight, outputs, inputs),
            },
            &mut WeightParts::new(device).expect("memory"),
        )
        .expect("a launch");
        let mut gradients = vec![stored_to_host(device, &d_x, rows, inputs), to_host(device, &d_weight)];
        if kind == X::ActivatedWithSums {
            gradients.extend(columns.iter().map(|buffer| to_host(device, buffer)));
        }
        Outcome { gradients, d: stored_to_host(device, &d, rows, outputs) }
    }

    /// norm(.) of values in rows of as many as it has columns, as kernels round it.
    fn normed(values: &[f32], [mean, rstd, weight, bias]: &[Vec<f32>; 4]) -> Vec<f32> {
        let value = |(i, value): (usize, &f32)| {
            let c = i % mean.len();
            (value - mean[c]) * (rstd[c] * weight[c]) + bias[c]
        };
        values.iter().enumerate().map(value).collect()
    }

    /// d_y, and the sum of the magnitudes of what it is made of.
    fn d_y(&self) -> [Vec<f64>; 2] {
        let ([mean, rstd, weight, _], normed) = (&self.norms[1], Self::normed(&self.z, &self.norms[1]));
        let terms = |i: usize| {
            let c = i % self.outputs;
            let scale = f64::from(rstd[c] * weight[c]);
            let passed = if normed[i] > 0.0 { f64::from(self.d[i]) } else { 0.0 };
            let offset = f64::from(self.z[i]) - f64::from(mean[c]);
            [scale * passed, -f64::from(self.terms[c]), -offset * f64::from(self.terms[self.outputs + c])]
        };
        let count = 0..self.d.len();
        [
            count.clone().map(|i| terms(i).iter().sum()).collect(),
            count.map(|i| terms(i).iter().map(|term| term.abs()).sum()).collect(),
        ]
    }

    /// d_x and d_W of such a d_y, or of the magnitudes of all that they are made of.
    fn products(&self, x: X, d_y: &[f64], absolute: bool) -> [Vec<f64>; 2] {
        let of = |values: &[f32]| if absolute { magnitudes(&wide(values)) } else { wide(values) };
        let x = match x {
            X::Values => of(&self.x),
            _ => of(&Self::normed(&self.x, &self.norms[0]).iter().map(|y| y.max(0.0)).collect::<Vec<_>>()),
        };
        let d_x = reference::linear_backward_input(d_y, &of(&self.weight), self.inputs, self.outputs);
        let mut d_weight = vec![f64::NAN; self.outputs * self.inputs];
        reference::linear_backward_weight(d_y, &x, self.inputs, self.outputs, &mut d_weight);
        [d_x, d_weight]
    }
}

fn norm(of: &[Buffer<f32>; 4]) -> Norm<'_> {
    let [mean, rstd, weight, bias] = of.each_ref().map(all);
    Norm { mean, rstd, weight, bias }
}

/// Panics unless the products have the bits of two launches, on every device and for every grid.
fn has_the_bits_of_two_launches(devices: &[Device], format: Format, sizes: (usize, usize, usize), seed: u64) {
    let (case, Some(first)) = (Case::new(format, sizes, seed), devices.first()) else { return };
    for x in ALL {
        let two = case.compute(x, Made::Before, first, format, 0);
        for (i, device) in devices.iter().enumerate() {
            let spare = if i == 0 { 0 } else { spare(i as u64 + seed) };
            let one = case.compute(x, Made::ByProducts, device, format, spare);
            assert!(one.gradients == two.gradients, "{x:?} in {format:?} {sizes:?}: another product");
            assert!(one.d == case.d, "{x:?} in {format:?} {sizes:?}: d is only read");
        }
    }
}

#[test]
fn products_through_norm_have_the_bits_of_two_launches() {
    let devices = devices();
    let sizes = ROWS.iter().flat_map(|&rows| WIDTHS.map(|(inputs, outputs)| (rows, inputs, outputs)));
    for (seed, sizes) in (0..).zip(sizes) {
        for format in FORMATS {
            has_the_bits_of_two_launches(&devices, format, sizes, seed);
        }
    }
    check(5, (rows(), 1..=200usize, 1..=200usize, seeds()), |(rows, inputs, outputs, seed)| {
        for format in FORMATS {
            has_the_bits_of_two_launches(&devices, format, (rows, inputs, outputs), seed);
        }
    });
}

/// A grid for so many rows that d_y is made before the products, and these take the larger tile where there is one.
#[test]
fn where_a_bound_has_them_made_changes_no_bit() {
    for device in devices().iter().take(1) {
        for format in FORMATS {
            let case = Case::new(format, (70, 1021, 21), 5);
            for x in ALL {
                let small = case.compute(x, Made::ByProducts, device, format, 0);
                let large = case.compute(x, Made::ByProducts, device, format, 4149);
                assert!(small.gradients == large.gradients, "{x:?} in {format:?}");
                assert!(small.d == case.d && large.d != case.d, "{x:?} in {format:?}: made before if large");
            }
        }
    }
}

#[test]
fn products_through_norm_agree_with_the_reference() {
    let devices: Vec<Device> = devices().into_iter().take(1).collect();
    check(30, (rows(), 1..=150usize, 1..=150usize, seeds()), |(rows, inputs, outputs, seed)| {
        for (device, format) in devices.iter().flat_map(|device| FORMATS.map(|format| (device, format))) {
            let case = Case::new(format, (rows, inputs, outputs), seed);
            let [d_y, made_of] = case.d_y();
            for x in ALL {
                let got = case.compute(x, Made::ByProducts, device, format, 0);
                let (want, magnitude) = (case.products(x, &d_y, false), case.products(x, &made_of, true));
                for (which, terms) in [outputs, rows].into_iter().enumerate() {
                    let made = if which == 1 && x != X::Values { 2 } else { 1 };
                    // d_y takes a difference and two fused multiply-adds, each of up to half an eps of its magnitudes.
                    let operands =
                        (1.0 + operand_error(format, made)) * (1.0 + 2.0 * f64::from(f32::EPSILON));
                    let sum = operands * (1.0 + addition_error(format, terms)) - 1.0;
                    let error = if which == 0 { stored_error(format, sum) } else { sum };
                    let name = format!("{x:?} in {format:?}, gradient {which}");
                    assert_near(&name, &got.gradients[which], &want[which], &magnitude[which], error);
                }
            }
        }
    });
}
