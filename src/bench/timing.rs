//! Times of launches, from events around each of many launches that are queued at once.
//!
//! ```text
//! copies of the case's arrays, together twice the L2 cache, so that none is there when its turn comes again
//! until the budget is used up:
//!     copy a large array, and meanwhile, for as many launches as that hides: event, launch, event
//!     wait, and read the events
//! ```
//! The host needs a few microseconds per launch, which is longer than a small kernel runs. The large copy gives the
//! host a lead. The device then finds the next launch in its queue, and the events measure the kernel, not the host.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::Buffer;
use crate::backend::cuda::device::properties::Properties;
use crate::backend::cuda::device::stopwatch::Stopwatch;
use crate::bench::case::{Arrays, Prepared};
use crate::error::Result;

/// Length of the large array: 512 MiB, which an H200 copies in about 0.25 ms.
const LEAD_VALUES: usize = 128 << 20;
/// Launches per lead: two events and up to three kernels each, about 8 us of the host's time.
const ROUND: usize = 32;
/// Minimum and maximum number of samples.
const LEAST: usize = 3;
const MOST: usize = 1000;
/// Maximum number of copies. The arrays of the smallest kernels stay in the cache; the report says so.
const MOST_COPIES: usize = 256;

/// Times of repeated work in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// The median.
    pub ms: f64,
    /// The 5th percentile.
    pub ms_low: f64,
    /// The 95th percentile.
    pub ms_high: f64,
    /// Number of samples.
    pub samples: usize,
}

impl Times {
    /// Statistics of the samples. At least one sample is needed.
    pub fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |part: f64| samples[((samples.len() - 1) as f64 * part).round() as usize];
        Times { ms: at(0.5), ms_low: at(0.05), ms_high: at(0.95), samples: samples.len() }
    }
}

/// Times launches on one device.
pub struct Timer<'a> {
    device: &'a Device,
    l2_bytes: usize,
    budget: Duration,
    lead: Option<Lead>,
}

/// Two large arrays, for the copy that gives the host a lead.
pub(super) struct Lead {
    pub(super) from: Buffer<f32>,
    pub(super) to: Buffer<f32>,
}

impl Lead {
    /// Enqueues the copy; returns the number of bytes that it reads and writes.
    pub(super) fn take(&mut self, device: &Device) -> Result<usize> {
        let values = self.from.len();
        device.copy_on_device(self.from.slice(0..values), self.to.slice_mut(0..values))?;
        Ok(2 * values * size_of::<f32>())
    }
}

impl<'a> Timer<'a> {
    /// Creates a timer that spends about `budget` on each case.
    pub fn new(device: &'a Device, properties: &Properties, budget: Duration) -> Result<Self> {
        let large = || device.allocate::<f32>(LEAD_VALUES);
        let lead = if properties.gpu { Some(Lead { from: large()?, to: large()? }) } else { None };
        Ok(Timer { device, l2_bytes: properties.l2_bytes, budget, lead })
    }

    pub(super) fn lead(&mut self) -> Option<&mut Lead> {
        self.lead.as_mut()
    }

    /// Times a case's launch. Also returns whether its arrays were read from memory rather than from the L2 cache.
    pub fn launch(&mut self, prepared: &Prepared) -> Result<(Times, bool)> {
        let Timer { device, l2_bytes, budget, lead } = self;
        let bytes = prepared.host.bytes().max(1);
        let wanted = (2 * *l2_bytes).div_ceil(bytes).max(1);
        let count = wanted.min(MOST_COPIES);
        let mut copies =
            (0..count).map(|_| Arrays::upload(device, &prepared.host)).collect::<Result<Vec<_>>>()?;

        // Warm-up, during which launchers also grow their scratch memory.
        let mut stopwatch = device.stopwatch()?;
        stopwatch.start()?;
        for arrays in &mut copies {
            (prepared.launch)(device, arrays)?;
        }
        stopwatch.stop()?;
        let estimate = stopwatch.elapsed_ms()? / count as f64;

        let in_budget = budget.as_secs_f64() * 1e3 / estimate.max(1e-6);
        let round = (in_budget as usize).clamp(1, ROUND);
        let mut stopwatches = (0..round).map(|_| device.stopwatch()).collect::<Result<Vec<Stopwatch>>>()?;
        let (mut samples, started) = (Vec::new(), Instant::now());
        let mut turn = (0..count).cycle();
        while samples.len() < LEAST || (samples.len() < MOST && started.elapsed() < *budget) {
            if let Some(lead) = lead {
                lead.take(device)?;
            }
            for (stopwatch, copy) in stopwatches.iter_mut().zip(&mut turn) {
                stopwatch.start()?;
                (prepared.launch)(device, &mut copies[copy])?;
                stopwatch.stop()?;
            }
            for stopwatch in &stopwatches {
                samples.push(stopwatch.elapsed_ms()?);
            }
        }
        Ok((Times::of(samples), wanted == count && *l2_bytes > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::Times;

    #[test]
    fn percentiles_are_samples_in_order() {
        let times = Times::of((0..=100).rev().map(f64::from).collect());
        assert_eq!(times, Times { ms: 50.0, ms_low: 5.0, ms_high: 95.0, samples: 101 });
        assert_eq!(Times::of(vec![3.0]), Times { ms: 3.0, ms_low: 3.0, ms_high: 3.0, samples: 1 });
    }
}
