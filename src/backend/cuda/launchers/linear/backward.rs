//! The products of a layer's backward: two gradients in a launch, or those of two layers.

use super::{
    ENOUGH_BLOCKS, Format, Gradient, Input, LEAST_PART_ROWS, Lines, Matrix, MatrixMut, Product, Tile,
    check_rows, is_large,
};
use crate::backend::cuda::device::buffer::{Buffer, Slice};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Arguments, Device, Grid, check_len};
use crate::backend::cuda::launchers::batch_norm::{Norm, NormGradient};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;

/// Into how many parts a weight's gradient is split, a sum over rows each: as many as make their tiles fill a GPU, if each
/// gets enough rows. The kernels find the parts from the number of rows alone (`row_parts` in `kernels/linear.cuh`), so
/// that neither the tile nor the grid's bound changes a bit.
#[derive(Clone, Copy)]
struct Parts {
    inputs: usize,
    /// For the smaller tile.
    most: usize,
    /// For the larger one; 0 where the format has none.
    most_large: usize,
}

impl Parts {
    fn new(format: Format, outputs: usize, inputs: usize) -> Self {
        let most = |tile: Tile| (ENOUGH_BLOCKS / tile.count(outputs, inputs)).max(1);
        let most_large = if format.tile(true) == Tile::Large { most(Tile::Large) } else { 0 };
        Parts { inputs, most: most(Tile::Small), most_large }
    }

    /// Whether so many rows make enough of the larger tile in the input's gradient.
    fn are_large(self, rows: usize) -> bool {
        self.most_large > 0 && is_large(rows, self.inputs)
    }

    /// The most of any number of rows up to `bound`.
    fn up_to(self, bound: usize) -> usize {
        let small = self.most.min(bound.div_ceil(LEAST_PART_ROWS)).max(1);
        if self.are_large(bound) { small.max(self.most_large) } else { small }
    }
}

/// A weight's gradient `[outputs, inputs]`, of up to so many rows.
#[derive(Clone, Copy)]
pub(crate) struct WeightGradient {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) rows: usize,
}

impl WeightGradient {
    /// How many values and tickets its parts take: none where it is in one.
    fn room(self, format: Format) -> (usize, usize) {
        let WeightGradient { outputs, inputs, rows } = self;
        match Parts::new(format, outputs, inputs).up_to(rows) {
            1 => (0, 0),
            parts => (parts * outputs * inputs, Tile::Small.count(outputs, inputs)),
        }
    }
}

/// Memory for the parts of the weights' gradients of a launch, one gradient after another.
pub struct WeightParts {
    /// `[parts, O, I]`.
    values: Buffer<f32>,
    /// By tile: zeros between launches.
    tickets: Buffer<i32>,
}

impl WeightParts {
    /// None yet.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(WeightParts { values: device.allocate(0)?, tickets: device.allocate(0)? })
    }

    /// Room for the gradients of a launch, if there is not yet.
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

    /// How many values the parts may take.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no gradient needed parts so far.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// What the backward of a linear layer writes.
pub struct LinearGradients<'a, T> {
    /// `[R, I]` gradient with respect to x.
    pub x: MatrixMut<'a, T>,
    /// `[O, I]` gradient with respect to the weight.
    pub weight: MatrixMut<'a, f32>,
    /// Gradients of the norm of an activated x; none if no sums are wanted.
    pub norm: Option<NormGradient<'a>>,
}

/// A layer's backward: `d_x [R, I] = d_y [R, O] weight [O, I]` and `d_weight [O, I] = d_y [R, O]^T x [R, I]`.
pub struct Backward<'a, T, D, X> {
    /// R.
    pub rows: Rows<'a>,
    /// What is written.
    pub to: LinearGradients<'a, T>,
    /// `[R, O]` gradient with respect to y.
    pub d_y: D,
    /// `[R, I]`.
    pub x: X,
    /// `[O, I]`.
    pub weight: Matrix<'a, T>,
}

/// u = relu(norm(z)), as [`linear_forward_unit`](super::linear_forward_unit) has read it.
pub struct Unit<'a, T> {
    /// z, `[R, I]`.
    pub z: Matrix<'a, T>,
    /// The norm of z.
    pub norm: Norm<'a>,
    /// `[R]`: u times this number is subtracted from each row of the gradient with respect to u; none if the forward pass
    /// divided by no lengths.
    pub along: Option<Slice<'a, f32>>,
}

/// The backward of [`linear_forward_unit`](super::linear_forward_unit): d_y is already divided by the lengths, d_x is the
/// gradient with respect to u.
pub type UnitBackward<'a, T> = Backward<'a, T, Matrix<'a, T>, Unit<'a, T>>;
/// The backward of [`linear_forward`](super::linear_forward).
pub type InputBackward<'a, T> = Backward<'a, T, Gradient<'a, T>, Input<'a, T>>;
/// The backward of [`linear_forward`](super::linear_forward) for an activated input.
pub type ActivatedBackward<'a, T> = Backward<'a, T, Gradient<'a, T>, (Matrix<'a, T>, Norm<'a>)>;

/// `d_x = d_y weight` and `d_weight = d_y^T x`; for an activated x also the sums of its norm's backward, if they are wanted.
/// `parts` is memory for the parts of the sum over rows.
pub fn linear_backward<T: StoredElement>(
    device: &Device,
    format: Format,
    of: InputBackward<'_, T>,
    parts: &mut WeightParts,
) -> Result<()> {
    let Backward { rows, to, d_y, x, weight } = of;
    let d_y = d_y.for_input(device, rows, to.weight.columns)?;
    let product = match (&d_y, x) {
        (Gradient::Values(_), Input::Values(_)) => Product::Backward,
        (Gradient::Values(_), Input::Activated(..)) => Product::BackwardNorm,
        (Gradient::ThroughNorm(_), Input::Values(_)) => Product::BackwardThroughNorm,
        (Gradient::ThroughNorm(_), Input::Activated(..)) => Product::BackwardNormThroughNorm,
    };
    let activated = matches!(x, Input::Activated(..));
    assert!(activated || to.norm.is_none(), "linear_backward: a norm's gradient of plain values");
    let takes = Takes { sums: activated, along: false, split: matches!(product, Product::Backward) };
    let of = Job { of: Backward { rows, to, d_y, x, weight }, along: None, takes };
    let tile = format.tile(of.is_large(format));
    launch(device, format, (product, tile), of, None, parts)
}

/// Like [`linear_backward`], and subtracts what lies along u.
pub fn linear_backward_unit<T: StoredElement>(
    device: &Device,
    format: Format,
    of: UnitBackward<'_, T>,
    parts: &mut WeightParts,
) -> Result<()> {
    let of = Job::unit(of);
    let tile = format.tile(of.is_large(format));
    launch(device, format, (Product::BackwardUnit, tile), of, None, parts)
}

/// [`linear_backward_unit`] of the nodes' states and [`linear_backward`] of the edges' states, with the bits of two
/// launches. Both layers have the same number of inputs.
///
/// Where the edges' d_y is made through norm, both share one launch. `edges.d_y` must be as [`Gradient::for_input`] left it:
/// where that gave values, the matrix is large. There two launches cost little more, and the products take the larger tile,
/// for which no kernel does both.
pub fn linear_backward_states<T: StoredElement>(
    device: &Device,
    format: Format,
    nodes: UnitBackward<'_, T>,
    edges: ActivatedBackward<'_, T>,
    parts: &mut WeightParts,
) -> Result<()> {
    let Backward { rows, to, d_y, x: (z, norm), weight } = edges;
    assert!(to.norm.is_none(), "linear_backward_states: sums of the edges' norm");
    let edges = Backward { rows, to, d_y, x: Input::Activated(z, norm), weight };
    if matches!(edges.d_y, Gradient::Values(_)) {
        linear_backward_unit(device, format, nodes, parts)?;
        return linear_backward(device, format, edges, parts);
    }
    let edges = Job { of: edges, along: None, takes: Takes { sums: false, along: false, split: false } };
    launch(device, format, (Product::BackwardStates, Tile::Small), Job::unit(nodes), Some(edges), parts)
}

/// A layer's backward among the blocks of a launch.
struct Job<'a, T> {
    of: InputBackward<'a, T>,
    along: Option<Slice<'a, f32>>,
    takes: Takes,
}

/// What the kernel takes of a layer.
#[derive(Clone, Copy)]
struct Takes {
    /// The sums of the norm of x.
    sums: bool,
    along: bool,
    /// Weights that are split.
    split: bool,
}

impl<'a, T: StoredElement> Job<'a, T> {
    fn unit(of: UnitBackward<'a, T>) -> Self {
        let Backward { rows, to, d_y, x: Unit { z, norm, along }, weight } = of;
        let of = Backward { rows, to, d_y: Gradient::Values(d_y), x: Input::Activated(z, norm), weight };
        Job { of, along, takes: Takes { sums: true, along: true, split: true } }
    }

    fn weight_gradient(&self) -> WeightGradient {
        let d_weight = &self.of.to.weight;
        WeightGradient { outputs: d_weight.rows, inputs: d_weight.columns, rows: self.of.rows.bound }
    }

    /// Whether its gradient by x makes enough of the larger tile.
    fn is_large(&self, format: Format) -> bool {
        let WeightGradient { outputs, inputs, rows } = self.weight_gradient();
        Parts::new(format, outputs, inputs).are_large(rows)
    }

    /// The layer's arguments, the memory of its parts among them, and how many blocks it takes.
    fn add_to(
        self,
        arguments: Arguments,
        device: &Device,
        format: Format,
        tile: Tile,
        (parts, tickets): (Slice<'_, f32>, Slice<'_, i32>),
    ) -> Result<(Arguments, usize)> {
        let WeightGradient { outputs, inputs, .. } = self.weight_gradient();
        let Job { of: Backward { rows, to, d_y, x, weight }, along, takes } = self;
        let LinearGradients { x: mut d_x, weight: mut d_weight, norm: d_norm } = to;
        let (d_y_stride, x_matrix) = (d_y.check(rows.bound, outputs), x.check());
        check_rows("linear_backward", rows, [d_x.rows, x_matrix.rows]);
        let columns = [d_x.columns, x_matrix.columns, weight.columns];
        assert_eq!((columns, weight.rows), ([inputs; 3], outputs), "linear_backward: shapes");
        let weights_split = weight.lines.is_split() || d_weight.lines.is_split();
        let split = d_x.lines.is_split() || x_matrix.lines.is_split() || weights_split && !takes.split;
        assert!(
            !split,
            "linear_backward: only the weight and its gradient may be split, and only of some products"
        );
        let arguments = arguments.add(&mut d_x.values).add(&mut d_weight.values).add(parts).add(tickets);
        let mut arguments = arguments.add_gradient(&d_y).add_values(x).add(weight.values);
        if takes.sums {
            arguments = arguments.add_norm_gradient(device, d_norm, rows.bound, inputs)?;
        }
        arguments = match along {
            Some(along) => {
                check_len("linear_backward: along", along.len(), rows.bound);
                arguments.add(along)
            }
            None => arguments.add_nulls(usize::from(takes.along)),
        };
        let add_weight = |arguments: Arguments, lines: Lines| match takes.split {
            true => arguments.add_lines(lines),
            false => arguments.add(lines.stride),
        };
        let arguments = add_weight(arguments.add(d_x.lines.stride), d_weight.lines);
        let arguments = add_weight(arguments.add(d_y_stride).add(x_matrix.lines.stride), weight.lines);
        let of = Parts::new(format, outputs, inputs);
        let input_blocks = tile.count(rows.bound.max(1), inputs);
        let blocks = input_blocks + tile.count(outputs, inputs) * of.up_to(rows.bound);
        let arguments = arguments.add(rows).add(inputs).add(outputs).add(of.most).add(of.most_large);
        Ok((arguments.add(input_blocks), blocks))
    }
}

/// A layer's backward, or those of two, the second behind the first.
fn launch<T: StoredElement>(
    device: &Device,
    format: Format,
    (product, tile): (Product, Tile),
    first: Job<'_, T>,
    second: Option<Job<'_, T>>,
    parts: &mut WeightParts,
) -> Result<()> {
    let (kernel, threads) = format.of::<T>().kernel(product, tile);
    let of_first = first.weight_gradient();
    let of_second = second.as_ref().map(Job::weight_gradient);
    parts.reserve(device, format, [Some(of_first), of_second].into_iter().flatten())?;
    let (values, tickets) = of_first.room(format);
    let (all_values, all_tickets) =
        (parts.values.slice(0..parts.values.len()), parts.tickets.slice(0..parts.tickets.len()));
    let arguments = Arguments::default();
    let (arguments, blocks) = first.add_to(arguments, device, format, tile, (all_values, all_tickets))?;
    let (arguments, blocks) = match second {
        Some(second) => {
            let behind =
                (all_values.slice(values..all_values.len()), all_tickets.slice(tickets..all_tickets.len()));
            let (arguments, more) = second.add_to(arguments.add(blocks), device, format, tile, behind)?;
            (arguments, blocks + more)
        }
        None => (arguments, blocks),
    };
    // SAFETY: as in kernels/linear.cuh; a matrix's slice holds its rows, a norm's its columns, the sums have room, and no
    // number of rows up to the bound makes more parts than there is room for, one layer's apart from the other's; what is
    // written is borrowed mutably.
    unsafe { device.launch_positional(kernel, Grid::rows(blocks, threads), &arguments) }
}
