//! top_k: the images nearest to some queries, among all images of the paper.

use super::ROUNDING;
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::top_k::{Found, Search, lists_len, top_k};
use crate::backend::reference::top_k as reference;
use crate::bench::case::{Case, Cost, Grows, Host, OtherLengths, Prepared, all_mut, unwritten};
use crate::bench::chain::Chain;
use crate::bench::check::Output;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::network::config::ModelConfig;

const K: usize = 8;
/// Number of queries; each has its own column.
const QUERIES: usize = 16;
/// Number of images in the paper; fewer for a smaller network.
const ROWS: usize = 45_358;
const FEW_ROWS: usize = 1_000;

/// Queries in an index, searched in passes.
#[derive(Clone, Debug)]
pub struct Searches {
    /// Number of queries.
    pub queries: usize,
    /// Number of rows of the index.
    pub rows: usize,
    /// Number of columns of both.
    pub width: usize,
    /// k of each pass: the number of rows that it finds, after those of the passes before.
    pub passes: Vec<usize>,
    /// Seed of the values.
    pub seed: u64,
}

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let width = sizes.config.state_width;
    let rows = if width < ModelConfig::PAPER.state_width { FEW_ROWS } else { ROWS };
    let of = Searches { queries: QUERIES, rows, width, passes: vec![K], seed: sizes.seed };
    vec![search(of, well_separated)]
}

/// Best rows of each query with their scores, pass after pass. `draw` returns queries and index, whose scores must
/// differ by more than roundings.
pub fn search(of: Searches, draw: impl Fn(&Searches) -> [Vec<f32>; 2] + 'static) -> Case {
    let Searches { queries, rows, width, .. } = of;
    let all: usize = of.passes.iter().sum();
    let most = of.passes.iter().copied().max().unwrap_or(1);
    Case {
        kernel: "top_k",
        shape: format!("[{queries}, {width}] in [{rows}, {width}], {all} best"),
        // Reads queries, embeddings and bounds of eight bytes; writes scores, rows and bounds.
        cost: Cost::of(
            queries * width + rows * width + 2 * queries * all + 4 * queries,
            2 * queries * rows * width,
        ),
        chain: Chain::loads(6 * of.passes.len()),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let (passes, expected_passes) = (of.passes.clone(), of.passes.clone());
            Prepared {
                host: Host {
                    inputs: draw(&of).to_vec(),
                    outputs: vec![unwritten(queries * all)],
                    others: OtherLengths {
                        found: queries * all,
                        bounds: queries,
                        keys: lists_len(queries, rows, most),
                        ..Default::default()
                    },
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([queries_there, embeddings], [], [mut scores], others) = arrays.parts();
                    let mut start = 0;
                    for &k in &passes {
                        let place = start..start + queries * k;
                        start = place.end;
                        let mut found = Found {
                            scores: scores.slice_mut(place.clone()),
                            indices: others.found.slice_mut(place),
                            bound: all_mut(&mut others.bounds),
                        };
                        let search = Search { queries: queries_there, embeddings, rows, width };
                        top_k(device, &mut found, &mut all_mut(&mut others.keys), search, k)?;
                    }
                    Ok(())
                }),
                expected: Box::new(move |host, _| {
                    let [queries, embeddings] = host.wide_inputs();
                    let best = |query| reference::top_k(query, &embeddings, all);
                    let best: Vec<Vec<(usize, f64)>> = queries.chunks_exact(width).map(best).collect();
                    let mut start = 0;
                    let mut found = Vec::new();
                    for k in &expected_passes {
                        // -1 and NaN stand for rows that do not exist.
                        let row = |best: &Vec<(usize, f64)>, at| {
                            best.get(at).map_or((-1.0, f64::NAN), |&(row, score)| (row as f64, score))
                        };
                        let of_query = |best| (start..start + k).map(move |at| row(best, at));
                        found.extend(best.iter().flat_map(of_query));
                        start += k;
                    }
                    let (found, scores) = found.into_iter().unzip();
                    // Scores are sums by lane and then over 32 lanes; rows are exact.
                    let relative = (width.div_ceil(32) + 5) as f64 * ROUNDING;
                    let scores = Output::near("scores", scores, relative).with_nan();
                    vec![scores, Output::exact("rows", found)]
                }),
            }
        }),
    }
}

/// Queries parallel to the axes, and small embeddings except for a few rows. Those have components along an axis in
/// steps of 0.05, so that roundings decide nothing.
fn well_separated(of: &Searches) -> [Vec<f32>; 2] {
    let (width, rows, mut values) = (of.width, of.rows, Values::new(of.seed));
    let mut queries: Vec<f32> = values.signed(QUERIES * width).iter().map(|value| 0.01 * value).collect();
    let mut embeddings: Vec<f32> = values.signed(rows * width).iter().map(|value| 0.1 * value).collect();
    for query in 0..QUERIES {
        queries[query * width + query] = 1.0;
        for place in 0..K {
            // The few rows are scattered over all rows, each taken once.
            let row = (query * K + place) * (rows / (QUERIES * K));
            embeddings[row * width + query] = 1.0 - 0.05 * place as f32;
        }
    }
    [queries, embeddings]
}
