//! batch_norm: the widest block, which is the heads; ReLU also on some of its columns.

use super::{Shape, count, counted, norm, norm_values, reference_relu, roundings, with_reference_norm};
use crate::backend::cuda::device::buffer::{Slice, SliceMut};
use crate::backend::cuda::launchers::batch_norm::{
    BatchStatistics, NormBackward, NormGradient, Statistics, Sums, batch_norm_backward,
    batch_norm_backward_sums, batch_norm_mask, batch_norm_no_statistics, batch_norm_relu,
    batch_norm_running_statistics,
};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::batch_norm as reference;
use crate::bench::case::{Case, Cost, Grows, Host, OtherLengths, Prepared, all_mut, unwritten};
use crate::bench::chain::Chain;
use crate::bench::check::{Output, Tolerance, largest};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let (nodes, edges, config, seed) = (sizes.nodes(), sizes.edges(), sizes.config, sizes.seed);
    let heads = Shape { rows: edges, columns: config.heads_width(0), seed };
    let hidden = Shape { rows: nodes, columns: config.hidden_width, seed };
    vec![
        running_statistics(heads.columns, seed),
        no_statistics(heads.columns, seed),
        relu::<T>(Shape { rows: nodes, columns: config.state_width, seed }).growing_with(Grows::Nodes),
        mask::<T>(heads),
        backward::<T>(heads, true).growing_with(Grows::Edges),
        backward::<T>(hidden, true).growing_with(Grows::Nodes),
        backward_sums::<T>(heads).growing_with(Grows::Edges),
    ]
}

/// Tolerance of d_z with `more` roundings beside those of the sums.
pub(super) fn gradient_tolerance(rows: usize, more: usize) -> Tolerance {
    Tolerance {
        // A lane sums eight rows, and eight lanes are summed, before double precision; about eight operations follow.
        relative: roundings(8 + 8 + 8 + more),
        // The terms of a value are d, the mean of d, and xhat times the mean of d xhat, all times the scale. Their sum
        // is at most 64, and rarely more than 48. Means over more rows are smaller.
        least: 48.0 / rows.max(1) as f64,
        // Sixteen times the error of a result of about 1 after about ten roundings and a sum with chunks of 64 rows.
        most: 6.4e-5,
    }
}

/// Tolerance of d_weight and d_bias.
pub(super) fn sums_tolerance(rows: usize, more: usize) -> Tolerance {
    let rows = rows as f64;
    Tolerance {
        relative: roundings(8 + 8 + 4 + more),
        // Terms are up to 4, of either sign. A sum that cancels has the error of one that grows with the root of their
        // number.
        least: 4.0 + rows.sqrt() / 2.0,
        // Chunks have 64 rows, whose roundings may all have one sign.
        most: 4e-6 * (4.0 + rows / 16.0),
    }
}

/// Mean, rstd, scale, shift, running mean and running variance, for a norm with these weight and bias.
pub(super) fn batch_statistics<'a>(
    [weight, bias]: [Slice<'a, f32>; 2],
    to: [SliceMut<'a, f32>; 6],
    sums: &'a mut Sums,
) -> BatchStatistics<'a> {
    let [mean, rstd, scale, shift, running_mean, running_var] = to;
    let to = Statistics { mean, rstd, scale, shift, weight, bias };
    BatchStatistics { to, running_mean, running_var, sums }
}

/// Statistics of rows in double precision, from the running statistics before.
pub(super) fn expected_statistics(y: &[f64], to: [&[f64]; 2], columns: usize) -> [Vec<f64>; 4] {
    let [mut mean, mut rstd] = [vec![0.0; columns], vec![0.0; columns]];
    let [mut running_mean, mut running_var] = to.map(<[f64]>::to_vec);
    reference::train_statistics(y, &mut mean, &mut rstd, &mut running_mean, &mut running_var);
    [mean, rstd, running_mean, running_var]
}

/// Mean, rstd, scale and shift, which are written, and running mean and variance, which are updated.
pub(super) fn statistics(values: &mut Values, columns: usize) -> Vec<Vec<f32>> {
    let mut all = vec![unwritten(columns); 4];
    all.extend([values.signed(columns), values.positive(columns)]);
    all
}

/// Weight and bias of a norm.
pub(super) fn parameters(values: &mut Values, columns: usize) -> [Vec<f32>; 2] {
    [values.scales(columns), values.signed(columns)]
}

/// Expected [`statistics`] without a launch that computes them.
pub(super) fn unchanged_statistics([running_mean, running_var]: [Vec<f64>; 2]) -> Vec<Output> {
    let unwritten = ["mean", "rstd", "scale", "shift"].map(|name| Output::exact(name, Vec::new()));
    let running = [Output::exact("running_mean", running_mean), Output::exact("running_var", running_var)];
    unwritten.into_iter().chain(running).collect()
}

/// Scale and shift that follow from a mean and a rstd with these errors.
fn affine_outputs(mean: &Output, rstd: &Output, [weight, bias]: [&[f64]; 2]) -> [Output; 2] {
    let scale: Vec<f64> = rstd.values.iter().zip(weight).map(|(rstd, weight)| rstd * weight).collect();
    let shift = |c: usize| bias[c] - scale[c] * mean.values[c];
    let shift: Vec<f64> = (0..bias.len()).map(shift).collect();
    // The kernel computes both in double precision; a rounding follows.
    let eps = f64::from(f32::EPSILON);
    let scale_limit = |c: usize| rstd.limits[c] * weight[c].abs() + eps * scale[c].abs();
    let shift_limit = |c: usize| {
        let product = mean.limits[c] * scale[c].abs() + mean.values[c].abs() * scale_limit(c);
        product + eps * shift[c].abs()
    };
    let limits = [(0..bias.len()).map(scale_limit).collect(), (0..bias.len()).map(shift_limit).collect()];
    let [scale_limits, shift_limits] = limits;
    [
        Output { limits: scale_limits, ..Output::exact("scale", scale) },
        Output { limits: shift_limits, ..Output::exact("shift", shift) },
    ]
}

/// Expected [`statistics`] of the rows `y` that were written, for a norm with these weight and bias. `before` holds running
/// mean and variance before the launch. `relative` is the error of the sums, and `most` that of results of about 1.
pub(super) fn statistics_outputs(
    y: &[f64],
    before: [&[f64]; 2],
    parameters: [&[f64]; 2],
    relative: f64,
    most: f64,
) -> Vec<Output> {
    let columns = before[0].len();
    let rows = (y.len() / columns).max(1) as f64;
    let [mean, rstd, running_mean, running_var] = expected_statistics(y, before, columns);
    let [mut size, mut spread] = [0; 2].map(|_| vec![0.0f64; columns]);
    for (i, y) in y.iter().enumerate() {
        let c = i % columns;
        size[c] = size[c].max(y.abs());
        spread[c] = spread[c].max((y - mean[c]).abs() * rstd[c]);
    }
    let tolerance = |values: &[f64], least| {
        let most = most * largest(values).max(1.0);
        Tolerance { relative, least, most }
    };
    // Chunks sum offsets from their first value: 64 roundings of up to twice the largest value.
    let eps = f64::from(f32::EPSILON);
    let mean_limits = size.iter().map(|size| 70.0 * eps * size).collect();
    let rstd_limit =
        |(rstd, size): (&f64, &f64)| rstd * (2.0 * eps + 0.5 * 70.0 * eps * 4.0 * (size * rstd).powi(2));
    let rstd_limits = rstd.iter().zip(&size).map(rstd_limit).collect();
    // A mean that cancels has the error of the others, which is of the order of the root of the number of rows.
    let mean_tolerance = tolerance(&mean, largest(y) / rows.sqrt());
    let rstd_tolerance = tolerance(&rstd, 0.0);
    let mut rstd = Output::scaled("rstd", rstd, rstd_tolerance);
    for (limit, spread) in rstd.limits.iter_mut().zip(&spread) {
        // Squares of offsets cancel where a chunk's first value is more than 8 standard deviations from all others.
        *limit *= (spread / 8.0).powi(2).max(1.0);
    }
    // Running means keep nine tenths of values of up to 1.
    let (of_mean, of_var) = (tolerance(&running_mean, 0.75), tolerance(&running_var, 0.0));
    let (mean, rstd) =
        (Output::scaled("mean", mean, mean_tolerance).at_most(mean_limits), rstd.at_most(rstd_limits));
    let [scale, shift] = affine_outputs(&mean, &rstd, parameters);
    vec![
        mean,
        rstd,
        scale,
        shift,
        Output::scaled("running_mean", running_mean, of_mean),
        Output::scaled("running_var", running_var, of_var),
    ]
}

/// Running statistics in place of those of a batch.
pub fn running_statistics(columns: usize, seed: u64) -> Case {
    Case {
        kernel: "batch_norm_running_statistics",
        shape: format!("[{columns}]"),
        cost: Cost::of(8 * columns, 6 * columns),
        chain: Chain::loads(1),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let mut values = Values::new(seed);
            Prepared {
                host: Host {
                    inputs: [values.signed(columns), values.positive(columns)]
                        .into_iter()
                        .chain(parameters(&mut values, columns))
                        .collect(),
                    outputs: vec![unwritten(columns); 4],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let (of, [], [mean, rstd, scale, shift], _) = arrays.parts();
                    let [running_mean, running_var, weight, bias] = of;
                    let mut to = Statistics { mean, rstd, scale, shift, weight, bias };
                    batch_norm_running_statistics(device, &mut to, running_mean, running_var)
                }),
                expected: Box::new(move |host, _| {
                    let [running_mean, running_var, weight, bias] = host.wide_inputs();
                    let [mut mean, mut rstd, _, _] = host.wide_outputs();
                    reference::running_statistics(&running_mean, &running_var, &mut mean, &mut rstd);
                    // rstd takes a sum, a root and a quotient.
                    let (mean, rstd) =
                        (Output::exact("mean", mean), Output::near("rstd", rstd, roundings(3)));
                    let [scale, shift] = affine_outputs(&mean, &rstd, [&weight, &bias]);
                    vec![mean, rstd, scale, shift]
                }),
            }
        }),
    }
}

/// Statistics of the identity: mean 0 and rstd 1.
pub fn no_statistics(columns: usize, seed: u64) -> Case {
    Case {
        kernel: "batch_norm_no_statistics",
        shape: format!("[{columns}]"),
        cost: Cost::of(6 * columns, 0),
        chain: Chain::loads(1),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| Prepared {
            host: Host {
                inputs: parameters(&mut Values::new(seed), columns).to_vec(),
                outputs: vec![unwritten(columns); 4],
                ..Default::default()
            },
            launch: Box::new(move |device, arrays| {
                let ([weight, bias], [], [mean, rstd, scale, shift], _) = arrays.parts();
                let mut to = Statistics { mean, rstd, scale, shift, weight, bias };
                batch_norm_no_statistics(device, &mut to)
            }),
            expected: Box::new(move |host, _| {
                let ([weight, bias], [mut mean, mut rstd, _, _]) = (host.wide_inputs(), host.wide_outputs());
                reference::no_statistics(&mut mean, &mut rstd);
                let [mean, rstd] = [("mean", mean), ("rstd", rstd)].map(|(name, of)| Output::exact(name, of));
                vec![mean, rstd, Output::exact("scale", weight), Output::exact("shift", bias)]
            }),
        }),
    }
}

/// relu(norm(z)).
pub fn relu<T: StoredElement>(Shape { rows, columns, seed }: Shape) -> Case {
    Case {
        kernel: "batch_norm_relu",
        shape: format!("[{rows}, {columns}]"),
        // Reads z, writes y. Norm takes 2 operations, ReLU 1.
        cost: Cost::stored::<T>(2 * rows * columns, 2 * columns, 3 * rows * columns),
        chain: Chain::at_once(),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let (z, norm_values) = decided_inputs::<T>(&mut Values::new(seed), rows, columns);
            Prepared {
                host: Host {
                    stored: vec![z.with_room(spare)],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows + spare, columns)],
                    inputs: norm_values.to_vec(),
                    indices: vec![count(rows)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z], [mut y], (of, [count], [], _)) = arrays.stored_as::<T>().parts();
                    let stride = T::stride(columns);
                    batch_norm_relu(device, &mut y, z, norm(of), stride, counted(count, rows + spare))
                }),
                expected: Box::new(move |host, _| {
                    let [z] = host.wide_stored();
                    let y = reference_relu(&host.wide_inputs(), &z);
                    // A fused multiply-add. Terms reach 8 even where norm(z) is smaller.
                    let tolerance = Tolerance { relative: roundings(1), least: 4.0, most: 8e-6 };
                    vec![Output::scaled("y", y, tolerance).stored::<T>()]
                }),
            }
        }),
    }
}

/// Mask of the values where relu(norm(z)) is above 0.
pub fn mask<T: StoredElement>(Shape { rows, columns, seed }: Shape) -> Case {
    Case {
        kernel: "batch_norm_mask",
        shape: format!("[{rows}, {columns}]"),
        // Reads z, writes bytes. Norm takes 3 operations, and there is a comparison.
        cost: Cost {
            bytes: ((size_of::<T>() + 1) * rows * columns + 16 * columns) as u64,
            flops: 4 * (rows * columns) as u64,
        },
        chain: Chain::at_once(),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let (z, norm_values) = decided_inputs::<T>(&mut Values::new(seed), rows, columns);
            Prepared {
                host: Host {
                    stored: vec![z.with_room(spare)],
                    inputs: norm_values.to_vec(),
                    others: OtherLengths { mask: rows * columns, ..Default::default() },
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z], [], (of, [], [], others)) = arrays.stored_as::<T>().parts();
                    batch_norm_mask(device, &mut all_mut(&mut others.mask), z, norm(of), rows)
                }),
                expected: Box::new(move |host, _| {
                    let [z] = host.wide_stored();
                    let y = reference_relu(&host.wide_inputs(), &z);
                    let mask = y.into_iter().map(|y| f64::from(u8::from(y > 0.0))).collect();
                    // Without rows there is no mask.
                    if rows == 0 { Vec::new() } else { vec![Output::exact("mask", mask)] }
                }),
            }
        }),
    }
}

/// Both launches of the backward: the sums, then d_z in place of the gradient with respect to the output.
pub fn backward<T: StoredElement>(Shape { rows, columns, seed }: Shape, batch_statistics: bool) -> Case {
    Case {
        kernel: "batch_norm_backward",
        shape: format!("[{rows}, {columns}]"),
        // Reads d and z for the sums, reads them again once the sums are complete, and writes d. Norm and ReLU take 4
        // operations each time, two sums 4, the gradient 6.
        cost: Cost::stored::<T>(5 * rows * columns, 6 * columns, 18 * rows * columns),
        chain: Chain::column_sums(rows) + Chain::at_once(),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let mut values = Values::new(seed);
            let (z, norm_values) = decided_inputs::<T>(&mut values, rows, columns);
            Prepared {
                host: Host {
                    stored: vec![z.with_room(spare)],
                    stored_outputs: vec![values.matrix::<T>(rows, columns).with_room(spare)],
                    inputs: norm_values.to_vec(),
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(columns), unwritten(columns)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z], [d], parts) = arrays.stored_as::<T>().parts();
                    let (of_norm, [count], to, others) = parts;
                    let (norm, of) = (norm(of_norm), counted(count, rows + spare));
                    let to = NormGradient { batch_statistics, ..norm_gradient(to, &mut others.sums) };
                    batch_norm_backward_sums(device, to, d.as_slice(), z, norm, of)?;
                    let terms = others.sums.terms(columns);
                    batch_norm_backward(device, &mut NormBackward { d, z, norm, terms }, of)
                }),
                expected: Box::new(move |host, _| {
                    let ([z], [d]) = (host.wide_stored(), host.wide_stored_outputs());
                    let gradients = expected_backward(&z, &host.wide_inputs(), d, batch_statistics);
                    let [d, d_weight, d_bias] = gradients;
                    vec![
                        Output::scaled("d_z", d, gradient_tolerance(rows, 0)).stored::<T>(),
                        Output::scaled("d_weight", d_weight, sums_tolerance(rows, 0)),
                        Output::scaled("d_bias", d_bias, sums_tolerance(rows, 0)),
                    ]
                }),
            }
        }),
    }
}

/// Gradient of a norm that uses batch statistics.
pub(super) fn norm_gradient<'a>(to: [SliceMut<'a, f32>; 2], sums: &'a mut Sums) -> NormGradient<'a> {
    let [weight, bias] = to;
    NormGradient { weight, bias, batch_statistics: true, sums }
}

/// The first launch of [`backward`] alone.
pub fn backward_sums<T: StoredElement>(Shape { rows, columns, seed }: Shape) -> Case {
    Case {
        kernel: "batch_norm_backward_sums",
        shape: format!("[{rows}, {columns}]"),
        // Reads d and z, writes d_weight and d_bias. Norm and ReLU take 4 operations, two sums 4.
        cost: Cost::stored::<T>(2 * rows * columns, 6 * columns, 8 * rows * columns),
        chain: Chain::column_sums(rows),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let mut values = Values::new(seed);
            let (z, norm_values) = decided_inputs::<T>(&mut values, rows, columns);
            Prepared {
                host: Host {
                    stored: [z, values.matrix::<T>(rows, columns)].map(|of| of.with_room(spare)).to_vec(),
                    inputs: norm_values.to_vec(),
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(columns), unwritten(columns)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, d], [], (of_norm, [count], to, others)) = arrays.stored_as::<T>().parts();
                    let (norm, of) = (norm(of_norm), counted(count, rows + spare));
                    batch_norm_backward_sums(device, norm_gradient(to, &mut others.sums), d, z, norm, of)
                }),
                expected: Box::new(move |host, _| {
                    let ([z, d], of) = (host.wide_stored(), host.wide_inputs());
                    let [_, d_weight, d_bias] = expected_backward(&z, &of, d, true);
                    vec![
                        Output::scaled("d_weight", d_weight, sums_tolerance(rows, 0)),
                        Output::scaled("d_bias", d_bias, sums_tolerance(rows, 0)),
                    ]
                }),
            }
        }),
    }
}

/// d_z, d_weight and d_bias, from z, its norm and the gradient d with respect to the output.
pub(super) fn expected_backward(
    z: &[f64],
    norm: &[Vec<f64>; 4],
    mut d: Vec<f64>,
    batch_statistics: bool,
) -> [Vec<f64>; 3] {
    let [mut d_weight, mut d_bias] = [0, 1].map(|_| vec![0.0; norm[0].len()]);
    with_reference_norm(norm, |norm| {
        reference::batch_norm_backward(z, norm, batch_statistics, &mut d, &mut d_weight, &mut d_bias);
    });
    [d, d_weight, d_bias]
}

/// z, mean, rstd, scale and shift, such that no norm(z) is so close to 0 that roundings would decide whether the ReLU
/// passes.
pub(super) fn decided_inputs<T: StoredElement>(
    values: &mut Values,
    rows: usize,
    columns: usize,
) -> (HostMatrix, [Vec<f32>; 4]) {
    let [mean, rstd, scale, shift] = norm_values(values, columns);
    let mut z = values.signed(rows * columns);
    for row in z.chunks_exact_mut(columns) {
        for (c, z) in row.iter_mut().enumerate() {
            *z = T::narrow(*z).widen();
            if (*z * scale[c] + shift[c]).abs() < 1e-3 {
                *z = (0.5 - shift[c]) / scale[c];
            }
        }
    }
    (HostMatrix::new::<T>(z, columns), [mean, rstd, scale, shift])
}
