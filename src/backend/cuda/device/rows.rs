//! Numbers of rows that kernels read from the device's memory, so that one captured launch serves batches of every size.

use super::buffer::Slice;
use super::kernel::Pointer;

/// The rows that a launch works on.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// `[1]` number of rows; blocks beyond them leave at once.
    pub count: Slice<'a, i32>,
    /// Upper bound of the number of rows, which launchers trust: the grid is for this many, and buffers have room for
    /// them. Results do not depend on it.
    pub bound: usize,
}

impl From<Rows<'_>> for Pointer<i32> {
    /// The address of the count.
    fn from(rows: Rows<'_>) -> Self {
        assert_eq!(rows.count.len(), 1, "one number of rows");
        rows.count.into()
    }
}
