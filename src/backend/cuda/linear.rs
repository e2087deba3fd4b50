//! linear: the products of a linear layer (`kernels/linear.cu`).

use super::buffer::{Buffer, Slice, SliceMut};
use super::device::{Argument, Device, Grid, check_len, dimension};
use crate::error::Result;

pub(super) const KERNELS: &[&str] =
    &["linear_forward", "linear_backward_input", "linear_backward_weight", "linear_sum_parts"];

/// Rows and columns of a block's tile, as in the kernel.
const TILE: usize = 64;
const THREADS: u32 = 256;
/// Blocks that fill a large GPU twice: a weight's gradient is split into parts until it has about as many.
const ENOUGH_BLOCKS: usize = 264;
/// Least rows of a part, so that its product outweighs adding it up.
const LEAST_PART_ROWS: usize = 128;

/// A matrix to read: rows of `columns` values, `stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: Slice<'a, f32>,
    rows: usize,
    columns: usize,
    stride: usize,
}

/// A matrix to write.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    values: SliceMut<'a, f32>,
    rows: usize,
    columns: usize,
    stride: usize,
}

/// Whether a product takes the place of what was there, or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Written.
    Replace,
    /// Added.
    Add,
}

impl<'a> Matrix<'a> {
    /// The first `rows` rows of a dense matrix.
    #[track_caller]
    pub fn new(values: Slice<'a, f32>, rows: usize, columns: usize) -> Self {
        check_len("a matrix", values.len(), rows * columns);
        Matrix { values, rows, columns, stride: columns }
    }

    /// Number of rows.
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn column_count(&self) -> usize {
        self.columns
    }

    /// The columns `start..start + count`.
    #[track_caller]
    pub fn columns(self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.columns, "columns {start} and {count} more of {}", self.columns);
        Matrix {
            values: self.values.slice(start.min(self.values.len())..self.values.len()),
            columns: count,
            ..self
        }
    }
}

impl<'a> MatrixMut<'a> {
    /// The first `rows` rows of a dense matrix.
    #[track_caller]
    pub fn new(values: SliceMut<'a, f32>, rows: usize, columns: usize) -> Self {
        check_len("a matrix", values.len(), rows * columns);
        MatrixMut { values, rows, columns, stride: columns }
    }

    /// The columns `start..start + count`.
    #[track_caller]
    pub fn columns(&mut self, start: usize, count: usize) -> MatrixMut<'_> {
        assert!(start + count <= self.columns, "columns {start} and {count} more of {}", self.columns);
        let len = self.values.len();
        MatrixMut {
            values: self.values.slice_mut(start.min(len)..len),
            rows: self.rows,
            columns: count,
            stride: self.stride,
        }
    }
}

fn accumulate(output: Output) -> Argument {
    Argument::Int(i32::from(output == Output::Add))
}

/// One block per tile of `rows` x `columns`, times `parts`.
fn tiles(rows: usize, columns: usize, parts: usize) -> Grid {
    let blocks = [columns.div_ceil(TILE), rows.div_ceil(TILE), parts].map(dimension);
    Grid { blocks, threads: [THREADS, 1, 1] }
}

/// `y [R, O] = x [R, I] weight [O, I]^T`.
pub fn linear_forward(
    device: &Device,
    y: &mut MatrixMut<'_>,
    x: Matrix<'_>,
    weight: Matrix<'_>,
    output: Output,
) -> Result<()> {
    assert_eq!(
        (y.rows, y.columns, x.columns),
        (x.rows, weight.rows, weight.columns),
        "linear_forward: shapes"
    );
    if y.rows == 0 {
        return Ok(());
    }
    let arguments = [
        (&mut y.values).into(),
        x.values.into(),
        weight.values.into(),
        y.stride.into(),
        x.stride.into(),
        weight.stride.into(),
        y.rows.into(),
        y.columns.into(),
        x.columns.into(),
        accumulate(output),
    ];
    // SAFETY: as in kernels/linear.cu; a matrix's slice holds its rows; y is borrowed mutably and alone written.
    unsafe { device.launch("linear_forward", tiles(y.rows, y.columns, 1), &arguments) }
}

/// `d_x [R, I] = d_y [R, O] weight [O, I]`.
pub fn linear_backward_input(
    device: &Device,
    d_x: &mut MatrixMut<'_>,
    d_y: Matrix<'_>,
    weight: Matrix<'_>,
    output: Output,
) -> Result<()> {
    let shapes = (d_x.rows, d_x.columns, d_y.columns);
    assert_eq!(shapes, (d_y.rows, weight.columns, weight.rows), "linear_backward_input: shapes");
    if d_x.rows == 0 {
        return Ok(());
    }
    let arguments = [
        (&mut d_x.values).into(),
        d_y.values.into(),
        weight.values.into(),
        d_x.stride.into(),
        d_y.stride.into(),
        weight.stride.into(),
        d_x.rows.into(),
        d_x.columns.into(),
        d_y.columns.into(),
        accumulate(output),
    ];
    // SAFETY: as in kernels/linear.cu; a matrix's slice holds its rows; d_x is borrowed mutably and alone written.
    unsafe { device.launch("linear_backward_input", tiles(d_x.rows, d_x.columns, 1), &arguments) }
}

/// Into how many parts a weight's gradient is split at most: so many that they fill a GPU, each of enough rows.
fn most_parts(outputs: usize, inputs: usize, rows: usize) -> usize {
    let tile_count = outputs.div_ceil(TILE) * inputs.div_ceil(TILE);
    (ENOUGH_BLOCKS / tile_count).clamp(1, rows.div_ceil(LEAST_PART_ROWS).max(1))
}

/// The most values that [`linear_backward_weight`] keeps in `parts` for up to `rows` rows.
pub(super) fn parts_len(outputs: usize, inputs: usize, rows: usize) -> usize {
    match most_parts(outputs, inputs, rows) {
        1 => 0,
        parts => parts * outputs * inputs,
    }
}

/// `d_weight [O, I] = d_y [R, O]^T x [R, I]`; `parts` is memory for the parts of the sum over rows.
pub fn linear_backward_weight(
    device: &Device,
    d_weight: &mut MatrixMut<'_>,
    d_y: Matrix<'_>,
    x: Matrix<'_>,
    parts: &mut Buffer<f32>,
) -> Result<()> {
    let (outputs, inputs, rows) = (d_weight.rows, d_weight.columns, d_y.rows);
    assert_eq!((rows, outputs, inputs), (x.rows, d_y.columns, x.columns), "linear_backward_weight: shapes");
    let rows_per_part = rows.div_ceil(most_parts(outputs, inputs, rows)).max(1);
    let part_count = rows.div_ceil(rows_per_part).max(1);
    let split = part_count > 1;
    if split {
        device.reserve(parts, part_count * outputs * inputs)?;
    }
    let mut in_parts = parts.slice_mut(0..if split { part_count * outputs * inputs } else { 0 });
    let (target, stride): (Argument, usize) = match split {
        true => ((&mut in_parts).into(), inputs),
        false => ((&mut d_weight.values).into(), d_weight.stride),
    };
    let arguments = [
        target,
        d_y.values.into(),
        x.values.into(),
        stride.into(),
        d_y.stride.into(),
        x.stride.into(),
        outputs.into(),
        inputs.into(),
        rows.into(),
        rows_per_part.into(),
        Argument::Long((outputs * inputs) as i64),
    ];
    // SAFETY: as in kernels/linear.cu; a matrix's slice holds its rows; the parts have room for part_count matrices;
    // what is written is borrowed mutably.
    unsafe { device.launch("linear_backward_weight", tiles(outputs, inputs, part_count), &arguments) }?;
    if !split {
        return Ok(());
    }
    let arguments = [
        (&mut d_weight.values).into(),
        in_parts.as_slice().into(),
        d_weight.stride.into(),
        outputs.into(),
        inputs.into(),
        part_count.into(),
    ];
    // SAFETY: as in kernels/linear.cu; the launch before wrote part_count matrices; d_weight is borrowed mutably.
    unsafe { device.launch("linear_sum_parts", Grid::cover(outputs * inputs, THREADS), &arguments) }
}
