//! edge_hidden: the parts of an edge's first product, per node, or per type as in layer 0.

use super::batch_norm::{batch_statistics, parameters, statistics, statistics_outputs, unchanged_statistics};
use super::{count, counted, indices, roundings, with_room, with_spare};
use crate::backend::L2_EPSILON;
use crate::backend::cuda::launchers::edge_hidden::{
    CHUNK_ENTRIES, Lengths, Terms, TypeSums, edge_hidden_lookup, edge_hidden_sum_ends, edge_hidden_sum_types,
};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::cuda::launchers::lists::{Ends, Lists};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::batch::graph_batch::GraphBatch;
use crate::bench::case::{Case, Cost, Grows, Host, Prepared, unwritten};
use crate::bench::chain::Chain;
use crate::bench::check::{Output, Tolerance, largest};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

/// Edges, and the rows that they read or add to.
#[derive(Clone, Debug)]
pub struct Edges {
    /// `[E] -> row` of the predicates.
    pub predicate: Vec<u32>,
    /// Number of predicate rows.
    pub predicates: usize,
    /// `[E] -> row` of the subjects, and of the objects.
    pub ends: [Vec<u32>; 2],
    /// Number of rows for subjects and objects.
    pub rows: usize,
    /// H: number of columns of a predicate row, and half of that of a row for subjects and objects.
    pub hidden: usize,
    /// Seed of the values.
    pub seed: u64,
}

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let (batch, hidden, seed) = (&sizes.batch, sizes.config.hidden_width, sizes.seed);
    let by_node = Edges::by_node(batch, sizes.config.predicate_types, hidden, seed);
    let by_type = Edges::by_type(batch, hidden, seed);
    vec![
        lookup::<T>(by_type.clone(), true).growing_with(Grows::Edges),
        sum_ends::<T>(by_node.clone(), true).growing_with(Grows::Nodes),
        sum_ends::<T>(by_node, false).growing_with(Grows::Nodes),
        sum_types::<T>(by_type).growing_with(Grows::ObjectTypes),
    ]
}

impl Edges {
    /// Edges with a row per node and per predicate type, even if the type does not occur.
    pub fn by_node(batch: &GraphBatch, predicates: usize, hidden: usize, seed: u64) -> Self {
        let (predicate, rows) = (batch.edge_predicate.clone(), batch.size().nodes);
        let ends = [&batch.edge_subject, &batch.edge_object].map(Vec::clone);
        Edges { predicate, predicates, ends, rows, hidden, seed }
    }

    /// Edges with a row per object type and predicate type that occurs.
    pub fn by_type(batch: &GraphBatch, hidden: usize, seed: u64) -> Self {
        let slot = |&node: &u32| batch.object_occurrences.slot[node as usize];
        Edges {
            predicate: batch.predicate_occurrences.slot.clone(),
            predicates: batch.predicate_occurrences.types.len(),
            ends: [&batch.edge_subject, &batch.edge_object].map(|ends| ends.iter().map(slot).collect()),
            rows: batch.object_occurrences.types.len(),
            hidden,
            seed,
        }
    }

    fn count(&self) -> usize {
        self.predicate.len()
    }

    /// Offsets and entries of the edges per predicate; an entry is an edge.
    fn lists_of_predicates(&self) -> [Vec<u32>; 2] {
        lists(self.predicates, (0..).zip(self.predicate.iter().copied()))
    }

    /// Length of the longest list of ends.
    pub fn most_ends_of_a_row(&self) -> usize {
        longest(&self.lists_of_ends()[0])
    }

    /// Chain of the sums by type: a chunk of the longest list, and the merge of that list's chunks.
    fn chain_of_types(&self) -> Chain {
        let most = longest(&self.lists_of_predicates()[0]).max(longest(&self.lists_of_ends()[0]));
        Chain::list(most.min(CHUNK_ENTRIES)).with_tail_if(most > CHUNK_ENTRIES)
    }

    /// Offsets and entries of the edges per subject and object; an entry is 2 edge + role.
    fn lists_of_ends(&self) -> [Vec<u32>; 2] {
        let ends = (0..).zip(self.ends[0].iter().zip(&self.ends[1]));
        lists(self.rows, ends.flat_map(|(edge, (&s, &o))| [(2 * edge, s), (2 * edge + 1, o)]))
    }

    /// `z[e] += projected[subject(e), ..H] + projected[object(e), H..]`.
    fn add_ends(&self, z: &mut [f64], projected: &[f64]) {
        let hidden = self.hidden;
        for (edge, row) in z.chunks_exact_mut(hidden).enumerate() {
            let from_subject = &projected[self.ends[0][edge] as usize * 2 * hidden..][..hidden];
            let from_object = &projected[self.ends[1][edge] as usize * 2 * hidden + hidden..][..hidden];
            for ((z, s), o) in row.iter_mut().zip(from_subject).zip(from_object) {
                *z += s + o;
            }
        }
    }

    /// `[rows, 2 H]` sums of d_z per subject, and per object.
    fn sums_by_end(&self, d_z: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; 2 * self.rows * self.hidden];
        for ((d, &subject), &object) in d_z.chunks_exact(self.hidden).zip(&self.ends[0]).zip(&self.ends[1]) {
            add_row(&mut sums, 2 * subject as usize, d);
            add_row(&mut sums, 2 * object as usize + 1, d);
        }
        sums
    }

    /// `[predicates, H]` sums of d_z per predicate.
    fn sums_by_predicate(&self, d_z: &[f64]) -> Vec<f64> {
        let mut sums = vec![0.0; self.predicates * self.hidden];
        for (d, &row) in d_z.chunks_exact(self.hidden).zip(&self.predicate) {
            add_row(&mut sums, row as usize, d);
        }
        sums
    }

    /// Tolerance of sums of up to `degree` rows, each of which adds one rounding.
    fn sums_tolerance(&self, degree: usize) -> Tolerance {
        // Terms are below 2. A sum that cancels has the error of one that grows with the root of their number.
        let least = 3.0 * (degree as f64).sqrt();
        Tolerance { relative: roundings(6 + degree), least, most: sum_limit(self.count()) }
    }
}

/// Largest error of sums of up to `edges` numbers below 2, from each of which a term is subtracted.
fn sum_limit(edges: usize) -> f64 {
    2.1 * (5e-7 + 1e-7 * edges as f64)
}

/// Offsets and entries of lists for this number of rows.
fn lists(rows: usize, entries: impl Iterator<Item = (u32, u32)>) -> [Vec<u32>; 2] {
    let mut lists = vec![Vec::new(); rows];
    entries.for_each(|(entry, row)| lists[row as usize].push(entry));
    let mut offsets = vec![0];
    for list in &lists {
        offsets.push(offsets[offsets.len() - 1] + list.len() as u32);
    }
    [offsets, lists.concat()]
}

/// Length of the longest list.
fn longest(offsets: &[u32]) -> usize {
    offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0)
}

fn add_row(matrix: &mut [f64], row: usize, values: &[f64]) {
    for (to, value) in matrix[row * values.len()..].iter_mut().zip(values) {
        *to += value;
    }
}

/// z, the sum of an edge's three rows, and, if requested, the statistics of z.
pub fn lookup<T: StoredElement>(of: Edges, with_statistics: bool) -> Case {
    let (edges, hidden, rows, predicates) = (of.count(), of.hidden, of.rows, of.predicates);
    Case {
        kernel: "edge_hidden_lookup",
        shape: format!("[{edges}, {hidden}], {rows} and {predicates} types"),
        // Reads the rows of each type, the types of the edges and the running statistics; writes z and four rows. Each
        // value takes two sums, and a difference, a square and two sums for the statistics.
        cost: Cost::stored::<T>(
            2 * rows * hidden + predicates * hidden + edges * hidden,
            3 * edges + 6 * hidden,
            (2 + 4) * edges * hidden,
        ),
        chain: Chain::loads(1) + Chain::column_sums(edges),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let of = of.clone();
            let mut values = Values::new(of.seed);
            let stored = [values.matrix::<T>(predicates, hidden), values.matrix::<T>(rows, 2 * hidden)];
            Prepared {
                host: Host {
                    stored: stored.map(|matrix| matrix.with_room(spare)).to_vec(),
                    stored_outputs: vec![HostMatrix::unwritten::<T>(edges + spare, hidden)],
                    indices: [&of.predicate, &of.ends[0], &of.ends[1]]
                        .map(|list| with_spare(indices(list), spare))
                        .into_iter()
                        .chain([count(edges)])
                        .collect(),
                    inputs: parameters(&mut values, hidden).to_vec(),
                    outputs: statistics(&mut values, hidden),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([edge_projected, projected], [mut z], parts) = arrays.stored_as::<T>().parts();
                    let (of_norm, [edge_row, subject, object, count], to, others) = parts;
                    let ends = Ends { edges: counted(count, edges + spare), subject, object };
                    let to = with_statistics.then(|| batch_statistics(of_norm, to, &mut others.sums));
                    let terms = Terms { edge_projected, projected, edge_row, ends };
                    edge_hidden_lookup(device, &mut z, terms, hidden, to)
                }),
                expected: Box::new(move |host, written| {
                    let [edge_projected, projected] = host.wide_stored();
                    let row = |&u: &u32| edge_projected[u as usize * hidden..][..hidden].iter().copied();
                    let mut z: Vec<f64> = of.predicate.iter().flat_map(row).collect();
                    of.add_ends(&mut z, &projected);
                    // Two sums of numbers below 1, or of larger numbers.
                    let limits = z.iter().map(|z| 5e-7 * (z.abs() / 3.0).max(1.0)).collect();
                    let z = Output { limits, ..Output::exact("z", z) }.stored::<T>();
                    let [_, _, _, _, running_mean, running_var] = host.wide_outputs();
                    let [weight, bias] = host.wide_inputs();
                    let mut outputs = if with_statistics {
                        // A lane sums four rows, and sixteen lanes are summed; difference, square, root and quotient
                        // follow in double precision.
                        let relative = roundings(2 + 4 + 16 + 6);
                        let z = &written[0].values[..edges * hidden];
                        // Results are about 1, after about ten roundings and a sum with chunks of 64 rows.
                        let before = [&running_mean[..], &running_var[..]];
                        statistics_outputs(z, before, [&weight, &bias], relative, 4e-6)
                    } else {
                        unchanged_statistics([running_mean, running_var])
                    };
                    outputs.insert(0, z);
                    outputs
                }),
            }
        }),
    }
}

/// Sums of d_z per subject and object. `over_lengths`: the sums are divided by the lengths, and multiplied with the projected
/// states; otherwise the arrays for that are empty.
pub fn sum_ends<T: StoredElement>(of: Edges, over_lengths: bool) -> Case {
    let (edges, hidden, rows) = (of.count(), of.hidden, of.rows);
    let lengths = usize::from(over_lengths);
    let what = if over_lengths { " over lengths" } else { "" };
    Case {
        kernel: "edge_hidden_sum_ends",
        shape: format!("[{edges}, {hidden}] -> [{rows}, {}]{what}", 2 * hidden),
        // Reads d_z once for both ends, and the lists; writes the sums, one per end. Over lengths it reads P and the
        // lengths, writes the components along u, and takes a quotient and a product with P.
        cost: Cost::stored::<T>(
            edges * hidden + (1 + lengths) * 2 * rows * hidden,
            (rows + 1) + 2 * edges + lengths * 2 * rows,
            2 * edges * hidden + lengths * 3 * 2 * rows * hidden,
        ),
        chain: Chain::longest_list(&of.lists_of_ends()[0], usize::MAX),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let of = of.clone();
            let mut values = Values::new(of.seed);
            let d_z = values.matrix::<T>(edges, hidden);
            // As many rows as there are lengths, or none.
            let projected = values.matrix::<T>(lengths * rows, 2 * hidden).with_room(lengths * spare);
            let of_lengths = with_room(values.positive(lengths * rows), lengths * spare);
            let [offsets, entries] = of.lists_of_ends();
            let degree = longest(&offsets);
            Prepared {
                host: Host {
                    stored: vec![d_z.with_room(spare), projected],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows + spare, 2 * hidden)],
                    inputs: vec![of_lengths],
                    indices: vec![
                        with_spare(indices(&offsets), spare),
                        with_spare(indices(&entries), spare),
                        count(rows),
                    ],
                    outputs: vec![unwritten(lengths * (rows + spare))],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([d_z, projected], [mut sums], parts) = arrays.stored_as::<T>().parts();
                    let ([lengths], [offsets, entries, count], [along], _) = parts;
                    let by_row = Lists { rows: counted(count, rows + spare), offsets, entries };
                    let of = over_lengths.then_some(Lengths { lengths, projected, along });
                    edge_hidden_sum_ends(device, &mut sums, of, d_z, by_row, hidden)
                }),
                expected: Box::new(move |host, written| {
                    let sums = of.sums_by_end(&host.stored[0].wide());
                    let tolerance = of.sums_tolerance(degree);
                    if over_lengths {
                        let stored = &written[0].values[..sums.len()];
                        let [sums, along] =
                            of_lengths_outputs(host, 2 * hidden, (&sums, tolerance), stored, degree);
                        return vec![sums.stored::<T>(), along];
                    }
                    let sums = Output::scaled("sums by end", sums, tolerance).stored::<T>();
                    vec![sums, Output::exact("along", Vec::new())]
                }),
            }
        }),
    }
}

/// Sums of `columns` columns divided by the lengths, and the products of the `stored` sums with P, divided by the lengths again. The latter
/// are 0 where the length is the smallest divisor.
fn of_lengths_outputs(
    host: &Host,
    columns: usize,
    (sums, tolerance): (&[f64], Tolerance),
    stored: &[f64],
    degree: usize,
) -> [Output; 2] {
    let (projected, lengths) = (host.stored[1].wide(), &host.inputs[0]);
    let divisor = |at: usize| f64::from(lengths[at / columns]);
    let is_least = |row: usize| lengths[row] == L2_EPSILON as f32;
    let quotients: Vec<f64> = sums.iter().enumerate().map(|(at, sum)| sum / divisor(at)).collect();
    // The error is relative to values that are not divided by the smallest divisor.
    let others = quotients.iter().enumerate().filter(|(at, _)| !is_least(at / columns));
    let most = others.fold(0.0, |most: f64, (_, value)| most.max(value.abs()));
    // Roundings of the sums and a quotient, and those of the products: eight columns per thread, and their sum over a
    // block.
    let relative = roundings(degree + 2 + 8 + 12);
    let limit = |at: usize| {
        let row = at / columns;
        let of_row = largest(&quotients[row * columns..][..columns]);
        let limit = tolerance.most / divisor(at) + 2e-7 * of_row;
        if is_least(row) { limit } else { limit.min(relative * most.max(tolerance.least)) }
    };
    let limits = (0..quotients.len()).map(limit).collect();
    let (mut along, mut along_limits) = (Vec::new(), Vec::new());
    let rows = stored.chunks_exact(columns).zip(projected.chunks_exact(columns));
    for (row, (stored, projected)) in rows.enumerate() {
        let terms = || stored.iter().zip(projected).map(|(s, p)| s * p / f64::from(lengths[row]));
        along.push(if is_least(row) { 0.0 } else { terms().sum() });
        let rounding = super::ROUNDING * (10.0 + columns as f64 / 64.0 + 12.0);
        let size = terms().map(|term| term * term).sum::<f64>().sqrt();
        along_limits.push((terms().map(f64::abs).sum::<f64>() * rounding, 2.0 * size));
    }
    let others = along.iter().enumerate().filter(|&(row, _)| !is_least(row));
    let most = others.fold(0.0, |most: f64, (_, value)| most.max(value.abs()));
    let limit = |(row, &(limit, size)): (usize, &(f64, f64))| {
        if is_least(row) { limit } else { limit.min(relative * most.max(size)) }
    };
    let along_limits = along_limits.iter().enumerate().map(limit).collect();
    [
        Output { limits, ..Output::exact("sums over lengths", quotients) },
        Output { limits: along_limits, ..Output::exact("along", along) },
    ]
}

/// Sums of d_z per predicate, and per subject and object, in one launch.
pub fn sum_types<T: StoredElement>(of: Edges) -> Case {
    let (edges, hidden, rows, predicates) = (of.count(), of.hidden, of.rows, of.predicates);
    Case {
        kernel: "edge_hidden_sum_types",
        shape: format!("[{edges}, {hidden}] -> {predicates} and {rows} types"),
        // Reads d_z once for all three sums, and the lists; writes the sums.
        cost: Cost::stored::<T>(
            edges * hidden + predicates * hidden + 2 * rows * hidden,
            (predicates + 1) + edges + (rows + 1) + 2 * edges,
            3 * edges * hidden,
        ),
        chain: of.chain_of_types(),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let of = of.clone();
            let d_z = Values::new(of.seed).matrix::<T>(edges, hidden);
            let [by_predicate, by_end] = [of.lists_of_predicates(), of.lists_of_ends()];
            let degree = longest(&by_predicate[0]).max(longest(&by_end[0]));
            let list = |list: &Vec<u32>| with_spare(indices(list), spare);
            Prepared {
                host: Host {
                    stored: vec![d_z.with_room(spare)],
                    stored_outputs: vec![
                        HostMatrix::unwritten::<T>(predicates + spare, hidden),
                        HostMatrix::unwritten::<T>(rows + spare, 2 * hidden),
                    ],
                    indices: [by_predicate.each_ref(), by_end.each_ref()]
                        .into_iter()
                        .zip([predicates, rows])
                        .flat_map(|([offsets, entries], rows)| [list(offsets), list(entries), count(rows)])
                        .collect(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([d_z], [mut edge_sums, mut end_sums], parts) = arrays.stored_as::<T>().parts();
                    let ([], lists, [], others) = parts;
                    let [offsets, entries, count, end_offsets, end_entries, end_count] = lists;
                    let of_rows = counted(count, predicates + spare);
                    let lists = Lists { rows: of_rows, offsets, entries };
                    let by_predicate = TypeSums { sums: &mut edge_sums, lists };
                    let of_rows = counted(end_count, rows + spare);
                    let lists = Lists { rows: of_rows, offsets: end_offsets, entries: end_entries };
                    let by_end = TypeSums { sums: &mut end_sums, lists };
                    edge_hidden_sum_types(device, by_predicate, by_end, (d_z, hidden), &mut others.chunk_sums)
                }),
                expected: Box::new(move |host, _| {
                    let tolerance = of.sums_tolerance(degree);
                    let d_z = host.stored[0].wide();
                    let sums = |name, sums| Output::scaled(name, sums, tolerance).stored::<T>();
                    vec![
                        sums("sums by predicate", of.sums_by_predicate(&d_z)),
                        sums("sums by end", of.sums_by_end(&d_z)),
                    ]
                }),
            }
        }),
    }
}
