//! Device on which kernels run: a GPU, the emulator, or the PTX interpreter. A fourth one only plans launches.
//!
//! A device receives the table of kernels when it opens, and looks up all of them. A missing kernel therefore
//! fails at the start and not at step 900. One trait (`driver.rs`) hides the differences between
//! them.
//!
//! Launches and copies take effect in the order of the calls, with two exceptions. Copies of batches run on a
//! stream of their own (`streams.rs`). Launches on a branch may be overtaken by later launches (`on_branch`).

pub mod buffer;
mod driver;
pub mod emulator;
pub(crate) mod exchange;
mod gpu;
pub mod graph;
mod host;
pub mod identity;
pub mod interpreter;
pub mod kernel;
mod launch;
mod marks;
mod memory;
#[cfg(feature = "mpi")]
mod nccl;
pub(crate) mod nvtx;
mod planner;
pub mod properties;
mod requirements;
pub mod rows;
pub mod stopwatch;
pub(crate) mod streams;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Result;
use buffer::{Buffer, Element, Slice, SliceMut};
use driver::Driver;
pub use driver::{Compared, MeasuredLaunch, Observations, PlannedLaunch};
use emulator::Emulator;
use gpu::Gpu;
use host::Host;
use interpreter::{Interpretation, PtxExecutor};
use kernel::{Blocks, Kernel, KernelArguments, KernelFile};
use launch::Launch;
use planner::Planner;

/// A device on which kernels run.
pub struct Device {
    driver: Arc<dyn Driver>,
    calls: Arc<Calls>,
    /// Whether a graph is being captured (`graph.rs`).
    capturing: AtomicBool,
}

/// Access to the observations of a device.
pub struct Observer(Arc<dyn Driver>);

impl Observer {
    /// Removes and returns what was observed of the launches since the last call.
    pub fn take(&self) -> Observations {
        self.0.take_observations()
    }

    /// Measures each launch of the following captures, until this is called with `false`. Measured launches do not
    /// overlap; captures that are not measured stay as they are.
    pub fn measure_launches(&self, measured: bool) -> Result<()> {
        self.0.measure_launches(measured)
    }

    /// Start and end of each measured launch in the latest replay. The host waits for the replay.
    pub fn measured_launches(&self) -> Result<Vec<MeasuredLaunch>> {
        self.0.measured_launches()
    }
}

/// Counts the calls that a training step must avoid.
#[derive(Debug, Default)]
pub struct Calls {
    /// Number of buffers and page-locked arrays allocated.
    pub allocations: AtomicU64,
    /// Number of downloads; the host waits for each.
    pub downloads: AtomicU64,
    /// Number of times the host waited for an event. The event is usually reached already, unless the host is
    /// a step ahead.
    pub host_waits: AtomicU64,
}

impl Device {
    /// Opens the GPU with this index, with the kernels of `files`.
    pub fn gpu(index: usize, files: &'static [KernelFile]) -> Result<Self> {
        Ok(Device::driven_by(Arc::new(Gpu::open(index, files)?)))
    }

    /// Number of GPUs that the driver sees; 0 without a driver.
    pub fn gpu_count() -> usize {
        gpu::gpu_count()
    }

    /// Opens the emulator with the kernels of `files`. A `seed` shuffles the order of blocks, and of threads
    /// between barriers, which must not change any result.
    pub fn emulated(seed: Option<u64>, files: &'static [KernelFile]) -> Result<Self> {
        let emulator = Emulator::open(seed, files)?;
        Ok(Device::driven_by(Arc::new(Host::new(Arc::new(emulator), seed.is_some()))))
    }

    /// Opens the PTX interpreter for the kernels of `files`.
    pub fn interpreted(interpretation: Interpretation, files: &'static [KernelFile]) -> Result<Self> {
        let postpones = interpretation.seed.is_some();
        let executor = PtxExecutor::open(interpretation, files)?;
        Ok(Device::driven_by(Arc::new(Host::new(Arc::new(executor), postpones))))
    }

    /// Opens a device that runs nothing and has no memory. It records kernel and grid of each launch.
    pub fn planned() -> Self {
        Device::driven_by(Arc::new(Planner::default()))
    }

    /// Removes and returns what was observed of the launches since the last call.
    pub fn take_observations(&self) -> Observations {
        self.driver.take_observations()
    }

    /// Gives access to the observations after the device has gone to a backend.
    pub fn observer(&self) -> Observer {
        Observer(self.driver.clone())
    }

    fn driven_by(driver: Arc<dyn Driver>) -> Self {
        Device { driver, calls: Arc::default(), capturing: AtomicBool::new(false) }
    }

    /// Counters, updated while the device is used.
    pub fn calls(&self) -> Arc<Calls> {
        self.calls.clone()
    }

    /// Allocates a buffer of `len` zeros.
    pub fn allocate<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let mut buffer = self.allocate_unwritten(len)?;
        self.zero(buffer.slice_mut(0..len))?;
        Ok(buffer)
    }

    /// Allocates a buffer that a kernel must write before another reads it. On the emulator it holds NaN.
    pub fn allocate_unwritten<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        self.assert_not_capturing("memory");
        self.calls.allocations.fetch_add(1, Ordering::Relaxed);
        Ok(Buffer::new(self.driver.allocate(len * size_of::<T>())?, len))
    }

    /// Allocates a buffer of these values.
    pub fn allocate_copy<T: Element>(&self, values: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.allocate_unwritten(values.len())?;
        self.upload(values, buffer.all_mut())?;
        Ok(buffer)
    }

    /// Grows `buffer` to at least `len` values and discards its content. Within a step buffers are already large enough, and
    /// this does nothing.
    pub fn reserve<T: Element>(&self, buffer: &mut Buffer<T>, len: usize) -> Result<()> {
        if buffer.len() < len {
            *buffer = self.allocate_unwritten(len)?;
        }
        Ok(())
    }

    /// Fills `slice` with zeros.
    pub fn zero<T: Element>(&self, slice: SliceMut<'_, T>) -> Result<()> {
        if slice.is_empty() {
            return Ok(());
        }
        // SAFETY: the bytes belong to a slice of a live buffer, which is borrowed mutably.
        unsafe { self.driver.zero(slice.address(), slice.len() * size_of::<T>()) }
    }

    /// Copies `values` to the start of `slice`.
    pub fn upload<T: Element>(&self, values: &[T], slice: SliceMut<'_, T>) -> Result<()> {
        assert!(values.len() <= slice.len(), "{} values into {}", values.len(), slice.len());
        self.assert_not_capturing("an upload");
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: the address is that of a slice of a live buffer with room for the values; the slice is
        // borrowed mutably.
        unsafe { self.driver.upload(bytemuck::cast_slice(values), slice.address()) }
    }

    /// Copies `from` to the start of `to`.
    pub fn copy_on_device<T: Element>(&self, from: Slice<'_, T>, to: SliceMut<'_, T>) -> Result<()> {
        assert!(from.len() <= to.len(), "{} values into {}", from.len(), to.len());
        self.assert_not_capturing("a copy");
        let bytes = from.len() * size_of::<T>();
        // SAFETY: both are slices of live buffers with room for the bytes. `to` is borrowed mutably, so they
        // do not overlap.
        unsafe { self.driver.copy_on_device(from.address(), to.address(), bytes) }
    }

    /// Copies `buffer[range]` to the host, after waiting for the earlier launches.
    pub fn download<T: Element>(&self, buffer: &Buffer<T>, range: Range<usize>) -> Result<Vec<T>> {
        let slice = buffer.slice(range);
        if slice.is_empty() {
            return Ok(Vec::new());
        }
        self.assert_not_capturing("a download");
        self.calls.downloads.fetch_add(1, Ordering::Relaxed);
        let mut values = vec![T::zeroed(); slice.len()];
        // SAFETY: the address is that of a slice of a live buffer with this length.
        unsafe { self.driver.download(slice.address(), bytemuck::cast_slice_mut(&mut values)) }?;
        Ok(values)
    }

    /// Whether the device has code of a kernel. Only kernels for warpgroups may be absent.
    pub(crate) fn has<A: KernelArguments>(&self, kernel: &Kernel<A>) -> bool {
        self.driver.has(kernel.info().name)
    }

    /// Runs `kernel` after all earlier work.
    ///
    /// # Safety
    /// `A` must be the kernel's argument struct in its source. Its pointers must point to as many values as
    /// the kernel expects. No other reference to the values that the kernel writes may exist.
    pub(crate) unsafe fn launch<A: KernelArguments>(
        &self,
        kernel: &Kernel<A>,
        blocks: Blocks,
        arguments: &A,
    ) -> Result<()> {
        let arguments = bytemuck::bytes_of(arguments);
        // SAFETY: guaranteed by the caller.
        unsafe { self.driver.launch(Launch { kernel: kernel.info(), blocks: blocks.0, arguments }) }
    }

    /// Runs the launches of `launches` on a branch: ordered after all earlier work, and concurrent with later
    /// work until [`Device::join_branch`].
    pub(crate) fn on_branch(&self, launches: impl FnOnce() -> Result<()>) -> Result<()> {
        self.driver.take_branch()?;
        let launched = launches();
        self.driver.leave_branch();
        launched
    }

    /// Orders the following work after the branch.
    pub(crate) fn join_branch(&self) -> Result<()> {
        self.driver.join_branch()
    }
}

/// Panics unless the slice called `name` holds the `wanted` values that the kernel accesses.
#[track_caller]
pub(crate) fn check_len(name: &str, len: usize, wanted: usize) {
    assert!(len >= wanted, "{name}: {wanted} values are needed, the slice holds {len}");
}
