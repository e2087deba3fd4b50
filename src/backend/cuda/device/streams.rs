//! Two streams, and events between them: kernels run on one, batches are copied to the device on the other.
//!
//! Both streams accept work without making the host wait. One waits for the other only through an event.

use std::sync::atomic::Ordering;

use super::Device;
use super::buffer::SliceMut;
use super::driver::EventHandle;
pub(crate) use super::driver::Stream;
use super::memory::Memory;
use crate::error::Result;

/// A point in a stream, after all work enqueued before it was recorded.
pub(crate) struct Event(Box<dyn EventHandle>);

impl Event {
    /// Makes the host wait, like [`Device::host_wait`], without counting the wait on a device.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.0.host_wait()
    }
}

/// Page-locked host memory, which a GPU reads without involving the host.
pub(crate) struct Pinned {
    memory: Box<dyn Memory>,
    len: usize,
}

impl Pinned {
    /// Values, to be written only while no copy reads them.
    pub(crate) fn values(&mut self) -> &mut [i32] {
        // SAFETY: the memory has this length, is aligned, and lives as long as self, which is borrowed
        // mutably. A copy may read it meanwhile only if the caller of `Device::copy` violated its contract.
        unsafe { std::slice::from_raw_parts_mut(self.memory.address() as *mut i32, self.len) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Device {
    /// Allocates page-locked memory for `len` numbers.
    pub(crate) fn pinned(&self, len: usize) -> Result<Pinned> {
        self.calls.allocations.fetch_add(1, Ordering::Relaxed);
        let memory = self.driver.allocate_page_locked(len * size_of::<i32>())?;
        Ok(Pinned { memory, len })
    }

    /// Creates an event that is not recorded yet.
    pub(crate) fn event(&self) -> Result<Event> {
        self.driver.clone().event().map(Event)
    }

    /// Records `event` after all earlier work on `stream`.
    pub(crate) fn record(&self, event: &mut Event, stream: Stream) -> Result<()> {
        event.0.record(stream)
    }

    /// Makes the following launches wait for `event`; the host does not wait.
    pub(crate) fn wait(&self, event: &Event) -> Result<()> {
        event.0.wait()
    }

    /// Makes the host wait for `event`.
    pub(crate) fn host_wait(&self, event: &Event) -> Result<()> {
        self.assert_not_capturing("a wait of the host");
        self.calls.host_waits.fetch_add(1, Ordering::Relaxed);
        event.synchronize()
    }

    /// Copies the first `len` numbers on the copy stream.
    ///
    /// # Safety
    /// Both sides must live until the host has waited for the copy. Until a stream has waited for it, nothing may write
    /// `from` or read `to`.
    pub(crate) unsafe fn copy(&self, from: &Pinned, len: usize, to: SliceMut<'_, i32>) -> Result<()> {
        assert!(len <= from.len() && len <= to.len(), "{len} numbers of {} into {}", from.len(), to.len());
        // SAFETY: the lengths were checked; the caller guarantees the rest.
        unsafe { self.driver.copy(from.memory.address(), to.address(), len * size_of::<i32>()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffer::Buffer;
    use super::super::rows::Rows;
    use super::*;
    use crate::backend::cuda::launchers;
    use crate::backend::cuda::launchers::embedding::{Lookup, Occurring, embedding_forward};

    /// Types in page-locked memory that are copied to the device, and a table in which a kernel looks them
    /// up, twice.
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
        /// Reports a skip and returns `None` if the emulator is not built.
        fn new() -> Option<Self> {
            let device = match launchers::emulated(None) {
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
            self.device.download(&self.types, 0..3).unwrap()
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
        // An event on another stream does not complete the copy.
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
        // The event was recorded before the launch.
        let error = case.copy().unwrap_err().to_string();
        assert!(error.contains("may still be reading"), "{error}");
        case.device.record(&mut case.read, Stream::Compute).unwrap();
        case.device.host_wait(&case.read).unwrap();
        case.copy().unwrap();
        // A launch that reads another buffer does not matter.
        case.device.wait(&case.copied).unwrap();
        let other = case.device.allocate::<i32>(3).unwrap();
        look_up(&case.device, &other, &case.count, &case.table, &mut case.rows);
        case.copy().unwrap();
    }
}
