//! Device memory and page-locked memory of the emulator; both lie in host memory.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

use super::Executor;
use crate::backend::cuda::device::memory::Memory;

/// Alignment of a kernel's widest load.
const ALIGNMENT: usize = 16;

/// Memory of exactly the requested size, so that AddressSanitizer detects accesses beyond its end.
pub(in crate::backend::cuda::device) struct HostMemory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory, as a Box does.
unsafe impl Send for HostMemory {}
// SAFETY: a shared reference only exposes the address.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Allocates memory with all bits set: NaN as a float, -1 as an index.
    pub(in crate::backend::cuda::device) fn unwritten(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, ALIGNMENT).expect("a size below 2^63");
        if bytes == 0 {
            return HostMemory { start: NonNull::<u128>::dangling().cast(), layout };
        }
        // SAFETY: the layout has a size above 0.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        // SAFETY: the memory was just allocated with this size.
        unsafe { start.as_ptr().write_bytes(0xff, bytes) };
        HostMemory { start, layout }
    }
}

impl Memory for HostMemory {
    fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: the memory came from `alloc` with this layout, and is freed once.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

/// Device memory, of which the executor takes note.
pub(super) struct DeviceMemory {
    memory: HostMemory,
    executor: Arc<dyn Executor>,
}

impl DeviceMemory {
    pub(super) fn unwritten(bytes: usize, executor: Arc<dyn Executor>) -> Self {
        let memory = HostMemory::unwritten(bytes);
        executor.allocated(memory.address(), bytes);
        DeviceMemory { memory, executor }
    }
}

impl Memory for DeviceMemory {
    fn address(&self) -> u64 {
        self.memory.address()
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        self.executor.freed(self.memory.address());
    }
}
