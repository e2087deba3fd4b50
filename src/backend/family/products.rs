//! Kinds of products, and what their results by two families may differ by.
//!
//! Both families multiply the same operands: values stored in bf16, or relu(norm(z)) rounded to bf16 after the same operations; in
//! bf16x3 the same two bf16 for each value. A product of two bf16 has 16 significant bits, so it is exact in single precision. What
//! differs is the order of the sums.
//!
//! A sum of `n` terms of at most `t` in magnitude has magnitudes of at most `n t` along the way. Each addition changes it by up
//! to `eps n t` with `eps = 2^-23`, since tensor cores may truncate. Two families thus differ by up to `2 (n + 4) eps n t`, with
//! room for four operations after the sum. In bf16x3 each product of two values is three terms, whose magnitudes add up to at most
//! `1 + 2^-6` of its own. Results that are stored in bf16 are rounded by up to `2^-8` of their magnitude in
//! each family; in bf16x3 they are stored as they are. All other limits follow from these.

use std::fmt;

use crate::backend::cuda::launchers::linear::StoredFormat;
use crate::backend::cuda::launchers::stored::StoredElement;

/// Largest magnitudes of a norm's rstd, scale and shift, for values and means of up to 1.
pub(super) const LARGEST_RSTD: f64 = 1.5;
pub(super) const LARGEST_SCALE: f64 = 1.5;
pub(super) const LARGEST_SHIFT: f64 = 0.5;
/// Largest value of relu(norm(z)), and largest magnitude of a normalised value, (z - mean) rstd.
const LARGEST_NORMED: f64 = LARGEST_SCALE + LARGEST_SHIFT;
const LARGEST_XHAT: f64 = 2.0 * LARGEST_RSTD;

/// Distance from 1 to the next number in single precision.
const EPS: f64 = f32::EPSILON as f64;
/// Sums over rows: 64 in single precision, and a few operations around them, in both families.
const COLUMN_SUMS: f64 = 2.0 * 72.0 * EPS;

/// Sizes of a layer's products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// N: number of rows of most products; at least 1.
    pub nodes: usize,
    /// E: number of rows of the products of edges; at least 1.
    pub edges: usize,
    /// I: number of columns of the left operands.
    pub inputs: usize,
    /// H: number of columns of most products. Those that stack two parts of the weight have twice as many.
    pub hidden: usize,
    /// Number of rows beyond these that grids and matrices have room for. The tile depends on it.
    pub room: usize,
}

/// Kinds of launches that multiply: each has a kernel for every tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    Forward,
    ForwardNorm,
    ForwardUnit,
    ForwardGather,
    ForwardGatherNorm,
    ForwardTwo,
    Backward,
    BackwardNorm,
    BackwardUnit,
    BackwardStates,
}

impl Product {
    pub(super) const ALL: [Product; 10] = [
        Product::Forward,
        Product::ForwardNorm,
        Product::ForwardUnit,
        Product::ForwardGather,
        Product::ForwardGatherNorm,
        Product::ForwardTwo,
        Product::Backward,
        Product::BackwardNorm,
        Product::BackwardUnit,
        Product::BackwardStates,
    ];

    /// What is compared of that which the launch writes.
    pub(super) fn outputs(self) -> &'static [Output] {
        use Output::{DE, DNormBias, DNormWeight, DWeight, DX, Lengths, Mean, Rstd, Y, Z};
        match self {
            Product::Forward | Product::ForwardNorm => &[Y, Mean, Rstd],
            Product::ForwardGather | Product::ForwardGatherNorm => &[Y, Mean, Rstd],
            Product::ForwardUnit => &[Lengths, Y],
            Product::ForwardTwo => &[Y, Z],
            Product::Backward => &[DX, DWeight],
            Product::BackwardNorm | Product::BackwardUnit => &[DX, DWeight, DNormWeight, DNormBias],
            Product::BackwardStates => &[DX, DE, DWeight, DNormWeight, DNormBias],
        }
    }

    /// Whether x is relu(norm(z)).
    fn is_normed(self) -> bool {
        !matches!(self, Product::Forward | Product::ForwardGather | Product::ForwardTwo | Product::Backward)
    }
}

impl fmt::Display for Product {
    /// Name of the kernels, without format and tile.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Product::Forward => "linear_forward",
            Product::ForwardNorm => "linear_forward_norm",
            Product::ForwardUnit => "linear_forward_unit",
            Product::ForwardGather => "linear_forward_gather",
            Product::ForwardGatherNorm => "linear_forward_gather_norm",
            Product::ForwardTwo => "linear_forward_two",
            Product::Backward => "linear_backward",
            Product::BackwardNorm => "linear_backward_norm",
            Product::BackwardUnit => "linear_backward_unit",
            Product::BackwardStates => "linear_backward_states",
        })
    }
}

/// Arrays that products write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// The product, as stored; the first of two.
    Y,
    /// The second product.
    Z,
    /// Mean of each column of y, and 1 / sqrt(variance + eps).
    Mean,
    Rstd,
    /// Lengths of the rows of x, by which those of y are divided.
    Lengths,
    /// Gradients with respect to x of the nodes, and to that of the edges, as stored.
    DX,
    DE,
    DWeight,
    DNormWeight,
    DNormBias,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Output::Y => "y",
            Output::Z => "z",
            Output::Mean => "mean",
            Output::Rstd => "rstd",
            Output::Lengths => "lengths",
            Output::DX => "d_x",
            Output::DE => "d_e",
            Output::DWeight => "d_weight",
            Output::DNormWeight => "d_norm_weight",
            Output::DNormBias => "d_norm_bias",
        })
    }
}

/// Number format of the operands and of stored results.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exactness {
    /// Number of terms of a sum for each product of two values.
    products: usize,
    /// Largest relative error of a stored result.
    rounding: f64,
}

impl Exactness {
    /// That of both families of a format.
    pub(super) fn of<T: StoredElement>(format: StoredFormat<T>) -> Self {
        Exactness { products: format.format.products(), rounding: if T::IS_BF16 { T::ROUNDING } else { 0.0 } }
    }

    /// Largest difference of two sums of `products` products of two values and `others` more terms, each of up to `size` in
    /// magnitude.
    fn of_sums(self, products: usize, others: usize, size: f64) -> f64 {
        let parts = if self.products == 1 { 1.0 } else { 1.0 + 2f64.powi(-6) };
        let (terms, all) = (self.products * products + others, (products + others) as f64 * size * parts);
        2.0 * (terms as f64 + 4.0) * EPS * all
    }

    /// Largest difference of two values whose sums differ by up to `of_sums`, after their roundings; one is `value`.
    fn of_stored(self, value: f32, of_sums: f64) -> f64 {
        let magnitude = f64::from(value).abs() / (1.0 - self.rounding) + of_sums;
        of_sums + 2.0 * self.rounding * magnitude
    }
}

/// The value in which two families differ most, as a share of what they may differ by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Difference {
    pub product: Product,
    pub output: Output,
    /// Number of columns of the weight's parts, which decides the tile.
    pub columns: usize,
    /// Magnitude of the difference; NaN if one of the values is not a number.
    pub by: f64,
    /// Largest allowed magnitude.
    pub limit: f64,
}

impl Difference {
    pub(super) fn is_allowed(&self) -> bool {
        self.by <= self.limit
    }

    /// Share of the limit; infinite for what is not a number.
    pub(super) fn share(&self) -> f64 {
        if self.by.is_nan() { f64::INFINITY } else { self.by / self.limit }
    }

    /// Compares what a product wrote: the arrays of [`Product::outputs`] by mma.sync, and by wgmma.
    pub(super) fn of(
        product: Product,
        shape: Shape,
        format: Exactness,
        by_mma: &[Vec<f32>],
        by_wgmma: &[Vec<f32>],
    ) -> Self {
        let limits = limits(product, shape, format, by_mma);
        let outputs = product.outputs().iter().zip(by_mma.iter().zip(by_wgmma)).zip(&limits);
        let all = outputs.flat_map(|((&output, (mma, wgmma)), limits)| {
            assert_eq!([wgmma.len(), limits.len()], [mma.len(); 2], "{output} of {product}");
            let values = mma.iter().zip(wgmma).zip(limits);
            values.map(move |((&mma, &wgmma), &limit)| {
                let by = (f64::from(mma) - f64::from(wgmma)).abs();
                Difference { product, output, columns: shape.inputs, by, limit }
            })
        });
        all.max_by(|one, other| one.share().total_cmp(&other.share())).expect("products write something")
    }
}

/// By column of a matrix with `columns` columns, `fold` over its rows.
fn by_column(values: &[f64], columns: usize, fold: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let mut folded = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        folded.iter_mut().zip(row).for_each(|(folded, &value)| *folded = fold(*folded, value));
    }
    folded
}

/// Largest allowed differences of each value of a product's outputs, given those of one family.
fn limits(product: Product, shape: Shape, format: Exactness, written: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let Shape { nodes, edges, inputs, hidden, .. } = shape;
    let largest_x = if product.is_normed() { LARGEST_NORMED } else { 1.0 };
    let gathered = 2 * usize::from(matches!(product, Product::ForwardGather | Product::ForwardGatherNorm));
    let stacks = matches!(product, Product::BackwardUnit | Product::BackwardStates);
    let of_product = format.of_sums(inputs, gathered, largest_x);
    // The multiple of x that is subtracted is at most 2, as two terms.
    let of_d_x = if stacks { format.of_sums(2 * hidden, 2, 1.0) } else { format.of_sums(hidden, 0, 1.0) };
    let stored =
        |values: &[f32], of_sums: f64| values.iter().map(|&value| format.of_stored(value, of_sums)).collect();
    let magnitudes = |values: &[f32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v).abs()).collect() };
    let mut limits: Vec<Vec<f64>> = Vec::new();
    for (&output, values) in product.outputs().iter().zip(written) {
        // Limits and magnitudes of the first output, by column.
        let of_first = |columns: usize, fold: fn(f64, f64) -> f64| {
            let [limits, sizes] =
                [&limits[0], &magnitudes(&written[0])].map(|of| by_column(of, columns, fold));
            limits.into_iter().zip(sizes)
        };
        limits.push(match output {
            Output::Y if product == Product::ForwardUnit => {
                let row = |(row, &length): (&[f32], &f32)| -> Vec<f64> {
                    let length = f64::from(length);
                    // Two lengths differ as below, and a quotient follows.
                    let of_length = |y: f32| f64::from(y).abs() * (inputs as f64 + 8.0) * EPS;
                    row.iter().map(|&y| format.of_stored(y, of_product / length + of_length(y))).collect()
                };
                values.chunks_exact(2 * hidden).zip(&written[0]).flat_map(row).collect()
            }
            Output::Y | Output::Z => stored(values, of_product),
            // The root halves the error of a sum of squares.
            Output::Lengths => {
                magnitudes(values).iter().map(|length| length * (inputs as f64 + 4.0) * EPS).collect()
            }
            Output::Mean => {
                of_first(hidden, f64::max).map(|(limit, size)| limit + COLUMN_SUMS * size).collect()
            }
            // A standard deviation changes by at most the change of the values.
            Output::Rstd => {
                let rstd = magnitudes(values);
                let of = of_first(hidden, f64::max).zip(rstd);
                of.map(|((limit, size), rstd)| {
                    let change = (limit + COLUMN_SUMS * size) * rstd;
                    rstd * change / (1.0 - change).max(EPS)
                })
                .collect()
            }
            Output::DX => stored(values, of_d_x),
            Output::DE => stored(values, format.of_sums(hidden, 0, 1.0)),
            Output::DWeight => {
                let rows = if product == Product::BackwardStates { nodes.max(edges) } else { nodes };
                vec![format.of_sums(rows, 0, largest_x); values.len()]
            }
            Output::DNormWeight | Output::DNormBias => {
                let factor = if output == Output::DNormWeight { LARGEST_XHAT } else { 1.0 };
                let of = of_first(inputs, |sum, value| sum + value);
                of.map(|(limit, size)| factor * (limit + COLUMN_SUMS * size)).collect()
            }
        });
    }
    limits
}
