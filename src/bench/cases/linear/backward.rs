//! Products of a layer's backward.

use super::super::batch_norm::{decided_inputs, norm_gradient};
use super::super::{count, counted, norm, roundings};
use super::{
    Error, Part, Product, Source, X, chain_of_backward, input_gradient, made_gradient, magnitudes,
    norm_gradient_outputs, normed, relu, through_norm, weight_gradient,
};
use crate::backend::cuda::launchers::batch_norm::NormBackward;
use crate::backend::cuda::launchers::linear::{
    Backward, Format, Gradient, Input, LinearGradients, Matrix, MatrixMut, StoredFormat, is_large,
    linear_backward,
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
    /// Source of the gradient with respect to the product.
    pub d_y: Source,
}

/// `d_x = d_y W` and `d_W = d_y^T x`. The inputs are the norm of z, the terms that are subtracted from d_y, and the
/// norm of x.
pub fn backward(of: BackwardProduct) -> Case {
    match of.product.format {
        Format::Bf16 => backward_as(of, StoredFormat::BF16),
        Format::Fp32 => backward_as(of, StoredFormat::FP32),
        Format::Bf16x3 => backward_as(of, StoredFormat::BF16X3),
    }
}

fn backward_as<T: StoredElement>(of: BackwardProduct, stored: StoredFormat<T>) -> Case {
    let BackwardProduct { product: Product { what, rows, inputs, outputs, format, seed }, x, part, d_y } = of;
    let (activated, with_sums, made) =
        (x != X::Values, x == X::ActivatedWithSums, d_y == Source::ThroughNorm);
    let [of_made, of_sums] = [made, with_sums].map(usize::from);
    // Rows of x's norm that are read or written, and the operations of norm and ReLU, twice, and of two sums.
    let (norm_rows, norm_flops) = match x {
        X::Values => (0, 0),
        X::Activated => (4, 8),
        X::ActivatedWithSums => (6, 12),
    };
    let x_shape = format!("[{rows}, {inputs}]");
    let x_shape = if activated { format!("relu(norm({x_shape}))") } else { x_shape };
    let how = if made { " through norm" } else { "" };
    Case {
        kernel: "linear_backward",
        shape: format!("{x_shape} -> {outputs}{how}, {what}"),
        // Reads d_y, x and W; writes d_x and, in single precision, d_W. Through a norm it reads d, z, the norm and two
        // more rows instead of d_y, and computes d_y twice with 8 operations.
        cost: Cost::stored::<T>(
            (1 + of_made) * rows * outputs + outputs * inputs + 2 * rows * inputs,
            outputs * inputs + of_made * 6 * outputs + norm_rows * inputs,
            4 * rows * inputs * outputs + of_made * 16 * rows * outputs + norm_flops * rows * inputs,
        ),
        chain: chain_of_backward([rows, inputs, outputs], with_sums),
        grows: Grows::Nothing,
        format,
        prepare: Box::new(move |spare| {
            let bound = rows + spare;
            let mut values = Values::new(seed);
            let (z, of_z) = decided_inputs::<T>(&mut values, rows, outputs);
            let (x_values, of_x) = decided_inputs::<T>(&mut values, rows, part.of);
            let (terms, d) = (values.signed(2 * outputs), values.matrix::<T>(rows, outputs));
            let weight = values.matrix::<T>(outputs, inputs);
            let (first, d) = if made { (z, d) } else { (d, HostMatrix::new::<T>(Vec::new(), outputs)) };
            Prepared {
                host: Host {
                    stored: vec![
                        first.with_room(spare),
                        part.alone::<T>(&x_values, inputs).with_room(spare),
                        weight,
                    ],
                    stored_outputs: vec![
                        d.with_room(of_made * spare),
                        HostMatrix::unwritten::<T>(bound, inputs),
                    ],
                    inputs: of_z.into_iter().chain([terms]).chain(of_x).collect(),
                    indices: vec![count(rows)],
                    outputs: [outputs * inputs, of_sums * inputs, of_sums * inputs].map(unwritten).to_vec(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([first, x, weight], [d, d_x], parts) = arrays.stored_as::<T>().parts();
                    let (of, [count], [d_weight, d_norm_weight, d_norm_bias], others) = parts;
                    let [mean, rstd, scale, bias, terms, mean_x, rstd_x, scale_x, bias_x] = of;
                    let norm_to =
                        with_sums.then(|| norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums));
                    let to = LinearGradients {
                        x: MatrixMut::new(d_x, bound, inputs),
                        weight: MatrixMut::new(d_weight, outputs, inputs),
                        norm: norm_to,
                    };
                    let d_y = if made {
                        let norm = norm([mean, rstd, scale, bias]);
                        Gradient::ThroughNorm(NormBackward { d, z: first, norm, terms })
                    } else {
                        Gradient::Values(Matrix::new(first, bound, outputs))
                    };
                    let x = Matrix::new(x, bound, part.of).columns(part.start, inputs);
                    let of_x = norm([mean_x, rstd_x, scale_x, bias_x]).columns(part.start, inputs);
                    let x = if activated { Input::Activated(x, of_x) } else { Input::Values(x) };
                    let (rows, weight) = (counted(count, bound), Matrix::new(weight, outputs, inputs));
                    let of = Backward { rows, to, d_y, x, weight };
                    linear_backward(device, stored, of, &mut others.parts)
                }),
                expected: Box::new(move |host, written| {
                    let ([first, x, weight], [d, _]) = (host.wide_stored(), host.wide_stored_outputs());
                    let of_x: Vec<Vec<f32>> =
                        host.inputs[5..].iter().map(|of| of[part.start..][..inputs].to_vec()).collect();
                    let x = part.take(&x, inputs);
                    let used = if activated { relu(&normed(&x, &of_x)) } else { x.clone() };
                    let (d_y, sizes) = if made {
                        let [d_y, sizes] = made_gradient(&first, &host.inputs, &d);
                        (d_y, sizes)
                    } else {
                        let sizes = magnitudes(&first);
                        (first, sizes)
                    };
                    let error = |terms, made_operands| {
                        let error = Error::new(format, terms, made_operands);
                        if made { through_norm(error) } else { error }
                    };
                    // A large launch writes d_y in place of d.
                    let d = if made && is_large(bound, inputs) {
                        Output::near("d", d_y.clone(), roundings(8)).stored::<T>()
                    } else {
                        Output::exact("d, which is only read", d)
                    };
                    let d_x = input_gradient(&d_y, &weight, inputs);
                    let d_x_sizes = input_gradient(&sizes, &magnitudes(&weight), inputs);
                    let d_weight = weight_gradient(&d_y, &used, [inputs, outputs]);
                    let d_weight_sizes = weight_gradient(&sizes, &magnitudes(&used), [inputs, outputs]);
                    let (of_d_y, of_x_made) = (i32::from(made), i32::from(activated));
                    let mut expected = vec![
                        d,
                        error(outputs, of_d_y).output("d_x", d_x, &d_x_sizes).stored::<T>(),
                        error(rows, of_d_y + of_x_made).output("d_weight", d_weight, &d_weight_sizes),
                    ];
                    if with_sums {
                        let d_x = &written[1].values[..rows * inputs];
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
