//! Batch norm's parts of kernels' argument structs (`kernels/norm_arguments.cuh`); `batch_norm.rs` fills them.

use crate::backend::cuda::device::kernel::{Pointer, PointerMut, kernel_arguments};

kernel_arguments! {
    /// A normalisation of C columns, `[C]` each.
    pub(crate) struct NormArguments {
        mean: Pointer<f32>,
        rstd: Pointer<f32>,
        weight: Pointer<f32>,
        bias: Pointer<f32>,
    }

    /// The statistics of a batch's rows and the memory of their sums; all null where no statistics are wanted.
    pub(crate) struct StatisticsArguments {
        /// `[chunks, 2, C]`.
        partials: PointerMut<f32>,
        /// `[groups, 2, C]`.
        groups: PointerMut<f64>,
        /// `[groups + 1, strips]`: zeros before and after.
        tickets: PointerMut<i32>,
        /// `[C]`, written; so is `rstd`.
        mean: PointerMut<f32>,
        rstd: PointerMut<f32>,
        /// `[C]`, moved; so is `running_var`.
        running_mean: PointerMut<f32>,
        running_var: PointerMut<f32>,
    }

    /// What the backward of relu(norm(z)) sums over rows and the memory of these sums; all null where no sums are
    /// wanted.
    pub(crate) struct NormGradientArguments {
        /// `[chunks, 2, C]`.
        partials: PointerMut<f32>,
        /// `[groups, 2, C]`.
        groups: PointerMut<f64>,
        /// `[groups + 1, strips]`: zeros before and after.
        tickets: PointerMut<i32>,
        /// `[C]` gradient with respect to the norm's weight, written.
        d_weight: PointerMut<f32>,
        /// `[C]` gradient with respect to the norm's bias, written.
        d_bias: PointerMut<f32>,
        /// `[2, C]`: what [`NormBackwardArguments`] reads, written.
        terms: PointerMut<f32>,
        /// 1: mean and rstd depend on z; 0: they are constants.
        batch_statistics: i32,
        reserved: i32,
    }

    /// What makes the gradient with respect to z `[R, C]` of the gradient d with respect to relu(norm(z)).
    pub(crate) struct NormBackwardArguments<T> {
        /// `[R, C]`: rows lie as those of d do.
        z: Pointer<T>,
        norm: NormArguments,
        /// `[2, C]`: the constants, and below them the slopes.
        terms: Pointer<f32>,
    }
}
