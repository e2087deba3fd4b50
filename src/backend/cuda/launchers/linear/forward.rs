//! Forward products: plain, with a norm, with l2-normalised rows, with gathered values, or two in one launch.

use super::arguments::{
    ForwardArguments, GatherArguments, LinearForward, LinearForwardGather, LinearForwardGatherNorm,
    LinearForwardNorm, LinearForwardTwo, LinearForwardUnit,
};
use super::kernels::TileKernels;
use super::{Input, Matrix, MatrixMut, StoredFormat, Weights, check_rows, covering};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::kernel::{Blocks, int};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Device, check_len};
use crate::backend::cuda::launchers::batch_norm::{BatchStatistics, Norm};
use crate::backend::cuda::launchers::lists::Ends;
use crate::backend::cuda::launchers::norm_arguments::StatisticsArguments;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;

/// A forward product: `y [R, O] = x [R, I] weight [O, I]^T`.
pub struct Forward<'a, T, X> {
    /// Number of rows, R.
    pub rows: Rows<'a>,
    /// `[R, O]` product, overwritten.
    pub y: MatrixMut<'a, T>,
    /// `[R, I]` input.
    pub x: X,
    /// `[O, I]` weight.
    pub weight: Matrix<'a, T>,
}

/// Product of an edge's own state plus the values that the edge gathers: `y [E, H] = x [E, I] weight [H, I]^T
/// + projected[subject, ..H] + projected[object, H..]`.
pub struct ForwardGather<'a, T> {
    /// Number of edges E, and the rows of `projected` that each edge gathers.
    pub ends: Ends<'a>,
    /// `[n, 2 H]` products of the nodes, as subject and as object.
    pub projected: Slice<'a, T>,
    /// `[E, H]` result, overwritten.
    pub y: MatrixMut<'a, T>,
    /// `[E, I]` edge states.
    pub x: Input<'a, T>,
    /// `[H, I]` weight of the edge states.
    pub weight: Matrix<'a, T>,
}

impl<T: StoredElement> Forward<'_, T, Matrix<'_, T>> {
    /// Panics unless the shapes fit and the weight has the form that the kernel takes.
    #[track_caller]
    fn arguments(&mut self, launcher: &str, weights: Weights) -> ForwardArguments<T> {
        let Forward { rows, y, x, weight } = self;
        check_rows(launcher, *rows, [y.rows, x.rows]);
        assert_eq!((y.columns, x.columns), (weight.rows, weight.columns), "{launcher}: shapes");
        weights.check(launcher, weight.lines);
        ForwardArguments {
            y: y.arguments(),
            x: x.arguments(),
            weight: weight.weight_arguments(),
            row_count: (*rows).into(),
        }
    }
}

/// Kernels and grid that compute y. Without rows there is one block per strip of columns, for the sums.
fn grid<T: StoredElement>(
    format: StoredFormat<T>,
    y: &MatrixMut<'_, T>,
) -> (&'static TileKernels<T>, Blocks) {
    let tile = format.format.forward_tile([(y.rows, y.columns)]);
    let [tile_rows, tile_columns] = format.format.forward_sides(tile);
    let blocks = Blocks::new(y.columns.div_ceil(tile_columns), y.rows.div_ceil(tile_rows).max(1), 1);
    (format.kernels.tile(tile), blocks)
}

/// Computes `y = x weight^T` and the statistics of y. The weight may be split only if x is plain values.
pub fn linear_forward<T: StoredElement>(
    device: &Device,
    format: StoredFormat<T>,
    of: Forward<'_, T, Input<'_, T>>,
    statistics: Option<BatchStatistics<'_>>,
) -> Result<()> {
    let Forward { rows, y, x, weight } = of;
    let (kernels, blocks) = grid(format, &y);
    let statistics = StatisticsArguments::new(device, statistics, y.rows, y.columns)?;
    let mut product = Forward { rows, y, x: x.check(), weight };
    // SAFETY: shapes were checked; a matrix's slice holds its rows, a norm's its columns, and the sums have
    // room; everything written is borrowed mutably.
    unsafe {
        match x {
            Input::Values(_) => {
                let product = product.arguments("linear_forward", Weights::MayBeSplit);
                device.launch(&kernels.forward, blocks, &LinearForward { product, statistics })
            }
            Input::Activated(_, norm) => {
                let product = product.arguments("linear_forward", Weights::InOnePart);
                let arguments = LinearForwardNorm { product, norm: norm.into(), statistics };
                device.launch(&kernels.forward_norm, blocks, &arguments)
            }
        }
    }
}

/// Computes `y = (u / |u|) weight^T` by row, where `u [R, I] = relu(norm(z))` and `of.x` is z with its norm.
/// Writes the divisors to `lengths [R]`: |u|, or the smallest divisor of an l2 normalisation. Without
/// lengths, `y = u weight^T`.
pub fn linear_forward_unit<T: StoredElement>(
    device: &Device,
    format: StoredFormat<T>,
    of: Forward<'_, T, (Matrix<'_, T>, Norm<'_>)>,
    lengths: Option<&mut SliceMut<'_, f32>>,
) -> Result<()> {
    let Forward { rows, y, x: (z, norm), weight } = of;
    norm.check(z.columns);
    if let Some(lengths) = &lengths {
        check_len("linear_forward_unit: lengths", lengths.len(), rows.bound);
    }
    let (kernels, blocks) = grid(format, &y);
    let mut product = Forward { rows, y, x: z, weight };
    let product = product.arguments("linear_forward_unit", Weights::MayBeSplit);
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = LinearForwardUnit { product, norm: norm.into(), lengths: lengths.into() };
    // SAFETY: shapes were checked; a matrix's slice holds its rows, a norm's its columns; everything written
    // is borrowed mutably.
    unsafe { device.launch(&kernels.forward_unit, blocks, &arguments) }
}

/// Computes [`ForwardGather`] and the statistics of y. No matrix may be split.
pub fn linear_forward_gather<T: StoredElement>(
    device: &Device,
    format: StoredFormat<T>,
    of: ForwardGather<'_, T>,
    statistics: Option<BatchStatistics<'_>>,
) -> Result<()> {
    let ForwardGather { ends, projected, y, x, weight } = of;
    ends.check();
    let gather = GatherArguments {
        projected: Matrix::new(projected, projected.len() / T::stride(2 * y.columns), 2 * y.columns)
            .arguments(),
        subject: ends.subject.into(),
        object: ends.object.into(),
    };
    let (kernels, blocks) = grid(format, &y);
    let statistics = StatisticsArguments::new(device, statistics, y.rows, y.columns)?;
    let mut product = Forward { rows: ends.edges, y, x: x.check(), weight };
    let product = product.arguments("linear_forward_gather", Weights::InOnePart);
    // SAFETY: shapes were checked; a matrix's slice holds its rows, a norm's its columns, the ends are rows
    // of `projected`, and the sums have room; everything written is borrowed mutably.
    unsafe {
        match x {
            Input::Values(_) => {
                let arguments = LinearForwardGather { product, gather, statistics };
                device.launch(&kernels.forward_gather, blocks, &arguments)
            }
            Input::Activated(_, norm) => {
                let arguments = LinearForwardGatherNorm { product, norm: norm.into(), gather, statistics };
                device.launch(&kernels.forward_gather_norm, blocks, &arguments)
            }
        }
    }
}

/// Computes two independent products in one launch. Their inputs have rows of the same width and stride, and
/// their weights are parts of one matrix.
pub fn linear_forward_two<T: StoredElement>(
    device: &Device,
    format: StoredFormat<T>,
    mut of: [Forward<'_, T, Matrix<'_, T>>; 2],
) -> Result<()> {
    let tile = format.format.forward_tile(of.each_ref().map(|of| (of.y.rows, of.y.columns)));
    let sides = format.format.forward_sides(tile);
    let [first_blocks, second_blocks] = of.each_ref().map(|of| covering(sides, of.y.rows, of.y.columns));
    if first_blocks + second_blocks == 0 {
        return Ok(());
    }
    let [one, other] = of.each_ref().map(|of| (of.x.lines.stride, of.weight.lines.stride, of.x.columns));
    assert_eq!(one, other, "linear_forward_two: rows of inputs and of weights");
    let [first, second] = of.each_mut().map(|of| of.arguments("linear_forward_two", Weights::MayBeSplit));
    let arguments = LinearForwardTwo { first, second, first_blocks: int(first_blocks), reserved: 0 };
    let kernel = &format.kernels.tile(tile).forward_two;
    // SAFETY: shapes were checked; a matrix's slice holds its rows; everything written is borrowed mutably.
    unsafe { device.launch(kernel, Blocks::rows(first_blocks + second_blocks), &arguments) }
}
