//! What a device must be able to do: the trait between [`super::Device`] and whatever runs the kernels.
//!
//! An implementer is one file or folder beside this one. It is handed the table of kernels when it opens, looks all of
//! them up, and knows nothing of what they compute. Objects that it gives out (memory, events, captured work, stopwatches)
//! do their own work through the handle that they keep, so nobody asks which driver they belong to.
//!
//! All calls take effect in the order in which they are made, with two exceptions: copies of batches go on a stream of
//! their own and are ordered by events alone, and launches on the branch may be overtaken by later ones until it is joined.

use std::sync::Arc;

use super::launch::Launch;
use super::memory::Memory;
use super::properties::Properties;
use crate::error::Result;

/// Something that runs kernels.
///
/// Addresses are those of memory that the driver allocated. Callers keep the memory alive until the work is done.
pub(crate) trait Driver: Send + Sync {
    /// Device memory of `bytes` bytes with unspecified content.
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>>;

    /// Page-locked host memory of `bytes` bytes with unspecified content, for [`Driver::copy`].
    fn allocate_page_locked(&self, bytes: usize) -> Result<Box<dyn Memory>>;

    /// Fills `bytes` bytes with zeros. Recorded while a graph is captured.
    ///
    /// # Safety
    /// The bytes must lie in live memory that no reference leads to.
    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()>;

    /// Copies from the host; `from` may be reused when this returns.
    ///
    /// # Safety
    /// `to` must be live memory of at least as many bytes that no reference leads to.
    unsafe fn upload(&self, from: &[u8], to: u64) -> Result<()>;

    /// Copies to the host, after waiting for the work called before.
    ///
    /// # Safety
    /// `from` must be live memory of at least as many bytes.
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;

    /// Copies within device memory.
    ///
    /// # Safety
    /// Both must be live memory of at least `bytes` bytes that do not overlap, and no reference may lead to `to`.
    unsafe fn copy_on_device(&self, from: u64, to: u64, bytes: usize) -> Result<()>;

    /// Launches a kernel. Recorded while a graph is captured.
    ///
    /// # Safety
    /// The parameters must be those of the kernel; their addresses must be of live memory as long as the kernel expects,
    /// and no reference may lead to what it writes.
    unsafe fn launch(&self, launch: Launch<'_>) -> Result<()>;

    /// Sends the following launches to the branch, behind all work called before.
    fn take_branch(&self) -> Result<()>;

    /// Sends the following launches to the main stream again, beside the branch.
    fn leave_branch(&self);

    /// Puts the following work behind the branch.
    fn join_branch(&self) -> Result<()>;

    /// Copies page-locked memory to the device on the stream of copies; the host goes on.
    ///
    /// # Safety
    /// Both must be live memory of at least `bytes` bytes until the host has waited for the copy. Until a stream has waited
    /// for it, nothing may write `from` or read `to`.
    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()>;

    /// An event that is not recorded yet.
    fn event(self: Arc<Self>) -> Result<Box<dyn EventHandle>>;

    /// Records the following launches and zeros instead of doing them.
    fn begin_capture(&self) -> Result<()>;

    /// What was recorded since [`Driver::begin_capture`].
    fn end_capture(self: Arc<Self>) -> Result<Box<dyn Recorded>>;

    /// A stopwatch that is not started yet.
    fn stopwatch(self: Arc<Self>) -> Result<Box<dyn StopwatchHandle>>;

    /// Name and sizes.
    fn properties(&self) -> Result<Properties>;
}

/// Where an event is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Kernels and everything else.
    Compute,
    /// Copies of batches.
    Copies,
}

/// A place in a stream. An event that was never recorded counts as reached.
pub(crate) trait EventHandle: Send + Sync {
    /// Puts it behind all work called on `stream`.
    fn record(&mut self, stream: Stream) -> Result<()>;

    /// Makes the following launches wait for it; the host does not wait.
    fn wait(&self) -> Result<()>;

    /// Makes the host wait for it.
    fn host_wait(&self) -> Result<()>;
}

/// Captured work.
pub(crate) trait Recorded {
    /// Does the work, after all that was called before.
    ///
    /// # Safety
    /// As for the recorded calls.
    unsafe fn replay(&self) -> Result<()>;
}

/// Two points of time in the main stream.
pub(crate) trait StopwatchHandle {
    /// Takes the time when all work called before is done.
    fn start(&mut self) -> Result<()>;

    /// As [`StopwatchHandle::start`], for the end.
    fn stop(&mut self) -> Result<()>;

    /// Milliseconds from start to stop; the host waits for both.
    fn elapsed_ms(&self) -> Result<f64>;
}
