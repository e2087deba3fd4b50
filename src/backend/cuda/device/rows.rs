//! Row counts that kernels read from device memory, so that one captured launch serves batches of every size.

use super::buffer::Slice;
use super::kernel::Pointer;

/// Number of rows that a launch processes.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// `[1]` number of rows; blocks beyond them return at once.
    pub count: Slice<'a, i32>,
    /// Upper bound of the number of rows, trusted by launchers: it sets the grid, and buffers have room for
    /// this many rows. Results do not depend on it.
    pub bound: usize,
}

impl From<Rows<'_>> for Pointer<i32> {
    /// Address of the count.
    fn from(rows: Rows<'_>) -> Self {
        assert_eq!(rows.count.len(), 1, "one number of rows");
        rows.count.into()
    }
}
