//! embedding: the rows of both tables that occur in the batch.

use super::{SEED, count, counted, indices, near};
use crate::backend::cuda::launchers::embedding::{
    Lookup, LookupGradient, Occurring, embedding_backward, embedding_forward,
};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::edge_gather as reference;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let (config, batch) = (sizes.config, &sizes.batch);
    let width = config.state_width;
    let tables = [config.object_types, config.predicate_types];
    let types = [&batch.object_occurrences, &batch.predicate_occurrences].map(|of| of.types.clone());
    let rows = types.each_ref().map(Vec::len);
    let (all_rows, all_types) = (rows[0] + rows[1], tables[0] + tables[1]);
    let shape = format!("[{} of {}, {width}], [{} of {}, {width}]", rows[0], tables[0], rows[1], tables[1]);
    let lists = [indices(&types[0]), count(rows[0]), indices(&types[1]), count(rows[1])].to_vec();
    let (forward_types, backward_types, backward_lists) = (types.clone(), types, lists.clone());
    vec![
        Case {
            kernel: "embedding_forward",
            shape: shape.clone(),
            // Reads the types and their rows, in single precision, writes the rows.
            cost: Cost::stored::<T>(all_rows * width, all_rows + all_rows * width, 0),
            format: Format::Fp32,
            prepare: Box::new(move |_| {
                let (types, mut values) = (forward_types.clone(), Values::new(SEED));
                Prepared {
                    host: Host {
                        inputs: tables.map(|table| values.signed(table * width)).to_vec(),
                        stored_outputs: rows.map(|rows| HostMatrix::unwritten::<T>(rows, width)).to_vec(),
                        indices: lists.clone(),
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([], to, parts) = arrays.stored_as::<T>().parts();
                        let ([object_table, predicate_table], lists, [], _) = parts;
                        let [objects, object_count, predicates, predicate_count] = lists;
                        let [object_rows, predicate_rows] = to;
                        let of = |types, count, rows| Occurring { types, rows: counted(count, rows) };
                        let lookups = [
                            (object_rows, object_table, of(objects, object_count, rows[0])),
                            (predicate_rows, predicate_table, of(predicates, predicate_count, rows[1])),
                        ];
                        let lookups = lookups.map(|(rows, table, of)| Lookup { rows, table, of });
                        embedding_forward(device, lookups, width)
                    }),
                    expected: near(0.0, move |host| {
                        let looked_up = host.inputs.iter().zip(&types).map(|(table, types)| {
                            // Each value is rounded once, to what it is to be.
                            let table = HostMatrix::new::<T>(table.clone(), width);
                            reference::embedding_lookup(&table.wide(), types, width)
                        });
                        looked_up.collect()
                    }),
                }
            }),
        },
        Case {
            kernel: "embedding_backward",
            shape,
            // Reads the types and their rows, writes the whole tables.
            cost: Cost::stored::<T>(all_rows * width, all_rows + all_types * width, 0),
            format: Format::Fp32,
            prepare: Box::new(move |_| {
                let (types, mut values) = (backward_types.clone(), Values::new(SEED));
                Prepared {
                    host: Host {
                        stored: rows.map(|rows| values.matrix::<T>(rows, width)).to_vec(),
                        indices: backward_lists.clone(),
                        outputs: tables.map(|table| unwritten(table * width)).to_vec(),
                        ..Default::default()
                    },
                    launch: Box::new(move |device, arrays| {
                        let ([d_objects, d_predicates], [], parts) = arrays.stored_as::<T>().parts();
                        let ([], [objects, object_count, predicates, predicate_count], to, _) = parts;
                        let [d_object_table, d_predicate_table] = to;
                        let of = |types, count, rows| Occurring { types, rows: counted(count, rows) };
                        let lookups = [
                            (d_object_table, d_objects, of(objects, object_count, rows[0])),
                            (d_predicate_table, d_predicates, of(predicates, predicate_count, rows[1])),
                        ];
                        let lookups =
                            lookups.map(|(d_table, d_rows, of)| LookupGradient { d_table, d_rows, of });
                        embedding_backward(device, lookups, width)
                    }),
                    expected: near(0.0, move |host| {
                        let d_rows: [_; 2] = host.wide_stored();
                        let tables = d_rows.iter().zip(&types).zip(tables).map(|((d_rows, types), table)| {
                            let mut d_table = vec![f64::NAN; table * width];
                            reference::embedding_lookup_backward(d_rows, types, width, &mut d_table);
                            d_table
                        });
                        tables.collect()
                    }),
                }
            }),
        },
    ]
}
