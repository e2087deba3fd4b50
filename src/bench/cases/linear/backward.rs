//! Products of a layer's backward.

use super::super::batch_norm::{decided_inputs, norm_gradient};
use super::super::{count, counted, norm};
use super::{
    Error, Part, Product, X, chain_of_backward, input_gradient, magnitudes, norm_gradient_outputs, normed,
    relu, weight_gradient,
};
use crate::backend::cuda::launchers::linear::{
    Backward, Format, Input, LinearGradients, Matrix, MatrixMut, StoredFormat, linear_backward,
};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::bench::case::{Case, Cost, Grows, Host, Prepared, unwritten};
use crate::bench::check::Output;
use crate::bench::matrix::HostMatrix;
use crate::bench::values::Values;

/// Both products of a backward.
#[derive(Clone, Copy, Debug)]
pub struct BackwardProduct {
    /// Sizes of the forward product.
    pub product: Product,
    /// Operand x. With sums, the gradients with respect to its norm's weight and bias are computed too.
    pub x: X,
    /// Columns of x within its rows.
    pub part: Part,
}

/// `d_x = d_y W` and `d_W = d_y^T x`. The inputs are the norm of x.
pub fn backward(of: BackwardProduct) -> Case {
    match of.product.format {
        Format::Bf16 => backward_as(of, StoredFormat::BF16),
        Format::Bf16Warpgroup => backward_as(of, StoredFormat::BF16_WARPGROUP),
        Format::Fp32 => backward_as(of, StoredFormat::FP32),
        Format::Bf16x3 => backward_as(of, StoredFormat::BF16X3),
        Format::Bf16x3Warpgroup => backward_as(of, StoredFormat::BF16X3_WARPGROUP),
    }
}

fn backward_as<T: StoredElement>(of: BackwardProduct, stored: StoredFormat<T>) -> Case {
    let BackwardProduct { product: Product { what, rows, inputs, outputs, format, seed }, x, part } = of;
    let (activated, with_sums) = (x != X::Values, x == X::ActivatedWithSums);
    let of_sums = usize::from(with_sums);
    // Rows of x's norm that are read or written, and the operations of norm and ReLU, twice, and of two sums.
    let (norm_rows, norm_flops) = match x {
        X::Values => (0, 0),
        X::Activated => (4, 8),
        X::ActivatedWithSums => (6, 12),
    };
    let x_shape = format!("[{rows}, {inputs}]");
    let x_shape = if activated { format!("relu(norm({x_shape}))") } else { x_shape };
    Case {
        kernel: "linear_backward",
        shape: format!("{x_shape} -> {outputs}, {what}"),
        // Reads d_y, x and W; writes d_x and, in single precision, d_W.
        cost: Cost::stored::<T>(
            rows * outputs + outputs * inputs + 2 * rows * inputs,
            outputs * inputs + norm_rows * inputs,
            4 * rows * inputs * outputs + norm_flops * rows * inputs,
        ),
        chain: chain_of_backward(of.product, with_sums),
        grows: Grows::Nothing,
        format,
        prepare: Box::new(move |spare| {
            let bound = rows + spare;
            let mut values = Values::new(seed);
            let (x_values, of_x) = decided_inputs::<T>(&mut values, rows, part.of);
            let (d_y, weight) = (values.matrix::<T>(rows, outputs), values.matrix::<T>(outputs, inputs));
            Prepared {
                host: Host {
                    stored: vec![
                        d_y.with_room(spare),
                        part.alone::<T>(&x_values, inputs).with_room(spare),
                        weight,
                    ],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(bound, inputs)],
                    inputs: of_x.to_vec(),
                    indices: vec![count(rows)],
                    outputs: [outputs * inputs, of_sums * inputs, of_sums * inputs].map(unwritten).to_vec(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([d_y, x, weight], [d_x], parts) = arrays.stored_as::<T>().parts();
                    let (of_x, [count], [d_weight, d_norm_weight, d_norm_bias], others) = parts;
                    let norm_to =
                        with_sums.then(|| norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums));
                    let to = LinearGradients {
                        x: MatrixMut::new(d_x, bound, inputs),
                        weight: MatrixMut::new(d_weight, outputs, inputs),
                        norm: norm_to,
                    };
                    let d_y = Matrix::new(d_y, bound, outputs);
                    let x = Matrix::new(x, bound, part.of).columns(part.start, inputs);
                    let of_x = norm(of_x).columns(part.start, inputs);
                    let x = if activated { Input::Activated(x, of_x) } else { Input::Values(x) };
                    let (rows, weight) = (counted(count, bound), Matrix::new(weight, outputs, inputs));
                    let of = Backward { rows, to, d_y, x, weight };
                    linear_backward(device, stored, of, &mut others.parts)
                }),
                expected: Box::new(move |host, written| {
                    let [d_y, x, weight] = host.wide_stored();
                    let of_x: Vec<Vec<f32>> =
                        host.inputs.iter().map(|of| of[part.start..][..inputs].to_vec()).collect();
                    let x = part.take(&x, inputs);
                    let used = if activated { relu(&normed(&x, &of_x)) } else { x.clone() };
                    let sizes = magnitudes(&d_y);
                    let d_x = input_gradient(&d_y, &weight, inputs);
                    let d_x_sizes = input_gradient(&sizes, &magnitudes(&weight), inputs);
                    let d_weight = weight_gradient(&d_y, &used, [inputs, outputs]);
                    let d_weight_sizes = weight_gradient(&sizes, &magnitudes(&used), [inputs, outputs]);
                    let (of_d_x, of_d_weight) =
                        (Error::new(format, outputs, 0), Error::new(format, rows, i32::from(activated)));
                    let mut expected = vec![
                        of_d_x.output("d_x", d_x, &d_x_sizes).stored::<T>(),
                        of_d_weight.output("d_weight", d_weight, &d_weight_sizes),
                    ];
                    if with_sums {
                        let d_x = &written[0].values[..rows * inputs];
                        expected.extend(norm_gradient_outputs(&x, &of_x, d_x));
                    } else {
                        expected.extend(
                            ["d_norm_weight", "d_norm_bias"].map(|name| Output::exact(name, Vec::new())),
                        );
                    }
                    expected
                }),
            }
        }),
    }
}
