//! batch_norm: the cases of the bench at random shapes, ReLU decisions close to 0, and the gradient against finite
//! differences.

use crate::support::agreement::{agree, all_agree, outputs};
use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{check, columns, rows, seeds};
use crate::support::{Values, assert_within, wide};
use half::bf16;
use proptest::prelude::any;
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::batch_norm as reference;
use scenerank::bench::case::Case;
use scenerank::bench::cases::batch_norm::{
    backward, backward_sums, mask, no_statistics, relu, running_statistics,
};
use scenerank::bench::cases::{Shape, affine};
use scenerank::bench::matrix::HostMatrix;

/// Error of results of about 1, after about ten roundings and a sum with chunks of 64 rows.
const LIMIT: f64 = 4e-6;

#[test]
fn running_statistics_take_the_batchs_place() {
    check(50, (columns(), seeds()), |(columns, seed)| {
        agree(seed, &running_statistics(columns, seed));
    });
}

#[test]
fn no_statistics_are_0_and_1() {
    check(50, (columns(), seeds()), |(columns, seed)| {
        let statistics = agree(seed, &no_statistics(columns, seed));
        assert_eq!(statistics[..2], [vec![0.0; columns], vec![1.0; columns]]);
    });
}

fn cases<T: StoredElement>(shape: Shape, batch_statistics: bool) -> [Case; 4] {
    [relu::<T>(shape), mask::<T>(shape), backward::<T>(shape, batch_statistics), backward_sums::<T>(shape)]
}

#[test]
fn forward_mask_and_backward_agree_with_the_reference() {
    check(200, (rows(), columns(), any::<bool>(), seeds()), |(rows, columns, batch_statistics, seed)| {
        let shape = Shape { rows, columns, seed };
        all_agree(seed, cases::<f32>(shape, batch_statistics));
        all_agree(seed, cases::<bf16>(shape, batch_statistics));
    });
}

/// z and the gradient with respect to the output.
struct Matrices {
    z: HostMatrix,
    d: HostMatrix,
}

impl Matrices {
    fn new<T: StoredElement>(z: Vec<f32>, d: Vec<f32>, columns: usize) -> Self {
        Matrices { z: HostMatrix::new::<T>(z, columns), d: HostMatrix::new::<T>(d, columns) }
    }
}

/// Outputs of a case for these values, and for mean, rstd, scale and shift.
#[track_caller]
fn outputs_of<const N: usize>(case: &Case, of: &Matrices, norm: &[Vec<f32>; 4], order: u64) -> [Vec<f64>; N] {
    let outputs = outputs(order, case.kernel, |spare| {
        let mut prepared = (case.prepare)(spare);
        prepared.host.stored[0] = of.z.clone().with_room(spare);
        prepared.host.inputs = norm.to_vec();
        if case.kernel == "batch_norm_backward" {
            prepared.host.stored_outputs[0] = of.d.clone().with_room(spare);
        }
        prepared
    });
    outputs.try_into().expect("as many outputs")
}

/// Moves each z with norm(z) close to 0, where the derivative of a ReLU jumps.
fn away_from_zero(z: &mut [f32], norm: reference::Norm<'_, f64>) {
    let columns = norm.mean.len();
    for (i, z) in z.iter_mut().enumerate() {
        if norm.apply(f64::from(*z), i % columns).abs() < 1e-4 {
            *z += 0.01;
        }
    }
}

/// Decisions of the ReLU where norm(z) is within a few roundings of 0.
fn relus_decide_alike<T: StoredElement>(rows: usize, columns: usize, seed: u64) {
    let mut values = Values::new(seed);
    let (mean, rstd) = (values.signed(columns), values.positive(columns));
    let (weight, bias) = (values.scales(columns), values.signed(columns));
    let mut z = values.signed(rows * columns);
    for (i, z) in z.iter_mut().enumerate() {
        let c = i % columns;
        *z = (mean[c] - bias[c] / (rstd[c] * weight[c])) * (1.0 + 2e-7 * *z);
    }
    let matrices = Matrices::new::<T>(z, vec![1.0; rows * columns], columns);
    let norm = affine([mean, rstd, weight, bias]);
    let [relu, mask, backward, _] = cases::<T>(Shape { rows, columns, seed }, false);
    let [y] = outputs_of(&relu, &matrices, &norm, seed);
    let [d_z, _, _] = outputs_of(&backward, &matrices, &norm, seed);
    let mask = if rows == 0 { Vec::new() } else { outputs_of::<1>(&mask, &matrices, &norm, seed).concat() };
    let passed =
        |values: &[f64]| values.iter().map(|&v| if v != 0.0 { 1.0 } else { 0.0 }).collect::<Vec<f64>>();
    assert_eq!(passed(&y), mask, "forward and mask");
    assert_eq!(passed(&d_z), mask, "backward and mask");
}

#[test]
fn all_kernels_take_the_same_decisions_next_to_a_kink() {
    check(100, (rows(), columns(), seeds()), |(rows, columns, seed)| {
        relus_decide_alike::<f32>(rows, columns, seed);
        relus_decide_alike::<bf16>(rows, columns, seed);
    });
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    check(200, (2..=7usize, 1..=3usize, seeds()), |(rows, columns, seed)| {
        let mut values = Values::new(seed);
        let (mut z, d_y) = (values.signed(rows * columns), values.signed(rows * columns));
        // Distant rows, so that the variance is at least 1 and the derivatives of rstd stay of the order of 1.
        for (row, z) in z.chunks_exact_mut(columns).enumerate() {
            z.iter_mut().for_each(|z| *z += 4.0 * row as f32);
        }
        let (weight, bias) = (values.scales(columns), values.signed(columns));
        // Batch norm in double precision, including its statistics, which depend on z.
        let forward =
            |z: &[f64], weight: &[f64], bias: &[f64], use_norm: &mut dyn FnMut(reference::Norm<'_, f64>)| {
                let [mut mean, mut rstd, mut unused, mut unused_too] = [(); 4].map(|()| vec![0.0; columns]);
                reference::train_statistics(z, &mut mean, &mut rstd, &mut unused, &mut unused_too);
                use_norm(reference::Norm { weight, bias, mean: &mean, rstd: &rstd });
            };
        let (wide_weight, wide_bias, wide_d_y) = (wide(&weight), wide(&bias), wide(&d_y));
        forward(&wide(&z), &wide_weight, &wide_bias, &mut |norm| away_from_zero(&mut z, norm));
        let wide_z = wide(&z);
        let loss = |z: &[f64], weight: &[f64], bias: &[f64]| {
            let mut loss = 0.0;
            forward(z, weight, bias, &mut |norm| loss = weighted_sum(&wide_d_y, &norm.relu_rows(z)));
            loss
        };
        let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
        let mut norm = [vec![], vec![], weight, bias];
        forward(&wide_z, &wide_weight, &wide_bias, &mut |of| {
            [norm[0], norm[1]] = [narrow(of.mean), narrow(of.rstd)];
        });
        let (norm, case) = (affine(norm), backward::<f32>(Shape { rows, columns, seed }, true));
        let [d_z, d_weight, d_bias] = outputs_of(&case, &Matrices::new::<f32>(z, d_y, columns), &norm, seed);
        // At most seven rows of terms below 4, of z up to 25.
        let limit = 2.0 * LIMIT;
        let want = central_differences(&wide_z, |z| loss(z, &wide_weight, &wide_bias));
        assert_within("d_z", &d_z, &want, limit);
        let want = central_differences(&wide_weight, |weight| loss(&wide_z, weight, &wide_bias));
        assert_within("d_weight", &d_weight, &want, limit);
        let want = central_differences(&wide_bias, |bias| loss(&wide_z, &wide_weight, bias));
        assert_within("d_bias", &d_bias, &want, limit);
    });
}
