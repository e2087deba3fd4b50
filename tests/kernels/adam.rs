//! adam: the kernel against the reference in double precision, and the weights' copy bit by bit.

use crate::support::cases::{check, seeds};
use crate::support::{
    Values, all, all_mut, assert_within, devices, on_gpu, same_bits, to_device, to_host, wide,
};
use half::bf16;
use proptest::prelude::*;
use proptest::sample::select;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::device::buffer::Buffer;
use scenerank::backend::cuda::launchers::adam::{Steps, Update, adam_step, weight_copy};
use scenerank::backend::cuda::launchers::weight_copy::{CopiedWeight, WeightCopy};
use scenerank::backend::reference::adam as reference;
use scenerank::network::config::ModelConfig;
use scenerank::network::parameters::{BlockKind, Layout};
use scenerank::optimizer::{Adam, AdamStep, Part};

/// A step of all values, in so many parts: from the last values on to the first, which end it.
fn step(
    device: &Device,
    [values, first, second]: [&mut Buffer<f32>; 3],
    gradients: &Buffer<f32>,
    (adam, parts): (&Adam, usize),
    steps: &mut Steps,
    mut copy: Option<&mut WeightCopy>,
) {
    let ends: Vec<usize> = (0..=parts).map(|part| values.len() * part / parts).collect();
    for part in (0..parts).rev() {
        let part = Part { parameters: ends[part]..ends[part + 1], ends_step: part == 0 };
        let [values, first, second] = [&mut *values, &mut *first, &mut *second].map(all_mut);
        let update = Update { values, first, second, gradients: all(gradients), part };
        adam_step(device, update, adam, steps, copy.as_deref_mut()).expect("a launch");
    }
}

fn agrees_with_the_reference((count, t, seed, parts): (usize, u64, u64, usize)) {
    let mut values = Values::new(seed);
    let (p, g, m) = (values.signed(count), values.signed(count), values.signed(count));
    let v = values.positive(count);
    let adam = Adam::new(1e-2);
    let [p_there, m_there, v_there] = same_bits(seed, |device, _| {
        let [mut p, g, mut m, mut v] = [&p, &g, &m, &v].map(|values| to_device(device, values));
        let mut steps = Steps::new(device).expect("memory");
        steps.set(device, t - 1).expect("an upload");
        step(device, [&mut p, &mut m, &mut v], &g, (&adam, parts), &mut steps, None);
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
    check(200, (counts, select(vec![1, 2, 1000]), seeds(), 1..=3usize), agrees_with_the_reference);
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
                step(&device, [&mut p, &mut m, &mut v], &g, (&adam, 1 + t as usize % 2), steps, None);
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

/// Small networks: widths that are multiples of 4 and of 8, and odd ones, whose weights begin anywhere.
fn configs() -> impl Strategy<Value = ModelConfig> {
    let width = || prop_oneof![1..=21usize, select(vec![4, 8, 16, 24])];
    (1..=3usize, 1..=5usize, 1..=3usize, width(), width()).prop_map(
        |(object_types, predicate_types, layers, state_width, hidden_width)| ModelConfig {
            object_types,
            predicate_types,
            layers,
            state_width,
            hidden_width,
            ..ModelConfig::PAPER
        },
    )
}

/// The parameters' weights in bf16 where the copy's places say, and 0 elsewhere. Each place is written once, and every row
/// that a product reads begins at a multiple of 16 bytes.
fn expected_copy(layout: &Layout, copy: &WeightCopy, values: &[f32]) -> Vec<u16> {
    let mut expected = vec![None; copy.values().len()];
    let mut put = |of: CopiedWeight, row: usize, column: usize, value: f32| {
        assert!(
            of.start.is_multiple_of(8) && of.stride.is_multiple_of(8) && row < of.rows && column < of.columns
        );
        let place = &mut expected[of.start + row * of.stride + column];
        assert!(place.replace(bf16::from_f32(value).to_bits()).is_none(), "two values in one place");
    };
    for (layer, kind) in (0..layout.config.layers).flat_map(|layer| BlockKind::ALL.map(|kind| (layer, kind)))
    {
        let (block, of) = (layout.block(layer, kind), copy.place(layer, kind));
        for (output, row) in values[block.weight.clone()].chunks_exact(block.inputs).enumerate() {
            for (input, &value) in row.iter().enumerate() {
                match kind {
                    BlockKind::EdgeHidden => {
                        let width = layout.config.state_width;
                        put(of.part(input / width), output, input % width, value);
                    }
                    _ => put(of, output, input, value),
                }
            }
        }
    }
    expected.into_iter().map(|bits| bits.unwrap_or(0)).collect()
}

#[test]
fn the_weights_copy_is_made_and_kept_up_bit_by_bit() {
    check(60, (configs(), seeds()), |(config, seed)| {
        let layout = Layout::new(config);
        let count = layout.parameter_count;
        let mut values = Values::new(seed);
        let (p, g) = (values.signed(count), values.signed(count));
        let [before, moved, after] = same_bits(seed, |device, _| {
            let mut copy = WeightCopy::new(device, &layout).expect("memory");
            let [mut values, g] = [&p, &g].map(|values| to_device(device, values));
            let [mut m, mut v] = [(); 2].map(|()| to_device(device, &vec![0.0f32; count]));
            let as_numbers = |copy: &WeightCopy| -> Vec<f32> {
                let bits = copy.download(device).expect("a download");
                bits.into_iter().map(|value| f32::from(value.to_bits())).collect()
            };
            weight_copy(device, &mut copy, all(&values)).expect("a launch");
            let before = as_numbers(&copy);
            let mut steps = Steps::new(device).expect("memory");
            let moved = [&mut values, &mut m, &mut v];
            step(device, moved, &g, (&Adam::new(0.1), 1 + seed as usize % 3), &mut steps, Some(&mut copy));
            [before, to_host(device, &values), as_numbers(&copy)]
        });
        assert!(moved != p, "a step");
        for device in devices().into_iter().take(1) {
            let copy = WeightCopy::new(&device, &layout).expect("memory");
            for (values, got) in [(&p, &before), (&moved, &after)] {
                let got: Vec<u16> = got.iter().map(|&bits| bits as u16).collect();
                assert_eq!(got, expected_copy(&layout, &copy, values));
            }
        }
    });
}
