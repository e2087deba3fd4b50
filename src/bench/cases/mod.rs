//! The cases of every launcher, one file per kernel file. A new launcher is one more entry in its file, and a new kernel
//! file one more line in [`all`].

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

/// The cases of all launchers at these sizes, with operands of products in this format, and in the element type that goes
/// with it.
pub fn all(sizes: &Sizes, format: Format) -> Vec<Case> {
    let mut cases = match format {
        Format::Bf16 => stored::<bf16>(sizes, format),
        Format::Fp32 | Format::Bf16x3 => stored::<f32>(sizes, format),
    };
    let others = [
        adam::cases,
        draw_triples::cases,
        graph_batch::cases,
        top_k::cases,
        cosine_ranks::cases,
        inner_products::cases,
        row_correlations::cases,
    ];
    cases.extend(others.into_iter().flat_map(|cases| cases(sizes)));
    cases
}

/// Those of launchers that come for either element type.
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

/// The paper's test images, and fewer for a smaller network.
fn test_images(sizes: &Sizes) -> usize {
    if sizes.config.state_width < ModelConfig::PAPER.state_width { 200 } else { 4_537 }
}

/// The most that one rounding to single precision is off by.
const ROUNDING: f64 = f32::ROUNDING;

/// The roundings of a chain of `count` of them that are at their worst together: all of a few, and of many, which
/// partly cancel, four times their square root.
fn roundings(count: usize) -> f64 {
    ROUNDING * (count as f64).min(4.0 * (count as f64).sqrt())
}

/// A matrix of a case, and the seed of its values.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows; may be 0.
    pub rows: usize,
    /// Columns; at least 1.
    pub columns: usize,
    /// The seed of the values.
    pub seed: u64,
}

/// A number of rows, as a list of indices for [`counted`].
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

/// `indices`, and -1 for `spare` more.
fn with_spare(mut indices: Vec<i32>, spare: usize) -> Vec<i32> {
    indices.resize(indices.len() + spare, -1);
    indices
}

/// `values`, and NaN for `spare` more.
fn with_room(mut values: Vec<f32>, spare: usize) -> Vec<f32> {
    values.resize(values.len() + spare, f32::NAN);
    values
}

/// Mean, rstd, weight and bias of `columns` columns of values in -1..1: xhat and scale reach 4 in magnitude, norm(z) 9.
fn norm_values(values: &mut Values, columns: usize) -> [Vec<f32>; 4] {
    [values.signed(columns), values.positive(columns), values.scales(columns), values.signed(columns)]
}

fn norm<'a>(of: [Slice<'a, f32>; 4]) -> Norm<'a> {
    let [mean, rstd, weight, bias] = of;
    Norm { mean, rstd, weight, bias }
}

fn reference_norm(of: &[Vec<f64>; 4]) -> reference::Norm<'_, f64> {
    let [mean, rstd, weight, bias] = of;
    reference::Norm { mean, rstd, weight, bias }
}
