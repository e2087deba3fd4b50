//! A layer's first product, split by operand, and its backward, on either kind of input: states of nodes and edges, or
//! in layer 0 the rows of the embedding tables that occur.
//!
//! ```text
//! z[e] = P_s[s(e)] + e W_e^T + P_o[o(e)],   P_s = x W_s^T,  P_o = x W_o^T
//! S_s[n] = sum of d_z[e] over edges with subject n,   S_o[n] likewise
//! d_x = S_s W_s + S_o W_o,   d_W_s = S_s^T x,   d_W_o = S_o^T x,   d_e = d_z W_e,   d_W_e = d_z^T e
//! ```

use super::batch::{Batch, most_types};
use super::batch_norm::{BatchStatistics, batch_norm_statistics};
use super::buffer::{Buffer, Slice};
use super::device::Device;
use super::edge_hidden::{edge_hidden_lookup, edge_hidden_sum_edges, edge_hidden_sum_ends};
use super::embedding::{embedding_backward, embedding_forward};
use super::linear::{
    Format, Input, LinearGradients, Matrix, MatrixMut, WeightParts, linear_backward, linear_forward,
    linear_forward_gather,
};
use super::rows::Rows;
use crate::backend::{LayerInput, LayerInputGradient};
use crate::batch::graph_batch::BatchSize;
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::parameters::{BlockKind, Layout, Parameters};

/// Memory of these stages.
pub(super) struct Scratch {
    format: Format,
    /// `[n, 2 H]`: P_s and P_o side by side, or S_s and S_o.
    nodes: Buffer<f32>,
    /// `[u, H]`: the predicate types' part of z, or of d_z (layer 0).
    edges: Buffer<f32>,
    /// `[n, D]`: the rows of the object table that occur (layer 0).
    object_rows: Buffer<f32>,
    /// `[u, D]`: the same for predicates.
    predicate_rows: Buffer<f32>,
    /// `[n, D]` or `[u, D]`: gradients of such rows.
    d_rows: Buffer<f32>,
}

/// The weight's three parts, `[H, D]` each: their first columns.
struct Parts {
    subject: usize,
    edge: usize,
    object: usize,
}

fn parts(width: usize) -> Parts {
    Parts { subject: 0, edge: width, object: 2 * width }
}

impl Scratch {
    /// None yet.
    pub(super) fn new(device: &Device, format: Format) -> Result<Self> {
        Ok(Scratch {
            format,
            nodes: device.allocate(0)?,
            edges: device.allocate(0)?,
            object_rows: device.allocate(0)?,
            predicate_rows: device.allocate(0)?,
            d_rows: device.allocate(0)?,
        })
    }

    /// Room for batches up to `capacity`.
    pub(super) fn plan(&mut self, device: &Device, config: ModelConfig, capacity: BatchSize) -> Result<()> {
        let (objects, predicates) = most_types(config, capacity);
        let (width, hidden) = (config.state_width, config.hidden_width);
        device.reserve(&mut self.nodes, capacity.nodes * 2 * hidden)?;
        device.reserve(&mut self.edges, predicates * hidden)?;
        device.reserve(&mut self.object_rows, objects * width)?;
        device.reserve(&mut self.predicate_rows, predicates * width)?;
        device.reserve(&mut self.d_rows, objects.max(predicates) * width)
    }

    /// `z [E, H]` and its statistics, by the parameters' `values`.
    pub(super) fn forward(
        &mut self,
        device: &Device,
        layer: usize,
        (all, values): (&Layout, &Buffer<f32>),
        batch: &Batch,
        input: LayerInput<'_, Buffer<f32>>,
        z: &mut Buffer<f32>,
        statistics: Option<BatchStatistics<'_>>,
    ) -> Result<()> {
        let (width, hidden) = (all.config.state_width, all.config.hidden_width);
        let layout = all.block(layer, BlockKind::EdgeHidden);
        let weight = Matrix::new(values.slice(layout.weight.clone()), hidden, 3 * width);
        let of = parts(width);
        let (rows, edges) = (batch.edges(), batch.edges().bound);
        match input {
            LayerInput::States { nodes: x, edges: e } => {
                let nodes = batch.nodes();
                let x = Matrix::new(x.slice(0..x.len()), nodes.bound, width);
                project(device, self.format, &mut self.nodes, x, nodes, weight)?;
                linear_forward_gather(
                    device,
                    self.format,
                    &mut MatrixMut::new(z.slice_mut(0..edges * hidden), edges, hidden),
                    Input::Values(Matrix::new(e.slice(0..e.len()), edges, width)),
                    weight.columns(of.edge, width),
                    self.nodes.slice(0..nodes.bound * 2 * hidden),
                    batch.edge_nodes(),
                    statistics,
                )
            }
            LayerInput::Embeddings => {
                let (object_rows, predicate_rows) = (batch.objects(), batch.predicates());
                let (objects, predicates) = (object_rows.bound, predicate_rows.bound);
                self.gather_rows(device, (all, values), batch)?;
                let x = Matrix::new(self.object_rows.slice(0..objects * width), objects, width);
                project(device, self.format, &mut self.nodes, x, object_rows, weight)?;
                let edge_part = self.edges.slice_mut(0..predicates * hidden);
                linear_forward(
                    device,
                    self.format,
                    predicate_rows,
                    &mut MatrixMut::new(edge_part, predicates, hidden),
                    Input::Values(Matrix::new(
                        self.predicate_rows.slice(0..predicates * width),
                        predicates,
                        width,
                    )),
                    weight.columns(of.edge, width),
                    None,
                )?;
                edge_hidden_lookup(
                    device,
                    &mut z.slice_mut(0..edges * hidden),
                    self.edges.slice(0..predicates * hidden),
                    self.nodes.slice(0..objects * 2 * hidden),
                    batch.edge_predicates(),
                    batch.edge_objects(),
                    hidden,
                )?;
                match statistics {
                    Some(statistics) => {
                        batch_norm_statistics(device, statistics, z.slice(0..edges * hidden), rows)
                    }
                    None => Ok(()),
                }
            }
        }
    }

    /// The rows of both tables that occur.
    fn gather_rows(
        &mut self,
        device: &Device,
        (all, values): (&Layout, &Buffer<f32>),
        batch: &Batch,
    ) -> Result<()> {
        let width = all.config.state_width;
        for (to, table, types, rows) in [
            (&mut self.object_rows, &all.object_embedding, batch.object_types(), batch.objects()),
            (&mut self.predicate_rows, &all.predicate_embedding, batch.predicate_types(), batch.predicates()),
        ] {
            let mut to = to.slice_mut(0..rows.bound * width);
            let table = values.slice(table.clone());
            embedding_forward(device, &mut to, table, types, rows, width)?;
        }
        Ok(())
    }

    /// Of `d_z [E, H]`: the weight's gradient and the input's. After [`Scratch::forward`] of this layer and batch, whose rows
    /// of the tables are read again.
    pub(super) fn backward(
        &mut self,
        device: &Device,
        layer: usize,
        parameters: &Parameters<Buffer<f32>>,
        batch: &Batch,
        input: LayerInput<'_, Buffer<f32>>,
        d_z: Slice<'_, f32>,
        d_input: LayerInputGradient<'_, Buffer<f32>>,
        gradients: &mut Buffer<f32>,
        weight_parts: &mut WeightParts,
    ) -> Result<()> {
        let all = &parameters.layout;
        let (width, hidden) = (all.config.state_width, all.config.hidden_width);
        let layout = all.block(layer, BlockKind::EdgeHidden);
        let weight = Matrix::new(parameters.values.slice(layout.weight.clone()), hidden, 3 * width);
        let mut product = Products { device, format: self.format, weight, weight_parts };
        match (input, d_input) {
            (
                LayerInput::States { nodes, edges },
                LayerInputGradient::States { nodes: d_nodes, edges: d_edges },
            ) => {
                let (node_rows, edge_rows) = (batch.nodes(), batch.edges());
                let mut sums = self.nodes.slice_mut(0..node_rows.bound * 2 * hidden);
                edge_hidden_sum_ends(device, &mut sums, d_z, batch.incidence(), hidden)?;
                let mut d_weight =
                    MatrixMut::new(gradients.slice_mut(layout.weight.clone()), hidden, 3 * width);
                let (x, d_x) = (nodes.slice(0..nodes.len()), d_nodes);
                product.of_ends(node_rows, d_x, &mut d_weight, sums.as_slice(), x)?;
                let e = edges.slice(0..edges.len());
                product.of_edges(edge_rows, d_edges, &mut d_weight, d_z, e)
            }
            (LayerInput::Embeddings, LayerInputGradient::Embeddings) => {
                let (objects, predicates) = (batch.object_types(), batch.predicate_types());
                let (object_rows, predicate_rows) = (batch.objects(), batch.predicates());
                let (object_count, predicate_count) = (object_rows.bound, predicate_rows.bound);
                let mut sums = self.nodes.slice_mut(0..object_count * 2 * hidden);
                edge_hidden_sum_ends(device, &mut sums, d_z, batch.object_incidence(), hidden)?;
                let mut edge_sums = self.edges.slice_mut(0..predicate_count * hidden);
                edge_hidden_sum_edges(device, &mut edge_sums, d_z, batch.predicate_edges(), hidden)?;

                let mut d_weight =
                    MatrixMut::new(gradients.slice_mut(layout.weight.clone()), hidden, 3 * width);
                let x = self.object_rows.slice(0..object_count * width);
                product.of_ends(object_rows, &mut self.d_rows, &mut d_weight, sums.as_slice(), x)?;
                let table = gradients.slice_mut(all.object_embedding.clone());
                let d_rows = self.d_rows.slice(0..object_count * width);
                embedding_backward(device, table, d_rows, objects, object_rows, width)?;

                let mut d_weight =
                    MatrixMut::new(gradients.slice_mut(layout.weight.clone()), hidden, 3 * width);
                let e = self.predicate_rows.slice(0..predicate_count * width);
                let d_z = edge_sums.as_slice();
                product.of_edges(predicate_rows, &mut self.d_rows, &mut d_weight, d_z, e)?;
                let table = gradients.slice_mut(all.predicate_embedding.clone());
                let d_rows = self.d_rows.slice(0..predicate_count * width);
                embedding_backward(device, table, d_rows, predicates, predicate_rows, width)
            }
            _ => unreachable!("a layer's input and its gradient are of one kind"),
        }
    }
}

/// The backward's products, with the whole weight `[H, 3 D]`.
struct Products<'a> {
    device: &'a Device,
    format: Format,
    weight: Matrix<'a>,
    weight_parts: &'a mut WeightParts,
}

impl Products<'_> {
    /// Of S_s and S_o, side by side in `sums [n, 2 H]`: `d_x [n, D] = S_s W_s + S_o W_o`, and with `x [n, D]` the gradients
    /// of W_s and W_o.
    fn of_ends(
        &mut self,
        rows: Rows<'_>,
        d_x: &mut Buffer<f32>,
        d_weight: &mut MatrixMut<'_>,
        sums: Slice<'_, f32>,
        x: Slice<'_, f32>,
    ) -> Result<()> {
        let (hidden, width) = (self.weight.row_count(), self.weight.column_count() / 3);
        let of = parts(width);
        let d_x = d_x.slice_mut(0..rows.bound * width);
        let to = LinearGradients {
            x: &mut MatrixMut::new(d_x, rows.bound, width),
            weight: &mut d_weight.stacked(of.subject, of.object, width),
            norm: None,
        };
        let sums = Matrix::new(sums, rows.bound, 2 * hidden);
        let x = Input::Values(Matrix::new(x, rows.bound, width));
        let weight = self.weight.stacked(of.subject, of.object, width);
        linear_backward(self.device, self.format, rows, to, sums, x, weight, self.weight_parts)
    }

    /// Of `d_z [n, H]`: `d_e [n, D] = d_z W_e`, and with `e [n, D]` the gradient of W_e.
    fn of_edges(
        &mut self,
        rows: Rows<'_>,
        d_e: &mut Buffer<f32>,
        d_weight: &mut MatrixMut<'_>,
        d_z: Slice<'_, f32>,
        e: Slice<'_, f32>,
    ) -> Result<()> {
        let (hidden, width) = (self.weight.row_count(), self.weight.column_count() / 3);
        let of = parts(width);
        let d_e = d_e.slice_mut(0..rows.bound * width);
        let to = LinearGradients {
            x: &mut MatrixMut::new(d_e, rows.bound, width),
            weight: &mut d_weight.columns(of.edge, width),
            norm: None,
        };
        let d_z = Matrix::new(d_z, rows.bound, hidden);
        let e = Input::Values(Matrix::new(e, rows.bound, width));
        let weight = self.weight.columns(of.edge, width);
        linear_backward(self.device, self.format, rows, to, d_z, e, weight, self.weight_parts)
    }
}

/// `projected [n, 2 H]`: P_s and P_o of `x [n, D]`, by W_s above W_o.
fn project(
    device: &Device,
    format: Format,
    projected: &mut Buffer<f32>,
    x: Matrix<'_>,
    rows: Rows<'_>,
    weight: Matrix<'_>,
) -> Result<()> {
    let (hidden, width) = (weight.row_count(), x.column_count());
    let of = parts(width);
    let projected = projected.slice_mut(0..rows.bound * 2 * hidden);
    let mut projected = MatrixMut::new(projected, rows.bound, 2 * hidden);
    let weight = weight.stacked(of.subject, of.object, width);
    linear_forward(device, format, rows, &mut projected, Input::Values(x), weight, None)
}
