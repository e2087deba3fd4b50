//! Times of launches without work: what a launch costs, and how much of it overlap hides.

use serde::Serialize;

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::graph::Graph;
use crate::backend::cuda::launchers::ceilings::ceiling_launch;
use crate::bench::timing::Times;
use crate::error::Result;

/// Number of launches in a chain.
const CHAIN: usize = 100;
/// Number of measurements.
const REPEATS: usize = 20;

/// Median times in microseconds of launches that do nothing, with one block per multiprocessor.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EmptyLaunches {
    /// A single launch between two events: included in the time of every kernel.
    pub single_us: f64,
    /// A launch in a captured chain of 100 without overlap.
    pub in_graph_us: f64,
    /// A launch in a captured chain of 100 that overlap, if the GPU and its kernels allow it.
    pub overlapped_us: f64,
}

impl EmptyLaunches {
    /// Measures on a device with `blocks` multiprocessors.
    pub fn measure(device: &Device, blocks: usize) -> Result<Self> {
        let chain = || -> Result<Graph> {
            device.begin_capture()?;
            let launched = (0..CHAIN).try_for_each(|_| ceiling_launch(device, blocks));
            let graph = device.end_capture();
            launched.and(graph)
        };
        let overlapped = chain()?;
        let in_series = device.without_overlap(chain)?;
        // SAFETY: the captured kernels access no memory.
        let replay = |graph: &Graph| median_us(device, || unsafe { device.replay(graph) });
        Ok(EmptyLaunches {
            single_us: median_us(device, || ceiling_launch(device, blocks))?,
            in_graph_us: replay(&in_series)? / CHAIN as f64,
            overlapped_us: replay(&overlapped)? / CHAIN as f64,
        })
    }
}

fn median_us(device: &Device, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?; // the first launch loads the kernel
    let mut stopwatch = device.stopwatch()?;
    let mut samples = Vec::new();
    for _ in 0..REPEATS {
        stopwatch.start()?;
        work()?;
        stopwatch.stop()?;
        samples.push(stopwatch.elapsed_ms()?);
    }
    Ok(1e3 * Times::of(samples).ms)
}
