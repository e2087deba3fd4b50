//! l2_normalise: the kernels against the reference in double precision, and their gradient against finite differences.

use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{check, columns, rows, seeds};
use crate::support::stored::{assert_stored_within, rounded, stored, stored_to_host, unwritten};
use crate::support::{
    Counted, Values, all, all_mut, assert_within, poisoned, same_bits, to_device, to_host, wide,
};
use half::bf16;
use scenerank::backend::cuda::launchers::batch_norm::{Norm, NormGradient, Sums};
use scenerank::backend::cuda::launchers::l2_normalise::{
    UnitRowsBackward, l2_normalise_backward, l2_normalise_forward,
};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::batch_norm as reference_norm;
use scenerank::backend::reference::l2_normalise as reference;

/// x, d_y, d_weight and d_bias; `norm` is mean, rstd, weight, bias.
fn kernels<T: StoredElement>(
    z: &[f32],
    d_x: &[f32],
    norm: &[Vec<f32>; 4],
    rows: usize,
    order: u64,
) -> [Vec<f32>; 4] {
    same_bits(order, |device, spare| {
        let columns = norm[0].len();
        let counted = Counted::new(device, rows, spare);
        let there = norm.each_ref().map(|values| to_device(device, values));
        let [mean, rstd, weight, bias] = there.each_ref().map(all);
        let norm = Norm { mean, rstd, weight, bias };
        let [z, d_x] = [z, d_x].map(|values| stored::<T>(device, values, columns, spare));
        let [mut x, mut d_y] = [(); 2].map(|()| unwritten::<T>(device, rows + spare, columns));
        let rows_there = counted.rows();
        l2_normalise_forward(device, &mut all_mut(&mut x), all(&z), norm, rows_there).expect("a launch");
        let [mut d_weight, mut d_bias] = [(); 2].map(|()| poisoned(device, columns));
        let (weight, bias) = (all_mut(&mut d_weight), all_mut(&mut d_bias));
        let sums = &mut Sums::new(device).expect("memory");
        let gradient = NormGradient { weight, bias, batch_statistics: true, sums };
        let of = UnitRowsBackward { d_y: all_mut(&mut d_y), d_x: all(&d_x), z: all(&z), norm };
        l2_normalise_backward(device, of, gradient, rows_there).expect("a launch");
        let [x, d_y] = [x, d_y].map(|buffer| stored_to_host(device, &buffer, rows, columns));
        [x, d_y, to_host(device, &d_weight), to_host(device, &d_bias)]
    })
}

fn agree_with_the_reference<T: StoredElement>(rows: usize, columns: usize, seed: u64) {
    let mut values = Values::new(seed);
    let [mut z, d_x] = [(); 2].map(|()| rounded::<T>(values.signed(rows * columns)));
    let (mean, rstd, weight) = (values.signed(columns), values.positive(columns), values.positive(columns));
    // Positive where every ReLU passes, so that no row but the first is near zero; in the first none passes.
    let bias = values.positive(columns).iter().map(|bias| bias + 8.0).collect();
    if rows > 0 {
        z[..columns].fill(-100.0);
    }
    let norm = [mean, rstd, weight, bias];
    let [x, d_y, d_weight, d_bias] = kernels::<T>(&z, &d_x, &norm, rows, seed);
    let of = norm.each_ref().map(|v| wide(v));
    let wanted = reference_norm::Norm { mean: &of[0], rstd: &of[1], weight: &of[2], bias: &of[3] };
    let y = wanted.relu_rows(&wide(&z));
    let mut want = y.clone();
    reference::l2_normalise(&mut want, columns);
    // Components of a unit vector, a few roundings each.
    assert_stored_within::<T>("x", &x, &want, 1e-6);
    let want = reference::l2_normalise_backward(&y, &wide(&d_x), columns);
    // The first row is 0, so its gradient is d_x / eps, some 1e12.
    let split = columns.min(rows * columns);
    assert_stored_within::<T>("d_y of 0", &d_y[..split], &want[..split], 1e6);
    assert_stored_within::<T>("d_y", &d_y[split..], &want[split..], 1e-6);
    // Of the d_y that were stored, but for the first row's, which no ReLU passed: up to 1/8 each, xhat up to 4, in chunks of
    // 64 rows.
    let (mut want_weight, mut want_bias) = (vec![0.0; columns], vec![0.0; columns]);
    for (i, &d) in d_y.iter().enumerate().skip(columns) {
        let c = i % columns;
        want_bias[c] += f64::from(d);
        want_weight[c] += f64::from(d) * (f64::from(z[i]) - of[0][c]) * of[1][c];
    }
    let limit = 1e-6 * (4.0 + rows as f64 / 16.0);
    assert_within("d_weight", &d_weight, &want_weight, limit);
    assert_within("d_bias", &d_bias, &want_bias, limit);
}

#[test]
fn forward_and_backward_agree_with_the_reference() {
    check(100, (rows(), columns(), seeds()), |(rows, columns, seed)| {
        agree_with_the_reference::<f32>(rows, columns, seed);
        agree_with_the_reference::<bf16>(rows, columns, seed);
    });
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    check(200, (1..=4usize, 1..=5usize, seeds()), |(rows, columns, seed)| {
        let mut values = Values::new(seed);
        // norm(z) = z, and every ReLU passes: y = z, of a length of at least 1/2.
        let (y, d_x) = (values.positive(rows * columns), values.signed(rows * columns));
        let norm = [0.0, 1.0, 1.0, 0.0].map(|value| vec![value; columns]);
        let [_, d_y, ..] = kernels::<f32>(&y, &d_x, &norm, rows, seed);
        let want = central_differences(&wide(&y), |y| {
            let mut x = y.to_vec();
            reference::l2_normalise(&mut x, columns);
            weighted_sum(&wide(&d_x), &x)
        });
        // d_x and x (x . d_x), both up to sqrt(5), over a length of at least 1/2: some ten roundings of 4.
        assert_within("d_y", &d_y, &want, 2e-6);
    });
}
