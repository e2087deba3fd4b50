//! Emulator: kernels compiled as C++ (`kernels/emulator/emulator.h`), called by its C interface.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, PoisonError};

use super::host::{Executor, bug};
use super::kernel::{KernelFile, KernelInfo};
use super::launch::Launch;
use super::properties::Properties;
use crate::error::{Error, Result};

/// Runs the emulated kernels.
pub(super) struct Emulator {
    functions: HashMap<&'static str, Function>,
    /// Seed for the order of blocks and threads; 0 for ascending order.
    seed: u64,
}

impl Emulator {
    /// Looks up all kernels of `files`. A seed shuffles the order of blocks and threads.
    pub(super) fn open(seed: Option<u64>, files: &[KernelFile]) -> Result<Self> {
        if !cfg!(emulator) {
            let (problem, remedy) = if cfg!(installed) {
                (
                    "this program was built for installation, without the emulator",
                    "build it with `cargo build --profile profiling`",
                )
            } else {
                ("this build found no C++ compiler for its kernels", "install g++ or clang++ and build again")
            };
            return Err(Error::Device {
                device: NAME.into(),
                problem: problem.into(),
                remedy: format!("{remedy}, or use --device cpu"),
            });
        }
        let find = |&KernelInfo { name, .. }: &KernelInfo| {
            let function = Function::find(name);
            (name, function.unwrap_or_else(|| panic!("the kernel {name} is in no table of the emulator's")))
        };
        Ok(Emulator {
            functions: files.iter().flat_map(|file| file.kernels).map(find).collect(),
            seed: seed.map_or(0, |seed| seed.max(1)),
        })
    }
}

/// Name of the device.
const NAME: &str = "emulated";

impl Executor for Emulator {
    fn device(&self) -> &'static str {
        NAME
    }

    fn properties(&self) -> Properties {
        Properties::of_cpu("emulator")
    }

    unsafe fn launch(&self, launch: Launch<'_>, _on_branch: bool) -> Result<()> {
        // SAFETY: guaranteed by the caller.
        unsafe { self.functions[launch.kernel.name].run(launch, self.seed) }
    }
}

/// Runs a kernel on memory that is in no [`Buffer`](super::buffer::Buffer). `arguments` are the bytes of its argument struct,
/// aligned to 8.
///
/// # Safety
/// The addresses in the arguments point to memory that holds what the kernel reads and writes by its other arguments.
pub unsafe fn launch_on_addresses(kernel: KernelInfo, blocks: [u32; 3], arguments: &[u8]) -> Result<()> {
    let function = Function::find(kernel.name).expect("a kernel of the emulator's tables");
    // SAFETY: guaranteed by the caller.
    unsafe { function.run(Launch { kernel, blocks, arguments }, 0) }
}

/// Kernel in one of the emulator's tables, which have static lifetime.
#[derive(Clone, Copy)]
struct Function(*const c_void);

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

/// Stubs for builds without the emulator. There are no tables then, and opening it fails before any call.
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
    fn find(name: &str) -> Option<Self> {
        let c_name = CString::new(name).expect("a name without a zero");
        // SAFETY: the name is a C string.
        let function = unsafe { emulator_find(c_name.as_ptr()) };
        (!function.is_null()).then_some(Function(function))
    }

    /// Runs the kernel. An error contains the emulator's message.
    ///
    /// # Safety
    /// As for [`Executor::launch`].
    unsafe fn run(self, launch: Launch<'_>, seed: u64) -> Result<()> {
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
        Err(bug(NAME, problem.to_string_lossy().into_owned()))
    }
}
