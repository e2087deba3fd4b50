//! top_k: the nearest of all images of the paper to some queries.

use super::{ROUNDING, SEED, near};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::top_k::{Found, Search, lists_len, top_k};
use crate::backend::reference::top_k as reference;
use crate::bench::case::{Case, Cost, Host, OtherLengths, Prepared, all_mut, unwritten};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::network::config::ModelConfig;

const K: usize = 8;
/// Each has a column of its own.
const QUERIES: usize = 16;
/// The paper's images, and fewer for a smaller network.
const ROWS: usize = 45_358;
const FEW_ROWS: usize = 1_000;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let width = sizes.config.state_width;
    let rows = if width < ModelConfig::PAPER.state_width { FEW_ROWS } else { ROWS };
    vec![Case {
        kernel: "top_k",
        shape: format!("[{QUERIES}, {width}] in [{rows}, {width}], {K} best"),
        // Reads queries, embeddings and bounds of two values' size, writes scores, rows and bounds.
        cost: Cost::of(
            QUERIES * width + rows * width + 2 * QUERIES * K + 4 * QUERIES,
            2 * QUERIES * rows * width,
        ),
        format: Format::Fp32,
        // Sums by lane and then over 32 lanes; rows must be exact, and differ by far more.
        prepare: Box::new(move |_| {
            let (queries, embeddings) = well_separated(rows, width);
            Prepared {
                host: Host {
                    inputs: vec![queries, embeddings],
                    outputs: vec![unwritten(QUERIES * K)],
                    others: OtherLengths {
                        found: QUERIES * K,
                        bounds: QUERIES,
                        keys: lists_len(QUERIES, rows, K),
                        ..Default::default()
                    },
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([queries, embeddings], [], [scores], others) = arrays.parts();
                    let mut found = Found {
                        scores,
                        indices: all_mut(&mut others.found),
                        bound: all_mut(&mut others.bounds),
                    };
                    let search = Search { queries, embeddings, rows, width };
                    top_k(device, &mut found, &mut all_mut(&mut others.keys), search, K)
                }),
                expected: near((width.div_ceil(32) + 5) as f64 * ROUNDING, move |host| {
                    let [queries, embeddings] = host.wide_inputs();
                    let best: Vec<(usize, f64)> = queries
                        .chunks_exact(width)
                        .flat_map(|query| reference::top_k(query, &embeddings, K))
                        .collect();
                    let scores = best.iter().map(|&(_, score)| score).collect();
                    vec![scores, best.iter().map(|&(row, _)| row as f64).collect()]
                }),
            }
        }),
    }]
}

/// Queries along columns, and small embeddings but for a few rows, which lie along a column by 0.05 more each: roundings
/// decide nothing.
fn well_separated(rows: usize, width: usize) -> (Vec<f32>, Vec<f32>) {
    let mut values = Values::new(SEED);
    let mut queries: Vec<f32> = values.signed(QUERIES * width).iter().map(|value| 0.01 * value).collect();
    let mut embeddings: Vec<f32> = values.signed(rows * width).iter().map(|value| 0.1 * value).collect();
    for query in 0..QUERIES {
        queries[query * width + query] = 1.0;
        for place in 0..K {
            // Scattered over the rows, each taken once.
            let row = (query * K + place) * (rows / (QUERIES * K));
            embeddings[row * width + query] = 1.0 - 0.05 * place as f32;
        }
    }
    (queries, embeddings)
}
