//! linear: matrix products of a linear layer and the operations fused with them (`kernels/linear.cuh`).

mod arguments;
mod backward;
mod dynamic_shared;
mod forward;
mod kernels;
mod matrix;

pub(crate) use backward::WeightGradient;
pub use backward::{
    ActivatedBackward, Backward, InputBackward, LinearGradients, Unit, UnitBackward, WeightParts,
    linear_backward, linear_backward_states, linear_backward_unit,
};
pub(crate) use dynamic_shared::dynamic_shared_bytes;
pub use forward::{
    Forward, ForwardGather, linear_forward, linear_forward_gather, linear_forward_two, linear_forward_unit,
};
pub use kernels::StoredFormat;
pub(crate) use kernels::{BF16_FILE, BF16X3_FILE, FP32_FILE};
pub use matrix::{Matrix, MatrixMut};

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::launchers::batch_norm::{Norm, NormBackward, batch_norm_backward};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;
use matrix::Lines;

/// Number of blocks that fill a large GPU twice, as in `kernels/linear.cuh`. A weight's gradient is split
/// into parts until it has about as many blocks. The larger tile is used if it gives as many.
pub(crate) const ENOUGH_BLOCKS: usize = 264;
/// Smallest number of rows of a part, for which its product outweighs adding up the parts; as in
/// `kernels/linear.cuh`.
pub(crate) const LEAST_PART_ROWS: usize = 128;

/// Number format of a product's operands. Sums are in single precision in every format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Single precision, without tensor cores.
    Fp32,
    /// bf16 as the operands are stored: 8 significand bits.
    Bf16,
    /// Each operand as the sum of two bf16, about 16 significand bits.
    Bf16x3,
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

    /// Number of tiles that cover a matrix.
    fn count(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.size()) * columns.div_ceil(self.size())
    }
}

/// Whether a matrix is large: the larger tiles that cover it fill a GPU.
pub(crate) fn is_large(rows: usize, columns: usize) -> bool {
    Tile::Large.count(rows, columns) >= ENOUGH_BLOCKS
}

impl Format {
    /// Returns the larger tile if it is `wanted` and the format has it.
    fn tile(self, wanted: bool) -> Tile {
        if wanted && self != Format::Fp32 { Tile::Large } else { Tile::Small }
    }
}

/// Form in which a kernel takes a layer's weight and its gradient.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weights {
    InOnePart,
    MayBeSplit,
}

impl Weights {
    #[track_caller]
    fn check(self, launcher: &str, lines: Lines) {
        let fits = self == Weights::MayBeSplit || !lines.is_split();
        assert!(fits, "{launcher}: a split weight where the kernel takes it in one part");
    }
}

/// Input of a layer, as read by a product.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a, T> {
    /// Values as stored.
    Values(Matrix<'a, T>),
    /// relu(norm(values)), computed while loading.
    Activated(Matrix<'a, T>, Norm<'a>),
}

impl<'a, T: StoredElement> Input<'a, T> {
    /// Returns the values; panics unless their norm has the same number of columns.
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

/// Gradient with respect to a layer's output, as read by the products of its backward.
pub enum Gradient<'a, T> {
    /// Values as stored.
    Values(Matrix<'a, T>),
    /// Computed by batch norm's backward while loading, from the gradient with respect to relu(norm(output)).
    ThroughNorm(NormBackward<'a, T>),
}

impl<T: StoredElement> Gradient<'_, T> {
    /// Converts the gradient to the form that suits the gradient of an input `[rows, inputs]`. If that is
    /// large, a gradient through norm is computed now, in place. Within the products every block would
    /// recompute it, which costs more than the launch that it saves. The bits are the same either way.
    pub fn for_input(self, device: &Device, rows: Rows<'_>, inputs: usize) -> Result<Self> {
        match self {
            Gradient::ThroughNorm(mut of) if is_large(rows.bound, inputs) => {
                batch_norm_backward(device, &mut of, rows)?;
                let columns = of.columns();
                Ok(Gradient::Values(Matrix::new(of.d.into_slice(), rows.bound, columns)))
            }
            other => Ok(other),
        }
    }

    /// Values in memory: the gradient, or the gradient from which it is computed.
    #[track_caller]
    fn matrix(&self, rows: usize) -> Matrix<'_, T> {
        match self {
            Gradient::Values(d_y) => *d_y,
            Gradient::ThroughNorm(of) => {
                of.check(rows);
                Matrix::new(of.d.as_slice(), rows, of.columns())
            }
        }
    }

    /// Returns the stride of the rows. Panics unless there are `rows` rows of `columns` columns.
    #[track_caller]
    pub(crate) fn check(&self, rows: usize, columns: usize) -> usize {
        let of = self.matrix(rows);
        assert!(of.rows >= rows && !of.lines.is_split(), "a gradient of {rows} rows that is not split");
        assert_eq!(of.columns, columns, "columns of a gradient");
        of.lines.stride
    }
}

/// Panics unless the number of rows of each matrix is that of the grid.
#[track_caller]
fn check_rows<const N: usize>(launcher: &str, rows: Rows<'_>, of: [usize; N]) {
    assert_eq!(of, [rows.bound; N], "{launcher}: rows of matrices");
}
