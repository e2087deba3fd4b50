//! Work that is recorded once and done again and again: a CUDA graph, and on the emulator a list.
//!
//! While a device captures, launches and zeros are recorded in the place of being done, with the grids and addresses that
//! they were called with. So what may differ from one time to the next must lie in the device's memory: numbers of rows
//! ([`super::rows`]), the step's number ([`crate::backend::cuda::launchers::adam::Steps`]). What a graph cannot hold (memory, copies from and to the
//! host, waits of the host) panics meanwhile.

use std::sync::atomic::Ordering;

use cudarc::driver::CudaGraph;

use crate::backend::cuda::device::launch::OwnedLaunch;
use crate::backend::cuda::device::{Device, Kind};
use crate::error::Result;

/// What was recorded.
pub struct Graph(pub(crate) Recorded);

pub(crate) enum Recorded {
    Gpu(CudaGraph),
    Emulated(Vec<Work>),
}

/// What the emulator records.
pub(crate) enum Work {
    Launch { launch: OwnedLaunch, on_branch: bool },
    JoinBranch,
    Zero { address: u64, bytes: usize },
}

impl Device {
    /// Begins to record, until [`Device::end_capture`].
    pub fn begin_capture(&self) -> Result<()> {
        assert!(!self.capturing.load(Ordering::Relaxed), "a capture within another");
        match self.kind() {
            Kind::Gpu(gpu) => gpu.begin_capture()?,
            Kind::Emulated(emulator) => emulator.begin_capture(),
        }
        self.capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// What was recorded since [`Device::begin_capture`].
    pub fn end_capture(&self) -> Result<Graph> {
        assert!(self.capturing.swap(false, Ordering::Relaxed), "the end of a capture that did not begin");
        Ok(Graph(match self.kind() {
            Kind::Gpu(gpu) => Recorded::Gpu(gpu.end_capture()?),
            Kind::Emulated(emulator) => Recorded::Emulated(emulator.end_capture()),
        }))
    }

    /// Does what was recorded, after what was called before.
    ///
    /// # Safety
    /// All memory that the recorded launches were given must be there still, and no reference may lead to what they write.
    pub unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        self.assert_not_capturing("a replay");
        match (self.kind(), &graph.0) {
            (Kind::Gpu(gpu), Recorded::Gpu(graph)) => gpu.replay(graph),
            // SAFETY: as the caller promises.
            (Kind::Emulated(emulator), Recorded::Emulated(work)) => unsafe { emulator.replay(work) },
            _ => panic!("a graph of another device"),
        }
    }

    /// Panics where this would be recorded.
    #[track_caller]
    pub(crate) fn assert_not_capturing(&self, what: &str) {
        assert!(!self.capturing.load(Ordering::Relaxed), "{what} while a graph is captured");
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffer::Buffer;
    use super::super::rows::Rows;
    use super::*;
    use crate::backend::cuda::launchers::embedding::{Lookup, Occurring, embedding_forward};

    /// A graph, and the buffers that it reads and writes.
    struct Captured {
        device: Device,
        graph: Graph,
        _types: Buffer<i32>,
        count: Buffer<i32>,
        table: Buffer<f32>,
        rows: Buffer<f32>,
    }

    /// A table's rows, looked up twice: zeros and a launch. None, said so, where the emulator cannot be built.
    fn captured(seed: Option<u64>) -> Option<Captured> {
        let device = match Device::emulated(seed) {
            Ok(device) => device,
            Err(error) => {
                println!("skipped: {error}");
                return None;
            }
        };
        let (mut types, mut count) = (device.allocate(3).unwrap(), device.allocate(1).unwrap());
        let (mut table, mut rows) = (device.allocate(4).unwrap(), device.allocate(6).unwrap());
        device.upload(&[2, 0, 3], types.slice_mut(0..3)).unwrap();
        device.upload(&[2], count.slice_mut(0..1)).unwrap();
        device.upload(&[0.5f32, 1.5, 2.5, 3.5], table.slice_mut(0..4)).unwrap();
        device.upload(&[7.0f32; 6], rows.slice_mut(0..6)).unwrap();
        device.begin_capture().unwrap();
        device.zero(rows.slice_mut(0..6)).unwrap();
        let of = Occurring { types: types.slice(0..3), rows: Rows { count: count.slice(0..1), bound: 3 } };
        let lookups = rows.slices_mut([0..3, 3..6]).map(|rows| Lookup { rows, table: table.slice(0..4), of });
        embedding_forward(&device, lookups, 1).unwrap();
        let graph = device.end_capture().unwrap();
        Some(Captured { device, graph, _types: types, count, table, rows })
    }

    #[test]
    fn what_is_recorded_is_done_when_it_is_replayed_with_what_lies_there_then() {
        let Some(Captured { device, graph, _types, mut count, mut table, rows }) = captured(None) else {
            return;
        };
        assert_eq!(device.download(&rows, 0..6).unwrap(), [7.0; 6], "nothing was done yet");
        // SAFETY: the buffers are those that the launch was given.
        unsafe { device.replay(&graph) }.unwrap();
        assert_eq!(device.download(&rows, 0..6).unwrap(), [2.5, 0.5, 0.0, 2.5, 0.5, 0.0]);
        device.upload(&[3], count.slice_mut(0..1)).unwrap();
        device.upload(&[4.5f32], table.slice_mut(2..3)).unwrap();
        // SAFETY: likewise.
        unsafe { device.replay(&graph) }.unwrap();
        assert_eq!(device.download(&rows, 0..6).unwrap(), [4.5, 0.5, 3.5, 4.5, 0.5, 3.5]);
    }

    /// In order a branch is done where it is called, with a seed when it is joined: what comes in between must not care.
    #[test]
    fn a_branch_is_done_when_it_is_joined() {
        for (seed, before) in [(None, [2.5, 0.5]), (Some(1), [7.0; 2])] {
            let Some(Captured { device, graph: _, _types: types, count, table, mut rows }) = captured(seed)
            else {
                return;
            };
            for is_captured in [false, true] {
                device.upload(&[7.0f32; 6], rows.slice_mut(0..6)).unwrap();
                if is_captured {
                    device.begin_capture().unwrap();
                }
                let of =
                    Occurring { types: types.slice(0..3), rows: Rows { count: count.slice(0..1), bound: 3 } };
                let lookups = rows.slices_mut([0..3, 3..6]);
                let lookups = lookups.map(|rows| Lookup { rows, table: table.slice(0..4), of });
                device.on_branch(|| embedding_forward(&device, lookups, 1)).unwrap();
                if !is_captured {
                    assert_eq!(rows.slice(0..2).on_host(), before);
                }
                device.join_branch().unwrap();
                if is_captured {
                    assert_eq!(rows.slice(0..2).on_host(), [7.0; 2]);
                    let graph = device.end_capture().unwrap();
                    // SAFETY: the buffers are those that the launch was given.
                    unsafe { device.replay(&graph) }.unwrap();
                }
                assert_eq!(rows.slice(0..2).on_host(), [2.5, 0.5]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "memory while a graph is captured")]
    fn a_capture_takes_no_memory() {
        let Some(Captured { device, .. }) = captured(None) else {
            panic!("memory while a graph is captured: skipped")
        };
        device.begin_capture().unwrap();
        let _ = device.allocate::<f32>(1);
    }

    #[test]
    #[should_panic(expected = "a download while a graph is captured")]
    fn a_capture_reads_nothing_back() {
        let Some(Captured { device, table, .. }) = captured(None) else {
            panic!("a download while a graph is captured: skipped")
        };
        device.begin_capture().unwrap();
        let _ = device.download(&table, 0..4);
    }
}
