//! embedding: the rows of the object table that occur in the batch.

use super::{count, counted, indices};
use crate::backend::cuda::embedding::{embedding_backward, embedding_forward};
use crate::backend::cuda::linear::Format;
use crate::backend::cuda::stored::StoredElement;
use crate::backend::reference::edge_gather as reference;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let (table, width) = (sizes.config.object_types, sizes.config.state_width);
    let types = sizes.batch.object_occurrences.types.clone();
    let row_count = types.len();
    let shape = format!("[{row_count} of {table}, {width}]");
    let (forward_types, backward_types) = (types.clone(), types);
    vec![
        Case {
            kernel: "embedding_forward",
            shape: shape.clone(),
            // Reads the types and their rows, in single precision, writes the rows.
            cost: Cost::stored::<T>(row_count * width, row_count + row_count * width, 0),
            format: Format::Fp32,
            tolerance: 0.0,
            prepare: Box::new(move || {
                let types = forward_types.clone();
                Prepared {
                    host: Host {
                        inputs: vec![Values::new().signed(table * width)],
                        stored_outputs: vec![HostMatrix::unwritten::<T>(row_count, width)],
                        indices: vec![indices(&types), count(row_count)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([], [mut to], parts) = arrays.stored_as::<T>().parts();
                        let ([table], [types, count], [], _) = parts;
                        embedding_forward(device, &mut to, table, types, counted(count, row_count), width)
                    }),
                    expected: Box::new(move |host| {
                        // Each value is rounded once, to what it is to be.
                        let table = HostMatrix::new::<T>(host.inputs[0].clone(), width);
                        vec![reference::embedding_lookup(&table.wide(), &types, width)]
                    }),
                }
            }),
        },
        Case {
            kernel: "embedding_backward",
            shape,
            // Reads the types and their rows, writes the whole table; the rows of types that occur are written twice,
            // but need not be.
            cost: Cost::stored::<T>(row_count * width, row_count + table * width, 0),
            format: Format::Fp32,
            tolerance: 0.0,
            prepare: Box::new(move || {
                let types = backward_types.clone();
                Prepared {
                    host: Host {
                        stored: vec![Values::new().matrix::<T>(row_count, width)],
                        indices: vec![indices(&types), count(row_count)],
                        outputs: vec![unwritten(table * width)],
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([d_rows], [], parts) = arrays.stored_as::<T>().parts();
                        let ([], [types, count], [d_table], _) = parts;
                        embedding_backward(device, d_table, d_rows, types, counted(count, row_count), width)
                    }),
                    expected: Box::new(move |host| {
                        let [d_rows] = host.wide_stored();
                        let mut d_table = vec![f64::NAN; table * width];
                        reference::embedding_lookup_backward(&d_rows, &types, width, &mut d_table);
                        vec![d_table]
                    }),
                }
            }),
        },
    ]
}
