//! Devices on the CPU: device memory is memory of this process. Streams, events and captured graphs keep no other order
//! than a GPU does. An [`Executor`] runs the kernels.

mod memory;
mod streams;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::driver::{Driver, EventHandle, MeasuredLaunch, Observations, Recorded, StopwatchHandle, Stream};
use super::launch::{Launch, OwnedLaunch};
use super::memory::Memory;
use super::properties::Properties;
use crate::error::{Error, Result};
use memory::DeviceMemory;
pub(super) use memory::HostMemory;
use streams::SharedStreams;

/// Runs kernels on memory of this process.
pub(super) trait Executor: Send + Sync {
    /// Name of the device, for errors.
    fn device(&self) -> &'static str;

    /// Name and sizes of the device.
    fn properties(&self) -> Properties;

    /// Runs a launch of the main stream or of the branch to its end.
    ///
    /// # Safety
    /// As for [`Driver::launch`].
    unsafe fn launch(&self, launch: Launch<'_>, on_branch: bool) -> Result<()>;

    /// Takes note that the main stream waits for the branch.
    fn branch_joined(&self) {}

    /// Whether there is code of a kernel.
    fn has(&self, _kernel: &str) -> bool {
        true
    }

    /// Takes note of allocated device memory.
    fn allocated(&self, _address: u64, _bytes: usize) {}

    /// Takes note of device memory that is about to be freed.
    fn freed(&self, _address: u64) {}

    /// Takes note of device memory that the host has written.
    fn written(&self, _address: u64, _bytes: usize) {}

    /// Removes and returns what was observed of the launches.
    fn take_observations(&self) -> Observations {
        Observations::default()
    }
}

/// Driver of a device on the CPU.
pub(super) struct Host {
    executor: Arc<dyn Executor>,
    /// Whether launches of the branch are postponed.
    postpones: bool,
    streams: SharedStreams,
    /// Work recorded so far, while a graph is captured.
    recording: Mutex<Option<Vec<Work>>>,
    /// Whether launches currently go to the branch.
    on_branch: AtomicBool,
    /// Postponed launches of the branch. They run as late as possible, when the branch is joined. This exposes
    /// work in between that depends on them, or on which they depend.
    late: Mutex<Vec<Work>>,
    /// Whether captures are measured.
    measured: AtomicBool,
    /// Launches of the latest replay of a measured capture, with its start.
    marks: Mutex<Option<(Instant, Vec<MeasuredLaunch>)>>,
}

/// Recorded or postponed work.
enum Work {
    Launch { launch: OwnedLaunch, on_branch: bool },
    JoinBranch,
    Zero { address: u64, bytes: usize },
}

/// Captured graph.
struct WorkList {
    host: Arc<Host>,
    work: Vec<Work>,
    /// Whether its launches are measured.
    measured: bool,
}

impl Recorded for WorkList {
    unsafe fn replay(&self) -> Result<()> {
        let begun = self.measured.then(|| (Instant::now(), Vec::new()));
        *self.host.marks() = begun;
        // SAFETY: guaranteed by the caller.
        unsafe { self.host.perform(&self.work) }
    }
}

/// Launches are finished when they return, so the host clock measures them.
#[derive(Default)]
struct HostClock {
    start: Option<Instant>,
    end: Option<Instant>,
}

impl StopwatchHandle for HostClock {
    fn start(&mut self) -> Result<()> {
        self.start = Some(Instant::now());
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.end = Some(Instant::now());
        Ok(())
    }

    fn elapsed_ms(&self) -> Result<f64> {
        let (Some(start), Some(end)) = (self.start, self.end) else { panic!("a stopwatch that did not run") };
        Ok(end.duration_since(start).as_secs_f64() * 1e3)
    }
}

/// Error for a defect of a kernel or its launcher.
pub(super) fn bug(device: &str, problem: String) -> Error {
    let remedy = "this is a bug of the kernel or its launcher".to_string();
    Error::Device { device: device.into(), problem, remedy }
}

impl Host {
    /// Driver that launches by `executor`. If it postpones, launches of the branch run when the branch is joined.
    pub(super) fn new(executor: Arc<dyn Executor>, postpones: bool) -> Self {
        Host {
            streams: SharedStreams::new(executor.clone()),
            executor,
            postpones,
            recording: Mutex::default(),
            on_branch: AtomicBool::new(false),
            late: Mutex::default(),
            measured: AtomicBool::new(false),
            marks: Mutex::default(),
        }
    }

    fn recording(&self) -> MutexGuard<'_, Option<Vec<Work>>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn late(&self) -> MutexGuard<'_, Vec<Work>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marks(&self) -> MutexGuard<'_, Option<(Instant, Vec<MeasuredLaunch>)>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Safety
    /// As for the calls that the work was recorded from.
    unsafe fn perform(&self, work: &[Work]) -> Result<()> {
        for work in work {
            match work {
                Work::Launch { launch, on_branch } => {
                    // SAFETY: guaranteed by the caller.
                    launch.with(|launch| unsafe { self.begin_launch(launch, *on_branch) })?;
                }
                Work::JoinBranch => self.join_branch()?,
                // SAFETY: guaranteed by the caller.
                Work::Zero { address, bytes } => unsafe { self.zero(*address, *bytes) }?,
            }
        }
        Ok(())
    }

    /// Launches now, or postpones a launch of the branch.
    ///
    /// # Safety
    /// As for [`Driver::launch`]; for a branch launch, until the branch is joined.
    unsafe fn begin_launch(&self, launch: Launch<'_>, on_branch: bool) -> Result<()> {
        if on_branch && self.postpones {
            self.late().push(Work::Launch { launch: launch.into(), on_branch: false });
            return Ok(());
        }
        self.streams.lock().launch(&launch);
        let started = Instant::now();
        // SAFETY: guaranteed by the caller.
        unsafe { self.executor.launch(launch, on_branch) }?;
        if let Some((first, launches)) = &mut *self.marks() {
            let [start_us, end_us] = [started, Instant::now()].map(|at| (at - *first).as_secs_f64() * 1e6);
            launches.push(MeasuredLaunch { kernel: launch.kernel.name, on_branch, start_us, end_us });
        }
        Ok(())
    }
}

impl Driver for Host {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>> {
        Ok(Box::new(DeviceMemory::unwritten(bytes, self.executor.clone())))
    }

    fn allocate_page_locked(&self, bytes: usize) -> Result<Box<dyn Memory>> {
        Ok(Box::new(HostMemory::unwritten(bytes)))
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        if let Some(recorded) = &mut *self.recording() {
            recorded.push(Work::Zero { address, bytes });
            return Ok(());
        }
        // SAFETY: guaranteed by the caller.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        self.executor.written(address, bytes);
        Ok(())
    }

    unsafe fn upload(&self, from: &[u8], to: u64) -> Result<()> {
        // SAFETY: guaranteed by the caller; host and device memory do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        self.executor.written(to, from.len());
        Ok(())
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        let mut streams = self.streams.lock();
        let launches = streams.record(Stream::Compute);
        streams.host_wait(launches);
        // SAFETY: guaranteed by the caller; host and device memory do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn copy_on_device(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: guaranteed by the caller.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        self.executor.written(to, bytes);
        Ok(())
    }

    unsafe fn launch(&self, launch: Launch<'_>) -> Result<()> {
        let on_branch = self.on_branch.load(Ordering::Relaxed);
        if let Some(recorded) = &mut *self.recording() {
            recorded.push(Work::Launch { launch: launch.into(), on_branch });
            return Ok(());
        }
        // SAFETY: guaranteed by the caller.
        unsafe { self.begin_launch(launch, on_branch) }
    }

    fn has(&self, kernel: &str) -> bool {
        self.executor.has(kernel)
    }

    fn take_branch(&self) -> Result<()> {
        self.on_branch.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn leave_branch(&self) {
        self.on_branch.store(false, Ordering::Relaxed);
    }

    fn join_branch(&self) -> Result<()> {
        if let Some(recorded) = &mut *self.recording() {
            recorded.push(Work::JoinBranch);
            return Ok(());
        }
        let late = std::mem::take(&mut *self.late());
        // SAFETY: the callers of `launch` guarantee that all memory lives until the branch is joined.
        unsafe { self.perform(&late) }?;
        self.executor.branch_joined();
        Ok(())
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: guaranteed by the caller.
        unsafe { self.streams.lock().copy(from, to, bytes) }
    }

    fn event(self: Arc<Self>) -> Result<Box<dyn EventHandle>> {
        Ok(Box::new(self.streams.event()))
    }

    fn begin_capture(&self) -> Result<()> {
        *self.recording() = Some(Vec::new());
        Ok(())
    }

    fn end_capture(self: Arc<Self>) -> Result<Box<dyn Recorded>> {
        let work = self.recording().take().expect("a capture that began");
        let measured = self.measured.load(Ordering::Relaxed);
        Ok(Box::new(WorkList { host: self, work, measured }))
    }

    fn measure_launches(&self, measured: bool) -> Result<()> {
        self.measured.store(measured, Ordering::Relaxed);
        Ok(())
    }

    fn measured_launches(&self) -> Result<Vec<MeasuredLaunch>> {
        let marks = self.marks();
        let Some((_, launches)) = &*marks else { return Ok(Vec::new()) };
        let first_us = launches.first().map_or(0.0, |first| first.start_us);
        let since_first = |launch: &MeasuredLaunch| {
            let (start_us, end_us) = (launch.start_us - first_us, launch.end_us - first_us);
            MeasuredLaunch { start_us, end_us, ..*launch }
        };
        Ok(launches.iter().map(since_first).collect())
    }

    fn stopwatch(self: Arc<Self>) -> Result<Box<dyn StopwatchHandle>> {
        Ok(Box::new(HostClock::default()))
    }

    fn properties(&self) -> Result<Properties> {
        Ok(self.executor.properties())
    }

    fn take_observations(&self) -> Observations {
        self.executor.take_observations()
    }
}
