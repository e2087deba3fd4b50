//! Kernels of each format and tile: names, arguments and block sizes.

use half::bf16;

use super::arguments::{
    LinearBackward, LinearBackwardNorm, LinearBackwardStates, LinearBackwardUnit, LinearForward,
    LinearForwardGather, LinearForwardGatherNorm, LinearForwardNorm, LinearForwardTwo, LinearForwardUnit,
};
use super::{Format, Tile, dynamic_shared_bytes};
use crate::backend::cuda::device::kernel::{Kernel, KernelArguments, KernelFile, KernelInfo};
use crate::backend::cuda::launchers::stored::StoredElement;

/// Kernels of one tile.
#[derive(Clone, Copy)]
pub(super) struct TileKernels<T: StoredElement> {
    pub forward: Kernel<LinearForward<T>>,
    pub forward_norm: Kernel<LinearForwardNorm<T>>,
    pub forward_unit: Kernel<LinearForwardUnit<T>>,
    pub forward_gather: Kernel<LinearForwardGather<T>>,
    pub forward_gather_norm: Kernel<LinearForwardGatherNorm<T>>,
    pub forward_two: Kernel<LinearForwardTwo<T>>,
    pub backward: Kernel<LinearBackward<T>>,
    pub backward_norm: Kernel<LinearBackwardNorm<T>>,
    pub backward_unit: Kernel<LinearBackwardUnit<T>>,
    pub backward_states: Kernel<LinearBackwardStates<T>>,
}

/// Format of products whose operands are stored as `T`: another pairing of format and type has no value.
#[derive(Clone, Copy)]
pub struct StoredFormat<T: StoredElement> {
    /// The format.
    pub(crate) format: Format,
    pub(super) kernels: &'static FormatKernels<T>,
}

impl StoredFormat<f32> {
    /// [`Format::Fp32`].
    pub const FP32: Self = StoredFormat { format: Format::Fp32, kernels: &FormatKernels::FP32 };
    /// [`Format::Bf16x3`].
    pub const BF16X3: Self = StoredFormat { format: Format::Bf16x3, kernels: &FormatKernels::BF16X3 };
}

impl StoredFormat<bf16> {
    /// [`Format::Bf16`].
    pub const BF16: Self = StoredFormat { format: Format::Bf16, kernels: &FormatKernels::BF16 };
}

/// Kernels of a format whose operands are stored as `T`.
#[derive(Clone, Copy)]
pub(super) struct FormatKernels<T: StoredElement> {
    /// Kernels with tiles of 64 x 64.
    pub small: TileKernels<T>,
    /// Kernels with tiles of 128 x 128, if the format has them.
    pub large: Option<TileKernels<T>>,
}

const fn kernel<A: KernelArguments>(name: &'static str, threads: u32) -> Kernel<A> {
    Kernel::new(name, [threads, 1, 1]).with_dynamic_shared(dynamic_shared_bytes(name))
}

macro_rules! tile_kernels {
    ($suffix:literal, $threads:literal, $backward_threads:literal) => {
        TileKernels {
            forward: kernel(concat!("linear_forward_", $suffix), $threads),
            forward_norm: kernel(concat!("linear_forward_norm_", $suffix), $threads),
            forward_unit: kernel(concat!("linear_forward_unit_", $suffix), $threads),
            forward_gather: kernel(concat!("linear_forward_gather_", $suffix), $threads),
            forward_gather_norm: kernel(concat!("linear_forward_gather_norm_", $suffix), $threads),
            forward_two: kernel(concat!("linear_forward_two_", $suffix), $threads),
            backward: kernel(concat!("linear_backward_", $suffix), $backward_threads),
            backward_norm: kernel(concat!("linear_backward_norm_", $suffix), $backward_threads),
            backward_unit: kernel(concat!("linear_backward_unit_", $suffix), $backward_threads),
            backward_states: kernel(concat!("linear_backward_states_", $suffix), $backward_threads),
        }
    };
}

impl FormatKernels<f32> {
    const FP32: Self = FormatKernels { small: tile_kernels!("fp32_64", 256, 256), large: None };
    const BF16X3: Self = FormatKernels {
        small: tile_kernels!("bf16x3_64", 128, 128),
        large: Some(tile_kernels!("bf16x3_128", 256, 256)),
    };
}

impl FormatKernels<bf16> {
    const BF16: Self = FormatKernels {
        small: tile_kernels!("bf16_64", 128, 128),
        large: Some(tile_kernels!("bf16_128", 128, 256)),
    };
}

impl<T: StoredElement> FormatKernels<T> {
    /// Kernels with this tile, which the format must have.
    pub(super) fn tile(&self, tile: Tile) -> &TileKernels<T> {
        match (tile, &self.large) {
            (Tile::Small, _) => &self.small,
            (Tile::Large, Some(large)) => large,
            (Tile::Large, None) => panic!("a format without the larger tile"),
        }
    }

    /// All `N` kernels.
    const fn infos<const N: usize>(&self) -> [KernelInfo; N] {
        let mut infos = [self.small.forward.info(); N];
        let mut count = put(&mut infos, 0, &self.small.infos());
        if let Some(large) = &self.large {
            count = put(&mut infos, count, &large.infos());
        }
        assert!(count == N, "N is not the number of kernels");
        infos
    }
}

/// Copies `from` to `to[at..]`; returns the index after it.
const fn put(to: &mut [KernelInfo], at: usize, from: &[KernelInfo]) -> usize {
    let mut i = 0;
    while i < from.len() {
        to[at + i] = from[i];
        i += 1;
    }
    at + from.len()
}

impl<T: StoredElement> TileKernels<T> {
    const fn infos(&self) -> [KernelInfo; 10] {
        [
            self.forward.info(),
            self.forward_norm.info(),
            self.forward_unit.info(),
            self.forward_gather.info(),
            self.forward_gather_norm.info(),
            self.forward_two.info(),
            self.backward.info(),
            self.backward_norm.info(),
            self.backward_unit.info(),
            self.backward_states.info(),
        ]
    }
}

/// Kernels of `kernels/linear_fp32.cu`.
pub(crate) const FP32_FILE: KernelFile =
    KernelFile { name: "linear_fp32", kernels: &FormatKernels::FP32.infos::<10>() };
/// Kernels of `kernels/linear_bf16.cu`.
pub(crate) const BF16_FILE: KernelFile =
    KernelFile { name: "linear_bf16", kernels: &FormatKernels::BF16.infos::<20>() };
/// Kernels of `kernels/linear_bf16x3.cu`.
pub(crate) const BF16X3_FILE: KernelFile =
    KernelFile { name: "linear_bf16x3", kernels: &FormatKernels::BF16X3.infos::<20>() };
