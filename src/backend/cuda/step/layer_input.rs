//! The first product of a layer, split by operand, and its backward. The input is the node and edge states,
//! or in layer 0 the rows of the embedding tables for the types in use.
//!
//! ```text
//! z[e] = P_s[s(e)] + e W_e^T + P_o[o(e)],   P_s = x W_s^T,  P_o = x W_o^T
//! S_s[n] = sum of d_z[e] over edges with subject n,   S_o[n] likewise
//! d_x = S_s W_s + S_o W_o,   d_W_s = S_s^T x,   d_W_o = S_o^T x,   d_e = d_z W_e,   d_W_e = d_z^T e
//! ```
//!
//! Node states are stored only in the last layer. With u = relu(norm(.)) of the node output and x = u / |u|
//! by row, the products divide by |u| in their epilogue. S and P lie side by side as above:
//!
//! ```text
//! P = (u W^T) / |u|
//! S' = S / |u|,   d_W = S'^T u,   d_u = S' W - t u,   t = (S' . P) / |u|
//! ```
//!
//! This follows from `d_u = (d_x - x (x . d_x)) / |u|` with `d_x = S W`, and `x . (S W) = S . (x W^T)`. If
//! |u| is below the smallest divisor, which replaces it, t is 0. Rounding P when it is stored changes t, and
//! thus d_u parallel to u only, by up to 2^-9 |S'| |P| in bf16. That is no more than the rounding of S' may
//! change S' W.

use super::activations::{LayerActivations, norm};
use super::batch::Batch;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Slice};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::launchers::batch_norm::{BatchStatistics, Norm, NormGradient, Sums};
use crate::backend::cuda::launchers::batch_places::most_types;
use crate::backend::cuda::launchers::edge_hidden::{
    ChunkSums, Lengths, Terms, TypeBound, TypeSums, edge_hidden_lookup, edge_hidden_sum_ends,
    edge_hidden_sum_types,
};
use crate::backend::cuda::launchers::embedding::{
    Lookup, LookupGradient, embedding_backward, embedding_forward,
};
use crate::backend::cuda::launchers::linear::{
    Backward, Forward, ForwardGather, Input, LinearGradients, Matrix, MatrixMut, StoredFormat, Unit,
    WeightParts, linear_backward, linear_backward_states, linear_backward_unit, linear_forward_gather,
    linear_forward_two, linear_forward_unit,
};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::cuda::launchers::weight_copy::Weights;
use crate::batch::graph_batch::BatchSize;
use crate::error::Result;
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, Layout};

/// Scratch memory of these stages.
pub(crate) struct Scratch<T: StoredElement> {
    format: StoredFormat<T>,
    /// `[n, 2 H]` per layer: P_s and P_o side by side.
    projected: Vec<Buffer<T>>,
    /// `[n]` per layer after the first: divisors of the rows of x, kept from the forward to the backward.
    lengths: Vec<Buffer<f32>>,
    /// `[n]`: multiples t of u.
    along: Buffer<f32>,
    /// `[n, 2 H]`: S_s and S_o side by side.
    sums: Buffer<T>,
    /// `[u, H]`: contribution of the predicate types to z, or sums of d_z by predicate type (layer 0).
    edges: Buffer<T>,
    /// Memory for sums by type.
    chunk_sums: ChunkSums,
    /// `[n, D]`: rows of the object table for the types in use (layer 0).
    object_rows: Buffer<T>,
    /// `[u, D]`: rows of the predicate table for the types in use (layer 0).
    predicate_rows: Buffer<T>,
    /// `[n, D]`: gradients with respect to `object_rows`.
    d_object_rows: Buffer<T>,
    /// `[u, D]`: gradients with respect to `predicate_rows`.
    d_predicate_rows: Buffer<T>,
}

/// First columns of the weight's three parts, `[H, D]` each, whose rows of D values are `width` apart.
struct Parts {
    subject: usize,
    edge: usize,
    object: usize,
}

fn parts(width: usize) -> Parts {
    Parts { subject: 0, edge: width, object: 2 * width }
}

impl<T: StoredElement> Scratch<T> {
    /// Creates empty memory.
    pub(crate) fn new(device: &Device, format: StoredFormat<T>) -> Result<Self> {
        Ok(Scratch {
            format,
            projected: Vec::new(),
            lengths: Vec::new(),
            along: device.allocate(0)?,
            sums: device.allocate(0)?,
            edges: device.allocate(0)?,
            chunk_sums: ChunkSums::new(device)?,
            object_rows: device.allocate(0)?,
            predicate_rows: device.allocate(0)?,
            d_object_rows: device.allocate(0)?,
            d_predicate_rows: device.allocate(0)?,
        })
    }

    /// Allocates memory for batches up to `capacity`.
    pub(crate) fn plan(&mut self, device: &Device, config: ModelConfig, capacity: BatchSize) -> Result<()> {
        let (objects, predicates) = most_types(config, capacity);
        let (width, hidden) = (config.state_width, config.hidden_width);
        let ends = capacity.nodes * T::stride(2 * hidden);
        for layer in 0..config.layers {
            if self.projected.len() == layer {
                self.projected.push(device.allocate(0)?);
                self.lengths.push(device.allocate(0)?);
            }
            device.reserve(&mut self.projected[layer], ends)?;
            device.reserve(&mut self.lengths[layer], if layer == 0 { 0 } else { capacity.nodes })?;
        }
        device.reserve(&mut self.along, capacity.nodes)?;
        device.reserve(&mut self.sums, ends)?;
        device.reserve(&mut self.edges, predicates * T::stride(hidden))?;
        let of_predicates = TypeBound { types: predicates, entries: capacity.edges };
        let of_objects = TypeBound { types: objects, entries: 2 * capacity.edges };
        self.chunk_sums.reserve(device, of_predicates, of_objects, hidden)?;
        device.reserve(&mut self.object_rows, objects * T::stride(width))?;
        device.reserve(&mut self.predicate_rows, predicates * T::stride(width))?;
        device.reserve(&mut self.d_object_rows, objects * T::stride(width))?;
        device.reserve(&mut self.d_predicate_rows, predicates * T::stride(width))
    }

    /// Computes `z [E, H]` and its statistics, from the states of the layer `below`, or in layer 0 from the
    /// embedding tables.
    pub(crate) fn forward(
        &mut self,
        LayerPass { device, layer, weights, batch }: LayerPass<'_>,
        below: Option<&LayerActivations<T>>,
        z: &mut Buffer<T>,
        statistics: Option<BatchStatistics<'_>>,
    ) -> Result<()> {
        let Weights { layout: all, values, .. } = weights;
        let (width, hidden) = (all.config.state_width, all.config.hidden_width);
        let weight = weights.of(layer, BlockKind::EdgeHidden);
        let of = parts(T::stride(width));
        let edges = batch.edges().bound;
        match below {
            Some(below) => {
                let (nodes, projected) = (batch.nodes(), &mut self.projected[layer]);
                let mut lengths = self.lengths[layer].slice_mut(0..nodes.bound);
                linear_forward_unit(
                    device,
                    self.format,
                    Forward {
                        rows: nodes,
                        y: MatrixMut::new(
                            projected.rows_mut(nodes.bound, 2 * hidden),
                            nodes.bound,
                            2 * hidden,
                        ),
                        x: node_output(layer, weights, below, nodes.bound),
                        weight: weight.stacked(of.subject, of.object, width),
                    },
                    all.config.l2_norm.then_some(&mut lengths),
                )?;
                linear_forward_gather(
                    device,
                    self.format,
                    ForwardGather {
                        ends: batch.edge_nodes(),
                        projected: self.projected[layer].rows(nodes.bound, 2 * hidden),
                        y: MatrixMut::new(z.rows_mut(edges, hidden), edges, hidden),
                        x: edge_states(layer, weights, below, edges),
                        weight: weight.columns(of.edge, width),
                    },
                    statistics,
                )
            }
            None => {
                let (object_rows, predicate_rows) = (batch.objects(), batch.predicates());
                let (objects, predicates) = (object_rows.bound, predicate_rows.bound);
                self.gather_rows(device, (all, values), batch)?;
                let of_objects = Forward {
                    rows: object_rows,
                    y: MatrixMut::new(
                        self.projected[layer].rows_mut(objects, 2 * hidden),
                        objects,
                        2 * hidden,
                    ),
                    x: Matrix::new(self.object_rows.rows(objects, width), objects, width),
                    weight: weight.stacked(of.subject, of.object, width),
                };
                let of_predicates = Forward {
                    rows: predicate_rows,
                    y: MatrixMut::new(self.edges.rows_mut(predicates, hidden), predicates, hidden),
                    x: Matrix::new(self.predicate_rows.rows(predicates, width), predicates, width),
                    weight: weight.columns(of.edge, width),
                };
                linear_forward_two(device, self.format, [of_objects, of_predicates])?;
                let terms = Terms {
                    edge_projected: self.edges.rows(predicates, hidden),
                    projected: self.projected[layer].rows(objects, 2 * hidden),
                    edge_row: batch.edge_predicates(),
                    ends: batch.edge_objects(),
                };
                edge_hidden_lookup(device, &mut z.rows_mut(edges, hidden), terms, hidden, statistics)
            }
        }
    }

    /// Gathers the rows of both tables for the types in use.
    fn gather_rows(
        &mut self,
        device: &Device,
        (all, values): (&Layout, &Buffer<f32>),
        batch: &Batch,
    ) -> Result<()> {
        let (width, [objects, predicates]) = (all.config.state_width, batch.occurring());
        let of_objects = Lookup {
            rows: self.object_rows.rows_mut(objects.rows.bound, width),
            table: values.slice(all.object_embedding.clone()),
            of: objects,
        };
        let of_predicates = Lookup {
            rows: self.predicate_rows.rows_mut(predicates.rows.bound, width),
            table: values.slice(all.predicate_embedding.clone()),
            of: predicates,
        };
        embedding_forward(device, [of_objects, of_predicates], width)
    }

    /// Backward of a layer after the first. From `d_z [E, H]` it derives the
    /// gradients with respect to the weight, u of the nodes, and the edge states of the layer `below`. It
    /// also computes the sums of the batch norm backward of that layer's node output. It must follow
    /// [`Scratch::forward`] of the same layer and batch, whose products it reads.
    pub(crate) fn backward_to_states(
        &mut self,
        LayerPass { device, layer, weights, batch }: LayerPass<'_>,
        below: &LayerActivations<T>,
        d_z: Slice<'_, T>,
        to: StateGradients<'_, T>,
        memory: Memory<'_>,
    ) -> Result<()> {
        let StateGradients { d_node_state, d_edge_state, gradients } = to;
        let Memory { weight_parts, sums_before } = memory;
        let all = weights.layout;
        let (width, hidden) = (all.config.state_width, all.config.hidden_width);
        let layout = all.block(layer, BlockKind::EdgeHidden);
        let (weight, of) = (weights.of(layer, BlockKind::EdgeHidden), parts(T::stride(width)));
        let (node_rows, edge_rows) = (batch.nodes(), batch.edges());
        let mut sums = self.sums.rows_mut(node_rows.bound, 2 * hidden);
        let lengths = all.config.l2_norm.then(|| Lengths {
            lengths: self.lengths[layer].slice(0..node_rows.bound),
            projected: self.projected[layer].rows(node_rows.bound, 2 * hidden),
            along: self.along.slice_mut(0..node_rows.bound),
        });
        edge_hidden_sum_ends(device, &mut sums, lengths, d_z, batch.incidence(), hidden)?;
        let d_z = Matrix::new(d_z, edge_rows.bound, hidden);
        let before = all.block(layer - 1, BlockKind::NodeOutput);
        let (of_weight, of_bias) = (before.norm_weight.clone(), before.norm_bias.clone());
        let [norm_weight, bias, d_weight] = gradients.slices_mut([of_weight, of_bias, layout.weight.clone()]);
        let batch_statistics = before.batch_norm;
        let d_norm = NormGradient { weight: norm_weight, bias, batch_statistics, sums: sums_before };
        let mut d_weight = MatrixMut::new(d_weight, hidden, 3 * width);
        let (z, norm) = node_output(layer, weights, below, node_rows.bound);
        let along = all.config.l2_norm.then(|| self.along.slice(0..node_rows.bound));
        let [d_ends, d_edges_part] = d_weight.outer_and_middle(width);
        let d_u = d_node_state.rows_mut(node_rows.bound, width);
        let of_nodes = Backward {
            rows: node_rows,
            to: LinearGradients {
                x: MatrixMut::new(d_u, node_rows.bound, width),
                weight: d_ends,
                norm: Some(d_norm),
            },
            d_y: Matrix::new(sums.as_slice(), node_rows.bound, 2 * hidden),
            x: Unit { z, norm, along },
            weight: weight.stacked(of.subject, of.object, width),
        };
        let d_e = d_edge_state.rows_mut(edge_rows.bound, width);
        let to = LinearGradients {
            x: MatrixMut::new(d_e, edge_rows.bound, width),
            weight: d_edges_part,
            norm: None,
        };
        let weight = weight.columns(of.edge, width);
        match edge_states(layer, weights, below, edge_rows.bound) {
            Input::Activated(z, norm) => {
                let of_edges = Backward { rows: edge_rows, to, d_y: d_z, x: (z, norm), weight };
                linear_backward_states(device, self.format, of_nodes, of_edges, weight_parts)
            }
            e @ Input::Values(_) => {
                linear_backward_unit(device, self.format, of_nodes, weight_parts)?;
                let of_edges = Backward { rows: edge_rows, to, d_y: d_z, x: e, weight };
                linear_backward(device, self.format, of_edges, weight_parts)
            }
        }
    }

    /// Backward of layer 0, from `d_z [E, H]` to the weight and both embedding tables. It must follow
    /// [`Scratch::forward`] of the same batch, whose table rows it reads.
    pub(crate) fn backward_to_embeddings(
        &mut self,
        LayerPass { device, layer, weights, batch }: LayerPass<'_>,
        d_z: Slice<'_, T>,
        gradients: &mut Buffer<f32>,
        weight_parts: &mut WeightParts,
    ) -> Result<()> {
        let all = weights.layout;
        let (width, hidden) = (all.config.state_width, all.config.hidden_width);
        let layout = all.block(layer, BlockKind::EdgeHidden);
        let weight = weights.of(layer, BlockKind::EdgeHidden);
        let mut product = Products { device, format: self.format, weight, width, weight_parts };
        let [objects, predicates] = batch.occurring();
        let (object_rows, predicate_rows) = (objects.rows, predicates.rows);
        let (object_count, predicate_count) = (object_rows.bound, predicate_rows.bound);
        let mut edge_sums = self.edges.rows_mut(predicate_count, hidden);
        let mut sums = self.sums.rows_mut(object_count, 2 * hidden);
        let by_predicate = TypeSums { sums: &mut edge_sums, lists: batch.predicate_edges() };
        let by_object = TypeSums { sums: &mut sums, lists: batch.object_incidence() };
        edge_hidden_sum_types(device, by_predicate, by_object, (d_z, hidden), &mut self.chunk_sums)?;

        let mut d_weight = MatrixMut::new(gradients.slice_mut(layout.weight.clone()), hidden, 3 * width);
        let x = self.object_rows.rows(object_count, width);
        product.of_ends(object_rows, &mut self.d_object_rows, &mut d_weight, sums.as_slice(), x)?;
        let e = self.predicate_rows.rows(predicate_count, width);
        let e = Input::Values(Matrix::new(e, predicate_count, width));
        let sums = Matrix::new(edge_sums.as_slice(), predicate_count, hidden);
        product.of_edges(predicate_rows, &mut self.d_predicate_rows, &mut d_weight, sums, e)?;

        let tables = [all.object_embedding.clone(), all.predicate_embedding.clone()];
        let [d_objects, d_predicates] = gradients.slices_mut(tables);
        let of_objects = LookupGradient {
            d_table: d_objects,
            d_rows: self.d_object_rows.rows(object_count, width),
            of: objects,
        };
        let of_predicates = LookupGradient {
            d_table: d_predicates,
            d_rows: self.d_predicate_rows.rows(predicate_count, width),
            of: predicates,
        };
        embedding_backward(device, [of_objects, of_predicates], width)
    }
}

/// Arguments of a layer's pass.
#[derive(Clone, Copy)]
pub(crate) struct LayerPass<'a> {
    /// Device to run on.
    pub(crate) device: &'a Device,
    /// Index of the layer, from 0.
    pub(crate) layer: usize,
    /// Parameters, and the weights in the form that products read.
    pub(crate) weights: Weights<'a>,
    /// Batch to process.
    pub(crate) batch: &'a Batch,
}

/// Outputs of the backward of a layer after the first.
pub(crate) struct StateGradients<'a, T> {
    /// `[N, D]` gradient with respect to u of the nodes, before their l2 normalisation.
    pub(crate) d_node_state: &'a mut Buffer<T>,
    /// `[E, D]` gradient with respect to the edge states.
    pub(crate) d_edge_state: &'a mut Buffer<T>,
    /// Gradients with respect to the parameters: the weight, and the norm of the node output of the layer below.
    pub(crate) gradients: &'a mut Buffer<f32>,
}

/// Memory needed by the backward of a layer after the first.
pub(crate) struct Memory<'a> {
    /// Memory for the parts of the weight gradients.
    pub(crate) weight_parts: &'a mut WeightParts,
    /// Memory for the sums of the batch norm backward of the layer below.
    pub(crate) sums_before: &'a mut Sums,
}

/// Backward products of layer 0, with the whole weight: its stored parts `[H, D]` side by side.
struct Products<'a, T: StoredElement> {
    device: &'a Device,
    format: StoredFormat<T>,
    weight: Matrix<'a, T>,
    /// Width of a state, D.
    width: usize,
    weight_parts: &'a mut WeightParts,
}

impl<T: StoredElement> Products<'_, T> {
    /// Products of S_s and S_o, side by side in `sums [n, 2 H]`: computes `d_x [n, D] = S_s W_s + S_o W_o`, and with
    /// `x [n, D]` the gradients with respect to W_s and W_o.
    fn of_ends(
        &mut self,
        rows: Rows<'_>,
        d_x: &mut Buffer<T>,
        d_weight: &mut MatrixMut<'_, f32>,
        sums: Slice<'_, T>,
        x: Slice<'_, T>,
    ) -> Result<()> {
        let (hidden, width) = (self.weight.row_count(), self.width);
        let (of, of_gradient) = (parts(T::stride(width)), parts(width));
        let to = LinearGradients {
            x: MatrixMut::new(d_x.rows_mut(rows.bound, width), rows.bound, width),
            weight: d_weight.stacked(of_gradient.subject, of_gradient.object, width),
            norm: None,
        };
        let sums = Matrix::new(sums, rows.bound, 2 * hidden);
        let x = Input::Values(Matrix::new(x, rows.bound, width));
        let weight = self.weight.stacked(of.subject, of.object, width);
        let of = Backward { rows, to, d_y: sums, x, weight };
        linear_backward(self.device, self.format, of, self.weight_parts)
    }

    /// Products of `d_z [n, H]`: computes `d_e [n, D] = d_z W_e`, and with `e [n, D]` the gradient with respect to W_e.
    fn of_edges(
        &mut self,
        rows: Rows<'_>,
        d_e: &mut Buffer<T>,
        d_weight: &mut MatrixMut<'_, f32>,
        d_z: Matrix<'_, T>,
        e: Input<'_, T>,
    ) -> Result<()> {
        let width = self.width;
        let (of, of_gradient) = (parts(T::stride(width)), parts(width));
        let to = LinearGradients {
            x: MatrixMut::new(d_e.rows_mut(rows.bound, width), rows.bound, width),
            weight: d_weight.columns(of_gradient.edge, width),
            norm: None,
        };
        let weight = self.weight.columns(of.edge, width);
        let of = Backward { rows, to, d_y: d_z, x: e, weight };
        linear_backward(self.device, self.format, of, self.weight_parts)
    }
}

/// Node output `[N, D]` of the layer `below`, and its norm.
fn node_output<'a, T: StoredElement>(
    layer: usize,
    weights: Weights<'a>,
    below: &'a LayerActivations<T>,
    nodes: usize,
) -> (Matrix<'a, T>, Norm<'a>) {
    let layout = weights.layout.block(layer - 1, BlockKind::NodeOutput);
    let (block, width) = (&below.node_output, layout.outputs);
    (Matrix::new(block.linear.rows(nodes, width), nodes, width), norm(block))
}

/// Edge states `[E, D]` of the layer `below`.
fn edge_states<'a, T: StoredElement>(
    layer: usize,
    weights: Weights<'a>,
    below: &'a LayerActivations<T>,
    edges: usize,
) -> Input<'a, T> {
    let (config, layout) = (weights.layout.config, weights.layout.block(layer - 1, BlockKind::EdgeHeads));
    let (start, width, heads) = (config.hidden_width, config.state_width, &below.edge_heads);
    if let Some(states) = &below.edge_state {
        return Input::Values(Matrix::new(states.rows(edges, width), edges, width));
    }
    let z = Matrix::new(heads.linear.rows(edges, layout.outputs), edges, layout.outputs);
    let norm = norm(heads);
    Input::Activated(z.columns(start, width), norm.columns(start, width))
}
