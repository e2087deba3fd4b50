//! ceilings: what a device does at most, arithmetic without memory (`kernels/ceilings.cu`) and memory without
//! arithmetic.

use cudarc::driver::result;

use super::buffer::{Slice, SliceMut};
use super::device::{Device, Grid, Kind, check_len, dimension};
use crate::error::Result;

pub(super) const KERNELS: &[&str] = &["ceiling_fma"];

/// As in the kernel.
const THREADS: u32 = 256;
const CHAINS: usize = 8;

/// Runs chains of fused multiply-adds, `steps` in each; `sums` has a number per thread and a multiple of 256. Gives
/// the floating-point operations.
pub fn ceiling_fma(
    device: &Device,
    sums: &mut SliceMut<'_, f32>,
    factor: f32,
    addend: f32,
    steps: usize,
) -> Result<u64> {
    let threads = sums.len();
    assert_eq!(threads % THREADS as usize, 0, "ceiling_fma: whole blocks");
    let arguments = [sums.into(), factor.into(), addend.into(), steps.into()];
    let grid = Grid { blocks: [dimension(threads / THREADS as usize), 1, 1], threads: [THREADS, 1, 1] };
    // SAFETY: as in kernels/ceilings.cu; each thread writes its own number of `sums`, which is borrowed mutably.
    unsafe { device.launch("ceiling_fma", grid, &arguments) }?;
    Ok((2 * CHAINS * steps * threads) as u64)
}

/// Copies `from` to the start of `to` within the device's memory, by the driver.
pub fn copy(device: &Device, to: &mut SliceMut<'_, f32>, from: Slice<'_, f32>) -> Result<()> {
    check_len("copy", to.len(), from.len());
    if from.is_empty() {
        return Ok(());
    }
    match device.kind() {
        Kind::Gpu(gpu) => {
            gpu.context().bind_to_thread().map_err(gpu.failed("bind"))?;
            let bytes = from.len() * size_of::<f32>();
            // SAFETY: both are parts of live buffers with room for these bytes, and `to` is borrowed mutably, so that
            // they do not overlap.
            unsafe {
                result::memcpy_dtod_async(to.address(), from.address(), bytes, gpu.stream().cu_stream())
            }
            .map_err(gpu.failed("copy"))
        }
        Kind::Emulated(_) => {
            to.on_host()[..from.len()].copy_from_slice(from.on_host());
            Ok(())
        }
    }
}
