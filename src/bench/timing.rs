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
//!
//! Warm times repeat the launch on one copy of the arrays, without a launch on others in between. At 16 triples all arrays of
//! a step fit into the L2 cache of an H200.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::Buffer;
use crate::backend::cuda::device::properties::Properties;
use crate::backend::cuda::device::stopwatch::Stopwatch;
use crate::bench::case::{Arrays, Prepared};
use crate::bench::values::Values;
use crate::error::Result;

/// Length of the large array: 512 MiB, which an H200 copies in about 0.25 ms.
const LEAD_VALUES: usize = 128 << 20;
/// Launches per lead: two events and up to three kernels each, about 8 us of the host's time.
const ROUND: usize = 32;
/// Minimum and maximum number of samples.
const LEAST: usize = 3;
const MOST: usize = 1000;
/// Part of the budget for warm times.
const WARM_PART: u32 = 3;
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

/// Times of a case's launch.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Times with copies of the arrays that take turns.
    pub times: Times,
    /// Whether these arrays were read from memory rather than from the L2 cache.
    pub cold: bool,
    /// Times with one copy; `None` if that does not fit into the L2 cache.
    pub warm: Option<Times>,
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

/// Length of the random values that fill the large array.
const RANDOM_VALUES: usize = 1 << 20;

impl Lead {
    /// Allocates two arrays of `len` values.
    pub(super) fn new(device: &Device, len: usize) -> Result<Self> {
        Ok(Lead { from: device.allocate(len)?, to: device.allocate(len)? })
    }

    /// Fills the array that is copied with random values: the rate of a copy may depend on how many bits change.
    pub(super) fn fill(&mut self, device: &Device) -> Result<()> {
        let values = Values::new(1).signed(RANDOM_VALUES.min(self.from.len()));
        for start in (0..self.from.len()).step_by(values.len().max(1)) {
            let end = self.from.len().min(start + values.len());
            device.upload(&values[..end - start], self.from.slice_mut(start..end))?;
        }
        Ok(())
    }

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
        let lead = if properties.gpu { Some(Lead::new(device, LEAD_VALUES)?) } else { None };
        Ok(Timer { device, l2_bytes: properties.l2_bytes, budget, lead })
    }

    pub(super) fn lead(&mut self) -> Option<&mut Lead> {
        self.lead.as_mut()
    }

    /// Times a case's launch.
    pub fn launch(&mut self, prepared: &Prepared) -> Result<Measured> {
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
        let stopwatches = (0..round).map(|_| device.stopwatch()).collect::<Result<Vec<Stopwatch>>>()?;
        let mut rounds = Rounds { device, lead: lead.as_mut(), stopwatches };
        let times = rounds.sample(prepared, &mut copies, *budget)?;
        let warm = match bytes <= *l2_bytes {
            true => Some(rounds.sample(prepared, &mut copies[..1], *budget / WARM_PART)?),
            // Without a cache, everything was timed with one copy.
            false => (*l2_bytes == 0).then_some(times),
        };
        Ok(Measured { times, cold: wanted == count && *l2_bytes > 0, warm })
    }
}

/// Launches between two waits.
struct Rounds<'a> {
    device: &'a Device,
    lead: Option<&'a mut Lead>,
    /// One per launch.
    stopwatches: Vec<Stopwatch>,
}

impl Rounds<'_> {
    /// Times launches on these copies in turn, until the budget is used up.
    fn sample(&mut self, prepared: &Prepared, copies: &mut [Arrays], budget: Duration) -> Result<Times> {
        let Rounds { device, lead, stopwatches } = self;
        let (mut samples, started) = (Vec::new(), Instant::now());
        let mut turn = (0..copies.len()).cycle();
        while samples.len() < LEAST || (samples.len() < MOST && started.elapsed() < budget) {
            if let Some(lead) = lead {
                lead.take(device)?;
                // The copy leaves nothing else in the cache.
                if let [copy] = copies {
                    (prepared.launch)(device, copy)?;
                }
            }
            for (stopwatch, copy) in stopwatches.iter_mut().zip(&mut turn) {
                stopwatch.start()?;
                (prepared.launch)(device, &mut copies[copy])?;
                stopwatch.stop()?;
            }
            for stopwatch in stopwatches.iter() {
                samples.push(stopwatch.elapsed_ms()?);
            }
        }
        Ok(Times::of(samples))
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
