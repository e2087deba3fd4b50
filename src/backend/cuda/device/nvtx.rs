//! NVTX: named ranges on the timeline of Nsight Systems and other tools.
//!
//! A tool that starts a program names its library in `NVTX_INJECTION64_PATH`. As defined by NVTX 3, the
//! program loads that library and calls its `InitializeInjectionNvtx2`, which requests tables of function
//! pointers and fills them in. NVTX itself implements this in a C header. This module contains the part
//! needed for two functions, so neither a C compiler nor CUDA is required. Without a tool a range costs one
//! branch.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use libloading::Library;

use crate::backend::range::Range;

/// Environment variable with the path of the tool's library.
#[cfg(target_pointer_width = "64")]
const INJECTION_PATH: &str = "NVTX_INJECTION64_PATH";
#[cfg(not(target_pointer_width = "64"))]
const INJECTION_PATH: &str = "NVTX_INJECTION32_PATH";

/// Begins a range if a tool is attached.
pub(crate) fn range(name: fmt::Arguments<'_>) -> Range {
    static TOOL: OnceLock<Option<Tool>> = OnceLock::new();
    let Some(tool) = TOOL.get_or_init(load) else {
        return Range::none();
    };
    let name = CString::new(name.to_string()).expect("a name without a zero");
    // SAFETY: this is the tool's nvtxRangePushA; the name is a C string, which it copies.
    unsafe { (tool.push)(name.as_ptr()) };
    Range::ended_by(|| {
        if let Some(Some(tool)) = TOOL.get() {
            // SAFETY: this is the tool's nvtxRangePop.
            unsafe { (tool.pop)() };
        }
    })
}

/// `int nvtxRangePushA(const char *)`.
type Push = unsafe extern "C" fn(*const c_char) -> c_int;
/// `int nvtxRangePop()`.
type Pop = unsafe extern "C" fn() -> c_int;
/// `const void *(uint32_t id)`: returns one of our tables to the tool.
type GetTable = unsafe extern "C" fn(u32) -> *const c_void;
/// `int InitializeInjectionNvtx2(GetTable)`: returns 0 on failure.
type Initialize = unsafe extern "C" fn(GetTable) -> c_int;

/// Functions of a tool.
#[derive(Clone, Copy)]
struct Tool {
    push: Push,
    pop: Pop,
}

/// Loads the tool that the environment names; `None` if that fails.
fn load() -> Option<Tool> {
    let path = std::env::var_os(INJECTION_PATH).filter(|path| !path.is_empty())?;
    // SAFETY: whoever sets the variable asks for this library's code to be run.
    let tool = unsafe {
        Library::new(&path).and_then(|library| {
            let initialize = *library.get::<Initialize>(b"InitializeInjectionNvtx2")?;
            // The library stays loaded: its functions are called until the end of the program.
            std::mem::forget(library);
            Ok(attach(initialize))
        })
    };
    match tool {
        Ok(Some(tool)) => Some(tool),
        Ok(None) => {
            tracing::warn!("{}: does not accept NVTX ranges", path.display());
            None
        }
        Err(error) => {
            tracing::warn!("{}: {error}; no NVTX ranges", path.display());
            None
        }
    }
}

/// Lets a tool fill in its functions.
///
/// # Safety
/// `initialize` must be an `InitializeInjectionNvtx2`.
unsafe fn attach(initialize: Initialize) -> Option<Tool> {
    // SAFETY: guaranteed by the caller.
    if unsafe { initialize(get_table) } == 0 {
        return None;
    }
    let [push, pop] = [RANGE_PUSH, RANGE_POP].map(|id| SLOTS[CORE - 1][id - 1].load(Ordering::Acquire));
    if push.is_null() || pop.is_null() {
        return None;
    }
    // SAFETY: the tool stored functions of these types there.
    unsafe {
        Some(Tool {
            push: std::mem::transmute::<*mut c_void, Push>(push),
            pop: std::mem::transmute::<*mut c_void, Pop>(pop),
        })
    }
}

// ---- the tables ----------------------------------------------------------------------------------------------------

/// Number of functions per module, numbered from 1. The modules: core, CUDA, OpenCL, CUDA runtime, core with
/// domains, synchronisation.
const FUNCTIONS: [usize; 6] = [15, 8, 14, 6, 15, 6];
const MOST_FUNCTIONS: usize = 15;
const CORE: usize = 1;
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;

/// Slots for a tool's functions, by module and number minus one. Unused functions have slots too, because a
/// tool may fill them in.
static SLOTS: [[AtomicPtr<c_void>; MOST_FUNCTIONS]; 6] =
    [const { [const { AtomicPtr::new(ptr::null_mut()) }; MOST_FUNCTIONS] }; 6];

/// `[null, &slot of function 1, ..., null]` for each module.
struct Tables([[*const AtomicPtr<c_void>; MOST_FUNCTIONS + 2]; 6]);

// SAFETY: the pointers refer to statics.
unsafe impl Send for Tables {}
// SAFETY: the pointers refer to statics, whose values are atomic.
unsafe impl Sync for Tables {}

static TABLES: OnceLock<Tables> = OnceLock::new();

fn tables() -> &'static Tables {
    TABLES.get_or_init(|| {
        let mut tables = Tables([[ptr::null(); MOST_FUNCTIONS + 2]; 6]);
        for ((table, slots), count) in tables.0.iter_mut().zip(&SLOTS).zip(FUNCTIONS) {
            for (entry, slot) in table[1..=count].iter_mut().zip(slots) {
                *entry = slot;
            }
        }
        tables
    })
}

/// Counterpart of the C struct `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    struct_size: usize,
    get_module_function_table: unsafe extern "C" fn(c_int, *mut *const c_void, *mut c_uint) -> c_int,
}

/// Counterpart of the C struct `NvtxExportTableVersionInfo`.
#[repr(C)]
struct VersionInfo {
    struct_size: usize,
    version: u32,
    reserved: u32,
    set_injection_version: unsafe extern "C" fn(u32),
}

unsafe extern "C" fn get_table(id: u32) -> *const c_void {
    static CALLBACKS: Callbacks =
        Callbacks { struct_size: size_of::<Callbacks>(), get_module_function_table };
    static VERSION: VersionInfo = VersionInfo {
        struct_size: size_of::<VersionInfo>(),
        version: 3,
        reserved: 0,
        set_injection_version: ignore_version,
    };
    match id {
        1 => ptr::from_ref(&CALLBACKS).cast(),
        3 => ptr::from_ref(&VERSION).cast(),
        _ => ptr::null(),
    }
}

/// Returns a module's table and its length without the final null; 0 if there is no such module.
unsafe extern "C" fn get_module_function_table(
    module: c_int,
    table: *mut *const c_void,
    size: *mut c_uint,
) -> c_int {
    let Some(index) = usize::try_from(module).ok().and_then(|module| module.checked_sub(1)) else {
        return 0;
    };
    let Some(count) = FUNCTIONS.get(index) else {
        return 0;
    };
    // SAFETY: a tool passes pointers to its variables, or null for values that it does not want.
    unsafe {
        if !table.is_null() {
            table.write(tables().0[index].as_ptr().cast());
        }
        if !size.is_null() {
            size.write(*count as c_uint + 1);
        }
    }
    1
}

unsafe extern "C" fn ignore_version(_: u32) {}
