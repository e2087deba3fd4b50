//! Random cases: shapes and graphs drawn by proptest, which shrinks a failing one.
//!
//! A case prints briefly: sizes, edges, and the seed of its numbers. Cases are the same in every run.
//! `PROPTEST_RNG_SEED` chooses other cases, and `PROPTEST_CASES` their number (the sanitizers run fewer).

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{RngSeed, TestError, TestRunner};
use scenerank::backend::cuda::launchers::linear::Format;
use scenerank::batch::graph_batch::GraphBatch;
use scenerank::bench::sizes::Sizes;
use scenerank::network::config::ModelConfig;

/// Whether there is no device to test; reports the skip.
pub fn no_device() -> bool {
    super::open(None).is_none()
}

/// Runs `test` on `cases` cases; panics with the smallest failing case. Reports a skip if there is no device.
#[track_caller]
pub fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value)) {
    if no_device() {
        return;
    }
    let mut config =
        ProptestConfig { failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if matches!(config.rng_seed, RngSeed::Random) {
        config.rng_seed = RngSeed::Fixed(0);
    }
    let outcome = TestRunner::new(config).run(&strategy, |case| {
        test(case);
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => panic!("{reason}\nsmallest failing case: {case:?}"),
        Err(TestError::Abort(reason)) => panic!("no cases: {reason}"),
    }
}

/// Row counts: small ones, and ones around the sizes of warps, tiles and chunks.
pub fn rows() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..=80usize, 2 => select(super::ROWS.to_vec())]
}

/// Column counts, at least 1: odd ones, ones around the sizes of warps and blocks, and the model's 300.
pub fn columns() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1..=70usize, 2 => select(vec![1, 31, 32, 33, 64, 65, 127, 128, 129, 257, 300])]
}

/// All formats of products.
pub const FORMATS: [Format; 3] = [Format::Fp32, Format::Bf16, Format::Bf16x3];
/// Those that warpgroups multiply.
pub const OF_WARPGROUPS: [Format; 2] = [Format::Bf16Warpgroup, Format::Bf16x3Warpgroup];

/// Whether the tests' device runs products of a format; reports the skip. Warpgroups multiply on some devices alone.
pub fn runs_on_device(format: Format) -> bool {
    let runs = super::open(None).is_some_and(|device| format.runs_on(&device));
    if !runs {
        println!("skipped: the device has no products in {format:?}");
    }
    runs
}

/// All formats of products, and families of their instructions, that the tests' device runs.
pub fn product_formats() -> Vec<Format> {
    FORMATS.into_iter().chain(OF_WARPGROUPS.into_iter().filter(|&format| runs_on_device(format))).collect()
}

/// Seeds of a case's numbers and of the order of threads.
pub fn seeds() -> impl Strategy<Value = u64> {
    0..1u64 << 32
}

/// Graphs of a batch; edges are in the order of the graphs.
#[derive(Clone)]
pub struct Graphs {
    /// Number of nodes of each graph; may be 0.
    pub sizes: Vec<usize>,
    pub edges: Vec<Edge>,
}

/// An edge, repeated some number of times. Node indices count over the whole batch.
#[derive(Clone, Copy)]
pub struct Edge {
    pub subject: u32,
    pub predicate: u32,
    pub object: u32,
    pub copies: usize,
}

/// Number of object types, and of predicate types, in [`Graphs`].
pub const TYPES: usize = 7;

impl fmt::Debug for Graphs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "graphs of {:?} nodes, edges [", self.sizes)?;
        for (i, edge) in self.edges.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{} -{}-> {}", edge.subject, edge.predicate, edge.object)?;
            if edge.copies > 1 {
                write!(f, " ({} times)", edge.copies)?;
            }
        }
        write!(f, "]")
    }
}

impl Graphs {
    /// The batch with its inverse lists, without similarities.
    pub fn batch(&self) -> GraphBatch {
        let mut batch = GraphBatch { graph_offsets: vec![0], ..Default::default() };
        for (graph, &size) in (0u32..).zip(&self.sizes) {
            batch.node_graph.extend(vec![graph; size]);
            batch.graph_offsets.push(batch.node_graph.len() as u32);
        }
        batch.node_object = (0..batch.node_graph.len() as u32).map(|node| node * 5 % TYPES as u32).collect();
        for edge in &self.edges {
            batch.edge_subject.extend(vec![edge.subject; edge.copies]);
            batch.edge_predicate.extend(vec![edge.predicate; edge.copies]);
            batch.edge_object.extend(vec![edge.object; edge.copies]);
        }
        batch.index(TYPES, TYPES);
        batch
    }
}

impl Graphs {
    /// Sizes of a network with these widths, and the batch. The heads have no edge states if `state` is 0.
    pub fn sizes(&self, hidden: usize, state: usize, seed: u64) -> Sizes {
        let config = ModelConfig {
            object_types: TYPES,
            predicate_types: TYPES,
            layers: if state == 0 { 1 } else { 2 },
            state_width: state,
            hidden_width: hidden,
            ..ModelConfig::PAPER
        };
        Sizes::of_batch(config, self.batch(), seed)
    }
}

/// Up to six graphs of 0 to 9 nodes, and up to 40 distinct edges. Edges include self loops, duplicates and one that
/// repeats a thousand times. Nodes without edges occur by chance.
pub fn graphs() -> impl Strategy<Value = Graphs> {
    let copies = prop_oneof![40 => Just(1usize), 4 => Just(2usize), 1 => Just(1000usize)];
    edges(prop_oneof![5 => 1..=9usize, 1 => Just(1usize), 1 => Just(0usize)], 6, copies, 40)
}

/// Two graphs of up to three nodes with up to six edges, for finite differences, whose cost grows with the number of
/// inputs.
pub fn small_graphs() -> impl Strategy<Value = Graphs> {
    edges(1..=3usize, 2, 1..=2usize, 6)
}

fn edges(
    size: impl Strategy<Value = usize>,
    most_graphs: usize,
    copies: impl Strategy<Value = usize>,
    most_edges: usize,
) -> impl Strategy<Value = Graphs> {
    // Each index picks among what exists: a graph that is not empty, then two of its nodes.
    let edge = (any::<Index>(), any::<Index>(), any::<Index>(), 0..TYPES as u32, copies);
    (vec(size, 0..=most_graphs), vec(edge, 0..=most_edges)).prop_map(|(sizes, edges)| {
        let mut ranges: Vec<(u32, usize)> = Vec::new();
        let mut first = 0;
        for &size in &sizes {
            if size > 0 {
                ranges.push((first, size));
            }
            first += size as u32;
        }
        let edges = edges.into_iter().filter(|_| !ranges.is_empty());
        let mut edges: Vec<Edge> = edges
            .map(|(graph, subject, object, predicate, copies)| {
                let (first, size) = *graph.get(&ranges);
                let node = |index: Index| first + index.index(size) as u32;
                Edge { subject: node(subject), predicate, object: node(object), copies }
            })
            .collect();
        // The edges of a graph are contiguous, and node indices ascend with the graph.
        edges.sort_by_key(|edge| ranges.partition_point(|&(first, _)| first <= edge.subject));
        Graphs { sizes, edges }
    })
}
