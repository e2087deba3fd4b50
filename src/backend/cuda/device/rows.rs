//! Numbers of rows that kernels read from the device's memory, so that one captured launch serves batches of every size.

use super::buffer::Slice;
use super::kernel::Pointer;
use crate::backend::cuda::device::Argument;

/// The rows that a launch works on: nodes, edges, types that occur, graphs or triples.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// `[1]`: how many there are; blocks beyond them leave at once.
    pub count: Slice<'a, i32>,
    /// No fewer, which launchers trust: the grid is for so many, and buffers have room for them. Results do not depend on
    /// it.
    pub bound: usize,
}

impl From<Rows<'_>> for Argument {
    /// The address of the count.
    fn from(rows: Rows<'_>) -> Self {
        assert_eq!(rows.count.len(), 1, "one number of rows");
        rows.count.into()
    }
}

impl From<Rows<'_>> for Pointer<i32> {
    /// The address of the count.
    fn from(rows: Rows<'_>) -> Self {
        assert_eq!(rows.count.len(), 1, "one number of rows");
        rows.count.into()
    }
}
