//! linear: the products of a layer, each with its gradients, plain and with what is fused with them.

use std::rc::Rc;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::batch_norm::{batch_statistics, decided_inputs, expected_statistics, norm_gradient};
use super::{ROUNDING, count, counted, indices, norm, reference_norm, roundings};
use crate::backend::cuda::edge_hidden::Ends;
use crate::backend::cuda::linear::{
    Format, Input, LinearGradients, Matrix, MatrixMut, linear_backward, linear_forward, linear_forward_gather,
};
use crate::backend::reference::batch_norm as reference;
use crate::batch::graph_batch::GraphBatch;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

/// A product `[rows, inputs] x [outputs, inputs]^T`.
#[derive(Clone, Copy)]
struct Product {
    what: &'static str,
    rows: usize,
    inputs: usize,
    outputs: usize,
    format: Format,
}

pub(super) fn cases(sizes: &Sizes, format: Format) -> Vec<Case> {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (state, hidden, heads) = (config.state_width, config.hidden_width, config.heads_width(0));
    let plain = [
        ("nodes of edge.hidden", nodes, state, hidden),
        ("edges of edge.hidden", edges, state, hidden),
        ("heads", edges, hidden, heads),
        ("node.hidden", nodes, hidden, hidden),
        ("node.output", nodes, hidden, state),
    ]
    .into_iter()
    .map(|(what, rows, inputs, outputs)| Product { what, rows, inputs, outputs, format })
    .flat_map(|product| [forward(product), backward(product)]);
    let edge_hidden = Product { what: "edge.hidden", rows: edges, inputs: state, outputs: hidden, format };
    let heads = Product { what: "heads", rows: edges, inputs: hidden, outputs: heads, format };
    let fused =
        [forward_gather(edge_hidden, &sizes.batch), forward_activated(heads), backward_activated(heads)];
    plain.chain(fused).collect()
}

/// The error of sums of this many products of numbers in -1..1, of the largest of them.
///
/// Partial sums grow as the root of their length and a rounding may go either way, so those of n additions add up to
/// about sqrt(n) / 2 of the largest sum's: 2 sqrt(n) leaves room for the worst of millions of sums, and for tensor cores,
/// which may truncate where they add. A product's operands are off by u each, mostly less, and either way: sums by
/// about 0.6 u, of which 2 u is the worst.
fn tolerance(format: Format, terms: usize) -> f64 {
    let operands = match format {
        Format::Fp32 => 0.0,
        Format::Tf32 => 2.0 * 2f64.powi(-11),
        Format::Bf16 => 2.0 * 2f64.powi(-8),
        // Rests of 2^-17 each, and the product of two low halves that is left out.
        Format::Bf16x3 => 2.0 * 2f64.powi(-17) + 2f64.powi(-16),
    };
    operands + 2.0 * (terms as f64).sqrt() * ROUNDING
}

/// `y = x W^T`.
fn forward(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_forward",
        shape: format!("[{rows}, {inputs}] -> {outputs}, {what}"),
        cost: Cost::of(rows * inputs + outputs * inputs + rows * outputs, 2 * rows * inputs * outputs),
        format,
        tolerance: tolerance(format, inputs),
        prepare: Box::new(move || {
            let mut values = Values::new();
            Prepared {
                host: Host {
                    inputs: vec![values.signed(rows * inputs), values.signed(outputs * inputs)],
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(rows * outputs)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([x, weight], [count], [y], _) = arrays.parts();
                    let (x, weight) = (Matrix::new(x, rows, inputs), Matrix::new(weight, outputs, inputs));
                    let (of, mut y) = (counted(count, rows), MatrixMut::new(y, rows, outputs));
                    linear_forward(device, format, of, &mut y, Input::Values(x), weight, None)
                }),
                expected: Box::new(move |host| {
                    let [x, weight] = host.wide_inputs();
                    let (x, weight) = (matrix(&x, rows, inputs), matrix(&weight, outputs, inputs));
                    vec![product_of(x, weight.transpose())]
                }),
            }
        }),
    }
}

/// `d_x = d_y W` and `d_W = d_y^T x`.
fn backward(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_backward",
        shape: format!("[{rows}, {inputs}] -> {outputs}, {what}"),
        // Reads d_y, x and W, writes d_x and d_W.
        cost: Cost::of(
            rows * outputs + 2 * rows * inputs + 2 * outputs * inputs,
            4 * rows * inputs * outputs,
        ),
        format,
        tolerance: tolerance(format, rows.max(outputs)),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let [d_y, x, weight] = [rows * outputs, rows * inputs, outputs * inputs];
            Prepared {
                host: Host {
                    inputs: [d_y, x, weight].map(|count| values.signed(count)).to_vec(),
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(rows * inputs), unwritten(outputs * inputs)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([d_y, x, weight], [count], [d_x, d_weight], others) = arrays.parts();
                    let to = LinearGradients {
                        x: &mut MatrixMut::new(d_x, rows, inputs),
                        weight: &mut MatrixMut::new(d_weight, outputs, inputs),
                        norm: None,
                    };
                    let (d_y, x) = (Matrix::new(d_y, rows, outputs), Matrix::new(x, rows, inputs));
                    let (of, x) = (counted(count, rows), Input::Values(x));
                    let weight = Matrix::new(weight, outputs, inputs);
                    linear_backward(device, format, of, to, d_y, x, weight, &mut others.parts)
                }),
                expected: Box::new(move |host| {
                    let [d_y, x, weight] = host.wide_inputs();
                    let (d_y, x) = (matrix(&d_y, rows, outputs), matrix(&x, rows, inputs));
                    let weight = matrix(&weight, outputs, inputs);
                    vec![product_of(d_y, weight), product_of(d_y.transpose(), x)]
                }),
            }
        }),
    }
}

/// What statistics or sums over chunks of 64 rows add to a product's tolerance; errors of the values go either way.
fn with_sums(tolerance: f64) -> f64 {
    tolerance + roundings(64)
}

/// z = e W^T, and the rows of both ends added; the statistics of z.
fn forward_gather(product: Product, batch: &Rc<GraphBatch>) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    let (batch, nodes) = (batch.clone(), batch.size().nodes);
    let operands = rows * inputs + outputs * inputs + 2 * nodes * outputs + 2 * rows;
    Case {
        kernel: "linear_forward_gather",
        shape: format!("[{rows}, {inputs}] -> {outputs} + [{nodes}, {}], {what}", 2 * outputs),
        // Reads e, W, each node's two rows and the ends, writes z; two sums beside the product.
        cost: Cost::of(operands + rows * outputs, 2 * rows * inputs * outputs + 2 * rows * outputs),
        format,
        tolerance: with_sums(tolerance(format, inputs + 2)),
        prepare: Box::new(move || {
            let batch = batch.clone();
            let mut values = Values::new();
            Prepared {
                host: Host {
                    inputs: vec![
                        values.signed(rows * inputs),
                        values.signed(outputs * inputs),
                        values.signed(2 * nodes * outputs),
                    ],
                    indices: vec![indices(&batch.edge_subject), indices(&batch.edge_object), count(rows)],
                    outputs: with_statistics(&mut values, rows * outputs, outputs),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([e, weight, projected], [subject, object, count], to, others) = arrays.parts();
                    let [z, mean, rstd, running_mean, running_var] = to;
                    let (e, weight) = (Matrix::new(e, rows, inputs), Matrix::new(weight, outputs, inputs));
                    let mut z = MatrixMut::new(z, rows, outputs);
                    let ends = Ends { edges: counted(count, rows), subject, object };
                    let to = [mean, rstd, running_mean, running_var];
                    let (e, to) = (Input::Values(e), Some(batch_statistics(to, &mut others.sums)));
                    linear_forward_gather(device, format, &mut z, e, weight, projected, ends, to)
                }),
                expected: Box::new(move |host| {
                    let [e, weight, projected] = host.wide_inputs();
                    let (e, weight) = (matrix(&e, rows, inputs), matrix(&weight, outputs, inputs));
                    let mut z = product_of(e, weight.transpose());
                    for (edge, row) in z.chunks_exact_mut(outputs).enumerate() {
                        let subject = 2 * batch.edge_subject[edge] as usize * outputs;
                        let object = (2 * batch.edge_object[edge] as usize + 1) * outputs;
                        for (c, z) in row.iter_mut().enumerate() {
                            *z += projected[subject + c] + projected[object + c];
                        }
                    }
                    followed_by_statistics(host, z)
                }),
            }
        }),
    }
}

/// y = relu(norm(z)) W^T, and the statistics of y.
fn forward_activated(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_forward",
        shape: format!("relu(norm([{rows}, {inputs}])) -> {outputs}, {what}"),
        // Reads z, its norm and W, writes y; norm and ReLU 4 beside the product.
        cost: Cost::of(
            rows * inputs + 4 * inputs + outputs * inputs + rows * outputs,
            2 * rows * inputs * outputs + 4 * rows * inputs,
        ),
        format,
        tolerance: with_sums(tolerance(format, inputs)),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let mut read = decided_inputs(&mut values, rows, inputs);
            read.push(values.signed(outputs * inputs));
            Prepared {
                host: Host {
                    inputs: read,
                    indices: vec![count(rows)],
                    outputs: with_statistics(&mut values, rows * outputs, outputs),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, mean, rstd, norm_weight, bias, weight], [count], to, others) = arrays.parts();
                    let x =
                        Input::Activated(Matrix::new(z, rows, inputs), norm([mean, rstd, norm_weight, bias]));
                    let weight = Matrix::new(weight, outputs, inputs);
                    let [y, mean, rstd, running_mean, running_var] = to;
                    let to = [mean, rstd, running_mean, running_var];
                    let to = Some(batch_statistics(to, &mut others.sums));
                    let (of, mut y) = (counted(count, rows), MatrixMut::new(y, rows, outputs));
                    linear_forward(device, format, of, &mut y, x, weight, to)
                }),
                expected: Box::new(move |host| {
                    let [z, mean, rstd, norm_weight, bias, weight] = host.wide_inputs();
                    let x = reference_norm(&[mean, rstd, norm_weight, bias]).relu_rows(&z);
                    let weight = matrix(&weight, outputs, inputs);
                    let y = product_of(matrix(&x, rows, inputs), weight.transpose());
                    followed_by_statistics(host, y)
                }),
            }
        }),
    }
}

/// A product that is written, its mean and rstd, and running ones that are moved.
fn with_statistics(values: &mut Values, product: usize, columns: usize) -> Vec<Vec<f32>> {
    let running = [values.signed(columns), values.positive(columns)];
    [product, columns, columns].map(unwritten).into_iter().chain(running).collect()
}

/// What [`with_statistics`] must become.
fn followed_by_statistics(host: &Host, product: Vec<f64>) -> Vec<Vec<f64>> {
    let [_, _, _, running_mean, running_var] = host.wide_outputs();
    let columns = running_mean.len();
    let statistics = expected_statistics(&product, [&running_mean, &running_var], columns);
    std::iter::once(product).chain(statistics).collect()
}

/// d_x = d_y W and d_W = d_y^T x of x = relu(norm(z)), and the gradients of the norm's weight and bias.
fn backward_activated(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_backward",
        shape: format!("relu(norm([{rows}, {inputs}])) -> {outputs}, {what}"),
        // Reads d_y, W, z and its norm, writes d_x, d_W and two rows; norm and ReLU 4 twice, and two sums 4 beside the
        // products.
        cost: Cost::of(
            rows * outputs + 2 * outputs * inputs + 2 * rows * inputs + 6 * inputs,
            4 * rows * inputs * outputs + 12 * rows * inputs,
        ),
        format,
        tolerance: with_sums(tolerance(format, rows.max(outputs))),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let mut read = decided_inputs(&mut values, rows, inputs);
            read.extend([values.signed(rows * outputs), values.signed(outputs * inputs)]);
            Prepared {
                host: Host {
                    inputs: read,
                    indices: vec![count(rows)],
                    outputs: [rows * inputs, outputs * inputs, inputs, inputs].map(unwritten).to_vec(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, mean, rstd, norm_weight, bias, d_y, weight], [count], to, others) =
                        arrays.parts();
                    let [d_x, d_weight, d_norm_weight, d_norm_bias] = to;
                    let to = LinearGradients {
                        x: &mut MatrixMut::new(d_x, rows, inputs),
                        weight: &mut MatrixMut::new(d_weight, outputs, inputs),
                        norm: Some(norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums)),
                    };
                    let (d_y, z) = (Matrix::new(d_y, rows, outputs), Matrix::new(z, rows, inputs));
                    let x = Input::Activated(z, norm([mean, rstd, norm_weight, bias]));
                    let (of, weight) = (counted(count, rows), Matrix::new(weight, outputs, inputs));
                    linear_backward(device, format, of, to, d_y, x, weight, &mut others.parts)
                }),
                expected: Box::new(move |host| {
                    let [z, mean, rstd, norm_weight, bias, d_y, weight] = host.wide_inputs();
                    let of = [mean, rstd, norm_weight, bias];
                    let x = reference_norm(&of).relu_rows(&z);
                    let d_y = matrix(&d_y, rows, outputs);
                    let d_x = product_of(d_y, matrix(&weight, outputs, inputs));
                    let d_weight = product_of(d_y.transpose(), matrix(&x, rows, inputs));
                    let (mut d_norm_weight, mut d_norm_bias) = (vec![0.0; inputs], vec![0.0; inputs]);
                    let (weight, bias) = (&mut d_norm_weight, &mut d_norm_bias);
                    let mut d = d_x.clone();
                    reference::batch_norm_backward(&z, reference_norm(&of), true, &mut d, weight, bias);
                    vec![d_x, d_weight, d_norm_weight, d_norm_bias]
                }),
            }
        }),
    }
}

fn matrix(values: &[f64], rows: usize, columns: usize) -> MatRef<'_, f64> {
    MatRef::from_row_major_slice(values, rows, columns)
}

/// `a b`: the reference's product, by `faer`, since its plain loops would take minutes at these sizes.
fn product_of(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Vec<f64> {
    let mut product = vec![0.0; a.nrows() * b.ncols()];
    let to = MatMut::from_row_major_slice_mut(&mut product, a.nrows(), b.ncols());
    matmul(to, Accum::Replace, a, b, 1.0, Par::rayon(0));
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::reference::linear as reference;

    #[test]
    fn the_fast_product_is_the_reference() {
        let (rows, inputs, outputs) = (7, 5, 3);
        let wide = |values: Vec<f32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
        let mut values = Values::new();
        let (x, weight) = (wide(values.signed(rows * inputs)), wide(values.signed(outputs * inputs)));
        let got = product_of(matrix(&x, rows, inputs), matrix(&weight, outputs, inputs).transpose());
        let want = reference::linear(&x, &weight, inputs, outputs);
        assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-14), "{got:?} {want:?}");
    }
}
