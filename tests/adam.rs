//! adam: the kernel against the reference in double precision.

mod kernel_support;

use kernel_support::cases::{check, seeds};
use kernel_support::{
    Values, all, all_mut, assert_within, devices, on_gpu, same_bits, to_device, to_host, wide,
};
use proptest::prelude::*;
use proptest::sample::select;
use scenerank::backend::cuda::adam::{Steps, adam_step};
use scenerank::backend::reference::adam as reference;
use scenerank::optimizer::{Adam, AdamStep};

fn agrees_with_the_reference((count, t, seed): (usize, u64, u64)) {
    let mut values = Values::new(seed);
    let (p, g, m) = (values.signed(count), values.signed(count), values.signed(count));
    let v = values.positive(count);
    let adam = Adam::new(1e-2);
    let [p_there, m_there, v_there] = same_bits(seed, |device, _| {
        let [mut p, g, mut m, mut v] = [&p, &g, &m, &v].map(|values| to_device(device, values));
        let mut steps = Steps::new(device).expect("memory");
        steps.set(device, t - 1).expect("an upload");
        let [mut p_to, mut m_to, mut v_to] = [&mut p, &mut m, &mut v].map(all_mut);
        adam_step(device, &mut p_to, &mut m_to, &mut v_to, all(&g), &adam, &mut steps).expect("launches");
        [p, m, v].map(|buffer| to_host(device, &buffer))
    });
    let [mut p, g, mut m, mut v] = [p, g, m, v].map(|values| wide(&values));
    reference::adam_step(&adam.at_step(t), &mut p, &g, &mut m, &mut v);
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

/// Steps that are counted on the device, and a step that begins where they are, as a run that was resumed: the same bits,
/// and the factors that the host computes.
#[test]
fn steps_count_on_by_themselves() {
    let adam = Adam::new(1e-2);
    for device in devices() {
        let mut counted = Steps::new(&device).expect("memory");
        for t in 1..=300 {
            let mut set = Steps::new(&device).expect("memory");
            set.set(&device, t - 1).expect("an upload");
            // A gradient and moments that leave rate and correction in the open.
            let [one, other] = [&mut counted, &mut set].map(|steps| {
                let [mut p, g, mut m, mut v] =
                    [[0.0f32], [0.0], [1.0], [1.0]].map(|v| to_device(&device, &v));
                let [mut p_to, mut m_to, mut v_to] = [&mut p, &mut m, &mut v].map(all_mut);
                adam_step(&device, &mut p_to, &mut m_to, &mut v_to, all(&g), &adam, steps).expect("launches");
                to_host(&device, &p)[0]
            });
            assert_eq!(one.to_bits(), other.to_bits(), "step {t}");
            let AdamStep { beta1, beta2, rate, second_moment_correction, epsilon } = adam.at_step(t);
            let root = (beta2 as f32 * second_moment_correction as f32).sqrt();
            let want = -(rate as f32 * beta1 as f32) / (root + epsilon as f32);
            if !on_gpu() {
                // The same operations, one after another; a GPU's compiler may contract them.
                assert_eq!(one.to_bits(), want.to_bits(), "step {t}: {one} where {want} is expected");
            }
        }
    }
}
