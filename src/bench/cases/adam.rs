//! adam: all parameters at once.

use super::roundings;
use crate::backend::cuda::adam::adam_step;
use crate::backend::cuda::linear::Format;
use crate::backend::reference::adam as reference;
use crate::bench::case::{Case, Cost, Host, Prepared, STEPS_DONE};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::model::parameters::Layout;
use crate::optimizer::Adam;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let count = Layout::new(sizes.config).parameter_count;
    vec![Case {
        kernel: "adam_step",
        shape: format!("[{count}]"),
        // Reads four arrays and writes three; moments 3 + 4, root and quotient 6.
        cost: Cost::of(7 * count, 13 * count),
        // At most four roundings of operands and six of results, one after another.
        format: Format::Fp32,
        tolerance: roundings(10),
        prepare: Box::new(move || {
            let mut values = Values::new();
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
                    let ([gradients], [], [mut values, mut first, mut second], others) = arrays.parts();
                    let steps = &mut others.steps;
                    adam_step(device, &mut values, &mut first, &mut second, gradients, &adam, steps)
                }),
                expected: Box::new(move |host| {
                    let [gradients] = host.wide_inputs();
                    let [mut values, mut first, mut second] = host.wide_outputs();
                    let step = adam.at_step(STEPS_DONE + 1);
                    reference::adam_step(&step, &mut values, &gradients, &mut first, &mut second);
                    vec![values, first, second]
                }),
            }
        }),
    }]
}
