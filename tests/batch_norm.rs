//! batch_norm: the kernels against the reference in double precision.

mod kernel_support;

use kernel_support::{ROWS, Values, assert_within, devices, poisoned, to_device, to_host, wide};
use scenerank::backend::cuda::batch_norm::{
    Norm, Statistics, Sums, batch_norm_backward, batch_norm_mask, batch_norm_relu,
    batch_norm_running_statistics, batch_norm_statistics,
};
use scenerank::backend::cuda::buffer::Buffer;
use scenerank::backend::reference::batch_norm as reference;

const COLUMNS: [usize; 4] = [1, 13, 32, 67];

/// Results of about 1, through some ten roundings and a sum whose chunks have 64 rows.
const LIMIT: f64 = 4e-6;

fn all(buffer: &Buffer<f32>) -> scenerank::backend::cuda::buffer::Slice<'_, f32> {
    buffer.slice(0..buffer.len())
}

fn all_mut(buffer: &mut Buffer<f32>) -> scenerank::backend::cuda::buffer::SliceMut<'_, f32> {
    let len = buffer.len();
    buffer.slice_mut(0..len)
}

#[test]
fn statistics_agree_with_the_reference() {
    for device in devices() {
        for (case, (rows, columns)) in
            ROWS.iter().flat_map(|&rows| COLUMNS.map(|columns| (rows, columns))).enumerate()
        {
            let mut values = Values::new(case as u64);
            // Far from zero, where a plain sum of squares would cancel.
            let z: Vec<f32> = values.signed(rows * columns).iter().map(|z| 100.0 + z).collect();
            let (running_mean, running_var) = (values.signed(columns), values.positive(columns));
            let mut sums = Sums::new(&device).expect("memory");
            let (mut mean, mut rstd) = (poisoned(&device, columns), poisoned(&device, columns));
            let mut running_mean_there = to_device(&device, &running_mean);
            let mut running_var_there = to_device(&device, &running_var);
            batch_norm_statistics(
                &device,
                &mut Statistics { mean: all_mut(&mut mean), rstd: all_mut(&mut rstd) },
                &mut all_mut(&mut running_mean_there),
                &mut all_mut(&mut running_var_there),
                all(&to_device(&device, &z)),
                rows,
                &mut sums,
            )
            .expect("launches");
            let mut want = [vec![0.0; columns], vec![0.0; columns], wide(&running_mean), wide(&running_var)];
            let [want_mean, want_rstd, want_running_mean, want_running_var] = &mut want;
            reference::train_statistics(&wide(&z), want_mean, want_rstd, want_running_mean, want_running_var);
            let scale = |values: &[f64]| values.iter().fold(1.0, |most: f64, v| most.max(v.abs()));
            let got = [mean, rstd, running_mean_there, running_var_there];
            for ((name, got), want) in
                ["mean", "rstd", "running_mean", "running_var"].iter().zip(got).zip(&want)
            {
                let limit = LIMIT * scale(want);
                assert_within(&format!("{name} [{rows}, {columns}]"), &to_host(&device, &got), want, limit);
            }
        }
    }
}

#[test]
fn running_statistics_take_the_batchs_place() {
    for device in devices() {
        let mut values = Values::new(1);
        let (running_mean, running_var) = (values.signed(67), values.positive(67));
        let (mut mean, mut rstd) = (poisoned(&device, 67), poisoned(&device, 67));
        batch_norm_running_statistics(
            &device,
            &mut Statistics { mean: all_mut(&mut mean), rstd: all_mut(&mut rstd) },
            all(&to_device(&device, &running_mean)),
            all(&to_device(&device, &running_var)),
        )
        .expect("a launch");
        let (mut want_mean, mut want_rstd) = (vec![0.0; 67], vec![0.0; 67]);
        let (running_mean, running_var) = (wide(&running_mean), wide(&running_var));
        reference::running_statistics(&running_mean, &running_var, &mut want_mean, &mut want_rstd);
        assert_within("mean", &to_host(&device, &mean), &want_mean, 0.0);
        assert_within("rstd", &to_host(&device, &rstd), &want_rstd, LIMIT);
    }
}

#[test]
fn forward_mask_and_backward_agree_with_the_reference() {
    for device in devices() {
        for (case, (rows, columns)) in
            ROWS.iter().flat_map(|&rows| COLUMNS.map(|columns| (rows, columns))).enumerate()
        {
            let name = |what: &str| format!("{what} [{rows}, {columns}]");
            let mut values = Values::new(case as u64);
            let (z, d_y) = (values.signed(rows * columns), values.signed(rows * columns));
            let (mean, rstd) = (values.signed(columns), values.positive(columns));
            let (weight, bias) = (values.signed(columns), values.signed(columns));
            let there = [&mean, &rstd, &weight, &bias].map(|v| to_device(&device, v));
            let norm = Norm {
                mean: all(&there[0]),
                rstd: all(&there[1]),
                weight: all(&there[2]),
                bias: all(&there[3]),
            };
            let z_there = to_device(&device, &z);
            let of = [&mean, &rstd, &weight, &bias].map(|v| wide(v));
            let wanted = reference::Norm { mean: &of[0], rstd: &of[1], weight: &of[2], bias: &of[3] };

            let mut y = poisoned(&device, rows * columns);
            batch_norm_relu(&device, &mut all_mut(&mut y), all(&z_there), norm, columns, rows)
                .expect("a launch");
            let y = to_host(&device, &y);
            assert_within(&name("y"), &y, &wanted.relu_rows(&wide(&z)), LIMIT);

            let mut mask = device.allocate_unwritten::<u8>(rows * columns).expect("memory");
            batch_norm_mask(&device, &mut mask.slice_mut(0..rows * columns), all(&z_there), norm, rows)
                .expect("a launch");
            let mask = device.download(&mask, 0..rows * columns).expect("a download");
            let passed: Vec<u8> = y.iter().map(|&y| u8::from(y > 0.0)).collect();
            assert_eq!(mask, passed, "{}", name("mask"));

            let mut sums = Sums::new(&device).expect("memory");
            let mut d = to_device(&device, &d_y);
            let (mut d_weight, mut d_bias) = (poisoned(&device, columns), poisoned(&device, columns));
            batch_norm_backward(
                &device,
                &mut all_mut(&mut d),
                &mut all_mut(&mut d_weight),
                &mut all_mut(&mut d_bias),
                all(&z_there),
                norm,
                rows,
                &mut sums,
            )
            .expect("launches");
            let (mut want, mut want_weight, mut want_bias) =
                (wide(&d_y), vec![f64::NAN; columns], vec![f64::NAN; columns]);
            reference::batch_norm_backward(&wide(&z), wanted, &mut want, &mut want_weight, &mut want_bias);
            // xhat and scale reach 4.
            assert_within(&name("d_z"), &to_host(&device, &d), &want, 16.0 * LIMIT);
            let limit = LIMIT * (4.0 + rows as f64 / 16.0);
            assert_within(&name("d_weight"), &to_host(&device, &d_weight), &want_weight, limit);
            assert_within(&name("d_bias"), &to_host(&device, &d_bias), &want_bias, limit);
        }
    }
}
