//! Work that is captured once and replayed many times: a CUDA graph, or a list on the emulator.
//!
//! During a capture, launches and zero fills are recorded instead of run, with the grids and addresses of the
//! call. Values that differ between replays must therefore lie in device memory: row counts ([`super::rows`])
//! and the step number. Operations that a graph cannot hold panic during a capture: allocations, copies from
//! and to the host, and waits of the host.

use std::sync::atomic::Ordering;

use super::Device;
use super::driver::Recorded;
use crate::error::Result;

/// Captured work.
pub struct Graph(Box<dyn Recorded>);

impl Device {
    /// Begins a capture, which lasts until [`Device::end_capture`].
    pub fn begin_capture(&self) -> Result<()> {
        assert!(!self.capturing.load(Ordering::Relaxed), "a capture within another");
        self.driver.begin_capture()?;
        self.capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the capture and returns the work recorded since [`Device::begin_capture`].
    pub fn end_capture(&self) -> Result<Graph> {
        assert!(self.capturing.swap(false, Ordering::Relaxed), "the end of a capture that did not begin");
        self.driver.clone().end_capture().map(Graph)
    }

    /// Runs the captured work, after all earlier work.
    ///
    /// # Safety
    /// All memory passed to the captured launches must still be live, and no reference to the memory that
    /// they write may exist.
    pub unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        self.assert_not_capturing("a replay");
        // SAFETY: guaranteed by the caller.
        unsafe { graph.0.replay() }
    }

    /// Makes the following launches and captures neither overlap nor use the branch. Returns whether they could before;
    /// only a GPU can.
    pub(crate) fn launch_in_series(&self) -> bool {
        self.driver.launch_in_series()
    }

    /// Makes `launches` without overlap between them.
    pub(crate) fn without_overlap<T>(&self, launches: impl FnOnce() -> Result<T>) -> Result<T> {
        let allowed = self.driver.allow_overlap(false);
        let launched = launches();
        self.driver.allow_overlap(allowed);
        launched
    }

    /// Panics if a graph is being captured, which cannot hold the operation `what`.
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
    use crate::backend::cuda::launchers;
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

    /// A lookup of table rows, captured twice: zero fills and a launch. Reports a skip and returns `None` if
    /// the emulator is not built.
    fn captured(seed: Option<u64>) -> Option<Captured> {
        let device = match launchers::emulated(seed) {
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
        // SAFETY: the buffers are those passed to the launch.
        unsafe { device.replay(&graph) }.unwrap();
        assert_eq!(device.download(&rows, 0..6).unwrap(), [2.5, 0.5, 0.0, 2.5, 0.5, 0.0]);
        device.upload(&[3], count.slice_mut(0..1)).unwrap();
        device.upload(&[4.5f32], table.slice_mut(2..3)).unwrap();
        // SAFETY: the buffers are those passed to the launch.
        unsafe { device.replay(&graph) }.unwrap();
        assert_eq!(device.download(&rows, 0..6).unwrap(), [4.5, 0.5, 3.5, 4.5, 0.5, 3.5]);
    }

    /// Without a seed a branch runs when it is called, with a seed when it is joined. Work in between must
    /// not depend on that.
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
                    assert_eq!(device.download(&rows, 0..2).unwrap(), before);
                }
                device.join_branch().unwrap();
                if is_captured {
                    let graph = device.end_capture().unwrap();
                    assert_eq!(device.download(&rows, 0..2).unwrap(), [7.0; 2]);
                    // SAFETY: the buffers are those passed to the launch.
                    unsafe { device.replay(&graph) }.unwrap();
                }
                assert_eq!(device.download(&rows, 0..2).unwrap(), [2.5, 0.5]);
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
