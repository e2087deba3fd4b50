//! edge_hidden: the first product of a layer, split by operand, and its backward.
//!
//! ```text
//! z[e] = P_s[s(e)] + e W_e^T + P_o[o(e)],   P_s = x W_s^T,  P_o = x W_o^T
//!
//! S_s[n] = sum of d_z[e] over edges with subject n,   S_o[n] likewise
//! d_x = S_s W_s + S_o W_o,   d_W_s = S_s^T x,   d_W_o = S_o^T x,   d_e = d_z W_e,   d_W_e = d_z^T e
//! ```
//!
//! In layer 0, x and e are rows of the embedding tables, so P, S and the products run over the distinct types
//! of the batch. There n is an object type, e W_e^T has one row per predicate type, and d_z is first summed
//! by predicate type.

use rayon::prelude::*;
use scenerank_matmul::{Accumulate, MatMut, MatRef};

use super::block::RunningStatistics;
use super::clock::{Clock, Products, Work};
use super::rounding::Rounding;
use super::rows::{add, add_both, behind, dot, scale};
use super::{Cpu, at_least};
use crate::backend::L2_EPSILON;
use crate::backend::pass::{Backward, Forward};
use crate::batch::graph_batch::{GraphBatch, OBJECT_ROLE, Occurrences};
use crate::network::activations::{ActivationGradients, BlockActivations};
use crate::network::parameters::{BlockKind, Parameters};

/// Name of the pass that sums gradients by node or type.
const SUMS: &str = "sums by node or type, backward";

/// Scratch memory of these stages.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// `[n, 2 H]`: P_s and P_o side by side. One entry shared by all layers, or one per layer if this backend
    /// rounds.
    projected: Vec<Vec<f32>>,
    /// `[n, 2 H]`: S_s and S_o side by side.
    sums: Vec<f32>,
    /// `[u, H]`: contribution of the predicate types to z, or sums of d_z by predicate type (layer 0).
    edges: Vec<f32>,
    /// `[n, D]`: rows of the object table for the types in use (layer 0).
    object_rows: Vec<f32>,
    /// `[n, D]`: gradients with respect to `object_rows`.
    d_object_rows: Vec<f32>,
    /// `[u, D]`: rows of the predicate table for the types in use, later their gradients.
    predicate_rows: Vec<f32>,
    products: Products,
    clock: Clock,
}

/// The three parts of the weight, `[H, D]` each.
struct Split<T> {
    subject: T,
    edge: T,
    object: T,
}

fn split_weight(weight: &[f32], hidden: usize, width: usize) -> Split<MatRef<'_, f32>> {
    let weight = MatRef::new(weight, hidden, 3 * width);
    Split {
        subject: weight.column_range(0..width),
        edge: weight.column_range(width..2 * width),
        object: weight.column_range(2 * width..3 * width),
    }
}

fn split_weight_mut(weight: &mut [f32], hidden: usize, width: usize) -> Split<MatMut<'_, f32>> {
    let (subject, rest) = MatMut::new(weight, hidden, 3 * width).split_at_column(width);
    let (edge, object) = rest.split_at_column(width);
    Split { subject, edge, object }
}

/// Gathers the rows of `table [V, D]` for the types in use.
pub(super) fn occurring_rows<'a>(
    table: &[f32],
    width: usize,
    of: &Occurrences,
    rows: &'a mut Vec<f32>,
) -> &'a [f32] {
    rows.clear();
    for &t in &of.types {
        rows.extend_from_slice(&table[t as usize * width..][..width]);
    }
    rows
}

impl Cpu {
    /// Computes z and its statistics.
    pub(super) fn edge_hidden_forward(&mut self, pass: &mut Forward<'_, Self>) {
        let (layer, mode, batch) = (pass.layer, pass.mode, pass.batch);
        let (below, a) = pass.activations.at_mut(layer);
        let BlockActivations { linear, mean, rstd } = &mut a.edge_hidden;
        let Parameters { layout: all, values, running_mean, running_var } = &mut *pass.parameters;
        let (width, hidden, edges) = (all.config.state_width, all.config.hidden_width, batch.size().edges);
        let layout = all.block(layer, BlockKind::EdgeHidden);
        let rounding = &self.rounding;
        let values = rounding.parameters(values);
        let weight = split_weight(&values[layout.weight.clone()], hidden, width);
        let z = &mut linear[..edges * hidden];
        // Moved out so that the closure below can read it while `self` updates the statistics.
        let mut scratch = std::mem::take(&mut self.edge_hidden);

        let (nodes, node_rows) = match below {
            None => {
                let table = &values[all.object_embedding.clone()];
                let of = &batch.object_occurrences;
                (occurring_rows(table, width, of, &mut scratch.object_rows), of.types.len())
            }
            Some(below) => (below.node_state.as_slice(), batch.size().nodes),
        };
        let x = MatRef::new(nodes, node_rows, width);
        // With rounding, the backward reads each layer's projections again, so each layer keeps its own.
        let place = if rounding.is_to_bf16() { layer } else { 0 };
        if scratch.projected.len() <= place {
            scratch.projected.resize_with(place + 1, Vec::new);
        }
        let projected = at_least(&mut scratch.projected[place], node_rows * 2 * hidden);
        let (p_subject, p_object) = MatMut::new(projected, node_rows, 2 * hidden).split_at_column(hidden);
        let products = &mut scratch.products;
        products.multiply("x W^T", p_subject, Accumulate::Replace, x, weight.subject.transpose());
        products.multiply("x W^T", p_object, Accumulate::Replace, x, weight.object.transpose());
        rounding.store_all(projected);
        let projected = &*projected;

        // Adds the projections of an edge's ends. Those of the next edge are read next.
        let add_ends = |z: &mut [f32], edge: usize, node_row: &dyn Fn(u32) -> usize| {
            let ends = |edge: usize| {
                let subject = node_row(batch.edge_subject[edge]) * 2 * hidden;
                let object = node_row(batch.edge_object[edge]) * 2 * hidden + hidden;
                [&projected[subject..][..hidden], &projected[object..][..hidden]]
            };
            let soon = ends((edge + 1).min(edges - 1)).map(<[f32]>::as_ptr);
            add_both(z, ends(edge), soon);
        };
        let running = RunningStatistics { mode, layout, mean: running_mean, var: running_var };
        match below {
            None => {
                let table = &values[all.predicate_embedding.clone()];
                let (of, slots) = (&batch.predicate_occurrences, &batch.object_occurrences.slot);
                let rows = occurring_rows(table, width, of, &mut scratch.predicate_rows);
                let p_edge = at_least(&mut scratch.edges, of.types.len() * hidden);
                products.multiply(
                    "x W^T",
                    MatMut::new(p_edge, of.types.len(), hidden),
                    Accumulate::Replace,
                    MatRef::new(rows, of.types.len(), width),
                    weight.edge.transpose(),
                );
                rounding.store_all(p_edge);
                let p_edge = &*p_edge;
                self.statistics(running, z, mean, rstd, |first, z| {
                    for (edge, z) in (first..).zip(z.chunks_exact_mut(hidden)) {
                        z.copy_from_slice(&p_edge[of.slot[edge] as usize * hidden..][..hidden]);
                        add_ends(z, edge, &|node| slots[node as usize] as usize);
                    }
                });
            }
            Some(below) => {
                let product = MatMut::new(z, edges, hidden);
                let e = MatRef::new(&below.edge_state, edges, width);
                products.multiply("x W^T", product, Accumulate::Replace, e, weight.edge.transpose());
                self.statistics(running, z, mean, rstd, |first, z| {
                    for (edge, z) in (first..).zip(z.chunks_exact_mut(hidden)) {
                        add_ends(z, edge, &|node| node as usize);
                    }
                });
            }
        }
        self.edge_hidden = scratch;
    }
}

/// Adds the rows of `d_z [E, H]` of a node's messages to its `sums [2 H]`: subject messages in the first
/// half, object messages in the second.
fn add_messages(batch: &GraphBatch, d_z: &[f32], node: usize, sums: &mut [f32]) {
    let hidden = sums.len() / 2;
    let (subject, object) = sums.split_at_mut(hidden);
    for ((edge, role), next) in batch.incidence.messages_and_next(node) {
        let to = if role == OBJECT_ROLE { &mut *object } else { &mut *subject };
        let soon = next.map_or(edge, |(edge, _)| edge);
        add(to, &d_z[edge * hidden..][..hidden], d_z[soon * hidden..].as_ptr());
    }
}

impl Scratch {
    /// Scratch memory of stages that `clock` times.
    pub(super) fn new(products: Products, clock: Clock) -> Self {
        Scratch { products, clock, ..Scratch::default() }
    }

    /// Backward of a layer after the first: from d_z, stored in `pass.d.d_edge_hidden [E, H]`, to the weight
    /// and the states of the layer below. With `lengths [N]`, the gradient is with respect to the node states
    /// times their lengths.
    pub(super) fn backward_to_states(
        &mut self,
        rounding: &Rounding,
        pass: &mut Backward<'_, Cpu>,
        lengths: Option<&[f32]>,
    ) {
        let (layer, batch, all) = (pass.layer, pass.batch, &pass.parameters.layout);
        let (width, hidden, size) = (all.config.state_width, all.config.hidden_width, batch.size());
        let layout = all.block(layer, BlockKind::EdgeHidden);
        let values = rounding.parameters(&pass.parameters.values);
        let weight = split_weight(&values[layout.weight.clone()], hidden, width);
        let below = pass.activations.at(layer).0.expect("a layer below");
        let (nodes, edges) = (&below.node_state, &below.edge_state);
        let ActivationGradients { d_node_state: d_nodes, d_edge_state: d_edges, d_edge_hidden: d_z, .. } =
            &mut *pass.d;
        let d_z = &d_z[..size.edges * hidden];
        let sums = at_least(&mut self.sums, size.nodes * 2 * hidden);
        self.clock.pass(SUMS, || {
            sums.par_chunks_mut(2 * hidden).enumerate().for_each(|(node, sums)| {
                sums.fill(0.0);
                add_messages(batch, d_z, node, sums);
                if let Some(lengths) = lengths {
                    sums.iter_mut().for_each(|sum| *sum /= lengths[node]);
                }
                rounding.store(sums);
            });
        });
        let mut before = Vec::new();
        let nodes = match lengths {
            Some(lengths) => {
                before.extend_from_slice(&nodes[..size.nodes * width]);
                scale_rows(&mut before, width, lengths);
                &before
            }
            None => nodes,
        };
        let d_weight = split_weight_mut(&mut pass.gradients[layout.weight.clone()], hidden, width);
        let edge_part = d_weight.edge;
        let of_ends = [d_weight.subject, d_weight.object];
        of_node_sums((sums, size.nodes), nodes, &weight, of_ends, d_nodes, &mut self.products);
        let d_z = MatRef::new(d_z, size.edges, hidden);
        self.products.multiply(
            "d_z^T x",
            edge_part,
            Accumulate::Replace,
            d_z.transpose(),
            MatRef::new(edges, size.edges, width),
        );
        self.products.multiply(
            "d_z W",
            MatMut::new(d_edges, size.edges, width),
            Accumulate::Replace,
            d_z,
            weight.edge,
        );
        if let Some(lengths) = lengths {
            let rows = sums.chunks_exact(2 * hidden).zip(self.projected[layer].chunks_exact(2 * hidden));
            let along = rows.zip(lengths).map(|((sums, projected), &length)| {
                if length <= L2_EPSILON as f32 { 0.0 } else { dot(sums, projected) / length }
            });
            for (at, along) in along.enumerate() {
                let row = at * width..(at + 1) * width;
                let u = &nodes[row.clone()];
                d_nodes[row].iter_mut().zip(u).for_each(|(d, u)| *d -= along * u);
            }
        }
        rounding.store_all(&mut d_nodes[..size.nodes * width]);
        rounding.store_all(&mut d_edges[..size.edges * width]);
    }

    /// Backward of layer 0: from d_z, stored in `pass.d.d_edge_hidden [E, H]`, to the weight and the
    /// embedding tables.
    pub(super) fn backward_to_embeddings(&mut self, rounding: &Rounding, pass: &mut Backward<'_, Cpu>) {
        let (batch, all) = (pass.batch, &pass.parameters.layout);
        let (width, hidden) = (all.config.state_width, all.config.hidden_width);
        let layout = all.block(pass.layer, BlockKind::EdgeHidden);
        let values = rounding.parameters(&pass.parameters.values);
        let weight = split_weight(&values[layout.weight.clone()], hidden, width);
        let d_z = &pass.d.d_edge_hidden[..batch.size().edges * hidden];
        let (objects, predicates) = (&batch.object_occurrences, &batch.predicate_occurrences);
        let (object_count, predicate_count) = (objects.types.len(), predicates.types.len());
        let sums = at_least(&mut self.sums, object_count * 2 * hidden);
        let edge_sums = at_least(&mut self.edges, predicate_count * hidden);
        self.clock.pass(SUMS, || {
            sums.par_chunks_mut(2 * hidden).enumerate().for_each(|(slot, sums)| {
                sums.fill(0.0);
                objects.rows(slot).iter().for_each(|&node| add_messages(batch, d_z, node as usize, sums));
                rounding.store(sums);
            });
            edge_sums.par_chunks_mut(hidden).enumerate().for_each(|(slot, sum)| {
                sum.fill(0.0);
                for &edge in predicates.rows(slot) {
                    let d_z = &d_z[edge as usize * hidden..][..hidden];
                    add(sum, d_z, behind(d_z));
                }
                rounding.store(sum);
            });
        });
        let (tables, blocks) = pass.gradients.split_at_mut(all.predicate_embedding.end);
        let d_weight = &mut blocks[layout.weight.start - tables.len()..layout.weight.end - tables.len()];
        let d_weight = split_weight_mut(d_weight, hidden, width);
        let edge_part = d_weight.edge;
        occurring_rows(&values[all.object_embedding.clone()], width, objects, &mut self.object_rows);
        let d_objects = at_least(&mut self.d_object_rows, object_count * width);
        let of_ends = [d_weight.subject, d_weight.object];
        let products = &mut self.products;
        of_node_sums((sums, object_count), &self.object_rows, &weight, of_ends, d_objects, products);
        occurring_rows(&values[all.predicate_embedding.clone()], width, predicates, &mut self.predicate_rows);
        let edge_sums = MatRef::new(edge_sums, predicate_count, hidden);
        let rows = MatRef::new(&self.predicate_rows, predicate_count, width);
        self.products.multiply("d_z^T x", edge_part, Accumulate::Replace, edge_sums.transpose(), rows);
        let d_predicates = MatMut::new(&mut self.predicate_rows, predicate_count, width);
        self.products.multiply("d_z W", d_predicates, Accumulate::Replace, edge_sums, weight.edge);
        rounding.store_all(d_objects);
        rounding.store_all(&mut self.predicate_rows);
        let _running = self.clock.time(Work::Pass("gradients of the tables"));
        tables.fill(0.0);
        scatter(d_objects, width, objects, &mut tables[all.object_embedding.clone()]);
        let table = &mut tables[all.predicate_embedding.clone()];
        scatter(&self.predicate_rows, width, predicates, table);
    }
}

/// Multiplies S_s and S_o, side by side in `sums [n, 2 H]`, with the weights into `d_x [n, D]`, and with `x
/// [n, D]` into the gradients with respect to the weights.
fn of_node_sums(
    (sums, rows): (&[f32], usize),
    x: &[f32],
    weight: &Split<MatRef<'_, f32>>,
    d_weights: [MatMut<'_, f32>; 2],
    d_x: &mut [f32],
    products: &mut Products,
) {
    let (hidden, width) = (weight.subject.rows(), weight.subject.columns());
    let sums = MatRef::new(sums, rows, 2 * hidden);
    let (s_subject, s_object) = (sums.column_range(0..hidden), sums.column_range(hidden..2 * hidden));
    let x = MatRef::new(x, rows, width);
    products.multiply_both("d_z^T x", d_weights, [s_subject.transpose(), s_object.transpose()], x);
    let mut d_x = MatMut::new(d_x, rows, width);
    products.multiply("d_z W", d_x.reborrow(), Accumulate::Replace, s_subject, weight.subject);
    products.multiply("d_z W", d_x, Accumulate::Add, s_object, weight.object);
}

/// Multiplies each row by its factor.
fn scale_rows(rows: &mut [f32], width: usize, factors: &[f32]) {
    for (row, &factor) in rows.chunks_exact_mut(width).zip(factors) {
        scale(row, factor);
    }
}

/// Writes the rows of the types in use to their positions in `table`.
fn scatter(rows: &[f32], width: usize, of: &Occurrences, table: &mut [f32]) {
    for (row, &t) in rows.chunks_exact(width).zip(&of.types) {
        table[t as usize * width..][..width].copy_from_slice(row);
    }
}
