//! Interface between [`super::Device`] and whatever runs the kernels.
//!
//! Each implementation is one file or folder beside this one. It receives the table of kernels when it opens
//! and looks all of them up; it does not know what they compute. The objects that it returns (memory, events,
//! captured work, stopwatches) hold a handle to their driver and act through it.
//!
//! All calls take effect in order, with two exceptions. Copies of batches run on their own stream and are
//! ordered by events alone. Launches on the branch may be overtaken by later ones until the branch is joined.

use std::collections::BTreeMap;
use std::sync::Arc;

use scenerank_ptx::compare::Comparison;
use scenerank_ptx::timing::LaunchTime;

use super::identity::Identity;
use super::kernel::KernelInfo;
use super::launch::Launch;
use super::memory::Memory;
use super::properties::Properties;
use crate::error::Result;

/// Runs kernels and manages their memory.
///
/// Addresses refer to memory allocated by the driver. Callers keep the memory alive until the work is done.
pub(crate) trait Driver: Send + Sync {
    /// Allocates `bytes` bytes of device memory with unspecified content.
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>>;

    /// Allocates `bytes` bytes of page-locked host memory with unspecified content, for [`Driver::copy`].
    fn allocate_page_locked(&self, bytes: usize) -> Result<Box<dyn Memory>>;

    /// Fills `bytes` bytes with zeros. Recorded while a graph is captured.
    ///
    /// # Safety
    /// The bytes must lie in live memory to which no reference exists.
    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()>;

    /// Copies from the host; `from` may be reused when this returns.
    ///
    /// # Safety
    /// `to` must be live memory, at least as long as `from`, to which no reference exists.
    unsafe fn upload(&self, from: &[u8], to: u64) -> Result<()>;

    /// Copies to the host, after waiting for all earlier work.
    ///
    /// # Safety
    /// `from` must be live memory, at least as long as `to`.
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;

    /// Copies within device memory.
    ///
    /// # Safety
    /// Both must be live memory of at least `bytes` bytes that do not overlap. No reference to `to` may
    /// exist.
    unsafe fn copy_on_device(&self, from: u64, to: u64, bytes: usize) -> Result<()>;

    /// Launches a kernel. Recorded while a graph is captured.
    ///
    /// # Safety
    /// The arguments must be those of the kernel. Their addresses must refer to live memory of the size that
    /// the kernel expects, and no reference to the memory that it writes may exist.
    unsafe fn launch(&self, launch: Launch<'_>) -> Result<()>;

    /// Whether the device has code of a kernel.
    fn has(&self, _kernel: &str) -> bool {
        true
    }

    /// Directs the following launches to the branch, ordered after all earlier work.
    fn take_branch(&self) -> Result<()>;

    /// Directs the following launches to the main stream again, concurrent with the branch.
    fn leave_branch(&self);

    /// Orders the following work after the branch.
    fn join_branch(&self) -> Result<()>;

    /// Copies page-locked memory to the device on the copy stream; the host does not wait.
    ///
    /// # Safety
    /// Both must be live memory of at least `bytes` bytes until the host has waited for the copy. Until a
    /// stream has waited for it, nothing may write `from` or read `to`.
    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()>;

    /// Creates an event that is not recorded yet.
    fn event(self: Arc<Self>) -> Result<Box<dyn EventHandle>>;

    /// Records the following launches and zero fills instead of running them.
    fn begin_capture(&self) -> Result<()>;

    /// Returns the work recorded since [`Driver::begin_capture`].
    fn end_capture(self: Arc<Self>) -> Result<Box<dyn Recorded>>;

    /// Makes the following launches and captures neither overlap nor use the branch. Returns whether they could before.
    fn launch_in_series(&self) -> bool {
        false
    }

    /// Allows or forbids that launches overlap. Returns whether they could before; only a GPU's can.
    fn allow_overlap(&self, _allowed: bool) -> bool {
        false
    }

    /// Measures each launch of the following captures, until this is called with `false`. Measured launches do not
    /// overlap.
    fn measure_launches(&self, measured: bool) -> Result<()>;

    /// Start and end of each measured launch in the latest replay, in the order of the capture. The host waits for the
    /// replay.
    fn measured_launches(&self) -> Result<Vec<MeasuredLaunch>>;

    /// Joins the GPUs of all ranks; `None` on other devices. `of_first` returns the argument of rank 0.
    fn communicator(
        self: Arc<Self>,
        _rank: usize,
        _count: usize,
        _of_first: &dyn Fn([u8; ID_BYTES]) -> [u8; ID_BYTES],
    ) -> Result<Option<Box<dyn CommunicatorHandle>>> {
        Ok(None)
    }

    /// Creates a stopwatch that is not started yet.
    fn stopwatch(self: Arc<Self>) -> Result<Box<dyn StopwatchHandle>>;

    /// Name and sizes of the device.
    fn properties(&self) -> Result<Properties>;

    /// Identity of a GPU whose warpgroups multiply; `None` for all other devices.
    fn warpgroup_identity(&self) -> Result<Option<Identity>> {
        Ok(None)
    }

    /// Removes and returns what the device observed of the launches since the last call. Only the PTX interpreter and
    /// the planner observe any.
    fn take_observations(&self) -> Observations {
        Observations::default()
    }
}

/// What the PTX interpreter or the planner observed of launches.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    /// Modelled times, if they were asked for.
    pub times: Vec<LaunchTime>,
    /// Comparisons with the emulator by kernel, if they were asked for.
    pub comparisons: BTreeMap<&'static str, Compared>,
    /// Launches in the order of the calls, on a device that only plans.
    pub planned: Vec<PlannedLaunch>,
}

/// A launch that was planned.
#[derive(Clone, Copy, Debug)]
pub struct PlannedLaunch {
    /// The kernel.
    pub kernel: KernelInfo,
    /// Number of blocks by dimension.
    pub blocks: [u32; 3],
}

/// When a launch of a captured graph began and ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeasuredLaunch {
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Whether the launch belongs to the branch.
    pub on_branch: bool,
    /// Start in microseconds since the start of the first launch.
    pub start_us: f64,
    /// End in microseconds since the start of the first launch.
    pub end_us: f64,
}

/// Launches of one kernel, compared with the emulator.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// Number of launches.
    pub launches: u64,
    /// Number of launches that wrote equal bits.
    pub equal: u64,
    /// Values of all launches.
    pub all: Comparison,
}

/// Stream in which an event is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Kernels and all other work.
    Compute,
    /// Copies of batches.
    Copies,
}

/// A point in a stream. An event that was never recorded counts as reached.
pub(crate) trait EventHandle: Send + Sync {
    /// Records the event after all earlier work on `stream`.
    fn record(&mut self, stream: Stream) -> Result<()>;

    /// Makes the following launches wait for the event; the host does not wait.
    fn wait(&self) -> Result<()>;

    /// Makes the host wait for the event.
    fn host_wait(&self) -> Result<()>;
}

/// Length of the id by which ranks find each other.
pub(crate) const ID_BYTES: usize = 128;

/// Exchange with the GPUs of other ranks.
pub(crate) trait CommunicatorHandle: Send + Sync {
    /// Copies `bytes` bytes of every rank to each, in the order of ranks.
    ///
    /// # Safety
    /// `from` must be live memory of that length, and `to` of that length for each rank, to which no reference exists.
    unsafe fn all_gather(&self, from: u64, to: u64, bytes: usize) -> Result<()>;

    /// Replaces `count` values in single precision by their sums over all ranks.
    ///
    /// # Safety
    /// They must be live memory to which no reference exists.
    unsafe fn sum(&self, address: u64, count: usize) -> Result<()>;
}

/// Captured work.
pub(crate) trait Recorded {
    /// Runs the work, after all earlier work.
    ///
    /// # Safety
    /// As for the recorded calls.
    unsafe fn replay(&self) -> Result<()>;
}

/// Measures the time between two points in the main stream.
pub(crate) trait StopwatchHandle {
    /// Records the start time, when all earlier work is done.
    fn start(&mut self) -> Result<()>;

    /// Records the end time, when all earlier work is done.
    fn stop(&mut self) -> Result<()>;

    /// Milliseconds from start to stop; the host waits for both.
    fn elapsed_ms(&self) -> Result<f64>;
}
