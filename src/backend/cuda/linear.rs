//! linear: the products of a linear layer (`kernels/linear.cu`, and on the tensor cores `kernels/linear_tensor.cuh`).

use super::buffer::{Buffer, Slice, SliceMut};
use super::device::{Argument, Device, Grid, check_len, dimension};
use crate::error::Result;

/// The kernels in single precision, and what adds up the parts of any format.
pub(super) const KERNELS: &[&str] =
    &["linear_forward", "linear_backward_input", "linear_backward_weight", "linear_sum_parts"];

/// Those of a format on the tensor cores (`kernels/linear_tensor.cuh`): of each product, by tile.
macro_rules! tensor_kernels {
    ($constant:ident, $format:literal) => {
        pub(super) const $constant: &[&str] = &[
            concat!("linear_forward_", $format, "_64"),
            concat!("linear_forward_", $format, "_128"),
            concat!("linear_backward_input_", $format, "_64"),
            concat!("linear_backward_input_", $format, "_128"),
            concat!("linear_backward_weight_", $format, "_64"),
            concat!("linear_backward_weight_", $format, "_128"),
        ];
    };
}
tensor_kernels!(BF16_KERNELS, "bf16");
tensor_kernels!(BF16X3_KERNELS, "bf16x3");
tensor_kernels!(TF32_KERNELS, "tf32");

/// Blocks that fill a large GPU twice: a weight's gradient is split into parts until it has about as many, and the
/// larger tile is taken where it makes as many.
const ENOUGH_BLOCKS: usize = 264;
/// Least rows of a part, so that its product outweighs adding it up.
const LEAST_PART_ROWS: usize = 128;
/// Least rows of a part of the larger tile: its few blocks must be long ones.
const LEAST_LARGE_PART_ROWS: usize = 256;

/// How products are computed: the format of their operands. Sums are in single precision in every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they are, without tensor cores.
    Fp32,
    /// Rounded to tf32: 11 significand bits.
    Tf32,
    /// Rounded to bf16: 8 significand bits.
    Bf16,
    /// The sum of two bf16, some 16 significand bits.
    Bf16x3,
}

#[derive(Clone, Copy)]
enum Product {
    Forward = 0,
    BackwardInput = 2,
    BackwardWeight = 4,
}

/// A block's tile: 64 x 64 or 128 x 128.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tile {
    Small,
    Large,
}

impl Tile {
    fn size(self) -> usize {
        match self {
            Tile::Small => 64,
            Tile::Large => 128,
        }
    }

    /// As in `kernels/linear_tensor.cuh`.
    fn threads(self) -> u32 {
        match self {
            Tile::Small => 128,
            Tile::Large => 256,
        }
    }

    /// How many cover a matrix.
    fn count(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.size()) * columns.div_ceil(self.size())
    }
}

impl Format {
    /// The larger tile where `wanted` says so; plain products have one size only.
    fn tile(self, wanted: bool) -> Tile {
        if wanted && self != Format::Fp32 { Tile::Large } else { Tile::Small }
    }

    /// A product's kernel, and the grid of one block for each tile of `rows` x `columns`, times `parts`.
    fn kernel(
        self,
        product: Product,
        tile: Tile,
        [rows, columns, parts]: [usize; 3],
    ) -> (&'static str, Grid) {
        let of_tile = |kernels: &[&'static str]| kernels[product as usize + usize::from(tile == Tile::Large)];
        let (name, threads) = match self {
            Format::Fp32 => (KERNELS[product as usize / 2], 256),
            Format::Tf32 => (of_tile(TF32_KERNELS), tile.threads()),
            Format::Bf16 => (of_tile(BF16_KERNELS), tile.threads()),
            Format::Bf16x3 => (of_tile(BF16X3_KERNELS), tile.threads()),
        };
        let blocks = [columns.div_ceil(tile.size()), rows.div_ceil(tile.size()), parts].map(dimension);
        (name, Grid { blocks, threads: [threads, 1, 1] })
    }
}

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

/// `y [R, O] = x [R, I] weight [O, I]^T`.
pub fn linear_forward(
    device: &Device,
    format: Format,
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
    let tile = format.tile(Tile::Large.count(y.rows, y.columns) >= ENOUGH_BLOCKS);
    let (kernel, grid) = format.kernel(Product::Forward, tile, [y.rows, y.columns, 1]);
    // SAFETY: as in the kernel's file; a matrix's slice holds its rows; y is borrowed mutably and alone written.
    unsafe { device.launch(kernel, grid, &arguments) }
}

/// `d_x [R, I] = d_y [R, O] weight [O, I]`.
pub fn linear_backward_input(
    device: &Device,
    format: Format,
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
    let tile = format.tile(Tile::Large.count(d_x.rows, d_x.columns) >= ENOUGH_BLOCKS);
    let (kernel, grid) = format.kernel(Product::BackwardInput, tile, [d_x.rows, d_x.columns, 1]);
    // SAFETY: as in the kernel's file; a matrix's slice holds its rows; d_x is borrowed mutably and alone written.
    unsafe { device.launch(kernel, grid, &arguments) }
}

/// Into how many parts a weight's gradient is split at most: so many that their tiles fill a GPU, each of enough rows.
fn most_parts(tile: Tile, outputs: usize, inputs: usize, rows: usize) -> usize {
    (ENOUGH_BLOCKS / tile.count(outputs, inputs)).clamp(1, rows.div_ceil(LEAST_PART_ROWS).max(1))
}

/// The most values that [`linear_backward_weight`] keeps in `parts` for up to `rows` rows.
pub(super) fn parts_len(format: Format, outputs: usize, inputs: usize, rows: usize) -> usize {
    let most = [Tile::Small, format.tile(true)].map(|tile| most_parts(tile, outputs, inputs, rows));
    match most[0].max(most[1]) {
        1 => 0,
        parts => parts * outputs * inputs,
    }
}

/// `d_weight [O, I] = d_y [R, O]^T x [R, I]`; `parts` is memory for the parts of the sum over rows.
pub fn linear_backward_weight(
    device: &Device,
    format: Format,
    d_weight: &mut MatrixMut<'_>,
    d_y: Matrix<'_>,
    x: Matrix<'_>,
    parts: &mut Buffer<f32>,
) -> Result<()> {
    let (outputs, inputs, rows) = (d_weight.rows, d_weight.columns, d_y.rows);
    assert_eq!((rows, outputs, inputs), (x.rows, d_y.columns, x.columns), "linear_backward_weight: shapes");
    let many_rows = LEAST_LARGE_PART_ROWS * most_parts(Tile::Large, outputs, inputs, usize::MAX);
    let tile = format.tile(rows >= many_rows);
    let rows_per_part = rows.div_ceil(most_parts(tile, outputs, inputs, rows)).max(1);
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
    let (kernel, grid) = format.kernel(Product::BackwardWeight, tile, [outputs, inputs, part_count]);
    // SAFETY: as in the kernel's file; a matrix's slice holds its rows; the parts have room for part_count matrices;
    // what is written is borrowed mutably.
    unsafe { device.launch(kernel, grid, &arguments) }?;
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
    unsafe { device.launch("linear_sum_parts", Grid::cover(outputs * inputs, 256), &arguments) }
}
