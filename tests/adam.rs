//! adam: the kernel against the reference in double precision.

mod kernel_support;

use kernel_support::cases::{check, seeds};
use kernel_support::{Values, all, all_mut, assert_within, same_bits, to_device, to_host, wide};
use proptest::prelude::*;
use proptest::sample::select;
use scenerank::backend::cuda::adam::adam_step;
use scenerank::backend::reference::adam as reference;
use scenerank::optimizer::Adam;

fn agrees_with_the_reference((count, t, seed): (usize, u64, u64)) {
    let mut values = Values::new(seed);
    let (p, g, m) = (values.signed(count), values.signed(count), values.signed(count));
    let v = values.positive(count);
    let step = Adam::new(1e-2).at_step(t);
    let [p_there, m_there, v_there] = same_bits(seed, |device| {
        let [mut p, g, mut m, mut v] = [&p, &g, &m, &v].map(|values| to_device(device, values));
        adam_step(device, &mut all_mut(&mut p), &mut all_mut(&mut m), &mut all_mut(&mut v), all(&g), &step)
            .expect("a launch");
        [p, m, v].map(|buffer| to_host(device, &buffer))
    });
    let [mut p, g, mut m, mut v] = [p, g, m, v].map(|values| wide(&values));
    reference::adam_step(&step, &mut p, &g, &mut m, &mut v);
    // Numbers of about 1; 1 - beta2 keeps 1e-3 of its digits; steps are below 0.2.
    assert_within("p", &p_there, &p, 1e-6);
    assert_within("m", &m_there, &m, 5e-7);
    assert_within("v", &v_there, &v, 5e-7);
}

#[test]
fn a_step_agrees_with_the_reference() {
    let counts = prop_oneof![0..=300usize, select(vec![0, 1, 255, 256, 257, 5000])];
    check(200, (counts, select(vec![1, 2, 1000]), seeds()), agrees_with_the_reference);
}
