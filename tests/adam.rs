//! adam: the kernel against the reference in double precision.

mod kernel_support;

use kernel_support::{Values, assert_within, devices, to_device, to_host, wide};
use scenerank::backend::cuda::adam::adam_step;
use scenerank::backend::reference::adam as reference;
use scenerank::optimizer::Adam;

#[test]
fn a_step_agrees_with_the_reference() {
    for device in devices() {
        for (case, count) in [0, 1, 31, 255, 256, 257, 5000].into_iter().enumerate() {
            for t in [1, 2, 1000] {
                let mut values = Values::new(case as u64);
                let (p, g, m) = (values.signed(count), values.signed(count), values.signed(count));
                let v = values.positive(count);
                let step = Adam::new(1e-2).at_step(t);
                let [mut p_there, g_there, mut m_there, mut v_there] =
                    [&p, &g, &m, &v].map(|values| to_device(&device, values));
                adam_step(
                    &device,
                    &mut p_there.slice_mut(0..count),
                    &mut m_there.slice_mut(0..count),
                    &mut v_there.slice_mut(0..count),
                    g_there.slice(0..count),
                    &step,
                )
                .expect("a launch");
                let [mut p, g, mut m, mut v] = [&p, &g, &m, &v].map(|values| wide(values));
                reference::adam_step(&step, &mut p, &g, &mut m, &mut v);
                // Numbers of about 1; 1 - beta2 keeps 1e-3 of its digits; steps are below 0.2.
                assert_within(&format!("p, {count} at {t}"), &to_host(&device, &p_there), &p, 1e-6);
                assert_within(&format!("m, {count} at {t}"), &to_host(&device, &m_there), &m, 5e-7);
                assert_within(&format!("v, {count} at {t}"), &to_host(&device, &v_there), &v, 5e-7);
            }
        }
    }
}
