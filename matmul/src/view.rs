//! Views of dense matrices.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::marker::PhantomData;
use std::ops::Range;

/// Bytes of a cache line.
pub(super) const CACHE_LINE: usize = 64;

/// A dense `[rows, columns]` matrix that is read. A transposed operand is a view with exchanged strides.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T> {
    values: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T: Copy> MatRef<'a, T> {
    /// The first `rows * columns` values, row by row.
    pub fn new(values: &'a [T], rows: usize, columns: usize) -> Self {
        MatRef { values: &values[..rows * columns], rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Distance between rows that are stored one after the other, or between columns if the matrix is transposed.
    pub fn stride(&self) -> usize {
        self.row_stride.max(self.column_stride)
    }

    /// The transposed matrix.
    pub fn transpose(self) -> Self {
        MatRef {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// A range of rows.
    pub fn row_range(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let start = (range.start * self.row_stride).min(self.values.len());
        MatRef { values: &self.values[start..], rows: range.len(), ..self }
    }

    /// A range of columns.
    pub fn column_range(self, range: Range<usize>) -> Self {
        self.transpose().row_range(range).transpose()
    }

    /// The same matrix, if the values of a row lie side by side.
    #[inline(always)]
    pub(super) fn contiguous_rows(self) -> Option<ContiguousRows<'a, T>> {
        (self.column_stride == 1).then_some(ContiguousRows(self))
    }
}

/// A matrix whose rows are slices.
#[derive(Clone, Copy)]
pub(super) struct ContiguousRows<'a, T>(MatRef<'a, T>);

impl<'a, T: Copy> ContiguousRows<'a, T> {
    /// Number of rows.
    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        self.0.rows
    }

    /// Number of columns.
    #[inline(always)]
    pub(super) fn columns(&self) -> usize {
        self.0.columns
    }

    /// One value.
    ///
    /// # Safety
    ///
    /// The row and the column exist.
    #[inline(always)]
    pub(super) unsafe fn get_unchecked(&self, row: usize, column: usize) -> T {
        // SAFETY: every view is a part of the values that `MatRef::new` checked, and the caller promises that the value is in it.
        unsafe { *self.0.values.get_unchecked(row * self.0.row_stride + column) }
    }

    /// One row.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [T] {
        &self.0.values[row * self.0.row_stride..][..self.0.columns]
    }
}

/// A dense `[rows, columns]` matrix that is written. The values of a row lie side by side.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    /// The first value. Views of one matrix that were split by columns interleave, so none is a slice.
    first: *mut T,
    rows: usize,
    columns: usize,
    row_stride: usize,
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: a view is a unique borrow of its values, as `&mut [T]` is.
unsafe impl<T: Send> Send for MatMut<'_, T> {}

impl<'a, T> MatMut<'a, T> {
    /// The first `rows * columns` values, row by row.
    pub fn new(values: &'a mut [T], rows: usize, columns: usize) -> Self {
        let first = values[..rows * columns].as_mut_ptr();
        MatMut { first, rows, columns, row_stride: columns, values: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Distance between rows.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { values: PhantomData, ..*self }
    }

    /// The rows before `row`, and the others.
    pub fn split_at_row(self, row: usize) -> (Self, Self) {
        assert!(row <= self.rows, "row {row} of {}", self.rows);
        // A wrapping offset, since a view without columns has no value there.
        let second = self.first.wrapping_add(row * self.row_stride);
        (MatMut { rows: row, ..self }, MatMut { first: second, rows: self.rows - row, ..self })
    }

    /// The columns before `column`, and the others.
    pub fn split_at_column(self, column: usize) -> (Self, Self) {
        assert!(column <= self.columns, "column {column} of {}", self.columns);
        let second = self.first.wrapping_add(column);
        (MatMut { columns: column, ..self }, MatMut { first: second, columns: self.columns - column, ..self })
    }

    /// Asks the processor to bring some values of a row into its cache, to be written.
    #[inline(always)]
    pub fn prefetch(&self, row: usize, columns: Range<usize>) {
        #[cfg(target_arch = "x86_64")]
        for line in lines(self.first.wrapping_add(row * self.row_stride + columns.start), columns.len()) {
            // SAFETY: as in `prefetch`; a line that is not written keeps its values.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line) };
        }
    }

    /// One row.
    #[inline(always)]
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: `new` took the values of all rows, and the splits left each view its own rows and columns of them. The
        // result borrows the view.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.row_stride), self.columns) }
    }
}

/// Asks the processor to bring values into its cache. They need not exist.
#[inline(always)]
pub fn prefetch<T>(first: *const T, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in lines(first, count) {
        // SAFETY: a prefetch reads nothing for the program, and is no fault at any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
}

/// Asks the processor to bring a line of memory into its second-level cache. The address need not be valid.
#[inline(always)]
pub(super) fn prefetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `prefetch`.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(at.cast())
    };
}

/// Addresses in all cache lines that hold these values, which need not exist.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn lines<T>(first: *const T, len: usize) -> impl Iterator<Item = *const i8> {
    let values = (0..len).step_by(CACHE_LINE / size_of::<T>()).chain(len.checked_sub(1));
    values.map(move |value| first.wrapping_add(value).cast())
}
