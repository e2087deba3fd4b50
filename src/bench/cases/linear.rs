//! linear: the products of a layer, each with its two gradients, plain and with what is fused with them.

use std::rc::Rc;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::batch_norm::{chunk_gradient_sums, chunk_statistics, decided_inputs};
use super::{ROUNDING, count, counted, indices, norm, reference_norm, roundings};
use crate::backend::cuda::edge_hidden::Ends;
use crate::backend::cuda::linear::{
    Format, Input, Matrix, MatrixMut, linear_backward_input, linear_backward_input_sums,
    linear_backward_weight, linear_forward, linear_forward_gather,
};
use crate::batch::graph_batch::GraphBatch;
use crate::bench::case::{Case, ChunkSums, Cost, Expected, Host, Launch, Prepared, unwritten};
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
    .flat_map(|product| [forward(product), backward_input(product), backward_weight(product)]);
    let edge_hidden = Product { what: "edge.hidden", rows: edges, inputs: state, outputs: hidden, format };
    let heads = Product { what: "heads", rows: edges, inputs: hidden, outputs: heads, format };
    let fused = [
        forward_gather(edge_hidden, &sizes.batch),
        forward_activated(heads),
        backward_input_sums(heads),
        backward_weight_activated(heads),
    ];
    plain.chain(fused).collect()
}

impl Product {
    /// `result` and two operands; `terms` products are added up in each value.
    fn case(
        self,
        kernel: &'static str,
        terms: usize,
        [left, right, result]: [usize; 3],
        functions: impl Fn() -> (Launch, Expected) + 'static,
    ) -> Case {
        let Product { what, rows, inputs, outputs, format } = self;
        Case {
            kernel,
            shape: format!("[{rows}, {inputs}] -> {outputs}, {what}"),
            cost: Cost::of(left + right + result, 2 * rows * inputs * outputs),
            format,
            tolerance: tolerance(format, terms),
            prepare: Box::new(move || {
                let mut values = Values::new();
                let host = Host {
                    inputs: vec![values.signed(left), values.signed(right)],
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(result)],
                    ..Default::default()
                };
                let (launch, expected) = functions();
                Prepared { host, launch, expected }
            }),
        }
    }
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
    let Product { rows, inputs, outputs, format, .. } = product;
    let counts = [rows * inputs, outputs * inputs, rows * outputs];
    product.case("linear_forward", inputs, counts, move || {
        let launch: Launch = Box::new(move |device, arrays| {
            let ([x, weight], [count], [y], _) = arrays.parts();
            let (x, weight) = (Matrix::new(x, rows, inputs), Matrix::new(weight, outputs, inputs));
            linear_forward(
                device,
                format,
                counted(count, rows),
                &mut MatrixMut::new(y, rows, outputs),
                Input::Values(x),
                weight,
                None,
            )
        });
        let expected: Expected = Box::new(move |host| {
            let [x, weight] = host.wide_inputs();
            let (x, weight) = (matrix(&x, rows, inputs), matrix(&weight, outputs, inputs));
            vec![product_of(x, weight.transpose())]
        });
        (launch, expected)
    })
}

/// What sums of 64 values add to a product's tolerance; errors of the values themselves go either way.
fn with_sums(tolerance: f64) -> f64 {
    tolerance + roundings(64)
}

/// z = e W^T, and the rows of both ends added; the statistics of each 64 rows.
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
                    outputs: vec![unwritten(rows * outputs)],
                    sums: Some(ChunkSums { rows, columns: outputs, given: None }),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([e, weight, projected], [subject, object, count], [z], others) = arrays.parts();
                    let (e, weight) = (Matrix::new(e, rows, inputs), Matrix::new(weight, outputs, inputs));
                    let mut z = MatrixMut::new(z, rows, outputs);
                    let ends = Ends { edges: counted(count, rows), subject, object };
                    let sums = Some(&mut others.sums);
                    linear_forward_gather(device, format, &mut z, e, weight, projected, ends, sums)
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
                    let sums = chunk_statistics(&z, outputs);
                    vec![z, sums]
                }),
            }
        }),
    }
}

/// y = relu(norm(z)) W^T; the statistics of each 64 rows of y.
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
                    outputs: vec![unwritten(rows * outputs)],
                    sums: Some(ChunkSums { rows, columns: outputs, given: None }),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, mean, rstd, norm_weight, bias, weight], [count], [y], others) = arrays.parts();
                    let x =
                        Input::Activated(Matrix::new(z, rows, inputs), norm([mean, rstd, norm_weight, bias]));
                    let weight = Matrix::new(weight, outputs, inputs);
                    let (mut y, sums) = (MatrixMut::new(y, rows, outputs), Some(&mut others.sums));
                    linear_forward(device, format, counted(count, rows), &mut y, x, weight, sums)
                }),
                expected: Box::new(move |host| {
                    let [z, mean, rstd, norm_weight, bias, weight] = host.wide_inputs();
                    let x = reference_norm(&[mean, rstd, norm_weight, bias]).relu_rows(&z);
                    let weight = matrix(&weight, outputs, inputs);
                    let y = product_of(matrix(&x, rows, inputs), weight.transpose());
                    let sums = chunk_statistics(&y, outputs);
                    vec![y, sums]
                }),
            }
        }),
    }
}

/// d_x = d_y W, of x = relu(norm(z)); what batch norm's backward begins with, of each 64 rows.
fn backward_input_sums(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_backward_input_sums",
        shape: format!("[{rows}, {inputs}] -> {outputs}, {what}"),
        // Reads d_y, W, z and its norm, writes d_x; norm and ReLU 4 and two sums 4 beside the product.
        cost: Cost::of(
            rows * outputs + outputs * inputs + 2 * rows * inputs + 4 * inputs,
            2 * rows * inputs * outputs + 8 * rows * inputs,
        ),
        format,
        tolerance: with_sums(tolerance(format, outputs)),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let mut read = decided_inputs(&mut values, rows, inputs);
            read.extend([values.signed(rows * outputs), values.signed(outputs * inputs)]);
            Prepared {
                host: Host {
                    inputs: read,
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(rows * inputs)],
                    sums: Some(ChunkSums { rows, columns: inputs, given: None }),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, mean, rstd, norm_weight, bias, d_y, weight], [count], [d_x], others) =
                        arrays.parts();
                    let (d_y, weight) =
                        (Matrix::new(d_y, rows, outputs), Matrix::new(weight, outputs, inputs));
                    let (mut d_x, z) = (MatrixMut::new(d_x, rows, inputs), Matrix::new(z, rows, inputs));
                    let norm = norm([mean, rstd, norm_weight, bias]);
                    linear_backward_input_sums(
                        device,
                        format,
                        counted(count, rows),
                        &mut d_x,
                        d_y,
                        weight,
                        z,
                        norm,
                        &mut others.sums,
                    )
                }),
                expected: Box::new(move |host| {
                    let [z, mean, rstd, norm_weight, bias, d_y, weight] = host.wide_inputs();
                    let d_x = product_of(matrix(&d_y, rows, outputs), matrix(&weight, outputs, inputs));
                    let of = [mean, rstd, norm_weight, bias];
                    let sums = chunk_gradient_sums(&d_x, &z, reference_norm(&of));
                    vec![d_x, sums]
                }),
            }
        }),
    }
}

/// d_W = d_y^T x, of x = relu(norm(z)).
fn backward_weight_activated(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_backward_weight",
        shape: format!("relu(norm([{rows}, {inputs}])) -> {outputs}, {what}"),
        // Reads d_y, z and its norm, writes d_W; norm and ReLU 4 beside the product.
        cost: Cost::of(
            rows * outputs + rows * inputs + 4 * inputs + outputs * inputs,
            2 * rows * inputs * outputs + 4 * rows * inputs,
        ),
        format,
        tolerance: tolerance(format, rows),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let mut read = decided_inputs(&mut values, rows, inputs);
            read.push(values.signed(rows * outputs));
            Prepared {
                host: Host {
                    inputs: read,
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(outputs * inputs)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, mean, rstd, weight, bias, d_y], [count], [d_weight], others) = arrays.parts();
                    let x = Input::Activated(Matrix::new(z, rows, inputs), norm([mean, rstd, weight, bias]));
                    let (mut to, d_y) =
                        (MatrixMut::new(d_weight, outputs, inputs), Matrix::new(d_y, rows, outputs));
                    let of = counted(count, rows);
                    linear_backward_weight(device, format, of, &mut to, d_y, x, &mut others.parts)
                }),
                expected: Box::new(move |host| {
                    let [z, mean, rstd, weight, bias, d_y] = host.wide_inputs();
                    let x = reference_norm(&[mean, rstd, weight, bias]).relu_rows(&z);
                    vec![product_of(matrix(&d_y, rows, outputs).transpose(), matrix(&x, rows, inputs))]
                }),
            }
        }),
    }
}

/// `d_x = d_y W`.
fn backward_input(product: Product) -> Case {
    let Product { rows, inputs, outputs, format, .. } = product;
    let counts = [rows * outputs, outputs * inputs, rows * inputs];
    product.case("linear_backward_input", outputs, counts, move || {
        let launch: Launch = Box::new(move |device, arrays| {
            let ([d_y, weight], [count], [d_x], _) = arrays.parts();
            let (d_y, weight) = (Matrix::new(d_y, rows, outputs), Matrix::new(weight, outputs, inputs));
            let mut d_x = MatrixMut::new(d_x, rows, inputs);
            linear_backward_input(device, format, counted(count, rows), &mut d_x, d_y, weight)
        });
        let expected: Expected = Box::new(move |host| {
            let [d_y, weight] = host.wide_inputs();
            vec![product_of(matrix(&d_y, rows, outputs), matrix(&weight, outputs, inputs))]
        });
        (launch, expected)
    })
}

/// `d_W = d_y^T x`.
fn backward_weight(product: Product) -> Case {
    let Product { rows, inputs, outputs, format, .. } = product;
    let counts = [rows * outputs, rows * inputs, outputs * inputs];
    product.case("linear_backward_weight", rows, counts, move || {
        let launch: Launch = Box::new(move |device, arrays| {
            let ([d_y, x], [count], [d_weight], others) = arrays.parts();
            let (d_y, x) = (Matrix::new(d_y, rows, outputs), Matrix::new(x, rows, inputs));
            let mut d_weight = MatrixMut::new(d_weight, outputs, inputs);
            let (of, x) = (counted(count, rows), Input::Values(x));
            linear_backward_weight(device, format, of, &mut d_weight, d_y, x, &mut others.parts)
        });
        let expected: Expected = Box::new(move |host| {
            let [d_y, x] = host.wide_inputs();
            vec![product_of(matrix(&d_y, rows, outputs).transpose(), matrix(&x, rows, inputs))]
        });
        (launch, expected)
    })
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
