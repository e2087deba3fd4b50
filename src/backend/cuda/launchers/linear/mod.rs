//! linear: the products of a linear layer and what is fused with them (`kernels/linear.cuh`).

mod backward;
mod dynamic_shared;

pub(crate) use backward::WeightGradient;
pub use backward::{
    ActivatedBackward, Backward, InputBackward, LinearGradients, Unit, UnitBackward, WeightParts,
    linear_backward, linear_backward_states, linear_backward_unit,
};

use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Argument, Arguments, Device, Grid, check_len, dimension};
use crate::backend::cuda::launchers::batch_norm::{BatchStatistics, Norm, NormBackward, batch_norm_backward};
use crate::backend::cuda::launchers::lists::Ends;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;
pub(crate) use dynamic_shared::dynamic_shared_bytes;

/// The products' kernels in a format: those of the smaller tile in the order of [`Product`], then as many as there are of
/// the larger one.
macro_rules! kernels {
    ($constant:ident, $format:literal $(, $larger:literal)?) => {
        pub(crate) const $constant: &[&str] = &[
            concat!("linear_forward_", $format, "_64"),
            concat!("linear_forward_norm_", $format, "_64"),
            concat!("linear_forward_unit_", $format, "_64"),
            concat!("linear_forward_gather_", $format, "_64"),
            concat!("linear_forward_gather_norm_", $format, "_64"),
            concat!("linear_forward_two_", $format, "_64"),
            concat!("linear_backward_", $format, "_64"),
            concat!("linear_backward_norm_", $format, "_64"),
            concat!("linear_backward_unit_", $format, "_64"),
            concat!("linear_backward_through_norm_", $format, "_64"),
            concat!("linear_backward_norm_through_norm_", $format, "_64"),
            concat!("linear_backward_states_", $format, "_64"),
            $(
                concat!("linear_forward_", $format, $larger),
                concat!("linear_forward_norm_", $format, $larger),
                concat!("linear_forward_unit_", $format, $larger),
                concat!("linear_forward_gather_", $format, $larger),
                concat!("linear_forward_gather_norm_", $format, $larger),
                concat!("linear_forward_two_", $format, $larger),
                concat!("linear_backward_", $format, $larger),
                concat!("linear_backward_norm_", $format, $larger),
                concat!("linear_backward_unit_", $format, $larger),
            )?
        ];
    };
}
kernels!(FP32_KERNELS, "fp32");
kernels!(BF16_KERNELS, "bf16", "_128");
kernels!(BF16X3_KERNELS, "bf16x3", "_128");

/// As in `kernels/linear.cuh`. Blocks that fill a large GPU twice: a weight's gradient is split into parts until it has
/// about as many, and the larger tile is taken where it makes as many.
const ENOUGH_BLOCKS: usize = 264;
/// Least rows of a part, so that its product outweighs adding it up.
const LEAST_PART_ROWS: usize = 128;

/// How products are computed: the format of their operands. Sums are in single precision in every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they are, without tensor cores.
    Fp32,
    /// Stored in bf16: 8 significand bits.
    Bf16,
    /// The sum of two bf16, some 16 significand bits.
    Bf16x3,
}

#[derive(Clone, Copy)]
enum Product {
    Forward,
    ForwardNorm,
    ForwardUnit,
    ForwardGather,
    ForwardGatherNorm,
    ForwardTwo,
    Backward,
    BackwardNorm,
    BackwardUnit,
    BackwardThroughNorm,
    BackwardNormThroughNorm,
    BackwardStates,
}

impl Product {
    /// How many come with the smaller tile: all. With the larger one the last three do not.
    const COUNT: usize = Product::BackwardStates as usize + 1;
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

/// Whether a matrix is large: the larger tiles that cover it fill a GPU.
pub(crate) fn is_large(rows: usize, columns: usize) -> bool {
    Tile::Large.count(rows, columns) >= ENOUGH_BLOCKS
}

impl Format {
    /// This format, whose operands are stored as `T`: bf16 as such, all others in single precision.
    #[track_caller]
    fn of<T: StoredElement>(self) -> Self {
        assert_eq!(self == Format::Bf16, T::PRODUCTS_READ_COPY, "{self:?}: operands stored in another type");
        self
    }

    /// The larger tile where `wanted` says so; plain products have one size only.
    fn tile(self, wanted: bool) -> Tile {
        if wanted && self != Format::Fp32 { Tile::Large } else { Tile::Small }
    }

    /// A product's kernel with this tile, and the threads of its blocks.
    fn kernel(self, product: Product, tile: Tile) -> (&'static str, u32) {
        let (kernels, threads) = match self {
            Format::Fp32 => (FP32_KERNELS, 256),
            Format::Bf16 => (BF16_KERNELS, tile.threads()),
            Format::Bf16x3 => (BF16X3_KERNELS, tile.threads()),
        };
        let first = if tile == Tile::Large { Product::COUNT } else { 0 };
        (kernels[first + product as usize], threads)
    }

    /// The kernel and grid that make a matrix of `rows` x `columns`; without rows there is a block for each strip of
    /// columns, whose sums are those of nothing.
    fn forward(self, product: Product, rows: usize, columns: usize) -> (&'static str, Grid) {
        let tile = self.tile(is_large(rows, columns));
        let (name, threads) = self.kernel(product, tile);
        let blocks = [columns.div_ceil(tile.size()), rows.div_ceil(tile.size()).max(1), 1].map(dimension);
        (name, Grid { blocks, threads: [threads, 1, 1] })
    }
}

/// A matrix to read: rows of `columns` values, `stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    values: Slice<'a, T>,
    rows: usize,
    columns: usize,
    lines: Lines,
}

/// A matrix to write.
#[derive(Debug)]
pub struct MatrixMut<'a, T> {
    values: SliceMut<'a, T>,
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

impl<'a, T: StoredElement> Matrix<'a, T> {
    /// The first `rows` rows of a stored matrix.
    #[track_caller]
    pub fn new(values: Slice<'a, T>, rows: usize, columns: usize) -> Self {
        check_len("a matrix", values.len(), rows * T::stride(columns));
        Matrix { values, rows, columns, lines: Lines::new(T::stride(columns)) }
    }

    /// The values, from the first row on.
    pub(crate) fn values(&self) -> Slice<'a, T> {
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
        check_columns::<T>(start, count, self.columns);
        let values = self.values.slice(start.min(self.values.len())..self.values.len());
        Matrix { values, columns: count, ..self }
    }

    /// The columns `first..first + count` above the columns `second..second + count`: twice the rows.
    #[track_caller]
    pub fn stacked(self, first: usize, second: usize, count: usize) -> Self {
        check_columns::<T>(second, count, self.columns);
        let lines = self.lines.stacked(self.rows, first, second);
        Matrix { rows: 2 * self.rows, lines, ..self.columns(first, count) }
    }
}

impl<'a, T: StoredElement> MatrixMut<'a, T> {
    /// The first `rows` rows of a stored matrix.
    #[track_caller]
    pub fn new(values: SliceMut<'a, T>, rows: usize, columns: usize) -> Self {
        check_len("a matrix", values.len(), rows * T::stride(columns));
        MatrixMut { values, rows, columns, lines: Lines::new(T::stride(columns)) }
    }

    /// The columns `start..start + count`.
    #[track_caller]
    pub fn columns(&mut self, start: usize, count: usize) -> MatrixMut<'_, T> {
        check_columns::<T>(start, count, self.columns);
        let (len, rows, lines) = (self.values.len(), self.rows, self.lines);
        MatrixMut { values: self.values.slice_mut(start.min(len)..len), rows, columns: count, lines }
    }

    /// As [`Matrix::stacked`].
    #[track_caller]
    pub fn stacked(&mut self, first: usize, second: usize, count: usize) -> MatrixMut<'_, T> {
        check_columns::<T>(second, count, self.columns);
        let (rows, lines) = (2 * self.rows, self.lines.stacked(self.rows, first, second));
        MatrixMut { rows, lines, ..self.columns(first, count) }
    }

    /// Of three parts of `count` columns each the outer ones, as [`Matrix::stacked`], and the middle one.
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

/// Panics unless there are such columns, and they begin where rows may.
#[track_caller]
fn check_columns<T: StoredElement>(start: usize, count: usize, columns: usize) {
    assert!(start + count <= columns, "columns {start} and {count} more of {columns}");
    assert!(T::begins_row(start), "column {start} of rows that are copied 16 bytes at a time");
}

/// What a product reads of a layer's input.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a, T> {
    /// The values.
    Values(Matrix<'a, T>),
    /// relu(norm(values)).
    Activated(Matrix<'a, T>, Norm<'a>),
}

impl<'a, T: StoredElement> Input<'a, T> {
    #[track_caller]
    fn check(self) -> Matrix<'a, T> {
        match self {
            Input::Values(x) => x,
            Input::Activated(x, norm) => {
                norm.check(x.columns);
                x
            }
        }
    }
}

/// The gradient by a layer's output, as the products of its backward read it.
pub enum Gradient<'a, T> {
    /// The values.
    Values(Matrix<'a, T>),
    /// What batch norm's backward makes of the gradient by relu(norm(output)), while that is read.
    ThroughNorm(NormBackward<'a, T>),
}

impl<T: StoredElement> Gradient<'_, T> {
    /// As it suits the gradient of an input `[rows, inputs]`. Where that is large, what is made of another gradient is
    /// written in its place here and now: in the products every block would make it anew, which costs more than the launch
    /// that it saves. It has the same bits in either way.
    pub fn for_input(self, device: &Device, rows: Rows<'_>, inputs: usize) -> Result<Self> {
        match self {
            Gradient::ThroughNorm(mut of) if is_large(rows.bound, inputs) => {
                batch_norm_backward(device, &mut of, rows)?;
                let columns = of.columns();
                Ok(Gradient::Values(Matrix::new(of.d.into_slice(), rows.bound, columns)))
            }
            as_it_is => Ok(as_it_is),
        }
    }

    /// The stride of its rows; panics unless there are so many, of so many columns.
    #[track_caller]
    pub(crate) fn check(&self, rows: usize, columns: usize) -> usize {
        let of = match self {
            Gradient::Values(d_y) => {
                assert!(
                    d_y.rows >= rows && !d_y.lines.is_split(),
                    "a gradient of {rows} rows that is not split"
                );
                d_y.columns
            }
            Gradient::ThroughNorm(of) => {
                of.check(rows);
                of.columns()
            }
        };
        assert_eq!(of, columns, "columns of a gradient");
        match self {
            Gradient::Values(d_y) => d_y.lines.stride,
            Gradient::ThroughNorm(_) => T::stride(columns),
        }
    }
}

impl Arguments {
    pub(crate) fn add_gradient<T: StoredElement>(self, d_y: &Gradient<'_, T>) -> Self {
        match d_y {
            Gradient::Values(d_y) => self.add(d_y.values),
            Gradient::ThroughNorm(of) => self.add_norm_backward(of),
        }
    }

    fn add_values<T>(self, x: Input<'_, T>) -> Self {
        match x {
            Input::Values(x) => self.add(x.values),
            Input::Activated(x, norm) => self.add(x.values).add_norm(norm),
        }
    }

    fn add_lines(self, lines: Lines) -> Self {
        self.add(lines.stride).add(lines.split).add(Argument::Long(lines.jump))
    }
}

/// A forward product: `y [R, O] = x [R, I] weight [O, I]^T`.
pub struct Forward<'a, T, X> {
    /// R.
    pub rows: Rows<'a>,
    /// `[R, O]`, written.
    pub y: MatrixMut<'a, T>,
    /// `[R, I]`.
    pub x: X,
    /// `[O, I]`.
    pub weight: Matrix<'a, T>,
}

/// The product of an edge's own state and what the edge gathers:
/// `y [E, H] = x [E, I] weight [H, I]^T + projected[subject, ..H] + projected[object, H..]`.
pub struct ForwardGather<'a, T> {
    /// E, and the rows of `projected` that each edge gathers.
    pub ends: Ends<'a>,
    /// `[n, 2 H]`.
    pub projected: Slice<'a, T>,
    /// `[E, H]`, written.
    pub y: MatrixMut<'a, T>,
    /// `[E, I]`.
    pub x: Input<'a, T>,
    /// `[H, I]`.
    pub weight: Matrix<'a, T>,
}

/// `y = x weight^T` and the statistics of y. Only the weight of plain values may be split.
pub fn linear_forward<T: StoredElement>(
    device: &Device,
    format: Format,
    of: Forward<'_, T, Input<'_, T>>,
    statistics: Option<BatchStatistics<'_>>,
) -> Result<()> {
    let Forward { rows, mut y, x, weight } = of;
    let x_matrix = x.check();
    check_rows("linear_forward", rows, [y.rows, x_matrix.rows]);
    let shapes = (y.columns, x_matrix.columns);
    assert_eq!(shapes, (weight.rows, weight.columns), "linear_forward: shapes");
    assert!(
        !y.lines.is_split() && !x_matrix.lines.is_split(),
        "linear_forward: only the weight may be split"
    );
    let arguments = Arguments::default().add(&mut y.values).add_values(x).add(weight.values);
    let arguments = arguments.add_statistics(device, statistics, y.rows, y.columns)?;
    let arguments = arguments.add(y.lines.stride).add(x_matrix.lines.stride);
    let (product, arguments) = match x {
        Input::Values(_) => (Product::Forward, arguments.add_lines(weight.lines)),
        Input::Activated(..) => {
            assert!(!weight.lines.is_split(), "linear_forward: a split weight of an activated input");
            (Product::ForwardNorm, arguments.add(weight.lines.stride))
        }
    };
    let arguments = arguments.add(rows).add(y.columns).add(x_matrix.columns);
    let (kernel, grid) = format.of::<T>().forward(product, y.rows, y.columns);
    // SAFETY: as in kernels/linear.cuh; a matrix's slice holds its rows, a norm's its columns, and the sums have room;
    // what is written is borrowed mutably.
    unsafe { device.launch_positional(kernel, grid, &arguments) }
}

/// `y = (u / |u|) weight^T` by row, where `u [R, I] = relu(norm(z))` and `of.x` is z with its norm. Writes the divisors to
/// `lengths [R]`: |u|, or the smallest value that an l2 normalisation divides by. Without lengths `y = u weight^T`.
pub fn linear_forward_unit<T: StoredElement>(
    device: &Device,
    format: Format,
    of: Forward<'_, T, (Matrix<'_, T>, Norm<'_>)>,
    lengths: Option<&mut SliceMut<'_, f32>>,
) -> Result<()> {
    let Forward { rows, mut y, x: (z, norm), weight } = of;
    let x = Input::Activated(z, norm);
    check_rows("linear_forward_unit", rows, [y.rows, x.check().rows]);
    assert_eq!((y.columns, z.columns), (weight.rows, weight.columns), "linear_forward_unit: shapes");
    assert!(!y.lines.is_split() && !z.lines.is_split(), "linear_forward_unit: only the weight may be split");
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = Arguments::default().add(&mut y.values);
    let arguments = match lengths {
        Some(lengths) => {
            check_len("linear_forward_unit: lengths", lengths.len(), rows.bound);
            arguments.add(lengths)
        }
        None => arguments.add_nulls(1),
    };
    let arguments = arguments.add_values(x).add(weight.values).add(y.lines.stride).add(z.lines.stride);
    let arguments = arguments.add_lines(weight.lines).add(rows).add(y.columns).add(z.columns);
    let (kernel, grid) = format.of::<T>().forward(Product::ForwardUnit, y.rows, y.columns);
    // SAFETY: as in kernels/linear.cuh; a matrix's slice holds its rows, a norm's its columns; what is written is borrowed
    // mutably.
    unsafe { device.launch_positional(kernel, grid, &arguments) }
}

/// [`ForwardGather`] and the statistics of y. No matrix may be split.
pub fn linear_forward_gather<T: StoredElement>(
    device: &Device,
    format: Format,
    of: ForwardGather<'_, T>,
    statistics: Option<BatchStatistics<'_>>,
) -> Result<()> {
    let ForwardGather { ends, projected, mut y, x, weight } = of;
    let (rows, x_matrix) = (ends.edges, x.check());
    check_rows("linear_forward_gather", rows, [y.rows, x_matrix.rows]);
    let shapes = (y.columns, x_matrix.columns);
    assert_eq!(shapes, (weight.rows, weight.columns), "linear_forward_gather: shapes");
    let split = [y.lines, x_matrix.lines, weight.lines].iter().any(|lines| lines.is_split());
    assert!(!split, "linear_forward_gather: no matrix may be split");
    ends.check();
    let arguments = Arguments::default().add(&mut y.values).add_values(x).add(weight.values);
    let arguments = arguments.add(projected).add(T::stride(2 * y.columns)).add(ends.subject).add(ends.object);
    let arguments = arguments.add_statistics(device, statistics, y.rows, y.columns)?;
    let arguments = arguments.add(y.lines.stride).add(x_matrix.lines.stride).add(weight.lines.stride);
    let arguments = arguments.add(rows).add(y.columns).add(x_matrix.columns);
    let product = match x {
        Input::Values(_) => Product::ForwardGather,
        Input::Activated(..) => Product::ForwardGatherNorm,
    };
    let (kernel, grid) = format.of::<T>().forward(product, y.rows, y.columns);
    // SAFETY: as in kernels/linear.cuh; a matrix's slice holds its rows, a norm's its columns, the ends are rows of
    // `projected`, and the sums have room; what is written is borrowed mutably.
    unsafe { device.launch_positional(kernel, grid, &arguments) }
}

/// Two products that do not depend on each other, in one launch. Their inputs have rows of one width and stride, and
/// their weights are parts of one matrix.
pub fn linear_forward_two<T: StoredElement>(
    device: &Device,
    format: Format,
    of: [Forward<'_, T, Matrix<'_, T>>; 2],
) -> Result<()> {
    let tile = format.tile(of.iter().any(|of| is_large(of.y.rows, of.y.columns)));
    let [first_blocks, second_blocks] = of.each_ref().map(|of| tile.count(of.y.rows, of.y.columns));
    if first_blocks + second_blocks == 0 {
        return Ok(());
    }
    let alike = of.each_ref().map(|of| (of.x.lines.stride, of.weight.lines.stride, of.x.columns));
    let [(x_stride, weight_stride, inputs), second] = alike;
    assert_eq!(alike[0], second, "linear_forward_two: rows of inputs and of weights");
    let arguments = of.into_iter().fold(Arguments::default(), |arguments, of| {
        let Forward { rows, mut y, x, weight } = of;
        check_rows("linear_forward_two", rows, [y.rows, x.rows]);
        assert_eq!((y.columns, x.columns), (weight.rows, weight.columns), "linear_forward_two: shapes");
        assert!(!y.lines.is_split() && !x.lines.is_split(), "linear_forward_two: only weights may be split");
        let arguments = arguments.add(&mut y.values).add(x.values).add(weight.values).add(y.lines.stride);
        arguments.add(weight.lines.split).add(Argument::Long(weight.lines.jump)).add(rows).add(y.columns)
    });
    let arguments = arguments.add(x_stride).add(weight_stride).add(inputs).add(first_blocks);
    let (kernel, threads) = format.of::<T>().kernel(Product::ForwardTwo, tile);
    let grid = Grid::rows(first_blocks + second_blocks, threads);
    // SAFETY: as in kernels/linear.cuh; a matrix's slice holds its rows; what is written is borrowed mutably.
    unsafe { device.launch_positional(kernel, grid, &arguments) }
}

/// Panics unless matrices have as many rows as the grid is for.
#[track_caller]
fn check_rows<const N: usize>(name: &str, rows: Rows<'_>, of: [usize; N]) {
    assert_eq!(of, [rows.bound; N], "{name}: rows of matrices");
}
