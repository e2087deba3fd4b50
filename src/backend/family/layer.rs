//! Random arrays of a layer, and the launches of every kind of product on them.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::products::{LARGEST_RSTD, LARGEST_SCALE, LARGEST_SHIFT, Output, Product, Shape};
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::Buffer;
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::launchers::batch_norm::{BatchStatistics, Norm, NormGradient, Statistics, Sums};
use crate::backend::cuda::launchers::linear::{
    Backward, Forward, ForwardGather, Input, LinearGradients, Matrix, MatrixMut, StoredFormat, Unit,
    WeightParts, linear_backward, linear_backward_states, linear_backward_unit, linear_forward,
    linear_forward_gather, linear_forward_two, linear_forward_unit,
};
use crate::backend::cuda::launchers::lists::Ends;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;

/// Arrays of a layer on a device, whose matrices are stored as `T`.
pub(super) struct Layer<'d, T: StoredElement> {
    device: &'d Device,
    pub(super) shape: Shape,
    inputs: Inputs<T>,
    outputs: Outputs<T>,
    sums: Sums,
    parts: WeightParts,
}

/// Arrays that the products read.
struct Inputs<T: StoredElement> {
    /// `[1]` number of nodes, and of edges.
    counts: [Buffer<i32>; 2],
    /// `[E] -> node` subject and object of each edge.
    ends: [Buffer<i32>; 2],
    /// `[N, I]` left operand of the nodes, and `[E, I]` that of the edges; or the inputs of their norm.
    x: [Buffer<T>; 2],
    /// `[I]` mean, rstd, scale and shift.
    norm: [Buffer<f32>; 4],
    /// `[H, 3 I]` weight of three parts.
    weight: Buffer<T>,
    /// `[H]` weight and bias of the norm of a product.
    of_statistics: [Buffer<f32>; 2],
    /// `[N, 2 H]` gradient with respect to a product of nodes; what edges gather.
    d_y: Buffer<T>,
    /// `[N, H]` gradient with respect to a product of nodes, and `[E, H]` one of edges.
    d_z: [Buffer<T>; 2],
    /// `[N]` multiple of the rows of x to subtract.
    along: Buffer<f32>,
}

/// Arrays that the products write.
struct Outputs<T: StoredElement> {
    /// `[N, 2 H]` and `[E, H]` products.
    wide: Buffer<T>,
    of_edges: Buffer<T>,
    /// `[N, H]` products.
    of_nodes: Buffer<T>,
    /// `[H]` mean, rstd, scale, shift, running mean and running variance.
    statistics: [Buffer<f32>; 6],
    /// `[N]` lengths of rows.
    lengths: Buffer<f32>,
    /// `[N, I]` and `[E, I]` gradients with respect to x.
    d_x: [Buffer<T>; 2],
    /// `[H, 3 I]` gradient of the weight.
    d_weight: Buffer<f32>,
    /// `[I]` gradients of the norm's weight and bias.
    d_norm: [Buffer<f32>; 2],
}

/// Draws arrays. Numbers are drawn in double precision: sums of draws in single precision would be exact.
struct Draws<'d> {
    device: &'d Device,
    numbers: StdRng,
    /// Number of rows without values after those with values.
    room: usize,
}

impl Draws<'_> {
    fn values(&mut self, count: usize, low: f64, high: f64) -> Result<Buffer<f32>> {
        let values: Vec<f32> = (0..count).map(|_| self.numbers.random_range(low..high) as f32).collect();
        self.device.allocate_copy(&values)
    }

    /// Matrix with values in -1..1. The padding of rows is NaN, since no product may depend on it.
    fn matrix<T: StoredElement>(&mut self, rows: usize, columns: usize, parts: usize) -> Result<Buffer<T>> {
        let mut values = vec![T::narrow(f32::NAN); rows * parts * T::stride(columns)];
        self.fill(&mut values, columns);
        self.device.allocate_copy(&values)
    }

    /// Such a matrix of one part, with more rows after these. They are NaN.
    fn rows<T: StoredElement>(&mut self, rows: usize, columns: usize) -> Result<Buffer<T>> {
        let stride = T::stride(columns);
        let mut values = vec![T::narrow(f32::NAN); (rows + self.room) * stride];
        self.fill(&mut values[..rows * stride], columns);
        self.device.allocate_copy(&values)
    }

    fn fill<T: StoredElement>(&mut self, values: &mut [T], columns: usize) {
        for row in values.chunks_exact_mut(T::stride(columns)) {
            row[..columns].fill_with(|| T::narrow(self.numbers.random_range(-1.0..1.0f64) as f32));
        }
    }

    fn indices(&mut self, count: usize, end: usize) -> Result<Buffer<i32>> {
        let values: Vec<i32> = (0..count).map(|_| self.numbers.random_range(0..end as i32)).collect();
        self.device.allocate_copy(&values)
    }
}

/// An array for each of two numbers.
fn two<T>([one, other]: [usize; 2], mut make: impl FnMut(usize) -> Result<T>) -> Result<[T; 2]> {
    Ok([make(one)?, make(other)?])
}

impl<'d, T: StoredElement> Layer<'d, T> {
    /// Draws the arrays; the same shape has the same values.
    pub(super) fn new(device: &'d Device, shape: Shape) -> Result<Self> {
        let Shape { inputs, hidden, .. } = shape;
        let mut draws = Draws { device, numbers: StdRng::seed_from_u64(1), room: shape.room };
        let of_values = [shape.nodes, shape.edges];
        let rows = of_values.map(|rows| rows + shape.room);
        let [nodes, edges] = rows;
        let columns = |count| device.allocate::<f32>(count);
        let matrix = |rows, columns| device.allocate::<T>(rows * T::stride(columns));
        Ok(Layer {
            device,
            shape,
            inputs: Inputs {
                counts: two(of_values, |count| device.allocate_copy(&[count as i32]))?,
                ends: two([edges; 2], |count| draws.indices(count, shape.nodes))?,
                x: two(of_values, |rows| draws.rows(rows, inputs))?,
                norm: [
                    draws.values(inputs, -1.0, 1.0)?,
                    draws.values(inputs, 0.5, LARGEST_RSTD)?,
                    draws.values(inputs, 0.5, LARGEST_SCALE)?,
                    draws.values(inputs, -LARGEST_SHIFT, LARGEST_SHIFT)?,
                ],
                weight: draws.matrix(hidden, inputs, 3)?,
                of_statistics: two([hidden; 2], |count| draws.values(count, -1.0, 1.0))?,
                d_y: draws.rows(shape.nodes, 2 * hidden)?,
                d_z: two(of_values, |rows| draws.rows(rows, hidden))?,
                along: draws.values(nodes, -1.0, 1.0)?,
            },
            outputs: Outputs {
                wide: matrix(nodes, 2 * hidden)?,
                of_edges: matrix(edges, hidden)?,
                of_nodes: matrix(nodes, hidden)?,
                statistics: [
                    columns(hidden)?,
                    columns(hidden)?,
                    columns(hidden)?,
                    columns(hidden)?,
                    columns(hidden)?,
                    columns(hidden)?,
                ],
                lengths: columns(nodes)?,
                d_x: two(rows, |rows| matrix(rows, inputs))?,
                d_weight: columns(3 * hidden * inputs)?,
                d_norm: two([inputs; 2], columns)?,
            },
            sums: Sums::new(device)?,
            parts: WeightParts::new(device)?,
        })
    }

    /// Launches a product.
    pub(super) fn launch(&mut self, product: Product, format: StoredFormat<T>) -> Result<()> {
        let Layer { device, shape, inputs: of, outputs: to, sums, parts } = self;
        let Shape { inputs, hidden, room, .. } = *shape;
        let [nodes, edges] = [shape.nodes + room, shape.edges + room];
        let part = T::stride(inputs);
        let [node_rows, edge_rows] = [(&of.counts[0], nodes), (&of.counts[1], edges)]
            .map(|(of, bound)| Rows { count: of.all(), bound });
        let [x, e] =
            [(&of.x[0], nodes), (&of.x[1], edges)].map(|(x, rows)| Matrix::new(x.all(), rows, inputs));
        let norm = {
            let [mean, rstd, scale, shift] = of.norm.each_ref().map(Buffer::all);
            Norm { mean, rstd, scale, shift }
        };
        let weight = Matrix::new(of.weight.all(), hidden, 3 * part);
        let (middle, outer) = (weight.columns(part, inputs), weight.stacked(0, 2 * part, inputs));
        let [mean, rstd, scale, shift, running_mean, running_var] =
            to.statistics.each_mut().map(Buffer::all_mut);
        let [weight_of, bias_of] = of.of_statistics.each_ref().map(Buffer::all);
        let to_statistics = Statistics { mean, rstd, scale, shift, weight: weight_of, bias: bias_of };
        let [d_x, d_e] = &mut to.d_x;
        let d_x = MatrixMut::new(d_x.all_mut(), nodes, inputs);
        let mut d_weight = MatrixMut::new(to.d_weight.all_mut(), hidden, 3 * inputs);
        let d_y = Matrix::new(of.d_y.all(), nodes, 2 * hidden);
        let d_z = Matrix::new(of.d_z[0].all(), nodes, hidden);
        let unit = Unit { z: x, norm, along: Some(of.along.all()) };
        let [weight_to, bias_to] = to.d_norm.each_mut().map(Buffer::all_mut);
        match product {
            Product::Forward | Product::ForwardNorm => {
                let x =
                    if product == Product::Forward { Input::Values(x) } else { Input::Activated(x, norm) };
                let y = MatrixMut::new(to.of_nodes.all_mut(), nodes, hidden);
                let statistics = BatchStatistics { to: to_statistics, running_mean, running_var, sums };
                linear_forward(
                    device,
                    format,
                    Forward { rows: node_rows, y, x, weight: middle },
                    Some(statistics),
                )
            }
            Product::ForwardUnit => {
                let y = MatrixMut::new(to.wide.all_mut(), nodes, 2 * hidden);
                let of = Forward { rows: node_rows, y, x: (x, norm), weight: outer };
                linear_forward_unit(device, format, of, Some(&mut to.lengths.all_mut()))
            }
            Product::ForwardGather | Product::ForwardGatherNorm => {
                let x = if product == Product::ForwardGather {
                    Input::Values(e)
                } else {
                    Input::Activated(e, norm)
                };
                let [subject, object] = of.ends.each_ref().map(Buffer::all);
                let of = ForwardGather {
                    ends: Ends { edges: edge_rows, subject, object },
                    projected: of.d_y.all(),
                    y: MatrixMut::new(to.of_edges.all_mut(), edges, hidden),
                    x,
                    weight: middle,
                };
                let statistics = BatchStatistics { to: to_statistics, running_mean, running_var, sums };
                linear_forward_gather(device, format, of, Some(statistics))
            }
            Product::ForwardTwo => {
                let y = MatrixMut::new(to.wide.all_mut(), nodes, 2 * hidden);
                let first = Forward { rows: node_rows, y, x, weight: outer };
                let y = MatrixMut::new(to.of_edges.all_mut(), edges, hidden);
                linear_forward_two(
                    device,
                    format,
                    [first, Forward { rows: edge_rows, y, x: e, weight: middle }],
                )
            }
            Product::Backward | Product::BackwardNorm => {
                let (x, norm) = match product {
                    Product::Backward => (Input::Values(x), None),
                    _ => (
                        Input::Activated(x, norm),
                        Some(NormGradient { weight: weight_to, bias: bias_to, batch_statistics: true, sums }),
                    ),
                };
                let to = LinearGradients { x: d_x, weight: d_weight.columns(inputs, inputs), norm };
                let of = Backward { rows: node_rows, to, d_y: d_z, x, weight: middle };
                linear_backward(device, format, of, parts)
            }
            Product::BackwardUnit => {
                let norm = NormGradient { weight: weight_to, bias: bias_to, batch_statistics: true, sums };
                let to = LinearGradients {
                    x: d_x,
                    weight: d_weight.stacked(0, 2 * inputs, inputs),
                    norm: Some(norm),
                };
                let of = Backward { rows: node_rows, to, d_y, x: unit, weight: outer };
                linear_backward_unit(device, format, of, parts)
            }
            Product::BackwardStates => {
                let norm_to = NormGradient { weight: weight_to, bias: bias_to, batch_statistics: true, sums };
                let [d_outer, d_middle] = d_weight.outer_and_middle(inputs);
                let to = LinearGradients { x: d_x, weight: d_outer, norm: Some(norm_to) };
                let of_nodes = Backward { rows: node_rows, to, d_y, x: unit, weight: outer };
                let to = LinearGradients {
                    x: MatrixMut::new(d_e.all_mut(), edges, inputs),
                    weight: d_middle,
                    norm: None,
                };
                let d_y = Matrix::new(of.d_z[1].all(), edges, hidden);
                let of_edges = Backward { rows: edge_rows, to, d_y, x: (e, norm), weight: middle };
                linear_backward_states(device, format, of_nodes, of_edges, parts)
            }
        }
    }

    /// Launches a product. Returns the values of [`Product::outputs`], without the padding of rows.
    pub(super) fn run(&mut self, product: Product, format: StoredFormat<T>) -> Result<Vec<Vec<f32>>> {
        self.outputs_of(product, |layer| layer.launch(product, format))
    }

    /// What `launch` writes of a product's outputs; NaN where it writes nothing.
    pub(super) fn outputs_of(
        &mut self,
        product: Product,
        launch: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Vec<Vec<f32>>> {
        self.fill()?;
        launch(self)?;
        product.outputs().iter().map(|&output| self.written(product, output)).collect()
    }

    /// Fills all outputs with NaN: a value that no kernel writes differs from every other.
    fn fill(&mut self) -> Result<()> {
        let Outputs { wide, of_edges, of_nodes, statistics, lengths, d_x, d_weight, d_norm } =
            &mut self.outputs;
        for buffer in [wide, of_edges, of_nodes].into_iter().chain(d_x) {
            self.device.upload(&vec![T::narrow(f32::NAN); buffer.len()], buffer.all_mut())?;
        }
        for buffer in statistics.iter_mut().chain([lengths, d_weight]).chain(d_norm) {
            self.device.upload(&vec![f32::NAN; buffer.len()], buffer.all_mut())?;
        }
        Ok(())
    }

    fn written(&self, product: Product, output: Output) -> Result<Vec<f32>> {
        let Layer { device, shape: Shape { nodes, edges, inputs, hidden, .. }, outputs: of, .. } = self;
        let floats = |buffer: &Buffer<f32>| device.download(buffer, 0..buffer.len());
        let matrix = |buffer: &Buffer<T>, rows: usize, columns: usize| -> Result<Vec<f32>> {
            Ok(T::dense(&device.download(buffer, 0..rows * T::stride(columns))?, columns))
        };
        match (output, product) {
            (Output::Y, Product::ForwardUnit | Product::ForwardTwo) => matrix(&of.wide, *nodes, 2 * hidden),
            (Output::Y, Product::Forward | Product::ForwardNorm) => matrix(&of.of_nodes, *nodes, *hidden),
            (Output::Y | Output::Z, _) => matrix(&of.of_edges, *edges, *hidden),
            (Output::Mean, _) => floats(&of.statistics[0]),
            (Output::Rstd, _) => floats(&of.statistics[1]),
            (Output::Lengths, _) => device.download(&of.lengths, 0..*nodes),
            (Output::DX, _) => matrix(&of.d_x[0], *nodes, *inputs),
            (Output::DE, _) => matrix(&of.d_x[1], *edges, *inputs),
            (Output::DNormWeight, _) => floats(&of.d_norm[0]),
            (Output::DNormBias, _) => floats(&of.d_norm[1]),
            (Output::DWeight, _) => {
                // Parts of the weight that the product has.
                let parts = match product {
                    Product::Backward | Product::BackwardNorm => &[1][..],
                    Product::BackwardUnit => &[0, 2],
                    _ => &[0, 1, 2],
                };
                let whole = floats(&of.d_weight)?;
                let rows = whole.chunks_exact(3 * inputs);
                let of_row = |row: &[f32]| -> Vec<f32> {
                    parts.iter().flat_map(|part| row[part * inputs..][..*inputs].to_vec()).collect()
                };
                Ok(rows.flat_map(of_row).collect())
            }
        }
    }
}
