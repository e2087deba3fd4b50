//! Kernels of each format and tile: names, arguments and block sizes.

use half::bf16;

use super::arguments::{
    LinearBackward, LinearBackwardNorm, LinearBackwardStates, LinearBackwardUnit, LinearForward,
    LinearForwardGather, LinearForwardGatherNorm, LinearForwardNorm, LinearForwardTwo, LinearForwardUnit,
};
use super::{Format, Tile, dynamic_shared_bytes};
use crate::backend::cuda::device::Device;
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
    /// [`Format::Bf16Warpgroup`], for devices that have these products ([`StoredFormat::runs_on`]).
    pub const BF16_WARPGROUP: Self =
        StoredFormat { format: Format::Bf16Warpgroup, kernels: &FormatKernels::BF16_WARPGROUP };
}

impl<T: StoredElement> StoredFormat<T> {
    /// Whether the device has code of these products.
    pub fn runs_on(self, device: &Device) -> bool {
        let kernels = match self.kernels {
            FormatKernels::Squares { small, .. } => small,
            FormatKernels::Warpgroups([kernels, ..]) => kernels,
        };
        device.has(&kernels.forward)
    }
}

/// Kernels of a format whose operands are stored as `T`.
#[derive(Clone, Copy)]
pub(super) enum FormatKernels<T: StoredElement> {
    /// Kernels with tiles of 64 x 64, and of 128 x 128 if the format has them.
    Squares { small: TileKernels<T>, large: Option<TileKernels<T>> },
    /// Kernels for warpgroups, by [`WARPGROUP_COLUMNS`](super::WARPGROUP_COLUMNS).
    Warpgroups([TileKernels<T>; 3]),
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
    const FP32: Self = FormatKernels::Squares { small: tile_kernels!("fp32_64", 256, 256), large: None };
    const BF16X3: Self = FormatKernels::Squares {
        small: tile_kernels!("bf16x3_64", 128, 128),
        large: Some(tile_kernels!("bf16x3_128", 256, 256)),
    };
}

impl FormatKernels<bf16> {
    const BF16: Self = FormatKernels::Squares {
        small: tile_kernels!("bf16_64", 128, 128),
        large: Some(tile_kernels!("bf16_128", 128, 256)),
    };
    /// Two warpgroups multiply, and one copies.
    const BF16_WARPGROUP: Self = FormatKernels::Warpgroups([
        tile_kernels!("bf16_128x152", 384, 384),
        tile_kernels!("bf16_128x224", 384, 384),
        tile_kernels!("bf16_128x256", 384, 384),
    ]);
}

impl<T: StoredElement> FormatKernels<T> {
    /// Kernels with this tile, which the format must have.
    pub(super) fn tile(&self, tile: Tile) -> &TileKernels<T> {
        match (tile, self) {
            (Tile::Small, FormatKernels::Squares { small, .. }) => small,
            (Tile::Large, FormatKernels::Squares { large: Some(large), .. }) => large,
            (Tile::Warpgroup(at), FormatKernels::Warpgroups(kernels)) => &kernels[at],
            _ => panic!("a format without this tile"),
        }
    }

    /// All `N` kernels of a format in one file.
    const fn infos<const N: usize>(&self) -> [KernelInfo; N] {
        let FormatKernels::Squares { small, large } = self else { panic!("a format in several files") };
        let mut infos = [small.forward.info(); N];
        let mut count = put(&mut infos, 0, &small.infos());
        if let Some(large) = large {
            count = put(&mut infos, count, &large.infos());
        }
        assert!(count == N, "N is not the number of kernels");
        infos
    }

    /// Kernels of a warpgroup's tile.
    const fn infos_of_warpgroup(&self, at: usize) -> [KernelInfo; 10] {
        let FormatKernels::Warpgroups(kernels) = self else { panic!("a format in one file") };
        kernels[at].infos()
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
/// Kernels of `kernels/linear_warpgroup_bf16_<columns>.cu`.
pub(crate) const WARPGROUP_FILES: [KernelFile; 3] = [
    KernelFile {
        name: "linear_warpgroup_bf16_152",
        kernels: &FormatKernels::BF16_WARPGROUP.infos_of_warpgroup(0),
    },
    KernelFile {
        name: "linear_warpgroup_bf16_224",
        kernels: &FormatKernels::BF16_WARPGROUP.infos_of_warpgroup(1),
    },
    KernelFile {
        name: "linear_warpgroup_bf16_256",
        kernels: &FormatKernels::BF16_WARPGROUP.infos_of_warpgroup(2),
    },
];
