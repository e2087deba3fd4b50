//! batch_norm: at the widest block, the heads; ReLU also on a part of its columns.

use super::{count, counted, norm, norm_values, reference_norm, roundings};
use crate::backend::cuda::batch_norm::{
    CHUNK_ROWS, Statistics, batch_norm_backward, batch_norm_backward_merge, batch_norm_mask,
    batch_norm_merge_statistics, batch_norm_no_statistics, batch_norm_partial_statistics, batch_norm_relu,
    batch_norm_running_statistics, batch_norm_statistics,
};
use crate::backend::cuda::linear::Format;
use crate::backend::reference::batch_norm as reference;
use crate::bench::case::{Case, ChunkSums, Cost, Host, OtherLengths, Prepared, all_mut, unwritten};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (heads, hidden) = (config.heads_width(0), config.hidden_width);
    vec![
        statistics(edges, heads),
        statistics(nodes, hidden),
        partial_statistics(edges, hidden),
        merge_statistics(edges, heads),
        running_statistics(heads),
        no_statistics(heads),
        relu(nodes, hidden, hidden, 0),
        relu(edges, config.state_width, heads, hidden),
        mask(edges, heads),
        backward(edges, heads),
        backward(nodes, hidden),
        backward_merge(edges, hidden),
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
                    let ([z], [count], [mean, rstd, mut running_mean, mut running_var], others) =
                        arrays.parts();
                    let (mut to, sums) = (Statistics { mean, rstd }, &mut others.sums);
                    let (mean, var, of) = (&mut running_mean, &mut running_var, counted(count, rows));
                    batch_norm_statistics(device, &mut to, mean, var, z, of, sums)
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

/// Of each chunk of 64 rows.
fn partial_statistics(rows: usize, columns: usize) -> Case {
    Case {
        kernel: "batch_norm_partial_statistics",
        shape: format!("[{rows}, {columns}]"),
        // Reads z, writes two values for each chunk and column; a difference, a square and two sums per value.
        cost: Cost::of(rows * columns + rows.div_ceil(CHUNK_ROWS) * 2 * columns, 4 * rows * columns),
        // A lane's eight rows and eight lanes, and what subtracting the sum's own square magnifies of them.
        format: Format::Fp32,
        tolerance: roundings(4 * (8 + 8)),
        prepare: Box::new(move || Prepared {
            host: Host {
                inputs: vec![Values::new().positive(rows * columns)],
                indices: vec![count(rows)],
                sums: Some(ChunkSums { rows, columns, given: None }),
                ..Default::default()
            },
            launch: Box::new(move |device, arrays| {
                let ([z], [count], [], others) = arrays.parts();
                batch_norm_partial_statistics(device, z, counted(count, rows), columns, &mut others.sums)
            }),
            expected: Box::new(move |host| {
                let [z] = host.wide_inputs();
                vec![chunk_statistics(&z, columns)]
            }),
        }),
    }
}

/// Of all rows, from those of their chunks.
fn merge_statistics(rows: usize, columns: usize) -> Case {
    let chunks = rows.div_ceil(CHUNK_ROWS);
    Case {
        kernel: "batch_norm_merge_statistics",
        shape: format!("[{rows}, {columns}], {chunks} chunks"),
        // Reads two values for each chunk and column and the running statistics, writes four rows; seven operations for
        // each chunk and column.
        cost: Cost::of(2 * chunks * columns + 6 * columns, 7 * chunks * columns),
        // The chunks' values and what is made of them are rounded once, running ones twice; sums are in double precision.
        format: Format::Fp32,
        tolerance: roundings(4),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let z: Vec<f64> = values.positive(rows * columns).into_iter().map(f64::from).collect();
            let given = chunk_statistics(&z, columns).into_iter().map(|value| value as f32).collect();
            Prepared {
                host: Host {
                    indices: vec![count(rows)],
                    outputs: vec![
                        unwritten(columns),
                        unwritten(columns),
                        values.signed(columns),
                        values.positive(columns),
                    ],
                    sums: Some(ChunkSums { rows, columns, given: Some(given) }),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([], [count], [mean, rstd, mut running_mean, mut running_var], others) =
                        arrays.parts();
                    let (mut to, sums) = (Statistics { mean, rstd }, &mut others.sums);
                    let (mean, var, of) = (&mut running_mean, &mut running_var, counted(count, rows));
                    batch_norm_merge_statistics(device, &mut to, mean, var, of, sums)
                }),
                expected: Box::new(move |host| {
                    let [mut mean, mut rstd, mut running_mean, mut running_var] = host.wide_outputs();
                    let (running_mean, running_var) = (&mut running_mean, &mut running_var);
                    reference::train_statistics(&z, &mut mean, &mut rstd, running_mean, running_var);
                    vec![mean, rstd, running_mean.clone(), running_var.clone()]
                }),
            }
        }),
    }
}

/// Mean and sum of squared deviations from it of each chunk of 64 rows: `[rows / 64, 2, columns]`.
pub(super) fn chunk_statistics(z: &[f64], columns: usize) -> Vec<f64> {
    let of_chunk = |chunk: &[f64]| -> [Vec<f64>; 2] {
        let count = (chunk.len() / columns) as f64;
        let column = |c: usize| chunk.iter().skip(c).step_by(columns);
        let mean: Vec<f64> = (0..columns).map(|c| column(c).sum::<f64>() / count).collect();
        let deviation = (0..columns).map(|c| column(c).map(|z| (z - mean[c]).powi(2)).sum()).collect();
        [mean, deviation]
    };
    z.chunks(CHUNK_ROWS * columns).flat_map(of_chunk).flatten().collect()
}

/// Sums of d and of d (z - mean) over each chunk of 64 rows, d being 0 where the ReLU stopped norm(z).
pub(super) fn chunk_gradient_sums(d: &[f64], z: &[f64], norm: reference::Norm<'_, f64>) -> Vec<f64> {
    let columns = norm.mean.len();
    let of_chunk = |(d, z): (&[f64], &[f64])| -> [Vec<f64>; 2] {
        let mut sums = [vec![0.0; columns], vec![0.0; columns]];
        for (i, (&d, &z)) in d.iter().zip(z).enumerate() {
            let c = i % columns;
            if norm.apply(z, c) > 0.0 {
                sums[0][c] += d;
                sums[1][c] += d * (z - norm.mean[c]);
            }
        }
        sums
    };
    let rows = CHUNK_ROWS * columns;
    d.chunks(rows).zip(z.chunks(rows)).flat_map(of_chunk).flatten().collect()
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
                    let ([z, mean, rstd, weight, bias], [count], [mut d, mut d_weight, mut d_bias], others) =
                        arrays.parts();
                    let (norm, of) = (norm([mean, rstd, weight, bias]), counted(count, rows));
                    let sums = &mut others.sums;
                    batch_norm_backward(device, &mut d, &mut d_weight, &mut d_bias, z, norm, true, of, sums)
                }),
                expected: Box::new(backward_expected),
            }
        }),
    }
}

/// What follows the sums over chunks.
fn backward_merge(rows: usize, columns: usize) -> Case {
    let chunks = rows.div_ceil(CHUNK_ROWS);
    Case {
        kernel: "batch_norm_backward_merge",
        shape: format!("[{rows}, {columns}], {chunks} chunks"),
        // Reads the sums, d and z, writes d, d_weight and d_bias. Two sums for each chunk and column; norm and ReLU 4, the
        // gradient 6.
        cost: Cost::of(
            2 * chunks * columns + 3 * rows * columns + 6 * columns,
            2 * chunks * columns + 10 * rows * columns,
        ),
        format: Format::Fp32,
        tolerance: roundings(8 + 8),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let mut host = Host {
                inputs: decided_inputs(&mut values, rows, columns),
                indices: vec![count(rows)],
                outputs: vec![values.signed(rows * columns), unwritten(columns), unwritten(columns)],
                ..Default::default()
            };
            let ([z, mean, rstd, weight, bias], [d, _, _]) = (host.wide_inputs(), host.wide_outputs());
            let sums = chunk_gradient_sums(&d, &z, reference_norm(&[mean, rstd, weight, bias]));
            let given = Some(sums.into_iter().map(|value| value as f32).collect());
            host.sums = Some(ChunkSums { rows, columns, given });
            Prepared {
                host,
                launch: Box::new(move |device, arrays| {
                    let ([z, mean, rstd, weight, bias], [count], [mut d, mut d_weight, mut d_bias], others) =
                        arrays.parts();
                    let (norm, of) = (norm([mean, rstd, weight, bias]), counted(count, rows));
                    let sums = &mut others.sums;
                    batch_norm_backward_merge(
                        device,
                        &mut d,
                        &mut d_weight,
                        &mut d_bias,
                        z,
                        norm,
                        true,
                        of,
                        sums,
                    )
                }),
                expected: Box::new(backward_expected),
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
