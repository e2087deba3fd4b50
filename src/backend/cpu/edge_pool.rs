//! edge_pool: batch norm and ReLU of the edge heads, applied while reading, and the mean of the messages that
//! reach each node.

use rayon::prelude::*;

use super::Cpu;
use super::batch_norm::CHUNK_ROWS;
use super::block::{Block, backward_sums};
use super::clock::Work;
use super::rows::scale;
use crate::backend::pass::{Backward, Forward};
use crate::batch::graph_batch::{GraphBatch, OBJECT_ROLE};
use crate::network::activations::ActivationGradients;
use crate::network::parameters::BlockKind;

/// Nodes per task: their messages are a few hundred rows.
const CHUNK_NODES: usize = 16;

/// Part of the heads' columns.
#[derive(Clone, Copy)]
enum Head {
    /// Message to the subject.
    Subject,
    /// New edge state.
    Edge,
    /// Message to the object.
    Object,
}

/// `pooled [N, H]`: mean of the messages that reach each node. `message(edge, to_object)` is what an edge sends to its object, or
/// to its subject; `add(to_object, message, soon, sum)` adds it. The message at `soon` is read next.
pub(super) fn mean_messages<'a>(
    batch: &GraphBatch,
    hidden: usize,
    pooled: &mut [f32],
    message: impl Fn(usize, bool) -> &'a [f32] + Sync,
    add: impl Fn(bool, &[f32], *const f32, &mut [f32]) + Sync,
) {
    let nodes = pooled[..batch.size().nodes * hidden].par_chunks_mut(CHUNK_NODES * hidden).enumerate();
    nodes.for_each(|(chunk, pooled)| {
        for (node, sum) in (chunk * CHUNK_NODES..).zip(pooled.chunks_exact_mut(hidden)) {
            sum.fill(0.0);
            for ((edge, role), next) in batch.incidence.messages_and_next(node) {
                let this = message(edge, role == OBJECT_ROLE);
                let soon = next.map_or(this, |(edge, role)| message(edge, role == OBJECT_ROLE));
                add(role == OBJECT_ROLE, this, soon.as_ptr(), sum);
            }
            scale(sum, 1.0 / batch.incidence.degree(node).max(1) as f32);
        }
    });
}

impl Cpu {
    /// Computes the pooled messages and the new edge states.
    pub(super) fn edge_pool_forward(&mut self, pass: &mut Forward<'_, Self>) {
        let (batch, config) = (pass.batch, pass.parameters.layout.config);
        let of = Block::new(pass.parameters, pass.layer, BlockKind::EdgeHeads);
        let (hidden, state, width) =
            (config.hidden_width, config.edge_state_width(pass.layer), of.layout.outputs);
        let (_, a) = pass.activations.at_mut(pass.layer);
        let (heads, pooled, edge_state) = (&a.edge_heads, &mut a.pooled, &mut a.edge_state);
        self.set_columns(of, heads);
        let _running = self.clock.time(Work::Pass("pool"));
        let to_subject = self.columns.all().part(0..hidden);
        let to_edge = self.columns.all().part(hidden..hidden + state);
        let to_object = self.columns.all().part(hidden + state..width);
        let (z, size) = (&heads.linear, batch.size());

        let message = |edge, is_object| {
            let start = edge * width + if is_object { hidden + state } else { 0 };
            &z[start..][..hidden]
        };
        mean_messages(batch, hidden, pooled, message, |is_object, z, soon, sum| {
            if is_object { to_object } else { to_subject }.add_relu(z, soon, sum);
        });
        self.rounding.store_all(&mut pooled[..size.nodes * hidden]);
        if state > 0 {
            let edges = edge_state[..size.edges * state].par_chunks_mut(CHUNK_ROWS * state).enumerate();
            edges.for_each(|(chunk, states)| {
                for (edge, state_row) in (chunk * CHUNK_ROWS..).zip(states.chunks_exact_mut(state)) {
                    let z = &z[edge * width + hidden..];
                    to_edge.relu(z, z.as_ptr().wrapping_add(width), state_row);
                }
                self.rounding.store(states);
            });
        }
    }

    /// Gradient with respect to the linear outputs of the heads. Both passes of batch norm's backward gather
    /// the gradients of the messages from their nodes, so these are never stored.
    pub(super) fn edge_pool_backward_heads(&mut self, pass: &mut Backward<'_, Self>) {
        let (batch, config) = (pass.batch, pass.parameters.layout.config);
        let of = Block::new(pass.parameters, pass.layer, BlockKind::EdgeHeads);
        let (hidden, state, width) =
            (config.hidden_width, config.edge_state_width(pass.layer), of.layout.outputs);
        let heads = &pass.activations.at(pass.layer).1.edge_heads;
        let ActivationGradients { d_pooled, d_edge_state, d_edge_heads: d_heads, .. } = &mut *pass.d;
        let (d_pooled, d_edge_state) = (&*d_pooled, &*d_edge_state);
        self.set_columns(of, heads);
        let _running = self.clock.time(Work::Pass("pool, backward"));
        let edges = batch.size().edges;
        let z = &heads.linear[..edges * width];
        // Gradient with respect to an activated head of an edge, and its factor.
        let end = |node: u32| {
            let node = node as usize;
            (&d_pooled[node * hidden..][..hidden], 1.0 / batch.incidence.degree(node) as f32)
        };
        let gradient = |head: Head, edge: usize| match head {
            Head::Subject => end(batch.edge_subject[edge]),
            Head::Edge => (&d_edge_state[edge * state..][..state], 1.0),
            Head::Object => end(batch.edge_object[edge]),
        };
        // Heads with their columns.
        let heads_columns = [
            (Head::Subject, 0..hidden),
            (Head::Edge, hidden..hidden + state),
            (Head::Object, hidden + state..width),
        ];

        let columns = self.columns.all();
        let to = backward_sums(of.layout, pass.gradients, &mut self.terms);
        self.partials.backward_sums(edges, &self.columns, &heads.rstd, to, |first, sum, product| {
            let rows = first..(first + CHUNK_ROWS).min(edges);
            for (edge, z) in rows.clone().zip(z[rows.start * width..].chunks_exact(width)) {
                for (head, range) in heads_columns.clone() {
                    let norm = columns.part(range.clone());
                    let (sum, product) = (&mut sum[range.clone()], &mut product[range.clone()]);
                    let (d_y, factor) = gradient(head, edge);
                    norm.add_backward_sums(&z[range], d_y, factor, sum, product);
                }
            }
        });
        let terms = self.terms.all();
        let chunks = d_heads[..edges * width].par_chunks_mut(CHUNK_ROWS * width);
        chunks.zip(z.par_chunks(CHUNK_ROWS * width)).enumerate().for_each(|(chunk, (d_heads, z))| {
            let rows = d_heads.chunks_exact_mut(width).zip(z.chunks_exact(width));
            for (edge, (d_row, z)) in (chunk * CHUNK_ROWS..).zip(rows) {
                for (head, range) in heads_columns.clone() {
                    let norm = columns.part(range.clone());
                    let terms = terms.part(range.clone());
                    let (d_y, factor) = gradient(head, edge);
                    norm.backward(&z[range.clone()], d_y, factor, terms, &mut d_row[range]);
                }
            }
            self.rounding.store(d_heads);
        });
    }
}
