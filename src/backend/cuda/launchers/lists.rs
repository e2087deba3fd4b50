//! The index lists of a batch that several kernels read.

use crate::backend::cuda::device::buffer::Slice;
use crate::backend::cuda::device::check_len;
use crate::backend::cuda::device::kernel::{Pointer, kernel_arguments};
use crate::backend::cuda::device::rows::Rows;

kernel_arguments! {
    /// [`Lists`] in the kernels' form (`kernels/lists.cuh`).
    pub(crate) struct ListsArguments {
        /// `[n + 1] -> entry` start of each row's entries.
        offsets: Pointer<i32>,
        entries: Pointer<i32>,
        /// `[1]` number of rows n.
        row_count: Pointer<i32>,
    }
}

/// The two ends of each edge, as rows of a matrix with n rows: nodes, or object types in use.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Number of edges, E.
    pub edges: Rows<'a>,
    /// `[E] -> n` row of each edge's subject.
    pub subject: Slice<'a, i32>,
    /// `[E] -> n` row of each edge's object.
    pub object: Slice<'a, i32>,
}

/// For each of n rows, a list of edges or of edges with roles, compressed. The batch itself provides it, so
/// indices are in range.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    /// Number of rows, n.
    pub rows: Rows<'a>,
    /// `[n + 1] -> entry` start of each row's entries.
    pub offsets: Slice<'a, i32>,
    /// Entries of all rows: `edge`, or `2 edge + role`.
    pub entries: Slice<'a, i32>,
}

impl Ends<'_> {
    #[track_caller]
    pub(crate) fn check(&self) {
        check_len("subject", self.subject.len(), self.edges.bound);
        check_len("object", self.object.len(), self.edges.bound);
    }
}

impl Lists<'_> {
    #[track_caller]
    pub(crate) fn check(&self) {
        check_len("offsets", self.offsets.len(), self.rows.bound + 1);
    }
}

impl From<Lists<'_>> for ListsArguments {
    fn from(lists: Lists<'_>) -> Self {
        let Lists { rows, offsets, entries } = lists;
        ListsArguments { offsets: offsets.into(), entries: entries.into(), row_count: rows.into() }
    }
}
