//! linear: the products of a layer, each with its two gradients.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::roundings;
use crate::backend::cuda::linear::{
    Matrix, MatrixMut, Output, linear_backward_input, linear_backward_weight, linear_forward,
};
use crate::bench::case::{Case, Cost, Expected, Host, Launch, Prepared, unwritten};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

/// A product `[rows, inputs] x [outputs, inputs]^T`.
#[derive(Clone, Copy)]
struct Product {
    what: &'static str,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (state, hidden, heads) = (config.state_width, config.hidden_width, config.heads_width(0));
    [
        Product { what: "nodes of edge.hidden", rows: nodes, inputs: state, outputs: hidden },
        Product { what: "edges of edge.hidden", rows: edges, inputs: state, outputs: hidden },
        Product { what: "heads", rows: edges, inputs: hidden, outputs: heads },
        Product { what: "node.hidden", rows: nodes, inputs: hidden, outputs: hidden },
        Product { what: "node.output", rows: nodes, inputs: hidden, outputs: state },
    ]
    .into_iter()
    .flat_map(|product| [forward(product), backward_input(product), backward_weight(product)])
    .collect()
}

impl Product {
    /// `result` and two operands; `terms` products are added up in each value, and rounded twice.
    fn case(
        self,
        kernel: &'static str,
        terms: usize,
        [left, right, result]: [usize; 3],
        functions: impl Fn() -> (Launch, Expected) + 'static,
    ) -> Case {
        let Product { what, rows, inputs, outputs } = self;
        Case {
            kernel,
            shape: format!("[{rows}, {inputs}] -> {outputs}, {what}"),
            cost: Cost::of(left + right + result, 2 * rows * inputs * outputs),
            tolerance: roundings(2 * terms),
            prepare: Box::new(move || {
                let mut values = Values::new();
                let host = Host {
                    inputs: vec![values.signed(left), values.signed(right)],
                    outputs: vec![unwritten(result)],
                    ..Default::default()
                };
                let (launch, expected) = functions();
                Prepared { host, launch, expected }
            }),
        }
    }
}

/// `y = x W^T`.
fn forward(product: Product) -> Case {
    let Product { rows, inputs, outputs, .. } = product;
    let counts = [rows * inputs, outputs * inputs, rows * outputs];
    product.case("linear_forward", inputs, counts, move || {
        let launch: Launch = Box::new(move |device, arrays| {
            let ([x, weight], [], [y], _) = arrays.parts();
            let (x, weight) = (Matrix::new(x, rows, inputs), Matrix::new(weight, outputs, inputs));
            linear_forward(device, &mut MatrixMut::new(y, rows, outputs), x, weight, Output::Replace)
        });
        let expected: Expected = Box::new(move |host| {
            let [x, weight] = host.wide_inputs();
            let (x, weight) = (matrix(&x, rows, inputs), matrix(&weight, outputs, inputs));
            vec![product_of(x, weight.transpose())]
        });
        (launch, expected)
    })
}

/// `d_x = d_y W`.
fn backward_input(product: Product) -> Case {
    let Product { rows, inputs, outputs, .. } = product;
    let counts = [rows * outputs, outputs * inputs, rows * inputs];
    product.case("linear_backward_input", outputs, counts, move || {
        let launch: Launch = Box::new(move |device, arrays| {
            let ([d_y, weight], [], [d_x], _) = arrays.parts();
            let (d_y, weight) = (Matrix::new(d_y, rows, outputs), Matrix::new(weight, outputs, inputs));
            let mut d_x = MatrixMut::new(d_x, rows, inputs);
            linear_backward_input(device, &mut d_x, d_y, weight, Output::Replace)
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
    let Product { rows, inputs, outputs, .. } = product;
    let counts = [rows * outputs, rows * inputs, outputs * inputs];
    product.case("linear_backward_weight", rows, counts, move || {
        let launch: Launch = Box::new(move |device, arrays| {
            let ([d_y, x], [], [d_weight], scratch) = arrays.parts();
            let (d_y, x) = (Matrix::new(d_y, rows, outputs), Matrix::new(x, rows, inputs));
            let mut d_weight = MatrixMut::new(d_weight, outputs, inputs);
            linear_backward_weight(device, &mut d_weight, d_y, x, &mut scratch.parts)
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
