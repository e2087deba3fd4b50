//! adam: all parameters at once.

use half::bf16;

use super::roundings;
use crate::backend::cuda::launchers::adam::{self as launchers, adam_step, weight_copy};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::adam as reference;
use crate::bench::case::{Case, Cost, Grows, Host, Prepared, STEPS_DONE};
use crate::bench::chain::Chain;
use crate::bench::check::{Output, Tolerance};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::network::parameters::{BlockKind, Layout};
use crate::optimizer::{Adam, Part};

/// Parameters of one optimizer step.
#[derive(Clone, Debug)]
pub struct Update {
    /// Number of parameters.
    pub count: usize,
    /// Number of launches that share the parameters, beginning with the last part.
    pub parts: usize,
    /// Settings of the optimizer.
    pub adam: Adam,
    /// Number of steps before this one.
    pub steps_done: u64,
    /// Seed of parameters, gradients and moments.
    pub seed: u64,
}

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let layout = Layout::new(sizes.config);
    let (count, adam, seed) = (layout.parameter_count, Adam::new(1e-3), sizes.seed);
    vec![step(Update { count, parts: 1, adam, steps_done: STEPS_DONE, seed }, None), copy(layout, seed)]
}

/// One step, which also updates the copy of the weights.
pub fn step(of: Update, copied: Option<Layout>) -> Case {
    let Update { count, parts, adam, steps_done, seed } = of;
    Case {
        kernel: "adam_step",
        shape: format!("[{count}]"),
        // Reads four arrays and writes three. The moments take 3 + 4 operations, root and quotient 6.
        cost: Cost::of(7 * count, 13 * count),
        chain: Chain::loads(3),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let mut values = Values::new(seed);
            let (parameters, gradients) = (values.signed(count), values.signed(count));
            // The second moment is larger than the square of the first, as in training.
            let (first, second) = (values.signed(count), values.positive(count));
            let layout = copied.clone();
            Prepared {
                host: Host {
                    inputs: vec![gradients],
                    outputs: vec![parameters, first, second],
                    copied: copied.clone(),
                    steps_done,
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([gradients], [], mut moved, others) = arrays.parts();
                    let ends: Vec<usize> = (0..=parts).map(|part| count * part / parts).collect();
                    for part in (0..parts).rev() {
                        let part = Part { parameters: ends[part]..ends[part + 1], ends_step: part == 0 };
                        let [values, first, second] =
                            moved.each_mut().map(|buffer| buffer.slice_mut(0..count));
                        let update = launchers::Update { values, first, second, gradients, part };
                        adam_step(device, update, &adam, &mut others.steps, others.copy.as_mut())?;
                    }
                    Ok(())
                }),
                expected: Box::new(move |host, written| {
                    let [gradients] = host.wide_inputs();
                    let [mut values, mut first, mut second] = host.wide_outputs();
                    let step = adam.at_step(steps_done + 1);
                    reference::adam_step(&step, &mut values, &gradients, &mut first, &mut second);
                    // At most four roundings of operands and six of results, one after another, for numbers of about 1.
                    let tolerance = |most| Tolerance { relative: roundings(10), least: 1.0, most };
                    let mut outputs = vec![
                        Output::scaled("parameters", values, tolerance(1e-6)),
                        Output::scaled("first moments", first, tolerance(5e-7)),
                        Output::scaled("second moments", second, tolerance(5e-7)),
                    ];
                    // The copy must equal the parameters that the kernel wrote, rounded, bit for bit.
                    let moved: Vec<f32> = written[0].values.iter().map(|&value| value as f32).collect();
                    outputs.extend(layout.iter().map(|of| Output::exact("copy", copy_of(of, &moved))));
                    outputs
                }),
            }
        }),
    }
}

/// Copy of the weights of a network with this layout.
pub fn copy(layout: Layout, seed: u64) -> Case {
    let count = layout.parameter_count;
    let copied: usize = (0..layout.config.layers)
        .flat_map(|layer| BlockKind::ALL.map(|kind| layout.block(layer, kind).weight.len()))
        .sum();
    Case {
        kernel: "weight_copy",
        shape: format!("[{copied} of {count}]"),
        // Reads weights of four bytes, writes them in two bytes.
        cost: Cost { bytes: 6 * copied as u64, flops: 0 },
        chain: Chain::loads(3),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| {
            let layout = layout.clone();
            Prepared {
                host: Host {
                    inputs: vec![Values::new(seed).signed(count)],
                    copied: Some(layout.clone()),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([values], [], [], others) = arrays.parts();
                    weight_copy(device, others.copy.as_mut().expect("room for a copy"), values)
                }),
                expected: Box::new(move |host, _| {
                    vec![Output::exact("copy", copy_of(&layout, &host.inputs[0]))]
                }),
            }
        }),
    }
}

/// The weights in bf16, row by row; those of `edge.hidden` part by part. The padding between rows is zero.
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
