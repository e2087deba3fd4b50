//! Incomplete queries: scene graphs with random edges removed, together with the objects that this isolates.
//!
//! The edges of a graph have one random order, which depends on the seed and the image alone. Removing M
//! edges means removing the first M in this order. The edges removed for M are thus among those removed for M
//! + 1, and a sweep over M degrades the same query step by step.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::data::scene_graph::{SceneGraph, SceneGraphBuf};

/// Edges that may be removed, and the condition for an isolated object (docs/model.md, "Evaluation").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum QueryEdges {
    /// All edges, including `in image`. A node without edges is dropped, also the image node.
    #[default]
    Augmented,
    /// Relationships only. An object without relationships is dropped together with its `in image` edge; the
    /// image node stays. An object that never had a relationship is dropped even for M = 0.
    Relationships,
}

/// Removes `remove` random edges from `graph`, and the nodes that this isolates.
///
/// At least one edge (one relationship) is kept, so fewer than `remove` edges are removed from a small graph.
/// A graph without any is returned unchanged. `in_image` is the type of the `in image` edges. The random
/// order depends on `seed` and `image`, the image's index or identifier. Remaining nodes and edges keep their
/// order; nodes are renumbered.
pub fn incomplete_query(
    graph: SceneGraph<'_>,
    remove: usize,
    edges: QueryEdges,
    in_image: u32,
    seed: u64,
    image: u64,
) -> SceneGraphBuf {
    let drawable = |edge: usize| edges == QueryEdges::Augmented || graph.edge_predicate[edge] != in_image;
    let mut order: Vec<usize> = (0..graph.edge_count()).filter(|&edge| drawable(edge)).collect();
    let mut keep_node = vec![false; graph.node_count()];
    let mut keep_edge = vec![true; graph.edge_count()];
    if order.is_empty() {
        keep_node.fill(true);
        return subgraph(graph, &keep_node, &keep_edge);
    }

    // Sorting by a hash gives a random order without a generator, whose sequence another library could
    // change.
    order.sort_by_cached_key(|&edge| (edge_priority(seed, image, edge), edge));
    let removed = remove.min(order.len() - 1);
    for &edge in &order[..removed] {
        keep_edge[edge] = false;
    }
    for &edge in &order[removed..] {
        keep_node[graph.edge_subject[edge] as usize] = true;
        keep_node[graph.edge_object[edge] as usize] = true;
    }
    if edges == QueryEdges::Relationships {
        if let Some(image_node) = keep_node.last_mut() {
            *image_node = true;
        }
        for (edge, keep) in keep_edge.iter_mut().enumerate() {
            *keep &=
                keep_node[graph.edge_subject[edge] as usize] && keep_node[graph.edge_object[edge] as usize];
        }
    }
    subgraph(graph, &keep_node, &keep_edge)
}

fn edge_priority(seed: u64, image: u64, edge: usize) -> u64 {
    let mut key = [0u8; 16];
    key[..8].copy_from_slice(&image.to_le_bytes());
    key[8..].copy_from_slice(&(edge as u64).to_le_bytes());
    xxh3_64_with_seed(&key, seed)
}

/// Subgraph of the kept nodes, renumbered, and the kept edges, whose ends are kept nodes.
fn subgraph(graph: SceneGraph<'_>, keep_node: &[bool], keep_edge: &[bool]) -> SceneGraphBuf {
    let mut kept = SceneGraphBuf::default();
    let mut new_node = vec![0u32; graph.node_count()];
    for node in (0..graph.node_count()).filter(|&node| keep_node[node]) {
        new_node[node] = kept.node_object.len() as u32;
        kept.node_object.push(graph.node_object[node]);
    }
    for edge in (0..graph.edge_count()).filter(|&edge| keep_edge[edge]) {
        kept.push_edge(
            new_node[graph.edge_subject[edge] as usize],
            graph.edge_predicate[edge],
            new_node[graph.edge_object[edge] as usize],
        );
    }
    kept
}
