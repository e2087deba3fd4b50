//! adam: the cases of the bench at random sizes, the step counter and the learning rates on the device, and the layout of
//! the weights' copy.

use crate::support::agreement::agree;
use crate::support::cases::{check, seeds};
use crate::support::{TestDevice, Values, all, all_mut, devices, test_device, to_device, to_host};
use half::bf16;
use proptest::prelude::*;
use proptest::sample::select;
use scenerank::backend::cuda::launchers::adam::{Steps, Update, adam_step, weight_copy};
use scenerank::backend::cuda::launchers::weight_copy::{CopiedWeight, WeightCopy};
use scenerank::bench::cases::adam as cases;
use scenerank::network::config::ModelConfig;
use scenerank::network::parameters::{BlockKind, Layout};
use scenerank::optimizer::schedule::{Course, RATE_STEPS, Schedule};
use scenerank::optimizer::{Adam, AdamStep, Part};

#[test]
fn a_step_agrees_with_the_reference() {
    let counts = prop_oneof![0..=300usize, select(vec![0, 1, 255, 256, 257, 5000])];
    let cases = (counts, select(vec![0, 1, 999]), seeds(), 1..=3usize);
    check(200, cases, |(count, steps_done, seed, parts)| {
        let of = cases::Update { count, parts, adam: Adam::new(1e-2), steps_done, seed };
        agree(seed, &cases::step(of, None));
    });
}

/// Decay, clipping and learning rates from device memory, all at once.
#[test]
fn a_steered_step_agrees_with_the_reference() {
    check(100, (configs(), select(vec![0, 5, 1023, 1024, 5000]), seeds()), |(config, steps_done, seed)| {
        let layout = Layout::new(config);
        let clip_norm = [None, Some(0.5), Some(1e6)][seed as usize % 3];
        let adam = Adam { weight_decay: 3.0, clip_norm, ..Adam::new(1e-2) };
        let (count, parts) = (layout.parameter_count, 1 + seed as usize / 3 % 3);
        let of = cases::Update { count, parts, adam, steps_done, seed };
        agree(seed, &cases::steered_step(of, layout));
    });
}

#[test]
fn the_norm_of_a_gradient_agrees_with_the_reference() {
    let counts = prop_oneof![0..=300usize, select(vec![0, 1, 8191, 8192, 8193, 70_000])];
    check(60, (counts, seeds()), |(count, seed)| {
        agree(seed, &cases::norm(count, seed));
    });
}

/// More chunks than threads of the last block, which sums them.
#[test]
fn a_long_gradient_has_the_norm_of_all_its_chunks() {
    agree(1, &cases::norm(257 * 8192 + 5, 1));
}

/// Rates lie in device memory, at the place of their step; those of other steps are not used.
#[test]
fn each_step_takes_its_own_learning_rate() {
    let schedule = Schedule { course: Course::Linear, warmup: 3, steps: 2000, last: 0.0 };
    let adam = Adam { schedule, ..Adam::new(1e-2) };
    for device in devices() {
        let mut steps = Steps::of_count(&device, 1).expect("memory");
        for done in [0, 1, 2, 3, 1023, 1024, 1500] {
            let first = done / RATE_STEPS as u64 * RATE_STEPS as u64;
            let rates: Vec<f64> = (1..=RATE_STEPS as u64).map(|t| adam.rate_at(first + t)).collect();
            steps.load_rates(&device, &rates).expect("an upload");
            steps.set(&device, done).expect("an upload");
            let [mut p, g, mut m, mut v] = [[0.0f32], [0.0], [1.0], [1.0]].map(|v| to_device(&device, &v));
            let [values, first, second] = [&mut p, &mut m, &mut v].map(all_mut);
            let part = Part { parameters: 0..1, ends_step: true };
            let update = Update { values, first, second, gradients: all(&g), part };
            adam_step(&device, update, &adam, &mut steps, None).expect("a launch");
            let got = to_host(&device, &p)[0];
            let AdamStep { rate, second_moment_correction, .. } = adam.at_step(done + 1, 0.0);
            let want = -(rate * 0.9) / (0.999 * second_moment_correction).sqrt();
            assert!((f64::from(got) / want - 1.0).abs() < 1e-6, "step {}: {got}, not {want}", done + 1);
        }
    }
}

/// Steps counted on the device, and a step that starts from their count, as in a resumed run. Both give the same bits,
/// with the factors that the host computes.
#[test]
fn steps_count_on_by_themselves() {
    let adam = Adam::new(1e-2);
    for device in devices() {
        let mut counted = Steps::of_count(&device, 1).expect("memory");
        for t in 1..=300 {
            let mut set = Steps::of_count(&device, 1).expect("memory");
            set.set(&device, t - 1).expect("an upload");
            // Gradient and moments for which the result shows the rate and the correction.
            let [one, other] = [&mut counted, &mut set].map(|steps| {
                let [mut p, g, mut m, mut v] =
                    [[0.0f32], [0.0], [1.0], [1.0]].map(|v| to_device(&device, &v));
                for part in (0..1 + t as usize % 2).rev() {
                    // The only value is in the last part, and the first part ends the step.
                    let last = part == t as usize % 2;
                    let parameters = if last { 0..1 } else { 0..0 };
                    let [values, first, second] = [&mut p, &mut m, &mut v].map(all_mut);
                    let part = Part { parameters, ends_step: part == 0 };
                    let update = Update { values, first, second, gradients: all(&g), part };
                    adam_step(&device, update, &adam, steps, None).expect("a launch");
                }
                to_host(&device, &p)[0]
            });
            assert_eq!(one.to_bits(), other.to_bits(), "step {t}");
            let AdamStep { beta1, beta2, rate, second_moment_correction, epsilon, .. } = adam.at_step(t, 0.0);
            let root = (beta2 as f32 * second_moment_correction as f32).sqrt();
            let want = -(rate as f32 * beta1 as f32) / (root + epsilon as f32);
            if test_device() == TestDevice::Emulated {
                // The same operations in the same order; nvcc may contract them.
                assert_eq!(one.to_bits(), want.to_bits(), "step {t}: {one} where {want} is expected");
            }
        }
    }
}

/// Small networks with widths that are multiples of 4 and of 8, and with odd widths, whose weights begin at any offset.
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

#[test]
fn the_weights_copy_is_made_and_kept_up_bit_by_bit() {
    check(60, (configs(), seeds()), |(config, seed)| {
        let layout = Layout::new(config);
        let (count, parts) = (layout.parameter_count, 1 + seed as usize % 3);
        let copied = agree(seed, &cases::copy(layout.clone(), seed)).remove(0);
        let of = cases::Update { count, parts, adam: Adam::new(0.1), steps_done: 0, seed };
        let stepped = agree(seed, &cases::step(of, Some(layout))).remove(3);
        // No weight is 0. Between rows all bits are 0, the sign too.
        assert!(copied.iter().chain(&stepped).all(|&value| value != 0.0 || value.is_sign_positive()));
    });
}

/// Each element of the copy is written once, and every row that a product reads begins at a multiple of 16 bytes.
#[test]
fn the_weights_copy_has_a_place_of_its_own_for_every_weight() {
    check(60, (configs(), seeds()), |(config, seed)| {
        let layout = Layout::new(config);
        let values = Values::new(seed).signed(layout.parameter_count);
        for device in devices().into_iter().take(1) {
            let mut copy = WeightCopy::new(&device, &layout).expect("memory");
            weight_copy(&device, &mut copy, all(&to_device(&device, &values))).expect("a launch");
            let mut written: Vec<Option<bf16>> =
                copy.download(&device).expect("a download").into_iter().map(Some).collect();
            let mut take = |of: CopiedWeight, row: usize, column: usize, value: f32| {
                assert!(of.start.is_multiple_of(8) && of.stride.is_multiple_of(8));
                assert!(row < of.rows && column < of.columns);
                let place = written[of.start + row * of.stride + column].take();
                let place = place.expect("one value in a place");
                assert_eq!(place.to_bits(), bf16::from_f32(value).to_bits());
            };
            for (layer, kind) in (0..config.layers).flat_map(|layer| BlockKind::ALL.map(|kind| (layer, kind)))
            {
                let (block, of) = (layout.block(layer, kind), copy.place(layer, kind));
                for (i, &value) in values[block.weight.clone()].iter().enumerate() {
                    let (row, column) = (i / block.inputs, i % block.inputs);
                    match kind {
                        BlockKind::EdgeHidden => {
                            let width = config.state_width;
                            take(of.part(column / width), row, column % width, value);
                        }
                        _ => take(of, row, column, value),
                    }
                }
            }
        }
    });
}
