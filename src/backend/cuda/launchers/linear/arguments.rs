//! Argument structs of the linear kernels (`kernels/linear_arguments.cuh`). Letters: R rows, I inputs, O
//! outputs of a layer.

use crate::backend::cuda::device::kernel::{Pointer, PointerMut, kernel_arguments};
use crate::backend::cuda::launchers::norm_arguments::{
    NormArguments, NormGradientArguments, StatisticsArguments,
};

kernel_arguments! {
    /// Input matrix: rows of `columns` values, `stride` values apart.
    pub(super) struct MatrixArguments<T> {
        values: Pointer<T>,
        stride: i32,
        columns: i32,
    }

    /// Output matrix: rows of `columns` values, `stride` values apart.
    pub(super) struct MatrixMutArguments<T> {
        values: PointerMut<T>,
        stride: i32,
        columns: i32,
    }

    /// Weight `[O, I]`, possibly in two parts: rows from `split` on lie `jump` values beyond their regular
    /// position.
    pub(super) struct WeightArguments<T> {
        values: Pointer<T>,
        jump: i64,
        stride: i32,
        split: i32,
    }

    /// Gradient of a weight `[O, I]`, split like the weight, and the memory for its parts.
    pub(super) struct WeightGradientArguments {
        /// `[O, I]` gradient, overwritten.
        values: PointerMut<f32>,
        /// `[parts, O, I]` sums over some of the rows; unused if there is one part.
        parts: PointerMut<f32>,
        /// `[tiles]` tickets: zeros before and after each launch.
        tickets: PointerMut<i32>,
        jump: i64,
        stride: i32,
        split: i32,
        most_parts: i32,
        has_large: i32,
    }
}

// ---- forward -------------------------------------------------------------------------------------------------------

kernel_arguments! {
    /// `y [R, O] = x [R, I] weight [O, I]^T`.
    pub(super) struct ForwardArguments<T> {
        y: MatrixMutArguments<T>,
        x: MatrixArguments<T>,
        weight: WeightArguments<T>,
        /// `[1]` number of rows R.
        row_count: Pointer<i32>,
    }

    /// Values gathered by the edges, the rows of y: `projected[subject, ..O] + projected[object, O..]`.
    pub(super) struct GatherArguments<T> {
        /// `[n, 2 O]` products of the nodes, as subject and as object.
        projected: MatrixArguments<T>,
        /// `[R] -> n` subject of each edge; `object` likewise.
        subject: Pointer<i32>,
        object: Pointer<i32>,
    }

    pub(super) struct LinearForward<T> {
        product: ForwardArguments<T>,
        /// Statistics of y; the same in the following structs.
        statistics: StatisticsArguments,
    }

    pub(super) struct LinearForwardNorm<T> {
        /// The product; its weight is in one part.
        product: ForwardArguments<T>,
        /// Norm of x; the same in the following structs.
        norm: NormArguments,
        statistics: StatisticsArguments,
    }

    pub(super) struct LinearForwardUnit<T> {
        product: ForwardArguments<T>,
        norm: NormArguments,
        /// `[R]` divisors of y, overwritten; null if y is not divided.
        lengths: PointerMut<f32>,
    }

    pub(super) struct LinearForwardGather<T> {
        /// The product; its weight is in one part.
        product: ForwardArguments<T>,
        gather: GatherArguments<T>,
        statistics: StatisticsArguments,
    }

    pub(super) struct LinearForwardGatherNorm<T> {
        /// The product; its weight is in one part.
        product: ForwardArguments<T>,
        norm: NormArguments,
        gather: GatherArguments<T>,
        statistics: StatisticsArguments,
    }

    pub(super) struct LinearForwardTwo<T> {
        first: ForwardArguments<T>,
        /// Has the same number of inputs as the first, and the same strides of x and of the weight.
        second: ForwardArguments<T>,
        /// Number of tiles of the first product.
        first_blocks: i32,
        reserved: i32,
    }
}

// ---- backward ------------------------------------------------------------------------------------------------------

kernel_arguments! {
    /// `d_x [R, I] = d_y [R, O] weight [O, I]` and `d_weight [O, I] = d_y [R, O]^T x [R, I]`.
    pub(super) struct BackwardArguments<T> {
        d_x: MatrixMutArguments<T>,
        d_weight: WeightGradientArguments,
        d_y: MatrixArguments<T>,
        x: MatrixArguments<T>,
        weight: WeightArguments<T>,
        /// `[1]` number of rows R.
        row_count: Pointer<i32>,
    }

    pub(super) struct LinearBackward<T> {
        product: BackwardArguments<T>,
    }

    pub(super) struct LinearBackwardNorm<T> {
        /// The products; both weights are in one part.
        product: BackwardArguments<T>,
        /// Norm of x; the same in the following structs.
        norm: NormArguments,
        d_norm: NormGradientArguments,
    }

    pub(super) struct LinearBackwardUnit<T> {
        product: BackwardArguments<T>,
        norm: NormArguments,
        d_norm: NormGradientArguments,
        /// `[R]` multiple of u to subtract from d_x; null: none.
        along: Pointer<f32>,
    }

    pub(super) struct LinearBackwardStates<T> {
        nodes: LinearBackwardUnit<T>,
        /// Backward of the edges. `d_norm` is unused: the sums of the edges' norm are not needed.
        edges: LinearBackwardNorm<T>,
    }
}
