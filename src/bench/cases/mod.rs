//! The cases of every launcher, one file per kernel file. A new launcher is one more entry in its file, and a new kernel
//! file one more line in [`all`].

mod adam;
mod batch_norm;
mod cosine_ranks;
mod edge_hidden;
mod edge_pool;
mod embedding;
mod inner_products;
mod l2_normalise;
mod linear;
mod pair_correlations;
mod readout_loss;
mod row_correlations;
mod top_k;

use crate::backend::cuda::batch_norm::Norm;
use crate::backend::cuda::buffer::Slice;
use crate::backend::cuda::linear::Format;
use crate::backend::cuda::rows::Rows;
use crate::backend::reference::batch_norm as reference;
use crate::bench::case::Case;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::model::config::ModelConfig;

/// The cases of all launchers at these sizes, with operands of products in this format.
pub fn all(sizes: &Sizes, format: Format) -> Vec<Case> {
    let others = [
        batch_norm::cases,
        edge_hidden::cases,
        edge_pool::cases,
        embedding::cases,
        l2_normalise::cases,
        readout_loss::cases,
        adam::cases,
        top_k::cases,
        cosine_ranks::cases,
        inner_products::cases,
        row_correlations::cases,
        pair_correlations::cases,
    ];
    let mut cases = linear::cases(sizes, format);
    cases.extend(others.into_iter().flat_map(|cases| cases(sizes)));
    cases
}

/// The paper's test images, and fewer for a smaller network.
fn test_images(sizes: &Sizes) -> usize {
    if sizes.config.state_width < ModelConfig::PAPER.state_width { 200 } else { 4_537 }
}

/// Half the distance from 1 to the next number in single precision: the most that one rounding is off by.
const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

/// The roundings of a chain of `count` of them that are at their worst together: all of a few, and of many, which
/// partly cancel, four times their square root.
fn roundings(count: usize) -> f64 {
    ROUNDING * (count as f64).min(4.0 * (count as f64).sqrt())
}

/// So many rows, as a list of indices for [`counted`].
fn count(rows: usize) -> Vec<i32> {
    vec![rows as i32]
}

/// The rows of a [`count`], with a grid for just as many.
fn counted(count: Slice<'_, i32>, bound: usize) -> Rows<'_> {
    Rows { count, bound }
}

fn indices(values: &[u32]) -> Vec<i32> {
    values.iter().map(|&value| value as i32).collect()
}

/// Mean, rstd, weight and bias of `columns` columns of values in -1..1.
fn norm_values(values: &mut Values, columns: usize) -> [Vec<f32>; 4] {
    [values.signed(columns), values.positive(columns), values.positive(columns), values.signed(columns)]
}

fn norm<'a>(of: [Slice<'a, f32>; 4]) -> Norm<'a> {
    let [mean, rstd, weight, bias] = of;
    Norm { mean, rstd, weight, bias }
}

fn reference_norm(of: &[Vec<f64>; 4]) -> reference::Norm<'_, f64> {
    let [mean, rstd, weight, bias] = of;
    reference::Norm { mean, rstd, weight, bias }
}
