//! adam: all parameters at once, and the norm of their gradient.

use half::bf16;

use super::roundings;
use crate::backend::cuda::launchers::adam::{self as launchers, adam_step, gradient_norm, weight_copy};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::adam as reference;
use crate::bench::case::{Case, Cost, Grows, Host, OtherLengths, Prepared, STEPS_DONE};
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
    let plain = Update { count, parts: 1, adam, steps_done: STEPS_DONE, seed };
    let steered = Adam { weight_decay: 0.01, ..adam };
    vec![
        step(plain.clone(), None),
        steered_step(Update { adam: steered, ..plain }, layout.clone()),
        norm(count, seed),
        copy(layout, seed),
    ]
}

/// Norm of a gradient.
pub fn norm(count: usize, seed: u64) -> Case {
    Case {
        kernel: "gradient_norm",
        shape: format!("[{count}]"),
        cost: Cost::of(count, 2 * count),
        // The ticket and the sums of the other blocks follow the values.
        chain: Chain::loads(2).with_tail_if(true),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |_| Prepared {
            host: Host {
                inputs: vec![Values::new(seed).signed(count)],
                others: OtherLengths { sums: 1, ..Default::default() },
                ..Default::default()
            },
            launch: Box::new(move |device, arrays| {
                let ([gradients], [], [], others) = arrays.parts();
                gradient_norm(
                    device,
                    &mut others.wide_sums.all_mut(),
                    gradients,
                    &mut others.steps.norm_scratch,
                )
            }),
            expected: Box::new(move |host, _| {
                let [gradients] = host.wide_inputs();
                let norm = reference::gradient_norm(&gradients);
                // The reference adds one square after another, each with a rounding.
                let relative = (count + 4) as f64 * f64::EPSILON / 2.0;
                let tolerance = Tolerance { relative, least: 1.0, most: 1e-5 };
                vec![Output::scaled("norm", vec![norm], tolerance)]
            }),
        }),
    }
}

/// One step with weight decay on parameters of this layout.
pub fn steered_step(of: Update, layout: Layout) -> Case {
    let Case { kernel, cost, chain, grows, format, prepare, .. } = step(of.clone(), None);
    Case {
        kernel,
        shape: format!("decay, [{}]", of.count),
        // One bit more for each parameter, and a product.
        cost: Cost { bytes: cost.bytes + of.count as u64 / 8, flops: cost.flops + of.count as u64 },
        chain,
        grows,
        format,
        prepare: Box::new(move |spare| {
            let mut prepared = prepare(spare);
            prepared.host.decaying = Some(layout.clone());
            prepared
        }),
    }
}

/// One step, which also updates the copy of the weights. If gradients are clipped, their norm is computed first.
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
                    if adam.clip_norm.is_some() {
                        others.steps.compute_norm(device, gradients)?;
                    }
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
                    let step = adam.at_step(steps_done + 1, reference::gradient_norm(&gradients));
                    let parts = match &host.decaying {
                        Some(layout) => layout.by_decay(0..count),
                        None => vec![(0..count, true)],
                    };
                    for (part, decays) in parts {
                        let step = if decays { step } else { step.without_decay() };
                        let [values, first, second] =
                            [&mut values, &mut first, &mut second].map(|array| &mut array[part.clone()]);
                        reference::adam_step(&step, values, &gradients[part], first, second);
                    }
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
