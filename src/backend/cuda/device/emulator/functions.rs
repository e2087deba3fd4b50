//! The emulator's C interface (`kernels/emulator/emulator.h`).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError};

use super::bug;
use crate::backend::cuda::device::launch::Launch;
use crate::error::Result;

/// Kernel in one of the emulator's tables, which have static lifetime.
#[derive(Clone, Copy)]
pub(super) struct Function(*const c_void);

// SAFETY: it points to a constant.
unsafe impl Send for Function {}
// SAFETY: it points to a constant.
unsafe impl Sync for Function {}

/// Counterpart of the C++ struct `emulator::Launch`.
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
    /// Seed for the order of blocks and threads; 0 for ascending order.
    seed: u64,
    /// Buffer for the reason of a failure.
    message: *mut c_char,
    message_bytes: usize,
}

/// Serialises launches: the emulator's state, including shared memory, is global.
static LAUNCH: Mutex<()> = Mutex::new(());

#[cfg(emulator)]
unsafe extern "C" {
    fn emulator_find(name: *const c_char) -> *const c_void;
    fn emulator_launch(launch: *const CLaunch) -> c_int;
}

/// Stubs for builds without a C++ compiler. There are no tables then, and opening the emulator fails before
/// any call.
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
    /// Finds the kernel with this name; `None` if no table has it.
    pub(super) fn find(name: &str) -> Option<Self> {
        let c_name = CString::new(name).expect("a name without a zero");
        // SAFETY: the name is a C string.
        let function = unsafe { emulator_find(c_name.as_ptr()) };
        (!function.is_null()).then_some(Function(function))
    }

    /// Runs the kernel. An error contains the emulator's message.
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
        // SAFETY: the function came from `emulator_find`, all pointers point to the live arrays above, and
        // the caller guarantees the rest; the emulator checks the sizes.
        if unsafe { emulator_launch(&launch) } == 0 {
            return Ok(());
        }
        // SAFETY: the emulator terminates its message with a zero.
        let problem = unsafe { CStr::from_ptr(message.as_ptr()) };
        Err(bug(problem.to_string_lossy().into_owned()))
    }
}
