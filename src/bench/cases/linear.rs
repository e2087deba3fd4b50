//! linear: the products of a layer, each with its two gradients.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::ROUNDING;
use crate::backend::cuda::linear::{
    Format, Input, Matrix, MatrixMut, linear_backward_input, linear_backward_weight, linear_forward,
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
    format: Format,
}

pub(super) fn cases(sizes: &Sizes, format: Format) -> Vec<Case> {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (state, hidden, heads) = (config.state_width, config.hidden_width, config.heads_width(0));
    [
        ("nodes of edge.hidden", nodes, state, hidden),
        ("edges of edge.hidden", edges, state, hidden),
        ("heads", edges, hidden, heads),
        ("node.hidden", nodes, hidden, hidden),
        ("node.output", nodes, hidden, state),
    ]
    .into_iter()
    .map(|(what, rows, inputs, outputs)| Product { what, rows, inputs, outputs, format })
    .flat_map(|product| [forward(product), backward_input(product), backward_weight(product)])
    .collect()
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
            let ([x, weight], [], [y], _) = arrays.parts();
            let (x, weight) = (Matrix::new(x, rows, inputs), Matrix::new(weight, outputs, inputs));
            linear_forward(
                device,
                format,
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

/// `d_x = d_y W`.
fn backward_input(product: Product) -> Case {
    let Product { rows, inputs, outputs, format, .. } = product;
    let counts = [rows * outputs, outputs * inputs, rows * inputs];
    product.case("linear_backward_input", outputs, counts, move || {
        let launch: Launch = Box::new(move |device, arrays| {
            let ([d_y, weight], [], [d_x], _) = arrays.parts();
            let (d_y, weight) = (Matrix::new(d_y, rows, outputs), Matrix::new(weight, outputs, inputs));
            let mut d_x = MatrixMut::new(d_x, rows, inputs);
            linear_backward_input(device, format, &mut d_x, d_y, weight)
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
            let ([d_y, x], [], [d_weight], others) = arrays.parts();
            let (d_y, x) = (Matrix::new(d_y, rows, outputs), Matrix::new(x, rows, inputs));
            let mut d_weight = MatrixMut::new(d_weight, outputs, inputs);
            linear_backward_weight(device, format, &mut d_weight, d_y, Input::Values(x), &mut others.parts)
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
