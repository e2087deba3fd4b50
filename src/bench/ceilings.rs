//! Peak rates of the device. They are measured in the same run, so shares of the peak need no datasheet.

use serde::Serialize;

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::properties::Properties;
use crate::backend::cuda::launchers::ceilings::{ceiling_fma, ceiling_mma, ceiling_mma_varied};
use crate::backend::cuda::launchers::linear::Format;
use crate::bench::case::Cost;
use crate::bench::timing::{Lead, Timer};
use crate::error::Result;

/// Threads per multiprocessor: as many as it holds.
const THREADS: usize = 2048;

/// Work of the measurements.
#[derive(Clone, Copy)]
struct Work {
    /// Number of measurements, of which the best counts. Clocks are still rising in the first ones.
    repeats: usize,
    /// Number of steps in a chain.
    fma_steps: usize,
    mma_steps: usize,
}

/// Work of about 5 ms for each chain on an H200, by its datasheet.
const WORK: Work = Work { repeats: 20, fma_steps: 1 << 16, mma_steps: 1 << 14 };

/// Peak rates of a device.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ceilings {
    /// Bytes read and written by a copy within the device's memory, in GB/s.
    pub copy_gb_per_s: f64,
    /// Fused multiply-adds in single precision with all operands in registers, in TFLOP/s.
    pub fp32_tflop_per_s: f64,
    /// Tensor-core products by `mma.sync` with all operands in registers, in TFLOP/s.
    pub bf16_tflop_per_s: f64,
    /// The same with random operands that change in every step. More bits switch, so the clock may be lower. `None` for
    /// assumed rates.
    pub bf16_varied_tflop_per_s: Option<f64>,
}

impl Ceilings {
    /// Assumed rates of an H200: the copy from published measurements, single precision from the datasheet. The rate of
    /// `mma.sync` is a guess: 62 % of the rates published for `wgmma`.
    pub const H200_PLAN: Ceilings = Ceilings {
        copy_gb_per_s: 4300.0,
        fp32_tflop_per_s: 67.0,
        bf16_tflop_per_s: 490.0,
        bf16_varied_tflop_per_s: None,
    };

    /// Measures the rates of a GPU; `None` on the emulator, where they would mean nothing.
    pub fn measure(device: &Device, properties: &Properties, timer: &mut Timer<'_>) -> Result<Option<Self>> {
        let Some(lead) = timer.lead() else {
            return Ok(None);
        };
        let threads = properties.multiprocessors * THREADS;
        Ceilings::of_device(device, lead, threads, WORK).map(Some)
    }

    fn of_device(device: &Device, lead: &mut Lead, threads: usize, work: Work) -> Result<Self> {
        lead.fill(device)?;
        let bytes_per_ms = best_rate(device, work, || lead.take(device).map(|bytes| bytes as f64))?;
        let mut sums = device.allocate::<f32>(threads)?;
        let mut sums = sums.slice_mut(0..threads);
        let fp32 = best_rate(device, work, || {
            ceiling_fma(device, &mut sums, 0.9, 1.1, work.fma_steps).map(|flops| flops as f64)
        })?;
        let bf16 = best_rate(device, work, || {
            ceiling_mma(device, &mut sums, 0.9, 1.1, work.mma_steps).map(|flops| flops as f64)
        })?;
        let varied = best_rate(device, work, || {
            ceiling_mma_varied(device, &mut sums, work.mma_steps).map(|flops| flops as f64)
        })?;
        Ok(Ceilings {
            copy_gb_per_s: bytes_per_ms / 1e6,
            fp32_tflop_per_s: fp32 / 1e9,
            bf16_tflop_per_s: bf16 / 1e9,
            bf16_varied_tflop_per_s: Some(varied / 1e9),
        })
    }

    /// Minimum time in milliseconds for this cost: the longer of its bytes at the rate of a copy and its operations at
    /// the rate of the format.
    pub fn floor_ms(&self, cost: Cost, format: Format) -> f64 {
        let tflop_per_s = match format {
            Format::Fp32 => self.fp32_tflop_per_s,
            Format::Bf16 | Format::Bf16Warpgroup => self.bf16_tflop_per_s,
            // Each product is three products in bf16.
            Format::Bf16x3 | Format::Bf16x3Warpgroup => self.bf16_tflop_per_s / 3.0,
        };
        (cost.bytes as f64 / (self.copy_gb_per_s * 1e6)).max(cost.flops as f64 / (tflop_per_s * 1e9))
    }
}

/// Highest rate of `work` per millisecond, in the units that it returns.
fn best_rate(device: &Device, of: Work, mut work: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut stopwatch = device.stopwatch()?;
    let mut best = 0.0f64;
    for _ in 0..of.repeats {
        stopwatch.start()?;
        let count = work()?;
        stopwatch.stop()?;
        best = best.max(count / stopwatch.elapsed_ms()?);
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::launchers;

    #[test]
    fn the_floor_is_the_longer_of_both() {
        let ceilings = Ceilings {
            copy_gb_per_s: 4000.0,
            fp32_tflop_per_s: 50.0,
            bf16_tflop_per_s: 400.0,
            ..Ceilings::H200_PLAN
        };
        let bytes = Cost { bytes: 4_000_000_000, flops: 1_000_000 };
        assert_eq!(ceilings.floor_ms(bytes, Format::Fp32), 1.0);
        let flops = Cost { bytes: 4_000, flops: 1_200_000_000_000 };
        for (format, ms) in [(Format::Fp32, 24.0), (Format::Bf16, 3.0), (Format::Bf16x3, 9.0)] {
            assert!((ceilings.floor_ms(flops, format) - ms).abs() < 1e-12, "{format:?}");
        }
    }

    /// On the emulator, with a millionth of the work.
    #[test]
    fn every_rate_is_measured() {
        let Ok(device) = launchers::emulated(None) else {
            println!("skipped: no emulator");
            return;
        };
        let mut lead = Lead::new(&device, 1 << 10).expect("memory");
        let work = Work { repeats: 1, fma_steps: 4, mma_steps: 4 };
        let rates = Ceilings::of_device(&device, &mut lead, 256, work).expect("launches");
        let all = [rates.copy_gb_per_s, rates.fp32_tflop_per_s, rates.bf16_tflop_per_s];
        assert!(all.iter().chain(&rates.bf16_varied_tflop_per_s).all(|&rate| rate > 0.0), "{rates:?}");
        assert!(rates.bf16_varied_tflop_per_s.is_some());
        let copied = device.download(&lead.to, 0..1 << 10).expect("a copy");
        assert!(copied.iter().any(|&value| value != copied[0]), "values that differ are copied");
    }
}
