//! embedding: the rows of both tables that occur in the batch.

use super::{count, counted, indices, with_spare};
use crate::backend::cuda::launchers::embedding::{
    Lookup, LookupGradient, Occurring, embedding_backward, embedding_forward,
};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::reference::edge_gather as reference;
use crate::bench::case::{Case, Cost, Grows, Host, Prepared, unwritten};
use crate::bench::chain::Chain;
use crate::bench::check::Output;
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

/// Tables of object and predicate vectors.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Number of rows of each table.
    pub rows: [usize; 2],
    /// Types that occur, ascending; they are rows of each table.
    pub types: [Vec<u32>; 2],
    /// Number of columns of both tables.
    pub width: usize,
    /// Seed of the values.
    pub seed: u64,
}

/// Names of the outputs for object types and for predicate types.
const OUTPUTS: [&str; 2] = ["objects", "predicates"];

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let (config, batch) = (sizes.config, &sizes.batch);
    let tables = Tables {
        rows: [config.object_types, config.predicate_types],
        types: [&batch.object_occurrences, &batch.predicate_occurrences].map(|of| of.types.clone()),
        width: config.state_width,
        seed: sizes.seed,
    };
    let cases = [forward::<T>(tables.clone()), backward::<T>(tables)];
    cases.map(|case| case.growing_with(Grows::ObjectTypes)).into()
}

impl Tables {
    /// Number of types that occur.
    fn counts(&self) -> [usize; 2] {
        self.types.each_ref().map(Vec::len)
    }

    fn shape(&self) -> String {
        let (rows, [objects, predicates], width) = (self.rows, self.counts(), self.width);
        format!("[{objects} of {}, {width}], [{predicates} of {}, {width}]", rows[0], rows[1])
    }

    /// Types that occur and their number, for objects and for predicates.
    fn lists(&self, spare: usize) -> Vec<Vec<i32>> {
        let list = |types: &Vec<u32>| [with_spare(indices(types), spare), count(types.len())];
        self.types.iter().flat_map(list).collect()
    }
}

/// Forward: the rows of the types that occur.
pub fn forward<T: StoredElement>(tables: Tables) -> Case {
    let (counts, width) = (tables.counts(), tables.width);
    let rows = counts[0] + counts[1];
    Case {
        kernel: "embedding_forward",
        shape: tables.shape(),
        // Reads the types and their rows in single precision; writes the rows.
        cost: Cost::stored::<T>(rows * width, rows + rows * width, 0),
        chain: Chain::loads(3),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let (mut values, types) = (Values::new(tables.seed), tables.types.clone());
            let unwritten = |count| HostMatrix::unwritten::<T>(count + spare, width);
            Prepared {
                host: Host {
                    inputs: tables.rows.map(|rows| values.signed(rows * width)).to_vec(),
                    stored_outputs: counts.map(unwritten).to_vec(),
                    indices: tables.lists(spare),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([], to, parts) = arrays.stored_as::<T>().parts();
                    let ([object_table, predicate_table], lists, [], _) = parts;
                    let [objects, object_count, predicates, predicate_count] = lists;
                    let [object_rows, predicate_rows] = to;
                    let of = |types, count, rows| Occurring { types, rows: counted(count, rows + spare) };
                    let lookups = [
                        (object_rows, object_table, of(objects, object_count, counts[0])),
                        (predicate_rows, predicate_table, of(predicates, predicate_count, counts[1])),
                    ];
                    let lookups = lookups.map(|(rows, table, of)| Lookup { rows, table, of });
                    embedding_forward(device, lookups, width)
                }),
                expected: Box::new(move |host, _| {
                    let looked_up = host.inputs.iter().zip(&types).zip(OUTPUTS);
                    let looked_up = looked_up.map(|((table, types), name)| {
                        // The kernel copies: each value is rounded once, to the element type of the rows.
                        let table = HostMatrix::new::<T>(table.clone(), width);
                        Output::exact(name, reference::embedding_lookup(&table.wide(), types, width))
                    });
                    looked_up.collect()
                }),
            }
        }),
    }
}

/// Gradients with respect to the tables.
pub fn backward<T: StoredElement>(tables: Tables) -> Case {
    let (counts, width) = (tables.counts(), tables.width);
    let (rows, all_types) = (counts[0] + counts[1], tables.rows[0] + tables.rows[1]);
    Case {
        kernel: "embedding_backward",
        shape: tables.shape(),
        // Reads the types and their rows; writes the whole tables.
        cost: Cost::stored::<T>(rows * width, rows + all_types * width, 0),
        chain: Chain::loads(3),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let (mut values, tables) = (Values::new(tables.seed), tables.clone());
            Prepared {
                host: Host {
                    stored: counts.map(|rows| values.matrix::<T>(rows, width).with_room(spare)).to_vec(),
                    indices: tables.lists(spare),
                    outputs: tables.rows.map(|rows| unwritten(rows * width)).to_vec(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([d_objects, d_predicates], [], parts) = arrays.stored_as::<T>().parts();
                    let ([], [objects, object_count, predicates, predicate_count], to, _) = parts;
                    let [d_object_table, d_predicate_table] = to;
                    let of = |types, count, rows| Occurring { types, rows: counted(count, rows + spare) };
                    let lookups = [
                        (d_object_table, d_objects, of(objects, object_count, counts[0])),
                        (d_predicate_table, d_predicates, of(predicates, predicate_count, counts[1])),
                    ];
                    let lookups = lookups.map(|(d_table, d_rows, of)| LookupGradient { d_table, d_rows, of });
                    embedding_backward(device, lookups, width)
                }),
                expected: Box::new(move |host, _| {
                    let d_rows: [_; 2] = host.wide_stored();
                    let outputs = d_rows.iter().zip(&tables.types).zip(tables.rows).zip(OUTPUTS);
                    let outputs = outputs.map(|(((d_rows, types), rows), name)| {
                        let mut d_table = vec![f64::NAN; rows * width];
                        reference::embedding_lookup_backward(d_rows, types, width, &mut d_table);
                        // The kernel only copies and writes zeros.
                        Output::exact(name, d_table)
                    });
                    outputs.collect()
                }),
            }
        }),
    }
}
