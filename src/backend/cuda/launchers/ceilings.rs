//! ceilings: what a device does at most, arithmetic without memory (`kernels/ceilings.cu`) and memory without
//! arithmetic.

use crate::backend::cuda::device::buffer::SliceMut;
use crate::backend::cuda::device::{Argument, Device, Grid};
use crate::error::Result;

pub(crate) const KERNELS: &[&str] = &["ceiling_fma", "ceiling_mma_bf16", "ceiling_mma_tf32"];

/// As in the kernels.
const THREADS: u32 = 256;
const FMA_CHAINS: usize = 8;
const MMA_CHAINS: usize = 4;
const WARP_LANES: usize = 32;

/// Runs chains of fused multiply-adds, `steps` in each: `s = s factor + addend`. `sums` has a number per thread and a
/// multiple of 256. Gives the floating-point operations.
pub fn ceiling_fma(
    device: &Device,
    sums: &mut SliceMut<'_, f32>,
    factor: f32,
    addend: f32,
    steps: usize,
) -> Result<u64> {
    let (grid, threads) = whole_blocks(sums);
    let arguments = [sums.into(), factor.into(), addend.into(), steps.into()];
    // SAFETY: as in kernels/ceilings.cu; each thread writes its own number of `sums`, which is borrowed mutably.
    unsafe { device.launch_positional("ceiling_fma", grid, &arguments) }?;
    Ok((2 * FMA_CHAINS * steps * threads) as u64)
}

/// Runs chains of tensor-core products, `steps` in each, of fragments whose values are all `a` and all `b`; otherwise as
/// [`ceiling_fma`].
pub fn ceiling_mma(
    device: &Device,
    format: MmaFormat,
    sums: &mut SliceMut<'_, f32>,
    a: f32,
    b: f32,
    steps: usize,
) -> Result<u64> {
    let (grid, threads) = whole_blocks(sums);
    let (kernel, inner) = match format {
        MmaFormat::Bf16 => ("ceiling_mma_bf16", 16),
        MmaFormat::Tf32 => ("ceiling_mma_tf32", 8),
    };
    let fragment = |value: f32| Argument::Int(format.register(value) as i32);
    let arguments = [sums.into(), fragment(a), fragment(b), steps.into()];
    // SAFETY: as in kernels/ceilings.cu; each thread writes its own number of `sums`, which is borrowed mutably.
    unsafe { device.launch_positional(kernel, grid, &arguments) }?;
    Ok((2 * 16 * 8 * inner * MMA_CHAINS * steps * (threads / WARP_LANES)) as u64)
}

/// A format that tensor cores multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmaFormat {
    /// Pairs of bf16.
    Bf16,
    /// tf32.
    Tf32,
}

impl MmaFormat {
    /// A fragment's register that holds `value` alone, cut to the format.
    fn register(self, value: f32) -> u32 {
        let bits = value.to_bits();
        match self {
            MmaFormat::Bf16 => (bits >> 16) | (bits & 0xffff_0000),
            MmaFormat::Tf32 => bits & 0xffff_e000,
        }
    }
}

fn whole_blocks(sums: &SliceMut<'_, f32>) -> (Grid, usize) {
    let threads = sums.len();
    assert_eq!(threads % THREADS as usize, 0, "ceilings: whole blocks");
    (Grid::rows(threads / THREADS as usize, THREADS), threads)
}
