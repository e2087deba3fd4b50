//! Cases of every launcher, one file per kernel file. A new launcher needs an entry in its file, and a new kernel file
//! needs a line in [`all`].

pub mod adam;
pub mod batch_norm;
pub mod cosine_ranks;
pub mod draw_triples;
pub mod edge_hidden;
pub mod edge_pool;
pub mod embedding;
pub mod graph_batch;
pub mod inner_products;
pub mod l2_normalise;
pub mod linear;
pub mod rank_merge;
pub mod readout_loss;
pub mod row_correlations;
pub mod top_k;

use half::bf16;

use crate::backend::cuda::device::buffer::Slice;
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::launchers::batch_norm::Norm;
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::batch_norm as reference;
use crate::bench::case::Case;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::network::config::ModelConfig;

/// Cases of all launchers at these sizes. `format` is that of a product's operands, and decides the element type of
/// stored matrices.
pub fn all(sizes: &Sizes, format: Format) -> Vec<Case> {
    let mut cases = match format.is_stored_in_bf16() {
        true => stored::<bf16>(sizes, format),
        false => stored::<f32>(sizes, format),
    };
    let others = [
        adam::cases,
        draw_triples::cases,
        graph_batch::cases,
        top_k::cases,
        cosine_ranks::cases,
        inner_products::cases,
        rank_merge::cases,
        row_correlations::cases,
    ];
    cases.extend(others.into_iter().flat_map(|cases| cases(sizes)));
    cases
}

/// Cases of launchers that exist for both element types.
fn stored<T: StoredElement>(sizes: &Sizes, format: Format) -> Vec<Case> {
    let others = [
        batch_norm::cases::<T>,
        edge_hidden::cases::<T>,
        edge_pool::cases::<T>,
        embedding::cases::<T>,
        l2_normalise::cases::<T>,
        readout_loss::cases::<T>,
    ];
    let mut cases = linear::cases(sizes, format);
    cases.extend(others.into_iter().flat_map(|cases| cases(sizes)));
    cases
}

/// Number of test images in the paper; fewer for a smaller network.
fn test_images(sizes: &Sizes) -> usize {
    if sizes.config.state_width < ModelConfig::PAPER.state_width { 200 } else { 4_537 }
}

/// Largest relative error of one rounding to single precision.
const ROUNDING: f64 = f32::ROUNDING;

/// Largest expected error of `count` roundings one after another. A few may all be at their worst; many partly cancel
/// and reach four times the square root of their number.
fn roundings(count: usize) -> f64 {
    ROUNDING * (count as f64).min(4.0 * (count as f64).sqrt())
}

/// Shape of a case's matrix, and the seed of its values.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of rows; may be 0.
    pub rows: usize,
    /// Number of columns; at least 1.
    pub columns: usize,
    /// Seed of the values.
    pub seed: u64,
}

/// Number of rows as a list of indices, for [`counted`].
fn count(rows: usize) -> Vec<i32> {
    vec![rows as i32]
}

/// Rows that a [`count`] holds, with a grid for `bound` rows.
fn counted(count: Slice<'_, i32>, bound: usize) -> Rows<'_> {
    Rows { count, bound }
}

fn indices(values: &[u32]) -> Vec<i32> {
    values.iter().map(|&value| value as i32).collect()
}

/// Appends -1 to `indices`, `spare` times.
fn with_spare(mut indices: Vec<i32>, spare: usize) -> Vec<i32> {
    indices.resize(indices.len() + spare, -1);
    indices
}

/// Appends NaN to `values`, `spare` times.
fn with_room(mut values: Vec<f32>, spare: usize) -> Vec<f32> {
    values.resize(values.len() + spare, f32::NAN);
    values
}

/// Mean, rstd, weight and bias for `columns` columns of values in -1..1. xhat and the scale reach 4 in magnitude, and
/// norm(z) reaches 9.
fn norm_parameters(values: &mut Values, columns: usize) -> [Vec<f32>; 4] {
    [values.signed(columns), values.positive(columns), values.scales(columns), values.signed(columns)]
}

/// Mean, rstd, scale and shift of a norm with these mean, rstd, weight and bias.
pub fn affine([mean, rstd, weight, bias]: [Vec<f32>; 4]) -> [Vec<f32>; 4] {
    let scale: Vec<f32> = rstd.iter().zip(&weight).map(|(rstd, weight)| rstd * weight).collect();
    let shift = |c: usize| (f64::from(bias[c]) - f64::from(scale[c]) * f64::from(mean[c])) as f32;
    let shift = (0..mean.len()).map(shift).collect();
    [mean, rstd, scale, shift]
}

/// Mean, rstd, scale and shift of [`norm_parameters`].
fn norm_values(values: &mut Values, columns: usize) -> [Vec<f32>; 4] {
    affine(norm_parameters(values, columns))
}

fn norm<'a>(of: [Slice<'a, f32>; 4]) -> Norm<'a> {
    let [mean, rstd, scale, shift] = of;
    Norm { mean, rstd, scale, shift }
}

/// Weight and bias of the norm with these mean, rstd, scale and shift.
fn parameters_of([mean, rstd, scale, shift]: &[Vec<f64>; 4]) -> [Vec<f64>; 2] {
    let columns = 0..mean.len();
    let weight = columns.clone().map(|c| scale[c] / rstd[c]).collect();
    [weight, columns.map(|c| shift[c] + scale[c] * mean[c]).collect()]
}

/// Calls `run` with the reference's norm with these mean, rstd, scale and shift.
pub fn with_reference_norm<R>(of: &[Vec<f64>; 4], run: impl FnOnce(reference::Norm<'_, f64>) -> R) -> R {
    let [weight, bias] = &parameters_of(of);
    run(reference::Norm { mean: &of[0], rstd: &of[1], weight, bias })
}

/// relu(norm(z)) of the reference.
fn reference_relu(of: &[Vec<f64>; 4], z: &[f64]) -> Vec<f64> {
    with_reference_norm(of, |norm| norm.relu_rows(z))
}
