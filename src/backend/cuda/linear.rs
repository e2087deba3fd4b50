//! linear: the products of a linear layer and what is fused with them (`kernels/linear.cuh`).

use super::batch_norm::{Norm, Sums};
use super::buffer::{Buffer, Slice, SliceMut};
use super::device::{Argument, Arguments, Device, Grid, check_len, dimension};
use super::edge_hidden::Ends;
use super::rows::Rows;
use crate::error::Result;

/// The products' kernels in a format: one for each tile, in the order of [`Product`]; and others of the file.
macro_rules! kernels {
    ($constant:ident, $format:literal, [$($tile:literal),*], [$($other:literal),*]) => {
        pub(super) const $constant: &[&str] = &[
            $(concat!("linear_forward_", $format, $tile),)*
            $(concat!("linear_forward_norm_", $format, $tile),)*
            $(concat!("linear_forward_gather_", $format, $tile),)*
            $(concat!("linear_backward_input_", $format, $tile),)*
            $(concat!("linear_backward_input_sums_", $format, $tile),)*
            $(concat!("linear_backward_weight_", $format, $tile),)*
            $(concat!("linear_backward_weight_norm_", $format, $tile),)*
            $($other),*
        ];
    };
}
kernels!(FP32_KERNELS, "fp32", ["_64"], ["linear_sum_parts"]);
kernels!(BF16_KERNELS, "bf16", ["_64", "_128"], []);
kernels!(BF16X3_KERNELS, "bf16x3", ["_64", "_128"], []);
kernels!(TF32_KERNELS, "tf32", ["_64", "_128"], []);

/// Blocks that fill a large GPU twice: a weight's gradient is split into parts until it has about as many, and the
/// larger tile is taken where it makes as many.
const ENOUGH_BLOCKS: usize = 264;
/// Least rows of a part, so that its product outweighs adding it up; as in `kernels/linear.cuh`.
const LEAST_PART_ROWS: usize = 128;
/// Least rows of a part of the larger tile, whose few blocks must be long ones; as there.
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
    Forward,
    ForwardNorm,
    ForwardGather,
    BackwardInput,
    BackwardInputSums,
    BackwardWeight,
    BackwardWeightNorm,
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

    /// Of a core on the tensor cores, as in `kernels/linear.cuh`.
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

    /// The tile of a product of so many rows and columns, and its kernel and grid.
    fn launch(self, product: Product, rows: usize, columns: usize) -> (&'static str, Grid) {
        let tile = self.tile(Tile::Large.count(rows, columns) >= ENOUGH_BLOCKS);
        self.kernel(product, tile, [rows, columns, 1])
    }

    /// A product's kernel, and the grid of one block for each tile of `rows` x `columns`, times `parts`.
    fn kernel(
        self,
        product: Product,
        tile: Tile,
        [rows, columns, parts]: [usize; 3],
    ) -> (&'static str, Grid) {
        let of_tile = |kernels: &[&'static str]| {
            (kernels[2 * product as usize + usize::from(tile == Tile::Large)], tile.threads())
        };
        let (name, threads) = match self {
            Format::Fp32 => (FP32_KERNELS[product as usize], 256),
            Format::Tf32 => of_tile(TF32_KERNELS),
            Format::Bf16 => of_tile(BF16_KERNELS),
            Format::Bf16x3 => of_tile(BF16X3_KERNELS),
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
    lines: Lines,
}

/// A matrix to write.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    values: SliceMut<'a, f32>,
    rows: usize,
    columns: usize,
    lines: Lines,
}

/// Where rows begin: `stride` apart, those from `split` on `jump` values further.
#[derive(Clone, Copy, Debug)]
struct Lines {
    stride: usize,
    split: usize,
    jump: i64,
}

impl Lines {
    fn new(stride: usize) -> Self {
        Lines { stride, split: i32::MAX as usize, jump: 0 }
    }

    /// Of the columns from `first` on of `rows` rows, and below them of the same rows' columns from `second` on.
    fn stacked(self, rows: usize, first: usize, second: usize) -> Self {
        let jump = second as i64 - first as i64 - (rows * self.stride) as i64;
        Lines { stride: self.stride, split: rows, jump }
    }

    fn is_split(self) -> bool {
        self.jump != 0
    }
}

impl<'a> Matrix<'a> {
    /// The first `rows` rows of a dense matrix.
    #[track_caller]
    pub fn new(values: Slice<'a, f32>, rows: usize, columns: usize) -> Self {
        check_len("a matrix", values.len(), rows * columns);
        Matrix { values, rows, columns, lines: Lines::new(columns) }
    }

    /// All of it and what lies between its rows.
    pub fn values(&self) -> Slice<'a, f32> {
        self.values
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
        check_columns(start, count, self.columns);
        let values = self.values.slice(start.min(self.values.len())..self.values.len());
        Matrix { values, columns: count, ..self }
    }

    /// The columns `first..first + count` above the columns `second..second + count`: twice the rows.
    #[track_caller]
    pub fn stacked(self, first: usize, second: usize, count: usize) -> Self {
        check_columns(second, count, self.columns);
        let lines = self.lines.stacked(self.rows, first, second);
        Matrix { rows: 2 * self.rows, lines, ..self.columns(first, count) }
    }
}

impl<'a> MatrixMut<'a> {
    /// The first `rows` rows of a dense matrix.
    #[track_caller]
    pub fn new(values: SliceMut<'a, f32>, rows: usize, columns: usize) -> Self {
        check_len("a matrix", values.len(), rows * columns);
        MatrixMut { values, rows, columns, lines: Lines::new(columns) }
    }

    /// The columns `start..start + count`.
    #[track_caller]
    pub fn columns(&mut self, start: usize, count: usize) -> MatrixMut<'_> {
        check_columns(start, count, self.columns);
        let (len, rows, lines) = (self.values.len(), self.rows, self.lines);
        MatrixMut { values: self.values.slice_mut(start.min(len)..len), rows, columns: count, lines }
    }

    /// As [`Matrix::stacked`].
    #[track_caller]
    pub fn stacked(&mut self, first: usize, second: usize, count: usize) -> MatrixMut<'_> {
        check_columns(second, count, self.columns);
        let (rows, lines) = (2 * self.rows, self.lines.stacked(self.rows, first, second));
        MatrixMut { rows, lines, ..self.columns(first, count) }
    }
}

#[track_caller]
fn check_columns(start: usize, count: usize, columns: usize) {
    assert!(start + count <= columns, "columns {start} and {count} more of {columns}");
}

/// What a product reads of a layer's input.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The values.
    Values(Matrix<'a>),
    /// relu(norm(values)).
    Activated(Matrix<'a>, Norm<'a>),
}

impl<'a> Input<'a> {
    #[track_caller]
    fn check(self) -> Matrix<'a> {
        match self {
            Input::Values(x) => x,
            Input::Activated(x, norm) => {
                norm.check(x.columns);
                x
            }
        }
    }
}

impl Arguments {
    fn add_values(self, x: Input<'_>) -> Self {
        match x {
            Input::Values(x) => self.add(x.values),
            Input::Activated(x, norm) => self.add(x.values).add_norm(norm),
        }
    }

    fn add_lines(self, lines: Lines) -> Self {
        self.add(lines.stride).add(lines.split).add(Argument::Long(lines.jump))
    }

    /// Room for a column's sums over chunks of rows; null where none are wanted.
    fn add_sums(self, device: &Device, sums: Option<&mut Sums>, rows: usize, columns: usize) -> Result<Self> {
        Ok(match sums {
            Some(sums) => self.add(&mut sums.partials(device, rows, columns)?),
            None => self.add(Argument::Address(0)),
        })
    }
}

/// `y [R, O] = x [R, I] weight [O, I]^T`; into `sums` what the statistics of y follow from. `rows` are R, here and below.
pub fn linear_forward(
    device: &Device,
    format: Format,
    rows: Rows<'_>,
    y: &mut MatrixMut<'_>,
    x: Input<'_>,
    weight: Matrix<'_>,
    sums: Option<&mut Sums>,
) -> Result<()> {
    let x_matrix = x.check();
    check_rows("linear_forward", rows, [y.rows, x_matrix.rows]);
    let shapes = (y.columns, x_matrix.columns);
    assert_eq!(shapes, (weight.rows, weight.columns), "linear_forward: shapes");
    assert!(
        !y.lines.is_split() && !x_matrix.lines.is_split(),
        "linear_forward: only the weight may be split"
    );
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = Arguments::default().add(&mut y.values).add_values(x).add(weight.values);
    let arguments = arguments.add_sums(device, sums, y.rows, y.columns)?;
    let arguments = arguments.add(y.lines.stride).add(x_matrix.lines.stride);
    let (product, arguments) = match x {
        Input::Values(_) => (Product::Forward, arguments.add_lines(weight.lines)),
        Input::Activated(..) => {
            assert!(!weight.lines.is_split(), "linear_forward: a split weight of an activated input");
            (Product::ForwardNorm, arguments.add(weight.lines.stride))
        }
    };
    let arguments = arguments.add(rows).add(y.columns).add(x_matrix.columns);
    let (kernel, grid) = format.launch(product, y.rows, y.columns);
    // SAFETY: as in kernels/linear.cuh; a matrix's slice holds its rows, a norm's its columns, and the sums have room;
    // what is written is borrowed mutably.
    unsafe { device.launch(kernel, grid, &arguments) }
}

/// `y [E, H] = x weight^T + projected[subject, ..H] + projected[object, H..]`; `sums` as for [`linear_forward`].
pub fn linear_forward_gather(
    device: &Device,
    format: Format,
    y: &mut MatrixMut<'_>,
    x: Matrix<'_>,
    weight: Matrix<'_>,
    projected: Slice<'_, f32>,
    ends: Ends<'_>,
    sums: Option<&mut Sums>,
) -> Result<()> {
    let rows = ends.edges;
    check_rows("linear_forward_gather", rows, [y.rows, x.rows]);
    let shapes = (y.columns, x.columns);
    assert_eq!(shapes, (weight.rows, weight.columns), "linear_forward_gather: shapes");
    let split = [y.lines, x.lines, weight.lines].iter().any(|lines| lines.is_split());
    assert!(!split, "linear_forward_gather: no matrix may be split");
    ends.check();
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = Arguments::default().add(&mut y.values).add(x.values).add(weight.values);
    let arguments = arguments.add(projected).add(ends.subject).add(ends.object);
    let arguments = arguments.add_sums(device, sums, y.rows, y.columns)?;
    let arguments = arguments.add(y.lines.stride).add(x.lines.stride).add(weight.lines.stride);
    let arguments = arguments.add(rows).add(y.columns).add(x.columns);
    let (kernel, grid) = format.launch(Product::ForwardGather, y.rows, y.columns);
    // SAFETY: as in kernels/linear.cuh; a matrix's slice holds its rows, the ends are rows of `projected`, and the sums
    // have room; what is written is borrowed mutably.
    unsafe { device.launch(kernel, grid, &arguments) }
}

/// `d_x [R, I] = d_y [R, O] weight [O, I]`.
pub fn linear_backward_input(
    device: &Device,
    format: Format,
    rows: Rows<'_>,
    d_x: &mut MatrixMut<'_>,
    d_y: Matrix<'_>,
    weight: Matrix<'_>,
) -> Result<()> {
    check_rows("linear_backward_input", rows, [d_x.rows, d_y.rows]);
    let shapes = (d_x.columns, d_y.columns);
    assert_eq!(shapes, (weight.columns, weight.rows), "linear_backward_input: shapes");
    assert!(
        !d_x.lines.is_split() && !d_y.lines.is_split(),
        "linear_backward_input: only the weight may be split"
    );
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = Arguments::default().add(&mut d_x.values).add(d_y.values).add(weight.values);
    let arguments = arguments.add(d_x.lines.stride).add(d_y.lines.stride).add_lines(weight.lines);
    let arguments = arguments.add(rows).add(d_x.columns).add(d_y.columns);
    let (kernel, grid) = format.launch(Product::BackwardInput, d_x.rows, d_x.columns);
    // SAFETY: as in kernels/linear.cuh; a matrix's slice holds its rows; d_x is borrowed mutably and alone written.
    unsafe { device.launch(kernel, grid, &arguments) }
}

/// [`linear_backward_input`] where x was relu(norm(z)); into `sums` what batch norm's backward begins with.
pub fn linear_backward_input_sums(
    device: &Device,
    format: Format,
    rows: Rows<'_>,
    d_x: &mut MatrixMut<'_>,
    d_y: Matrix<'_>,
    weight: Matrix<'_>,
    z: Matrix<'_>,
    norm: Norm<'_>,
    sums: &mut Sums,
) -> Result<()> {
    check_rows("linear_backward_input_sums", rows, [d_x.rows, d_y.rows, z.rows]);
    let shapes = (d_x.columns, d_y.columns, z.columns);
    let wanted = (weight.columns, weight.rows, d_x.columns);
    assert_eq!(shapes, wanted, "linear_backward_input_sums: shapes");
    let split = [d_x.lines, d_y.lines, weight.lines, z.lines].iter().any(|lines| lines.is_split());
    assert!(!split, "linear_backward_input_sums: no matrix may be split");
    norm.check(d_x.columns);
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = Arguments::default().add(&mut d_x.values);
    let arguments = arguments.add_sums(device, Some(sums), d_x.rows, d_x.columns)?;
    let arguments = arguments.add(d_y.values).add(weight.values).add(z.values).add_norm(norm);
    let arguments = arguments.add(d_x.lines.stride).add(d_y.lines.stride).add(weight.lines.stride);
    let arguments = arguments.add(z.lines.stride).add(rows).add(d_x.columns).add(d_y.columns);
    let (kernel, grid) = format.launch(Product::BackwardInputSums, d_x.rows, d_x.columns);
    // SAFETY: as in kernels/linear.cuh; a matrix's slice holds its rows, a norm's its columns, and the sums have room;
    // what is written is borrowed mutably.
    unsafe { device.launch(kernel, grid, &arguments) }
}

/// Panics unless matrices have as many rows as the grid is for.
#[track_caller]
fn check_rows<const N: usize>(name: &str, rows: Rows<'_>, of: [usize; N]) {
    assert_eq!(of, [rows.bound; N], "{name}: rows of matrices");
}

/// Into how many parts a weight's gradient is split, a sum over rows each: as many as make their tiles fill a GPU, if each
/// gets enough rows. The kernels find the parts from the number of rows alone (`row_parts` in `kernels/linear.cuh`), so
/// that neither the tile nor the grid's bound changes a bit.
#[derive(Clone, Copy)]
struct Parts {
    /// For the smaller tile.
    most: usize,
    /// For the larger one, once each gets enough rows; 0 where the format has none.
    most_large: usize,
}

impl Parts {
    fn new(format: Format, outputs: usize, inputs: usize) -> Self {
        let most = |tile: Tile| (ENOUGH_BLOCKS / tile.count(outputs, inputs)).max(1);
        let most_large = if format.tile(true) == Tile::Large { most(Tile::Large) } else { 0 };
        Parts { most: most(Tile::Small), most_large }
    }

    /// Whether so many rows are enough for the larger tile.
    fn are_large(self, rows: usize) -> bool {
        self.most_large > 0 && rows >= LEAST_LARGE_PART_ROWS * self.most_large
    }

    /// The most of any number of rows up to `bound`.
    fn up_to(self, bound: usize) -> usize {
        let small = self.most.min(bound.div_ceil(LEAST_PART_ROWS)).max(1);
        if self.are_large(bound) { small.max(self.most_large) } else { small }
    }
}

/// The most values that [`linear_backward_weight`] keeps in `parts` for up to `rows` rows.
pub(super) fn parts_len(format: Format, outputs: usize, inputs: usize, rows: usize) -> usize {
    match Parts::new(format, outputs, inputs).up_to(rows) {
        1 => 0,
        parts => parts * outputs * inputs,
    }
}

/// `d_weight [O, I] = d_y [R, O]^T x [R, I]`; `parts` is memory for the parts of the sum over rows.
pub fn linear_backward_weight(
    device: &Device,
    format: Format,
    rows: Rows<'_>,
    d_weight: &mut MatrixMut<'_>,
    d_y: Matrix<'_>,
    x: Input<'_>,
    parts: &mut Buffer<f32>,
) -> Result<()> {
    let x_matrix = x.check();
    let (outputs, inputs) = (d_weight.rows, d_weight.columns);
    check_rows("linear_backward_weight", rows, [d_y.rows, x_matrix.rows]);
    assert_eq!((outputs, inputs), (d_y.columns, x_matrix.columns), "linear_backward_weight: shapes");
    assert!(
        !d_y.lines.is_split() && !x_matrix.lines.is_split(),
        "linear_backward_weight: only d_weight may be split"
    );
    let of = Parts::new(format, outputs, inputs);
    let (tile, most) = (format.tile(of.are_large(rows.bound)), of.up_to(rows.bound));
    let in_parts = most > 1;
    let len = if in_parts { most * outputs * inputs } else { 0 };
    device.reserve(parts, len)?;
    let mut part_values = parts.slice_mut(0..len);
    let arguments = match in_parts {
        true => Arguments::default().add(&mut part_values),
        false => Arguments::default().add(&mut d_weight.values),
    };
    let lines = if in_parts { Lines::new(inputs) } else { d_weight.lines };
    let arguments = arguments.add(d_y.values).add_values(x);
    let (product, arguments) = match x {
        Input::Values(_) => (Product::BackwardWeight, arguments.add_lines(lines)),
        Input::Activated(..) => {
            assert!(!lines.is_split(), "linear_backward_weight: a split d_weight of an activated input");
            (Product::BackwardWeightNorm, arguments.add(lines.stride))
        }
    };
    let arguments = arguments.add(d_y.lines.stride).add(x_matrix.lines.stride).add(outputs).add(inputs);
    let arguments = arguments.add(rows).add(of.most).add(of.most_large);
    let arguments = arguments.add(Argument::Long((outputs * inputs) as i64));
    let (kernel, grid) = format.kernel(product, tile, [outputs, inputs, most]);
    // SAFETY: as in kernels/linear.cuh; a matrix's slice holds its rows, a norm's its columns; no number of rows up to the
    // bound makes more parts than there is room for; what is written is borrowed mutably.
    unsafe { device.launch(kernel, grid, &arguments) }?;
    if !in_parts {
        return Ok(());
    }
    let arguments = Arguments::default().add(&mut d_weight.values).add(part_values.as_slice());
    let arguments = arguments.add_lines(d_weight.lines).add(outputs).add(inputs);
    let arguments = arguments.add(rows).add(of.most).add(of.most_large);
    // SAFETY: as in kernels/linear_fp32.cu; the launch before wrote as many parts as this adds up; d_weight is borrowed
    // mutably.
    unsafe { device.launch("linear_sum_parts", Grid::cover(outputs * inputs, 256), &arguments) }
}
