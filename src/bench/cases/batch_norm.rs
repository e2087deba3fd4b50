//! batch_norm: at the widest block, the heads; ReLU also on a part of its columns.

use super::{count, counted, norm, norm_values, reference_norm, roundings};
use crate::backend::cuda::batch_norm::{
    BatchStatistics, NormGradient, Statistics, Sums, batch_norm_backward, batch_norm_backward_sums,
    batch_norm_mask, batch_norm_no_statistics, batch_norm_relu, batch_norm_running_statistics,
    batch_norm_statistics,
};
use crate::backend::cuda::buffer::SliceMut;
use crate::backend::cuda::linear::Format;
use crate::backend::reference::batch_norm as reference;
use crate::bench::case::{Case, Cost, Host, OtherLengths, Prepared, all_mut, unwritten};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (heads, hidden) = (config.heads_width(0), config.hidden_width);
    vec![
        statistics(edges, heads),
        statistics(nodes, hidden),
        running_statistics(heads),
        no_statistics(heads),
        relu(nodes, hidden, hidden, 0),
        relu(edges, config.state_width, heads, hidden),
        mask(edges, heads),
        backward(edges, heads),
        backward(nodes, hidden),
        backward_sums(edges, heads),
    ]
}

fn statistics(rows: usize, columns: usize) -> Case {
    Case {
        kernel: "batch_norm_statistics",
        shape: format!("[{rows}, {columns}]"),
        // Reads z and the running statistics, writes four rows; a sum, a difference, a square and its sum per value.
        cost: Cost::of(rows * columns + 6 * columns, 4 * rows * columns),
        // A lane's eight rows and eight lanes, then in double precision; difference, square, root and quotient.
        format: Format::Fp32,
        tolerance: roundings(8 + 8 + 6),
        prepare: Box::new(move || {
            let mut values = Values::new();
            Prepared {
                host: Host {
                    inputs: vec![values.positive(rows * columns)],
                    indices: vec![count(rows)],
                    outputs: vec![
                        unwritten(columns),
                        unwritten(columns),
                        values.signed(columns),
                        values.positive(columns),
                    ],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z], [count], to, others) = arrays.parts();
                    let to = batch_statistics(to, &mut others.sums);
                    batch_norm_statistics(device, to, z, counted(count, rows))
                }),
                expected: Box::new(move |host| {
                    let [z] = host.wide_inputs();
                    let [mut mean, mut rstd, mut running_mean, mut running_var] = host.wide_outputs();
                    reference::train_statistics(
                        &z,
                        &mut mean,
                        &mut rstd,
                        &mut running_mean,
                        &mut running_var,
                    );
                    vec![mean, rstd, running_mean, running_var]
                }),
            }
        }),
    }
}

/// Mean, rstd and the running ones.
pub(super) fn batch_statistics<'a>(to: [SliceMut<'a, f32>; 4], sums: &'a mut Sums) -> BatchStatistics<'a> {
    let [mean, rstd, running_mean, running_var] = to;
    BatchStatistics { to: Statistics { mean, rstd }, running_mean, running_var, sums }
}

/// The same of rows in double precision, and the running ones' place before.
pub(super) fn expected_statistics(y: &[f64], to: [&[f64]; 2], columns: usize) -> [Vec<f64>; 4] {
    let [mut mean, mut rstd] = [vec![0.0; columns], vec![0.0; columns]];
    let [mut running_mean, mut running_var] = to.map(<[f64]>::to_vec);
    reference::train_statistics(y, &mut mean, &mut rstd, &mut running_mean, &mut running_var);
    [mean, rstd, running_mean, running_var]
}

fn running_statistics(columns: usize) -> Case {
    Case {
        kernel: "batch_norm_running_statistics",
        shape: format!("[{columns}]"),
        cost: Cost::of(4 * columns, 3 * columns),
        format: Format::Fp32,
        tolerance: roundings(3),
        prepare: Box::new(move || {
            let mut values = Values::new();
            Prepared {
                host: Host {
                    inputs: vec![values.signed(columns), values.positive(columns)],
                    outputs: vec![unwritten(columns), unwritten(columns)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([running_mean, running_var], [], [mean, rstd], _) = arrays.parts();
                    let mut to = Statistics { mean, rstd };
                    batch_norm_running_statistics(device, &mut to, running_mean, running_var)
                }),
                expected: Box::new(move |host| {
                    let [running_mean, running_var] = host.wide_inputs();
                    let [mut mean, mut rstd] = host.wide_outputs();
                    reference::running_statistics(&running_mean, &running_var, &mut mean, &mut rstd);
                    vec![mean, rstd]
                }),
            }
        }),
    }
}

fn no_statistics(columns: usize) -> Case {
    Case {
        kernel: "batch_norm_no_statistics",
        shape: format!("[{columns}]"),
        cost: Cost::of(2 * columns, 0),
        format: Format::Fp32,
        tolerance: 0.0,
        prepare: Box::new(move || Prepared {
            host: Host { outputs: vec![unwritten(columns), unwritten(columns)], ..Default::default() },
            launch: Box::new(move |device, arrays| {
                let ([], [], [mean, rstd], _) = arrays.parts();
                batch_norm_no_statistics(device, &mut Statistics { mean, rstd })
            }),
            expected: Box::new(move |host| {
                let [mut mean, mut rstd] = host.wide_outputs();
                reference::no_statistics(&mut mean, &mut rstd);
                vec![mean, rstd]
            }),
        }),
    }
}

/// Of the columns `start..start + columns` of z `[rows, width]`.
fn relu(rows: usize, columns: usize, width: usize, start: usize) -> Case {
    Case {
        kernel: "batch_norm_relu",
        shape: if columns == width {
            format!("[{rows}, {columns}]")
        } else {
            format!("[{rows}, {columns} of {width}]")
        },
        // Reads z, writes y; norm 3, ReLU 1.
        cost: Cost::of(2 * rows * columns + 4 * columns, 4 * rows * columns),
        // Difference, two products, sum, and the scale's own.
        format: Format::Fp32,
        tolerance: roundings(5),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let mut inputs = vec![values.signed(rows * width)];
            inputs.extend(norm_values(&mut values, columns));
            Prepared {
                host: Host {
                    inputs,
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(rows * columns)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, mean, rstd, weight, bias], [count], [mut y], _) = arrays.parts();
                    let (z, norm) = (z.slice(start..z.len()), norm([mean, rstd, weight, bias]));
                    batch_norm_relu(device, &mut y, z, norm, width, counted(count, rows))
                }),
                expected: Box::new(move |host| {
                    let [z, mean, rstd, weight, bias] = host.wide_inputs();
                    let part = |row: &[f64]| row[start..start + columns].to_vec();
                    let z: Vec<f64> = z.chunks_exact(width).flat_map(part).collect();
                    vec![reference_norm(&[mean, rstd, weight, bias]).relu_rows(&z)]
                }),
            }
        }),
    }
}

fn mask(rows: usize, columns: usize) -> Case {
    Case {
        kernel: "batch_norm_mask",
        shape: format!("[{rows}, {columns}]"),
        // Reads z, writes bytes; norm 3, a comparison.
        cost: Cost { bytes: (5 * rows * columns + 16 * columns) as u64, flops: 4 * (rows * columns) as u64 },
        format: Format::Fp32,
        tolerance: 0.0,
        prepare: Box::new(move || {
            let mut values = Values::new();
            Prepared {
                host: Host {
                    inputs: decided_inputs(&mut values, rows, columns),
                    others: OtherLengths { mask: rows * columns, ..Default::default() },
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, mean, rstd, weight, bias], [], [], others) = arrays.parts();
                    batch_norm_mask(
                        device,
                        &mut all_mut(&mut others.mask),
                        z,
                        norm([mean, rstd, weight, bias]),
                        rows,
                    )
                }),
                expected: Box::new(move |host| {
                    let [z, mean, rstd, weight, bias] = host.wide_inputs();
                    let y = reference_norm(&[mean, rstd, weight, bias]).relu_rows(&z);
                    vec![y.into_iter().map(|y| f64::from(u8::from(y > 0.0))).collect()]
                }),
            }
        }),
    }
}

fn backward(rows: usize, columns: usize) -> Case {
    Case {
        kernel: "batch_norm_backward",
        shape: format!("[{rows}, {columns}]"),
        // Reads d and z for the sums, then again, since the sums must be complete, and writes d: that second reading is
        // counted, too. Norm and ReLU 4 each time, two sums 4, the gradient 6.
        cost: Cost::of(5 * rows * columns + 6 * columns, 18 * rows * columns),
        // A lane's eight rows and eight lanes of products, then in double precision; some eight operations after it.
        format: Format::Fp32,
        tolerance: roundings(8 + 8 + 8),
        prepare: Box::new(move || {
            let mut values = Values::new();
            Prepared {
                host: Host {
                    inputs: decided_inputs(&mut values, rows, columns),
                    indices: vec![count(rows)],
                    outputs: vec![values.signed(rows * columns), unwritten(columns), unwritten(columns)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, mean, rstd, weight, bias], [count], [mut d, d_weight, d_bias], others) =
                        arrays.parts();
                    let (norm, of) = (norm([mean, rstd, weight, bias]), counted(count, rows));
                    let to = norm_gradient([d_weight, d_bias], &mut others.sums);
                    batch_norm_backward_sums(device, to, d.as_slice(), z, norm, of)?;
                    batch_norm_backward(device, &mut d, z, norm, of, &others.sums)
                }),
                expected: Box::new(backward_expected),
            }
        }),
    }
}

/// Of batch statistics.
pub(super) fn norm_gradient<'a>(to: [SliceMut<'a, f32>; 2], sums: &'a mut Sums) -> NormGradient<'a> {
    let [weight, bias] = to;
    NormGradient { weight, bias, batch_statistics: true, sums }
}

/// The first part of [`backward`] alone.
fn backward_sums(rows: usize, columns: usize) -> Case {
    Case {
        kernel: "batch_norm_backward_sums",
        shape: format!("[{rows}, {columns}]"),
        // Reads d and z, writes d_weight and d_bias. Norm and ReLU 4, two sums 4.
        cost: Cost::of(2 * rows * columns + 6 * columns, 8 * rows * columns),
        format: Format::Fp32,
        tolerance: roundings(8 + 8 + 4),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let mut inputs = decided_inputs(&mut values, rows, columns);
            inputs.push(values.signed(rows * columns));
            Prepared {
                host: Host {
                    inputs,
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(columns), unwritten(columns)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, mean, rstd, weight, bias, d], [count], to, others) = arrays.parts();
                    let (norm, of) = (norm([mean, rstd, weight, bias]), counted(count, rows));
                    batch_norm_backward_sums(device, norm_gradient(to, &mut others.sums), d, z, norm, of)
                }),
                expected: Box::new(move |host| {
                    let [z, mean, rstd, weight, bias, mut d] = host.wide_inputs();
                    let [mut d_weight, mut d_bias] = host.wide_outputs();
                    let of = [mean, rstd, weight, bias];
                    let (weight, bias) = (&mut d_weight, &mut d_bias);
                    reference::batch_norm_backward(&z, reference_norm(&of), true, &mut d, weight, bias);
                    vec![d_weight, d_bias]
                }),
            }
        }),
    }
}

/// d_z, d_weight and d_bias of z and its norm (the inputs) and d (the first output).
fn backward_expected(host: &Host) -> Vec<Vec<f64>> {
    let [z, mean, rstd, weight, bias] = host.wide_inputs();
    let [mut d, mut d_weight, mut d_bias] = host.wide_outputs();
    let of = [mean, rstd, weight, bias];
    reference::batch_norm_backward(&z, reference_norm(&of), true, &mut d, &mut d_weight, &mut d_bias);
    vec![d, d_weight, d_bias]
}

/// z, mean, rstd, weight and bias for which no norm(z) is so near 0 that roundings would decide what the ReLU passes.
pub(super) fn decided_inputs(values: &mut Values, rows: usize, columns: usize) -> Vec<Vec<f32>> {
    let [mean, rstd, weight, bias] = norm_values(values, columns);
    let mut z = values.signed(rows * columns);
    for row in z.chunks_exact_mut(columns) {
        for (c, z) in row.iter_mut().enumerate() {
            let scale = rstd[c] * weight[c];
            if ((*z - mean[c]) * scale + bias[c]).abs() < 1e-3 {
                *z = mean[c] + (0.5 - bias[c]) / scale;
            }
        }
    }
    vec![z, mean, rstd, weight, bias]
}
