//! ceilings: peak rates of a device, measured by arithmetic without memory accesses (`kernels/ceilings.cu`)
//! and by copies without arithmetic; launches without work.

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::SliceMut;
use crate::backend::cuda::device::kernel::{Blocks, Kernel, KernelFile, PointerMut, int, kernel_arguments};
use crate::error::Result;

kernel_arguments! {
    struct CeilingFma {
        /// `[threads]` sums, one per thread, overwritten.
        sums: PointerMut<f32>,
        factor: f32,
        addend: f32,
        steps: i32,
        reserved: i32,
    }

    struct CeilingMma {
        /// `[threads]` sums, one per thread, overwritten.
        sums: PointerMut<f32>,
        /// Value of every register of the left fragments: a pair of bf16.
        a: u32,
        /// Value of every register of the right fragments.
        b: u32,
        steps: i32,
        reserved: i32,
    }

    struct CeilingMmaVaried {
        /// `[threads]` sums, one per thread, overwritten.
        sums: PointerMut<f32>,
        steps: i32,
        reserved: i32,
    }

    struct CeilingLaunch {
        reserved: i32,
    }
}

/// The same as in the kernels.
const THREADS: u32 = 256;
const FMA_CHAINS: usize = 8;
const MMA_CHAINS: usize = 4;
/// Number of fragments that take turns in [`ceiling_mma_varied`].
pub const FRAGMENTS: usize = 4;
/// Rows, columns and inner dimension of a product of bf16 fragments.
const MMA_SHAPE: [usize; 3] = [16, 8, 16];
const WARP_LANES: usize = 32;

const CEILING_FMA: Kernel<CeilingFma> = Kernel::new("ceiling_fma", [THREADS, 1, 1]);
const CEILING_MMA: Kernel<CeilingMma> = Kernel::new("ceiling_mma", [THREADS, 1, 1]);

const CEILING_MMA_VARIED: Kernel<CeilingMmaVaried> = Kernel::new("ceiling_mma_varied", [THREADS, 1, 1]);
const CEILING_LAUNCH: Kernel<CeilingLaunch> = Kernel::new("ceiling_launch", [THREADS, 1, 1]);

/// Kernels of `kernels/ceilings.cu`.
pub(crate) const FILE: KernelFile = KernelFile {
    name: "ceilings",
    kernels: &[CEILING_FMA.info(), CEILING_MMA.info(), CEILING_MMA_VARIED.info(), CEILING_LAUNCH.info()],
};

/// Runs chains of `steps` fused multiply-adds: `s = s factor + addend`. `sums` has one number per thread, a
/// multiple of 256. Returns the number of floating-point operations.
pub fn ceiling_fma(
    device: &Device,
    sums: &mut SliceMut<'_, f32>,
    factor: f32,
    addend: f32,
    steps: usize,
) -> Result<u64> {
    let (blocks, threads) = whole_blocks(sums);
    let arguments = CeilingFma { sums: sums.into(), factor, addend, steps: int(steps), reserved: 0 };
    // SAFETY: each thread writes its own number of `sums`, which is borrowed mutably.
    unsafe { device.launch(&CEILING_FMA, blocks, &arguments) }?;
    Ok((2 * FMA_CHAINS * steps * threads) as u64)
}

/// Runs chains of `steps` tensor-core products of bf16 fragments. All values of the left fragments are `a`,
/// all values of the right ones `b`, both truncated to bf16. Otherwise like [`ceiling_fma`].
pub fn ceiling_mma(
    device: &Device,
    sums: &mut SliceMut<'_, f32>,
    a: f32,
    b: f32,
    steps: usize,
) -> Result<u64> {
    let (blocks, threads) = whole_blocks(sums);
    let [a, b] = [a, b].map(bf16_pair);
    let arguments = CeilingMma { sums: sums.into(), a, b, steps: int(steps), reserved: 0 };
    // SAFETY: each thread writes its own number of `sums`, which is borrowed mutably.
    unsafe { device.launch(&CEILING_MMA, blocks, &arguments) }?;
    Ok(product_flops(threads, steps))
}

/// Like [`ceiling_mma`] with random fragments, of which [`FRAGMENTS`] take turns. `steps` is a multiple of their number.
pub fn ceiling_mma_varied(device: &Device, sums: &mut SliceMut<'_, f32>, steps: usize) -> Result<u64> {
    assert!(steps.is_multiple_of(FRAGMENTS), "ceiling_mma_varied: {steps} steps of {FRAGMENTS} fragments");
    let (blocks, threads) = whole_blocks(sums);
    let arguments = CeilingMmaVaried { sums: sums.into(), steps: int(steps), reserved: 0 };
    // SAFETY: each thread writes its own number of `sums`, which is borrowed mutably.
    unsafe { device.launch(&CEILING_MMA_VARIED, blocks, &arguments) }?;
    Ok(product_flops(threads, steps))
}

/// Launches `blocks` blocks that do nothing.
pub fn ceiling_launch(device: &Device, blocks: usize) -> Result<()> {
    // SAFETY: the kernel accesses no memory.
    unsafe { device.launch(&CEILING_LAUNCH, Blocks::rows(blocks), &CeilingLaunch { reserved: 0 }) }
}

/// Number of floating-point operations in the chains of tensor-core products.
fn product_flops(threads: usize, steps: usize) -> u64 {
    let products = MMA_SHAPE.iter().product::<usize>();
    (2 * products * MMA_CHAINS * steps * (threads / WARP_LANES)) as u64
}

/// Register of a fragment: twice `value`, truncated to bf16.
fn bf16_pair(value: f32) -> u32 {
    let bits = value.to_bits();
    (bits >> 16) | (bits & 0xffff_0000)
}

/// Grid with one thread per sum.
fn whole_blocks(sums: &SliceMut<'_, f32>) -> (Blocks, usize) {
    let threads = sums.len();
    assert_eq!(threads % THREADS as usize, 0, "ceilings: whole blocks");
    (Blocks::cover(threads, &CEILING_FMA), threads)
}
