//! What the device reaches at most, measured in the same run, so that shares need no datasheet.

use serde::Serialize;

use crate::backend::cuda::ceilings::ceiling_fma;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::properties::Properties;
use crate::bench::case::Cost;
use crate::bench::timing::Timer;
use crate::error::Result;

/// The best of so many counts, the first of which find clocks that are still rising.
const REPEATS: usize = 20;
/// Threads of a multiprocessor: all that fit.
const THREADS: usize = 2048;
/// Multiply-adds of a chain: some 5 ms on an H200.
const STEPS: usize = 1 << 16;

/// The device's measured ceilings.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceilings {
    /// Bytes read and written by a copy within the device's memory.
    pub copy_gb_per_s: f64,
    /// Fused multiply-adds in single precision, in registers alone.
    pub fp32_tflop_per_s: f64,
}

impl Ceilings {
    /// Measures them on a GPU; elsewhere they would say nothing.
    pub fn measure(device: &Device, properties: &Properties, timer: &mut Timer<'_>) -> Result<Option<Self>> {
        let Some(lead) = timer.lead() else {
            return Ok(None);
        };
        let bytes_per_ms = best_rate(device, || lead.take(device).map(|bytes| bytes as f64))?;
        let mut sums = device.allocate::<f32>(properties.multiprocessors * THREADS)?;
        let threads = sums.len();
        let flops_per_ms = best_rate(device, || {
            ceiling_fma(device, &mut sums.slice_mut(0..threads), 0.5, 1.0, STEPS).map(|flops| flops as f64)
        })?;
        Ok(Some(Ceilings { copy_gb_per_s: bytes_per_ms / 1e6, fp32_tflop_per_s: flops_per_ms / 1e9 }))
    }

    /// Milliseconds that work of this cost takes at least: its bytes at the rate of a copy, or its operations at that of
    /// multiply-adds.
    pub fn floor_ms(&self, cost: Cost) -> f64 {
        (cost.bytes as f64 / (self.copy_gb_per_s * 1e6))
            .max(cost.flops as f64 / (self.fp32_tflop_per_s * 1e9))
    }
}

/// The most of what `work` counts that the device does in a millisecond.
fn best_rate(device: &Device, mut work: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut stopwatch = device.stopwatch()?;
    let mut best = 0.0f64;
    for _ in 0..REPEATS {
        device.start(&mut stopwatch)?;
        let count = work()?;
        device.stop(&mut stopwatch)?;
        best = best.max(count / device.elapsed_ms(&stopwatch)?);
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_longer_of_both() {
        let ceilings = Ceilings { copy_gb_per_s: 4000.0, fp32_tflop_per_s: 50.0 };
        assert_eq!(ceilings.floor_ms(Cost { bytes: 4_000_000_000, flops: 1_000_000 }), 1.0);
        assert_eq!(ceilings.floor_ms(Cost { bytes: 4_000, flops: 100_000_000_000 }), 2.0);
    }
}
