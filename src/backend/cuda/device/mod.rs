//! Where the kernels run: a GPU, or the emulator.
//!
//! A launch takes the same way on both: a kernel by its name, a grid, and pointers to the arguments. All functions are
//! looked up when the device opens, so that a missing kernel fails at the start and not at step 900. Launches and
//! copies take effect in the order of the calls, but for those of batches, which go on a stream of their own
//! (`streams.rs`), and those of a branch, which others may overtake (`on_branch`).

pub mod buffer;
mod emulator;
mod gpu;
pub mod graph;
pub mod kernel;
mod launch;
pub mod nvtx;
pub mod properties;
pub mod rows;
pub mod stopwatch;
pub mod streams;

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Result;
use buffer::{Buffer, Element, Memory, Slice, SliceMut};
use emulator::Emulator;
use gpu::Gpu;
pub(crate) use kernel::dimension;
use kernel::{Blocks, Kernel, KernelArguments, KernelInfo};
use launch::{Launch, MOST_PARAMETERS};
use streams::{Event, Pinned, Stream};

/// A device on which kernels run.
pub struct Device {
    kind: Kind,
    calls: Arc<Calls>,
    /// Whether launches are being recorded (`graph.rs`).
    pub(crate) capturing: AtomicBool,
}

/// How often a device was asked for what a step must do without.
#[derive(Debug, Default)]
pub struct Calls {
    /// Buffers and page-locked arrays allocated.
    pub allocations: AtomicU64,
    /// Values read back, for which the host waits.
    pub downloads: AtomicU64,
    /// Waits of the host for an event, which is over already unless the host is a step ahead.
    pub host_waits: AtomicU64,
}

pub(crate) enum Kind {
    Gpu(Gpu),
    Emulated(Emulator),
}

/// An argument of a kernel, with the width of its parameter.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// A pointer.
    Address(u64),
    /// `int`.
    Int(i32),
    /// `long long`.
    Long(i64),
    /// `float`.
    Float(f32),
    /// `double`.
    Double(f64),
}

/// The arguments of a launch, in the order of the kernel's parameters; a slice of them. Not on the heap: a step launches
/// some hundred kernels.
pub(crate) struct Arguments {
    list: [Argument; MOST_PARAMETERS],
    count: usize,
}

impl Default for Arguments {
    fn default() -> Self {
        Arguments { list: [Argument::Int(0); MOST_PARAMETERS], count: 0 }
    }
}

impl Arguments {
    pub(crate) fn add(mut self, argument: impl Into<Argument>) -> Self {
        self.list[self.count] = argument.into();
        self.count += 1;
        self
    }
}

impl Deref for Arguments {
    type Target = [Argument];

    fn deref(&self) -> &[Argument] {
        &self.list[..self.count]
    }
}

/// How many blocks, and threads in each.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Blocks by dimension.
    pub blocks: [u32; 3],
    /// Threads by dimension.
    pub threads: [u32; 3],
}

impl Grid {
    /// `blocks` blocks of `threads` threads, in one dimension.
    pub fn rows(blocks: usize, threads: u32) -> Self {
        Grid { blocks: [dimension(blocks), 1, 1], threads: [threads, 1, 1] }
    }

    /// At least `count` threads, in blocks of `threads`.
    pub fn cover(count: usize, threads: u32) -> Self {
        Grid::rows(count.div_ceil(threads as usize), threads)
    }
}

impl Device {
    /// The GPU with this index.
    pub fn gpu(index: usize) -> Result<Self> {
        Ok(Device {
            kind: Kind::Gpu(Gpu::open(index)?),
            calls: Arc::default(),
            capturing: AtomicBool::new(false),
        })
    }

    /// The emulator; a `seed` shuffles the order of blocks and of threads between barriers, which must change nothing.
    pub fn emulated(seed: Option<u64>) -> Result<Self> {
        Ok(Device {
            kind: Kind::Emulated(Emulator::open(seed)?),
            calls: Arc::default(),
            capturing: AtomicBool::new(false),
        })
    }

    /// Counts on while the device is used.
    pub fn calls(&self) -> Arc<Calls> {
        self.calls.clone()
    }

    /// A buffer of `len` zeros.
    pub fn allocate<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        let mut buffer = self.allocate_unwritten(len)?;
        self.zero(buffer.slice_mut(0..len))?;
        Ok(buffer)
    }

    /// A buffer that a kernel must write before another reads it; on the emulator it holds NaN.
    pub fn allocate_unwritten<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        self.assert_not_capturing("memory");
        self.calls.allocations.fetch_add(1, Ordering::Relaxed);
        match &self.kind {
            Kind::Gpu(gpu) => gpu.allocate(len),
            Kind::Emulated(_) => Ok(Buffer::on_host(len)),
        }
    }

    /// Grows `buffer` to at least `len` values, whatever they are. Within a step buffers have been planned, and this does
    /// nothing.
    pub fn reserve<T: Element>(&self, buffer: &mut Buffer<T>, len: usize) -> Result<()> {
        if buffer.len() < len {
            *buffer = self.allocate_unwritten(len)?;
        }
        Ok(())
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Zeros.
    pub fn zero<T: Element>(&self, slice: SliceMut<'_, T>) -> Result<()> {
        if slice.is_empty() {
            return Ok(());
        }
        match &self.kind {
            Kind::Gpu(gpu) => gpu.zero(slice.address(), slice.len() * size_of::<T>()),
            // SAFETY: the address and length are those of a live buffer's part, borrowed mutably.
            Kind::Emulated(emulator) => unsafe {
                emulator.zero(slice.address(), slice.len() * size_of::<T>())
            },
        }
    }

    /// Copies `values` to the start of `slice`.
    pub fn upload<T: Element>(&self, values: &[T], mut slice: SliceMut<'_, T>) -> Result<()> {
        assert!(values.len() <= slice.len(), "{} values into {}", values.len(), slice.len());
        self.assert_not_capturing("an upload");
        if values.is_empty() {
            return Ok(());
        }
        match &self.kind {
            Kind::Gpu(gpu) => gpu.upload(values, slice.address()),
            Kind::Emulated(_) => {
                slice.on_host()[..values.len()].copy_from_slice(values);
                Ok(())
            }
        }
    }

    /// Copies `from` to the start of `to`.
    pub fn copy_on_device<T: Element>(&self, from: Slice<'_, T>, mut to: SliceMut<'_, T>) -> Result<()> {
        assert!(from.len() <= to.len(), "{} values into {}", from.len(), to.len());
        self.assert_not_capturing("a copy");
        match &self.kind {
            Kind::Gpu(gpu) => gpu.copy_on_device(from.address(), to.address(), from.len() * size_of::<T>()),
            Kind::Emulated(_) => {
                to.on_host()[..from.len()].copy_from_slice(from.on_host());
                Ok(())
            }
        }
    }

    /// Copies `buffer[range]` to the host, waiting for the launches before.
    pub fn download<T: Element>(&self, buffer: &Buffer<T>, range: Range<usize>) -> Result<Vec<T>> {
        let slice = buffer.slice(range);
        if slice.is_empty() {
            return Ok(Vec::new());
        }
        self.assert_not_capturing("a download");
        self.calls.downloads.fetch_add(1, Ordering::Relaxed);
        match (&self.kind, &buffer.memory) {
            (Kind::Gpu(gpu), Memory::Gpu(_)) => gpu.download(slice.address(), slice.len()),
            (Kind::Emulated(emulator), Memory::Host(_)) => {
                emulator.finish();
                Ok(slice.on_host().to_vec())
            }
            _ => panic!("a buffer of another device"),
        }
    }

    /// Runs `kernel` after what was called before.
    ///
    /// # Safety
    /// `A` must be the kernel's argument struct in its source; what its pointers point to must be as long as the kernel
    /// expects; no other reference may lead to what the kernel writes.
    pub(crate) unsafe fn launch<A: KernelArguments>(
        &self,
        kernel: &Kernel<A>,
        blocks: Blocks,
        arguments: &A,
    ) -> Result<()> {
        let parameters = [bytemuck::bytes_of(arguments)];
        // SAFETY: as the caller promises.
        unsafe {
            self.launch_bytes(Launch { kernel: kernel.info(), blocks: blocks.0, parameters: &parameters })
        }
    }

    /// # Safety
    /// As for [`Device::launch`].
    unsafe fn launch_bytes(&self, launch: Launch<'_>) -> Result<()> {
        match &self.kind {
            // SAFETY: as the caller promises.
            Kind::Gpu(gpu) => unsafe { gpu.launch(launch) },
            // SAFETY: as the caller promises; the emulator checks the sizes.
            Kind::Emulated(emulator) => unsafe { emulator.launch(launch) },
        }
    }

    /// Runs a kernel that takes its parameters one by one.
    ///
    /// # Safety
    /// The arguments must be those of the kernel in its source: their order, widths, and lengths of what pointers
    /// point to; and no other reference may lead to what it writes.
    pub(crate) unsafe fn launch_positional(
        &self,
        kernel: &'static str,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<()> {
        let mut parameters: [&[u8]; MOST_PARAMETERS] = [&[]; MOST_PARAMETERS];
        for (bytes, argument) in parameters.iter_mut().zip(arguments) {
            *bytes = match argument {
                Argument::Address(value) => bytemuck::bytes_of(value),
                Argument::Int(value) => bytemuck::bytes_of(value),
                Argument::Long(value) => bytemuck::bytes_of(value),
                Argument::Float(value) => bytemuck::bytes_of(value),
                Argument::Double(value) => bytemuck::bytes_of(value),
            };
        }
        let dynamic_shared_bytes = crate::backend::cuda::launchers::linear::dynamic_shared_bytes(kernel);
        let kernel =
            KernelInfo { name: kernel, threads: grid.threads, dynamic_shared_bytes, arguments: None };
        let parameters = &parameters[..arguments.len()];
        // SAFETY: as the caller promises.
        unsafe { self.launch_bytes(Launch { kernel, blocks: grid.blocks, parameters }) }
    }
}

impl Device {
    /// What `launches` launches goes on a branch: behind all that was called before, and beside what is called after, until
    /// [`Device::join_branch`].
    pub(crate) fn on_branch(&self, launches: impl FnOnce() -> Result<()>) -> Result<()> {
        match &self.kind {
            Kind::Gpu(gpu) => {
                gpu.take_branch()?;
                let launched = launches();
                gpu.leave_branch();
                launched
            }
            Kind::Emulated(emulator) => {
                emulator.take_branch(true);
                let launched = launches();
                emulator.take_branch(false);
                launched
            }
        }
    }

    /// What is called after this is behind the branch.
    pub(crate) fn join_branch(&self) -> Result<()> {
        match &self.kind {
            Kind::Gpu(gpu) => gpu.join_branch(),
            Kind::Emulated(emulator) => emulator.join_branch(),
        }
    }
}

impl Device {
    /// Page-locked memory for `len` numbers.
    pub(crate) fn pinned(&self, len: usize) -> Result<Pinned> {
        self.calls.allocations.fetch_add(1, Ordering::Relaxed);
        match &self.kind {
            Kind::Gpu(gpu) => gpu.pinned(len),
            Kind::Emulated(_) => Ok(Pinned::emulated(len)),
        }
    }

    /// An event that is yet to be recorded.
    pub(crate) fn event(&self) -> Result<Event> {
        match &self.kind {
            Kind::Gpu(gpu) => gpu.event(),
            Kind::Emulated(emulator) => Ok(emulator.event()),
        }
    }

    /// Puts `event` behind all that was called on `stream`.
    pub(crate) fn record(&self, event: &mut Event, stream: Stream) -> Result<()> {
        match (&self.kind, event) {
            (Kind::Gpu(gpu), Event::Gpu(event)) => gpu.record(event, stream),
            (Kind::Emulated(_), Event::Emulated { streams, mark }) => {
                *mark = streams.lock().record(stream);
                Ok(())
            }
            _ => panic!("an event of another device"),
        }
    }

    /// Launches after this wait for `event`; the host does not.
    pub(crate) fn wait(&self, event: &Event) -> Result<()> {
        match (&self.kind, event) {
            (Kind::Gpu(gpu), Event::Gpu(event)) => gpu.wait(event),
            (Kind::Emulated(_), Event::Emulated { streams, mark }) => {
                streams.lock().wait(*mark);
                Ok(())
            }
            _ => panic!("an event of another device"),
        }
    }

    /// The host waits for `event`.
    pub(crate) fn host_wait(&self, event: &Event) -> Result<()> {
        self.assert_not_capturing("a wait of the host");
        self.calls.host_waits.fetch_add(1, Ordering::Relaxed);
        event.synchronize().map_err(|error| match &self.kind {
            Kind::Gpu(gpu) => gpu.failed("wait for an event")(error),
            Kind::Emulated(_) => unreachable!("the emulator has no driver"),
        })
    }

    /// Copies the first `len` numbers on the copies' stream.
    ///
    /// # Safety
    /// Until the host has waited for the copy both sides must stay; until a stream has, nothing may write `from` or read
    /// `to`.
    pub(crate) unsafe fn copy(&self, from: &Pinned, len: usize, to: SliceMut<'_, i32>) -> Result<()> {
        assert!(len <= from.len() && len <= to.len(), "{len} numbers of {} into {}", from.len(), to.len());
        match &self.kind {
            // SAFETY: as the caller promises.
            Kind::Gpu(gpu) => unsafe { gpu.copy(from.address(), len, to.address()) },
            // SAFETY: as the caller promises.
            Kind::Emulated(emulator) => unsafe { emulator.copy(from.address(), len, to.address()) },
        }
    }
}

/// A kernel's functions by name, for either kind of device.
pub(crate) type Functions<F> = HashMap<&'static str, F>;

impl<T> From<Slice<'_, T>> for Argument {
    fn from(slice: Slice<'_, T>) -> Self {
        Argument::Address(slice.address())
    }
}

impl<T> From<&mut SliceMut<'_, T>> for Argument {
    fn from(slice: &mut SliceMut<'_, T>) -> Self {
        Argument::Address(slice.address())
    }
}

impl From<usize> for Argument {
    /// A size or index, as `int`.
    fn from(value: usize) -> Self {
        Argument::Int(i32::try_from(value).expect("sizes below 2^31"))
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Argument::Float(value)
    }
}

/// Panics unless the launcher was given `len` values under this name, as many as the kernel reads or writes.
#[track_caller]
pub(crate) fn check_len(name: &str, len: usize, wanted: usize) {
    assert!(len >= wanted, "{name}: {wanted} values are needed, the slice holds {len}");
}
