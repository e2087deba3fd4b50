//! cosine_ranks: incomplete queries among the test images.

use super::{SEED, near, test_images};
use crate::backend::cuda::launchers::cosine_ranks::{Queries, cosine_ranks};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::reference::cosine_ranks as reference;
use crate::bench::case::{Case, Cost, Host, OtherLengths, Prepared, all_mut};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

/// As many as there are images, but no more than the reference ranks in a second or two.
const MOST_QUERIES: usize = 1_024;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (rows, width) = (test_images(sizes), sizes.config.state_width);
    let queries = rows.min(MOST_QUERIES);
    vec![Case {
        kernel: "cosine_ranks",
        shape: format!("[{queries}, {width}] in [{rows}, {width}]"),
        // Reads queries, index and true rows, writes ranks. Multiply-adds are in double precision.
        cost: Cost::of((queries + rows) * width + 2 * queries, 2 * queries * rows * width),
        format: Format::Fp32,
        // Ranks are integers, and sums run in the reference's order.
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
            let truth: Vec<i32> = (0..queries as i32).collect();
            Prepared {
                host: Host {
                    inputs: vec![values.signed(queries * width), values.signed(rows * width)],
                    indices: vec![truth],
                    others: OtherLengths { found: queries, ..Default::default() },
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([queries, index], [truth], [], others) = arrays.parts();
                    let of = Queries { queries, index, truth, rows, width };
                    cosine_ranks(device, &mut all_mut(&mut others.found), of)
                }),
                expected: near(0.0, move |host| {
                    let [of, index] = host.wide_inputs();
                    let truth: Vec<u32> = (0..queries as u32).collect();
                    let ranks = reference::cosine_ranks(&of, &index, width, &truth);
                    vec![ranks.into_iter().map(f64::from).collect()]
                }),
            }
        }),
    }]
}
