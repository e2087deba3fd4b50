//! The kernels compiled as C++ against the emulator (`kernels/emulator/emulator.h`), launched like a GPU's.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::graph::Work;
use super::kernel::KernelInfo;
use super::launch::Launch;
use super::streams::{Event, Mark, SharedStreams, Stream};
use crate::backend::cuda::device::Functions;
use crate::error::{Error, Result};

/// The emulator: its functions, and the seed of the order in which threads run.
pub(crate) struct Emulator {
    functions: Functions<Function>,
    /// 0: in order.
    seed: u64,
    streams: SharedStreams,
    /// What is recorded while a graph is captured.
    recording: Mutex<Option<Vec<Work>>>,
    /// Whether launches go on the branch now.
    on_branch: AtomicBool,
    /// Launches of the branch. In order they are done where they are called; with a seed as late as they may be, when the
    /// branch ends: what is called in between must change nothing of it, nor it of that.
    late: Mutex<Vec<Work>>,
}

/// A kernel in one of the emulator's tables, which live as long as the program.
#[derive(Clone, Copy)]
struct Function(*const c_void);

// SAFETY: it points to a constant.
unsafe impl Send for Function {}
// SAFETY: likewise.
unsafe impl Sync for Function {}

/// One launch at a time: the emulator's state, shared memory included, is global.
static LAUNCH: Mutex<()> = Mutex::new(());

#[cfg(emulator)]
unsafe extern "C" {
    fn emulator_find(name: *const c_char) -> *const c_void;
    fn emulator_launch(
        kernel: *const c_void,
        grid: *const u32,
        block: *const u32,
        dynamic_shared_bytes: usize,
        arguments: *mut *mut c_void,
        argument_bytes: *const usize,
        argument_count: usize,
        seed: u64,
        message: *mut c_char,
        message_bytes: usize,
    ) -> c_int;
}

/// Without a C++ compiler there are no tables, and [`Emulator::open`] fails before anything else.
#[cfg(not(emulator))]
mod absent {
    use super::{c_char, c_int, c_void};

    pub(crate) unsafe fn emulator_find(_: *const c_char) -> *const c_void {
        std::ptr::null()
    }

    pub(crate) unsafe fn emulator_launch(
        _: *const c_void,
        _: *const u32,
        _: *const u32,
        _: usize,
        _: *mut *mut c_void,
        _: *const usize,
        _: usize,
        _: u64,
        _: *mut c_char,
        _: usize,
    ) -> c_int {
        1
    }
}
#[cfg(not(emulator))]
use absent::{emulator_find, emulator_launch};

impl Emulator {
    pub(crate) fn open(seed: Option<u64>) -> Result<Self> {
        if !cfg!(emulator) {
            return Err(Error::Device {
                device: "emulated".into(),
                problem: "this build found no C++ compiler for its kernels".into(),
                remedy: "install g++ or clang++ and build again, or use --device cpu".into(),
            });
        }
        let mut functions = Functions::new();
        let kernels = crate::backend::cuda::launchers::FILES.iter().flat_map(|file| file.kernels);
        for &KernelInfo { name, .. } in kernels {
            let c_name = CString::new(name).expect("a name without a zero");
            // SAFETY: the name is a C string.
            let function = unsafe { emulator_find(c_name.as_ptr()) };
            assert!(!function.is_null(), "the kernel {name} is in no table of the emulator's");
            functions.insert(name, Function(function));
        }
        let seed = seed.map_or(0, |seed| seed.max(1));
        Ok(Emulator {
            functions,
            seed,
            streams: SharedStreams::default(),
            recording: Mutex::default(),
            on_branch: AtomicBool::new(false),
            late: Mutex::default(),
        })
    }

    pub(crate) fn event(&self) -> Event {
        Event::Emulated { streams: self.streams.clone(), mark: Mark::Copies(0) }
    }

    /// The host waits for all launches.
    pub(crate) fn finish(&self) {
        let mut streams = self.streams.lock();
        let mark = streams.record(Stream::Compute);
        streams.host_wait(mark);
    }

    /// # Safety
    /// As for [`super::Device::copy`].
    pub(crate) unsafe fn copy(&self, source: *const i32, len: usize, address: u64) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.streams.lock().copy(source, len, address) }.map_err(bug)
    }

    fn recording(&self) -> MutexGuard<'_, Option<Vec<Work>>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin_capture(&self) {
        *self.recording() = Some(Vec::new());
    }

    pub(crate) fn end_capture(&self) -> Vec<Work> {
        self.recording().take().expect("a capture that began")
    }

    fn late(&self) -> MutexGuard<'_, Vec<Work>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether launches go on the branch from here on.
    pub(crate) fn take_branch(&self, on_branch: bool) {
        self.on_branch.store(on_branch, Ordering::Relaxed);
    }

    /// Does what the branch has left to do.
    pub(crate) fn join_branch(&self) -> Result<()> {
        if let Some(recorded) = &mut *self.recording() {
            recorded.push(Work::JoinBranch);
            return Ok(());
        }
        let late = std::mem::take(&mut *self.late());
        // SAFETY: who launched promised that all memory stays until the branch's end.
        unsafe { self.replay(&late) }
    }

    /// # Safety
    /// As for [`super::Device::replay`].
    pub(crate) unsafe fn replay(&self, work: &[Work]) -> Result<()> {
        for work in work {
            match work {
                Work::Launch { launch, on_branch } => {
                    // SAFETY: as the caller promises.
                    launch.with(|launch| unsafe { self.begin_launch(launch, *on_branch) })?;
                }
                Work::JoinBranch => self.join_branch()?,
                // SAFETY: likewise.
                Work::Zero { address, bytes } => unsafe { self.zero(*address, *bytes) }?,
            }
        }
        Ok(())
    }

    /// # Safety
    /// The bytes must be those of a buffer, and no reference may lead to them when this is done.
    pub(crate) unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        if let Some(recorded) = &mut *self.recording() {
            recorded.push(Work::Zero { address, bytes });
            return Ok(());
        }
        // SAFETY: as the caller promises.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    /// # Safety
    /// As for [`super::Device::launch`].
    pub(crate) unsafe fn launch(&self, launch: Launch<'_>) -> Result<()> {
        let on_branch = self.on_branch.load(Ordering::Relaxed);
        if let Some(recorded) = &mut *self.recording() {
            recorded.push(Work::Launch { launch: launch.into(), on_branch });
            return Ok(());
        }
        // SAFETY: as the caller promises.
        unsafe { self.begin_launch(launch, on_branch) }
    }

    /// # Safety
    /// As for [`super::Device::launch`]; on the branch until its end.
    unsafe fn begin_launch(&self, launch: Launch<'_>, on_branch: bool) -> Result<()> {
        if on_branch && self.seed != 0 {
            self.late().push(Work::Launch { launch: launch.into(), on_branch: false });
            return Ok(());
        }
        // SAFETY: as the caller promises.
        unsafe { self.run(launch) }
    }

    /// # Safety
    /// As for [`super::Device::launch`].
    unsafe fn run(&self, launch: Launch<'_>) -> Result<()> {
        let Launch { kernel, blocks, parameters } = launch;
        let mut pointers: Vec<*mut c_void> =
            parameters.iter().map(|bytes| bytes.as_ptr().cast_mut().cast()).collect();
        let bytes: Vec<usize> = parameters.iter().map(|bytes| bytes.len()).collect();
        self.streams.lock().launch(&launch);
        let mut message: [c_char; 512] = [0; 512];
        let _one = LAUNCH.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the function came from `emulator_find`; the arguments are the caller's promise; grid and block are
        // three numbers each; the message has room.
        let failed = unsafe {
            emulator_launch(
                self.functions[kernel.name].0,
                blocks.as_ptr(),
                kernel.threads.as_ptr(),
                kernel.dynamic_shared_bytes as usize,
                pointers.as_mut_ptr(),
                bytes.as_ptr(),
                pointers.len(),
                self.seed,
                message.as_mut_ptr(),
                message.len(),
            )
        };
        if failed == 0 {
            return Ok(());
        }
        // SAFETY: the emulator ends its message with a zero.
        let problem = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned();
        Err(bug(problem))
    }
}

fn bug(problem: String) -> Error {
    let remedy = "this is a bug of the kernel or its launcher".to_string();
    Error::Device { device: "emulated".into(), problem, remedy }
}
