//! The emulator's C interface (`kernels/emulator/emulator.h`).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError};

use super::bug;
use crate::backend::cuda::device::launch::Launch;
use crate::error::Result;

/// A kernel in one of the emulator's tables, which live as long as the program.
#[derive(Clone, Copy)]
pub(super) struct Function(*const c_void);

// SAFETY: it points to a constant.
unsafe impl Send for Function {}
// SAFETY: likewise.
unsafe impl Sync for Function {}

/// `emulator::Launch`.
#[repr(C)]
struct CLaunch {
    kernel: *const c_void,
    blocks: [u32; 3],
    threads: [u32; 3],
    dynamic_shared_bytes: usize,
    /// Addresses of the arguments, their sizes, and their number.
    arguments: *const *const c_void,
    argument_bytes: *const usize,
    argument_count: usize,
    /// Order of blocks and threads; 0 for ascending.
    seed: u64,
    /// Room for a message that says why the launch failed.
    message: *mut c_char,
    message_bytes: usize,
}

/// One launch at a time: the emulator's state, shared memory included, is global.
static LAUNCH: Mutex<()> = Mutex::new(());

#[cfg(emulator)]
unsafe extern "C" {
    fn emulator_find(name: *const c_char) -> *const c_void;
    fn emulator_launch(launch: *const CLaunch) -> c_int;
}

/// Without a C++ compiler there are no tables, and opening the emulator fails before anything is called.
#[cfg(not(emulator))]
mod absent {
    use super::{CLaunch, c_char, c_int, c_void};

    pub(super) unsafe fn emulator_find(_: *const c_char) -> *const c_void {
        std::ptr::null()
    }

    pub(super) unsafe fn emulator_launch(_: *const CLaunch) -> c_int {
        1
    }
}
#[cfg(not(emulator))]
use absent::{emulator_find, emulator_launch};

impl Function {
    /// The kernel of this name; none if no table has it.
    pub(super) fn find(name: &str) -> Option<Self> {
        let c_name = CString::new(name).expect("a name without a zero");
        // SAFETY: the name is a C string.
        let function = unsafe { emulator_find(c_name.as_ptr()) };
        (!function.is_null()).then_some(Function(function))
    }

    /// Runs the kernel; an error holds the emulator's message.
    ///
    /// # Safety
    /// As for [`super::Driver::launch`].
    pub(super) unsafe fn run(self, launch: Launch<'_>, seed: u64) -> Result<()> {
        let Launch { kernel, blocks, arguments } = launch;
        let (address, bytes): (*const c_void, usize) = (arguments.as_ptr().cast(), arguments.len());
        let mut message: [c_char; 512] = [0; 512];
        let launch = CLaunch {
            kernel: self.0,
            blocks,
            threads: kernel.threads,
            dynamic_shared_bytes: kernel.dynamic_shared_bytes as usize,
            arguments: &address,
            argument_bytes: &bytes,
            argument_count: 1,
            seed,
            message: message.as_mut_ptr(),
            message_bytes: message.len(),
        };
        let _one = LAUNCH.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the function came from `emulator_find`, all pointers are those of the live arrays above, and the rest is
        // the caller's promise; the emulator checks the sizes.
        if unsafe { emulator_launch(&launch) } == 0 {
            return Ok(());
        }
        // SAFETY: the emulator ends its message with a zero.
        let problem = unsafe { CStr::from_ptr(message.as_ptr()) };
        Err(bug(problem.to_string_lossy().into_owned()))
    }
}
