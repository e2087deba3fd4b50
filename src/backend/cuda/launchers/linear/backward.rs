//! Backward products of a linear layer: both gradients in one launch, or those of two layers.

use super::arguments::{
    BackwardArguments, LinearBackward, LinearBackwardNorm, LinearBackwardStates, LinearBackwardUnit,
    WeightGradientArguments,
};
use super::{
    ENOUGH_BLOCKS, Format, Input, LARGE_BACKWARD, LARGEST_WARPGROUP, LEAST_PART_ROWS, MOST_LARGE_PARTS,
    MOST_WARPGROUP_PARTS, Matrix, MatrixMut, ROWS_OF_ANOTHER_PART, StoredFormat, Tile, WARPGROUP_BLOCKS,
    Weights, check_rows,
};
use crate::backend::cuda::device::buffer::{Buffer, Slice, SliceMut};
use crate::backend::cuda::device::kernel::{Blocks, int};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Device, check_len};
use crate::backend::cuda::launchers::batch_norm::{Norm, NormGradient};
use crate::backend::cuda::launchers::norm_arguments::NormGradientArguments;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;

/// Numbers of parts into which a weight's gradient is divided; each part is the sum over some rows. There are
/// enough parts for their tiles to fill a GPU, as long as each gets enough rows. The kernels derive the
/// number from the number of rows alone (`row_parts` in `kernels/linear_block.cuh` and `kernels/linear_warpgroup.cuh`), so
/// neither the tile nor the grid's bound changes a bit.
#[derive(Clone, Copy)]
struct Parts {
    format: Format,
    outputs: usize,
    inputs: usize,
    /// Largest number of parts; of several tiles, for the smaller one.
    most: usize,
}

impl Parts {
    fn new(format: Format, outputs: usize, inputs: usize) -> Self {
        let most = if format.is_of_warpgroups() {
            (WARPGROUP_BLOCKS / LARGEST_WARPGROUP.count(inputs, outputs)).clamp(1, MOST_WARPGROUP_PARTS)
        } else {
            (ENOUGH_BLOCKS / Tile::Small.count(outputs, inputs)).max(1)
        };
        Parts { format, outputs, inputs, most }
    }

    /// Number of parts for this number of rows with products of warpgroups.
    fn of_warpgroup(self, rows: usize) -> usize {
        self.most.min(1 + rows.saturating_sub(LEAST_PART_ROWS).div_ceil(ROWS_OF_ANOTHER_PART))
    }

    /// Whether the format has the larger tile.
    fn has_large(self) -> bool {
        self.format.tile(true) == Tile::Large
    }

    /// Whether the products, with this many rows, take the larger tile.
    fn are_large(self, rows: usize) -> bool {
        self.has_large() && Tile::Large.count(rows, self.inputs) >= LARGE_BACKWARD
    }

    /// Tile of both products with this many rows.
    fn tile(self, rows: usize) -> Tile {
        if self.format.is_of_warpgroups() {
            return warpgroup_tile([(rows, [self.outputs, self.inputs])]);
        }
        self.format.tile(self.are_large(rows))
    }

    /// Number of parts for this number of rows, as in the kernels.
    fn of_rows(self, rows: usize) -> usize {
        match self.tile(rows) {
            tile @ Tile::Large => {
                let of_input = tile.count(rows, self.inputs);
                // Few tiles of d_x have a multiprocessor each to themselves.
                let few = 4 * of_input <= ENOUGH_BLOCKS;
                let left = ENOUGH_BLOCKS - if few { 2 * of_input } else { of_input % ENOUGH_BLOCKS };
                let left = if left < ENOUGH_BLOCKS / 2 { left + ENOUGH_BLOCKS } else { left };
                (left / self.tiles(tile)).clamp(1, MOST_LARGE_PARTS)
            }
            Tile::Small => self.most.min(rows.div_ceil(LEAST_PART_ROWS)).max(1),
            Tile::Warpgroup(_) => self.of_warpgroup(rows),
        }
    }

    /// Largest number of parts for any number of rows up to `bound`.
    fn up_to(self, bound: usize) -> usize {
        let by_rows = bound.div_ceil(LEAST_PART_ROWS);
        if self.format.is_of_warpgroups() {
            return self.of_warpgroup(bound);
        }
        let small = self.most.min(by_rows).max(1);
        if self.are_large(bound) { small.max(MOST_LARGE_PARTS) } else { small }
    }

    /// Number of tiles that cover the weight.
    fn tiles(self, tile: Tile) -> usize {
        match tile {
            // The kernel computes the transpose.
            Tile::Warpgroup(_) => tile.count(self.inputs, self.outputs),
            _ => tile.count(self.outputs, self.inputs),
        }
    }
}

/// Tile of a warpgroup for the gradients with respect to inputs, of so many rows, and to weights `[outputs, inputs]`. The
/// products of both have the same cost.
fn warpgroup_tile<const N: usize>(of: [(usize, [usize; 2]); N]) -> Tile {
    let matrices = of.iter().flat_map(|&(rows, [outputs, inputs])| [(rows, inputs), (inputs, outputs)]);
    Tile::of_warpgroup(matrices, |tile| {
        let cost = |&(_, [outputs, inputs]): &(usize, [usize; 2])| {
            tile.count(1, inputs) * outputs + tile.count(inputs, outputs) * tile.sides()[0]
        };
        of.iter().map(cost).sum()
    })
}

/// Size of a weight's gradient `[outputs, inputs]`, a sum over up to `rows` rows.
#[derive(Clone, Copy)]
pub(crate) struct WeightGradient {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) rows: usize,
}

impl WeightGradient {
    fn new(d_weight: &MatrixMut<'_, f32>, rows: Rows<'_>) -> Self {
        WeightGradient { outputs: d_weight.rows, inputs: d_weight.columns, rows: rows.bound }
    }

    /// Tile of both products.
    fn tile(self, format: Format) -> Tile {
        Parts::new(format, self.outputs, self.inputs).tile(self.rows)
    }

    /// Largest number of rows that a part adds up.
    pub(crate) fn rows_of_part(self, format: Format) -> usize {
        self.rows.div_ceil(Parts::new(format, self.outputs, self.inputs).of_rows(self.rows))
    }

    /// Number of values and of tickets needed for the parts; none if there is one part.
    fn room(self, format: Format) -> (usize, usize) {
        let WeightGradient { outputs, inputs, rows } = self;
        match Parts::new(format, outputs, inputs).up_to(rows) {
            1 => (0, 0),
            parts => (parts * outputs * inputs, Tile::Small.count(outputs, inputs)),
        }
    }
}

/// Memory for the parts of the weight gradients of a launch, one gradient after another.
pub struct WeightParts {
    /// `[parts, O, I]` sums over some of the rows.
    values: Buffer<f32>,
    /// `[tiles]` tickets: zeros between launches.
    tickets: Buffer<i32>,
}

impl WeightParts {
    /// Creates an empty memory.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(WeightParts { values: device.allocate(0)?, tickets: device.allocate(0)? })
    }

    /// Grows the memory for the gradients of a launch.
    pub(crate) fn reserve(
        &mut self,
        device: &Device,
        format: Format,
        gradients: impl IntoIterator<Item = WeightGradient>,
    ) -> Result<()> {
        let all = gradients.into_iter().map(|gradient| gradient.room(format));
        let (values, tickets) =
            all.fold((0, 0), |(values, tickets), (more, others)| (values + more, tickets + others));
        device.reserve(&mut self.values, values)?;
        if self.tickets.len() < tickets {
            self.tickets = device.allocate(tickets)?;
        }
        Ok(())
    }

    /// Splits the memory among the gradients of a launch.
    fn split<const N: usize>(
        &mut self,
        device: &Device,
        format: Format,
        gradients: [WeightGradient; N],
    ) -> Result<[PartsMemory<'_>; N]> {
        self.reserve(device, format, gradients)?;
        let (value_count, ticket_count) = (self.values.len(), self.tickets.len());
        let mut rest = Some((self.values.slice_mut(0..value_count), self.tickets.slice_mut(0..ticket_count)));
        Ok(gradients.map(|gradient| {
            let (values, tickets) = rest.take().expect("put back below");
            let (value_count, ticket_count) = gradient.room(format);
            let (values, other_values) = values.split_at(value_count);
            let (tickets, other_tickets) = tickets.split_at(ticket_count);
            rest = Some((other_values, other_tickets));
            PartsMemory { values, tickets }
        }))
    }

    /// Number of values allocated for parts.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no gradient has needed parts so far.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// Outputs of a linear layer's backward.
pub struct LinearGradients<'a, T> {
    /// `[R, I]` gradient with respect to x.
    pub x: MatrixMut<'a, T>,
    /// `[O, I]` gradient with respect to the weight.
    pub weight: MatrixMut<'a, f32>,
    /// Gradients of the norm of an activated x; `None` if no sums are wanted.
    pub norm: Option<NormGradient<'a>>,
}

/// A layer's backward: `d_x [R, I] = d_y [R, O] weight [O, I]` and `d_weight [O, I] = d_y [R, O]^T x [R, I]`.
pub struct Backward<'a, T, D, X> {
    /// Number of rows, R.
    pub rows: Rows<'a>,
    /// Destination of the gradients.
    pub to: LinearGradients<'a, T>,
    /// `[R, O]` gradient with respect to y.
    pub d_y: D,
    /// `[R, I]` input of the layer.
    pub x: X,
    /// `[O, I]` weight of the layer.
    pub weight: Matrix<'a, T>,
}

/// u = relu(norm(z)), as read by [`linear_forward_unit`](super::linear_forward_unit).
pub struct Unit<'a, T> {
    /// `[R, I]` input z of the norm.
    pub z: Matrix<'a, T>,
    /// Norm of z.
    pub norm: Norm<'a>,
    /// `[R]` multiple of u to subtract from each row of the gradient with respect to u; `None` if the forward
    /// did not divide by lengths.
    pub along: Option<Slice<'a, f32>>,
}

/// Backward of [`linear_forward_unit`](super::linear_forward_unit): d_y is already divided by the lengths,
/// and d_x is the gradient with respect to u.
pub type UnitBackward<'a, T> = Backward<'a, T, Matrix<'a, T>, Unit<'a, T>>;
/// Backward of [`linear_forward`](super::linear_forward).
pub type InputBackward<'a, T> = Backward<'a, T, Matrix<'a, T>, Input<'a, T>>;
/// Backward of [`linear_forward`](super::linear_forward) for an activated input.
pub type ActivatedBackward<'a, T> = Backward<'a, T, Matrix<'a, T>, (Matrix<'a, T>, Norm<'a>)>;

/// Computes `d_x = d_y weight` and `d_weight = d_y^T x`. For an activated x it also computes the sums of its
/// norm's backward, if they are wanted. `parts` is memory for the parts of the sum over rows.
pub fn linear_backward<T: StoredElement>(
    device: &Device,
    format: StoredFormat<T>,
    of: InputBackward<'_, T>,
    parts: &mut WeightParts,
) -> Result<()> {
    let Backward { rows, to, d_y, x, weight } = of;
    let LinearGradients { x: d_x, weight: d_weight, norm: d_norm } = to;
    let weights = match x {
        Input::Values(_) => Weights::MayBeSplit,
        Input::Activated(..) => Weights::InOnePart,
    };
    let mut products = Products { rows, d_x, d_weight, d_y, x: x.check(), weight, weights };
    let tile = products.tile(format.format);
    let [memory] = parts.split(device, format.format, [products.weight_gradient()])?;
    let (product, blocks) = products.arguments(format.format, tile, memory);
    let (kernels, grid) = (format.kernels.tile(tile), Blocks::rows(blocks));
    // SAFETY: shapes were checked; a matrix's slice holds its rows, a norm's its columns, and the sums and
    // parts have room; everything written is borrowed mutably.
    unsafe {
        match x {
            Input::Values(_) => {
                assert!(d_norm.is_none(), "linear_backward: a norm's gradient of plain values");
                device.launch(&kernels.backward, grid, &LinearBackward { product })
            }
            Input::Activated(_, norm) => {
                let d_norm = NormGradientArguments::new(device, d_norm, norm, rows.bound)?;
                let arguments = LinearBackwardNorm { product, norm: norm.into(), d_norm };
                device.launch(&kernels.backward_norm, grid, &arguments)
            }
        }
    }
}

/// Like [`linear_backward`], but also subtracts the component parallel to u.
pub fn linear_backward_unit<T: StoredElement>(
    device: &Device,
    format: StoredFormat<T>,
    of: UnitBackward<'_, T>,
    parts: &mut WeightParts,
) -> Result<()> {
    let tile = of.weight_gradient().tile(format.format);
    let [memory] = parts.split(device, format.format, [of.weight_gradient()])?;
    let (arguments, blocks) = of.arguments(device, format.format, tile, memory)?;
    let kernel = &format.kernels.tile(tile).backward_unit;
    // SAFETY: as in `linear_backward`.
    unsafe { device.launch(kernel, Blocks::rows(blocks), &arguments) }
}

/// [`linear_backward_unit`] for the node states and [`linear_backward`] for the edge states, with the same
/// bits as two launches. Both layers have the same number of inputs.
pub fn linear_backward_states<T: StoredElement>(
    device: &Device,
    format: StoredFormat<T>,
    nodes: UnitBackward<'_, T>,
    edges: ActivatedBackward<'_, T>,
    parts: &mut WeightParts,
) -> Result<()> {
    let Backward { rows, to, d_y, x: (z, norm), weight } = edges;
    assert!(to.norm.is_none(), "linear_backward_states: sums of the edges' norm");
    let of_edges = WeightGradient::new(&to.weight, rows);
    let gradients = [nodes.weight_gradient(), of_edges];
    let tile = if format.format.is_of_warpgroups() {
        warpgroup_tile(gradients.map(|of| (of.rows, [of.outputs, of.inputs])))
    } else {
        format.format.tile(gradients.iter().any(|of| of.tile(format.format) == Tile::Large))
    };
    norm.check(z.columns);
    let mut products =
        Products { rows, d_x: to.x, d_weight: to.weight, d_y, x: z, weight, weights: Weights::InOnePart };
    let gradients = [nodes.weight_gradient(), products.weight_gradient()];
    let [of_nodes, of_edges] = parts.split(device, format.format, gradients)?;
    let (nodes, node_blocks) = nodes.arguments(device, format.format, tile, of_nodes)?;
    let (product, edge_blocks) = products.arguments(format.format, tile, of_edges);
    let d_norm = NormGradientArguments::new(device, None, norm, rows.bound)?;
    let edges = LinearBackwardNorm { product, norm: norm.into(), d_norm };
    let arguments = LinearBackwardStates { nodes, edges };
    let kernel = &format.kernels.tile(tile).backward_states;
    // SAFETY: as in `linear_backward`; the two layers use separate parts.
    unsafe { device.launch(kernel, Blocks::rows(node_blocks + edge_blocks), &arguments) }
}

/// Memory for the parts of one weight's gradient.
struct PartsMemory<'a> {
    values: SliceMut<'a, f32>,
    tickets: SliceMut<'a, i32>,
}

/// The two products of a layer's backward.
struct Products<'a, T> {
    rows: Rows<'a>,
    d_x: MatrixMut<'a, T>,
    d_weight: MatrixMut<'a, f32>,
    /// Gradient with respect to y.
    d_y: Matrix<'a, T>,
    x: Matrix<'a, T>,
    weight: Matrix<'a, T>,
    /// Form in which the kernel takes both weights.
    weights: Weights,
}

impl<T: StoredElement> Products<'_, T> {
    fn weight_gradient(&self) -> WeightGradient {
        WeightGradient::new(&self.d_weight, self.rows)
    }

    fn tile(&self, format: Format) -> Tile {
        self.weight_gradient().tile(format)
    }

    /// Returns the arguments and the number of blocks. Panics unless the shapes fit.
    #[track_caller]
    fn arguments(
        &mut self,
        format: Format,
        tile: Tile,
        mut memory: PartsMemory<'_>,
    ) -> (BackwardArguments<T>, usize) {
        let WeightGradient { outputs, inputs, .. } = self.weight_gradient();
        let Products { rows, d_x, d_weight, d_y, x, weight, weights } = self;
        check_rows("linear_backward", *rows, [d_x.rows, x.rows]);
        assert!(d_y.rows >= rows.bound, "linear_backward: rows of d_y");
        let columns = [d_x.columns, x.columns, weight.columns];
        assert_eq!(columns, [inputs; 3], "linear_backward: columns");
        assert_eq!([d_y.columns, weight.rows], [outputs; 2], "linear_backward: outputs");
        weights.check("linear_backward", weight.lines);
        weights.check("linear_backward", d_weight.lines);
        let parts = Parts::new(format, outputs, inputs);
        let blocks = tile.count(rows.bound.max(1), inputs) + parts.tiles(tile) * parts.up_to(rows.bound);
        let arguments = BackwardArguments {
            d_x: d_x.arguments(),
            d_weight: WeightGradientArguments {
                values: (&mut d_weight.values).into(),
                parts: (&mut memory.values).into(),
                tickets: (&mut memory.tickets).into(),
                jump: d_weight.lines.jump,
                stride: int(d_weight.lines.stride),
                split: int(d_weight.lines.split),
                most_parts: int(parts.most),
                has_large: i32::from(parts.has_large()),
            },
            d_y: d_y.arguments(),
            x: x.arguments(),
            weight: weight.weight_arguments(),
            row_count: (*rows).into(),
        };
        (arguments, blocks)
    }
}

impl<T: StoredElement> UnitBackward<'_, T> {
    fn weight_gradient(&self) -> WeightGradient {
        WeightGradient::new(&self.to.weight, self.rows)
    }

    /// Returns the arguments and the number of blocks. Panics unless the shapes fit.
    #[track_caller]
    fn arguments(
        self,
        device: &Device,
        format: Format,
        tile: Tile,
        memory: PartsMemory<'_>,
    ) -> Result<(LinearBackwardUnit<T>, usize)> {
        let Backward { rows, to, d_y, x: Unit { z, norm, along }, weight } = self;
        let LinearGradients { x: d_x, weight: d_weight, norm: d_norm } = to;
        norm.check(z.columns);
        if let Some(along) = along {
            check_len("linear_backward: along", along.len(), rows.bound);
        }
        let mut products = Products { rows, d_x, d_weight, d_y, x: z, weight, weights: Weights::MayBeSplit };
        let d_norm = NormGradientArguments::new(device, d_norm, norm, rows.bound)?;
        let (product, blocks) = products.arguments(format, tile, memory);
        Ok((LinearBackwardUnit { product, norm: norm.into(), d_norm, along: along.into() }, blocks))
    }
}
