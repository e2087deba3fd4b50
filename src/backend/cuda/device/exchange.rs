//! Exchange of device memory with the devices of other ranks.

use super::Device;
use super::buffer::{Element, Slice, SliceMut};
use super::driver::CommunicatorHandle;
pub(crate) use super::driver::ID_BYTES;
use crate::error::Result;

/// The ranks, as one device sees them. All make the same calls in the same order. The calls take effect in order with the other
/// work of the device; the host does not wait.
pub(crate) struct Communicator {
    handle: Box<dyn CommunicatorHandle>,
    count: usize,
}

impl Device {
    /// Joins the devices of `count` ranks. `of_first` returns the id that rank 0 passes. `None` if this device exchanges
    /// nothing by itself: its memory then goes through the host.
    pub(crate) fn communicator(
        &self,
        rank: usize,
        count: usize,
        of_first: &dyn Fn([u8; ID_BYTES]) -> [u8; ID_BYTES],
    ) -> Result<Option<Communicator>> {
        let handle = self.driver.clone().communicator(rank, count, of_first)?;
        Ok(handle.map(|handle| Communicator { handle, count }))
    }
}

impl Communicator {
    /// Writes `own` of every rank to `all`, in the order of ranks.
    pub(crate) fn all_gather<T: Element>(&self, own: Slice<'_, T>, all: SliceMut<'_, T>) -> Result<()> {
        assert_eq!(all.len(), self.count * own.len(), "values of all ranks");
        // SAFETY: both are slices of live buffers of these lengths; `all` is borrowed mutably.
        unsafe { self.handle.all_gather(own.address(), all.address(), own.len() * size_of::<T>()) }
    }

    /// Replaces `values` by their sums over all ranks, which have the same bits on each.
    pub(crate) fn sum(&self, values: SliceMut<'_, f32>) -> Result<()> {
        // SAFETY: a slice of a live buffer of this length, borrowed mutably.
        unsafe { self.handle.sum(values.address(), values.len()) }
    }
}
