//! linear: the products of a layer, each with its gradients, plain and with what is fused with them.

pub mod backward;
pub mod forward;
pub mod states;
pub mod unit;

use super::ROUNDING;
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::bench::case::Case;
use crate::bench::check::{Output, largest};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::matmul::{Accumulate, MatMut, MatRef, Packed, matmul};
use backward::BackwardProduct;
use forward::{Ends, ForwardProduct, Types};
use states::States;
use unit::UnitProduct;

/// A product `[rows, inputs] x [outputs, inputs]^T`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// What it is in the model.
    pub what: &'static str,
    /// Rows of x.
    pub rows: usize,
    /// Columns of x.
    pub inputs: usize,
    /// Columns of the product.
    pub outputs: usize,
    /// The format of the operands.
    pub format: Format,
    /// The seed of the values.
    pub seed: u64,
}

/// What x of a backward is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X {
    /// Values as they are stored.
    Values,
    /// relu(norm(values)).
    Activated,
    /// The same, and the gradients of the norm's weight and bias are made too.
    ActivatedWithSums,
}

/// Where a gradient is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In memory.
    Stored,
    /// Made by batch norm's backward as it is read.
    ThroughNorm,
}

/// Launches of two products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launches {
    /// Both in one launch.
    One,
    /// Each in a launch of its own.
    Two,
}

/// Columns of wider rows.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The first of the columns.
    pub start: usize,
    /// Columns of the wider rows.
    pub of: usize,
}

impl Part {
    /// `count` columns of each of the rows.
    fn take(self, rows: &[f64], count: usize) -> Vec<f64> {
        rows.chunks_exact(self.of).flat_map(|row| row[self.start..][..count].to_vec()).collect()
    }

    /// The matrix with NaN in all other columns: no kernel may use them.
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
        let backward = BackwardProduct { product, x: X::Values, part: product.whole(), d_y: Source::Stored };
        [forward::forward(forward), backward::backward(backward)]
    });
    let ends = product("nodes of edge.hidden", nodes, state, 2 * hidden);
    let [objects, predicates] =
        [&sizes.batch.object_occurrences, &sizes.batch.predicate_occurrences].map(|of| of.types.len());
    let of_ends = Ends { of: [&sizes.batch.edge_subject, &sizes.batch.edge_object].map(Vec::clone), nodes };
    let edge_hidden = Product { what: "edge.hidden", ..edge_hidden };
    let types = Types { rows: [objects, predicates], room: [0; 2], inputs: state, hidden, format, seed };
    let activated = |product: Product, d_y| {
        let (x, part) = (X::ActivatedWithSums, product.whole());
        backward::backward(BackwardProduct { product, x, part, d_y })
    };
    let through_norm = BackwardProduct {
        product: node_hidden,
        x: X::Values,
        part: node_hidden.whole(),
        d_y: Source::ThroughNorm,
    };
    let fused = [
        forward::forward_two(types, Launches::One),
        forward::forward(ForwardProduct {
            part: Part { start: hidden, of: heads },
            ends: Some(of_ends),
            ..ForwardProduct::activated(edge_hidden)
        }),
        forward::forward(ForwardProduct::activated(of_heads)),
        activated(of_heads, Source::Stored),
        backward::backward(through_norm),
        activated(node_output, Source::ThroughNorm),
        unit::forward(UnitProduct { product: ends, with_rows: true }),
        unit::backward(UnitProduct { product: ends, with_rows: true }),
        states::backward(States { nodes: ends, edges: edge_hidden, d_y: Source::ThroughNorm }, Launches::One),
    ];
    plain.chain(fused).collect()
}

/// How far the values of a product may be off.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    /// Relative to the sum of the magnitudes of a value's terms: no value is off by more.
    pub strict: f64,
    /// Relative to the largest value: rarely is one off by more.
    pub usual: f64,
    /// Number of terms of a value.
    pub terms: usize,
}

impl Error {
    /// Errors of sums of `terms` products. The kernel computes `made` of the two operands from stored values.
    ///
    /// Strictly, with M = sum of |a| |b| over the terms, operands rounded with relative errors of up to u move a sum by
    /// (2 u + u^2) M, and each addition by an eps of a partial sum, which is at most M: tensor cores may truncate, and the
    /// format of two bf16 adds three times a term. Operands that are stored in bf16 are not rounded on the way.
    ///
    /// Usually partial sums grow as the root of their length and a rounding may go either way, so those of n additions add
    /// up to about sqrt(n) / 2 of the largest sum's: 2 sqrt(n) leaves room for the worst of millions of sums, and for
    /// truncation. A product's operands are off by u each, mostly less, and either way: sums by about 0.6 u, of which 2 u is
    /// the worst.
    pub fn new(format: Format, terms: usize, made: i32) -> Self {
        let (operands, usual_operands) = match format {
            Format::Fp32 => (0.0, 0.0),
            Format::Bf16 if made == 0 => (0.0, 0.0),
            Format::Bf16 => ((1.0 + 2f64.powi(-8)).powi(made) - 1.0, 2f64.powi(-8)),
            // Rests of 2^-17 each, and the product of two low halves that is left out.
            Format::Bf16x3 => {
                let rests = 2.0 * 2f64.powi(-17) + 2f64.powi(-16);
                (rests + 2f64.powi(-34), rests)
            }
        };
        let additions = if format == Format::Bf16x3 { 3 * terms } else { terms };
        Error {
            strict: operands + EPS * (additions as f64 + 4.0),
            usual: usual_operands + 2.0 * (terms as f64).sqrt() * ROUNDING,
            terms,
        }
    }

    /// The same, with relative errors of the operands beside their last rounding.
    fn after(self, strict: f64, usual: f64) -> Self {
        Error { strict: (1.0 + self.strict) * (1.0 + strict) - 1.0, usual: self.usual + usual, ..self }
    }

    /// An output whose values are sums of terms with these `magnitudes`.
    fn output(self, name: &'static str, values: Vec<f64>, magnitudes: &[f64]) -> Output {
        let most = largest(&values);
        // A sum that cancels is as far off as one of the root of the number of its terms.
        let root = (self.terms.max(1) as f64).sqrt();
        let limit = |size: &f64| (self.strict * size).min(self.usual * most.max(2.0 * size / root));
        let limits = magnitudes.iter().map(limit).collect();
        Output { limits, ..Output::exact(name, values) }
    }
}

/// The distance from 1 to the next number in single precision.
const EPS: f64 = f32::EPSILON as f64;
/// The roundings of sums over chunks of 64 rows, which double precision merges, and a few after them.
fn sums_error() -> f64 {
    super::roundings(64) + 6.0 * ROUNDING
}

/// norm(z) in single precision, as the kernels round it; mean, rstd, weight and bias begin `norm`.
fn normed(z: &[f64], norm: &[Vec<f32>]) -> Vec<f64> {
    let [mean, rstd, weight, bias] = [0, 1, 2, 3].map(|i| &norm[i]);
    let value = |(i, &z): (usize, &f64)| {
        let c = i % mean.len();
        f64::from((z as f32 - mean[c]) * (rstd[c] * weight[c]) + bias[c])
    };
    z.iter().enumerate().map(value).collect()
}

/// 0 where it is below; NaN stays.
fn relu(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&y| if y <= 0.0 { 0.0 } else { y }).collect()
}

/// The gradients of a norm's weight and bias: sums of d as it was written, where the ReLU of norm(x) passes it.
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
    // 64 roundings within a chunk.
    let error = Error { strict: 70.0 * EPS, usual: sums_error(), terms: x.len() / columns };
    [error.output("d_norm_weight", d_weight, &most), error.output("d_norm_bias", d_bias, &most)]
}

/// d_y that batch norm's backward makes of d and z, and the sum of the magnitudes of what it is made of; `norm` is mean, rstd,
/// weight, bias and the terms that are subtracted.
fn made_gradient(z: &[f64], norm: &[Vec<f32>], d: &[f64]) -> [Vec<f64>; 2] {
    let (columns, terms, normed) = (norm[0].len(), &norm[4], normed(z, norm));
    let of = |i: usize| {
        let c = i % columns;
        let scale = f64::from(norm[1][c] * norm[2][c]);
        let passed = if normed[i] > 0.0 { d[i] } else { 0.0 };
        let offset = z[i] - f64::from(norm[0][c]);
        [scale * passed, -f64::from(terms[c]), -offset * f64::from(terms[columns + c])]
    };
    [
        (0..d.len()).map(|i| of(i).iter().sum()).collect(),
        (0..d.len()).map(|i| of(i).iter().map(|term| term.abs()).sum()).collect(),
    ]
}

/// d_y takes a difference and two fused multiply-adds, each of up to half an eps of its magnitudes.
fn through_norm(error: Error) -> Error {
    error.after(2.0 * EPS, super::roundings(6))
}

/// Magnitude of each value.
fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.abs()).collect()
}

/// As they are stored.
fn rounded<T: StoredElement>(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(T::narrow(value as f32).widen())).collect()
}

/// Three parts of a weight side by side, each of `count` columns of `part` with padding: the first above the last, and the one
/// between.
fn parts_of_weight(weight: &[f64], part: usize, count: usize) -> [Vec<f64>; 2] {
    let take = |index: usize| Part { start: index * part, of: 3 * part }.take(weight, count);
    [[take(0), take(2)].concat(), take(1)]
}

/// `x W^T` for rows of `inputs` values, and the same of magnitudes.
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

/// `a b`, by the fast product: the reference's plain loops would take minutes at these sizes.
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
