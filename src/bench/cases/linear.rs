//! linear: the products of a layer with their gradients, alone and with fused operations.

pub mod backward;
pub mod forward;
pub mod states;
pub mod unit;

use super::ROUNDING;
use crate::backend::cuda::launchers::linear::{Format, WeightGradient};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::bench::case::{Case, Grows};
use crate::bench::chain::Chain;
use crate::bench::check::{Output, largest};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use backward::BackwardProduct;
use forward::{Ends, ForwardProduct, Types};
use scenerank_matmul::{Accumulate, MatMut, MatRef, Packed, matmul};
use states::States;
use unit::UnitProduct;

/// A product `[rows, inputs] x [outputs, inputs]^T`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Name of the product in the model.
    pub what: &'static str,
    /// Number of rows of x.
    pub rows: usize,
    /// Number of columns of x.
    pub inputs: usize,
    /// Number of columns of the product.
    pub outputs: usize,
    /// Format of the operands.
    pub format: Format,
    /// Seed of the values.
    pub seed: u64,
}

/// Operand x of a backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X {
    /// The stored values.
    Values,
    /// relu(norm(values)).
    Activated,
    /// relu(norm(values)); the gradients with respect to the norm's weight and bias are computed too.
    ActivatedWithSums,
}

/// Number of launches for two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launches {
    /// Both in one launch.
    One,
    /// Each in its own launch.
    Two,
}

/// Range of columns within wider rows.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// First column of the range.
    pub start: usize,
    /// Number of columns of the wider rows.
    pub of: usize,
}

impl Part {
    /// The range, `count` columns, of each row.
    fn take(self, rows: &[f64], count: usize) -> Vec<f64> {
        rows.chunks_exact(self.of).flat_map(|row| row[self.start..][..count].to_vec()).collect()
    }

    /// The matrix with NaN in all columns outside the range: no kernel may use them.
    fn alone<T: StoredElement>(self, matrix: &HostMatrix, count: usize) -> HostMatrix {
        let mut values: Vec<f32> = matrix.wide().into_iter().map(|value| value as f32).collect();
        for row in values.chunks_exact_mut(self.of) {
            row[..self.start].fill(f32::NAN);
            row[self.start + count..].fill(f32::NAN);
        }
        HostMatrix::new::<T>(values, self.of)
    }
}

impl Product {
    /// All of x.
    pub fn whole(self) -> Part {
        Part { start: 0, of: self.inputs }
    }
}

pub(super) fn cases(sizes: &Sizes, format: Format) -> Vec<Case> {
    let (nodes, edges, config, seed) = (sizes.nodes(), sizes.edges(), sizes.config, sizes.seed);
    let (state, hidden, heads) = (config.state_width, config.hidden_width, config.heads_width(0));
    let product = |what, rows, inputs, outputs| Product { what, rows, inputs, outputs, format, seed };
    let edge_hidden = product("edges of edge.hidden", edges, state, hidden);
    let [of_heads, node_hidden, node_output] = [
        product("heads", edges, hidden, heads),
        product("node.hidden", nodes, hidden, hidden),
        product("node.output", nodes, hidden, state),
    ];
    let grows = |product: Product| if product.rows == edges { Grows::Edges } else { Grows::Nodes };
    let plain = [
        product("nodes of edge.hidden", nodes, state, hidden),
        edge_hidden,
        of_heads,
        node_hidden,
        node_output,
    ]
    .into_iter()
    .flat_map(|product| {
        let forward = ForwardProduct::plain(product);
        let backward = BackwardProduct { product, x: X::Values, part: product.whole() };
        let grows = grows(product);
        [forward::forward(forward), backward::backward(backward)].map(|case| case.growing_with(grows))
    });
    let ends = product("nodes of edge.hidden", nodes, state, 2 * hidden);
    let [objects, predicates] =
        [&sizes.batch.object_occurrences, &sizes.batch.predicate_occurrences].map(|of| of.types.len());
    let of_ends = Ends { of: [&sizes.batch.edge_subject, &sizes.batch.edge_object].map(Vec::clone), nodes };
    let edge_hidden = Product { what: "edge.hidden", ..edge_hidden };
    let types = Types { rows: [objects, predicates], room: [0; 2], inputs: state, hidden, format, seed };
    let activated = |product: Product| {
        let (x, part) = (X::ActivatedWithSums, product.whole());
        backward::backward(BackwardProduct { product, x, part }).growing_with(grows(product))
    };
    let fused = [
        forward::forward_two(types, Launches::One).growing_with(Grows::ObjectTypes),
        forward::forward(ForwardProduct {
            part: Part { start: hidden, of: heads },
            ends: Some(of_ends),
            ..ForwardProduct::activated(edge_hidden)
        })
        .growing_with(Grows::Edges),
        forward::forward(ForwardProduct::activated(of_heads)).growing_with(Grows::Edges),
        activated(of_heads),
        activated(node_output),
        unit::forward(UnitProduct { product: ends, with_rows: true }).growing_with(Grows::Nodes),
        unit::backward(UnitProduct { product: ends, with_rows: true }).growing_with(Grows::Nodes),
        states::backward(States { nodes: ends, edges: edge_hidden }, Launches::One)
            .growing_with(Grows::Edges),
    ];
    plain.chain(fused).collect()
}

/// Chain of both products of a layer's backward: that of d_x, or that of d_W, whose rows are split into parts that the last
/// block adds up. A norm's gradient takes sums of the columns of d_x, too.
fn chain_of_backward(of: Product, with_sums: bool) -> Chain {
    let Product { rows, inputs, outputs, format, .. } = of;
    let rows_of_part = WeightGradient { outputs, inputs, rows }.rows_of_part(format);
    let of_weight = Chain::product(rows_of_part).with_tail_if(rows_of_part < rows);
    Chain::product(outputs).with_tail_if(with_sums).or(of_weight)
}

/// Largest expected error of the values of a product.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    /// Strict bound, relative to the sum of the magnitudes of a value's terms.
    pub strict: f64,
    /// Usual bound, relative to the largest value; rarely exceeded.
    pub usual: f64,
    /// Number of terms per value.
    pub terms: usize,
}

impl Error {
    /// Errors of sums of `terms` products. `made` is the number of operands, of two, that the kernel computes from
    /// stored values.
    ///
    /// Strict bound, with M = sum of |a| |b| over the terms: operands rounded with relative errors of up to u change a
    /// sum by up to (2 u + u^2) M. Each addition changes it by up to eps M, since tensor cores may truncate. The format
    /// of two bf16 adds three times per term. Operands that are stored in bf16 are not rounded again.
    ///
    /// Usual bound: partial sums grow as the root of their length, and roundings have either sign. The roundings of n
    /// additions thus add up to about sqrt(n) / 2 roundings of the largest sum. A factor of 2 sqrt(n) leaves room for
    /// the worst of millions of sums, and for truncation. The operands of a product have errors of up to u, with either
    /// sign. Sums then have an error of about 0.6 u, and 2 u at worst.
    pub fn new(format: Format, terms: usize, made: i32) -> Self {
        let (operands, usual_operands) = match format {
            Format::Fp32 => (0.0, 0.0),
            Format::Bf16 | Format::Bf16Warpgroup if made == 0 => (0.0, 0.0),
            Format::Bf16 | Format::Bf16Warpgroup => ((1.0 + 2f64.powi(-8)).powi(made) - 1.0, 2f64.powi(-8)),
            // Each operand has a remainder of up to 2^-17, and the product of the two low halves is left out.
            Format::Bf16x3 | Format::Bf16x3Warpgroup => {
                let rests = 2.0 * 2f64.powi(-17) + 2f64.powi(-16);
                (rests + 2f64.powi(-34), rests)
            }
        };
        let additions = format.products() * terms;
        Error {
            strict: operands + EPS * (additions as f64 + 4.0),
            usual: usual_operands + 2.0 * (terms as f64).sqrt() * ROUNDING,
            terms,
        }
    }

    /// The same, with additional relative errors of the operands before their last rounding.
    fn after(self, strict: f64, usual: f64) -> Self {
        Error { strict: (1.0 + self.strict) * (1.0 + strict) - 1.0, usual: self.usual + usual, ..self }
    }

    /// Output whose values are sums of terms; `magnitudes` holds the sums of the terms' magnitudes.
    fn output(self, name: &'static str, values: Vec<f64>, magnitudes: &[f64]) -> Output {
        let most = largest(&values);
        // A sum that cancels has the error of a sum of the root of its number of terms.
        let root = (self.terms.max(1) as f64).sqrt();
        let limit = |size: &f64| (self.strict * size).min(self.usual * most.max(2.0 * size / root));
        let limits = magnitudes.iter().map(limit).collect();
        Output { limits, ..Output::exact(name, values) }
    }
}

/// Distance from 1 to the next number in single precision.
const EPS: f64 = f32::EPSILON as f64;
/// Error of sums over chunks of 64 rows, merged in double precision, and of a few roundings after them.
fn sums_error() -> f64 {
    super::roundings(64) + 6.0 * ROUNDING
}

/// norm(z) in single precision, rounded as in the kernels. `norm` begins with mean, rstd, scale and shift.
fn normed(z: &[f64], norm: &[Vec<f32>]) -> Vec<f64> {
    let (scale, shift) = (&norm[2], &norm[3]);
    let value = |(i, &z): (usize, &f64)| {
        let c = i % scale.len();
        f64::from((z as f32).mul_add(scale[c], shift[c]))
    };
    z.iter().enumerate().map(value).collect()
}

/// max(y, 0), where NaN stays NaN.
fn relu(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&y| if y <= 0.0 { 0.0 } else { y }).collect()
}

/// Gradients with respect to a norm's weight and bias: sums of the written d where the ReLU of norm(x) passes.
fn norm_gradient_outputs(x: &[f64], norm: &[Vec<f32>], d: &[f64]) -> [Output; 2] {
    let columns = norm[0].len();
    let normed = normed(x, norm);
    let [mut d_weight, mut d_bias, mut most] = [0; 3].map(|_| vec![0.0; columns]);
    for (i, &d) in d.iter().enumerate().filter(|&(i, _)| normed[i] > 0.0) {
        let c = i % columns;
        let xhat = (x[i] - f64::from(norm[0][c])) * f64::from(norm[1][c]);
        d_bias[c] += d;
        d_weight[c] += d * xhat;
        most[c] += d.abs() * (1.0 + xhat.abs());
    }
    // A chunk has 64 roundings.
    let error = Error { strict: 70.0 * EPS, usual: sums_error(), terms: x.len() / columns };
    [error.output("d_norm_weight", d_weight, &most), error.output("d_norm_bias", d_bias, &most)]
}

/// Magnitude of each value.
fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.abs()).collect()
}

/// Values rounded to the element type.
fn rounded<T: StoredElement>(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(T::narrow(value as f32).widen())).collect()
}

/// Splits a weight of three parts side by side, each with `count` columns padded to `part`. Returns the first above the
/// last, and the middle one.
fn parts_of_weight(weight: &[f64], part: usize, count: usize) -> [Vec<f64>; 2] {
    let take = |index: usize| Part { start: index * part, of: 3 * part }.take(weight, count);
    [[take(0), take(2)].concat(), take(1)]
}

/// `x W^T` for rows of `inputs` values.
fn product(x: &[f64], weight: &[f64], inputs: usize) -> Vec<f64> {
    let (rows, outputs) = (x.len() / inputs, weight.len() / inputs);
    product_of(matrix(x, rows, inputs), matrix(weight, outputs, inputs).transpose())
}

/// `d_y W`.
fn input_gradient(d_y: &[f64], weight: &[f64], inputs: usize) -> Vec<f64> {
    let outputs = weight.len() / inputs;
    product_of(matrix(d_y, d_y.len() / outputs, outputs), matrix(weight, outputs, inputs))
}

/// `d_y^T x`.
fn weight_gradient(d_y: &[f64], x: &[f64], [inputs, outputs]: [usize; 2]) -> Vec<f64> {
    let rows = x.len() / inputs;
    product_of(matrix(d_y, rows, outputs).transpose(), matrix(x, rows, inputs))
}

fn matrix(values: &[f64], rows: usize, columns: usize) -> MatRef<'_, f64> {
    MatRef::new(values, rows, columns)
}

/// `a b` by the CPU's blocked product: the reference's plain loops would take minutes at these sizes.
fn product_of(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Vec<f64> {
    let mut product = vec![f64::NAN; a.rows() * b.columns()];
    let to = MatMut::new(&mut product, a.rows(), b.columns());
    matmul(&mut Packed::default(), to, Accumulate::Replace, a, b);
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::reference::linear as reference;
    use crate::bench::values::Values;

    #[test]
    fn the_fast_product_is_the_reference() {
        let (rows, inputs, outputs) = (7, 5, 3);
        let wide = |values: Vec<f32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
        let mut values = Values::new(1);
        let (x, weight) = (wide(values.signed(rows * inputs)), wide(values.signed(outputs * inputs)));
        let got = product_of(matrix(&x, rows, inputs), matrix(&weight, outputs, inputs).transpose());
        let want = reference::linear(&x, &weight, inputs, outputs);
        assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-14), "{got:?} {want:?}");
    }
}
