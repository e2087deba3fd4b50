//! Planner: a device that runs nothing and has no device memory. It records kernel and grid of each launch, so that grids
//! can be studied at any size without a GPU.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{
    Driver, EventHandle, MeasuredLaunch, Observations, PlannedLaunch, Recorded, StopwatchHandle, Stream,
};
use super::host::HostMemory;
use super::launch::Launch;
use super::memory::Memory;
use super::properties::Properties;
use crate::error::Result;

/// First address of device memory. It is never dereferenced.
const FIRST_ADDRESS: u64 = 1 << 40;
/// Alignment of a GPU's allocations.
const ALIGNMENT: u64 = 256;

/// Records launches.
#[derive(Default)]
pub(super) struct Planner {
    /// Bytes allocated so far.
    allocated: AtomicU64,
    launches: Mutex<Vec<PlannedLaunch>>,
}

/// Address range without memory.
struct Planned(u64);

impl Memory for Planned {
    fn address(&self) -> u64 {
        self.0
    }
}

/// Event, graph and stopwatch: there is nothing to wait for, to run or to measure.
struct Nothing;

impl Driver for Planner {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>> {
        let bytes = (bytes as u64).next_multiple_of(ALIGNMENT);
        Ok(Box::new(Planned(FIRST_ADDRESS + self.allocated.fetch_add(bytes, Ordering::Relaxed))))
    }

    fn allocate_page_locked(&self, bytes: usize) -> Result<Box<dyn Memory>> {
        Ok(Box::new(HostMemory::unwritten(bytes)))
    }

    unsafe fn zero(&self, _address: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    unsafe fn upload(&self, _from: &[u8], _to: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn download(&self, _from: u64, to: &mut [u8]) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    unsafe fn copy_on_device(&self, _from: u64, _to: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    unsafe fn launch(&self, launch: Launch<'_>) -> Result<()> {
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        launches.push(PlannedLaunch { kernel: launch.kernel, blocks: launch.blocks });
        Ok(())
    }

    fn take_branch(&self) -> Result<()> {
        Ok(())
    }

    fn leave_branch(&self) {}

    fn join_branch(&self) -> Result<()> {
        Ok(())
    }

    unsafe fn copy(&self, _from: u64, _to: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn event(self: Arc<Self>) -> Result<Box<dyn EventHandle>> {
        Ok(Box::new(Nothing))
    }

    fn begin_capture(&self) -> Result<()> {
        Ok(())
    }

    fn end_capture(self: Arc<Self>) -> Result<Box<dyn Recorded>> {
        Ok(Box::new(Nothing))
    }

    fn measure_launches(&self, _measured: bool) -> Result<()> {
        Ok(())
    }

    fn measured_launches(&self) -> Result<Vec<MeasuredLaunch>> {
        Ok(Vec::new())
    }

    fn stopwatch(self: Arc<Self>) -> Result<Box<dyn StopwatchHandle>> {
        Ok(Box::new(Nothing))
    }

    fn properties(&self) -> Result<Properties> {
        Ok(Properties::of_cpu("planner"))
    }

    fn take_observations(&self) -> Observations {
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        Observations { planned: std::mem::take(&mut *launches), ..Observations::default() }
    }
}

impl EventHandle for Nothing {
    fn record(&mut self, _stream: Stream) -> Result<()> {
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn host_wait(&self) -> Result<()> {
        Ok(())
    }
}

impl Recorded for Nothing {
    unsafe fn replay(&self) -> Result<()> {
        Ok(())
    }
}

impl StopwatchHandle for Nothing {
    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        Ok(())
    }

    fn elapsed_ms(&self) -> Result<f64> {
        Ok(0.0)
    }
}
