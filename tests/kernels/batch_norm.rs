//! batch_norm: the kernels against the reference in double precision, and their gradient against finite differences.

use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{check, columns, rows, seeds};
use crate::support::stored::{assert_stored_within, rounded, stored, stored_to_host, unwritten};
use crate::support::{
    Counted, Values, all, all_mut, assert_within, poisoned, same_bits, to_device, to_host, wide,
};
use half::bf16;
use proptest::prelude::any;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::batch_norm::{
    Norm, NormBackward, NormGradient, Statistics, Sums, batch_norm_backward, batch_norm_backward_sums,
    batch_norm_mask, batch_norm_no_statistics, batch_norm_relu, batch_norm_running_statistics,
};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::batch_norm as reference;

/// Results of about 1, through some ten roundings and a sum whose chunks have 64 rows.
const LIMIT: f64 = 4e-6;

#[test]
fn running_statistics_take_the_batchs_place() {
    check(50, (columns(), seeds()), |(columns, seed)| {
        let mut values = Values::new(seed);
        let (running_mean, running_var) = (values.signed(columns), values.positive(columns));
        let [mean, rstd] = same_bits(seed, |device, _| {
            let [mut mean, mut rstd] = [(); 2].map(|()| poisoned(device, columns));
            batch_norm_running_statistics(
                device,
                &mut Statistics { mean: all_mut(&mut mean), rstd: all_mut(&mut rstd) },
                all(&to_device(device, &running_mean)),
                all(&to_device(device, &running_var)),
            )
            .expect("a launch");
            [mean, rstd].map(|buffer| to_host(device, &buffer))
        });
        let (mut want_mean, mut want_rstd) = (vec![0.0; columns], vec![0.0; columns]);
        let (running_mean, running_var) = (wide(&running_mean), wide(&running_var));
        reference::running_statistics(&running_mean, &running_var, &mut want_mean, &mut want_rstd);
        assert_within("mean", &mean, &want_mean, 0.0);
        assert_within("rstd", &rstd, &want_rstd, LIMIT);
    });
}

#[test]
fn no_statistics_are_0_and_1() {
    check(50, (columns(), seeds()), |(columns, seed)| {
        let [mean, rstd] = same_bits(seed, |device, _| {
            let [mut mean, mut rstd] = [(); 2].map(|()| poisoned(device, columns));
            let mut to = Statistics { mean: all_mut(&mut mean), rstd: all_mut(&mut rstd) };
            batch_norm_no_statistics(device, &mut to).expect("a launch");
            [mean, rstd].map(|buffer| to_host(device, &buffer))
        });
        assert_eq!((mean, rstd), (vec![0.0; columns], vec![1.0; columns]));
    });
}

/// y, mask (as 0 and 1), d_z, d_weight and d_bias by the kernels.
fn forward_and_backward<T: StoredElement>(
    device: &Device,
    [z, d_y]: [&[f32]; 2],
    (rows, spare): (usize, usize),
    norm: Norm<'_>,
    batch_statistics: bool,
) -> [Vec<f32>; 5] {
    let columns = norm.mean.len();
    let count = rows * columns;
    let counted = Counted::new(device, rows, spare);
    let z = stored::<T>(device, z, columns, spare);
    let mut y = unwritten::<T>(device, rows + spare, columns);
    let (to, stride) = (&mut all_mut(&mut y), T::stride(columns));
    batch_norm_relu(device, to, all(&z), norm, stride, counted.rows()).expect("a launch");
    let mut mask = device.allocate_unwritten::<u8>(count).expect("memory");
    batch_norm_mask(device, &mut all_mut(&mut mask), all(&z), norm, rows).expect("a launch");
    let mask = device.download(&mask, 0..count).expect("a download");
    let mut d = stored::<T>(device, d_y, columns, spare);
    let [mut d_weight, mut d_bias] = [(); 2].map(|()| poisoned(device, columns));
    let sums = &mut Sums::new(device).expect("memory");
    let (weight, bias) = (all_mut(&mut d_weight), all_mut(&mut d_bias));
    let gradient = NormGradient { weight, bias, batch_statistics, sums: &mut *sums };
    batch_norm_backward_sums(device, gradient, all(&d), all(&z), norm, counted.rows()).expect("a launch");
    let mut of = NormBackward { d: all_mut(&mut d), z: all(&z), norm, terms: sums.terms(columns) };
    batch_norm_backward(device, &mut of, counted.rows()).expect("a launch");
    let [y, d] = [y, d].map(|buffer| stored_to_host(device, &buffer, rows, columns));
    let [d_weight, d_bias] = [d_weight, d_bias].map(|buffer| to_host(device, &buffer));
    [y, mask.into_iter().map(f32::from).collect(), d, d_weight, d_bias]
}

/// Moves each z whose norm(z) is next to zero, where a ReLU may fall to either side, and the derivative jumps. Scales
/// are at least 1/4, so norm(z) moves by 2.5e-3, and where z is then rounded to bf16 by 1.5e-3 at least.
fn away_from_zero(z: &mut [f32], norm: reference::Norm<'_, f64>) {
    let columns = norm.mean.len();
    for (i, z) in z.iter_mut().enumerate() {
        if norm.apply(f64::from(*z), i % columns).abs() < 1e-4 {
            *z += 0.01;
        }
    }
}

fn forward_mask_and_backward_agree<T: StoredElement>(
    rows: usize,
    columns: usize,
    batch_statistics: bool,
    seed: u64,
) {
    let mut values = Values::new(seed);
    let [mut z, d_y] = [(); 2].map(|()| rounded::<T>(values.signed(rows * columns)));
    let (mean, rstd) = (values.signed(columns), values.positive(columns));
    let (weight, bias) = (values.scales(columns), values.signed(columns));
    let of = [&mean, &rstd, &weight, &bias].map(|v| wide(v));
    let wanted = reference::Norm { mean: &of[0], rstd: &of[1], weight: &of[2], bias: &of[3] };
    away_from_zero(&mut z, wanted);
    let z = rounded::<T>(z);
    let [y, mask, d_z, d_weight, d_bias] = same_bits(seed, |device, spare| {
        let there = [&mean, &rstd, &weight, &bias].map(|v| to_device(device, v));
        let [mean, rstd, weight, bias] = there.each_ref().map(all);
        let norm = Norm { mean, rstd, weight, bias };
        forward_and_backward::<T>(device, [&z, &d_y], (rows, spare), norm, batch_statistics)
    });
    // norm(z) reaches 9.
    assert_stored_within::<T>("y", &y, &wanted.relu_rows(&wide(&z)), 2.0 * LIMIT);
    let passed: Vec<f32> = y.iter().map(|&y| if y > 0.0 { 1.0 } else { 0.0 }).collect();
    assert_eq!(mask, passed, "mask");
    let mut want = [wide(&d_y), vec![f64::NAN; columns], vec![f64::NAN; columns]];
    let [want_z, want_weight, want_bias] = &mut want;
    reference::batch_norm_backward(&wide(&z), wanted, batch_statistics, want_z, want_weight, want_bias);
    // xhat and scale reach 4.
    assert_stored_within::<T>("d_z", &d_z, want_z, 16.0 * LIMIT);
    let limit = LIMIT * (4.0 + rows as f64 / 16.0);
    assert_within("d_weight", &d_weight, want_weight, limit);
    assert_within("d_bias", &d_bias, want_bias, limit);
}

#[test]
fn forward_mask_and_backward_agree_with_the_reference() {
    check(200, (rows(), columns(), any::<bool>(), seeds()), |(rows, columns, batch_statistics, seed)| {
        forward_mask_and_backward_agree::<f32>(rows, columns, batch_statistics, seed);
        forward_mask_and_backward_agree::<bf16>(rows, columns, batch_statistics, seed);
    });
}

/// Where norm(z) is within a few roundings of 0.
fn relus_decide_alike<T: StoredElement>(rows: usize, columns: usize, seed: u64) {
    let mut values = Values::new(seed);
    let (mean, rstd) = (values.signed(columns), values.positive(columns));
    let (weight, bias) = (values.scales(columns), values.signed(columns));
    let mut z = values.signed(rows * columns);
    for (i, z) in z.iter_mut().enumerate() {
        let c = i % columns;
        *z = (mean[c] - bias[c] / (rstd[c] * weight[c])) * (1.0 + 2e-7 * *z);
    }
    let (z, ones) = (rounded::<T>(z), vec![1.0; rows * columns]);
    let [y, mask, d_z, ..] = same_bits(seed, |device, spare| {
        let there = [&mean, &rstd, &weight, &bias].map(|v| to_device(device, v));
        let [mean, rstd, weight, bias] = there.each_ref().map(all);
        let norm = Norm { mean, rstd, weight, bias };
        forward_and_backward::<T>(device, [&z, &ones], (rows, spare), norm, false)
    });
    let passed =
        |values: &[f32]| values.iter().map(|&v| if v != 0.0 { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
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
        // Rows apart, so that the variance is no smaller than 1 and rstd's derivatives stay of the order of 1.
        for (row, z) in z.chunks_exact_mut(columns).enumerate() {
            z.iter_mut().for_each(|z| *z += 4.0 * row as f32);
        }
        let (weight, bias) = (values.scales(columns), values.signed(columns));
        // The whole of batch norm in double precision: its statistics move with z.
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
        let mut statistics = [vec![], vec![]];
        forward(&wide_z, &wide_weight, &wide_bias, &mut |norm| {
            statistics = [narrow(norm.mean), narrow(norm.rstd)];
        });
        let [mean, rstd] = &statistics;
        let [d_z, d_weight, d_bias] = same_bits(seed, |device, spare| {
            let there = [mean, rstd, &weight, &bias].map(|v| to_device(device, v));
            let [mean, rstd, weight, bias] = there.each_ref().map(all);
            let norm = Norm { mean, rstd, weight, bias };
            let [_, _, d_z, d_weight, d_bias] =
                forward_and_backward::<f32>(device, [&z, &d_y], (rows, spare), norm, true);
            [d_z, d_weight, d_bias]
        });
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
