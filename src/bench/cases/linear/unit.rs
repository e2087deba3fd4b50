//! Products of normalised rows x = u / |u|, with u = relu(norm(z)), and their backward.

use super::super::batch_norm::{decided_inputs, norm_gradient};
use super::super::{count, counted, norm, roundings, with_room};
use super::{
    EPS, Error, Product, chain_of_backward, input_gradient, magnitudes, norm_gradient_outputs, normed,
    parts_of_weight, product, relu, rounded, weight_gradient,
};
use crate::backend::L2_EPSILON;
use crate::backend::cuda::launchers::linear::{
    Backward, Format, Forward, LinearGradients, Matrix, MatrixMut, StoredFormat, Unit, linear_backward_unit,
    linear_forward_unit,
};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::bench::case::{Case, Cost, Grows, Host, Prepared, unwritten};
use crate::bench::chain::Chain;
use crate::bench::check::Output;
use crate::bench::matrix::HostMatrix;
use crate::bench::values::Values;

/// Product of rows of unit length with the first and the last of a weight's three parts, stacked.
#[derive(Clone, Copy, Debug)]
pub struct UnitProduct {
    /// Sizes of the product; the number of outputs is even.
    pub product: Product,
    /// Whether rows are normalised: a forward then divides by the lengths and writes them, and a backward subtracts the
    /// component parallel to u.
    pub with_rows: bool,
}

/// Weight of three parts with NaN in the middle one, which no kernel may use.
pub(super) fn weight_in_parts<T: StoredElement>(
    values: &mut Values,
    hidden: usize,
    part: usize,
) -> HostMatrix {
    let mut weight = values.signed(hidden * 3 * part);
    weight.chunks_exact_mut(3 * part).for_each(|row| row[part..2 * part].fill(f32::NAN));
    HostMatrix::new::<T>(weight, 3 * part)
}

/// u as the products read it, rounded to the element type.
pub(super) fn unit_rows<T: StoredElement>(z: &[f64], norm: &[Vec<f32>]) -> Vec<f64> {
    rounded::<T>(&relu(&normed(z, norm)))
}

/// Divisors of the rows.
pub fn lengths(u: &[f64], columns: usize) -> Vec<f64> {
    let length = |row: &[f64]| row.iter().map(|u| u * u).sum::<f64>().sqrt();
    u.chunks_exact(columns).map(|row| length(row).max(f64::from(L2_EPSILON as f32))).collect()
}

/// Largest relative error of the root of a sum of `columns` squares.
pub fn length_error(columns: usize) -> f64 {
    EPS * (columns as f64 + 4.0)
}

/// y = (u W^T) / |u| and |u| per row, or the product alone.
pub fn forward(of: UnitProduct) -> Case {
    match of.product.format {
        Format::Bf16 => forward_as(of, StoredFormat::BF16),
        Format::Bf16Warpgroup => forward_as(of, StoredFormat::BF16_WARPGROUP),
        Format::Fp32 => forward_as(of, StoredFormat::FP32),
        Format::Bf16x3 => forward_as(of, StoredFormat::BF16X3),
        Format::Bf16x3Warpgroup => forward_as(of, StoredFormat::BF16X3_WARPGROUP),
    }
}

fn forward_as<T: StoredElement>(of: UnitProduct, stored: StoredFormat<T>) -> Case {
    let UnitProduct { product: Product { what, rows, inputs, outputs, format, seed }, with_rows } = of;
    let (hidden, part) = (outputs / 2, T::stride(inputs));
    Case {
        kernel: "linear_forward_unit",
        shape: format!("relu(norm([{rows}, {inputs}])) at unit length -> {outputs}, {what}"),
        // Reads z, its norm and W; writes y and the lengths. Beside the product, norm and ReLU take 4 operations,
        // square and sum 2, and there is a quotient.
        cost: Cost::stored::<T>(
            rows * inputs + outputs * inputs + rows * outputs,
            4 * inputs + rows,
            2 * rows * inputs * outputs + 6 * rows * inputs + rows * outputs,
        ),
        chain: Chain::product(inputs),
        grows: Grows::Nothing,
        format,
        prepare: Box::new(move |spare| {
            let (mut values, bound) = (Values::new(seed), rows + spare);
            let (z, of_norm) = decided_inputs::<T>(&mut values, rows, inputs);
            Prepared {
                host: Host {
                    stored: vec![z.with_room(spare), weight_in_parts::<T>(&mut values, hidden, part)],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(bound, outputs)],
                    inputs: of_norm.to_vec(),
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(bound)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, weight], [y], parts) = arrays.stored_as::<T>().parts();
                    let (of_norm, [count], [mut lengths], _) = parts;
                    let x = (Matrix::new(z, bound, inputs), norm(of_norm));
                    let weight = Matrix::new(weight, hidden, 3 * part).stacked(0, 2 * part, inputs);
                    let (rows, y) = (counted(count, bound), MatrixMut::new(y, bound, outputs));
                    let of = Forward { rows, y, x, weight };
                    linear_forward_unit(device, stored, of, with_rows.then_some(&mut lengths))
                }),
                expected: Box::new(move |host, _| {
                    let [z, weight] = host.wide_stored();
                    let u = unit_rows::<T>(&z, &host.inputs);
                    let [weight, _] = parts_of_weight(&weight, part, inputs);
                    let lengths = lengths(&u, inputs);
                    let over_lengths = |mut y: Vec<f64>| {
                        let rows = y.chunks_exact_mut(outputs).zip(&lengths).filter(|_| with_rows);
                        rows.for_each(|(row, length)| row.iter_mut().for_each(|y| *y /= length));
                        y
                    };
                    let y = over_lengths(product(&u, &weight, inputs));
                    let sizes = over_lengths(product(&magnitudes(&u), &magnitudes(&weight), inputs));
                    // The errors of the length and of a quotient are added.
                    let of_length = length_error(inputs);
                    let error = Error::new(format, inputs, 0).after(2.0 * of_length, roundings(4));
                    let error = Error { strict: error.strict + EPS, ..error };
                    let lengths = if with_rows { lengths } else { Vec::new() };
                    let limits = lengths.iter().map(|length| of_length * length).collect();
                    let usual = Error::new(format, inputs, 1).usual + roundings(4);
                    vec![
                        error.output("y", y, &sizes).stored::<T>(),
                        Output::near("lengths", lengths, usual).at_most(limits),
                    ]
                }),
            }
        }),
    }
}

/// d_u = d_y W - t u and d_W = d_y^T u for u = relu(norm(z)), and the gradients with respect to the norm's weight and
/// bias.
pub fn backward(of: UnitProduct) -> Case {
    match of.product.format {
        Format::Bf16 => backward_as(of, StoredFormat::BF16),
        Format::Bf16Warpgroup => backward_as(of, StoredFormat::BF16_WARPGROUP),
        Format::Fp32 => backward_as(of, StoredFormat::FP32),
        Format::Bf16x3 => backward_as(of, StoredFormat::BF16X3),
        Format::Bf16x3Warpgroup => backward_as(of, StoredFormat::BF16X3_WARPGROUP),
    }
}

fn backward_as<T: StoredElement>(of: UnitProduct, stored: StoredFormat<T>) -> Case {
    let UnitProduct { product: Product { what, rows, inputs, outputs, format, seed }, with_rows } = of;
    let (hidden, part) = (outputs / 2, T::stride(inputs));
    Case {
        kernel: "linear_backward_unit",
        shape: format!("relu(norm([{rows}, {inputs}])) at unit length -> {outputs}, {what}"),
        // Reads d_y, W, z, its norm and t; writes d_u and, in single precision, d_W and two rows. Beside the products,
        // norm and ReLU take 4 operations three times, a product and a difference 2, and two sums 4.
        cost: Cost::stored::<T>(
            rows * outputs + outputs * inputs + 2 * rows * inputs,
            outputs * inputs + 6 * inputs + rows,
            4 * rows * inputs * outputs + 18 * rows * inputs,
        ),
        chain: chain_of_backward(of.product, true),
        grows: Grows::Nothing,
        format,
        prepare: Box::new(move |spare| {
            let (mut values, bound) = (Values::new(seed), rows + spare);
            let (z, of_norm) = decided_inputs::<T>(&mut values, rows, inputs);
            let d_y = values.matrix::<T>(rows, outputs);
            let along = with_room(values.signed(rows), spare);
            Prepared {
                host: Host {
                    stored: vec![
                        z.with_room(spare),
                        d_y.with_room(spare),
                        weight_in_parts::<T>(&mut values, hidden, part),
                    ],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(bound, inputs)],
                    inputs: of_norm.into_iter().chain([along]).collect(),
                    indices: vec![count(rows)],
                    outputs: [hidden * 3 * inputs, inputs, inputs].map(unwritten).to_vec(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, d_y, weight], [d_u], parts) = arrays.stored_as::<T>().parts();
                    let ([mean, rstd, scale, shift, along], [count], to, others) = parts;
                    let [d_weight, d_norm_weight, d_norm_bias] = to;
                    let mut d_weight = MatrixMut::new(d_weight, hidden, 3 * inputs);
                    let to = LinearGradients {
                        x: MatrixMut::new(d_u, bound, inputs),
                        weight: d_weight.stacked(0, 2 * inputs, inputs),
                        norm: Some(norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums)),
                    };
                    let (d_y, norm) = (Matrix::new(d_y, bound, outputs), norm([mean, rstd, scale, shift]));
                    let along = with_rows.then_some(along);
                    let x = Unit { z: Matrix::new(z, bound, inputs), norm, along };
                    let weight = Matrix::new(weight, hidden, 3 * part).stacked(0, 2 * part, inputs);
                    let of = Backward { rows: counted(count, bound), to, d_y, x, weight };
                    linear_backward_unit(device, stored, of, &mut others.parts)
                }),
                expected: Box::new(move |host, written| {
                    let [z, d_y, weight] = host.wide_stored();
                    let [weight, _] = parts_of_weight(&weight, part, inputs);
                    let u = unit_rows::<T>(&z, &host.inputs);
                    let along = with_rows.then_some(&host.inputs[4][..]);
                    let [d_u, outer] = unit_outputs::<T>(format, [&d_y, &weight, &u], inputs, along);
                    // The middle part of the gradient is not written.
                    let between = Output::exact("d_weight", vec![f64::NAN; hidden * inputs]);
                    let d_weight = side_by_side(&outer, &between, inputs).with_nan();
                    let mut expected = vec![d_u, d_weight];
                    let d_u = &written[0].values[..rows * inputs];
                    expected.extend(norm_gradient_outputs(&z, &host.inputs, d_u));
                    expected
                }),
            }
        }),
    }
}

/// d_u and d_W from d_y, W and u. `along` holds the factor of u that is subtracted from each row of d_u.
pub(super) fn unit_outputs<T: StoredElement>(
    format: Format,
    [d_y, weight, u]: [&[f64]; 3],
    inputs: usize,
    along: Option<&[f32]>,
) -> [Output; 2] {
    let outputs = weight.len() / inputs;
    let mut d_u = input_gradient(d_y, weight, inputs);
    let mut sizes = input_gradient(&magnitudes(d_y), &magnitudes(weight), inputs);
    for (i, (d, size)) in d_u.iter_mut().zip(&mut sizes).enumerate() {
        let along = along.map_or(0.0, |along| u[i] * f64::from(along[i / inputs]));
        (*d, *size) = (*d - along, *size + along.abs());
    }
    let d_weight = weight_gradient(d_y, u, [inputs, outputs]);
    let weight_sizes = weight_gradient(&magnitudes(d_y), &magnitudes(u), [inputs, outputs]);
    let error = Error::new(format, outputs, 0);
    // A product and a difference add their errors.
    let error = Error { strict: error.strict + EPS, usual: error.usual + roundings(2), ..error };
    [
        error.output("d_u", d_u, &sizes).stored::<T>(),
        Error::new(format, d_y.len() / outputs, 0).output("d_weight", d_weight, &weight_sizes),
    ]
}

/// Joins the gradients of a weight's three parts: the first half of `outer` goes to the left, `middle` between, and the
/// last half to the right.
pub(super) fn side_by_side(outer: &Output, middle: &Output, width: usize) -> Output {
    let place = |outer: &[f64], middle: &[f64]| -> Vec<f64> {
        let (left, right) = outer.split_at(outer.len() / 2);
        let rows = left.chunks_exact(width).zip(middle.chunks_exact(width)).zip(right.chunks_exact(width));
        rows.flat_map(|((left, middle), right)| [left, middle, right].concat()).collect()
    };
    let limits = place(&outer.limits, &middle.limits);
    Output { limits, ..Output::exact("d_weight", place(&outer.values, &middle.values)) }
}
