//! l2_normalise: the node states of a layer, scaled to unit length.

use super::batch_norm::{decided_inputs, norm_gradient};
use super::{Shape, affine, count, counted, norm, norm_parameters, reference_relu, roundings};
use crate::backend::cuda::launchers::l2_normalise::{
    UnitRowsBackward, l2_normalise_backward, l2_normalise_forward,
};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::l2_normalise as reference;
use crate::bench::case::{Case, Cost, Grows, Host, Prepared, unwritten};
use crate::bench::chain::Chain;
use crate::bench::check::{Output, Tolerance};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

/// Kind of rows of relu(norm(z)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// About half of the values pass the ReLU: a row of a few columns may be as short as 1e-3.
    Drawn,
    /// No value of the first row passes the ReLU, so its length is 0. All values of the other rows pass, so none is
    /// short.
    FirstIsZero,
}

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let shape = Shape { rows: sizes.nodes(), columns: sizes.config.state_width, seed: sizes.seed };
    let cases = [forward::<T>(shape, Rows::Drawn), backward::<T>(shape, Rows::Drawn)];
    cases.map(|case| case.growing_with(Grows::Nodes)).into()
}

/// z, and mean, rstd, scale and shift.
fn inputs<T: StoredElement>(values: &mut Values, shape: Shape, kind: Rows) -> (HostMatrix, [Vec<f32>; 4]) {
    let Shape { rows, columns, .. } = shape;
    if kind == Rows::Drawn {
        return decided_inputs::<T>(values, rows, columns);
    }
    let [mean, rstd, mut weight, bias] = norm_parameters(values, columns);
    weight.iter_mut().for_each(|weight| *weight = weight.abs());
    // Scales reach 4, and z - mean reaches 2.
    let bias = bias.iter().map(|bias| 9.5 + bias).collect();
    let mut z = values.signed(rows * columns);
    z.iter_mut().take(columns).for_each(|z| *z = -100.0);
    (HostMatrix::new::<T>(z, columns), affine([mean, rstd, weight, bias]))
}

/// Largest error of x and d_y. The relative error is that of a row's sum, by lane and then by warp, its root, a
/// quotient, and four roundings of batch norm. Rows that are not short have results below 1, with a few roundings each.
fn tolerance(kind: Rows, columns: usize) -> Tolerance {
    let relative = roundings(columns.div_ceil(128) + 20);
    match kind {
        Rows::Drawn => Tolerance { relative, least: 0.0, most: f64::INFINITY },
        Rows::FirstIsZero => Tolerance { relative, least: 1.0, most: 1e-6 },
    }
}

/// Forward: rows of relu(norm(z)), scaled to unit length.
pub fn forward<T: StoredElement>(shape: Shape, kind: Rows) -> Case {
    let Shape { rows, columns, seed } = shape;
    Case {
        kernel: "l2_normalise_forward",
        shape: format!("[{rows}, {columns}]"),
        // Reads z and writes x. Norm takes 3 operations, ReLU 1, square and sum 2, the quotient 1.
        cost: Cost::stored::<T>(2 * rows * columns, 4 * columns, 7 * rows * columns),
        chain: Chain::loads(4),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let (z, of) = inputs::<T>(&mut Values::new(seed), shape, kind);
            Prepared {
                host: Host {
                    stored: vec![z.with_room(spare)],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows + spare, columns)],
                    inputs: of.to_vec(),
                    indices: vec![count(rows)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z], [mut x], (of, [count], [], _)) = arrays.stored_as::<T>().parts();
                    l2_normalise_forward(device, &mut x, z, norm(of), counted(count, rows + spare))
                }),
                expected: Box::new(move |host, _| {
                    let [z] = host.wide_stored();
                    let mut x = reference_relu(&host.wide_inputs(), &z);
                    reference::l2_normalise(&mut x, columns);
                    vec![Output::scaled("x", x, tolerance(kind, columns)).stored::<T>()]
                }),
            }
        }),
    }
}

/// Backward: gradients with respect to relu(norm(z)), and to the norm's weight and bias.
pub fn backward<T: StoredElement>(shape: Shape, kind: Rows) -> Case {
    let Shape { rows, columns, seed } = shape;
    Case {
        kernel: "l2_normalise_backward",
        shape: format!("[{rows}, {columns}]"),
        // Reads d_x and z; writes d_y, d_weight and d_bias. Norm takes 3 operations, ReLU 1, two dot products 4,
        // difference and quotient 3, two sums 4.
        cost: Cost::stored::<T>(3 * rows * columns, 6 * columns, 15 * rows * columns),
        chain: Chain::loads(2) + Chain::column_sums(rows),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let mut values = Values::new(seed);
            let (z, of) = inputs::<T>(&mut values, shape, kind);
            let d_x = values.matrix::<T>(rows, columns);
            Prepared {
                host: Host {
                    stored: [d_x, z].map(|matrix| matrix.with_room(spare)).to_vec(),
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows + spare, columns)],
                    inputs: of.to_vec(),
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(columns), unwritten(columns)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([d_x, z], [d_y], (of, [count], to, others)) = arrays.stored_as::<T>().parts();
                    let to = norm_gradient(to, &mut others.sums);
                    let of = UnitRowsBackward { d_y, d_x, z, norm: norm(of) };
                    l2_normalise_backward(device, of, to, counted(count, rows + spare))
                }),
                expected: Box::new(move |host, written| {
                    let ([d_x, z], of) = (host.wide_stored(), host.wide_inputs());
                    let y = reference_relu(&of, &z);
                    let d_y = reference::l2_normalise_backward(&y, &d_x, columns);
                    let first = if kind == Rows::FirstIsZero { columns.min(d_y.len()) } else { 0 };
                    let mut wanted = Output::scaled("d_y", d_y[first..].to_vec(), tolerance(kind, columns));
                    // The gradient of a row of zeros is d_x / 1e-12, for which one rounding is about 1e5.
                    wanted.limits.splice(0..0, vec![1e6; first]);
                    wanted.values = d_y;
                    // The sums are expected for the d_y that the kernel wrote.
                    let d_y = &written[0].values[..y.len()];
                    let [d_weight, d_bias] = column_sums(&z, &y, d_y, &of);
                    vec![
                        wanted.stored::<T>(),
                        Output::scaled("d_weight", d_weight, sums_tolerance(kind, rows, columns)),
                        Output::scaled("d_bias", d_bias, sums_tolerance(kind, rows, columns)),
                    ]
                }),
            }
        }),
    }
}

/// Largest error of the sums of d_y. In rows that are not short, d_y is up to 1/8 and xhat up to 4; chunks have 64
/// rows.
fn sums_tolerance(kind: Rows, rows: usize, columns: usize) -> Tolerance {
    match kind {
        Rows::Drawn => tolerance(kind, columns),
        Rows::FirstIsZero => {
            let most = 1e-6 * (4.0 + rows as f64 / 16.0);
            Tolerance { relative: roundings(columns.div_ceil(128) + 20), least: f64::INFINITY, most }
        }
    }
}

/// d_weight and d_bias, where y = relu(norm(z)) is above 0.
fn column_sums(z: &[f64], y: &[f64], d_y: &[f64], [mean, rstd, ..]: &[Vec<f64>; 4]) -> [Vec<f64>; 2] {
    let columns = mean.len();
    let [mut d_weight, mut d_bias] = [0; 2].map(|_| vec![0.0; columns]);
    for (i, &d) in d_y.iter().enumerate().filter(|&(i, _)| y[i] > 0.0) {
        let c = i % columns;
        d_bias[c] += d;
        d_weight[c] += d * (z[i] - mean[c]) * rstd[c];
    }
    [d_weight, d_bias]
}
