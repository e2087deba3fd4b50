//! Batch norm's parts of the kernels' argument structs (`kernels/norm_arguments.cuh`); `batch_norm.rs` fills
//! them.

use crate::backend::cuda::device::kernel::{Pointer, PointerMut, kernel_arguments};

kernel_arguments! {
    /// Batch norm of C columns, norm(z) = scale z + shift: `[C]` each.
    pub(crate) struct NormArguments {
        scale: Pointer<f32>,
        shift: Pointer<f32>,
    }

    /// Statistics of C columns and the batch norm that follows from them.
    pub(crate) struct NormStatisticsArguments {
        /// `[C]` mean of each column, overwritten; so are `rstd`, `scale` and `shift`.
        mean: PointerMut<f32>,
        rstd: PointerMut<f32>,
        scale: PointerMut<f32>,
        shift: PointerMut<f32>,
        /// `[C]` weight of the norm.
        weight: Pointer<f32>,
        /// `[C]` bias of the norm.
        bias: Pointer<f32>,
    }

    /// Statistics over the rows of a batch, and the memory for their sums; all null if no statistics are
    /// wanted.
    pub(crate) struct StatisticsArguments {
        /// `[chunks, 2, C]` sums of each chunk.
        partials: PointerMut<f32>,
        /// `[groups, 2, C]` sums of each group of chunks.
        groups: PointerMut<f64>,
        /// `[groups + 1, strips]` tickets: zeros before and after each launch.
        tickets: PointerMut<i32>,
        norm: NormStatisticsArguments,
        /// `[C]` running mean, updated; `running_var` likewise.
        running_mean: PointerMut<f32>,
        running_var: PointerMut<f32>,
    }

    /// Sums over rows in the backward of relu(norm(z)), and their memory; all null if no sums are wanted.
    pub(crate) struct NormGradientArguments {
        /// `[chunks, 2, C]` sums of each chunk.
        partials: PointerMut<f32>,
        /// `[groups, 2, C]` sums of each group of chunks.
        groups: PointerMut<f64>,
        /// `[groups + 1, strips]` tickets: zeros before and after each launch.
        tickets: PointerMut<i32>,
        /// `[C]` gradient with respect to the norm's weight, overwritten.
        d_weight: PointerMut<f32>,
        /// `[C]` gradient with respect to the norm's bias, overwritten.
        d_bias: PointerMut<f32>,
        /// `[2, C]` terms that [`NormBackwardArguments`] reads, overwritten.
        terms: PointerMut<f32>,
        /// `[C]` mean of each column of z.
        mean: Pointer<f32>,
        /// `[C]` 1 / sqrt(variance + eps) of each column of z.
        rstd: Pointer<f32>,
        /// 1 if mean and rstd depend on z, 0 if they are constants.
        batch_statistics: i32,
        reserved: i32,
    }

    /// Inputs needed to turn the gradient d with respect to relu(norm(z)) into the gradient with respect to z
    /// `[R, C]`.
    pub(crate) struct NormBackwardArguments<T> {
        /// `[R, C]` input of the batch norm, rows laid out like those of d.
        z: Pointer<T>,
        norm: NormArguments,
        /// `[2, C]` constants, then slopes.
        terms: Pointer<f32>,
    }
}
