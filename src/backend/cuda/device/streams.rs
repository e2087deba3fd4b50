//! Two streams, and events between them: kernels run on one, batches are copied to the device on the other.
//!
//! Both take work and go on without the host; what one needs of the other it waits for by an event. The emulator runs
//! kernels at once, but keeps to what a GPU promises and to no more: a copy is performed as late as possible, when
//! somebody waits for it, reads its source only then, and until then its destination holds nothing of use; and a
//! launch counts as running until the host has waited for it, so that a copy may not overwrite what it reads.

use std::collections::{HashMap, VecDeque};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaEvent, DriverError, PinnedHostSlice};

use super::buffer::HostMemory;
use super::launch::Launch;

/// Where an event is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Kernels and everything else.
    Compute,
    /// Copies of batches.
    Copies,
}

/// A place in a stream: all that was called before it was recorded.
pub(crate) enum Event {
    Gpu(CudaEvent),
    Emulated { streams: SharedStreams, mark: Mark },
}

impl Event {
    /// The host waits; without having been recorded an event is over.
    pub(crate) fn synchronize(&self) -> Result<(), DriverError> {
        match self {
            Event::Gpu(event) => event.synchronize(),
            Event::Emulated { streams, mark } => {
                streams.lock().host_wait(*mark);
                Ok(())
            }
        }
    }
}

/// Memory of the host that a GPU reads by itself, since its pages stay where they are.
pub(crate) struct Pinned {
    address: NonNull<i32>,
    len: usize,
    /// What keeps it.
    _memory: PinnedMemory,
}

enum PinnedMemory {
    /// The slice frees it.
    Gpu(#[allow(dead_code)] PinnedHostSlice<i32>),
    Emulated(#[allow(dead_code)] HostMemory<i32>),
}

// SAFETY: it owns its memory, as a box does.
unsafe impl Send for Pinned {}
// SAFETY: likewise.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(crate) fn on_gpu(slice: PinnedHostSlice<i32>) -> Result<Self, DriverError> {
        let address = NonNull::new(slice.as_ptr()?.cast_mut()).expect("memory that was allocated");
        Ok(Pinned { address, len: slice.len(), _memory: PinnedMemory::Gpu(slice) })
    }

    pub(crate) fn emulated(len: usize) -> Self {
        let memory = HostMemory::unwritten(len);
        Pinned { address: memory.address(), len, _memory: PinnedMemory::Emulated(memory) }
    }

    /// To be written when no copy reads it.
    pub(crate) fn values(&mut self) -> &mut [i32] {
        // SAFETY: the memory is of this length and lives as long as self, which is borrowed mutably; a GPU may read it
        // meanwhile only if the caller has not waited.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len) }
    }

    pub(crate) fn address(&self) -> *const i32 {
        self.address.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// The emulator's streams, which its events share.
#[derive(Clone, Default)]
pub(crate) struct SharedStreams(Arc<Mutex<EmulatedStreams>>);

impl SharedStreams {
    pub(crate) fn lock(&self) -> MutexGuard<'_, EmulatedStreams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many launches, or copies, were called before.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    Launches(u64),
    Copies(u64),
}

#[derive(Default)]
pub(crate) struct EmulatedStreams {
    launches: u64,
    /// Of these the host knows that they are over.
    finished_launches: u64,
    copies: u64,
    /// Not performed yet: the last of `copies`.
    waiting: VecDeque<Copy>,
    /// By the addresses where copies began to write.
    destinations: HashMap<u64, Destination>,
}

struct Copy {
    source: *const i32,
    len: usize,
    destination: u64,
}

// SAFETY: who copies promises that source and destination stay until the copy is waited for (`Device::copy`).
unsafe impl Send for Copy {}

struct Destination {
    bytes: u64,
    /// The last launch that was given an address inside.
    last_launch: u64,
}

impl EmulatedStreams {
    pub(crate) fn record(&self, stream: Stream) -> Mark {
        match stream {
            Stream::Compute => Mark::Launches(self.launches),
            Stream::Copies => Mark::Copies(self.copies),
        }
    }

    pub(crate) fn launch(&mut self, launch: &Launch<'_>) {
        self.launches += 1;
        launch.for_each_address(|address| {
            for (&start, destination) in &mut self.destinations {
                if (start..start + destination.bytes).contains(&address) {
                    destination.last_launch = self.launches;
                }
            }
        });
    }

    /// Says so where a launch may still be reading the destination.
    ///
    /// # Safety
    /// Source and destination must be of `len` values and stay until the copy is waited for.
    pub(crate) unsafe fn copy(
        &mut self,
        source: *const i32,
        len: usize,
        destination: u64,
    ) -> Result<(), String> {
        let before = self.destinations.get(&destination).map_or(0, |destination| destination.last_launch);
        if before > self.finished_launches {
            return Err("a copy overwrites what a launch may still be reading".into());
        }
        let bytes = (len * size_of::<i32>()) as u64;
        self.destinations.insert(destination, Destination { bytes, last_launch: before });
        // SAFETY: as the caller promises.
        unsafe { std::ptr::write_bytes(destination as *mut i32, 0xff, len) };
        self.copies += 1;
        self.waiting.push_back(Copy { source, len, destination });
        Ok(())
    }

    /// Performs the copies before `mark`.
    pub(crate) fn wait(&mut self, mark: Mark) {
        let Mark::Copies(until) = mark else { return };
        while self.copies - (self.waiting.len() as u64) < until
            && let Some(Copy { source, len, destination }) = self.waiting.pop_front()
        {
            // SAFETY: as the caller of `copy` promised.
            unsafe { std::ptr::copy_nonoverlapping(source, destination as *mut i32, len) };
        }
    }

    pub(crate) fn host_wait(&mut self, mark: Mark) {
        self.wait(mark);
        if let Mark::Launches(launches) = mark {
            self.finished_launches = self.finished_launches.max(launches);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffer::Buffer;
    use super::super::rows::Rows;
    use super::*;
    use crate::backend::cuda::device::Device;
    use crate::backend::cuda::launchers::embedding::{Lookup, Occurring, embedding_forward};

    /// Types in page-locked memory on their way to the device, and a table that a kernel looks them up in, twice.
    struct Case {
        device: Device,
        host: Pinned,
        types: Buffer<i32>,
        count: Buffer<i32>,
        table: Buffer<f32>,
        rows: Buffer<f32>,
        copied: Event,
        read: Event,
    }

    const TYPES: [i32; 3] = [2, 0, 1];

    impl Case {
        /// None, said so, where the emulator cannot be built.
        fn new() -> Option<Self> {
            let device = match Device::emulated(None) {
                Ok(device) => device,
                Err(error) => {
                    println!("skipped: {error}");
                    return None;
                }
            };
            let mut host = device.pinned(3).unwrap();
            host.values().copy_from_slice(&TYPES);
            let mut count = device.allocate(1).unwrap();
            device.upload(&[3], count.slice_mut(0..1)).unwrap();
            let mut table = device.allocate(3).unwrap();
            device.upload(&[0.5f32, 1.5, 2.5], table.slice_mut(0..3)).unwrap();
            Some(Case {
                host,
                types: device.allocate(3).unwrap(),
                count,
                rows: device.allocate(6).unwrap(),
                table,
                copied: device.event().unwrap(),
                read: device.event().unwrap(),
                device,
            })
        }

        fn copy(&mut self) -> crate::Result<()> {
            // SAFETY: both live as long as the case, which waits for nothing after its end.
            unsafe { self.device.copy(&self.host, 3, self.types.slice_mut(0..3)) }?;
            self.device.record(&mut self.copied, Stream::Copies)
        }

        fn types(&self) -> Vec<i32> {
            self.types.slice(0..3).on_host().to_vec()
        }

        fn launch(&mut self) {
            let Case { device, types, count, table, rows, .. } = self;
            look_up(device, types, count, table, rows);
        }
    }

    fn look_up(
        device: &Device,
        types: &Buffer<i32>,
        count: &Buffer<i32>,
        table: &Buffer<f32>,
        rows: &mut Buffer<f32>,
    ) {
        let of = Occurring { types: types.slice(0..3), rows: Rows { count: count.slice(0..1), bound: 3 } };
        let lookups = rows.slices_mut([0..3, 3..6]).map(|rows| Lookup { rows, table: table.slice(0..3), of });
        embedding_forward(device, lookups, 1).unwrap();
    }

    #[test]
    fn a_copy_is_there_once_it_is_waited_for() {
        let Some(mut case) = Case::new() else { return };
        case.copy().unwrap();
        assert_eq!(case.types(), [-1; 3]);
        // Another event says nothing of it.
        case.device.record(&mut case.read, Stream::Compute).unwrap();
        case.device.wait(&case.read).unwrap();
        assert_eq!(case.types(), [-1; 3]);
        case.device.wait(&case.copied).unwrap();
        assert_eq!(case.types(), TYPES);
        case.launch();
        let rows = case.device.download(&case.rows, 0..6).unwrap();
        assert_eq!(rows, [2.5, 0.5, 1.5, 2.5, 0.5, 1.5]);
    }

    #[test]
    fn what_is_staged_too_early_is_lost() {
        let Some(mut case) = Case::new() else { return };
        case.copy().unwrap();
        case.host.values().fill(7);
        case.device.wait(&case.copied).unwrap();
        assert_eq!(case.types(), [7; 3]);
    }

    #[test]
    fn a_copy_must_wait_for_what_reads_its_destination() {
        let Some(mut case) = Case::new() else { return };
        case.copy().unwrap();
        case.device.wait(&case.copied).unwrap();
        case.copy().unwrap();
        case.device.wait(&case.copied).unwrap();
        case.device.record(&mut case.read, Stream::Compute).unwrap();
        case.launch();
        case.device.host_wait(&case.read).unwrap();
        // That was recorded before the launch.
        let error = case.copy().unwrap_err().to_string();
        assert!(error.contains("may still be reading"), "{error}");
        case.device.record(&mut case.read, Stream::Compute).unwrap();
        case.device.host_wait(&case.read).unwrap();
        case.copy().unwrap();
        // What reads something else is no matter.
        case.device.wait(&case.copied).unwrap();
        let other = case.device.allocate::<i32>(3).unwrap();
        look_up(&case.device, &other, &case.count, &case.table, &mut case.rows);
        case.copy().unwrap();
    }
}
