//! adam: all parameters at once.

use half::bf16;

use super::{SEED, near, roundings};
use crate::backend::cuda::launchers::adam::{Update, adam_step, weight_copy};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::adam as reference;
use crate::bench::case::{Case, Cost, Host, Prepared, STEPS_DONE};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::network::parameters::{BlockKind, Layout};
use crate::optimizer::{Adam, Part};

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let layout = Layout::new(sizes.config);
    vec![step(layout.parameter_count), copy(layout)]
}

fn step(count: usize) -> Case {
    Case {
        kernel: "adam_step",
        shape: format!("[{count}]"),
        // Reads four arrays and writes three; moments 3 + 4, root and quotient 6.
        cost: Cost::of(7 * count, 13 * count),
        // At most four roundings of operands and six of results, one after another.
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
            let (parameters, gradients) = (values.signed(count), values.signed(count));
            // The second moment lies above the square of the first, as training leaves them.
            let (first, second) = (values.signed(count), values.positive(count));
            let adam = Adam::new(1e-3);
            Prepared {
                host: Host {
                    inputs: vec![gradients],
                    outputs: vec![parameters, first, second],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([gradients], [], [values, first, second], others) = arrays.parts();
                    let part = Part { parameters: 0..count, ends_step: true };
                    let update = Update { values, first, second, gradients, part };
                    adam_step(device, update, &adam, &mut others.steps, None)
                }),
                expected: near(roundings(10), move |host| {
                    let [gradients] = host.wide_inputs();
                    let [mut values, mut first, mut second] = host.wide_outputs();
                    let step = adam.at_step(STEPS_DONE + 1);
                    reference::adam_step(&step, &mut values, &gradients, &mut first, &mut second);
                    vec![values, first, second]
                }),
            }
        }),
    }
}

fn copy(layout: Layout) -> Case {
    let count = layout.parameter_count;
    let copied: usize = (0..layout.config.layers)
        .flat_map(|layer| BlockKind::ALL.map(|kind| layout.block(layer, kind).weight.len()))
        .sum();
    Case {
        kernel: "weight_copy",
        shape: format!("[{copied} of {count}]"),
        // Reads weights, writes them in two bytes.
        cost: Cost { bytes: 6 * copied as u64, flops: 0 },
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let layout = layout.clone();
            Prepared {
                host: Host {
                    inputs: vec![Values::new(SEED).signed(count)],
                    copied: Some(layout.clone()),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([values], [], [], others) = arrays.parts();
                    weight_copy(device, others.copy.as_mut().expect("room for a copy"), values)
                }),
                expected: near(0.0, move |host| vec![copy_of(&layout, &host.inputs[0])]),
            }
        }),
    }
}

/// The weights in bf16, row by row, those of `edge.hidden` by parts of a row; between rows zeros.
fn copy_of(layout: &Layout, values: &[f32]) -> Vec<f64> {
    let mut copy = Vec::new();
    for (layer, kind) in (0..layout.config.layers).flat_map(|layer| BlockKind::ALL.map(|kind| (layer, kind)))
    {
        let block = layout.block(layer, kind);
        let parts = if kind == BlockKind::EdgeHidden { 3 } else { 1 };
        let padded = bf16::padded(&values[block.weight.clone()], block.inputs / parts);
        copy.extend(padded.into_iter().map(bf16::to_f64));
    }
    copy
}
