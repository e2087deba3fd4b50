//! l2_normalise: the node states that a layer gives.

use super::{count, counted, norm, norm_values, reference_norm, roundings};
use crate::backend::cuda::l2_normalise::{l2_normalise_backward, l2_normalise_forward};
use crate::backend::cuda::linear::Format;
use crate::backend::reference::l2_normalise as reference;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (nodes, columns) = (sizes.nodes(), sizes.config.state_width);
    let values_count = nodes * columns;
    let shape = format!("[{nodes}, {columns}]");
    // A row's sum, by lane and then by warp, its root, a quotient, and batch norm's four.
    let tolerance = roundings(columns.div_ceil(128) + 20);
    vec![
        Case {
            kernel: "l2_normalise_forward",
            shape: shape.clone(),
            // Reads z and writes x; norm 3, ReLU 1, square and sum 2, quotient 1.
            cost: Cost::of(2 * values_count + 4 * columns, 7 * values_count),
            format: Format::Fp32,
            tolerance,
            prepare: Box::new(move || {
                let mut values = Values::new();
                let mut inputs = vec![values.signed(values_count)];
                inputs.extend(norm_values(&mut values, columns));
                Prepared {
                    host: Host {
                        inputs,
                        indices: vec![count(nodes)],
                        outputs: vec![unwritten(values_count)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([z, mean, rstd, weight, bias], [count], [mut x], _) = arrays.parts();
                        l2_normalise_forward(
                            device,
                            &mut x,
                            z,
                            norm([mean, rstd, weight, bias]),
                            counted(count, nodes),
                        )
                    }),
                    expected: Box::new(move |host| {
                        let [z, mean, rstd, weight, bias] = host.wide_inputs();
                        let mut x = reference_norm(&[mean, rstd, weight, bias]).relu_rows(&z);
                        reference::l2_normalise(&mut x, columns);
                        vec![x]
                    }),
                }
            }),
        },
        Case {
            kernel: "l2_normalise_backward",
            shape,
            // Reads d_x and z, writes d_y; norm 3, ReLU 1, two dot products 4, difference and quotients 4.
            cost: Cost::of(3 * values_count + 4 * columns, 12 * values_count),
            format: Format::Fp32,
            tolerance,
            prepare: Box::new(move || {
                let mut values = Values::new();
                let (d_x, z) = (values.signed(values_count), values.signed(values_count));
                let of = norm_values(&mut values, columns);
                let mut inputs = vec![d_x, z];
                inputs.extend(of);
                Prepared {
                    host: Host {
                        inputs,
                        indices: vec![count(nodes)],
                        outputs: vec![unwritten(values_count)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([d_x, z, mean, rstd, weight, bias], [count], [mut d_y], _) = arrays.parts();
                        let norm = norm([mean, rstd, weight, bias]);
                        l2_normalise_backward(device, &mut d_y, d_x, z, norm, counted(count, nodes))
                    }),
                    expected: Box::new(move |host| {
                        let [d_x, z, mean, rstd, weight, bias] = host.wide_inputs();
                        let y = reference_norm(&[mean, rstd, weight, bias]).relu_rows(&z);
                        vec![reference::l2_normalise_backward(&y, &d_x, columns)]
                    }),
                }
            }),
        },
    ]
}
