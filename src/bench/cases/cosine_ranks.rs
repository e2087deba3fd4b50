//! cosine_ranks: incomplete queries among the test images.

use super::test_images;
use crate::backend::cuda::launchers::cosine_ranks::{Queries, cosine_ranks};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::reference::cosine_ranks as reference;
use crate::bench::case::{Case, Cost, Grows, Host, OtherLengths, Prepared, all_mut};
use crate::bench::chain::Chain;
use crate::bench::check::Output;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

/// Number of queries: one per image, but not more than the reference ranks in about two seconds.
const MOST_QUERIES: usize = 1_024;

/// Queries in an index; each has a true row.
#[derive(Clone, Copy, Debug)]
pub struct Ranking {
    /// Number of queries.
    pub queries: usize,
    /// Number of rows of the index.
    pub rows: usize,
    /// Number of columns of both.
    pub width: usize,
    /// Seed of the values.
    pub seed: u64,
}

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let rows = test_images(sizes);
    let queries = rows.min(MOST_QUERIES);
    vec![ranks(Ranking { queries, rows, width: sizes.config.state_width, seed: sizes.seed })]
}

/// Ranks of the true rows. The inputs are the queries and the index, and the indices are the true rows.
pub fn ranks(Ranking { queries, rows, width, seed }: Ranking) -> Case {
    Case {
        kernel: "cosine_ranks",
        shape: format!("[{queries}, {width}] in [{rows}, {width}]"),
        // Reads queries, index and true rows; writes ranks. Multiply-adds are in double precision.
        cost: Cost::of((queries + rows) * width + 2 * queries, 2 * queries * rows * width),
        chain: Chain::product(8 * width),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let mut values = Values::new(seed);
            Prepared {
                host: Host {
                    inputs: vec![values.signed(queries * width), values.signed(rows * width)],
                    indices: vec![(0..queries).map(|query| (query % rows) as i32).collect()],
                    others: OtherLengths { found: queries, ..Default::default() },
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([queries, index], [truth], [], others) = arrays.parts();
                    let of = Queries { queries, index, truth, rows, width };
                    cosine_ranks(device, &mut all_mut(&mut others.found), of)
                }),
                expected: Box::new(move |host, _| {
                    let ([of, index], truth) = (host.wide_inputs(), &host.indices[0]);
                    let truth: Vec<u32> = truth.iter().map(|&row| row as u32).collect();
                    let ranks = reference::cosine_ranks(&of, &index, width, &truth);
                    // Ranks are integers. Products of two f32 are exact in double precision, and sums run in the
                    // reference's order. Without queries there is no output.
                    let ranks = ranks.into_iter().map(f64::from).collect();
                    if queries == 0 { Vec::new() } else { vec![Output::exact("ranks", ranks)] }
                }),
            }
        }),
    }
}
