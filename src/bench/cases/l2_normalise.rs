//! l2_normalise: the node states that a layer gives.

use super::batch_norm::{decided_inputs, expected_backward, norm_gradient};
use super::{SEED, count, counted, near, norm, norm_values, reference_norm, roundings, stored_tolerance};
use crate::backend::cuda::launchers::l2_normalise::{
    UnitRowsBackward, l2_normalise_backward, l2_normalise_forward,
};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::l2_normalise as reference;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let (nodes, columns) = (sizes.nodes(), sizes.config.state_width);
    let values_count = nodes * columns;
    let shape = format!("[{nodes}, {columns}]");
    // A row's sum, by lane and then by warp, its root, a quotient, and batch norm's four.
    let tolerance = stored_tolerance::<T>(roundings(columns.div_ceil(128) + 20));
    vec![
        Case {
            kernel: "l2_normalise_forward",
            shape: shape.clone(),
            // Reads z and writes x; norm 3, ReLU 1, square and sum 2, quotient 1.
            cost: Cost::stored::<T>(2 * values_count, 4 * columns, 7 * values_count),
            format: Format::Fp32,
            prepare: Box::new(move |_| {
                let mut values = Values::new(SEED);
                Prepared {
                    host: Host {
                        stored: vec![values.matrix::<T>(nodes, columns)],
                        stored_outputs: vec![HostMatrix::unwritten::<T>(nodes, columns)],
                        inputs: norm_values(&mut values, columns).to_vec(),
                        indices: vec![count(nodes)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([z], [mut x], (of, [count], [], _)) = arrays.stored_as::<T>().parts();
                        l2_normalise_forward(device, &mut x, z, norm(of), counted(count, nodes))
                    }),
                    expected: near(tolerance, move |host| {
                        let [z] = host.wide_stored();
                        let mut x = reference_norm(&host.wide_inputs()).relu_rows(&z);
                        reference::l2_normalise(&mut x, columns);
                        vec![x]
                    }),
                }
            }),
        },
        Case {
            kernel: "l2_normalise_backward",
            shape,
            // Reads d_x and z, writes d_y, d_weight and d_bias; norm 3, ReLU 1, two dot products 4, difference and quotient 3,
            // two sums 4.
            cost: Cost::stored::<T>(3 * values_count, 6 * columns, 15 * values_count),
            format: Format::Fp32,
            prepare: Box::new(move |_| {
                let mut values = Values::new(SEED);
                let (z, of) = decided_inputs::<T>(&mut values, nodes, columns);
                Prepared {
                    host: Host {
                        stored: vec![values.matrix::<T>(nodes, columns), z],
                        stored_outputs: vec![HostMatrix::unwritten::<T>(nodes, columns)],
                        inputs: of.to_vec(),
                        indices: vec![count(nodes)],
                        outputs: vec![unwritten(columns), unwritten(columns)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([d_x, z], [d_y], (of, [count], to, others)) = arrays.stored_as::<T>().parts();
                        let to = norm_gradient(to, &mut others.sums);
                        let of = UnitRowsBackward { d_y, d_x, z, norm: norm(of) };
                        l2_normalise_backward(device, of, to, counted(count, nodes))
                    }),
                    expected: near(tolerance, move |host| {
                        let ([d_x, z], of) = (host.wide_stored(), host.wide_inputs());
                        let y = reference_norm(&of).relu_rows(&z);
                        let d_y = reference::l2_normalise_backward(&y, &d_x, columns);
                        let [_, d_weight, d_bias] = expected_backward(&z, &of, d_y.clone(), true);
                        vec![d_y, d_weight, d_bias]
                    }),
                }
            }),
        },
    ]
}
