//! The argument structs of the linear kernels (`kernels/linear_arguments.cuh`). Letters: R rows, I inputs, O outputs of
//! a layer.

use crate::backend::cuda::device::kernel::{Pointer, PointerMut, kernel_arguments};
use crate::backend::cuda::launchers::norm_arguments::{
    NormArguments, NormBackwardArguments, NormGradientArguments, StatisticsArguments,
};

kernel_arguments! {
    /// A matrix to read: rows of `columns` values, `stride` values apart.
    pub(super) struct MatrixArguments<T> {
        values: Pointer<T>,
        stride: i32,
        columns: i32,
    }

    /// A matrix to write.
    pub(super) struct MatrixMutArguments<T> {
        values: PointerMut<T>,
        stride: i32,
        columns: i32,
    }

    /// A weight `[O, I]`, maybe of two parts: rows from `split` on lie `jump` values further than their stride says.
    pub(super) struct WeightArguments<T> {
        values: Pointer<T>,
        jump: i64,
        stride: i32,
        split: i32,
    }

    /// A weight's gradient `[O, I]`, which may be split as the weight is, and the memory of its parts.
    pub(super) struct WeightGradientArguments {
        /// Written.
        values: PointerMut<f32>,
        /// `[parts, O, I]`: each the sum over some of the rows; unused if there is one part.
        parts: PointerMut<f32>,
        /// `[tiles]`: zeros before and after.
        tickets: PointerMut<i32>,
        jump: i64,
        stride: i32,
        split: i32,
        most_parts: i32,
        most_large_parts: i32,
    }
}

// ---- forward -------------------------------------------------------------------------------------------------------

kernel_arguments! {
    /// `y [R, O] = x [R, I] weight [O, I]^T`.
    pub(super) struct ForwardArguments<T> {
        y: MatrixMutArguments<T>,
        x: MatrixArguments<T>,
        weight: WeightArguments<T>,
        /// `[1]`: R.
        row_count: Pointer<i32>,
    }

    /// What the edges, the rows of y, gather: `projected[subject, ..O] + projected[object, O..]`.
    pub(super) struct GatherArguments<T> {
        /// `[n, 2 O]`.
        projected: MatrixArguments<T>,
        /// `[R] -> n`; so is `object`.
        subject: Pointer<i32>,
        object: Pointer<i32>,
    }

    pub(super) struct LinearForward<T> {
        product: ForwardArguments<T>,
        /// The statistics of y; so everywhere.
        statistics: StatisticsArguments,
    }

    pub(super) struct LinearForwardNorm<T> {
        /// The weight in one part.
        product: ForwardArguments<T>,
        /// The norm of x; so everywhere.
        norm: NormArguments,
        statistics: StatisticsArguments,
    }

    pub(super) struct LinearForwardUnit<T> {
        product: ForwardArguments<T>,
        norm: NormArguments,
        /// `[R]`: the divisors of y, written; null: y is not divided.
        lengths: PointerMut<f32>,
    }

    pub(super) struct LinearForwardGather<T> {
        /// The weight in one part.
        product: ForwardArguments<T>,
        gather: GatherArguments<T>,
        statistics: StatisticsArguments,
    }

    pub(super) struct LinearForwardGatherNorm<T> {
        /// The weight in one part.
        product: ForwardArguments<T>,
        norm: NormArguments,
        gather: GatherArguments<T>,
        statistics: StatisticsArguments,
    }

    pub(super) struct LinearForwardTwo<T> {
        first: ForwardArguments<T>,
        /// Of as many inputs as the first, and with the same strides of x and of the weight.
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
        /// `[1]`: R.
        row_count: Pointer<i32>,
        /// Number of tiles of d_x in the grid; the tiles of d_weight come after them.
        input_blocks: i32,
        reserved: i32,
    }

    pub(super) struct LinearBackward<T> {
        product: BackwardArguments<T>,
    }

    pub(super) struct LinearBackwardNorm<T> {
        /// Both weights in one part.
        product: BackwardArguments<T>,
        /// The norm of x; so everywhere.
        norm: NormArguments,
        d_norm: NormGradientArguments,
    }

    pub(super) struct LinearBackwardUnit<T> {
        product: BackwardArguments<T>,
        norm: NormArguments,
        d_norm: NormGradientArguments,
        /// `[R]`: the multiple of u that d_x is to lose; null: none.
        along: Pointer<f32>,
    }

    pub(super) struct LinearBackwardThroughNorm<T> {
        /// Both weights in one part; d_y is the gradient with respect to relu(norm(y)).
        product: BackwardArguments<T>,
        through: NormBackwardArguments<T>,
    }

    pub(super) struct LinearBackwardNormThroughNorm<T> {
        /// Both weights in one part; d_y is the gradient with respect to relu(norm(y)).
        product: BackwardArguments<T>,
        through: NormBackwardArguments<T>,
        norm: NormArguments,
        d_norm: NormGradientArguments,
    }

    pub(super) struct LinearBackwardStates<T> {
        nodes: LinearBackwardUnit<T>,
        /// Its `d_norm` is unused: no sums of the edges' norm.
        edges: LinearBackwardNormThroughNorm<T>,
        /// Number of blocks of the nodes; those of the edges come after them.
        node_blocks: i32,
        reserved: i32,
    }
}
