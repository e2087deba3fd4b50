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
use dynamic_shared::WARPGROUP_TILES;
pub(crate) use dynamic_shared::dynamic_shared_bytes;
pub use forward::{
    Forward, ForwardGather, linear_forward, linear_forward_gather, linear_forward_two, linear_forward_unit,
};
pub use kernels::StoredFormat;
pub(crate) use kernels::{BF16_FILE, BF16_WARPGROUP_FILES, BF16X3_FILE, BF16X3_WARPGROUP_FILES, FP32_FILE};
pub use matrix::{Matrix, MatrixMut};

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::launchers::batch_norm::Norm;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::kernels::Kernels;
use matrix::Lines;

/// Number of blocks that fill a large GPU twice, as in `kernels/linear_block.cuh`. A weight's gradient is split
/// into parts until there are about as many blocks.
pub(crate) const ENOUGH_BLOCKS: usize = 264;
/// Number of larger tiles from which a product takes them: most multiprocessors of a large GPU get one. The smaller tile
/// reads each operand twice as often, but fills a GPU with less work.
const LARGE_FORWARD: usize = 100;
/// The same for the tiles of [`WIDE_SIDES`], which take half as long again.
const WIDE_FORWARD: usize = 66;
/// Rows and columns of the larger tile of bf16's forward, as in `kernels/matmul.cuh`. The other products have 128 x 128.
const WIDE_SIDES: [usize; 2] = [128, 192];
/// The same for the gradient of the input, as in `kernels/linear_block.cuh`. The parts of the weight's gradient, in the same
/// launch, fill the rest of the GPU.
const LARGE_BACKWARD: usize = 20;
/// Most parts of a weight's gradient in larger tiles, as in `kernels/linear_block.cuh`.
const MOST_LARGE_PARTS: usize = 4;
/// Number of blocks of warpgroups with 128 rows that run at once on a large GPU, and most parts of a weight's gradient.
const WARPGROUP_BLOCKS: usize = 132;
const MOST_WARPGROUP_PARTS: usize = 8;
/// Rows beyond [`LEAST_PART_ROWS`] for which a weight's gradient has another part, as in `kernels/linear_warpgroup.cuh`.
const ROWS_OF_ANOTHER_PART: usize = 640;
/// Number of warpgroups' smallest tiles, in all matrices of a launch, from which it takes larger ones: about one for each
/// multiprocessor of a large GPU.
const LARGE_WARPGROUP: usize = 140;
/// Smallest number of rows of a part, for which its product outweighs adding up the parts; as in
/// `kernels/weight_parts.cuh`.
const LEAST_PART_ROWS: usize = 128;

/// Number format of a product's operands, and the instructions that multiply them. Sums are in single precision in every
/// format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Single precision, without tensor cores.
    Fp32,
    /// bf16 as the operands are stored: 8 significand bits.
    Bf16,
    /// Each operand as the sum of two bf16, about 16 significand bits.
    Bf16x3,
    /// [`Format::Bf16`] by the instructions of a warpgroup, on GPUs of compute capability 9.0. All products of a run use the
    /// same instructions ([`Kernels`]).
    Bf16Warpgroup,
    /// [`Format::Bf16x3`] by the same instructions.
    Bf16x3Warpgroup,
}

/// A block's tile: 64 x 64, 128 x 128, or one of [`WARPGROUP_TILES`] by its index.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tile {
    Small,
    Large,
    Warpgroup(usize),
}

/// The largest tile of a warpgroup, 128 x 256.
const LARGEST_WARPGROUP: Tile = Tile::Warpgroup(WARPGROUP_TILES.len() - 1);

impl Tile {
    /// Numbers of rows and of columns.
    fn sides(self) -> [usize; 2] {
        match self {
            Tile::Small => [64; 2],
            Tile::Large => [128; 2],
            Tile::Warpgroup(at) => WARPGROUP_TILES[at].0,
        }
    }

    /// Number of tiles that cover a matrix.
    fn count(self, rows: usize, columns: usize) -> usize {
        covering(self.sides(), rows, columns)
    }

    /// The tile of a warpgroup for matrices with these rows and columns: the smallest one if few of them cover all; else, of
    /// those with 128 rows, that with the least of a `cost`, and the widest of several.
    fn of_warpgroup(of: impl IntoIterator<Item = (usize, usize)>, cost: impl Fn(Tile) -> usize) -> Self {
        let smallest = Tile::Warpgroup(0);
        let count: usize = of.into_iter().map(|(rows, columns)| smallest.count(rows, columns)).sum();
        if count < LARGE_WARPGROUP {
            return smallest;
        }
        let tiles = (1..WARPGROUP_TILES.len()).rev().map(Tile::Warpgroup);
        tiles.min_by_key(|&tile| cost(tile) * tile.sides()[1]).expect("three tiles")
    }
}

/// Number of tiles with these sides that cover a matrix.
fn covering([tile_rows, tile_columns]: [usize; 2], rows: usize, columns: usize) -> usize {
    rows.div_ceil(tile_rows) * columns.div_ceil(tile_columns)
}

impl Format {
    /// Returns the larger tile if it is `wanted` and the format has it.
    fn tile(self, wanted: bool) -> Tile {
        if wanted && matches!(self, Format::Bf16 | Format::Bf16x3) { Tile::Large } else { Tile::Small }
    }

    /// Tile of a launch that computes matrices with these rows and columns.
    fn forward_tile<const N: usize>(self, of: [(usize, usize); N]) -> Tile {
        if self.is_of_warpgroups() {
            return Tile::of_warpgroup(of, |tile| {
                of.iter().map(|&(_, columns)| tile.count(1, columns)).sum()
            });
        }
        let (sides, enough) = (self.forward_sides(Tile::Large), self.large_forward());
        self.tile(of.iter().any(|&(rows, columns)| covering(sides, rows, columns) >= enough))
    }

    /// Numbers of rows and of columns of a forward product's tile.
    fn forward_sides(self, tile: Tile) -> [usize; 2] {
        if self == Format::Bf16 && tile == Tile::Large { WIDE_SIDES } else { tile.sides() }
    }

    /// Number of larger tiles from which a forward product takes them.
    fn large_forward(self) -> usize {
        if self == Format::Bf16 { WIDE_FORWARD } else { LARGE_FORWARD }
    }

    /// Family of the instructions on tensor cores; `Auto` for a format without these.
    pub fn kernels(self) -> Kernels {
        match self {
            Format::Fp32 => Kernels::Auto,
            Format::Bf16 | Format::Bf16x3 => Kernels::Mma,
            Format::Bf16Warpgroup | Format::Bf16x3Warpgroup => Kernels::Wgmma,
        }
    }

    /// Whether warpgroups multiply.
    pub fn is_of_warpgroups(self) -> bool {
        self.kernels() == Kernels::Wgmma
    }

    /// The same operands multiplied by warpgroups; `None` for those that are.
    pub fn by_warpgroups(self) -> Option<Format> {
        match self {
            Format::Bf16 => Some(Format::Bf16Warpgroup),
            Format::Bf16x3 => Some(Format::Bf16x3Warpgroup),
            Format::Fp32 | Format::Bf16Warpgroup | Format::Bf16x3Warpgroup => None,
        }
    }

    /// Number of products of bf16 for each product of two operands; 1 in single precision.
    pub fn products(self) -> usize {
        if matches!(self, Format::Bf16x3 | Format::Bf16x3Warpgroup) { 3 } else { 1 }
    }

    /// Whether the device has code of the products.
    pub fn runs_on(self, device: &Device) -> bool {
        match self {
            Format::Fp32 => StoredFormat::FP32.runs_on(device),
            Format::Bf16 => StoredFormat::BF16.runs_on(device),
            Format::Bf16x3 => StoredFormat::BF16X3.runs_on(device),
            Format::Bf16Warpgroup => StoredFormat::BF16_WARPGROUP.runs_on(device),
            Format::Bf16x3Warpgroup => StoredFormat::BF16X3_WARPGROUP.runs_on(device),
        }
    }

    /// Whether values are stored in bf16.
    pub fn is_stored_in_bf16(self) -> bool {
        matches!(self, Format::Bf16 | Format::Bf16Warpgroup)
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

/// Panics unless the number of rows of each matrix is that of the grid.
#[track_caller]
fn check_rows<const N: usize>(launcher: &str, rows: Rows<'_>, of: [usize; N]) {
    assert_eq!(of, [rows.bound; N], "{launcher}: rows of matrices");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warpgroup_takes_the_tile_that_covers_the_columns_best() {
        // The widths of the paper's model, then equal coverings, then few columns.
        let wanted = [(300, 152), (512, 256), (1024, 256), (1324, 224), (608, 152), (1, 152), (225, 256)];
        for (columns, of_tile) in wanted {
            let sides = |rows| Format::Bf16Warpgroup.forward_tile([(rows, columns)]).sides();
            assert_eq!(sides(64 * LARGE_WARPGROUP), [128, of_tile], "{columns} columns");
            assert_eq!(sides(64), [64, 128], "{columns} columns, few rows");
        }
    }
}
