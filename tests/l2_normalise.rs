//! l2_normalise: the kernels against the reference in double precision, and their gradient against finite differences.

mod kernel_support;

use half::bf16;
use kernel_support::calculus::{central_differences, weighted_sum};
use kernel_support::cases::{check, columns, rows, seeds};
use kernel_support::stored::{assert_stored_within, rounded, stored, stored_to_host, unwritten};
use kernel_support::{Counted, Values, all, all_mut, assert_within, same_bits, to_device, wide};
use scenerank::backend::cuda::batch_norm::Norm;
use scenerank::backend::cuda::l2_normalise::{l2_normalise_backward, l2_normalise_forward};
use scenerank::backend::cuda::stored::StoredElement;
use scenerank::backend::reference::batch_norm as reference_norm;
use scenerank::backend::reference::l2_normalise as reference;

/// x and d_y; `norm` is mean, rstd, weight, bias.
fn kernels<T: StoredElement>(
    z: &[f32],
    d_x: &[f32],
    norm: &[Vec<f32>; 4],
    rows: usize,
    order: u64,
) -> [Vec<f32>; 2] {
    same_bits(order, |device, spare| {
        let columns = norm[0].len();
        let counted = Counted::new(device, rows, spare);
        let there = norm.each_ref().map(|values| to_device(device, values));
        let [mean, rstd, weight, bias] = there.each_ref().map(all);
        let norm = Norm { mean, rstd, weight, bias };
        let [z, d_x] = [z, d_x].map(|values| stored::<T>(device, values, columns, spare));
        let [mut x, mut d_y] = [(); 2].map(|()| unwritten::<T>(device, rows + spare, columns));
        let of = counted.rows();
        l2_normalise_forward(device, &mut all_mut(&mut x), all(&z), norm, of).expect("a launch");
        l2_normalise_backward(device, &mut all_mut(&mut d_y), all(&d_x), all(&z), norm, of)
            .expect("a launch");
        [x, d_y].map(|buffer| stored_to_host(device, &buffer, rows, columns))
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
    let [x, d_y] = kernels::<T>(&z, &d_x, &norm, rows, seed);
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
        let [_, d_y] = kernels::<f32>(&y, &d_x, &norm, rows, seed);
        let want = central_differences(&wide(&y), |y| {
            let mut x = y.to_vec();
            reference::l2_normalise(&mut x, columns);
            weighted_sum(&wide(&d_x), &x)
        });
        // d_x and x (x . d_x), both up to sqrt(5), over a length of at least 1/2: some ten roundings of 4.
        assert_within("d_y", &d_y, &want, 2e-6);
    });
}
