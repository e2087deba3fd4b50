//! l2_normalise: the kernels against the reference in double precision.

mod kernel_support;

use kernel_support::{ROWS, Values, assert_within, devices, poisoned, to_device, to_host, wide};
use scenerank::backend::cuda::batch_norm::Norm;
use scenerank::backend::cuda::l2_normalise::{l2_normalise_backward, l2_normalise_forward};
use scenerank::backend::reference::batch_norm as reference_norm;
use scenerank::backend::reference::l2_normalise as reference;

#[test]
fn forward_and_backward_agree_with_the_reference() {
    for device in devices() {
        for (case, (rows, columns)) in
            ROWS.iter().flat_map(|&rows| [1, 13, 129, 300].map(|columns| (rows, columns))).enumerate()
        {
            let name = |what: &str| format!("{what} [{rows}, {columns}]");
            let mut values = Values::new(case as u64);
            let (mut z, d_x) = (values.signed(rows * columns), values.signed(rows * columns));
            let (mean, rstd) = (values.signed(columns), values.positive(columns));
            let (weight, mut bias) = (values.positive(columns), values.positive(columns));
            // Positive where every ReLU passes, so that no row but the first is near zero; in the first none passes.
            bias.iter_mut().zip(&mean).for_each(|(bias, _)| *bias += 8.0);
            if rows > 0 {
                z[..columns].fill(-100.0);
            }
            let there = [&mean, &rstd, &weight, &bias].map(|v| to_device(&device, v));
            let [mean_there, rstd_there, weight_there, bias_there] =
                [0, 1, 2, 3].map(|i: usize| there[i].slice(0..columns));
            let norm = Norm { mean: mean_there, rstd: rstd_there, weight: weight_there, bias: bias_there };
            let (z_there, d_x_there) = (to_device(&device, &z), to_device(&device, &d_x));

            let mut x = poisoned(&device, rows * columns);
            let z_part = z_there.slice(0..rows * columns);
            l2_normalise_forward(&device, &mut x.slice_mut(0..rows * columns), z_part, norm, rows)
                .expect("a launch");
            let of = [&mean, &rstd, &weight, &bias].map(|v| wide(v));
            let wanted = reference_norm::Norm { mean: &of[0], rstd: &of[1], weight: &of[2], bias: &of[3] };
            let y = wanted.relu_rows(&wide(&z));
            let mut want = y.clone();
            reference::l2_normalise(&mut want, columns);
            // Components of a unit vector, a few roundings each.
            assert_within(&name("x"), &to_host(&device, &x), &want, 1e-6);

            let mut d_y = poisoned(&device, rows * columns);
            l2_normalise_backward(
                &device,
                &mut d_y.slice_mut(0..rows * columns),
                d_x_there.slice(0..rows * columns),
                x.slice(0..rows * columns),
                z_part,
                norm,
                rows,
            )
            .expect("a launch");
            let want = reference::l2_normalise_backward(&y, &wide(&d_x), columns);
            let got = to_host(&device, &d_y);
            // The first row is 0, so its gradient is d_x / eps, some 1e12.
            let split = columns.min(rows * columns);
            assert_within(&name("d_y of 0"), &got[..split], &want[..split], 1e6);
            assert_within(&name("d_y"), &got[split..], &want[split..], 1e-6);
        }
    }
}
