//! embedding: the rows of the object table that occur in the batch.

use super::{count, counted, indices};
use crate::backend::cuda::embedding::{embedding_backward, embedding_forward};
use crate::backend::cuda::linear::Format;
use crate::backend::reference::edge_gather as reference;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (table, width) = (sizes.config.object_types, sizes.config.state_width);
    let types = sizes.batch.object_occurrences.types.clone();
    let row_count = types.len();
    let shape = format!("[{row_count} of {table}, {width}]");
    let (forward_types, backward_types) = (types.clone(), types);
    vec![
        Case {
            kernel: "embedding_forward",
            shape: shape.clone(),
            // Reads the types and their rows, writes the rows.
            cost: Cost::of(row_count + 2 * row_count * width, 0),
            format: Format::Fp32,
            tolerance: 0.0,
            prepare: Box::new(move || {
                let types = forward_types.clone();
                Prepared {
                    host: Host {
                        inputs: vec![Values::new().signed(table * width)],
                        indices: vec![indices(&types), count(row_count)],
                        outputs: vec![unwritten(row_count * width)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([table], [types, count], [mut to], _) = arrays.parts();
                        embedding_forward(device, &mut to, table, types, counted(count, row_count), width)
                    }),
                    expected: Box::new(move |host| {
                        let [table] = host.wide_inputs();
                        vec![reference::embedding_lookup(&table, &types, width)]
                    }),
                }
            }),
        },
        Case {
            kernel: "embedding_backward",
            shape,
            // Reads the types and their rows, writes the whole table; the rows of types that occur are written twice,
            // but need not be.
            cost: Cost::of(row_count + row_count * width + table * width, 0),
            format: Format::Fp32,
            tolerance: 0.0,
            prepare: Box::new(move || {
                let types = backward_types.clone();
                Prepared {
                    host: Host {
                        inputs: vec![Values::new().signed(row_count * width)],
                        indices: vec![indices(&types), count(row_count)],
                        outputs: vec![unwritten(table * width)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([d_rows], [types, count], [d_table], _) = arrays.parts();
                        embedding_backward(device, d_table, d_rows, types, counted(count, row_count), width)
                    }),
                    expected: Box::new(move |host| {
                        let [d_rows] = host.wide_inputs();
                        let mut d_table = vec![f64::NAN; table * width];
                        reference::embedding_lookup_backward(&d_rows, &types, width, &mut d_table);
                        vec![d_table]
                    }),
                }
            }),
        },
    ]
}
