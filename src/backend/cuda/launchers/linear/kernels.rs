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
    /// [`Format::Bf16x3Warpgroup`], for devices that have these products ([`StoredFormat::runs_on`]).
    pub const BF16X3_WARPGROUP: Self =
        StoredFormat { format: Format::Bf16x3Warpgroup, kernels: &FormatKernels::BF16X3_WARPGROUP };
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
        let [(_, kernels), ..] = self.kernels.tiles else { return false };
        device.has(&kernels.forward)
    }
}

/// Kernels of a format whose operands are stored as `T`, by tile.
#[derive(Clone, Copy)]
pub(super) struct FormatKernels<T: StoredElement> {
    tiles: &'static [(Tile, TileKernels<T>)],
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
    const FP32: Self = FormatKernels { tiles: &[(Tile::Small, tile_kernels!("fp32_64", 256, 256))] };
    const BF16X3: Self = FormatKernels {
        tiles: &[
            (Tile::Small, tile_kernels!("bf16x3_64", 128, 128)),
            (Tile::Large, tile_kernels!("bf16x3_128", 256, 256)),
        ],
    };
    const BF16X3_WARPGROUP: Self = FormatKernels {
        tiles: &[
            (Tile::Warpgroup(0), tile_kernels!("bf16x3_64x128", 256, 256)),
            (Tile::Warpgroup(1), tile_kernels!("bf16x3_128x152", 384, 384)),
            (Tile::Warpgroup(2), tile_kernels!("bf16x3_128x224", 384, 384)),
            (Tile::Warpgroup(3), tile_kernels!("bf16x3_128x256", 384, 384)),
        ],
    };
}

impl FormatKernels<bf16> {
    const BF16: Self = FormatKernels {
        tiles: &[
            (Tile::Small, tile_kernels!("bf16_64", 128, 128)),
            (Tile::Large, tile_kernels!("bf16_128", 256, 256)),
        ],
    };
    /// A warpgroup multiplies 64 rows, and one copies.
    const BF16_WARPGROUP: Self = FormatKernels {
        tiles: &[
            (Tile::Warpgroup(0), tile_kernels!("bf16_64x128", 256, 256)),
            (Tile::Warpgroup(1), tile_kernels!("bf16_128x152", 384, 384)),
            (Tile::Warpgroup(2), tile_kernels!("bf16_128x224", 384, 384)),
            (Tile::Warpgroup(3), tile_kernels!("bf16_128x256", 384, 384)),
        ],
    };
}

impl<T: StoredElement> FormatKernels<T> {
    /// Kernels with this tile, which the format must have.
    pub(super) fn tile(&self, tile: Tile) -> &'static TileKernels<T> {
        let kernels = self.tiles.iter().find(|(of, _)| *of == tile);
        &kernels.expect("a format with this tile").1
    }

    /// All `N` kernels, ten by tile.
    const fn infos<const N: usize>(&self) -> [KernelInfo; N] {
        let mut infos = [self.tiles[0].1.forward.info(); N];
        let (mut count, mut at) = (0, 0);
        while at < self.tiles.len() {
            count = put(&mut infos, count, &self.tiles[at].1.infos());
            at += 1;
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

macro_rules! warpgroup_files {
    ($format:literal, $kernels:expr) => {
        [
            KernelFile {
                name: concat!("linear_warpgroup_", $format, "_64x128"),
                kernels: &$kernels.tiles[0].1.infos(),
            },
            KernelFile {
                name: concat!("linear_warpgroup_", $format, "_128x152"),
                kernels: &$kernels.tiles[1].1.infos(),
            },
            KernelFile {
                name: concat!("linear_warpgroup_", $format, "_128x224"),
                kernels: &$kernels.tiles[2].1.infos(),
            },
            KernelFile {
                name: concat!("linear_warpgroup_", $format, "_128x256"),
                kernels: &$kernels.tiles[3].1.infos(),
            },
        ]
    };
}

/// Kernels of `kernels/linear_warpgroup_bf16_<rows>x<columns>.cu`.
pub(crate) const BF16_WARPGROUP_FILES: [KernelFile; 4] =
    warpgroup_files!("bf16", FormatKernels::BF16_WARPGROUP);
/// Kernels of `kernels/linear_warpgroup_bf16x3_<rows>x<columns>.cu`.
pub(crate) const BF16X3_WARPGROUP_FILES: [KernelFile; 4] =
    warpgroup_files!("bf16x3", FormatKernels::BF16X3_WARPGROUP);
