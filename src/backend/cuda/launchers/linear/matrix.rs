//! Matrices that products read and write, including parts of wider matrices.

use super::arguments::{MatrixArguments, MatrixMutArguments, WeightArguments};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::check_len;
use crate::backend::cuda::device::kernel::int;
use crate::backend::cuda::launchers::stored::StoredElement;

/// Input matrix: rows of `columns` values, `stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    pub(super) values: Slice<'a, T>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) lines: Lines,
}

/// Output matrix: rows of `columns` values, `stride` apart.
#[derive(Debug)]
pub struct MatrixMut<'a, T> {
    pub(super) values: SliceMut<'a, T>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) lines: Lines,
}

/// Positions of the rows: `stride` values apart. Rows from `split` on lie `jump` values further.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    pub(super) stride: usize,
    pub(super) split: usize,
    pub(super) jump: i64,
}

impl Lines {
    fn new(stride: usize) -> Self {
        Lines { stride, split: i32::MAX as usize, jump: 0 }
    }

    /// Lines of the columns from `first` on, above those of the columns from `second` on, each with `rows`
    /// rows.
    fn stacked(self, rows: usize, first: usize, second: usize) -> Self {
        let jump = second as i64 - first as i64 - (rows * self.stride) as i64;
        Lines { stride: self.stride, split: rows, jump }
    }

    pub(super) fn is_split(self) -> bool {
        self.jump != 0
    }
}

impl<'a, T: StoredElement> Matrix<'a, T> {
    /// First `rows` rows of a stored matrix.
    #[track_caller]
    pub fn new(values: Slice<'a, T>, rows: usize, columns: usize) -> Self {
        check_len("a matrix", values.len(), rows * T::stride(columns));
        Matrix { values, rows, columns, lines: Lines::new(T::stride(columns)) }
    }

    /// Number of rows.
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn column_count(&self) -> usize {
        self.columns
    }

    /// Columns `start..start + count`.
    #[track_caller]
    pub fn columns(self, start: usize, count: usize) -> Self {
        check_columns::<T>(start, count, self.columns);
        let values = self.values.slice(start.min(self.values.len())..self.values.len());
        Matrix { values, columns: count, ..self }
    }

    /// Columns `first..first + count` above columns `second..second + count`: twice as many rows.
    #[track_caller]
    pub fn stacked(self, first: usize, second: usize, count: usize) -> Self {
        check_columns::<T>(second, count, self.columns);
        let lines = self.lines.stacked(self.rows, first, second);
        Matrix { rows: 2 * self.rows, lines, ..self.columns(first, count) }
    }
}

impl<'a, T: StoredElement> MatrixMut<'a, T> {
    /// First `rows` rows of a stored matrix.
    #[track_caller]
    pub fn new(values: SliceMut<'a, T>, rows: usize, columns: usize) -> Self {
        check_len("a matrix", values.len(), rows * T::stride(columns));
        MatrixMut { values, rows, columns, lines: Lines::new(T::stride(columns)) }
    }

    /// Columns `start..start + count`.
    #[track_caller]
    pub fn columns(&mut self, start: usize, count: usize) -> MatrixMut<'_, T> {
        check_columns::<T>(start, count, self.columns);
        let (len, rows, lines) = (self.values.len(), self.rows, self.lines);
        MatrixMut { values: self.values.slice_mut(start.min(len)..len), rows, columns: count, lines }
    }

    /// Like [`Matrix::stacked`].
    #[track_caller]
    pub fn stacked(&mut self, first: usize, second: usize, count: usize) -> MatrixMut<'_, T> {
        check_columns::<T>(second, count, self.columns);
        let (rows, lines) = (2 * self.rows, self.lines.stacked(self.rows, first, second));
        MatrixMut { rows, lines, ..self.columns(first, count) }
    }

    /// Splits three parts of `count` columns each into the outer two, one above the other, and the middle
    /// one.
    #[track_caller]
    pub fn outer_and_middle(&mut self, count: usize) -> [MatrixMut<'_, T>; 2] {
        assert_eq!(self.columns, 3 * count, "three parts of {count} columns");
        check_columns::<T>(count, 2 * count, self.columns);
        let (len, rows, lines) = (self.values.len(), self.rows, self.lines);
        let [outer, middle] = self.values.shared();
        let middle = middle.split_at(count.min(len)).1;
        [
            MatrixMut {
                values: outer,
                rows: 2 * rows,
                columns: count,
                lines: lines.stacked(rows, 0, 2 * count),
            },
            MatrixMut { values: middle, rows, columns: count, lines },
        ]
    }
}

/// Panics unless these columns exist and start at a valid row alignment.
#[track_caller]
fn check_columns<T: StoredElement>(start: usize, count: usize, columns: usize) {
    assert!(start + count <= columns, "columns {start} and {count} more of {columns}");
    assert!(T::begins_row(start), "column {start} of rows that are copied 16 bytes at a time");
}

impl<T: StoredElement> Matrix<'_, T> {
    /// Arguments for a kernel that takes the matrix in one part. Panics if it is split.
    #[track_caller]
    pub(super) fn arguments(&self) -> MatrixArguments<T> {
        assert!(!self.lines.is_split(), "linear: a split matrix where a kernel takes none");
        MatrixArguments {
            values: self.values.into(),
            stride: int(self.lines.stride),
            columns: int(self.columns),
        }
    }

    /// Arguments for a kernel that takes a weight in two parts.
    pub(super) fn weight_arguments(&self) -> WeightArguments<T> {
        let Lines { stride, split, jump } = self.lines;
        WeightArguments { values: self.values.into(), jump, stride: int(stride), split: int(split) }
    }
}

impl<T: StoredElement> MatrixMut<'_, T> {
    /// Arguments for a kernel that takes the matrix in one part. Panics if it is split.
    #[track_caller]
    pub(super) fn arguments(&mut self) -> MatrixMutArguments<T> {
        assert!(!self.lines.is_split(), "linear: a split matrix where a kernel takes none");
        MatrixMutArguments {
            values: (&mut self.values).into(),
            stride: int(self.lines.stride),
            columns: int(self.columns),
        }
    }
}
