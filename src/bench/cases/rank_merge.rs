//! rank_merge: batch norm over the rows of two ranks.

use super::{indices, roundings};
use crate::backend::cuda::launchers::batch_norm::{Norm, Statistics};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::rank_merge::{Parts, rank_merge_statistics, rank_merge_sums};
use crate::backend::reference::batch_norm::set_statistics;
use crate::backend::reference::rank_merge::{self as reference, Part};
use crate::bench::case::{Case, Cost, Grows, Host, Prepared, unwritten};
use crate::bench::chain::Chain;
use crate::bench::check::{Output, Tolerance};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

/// Ranks, and the columns of a block.
#[derive(Clone, Debug)]
pub struct RankColumns {
    /// Number of rows of each rank.
    pub rows: Vec<u32>,
    /// Number of columns C.
    pub columns: usize,
    /// Seed of the values.
    pub seed: u64,
}

/// Index of the number of rows among the sizes of a rank's batch.
const SIZE: usize = 1;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (rows, columns) = (vec![sizes.edges() as u32; 2], sizes.config.heads_width(0));
    let of = RankColumns { rows, columns, seed: sizes.seed };
    vec![statistics(of.clone()), sums(of)]
}

impl RankColumns {
    fn shape(&self) -> String {
        format!("{} ranks, [{}]", self.rows.len(), self.columns)
    }

    /// Sizes of all ranks; other sizes than the number of rows are not read.
    fn sizes(&self) -> Vec<i32> {
        indices(&self.rows).into_iter().flat_map(|rows| [-1, rows, -1]).collect()
    }

    /// Values of a column of each rank.
    fn parts(&self, of_all: &[f64], column: usize) -> Vec<Part<f64>> {
        let part = |(rank, &rows): (usize, &u32)| {
            let at = rank * 2 * self.columns + column;
            (rows as usize, [of_all[at], of_all[at + self.columns]])
        };
        self.rows.iter().enumerate().map(part).collect()
    }
}

/// Statistics over the rows of all ranks, from mean and rstd of each.
pub fn statistics(of: RankColumns) -> Case {
    let (ranks, columns, seed) = (of.rows.len(), of.columns, of.seed);
    Case {
        kernel: "rank_merge_statistics",
        shape: of.shape(),
        cost: Cost::of((2 * ranks + 10) * columns, 8 * ranks * columns),
        chain: Chain::loads(2),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let (of, mut values) = (of.clone(), Values::new(seed));
            let of_rank = |values: &mut Values| [values.signed(columns), values.scales(columns)].concat();
            let parts = (0..ranks).flat_map(|_| of_rank(&mut values)).collect();
            let mut outputs = vec![unwritten(columns); 4];
            outputs.extend([values.signed(columns), values.positive(columns)]);
            Prepared {
                host: Host {
                    inputs: vec![parts, values.scales(columns), values.signed(columns)],
                    indices: vec![of.sizes()],
                    outputs,
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([parts, weight, bias], [sizes], to, _) = arrays.parts();
                    let [mean, rstd, scale, shift, running_mean, running_var] = to;
                    let to = Statistics { mean, rstd, scale, shift, weight, bias };
                    let parts = Parts { parts, sizes, ranks, size: SIZE };
                    rank_merge_statistics(device, to, [running_mean, running_var], parts)
                }),
                expected: Box::new(move |host, _| {
                    let ([parts, weight, bias], to) = (host.wide_inputs(), host.wide_outputs());
                    let [mut mean, mut rstd, _, _, mut running_mean, mut running_var] = to;
                    for c in 0..columns {
                        let (rows, merged) = reference::merged_statistics(&of.parts(&parts, c));
                        let one = c..c + 1;
                        let now = [&mut mean[one.clone()], &mut rstd[one.clone()]];
                        let running = [&mut running_mean[one.clone()], &mut running_var[one]];
                        set_statistics(rows, &[merged], now, running);
                    }
                    let scale: Vec<f64> =
                        rstd.iter().zip(&weight).map(|(rstd, weight)| rstd * weight).collect();
                    let shift = (0..columns).map(|c| bias[c] - scale[c] * mean[c]).collect();
                    // The kernel computes in double precision and rounds its results; rstd is at most 317.
                    let near = |name, values| {
                        let tolerance = Tolerance { relative: roundings(3), least: 1.0, most: 1e-4 };
                        Output::scaled(name, values, tolerance)
                    };
                    vec![
                        near("mean", mean),
                        near("rstd", rstd),
                        near("scale", scale),
                        near("shift", shift),
                        near("running_mean", running_mean),
                        near("running_var", running_var),
                    ]
                }),
            }
        }),
    }
}

/// Terms of the backward over the rows of all ranks, from d_weight and d_bias of each.
pub fn sums(of: RankColumns) -> Case {
    let (ranks, columns, seed) = (of.rows.len(), of.columns, of.seed);
    Case {
        kernel: "rank_merge_sums",
        shape: of.shape(),
        cost: Cost::of((2 * ranks + 5) * columns, 3 * ranks * columns),
        chain: Chain::loads(2),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let (of, mut values) = (of.clone(), Values::new(seed));
            let parts = values.signed(ranks * 2 * columns);
            let norm = [values.signed(columns), values.scales(columns), values.scales(columns)];
            Prepared {
                host: Host {
                    inputs: [parts].into_iter().chain(norm).collect(),
                    indices: vec![of.sizes()],
                    outputs: vec![unwritten(2 * columns)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([parts, mean, rstd, scale], [sizes], [mut terms], _) = arrays.parts();
                    // The shift is not read.
                    let norm = Norm { mean, rstd, scale, shift: scale };
                    rank_merge_sums(device, &mut terms, norm, Parts { parts, sizes, ranks, size: SIZE })
                }),
                expected: Box::new(move |host, _| {
                    let [parts, mean, rstd, scale] = host.wide_inputs();
                    let of_column = |c: usize| {
                        reference::merged_terms(&of.parts(&parts, c), [mean[c], rstd[c], scale[c]])
                    };
                    let terms: Vec<[f64; 2]> = (0..columns).map(of_column).collect();
                    let both = (0..2).flat_map(|i| terms.iter().map(move |of| of[i])).collect();
                    // Both terms are rounded, and the slope's rounding is magnified by the mean, which is at most 1.
                    let tolerance = Tolerance { relative: roundings(3), least: 1.0, most: 1e-5 };
                    vec![Output::scaled("terms", both, tolerance)]
                }),
            }
        }),
    }
}
