//! edge_hidden: the parts of an edge's first product, by node, and by type as in layer 0.

use std::rc::Rc;

use super::batch_norm::{batch_statistics, decided_inputs, norm_backward};
use super::linear::{followed_by_statistics, statistics};
use super::{SEED, count, counted, indices, near, norm, roundings, stored_tolerance};
use crate::backend::cuda::launchers::batch_norm::NormBackward;
use crate::backend::cuda::launchers::edge_hidden::{
    Lengths, Terms, edge_hidden_lookup, edge_hidden_sum_ends, edge_hidden_sum_types,
};
use crate::backend::cuda::launchers::linear::{Format, Gradient, Matrix};
use crate::backend::cuda::launchers::lists::{Ends, Lists};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::batch::graph_batch::GraphBatch;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

pub(super) fn cases<T: StoredElement>(sizes: &Sizes) -> Vec<Case> {
    let (batch, hidden) = (&sizes.batch, sizes.config.hidden_width);
    vec![
        lookup::<T>(batch, hidden),
        sum_ends::<T>(batch, hidden),
        sum_ends_through_norm::<T>(batch, hidden),
        sum_types_through_norm::<T>(batch, hidden),
    ]
}

fn lookup<T: StoredElement>(batch: &Rc<GraphBatch>, hidden: usize) -> Case {
    let batch = batch.clone();
    let edges = batch.size().edges;
    let (objects, predicates) =
        (batch.object_occurrences.types.len(), batch.predicate_occurrences.types.len());
    Case {
        kernel: "edge_hidden_lookup",
        shape: format!("[{edges}, {hidden}], {objects} and {predicates} types"),
        // Reads each type's rows, the edges' types and the running statistics, writes z and four rows; two sums, and a
        // difference, a square and two sums for the statistics.
        cost: Cost::stored::<T>(
            2 * objects * hidden + predicates * hidden + edges * hidden,
            3 * edges + 6 * hidden,
            (2 + 4) * edges * hidden,
        ),
        format: Format::Fp32,
        // Two sums; of the statistics a lane's four rows and sixteen lanes, then in double precision difference, square,
        // root and quotient.
        prepare: Box::new(move |_| {
            let batch = batch.clone();
            let mut values = Values::new(SEED);
            let [subject_type, object_type] = end_types(&batch);
            Prepared {
                host: Host {
                    stored: vec![
                        values.matrix::<T>(predicates, hidden),
                        values.matrix::<T>(objects, 2 * hidden),
                    ],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(edges, hidden)],
                    indices: vec![
                        indices(&batch.predicate_occurrences.slot),
                        indices(&subject_type),
                        indices(&object_type),
                        count(edges),
                    ],
                    outputs: statistics(&mut values, hidden),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([edge_projected, projected], [mut z], parts) = arrays.stored_as::<T>().parts();
                    let ([], [edge_row, subject, object, count], to, others) = parts;
                    let ends = Ends { edges: counted(count, edges), subject, object };
                    let to = Some(batch_statistics(to, &mut others.sums));
                    let terms = Terms { edge_projected, projected, edge_row, ends };
                    edge_hidden_lookup(device, &mut z, terms, hidden, to)
                }),
                expected: near(stored_tolerance::<T>(roundings(2 + 4 + 16 + 6)), move |host| {
                    let [edge_projected, projected] = host.wide_stored();
                    let row = |&u: &u32| edge_projected[u as usize * hidden..][..hidden].iter().copied();
                    let mut z: Vec<f64> = batch.predicate_occurrences.slot.iter().flat_map(row).collect();
                    add_ends(&mut z, &projected, &subject_type, &object_type, hidden);
                    followed_by_statistics::<T>(host, z)
                }),
            }
        }),
    }
}

/// Each edge's ends, by their types' places among those that occur.
fn end_types(batch: &GraphBatch) -> [Vec<u32>; 2] {
    [&batch.edge_subject, &batch.edge_object]
        .map(|ends| ends.iter().map(|&node| batch.object_occurrences.slot[node as usize]).collect())
}

/// Offsets and entries (2 edge + role) of the edges by their ends' types.
fn lists_of_ends([subject, object]: &[Vec<u32>; 2], types: usize) -> [Vec<u32>; 2] {
    let mut rows = vec![Vec::new(); types];
    for (edge, (&subject, &object)) in (0..).zip(subject.iter().zip(object)) {
        rows[subject as usize].push(2 * edge);
        rows[object as usize].push(2 * edge + 1);
    }
    let mut offsets = vec![0];
    for row in &rows {
        offsets.push(offsets[offsets.len() - 1] + row.len() as u32);
    }
    [offsets, rows.concat()]
}

/// `z[e] += projected[subject(e), ..H] + projected[object(e), H..]`.
fn add_ends(z: &mut [f64], projected: &[f64], subject: &[u32], object: &[u32], hidden: usize) {
    for (edge, row) in z.chunks_exact_mut(hidden).enumerate() {
        let from_subject = &projected[subject[edge] as usize * 2 * hidden..][..hidden];
        let from_object = &projected[object[edge] as usize * 2 * hidden + hidden..][..hidden];
        for ((z, s), o) in row.iter_mut().zip(from_subject).zip(from_object) {
            *z += s + o;
        }
    }
}

fn sum_ends<T: StoredElement>(batch: &Rc<GraphBatch>, hidden: usize) -> Case {
    let batch = batch.clone();
    let (nodes, edges) = (batch.size().nodes, batch.size().edges);
    let degree = (0..nodes).map(|node| batch.incidence.degree(node)).max().unwrap_or(0);
    Case {
        kernel: "edge_hidden_sum_ends",
        shape: format!("[{edges}, {hidden}] -> [{nodes}, {}] over lengths", 2 * hidden),
        // Reads d_z once for both ends, P, the lengths and the lists, writes the sums and what is along; a sum for each end, a
        // quotient and a product with P.
        cost: Cost::stored::<T>(
            edges * hidden + 4 * nodes * hidden,
            2 * nodes + (nodes + 1) + 2 * edges,
            2 * edges * hidden + 3 * 2 * nodes * hidden,
        ),
        format: Format::Fp32,
        // Eight columns to a thread, and their sum over a block.
        prepare: Box::new(move |_| {
            let batch = batch.clone();
            let mut values = Values::new(SEED);
            Prepared {
                host: Host {
                    stored: vec![values.matrix::<T>(edges, hidden), values.matrix::<T>(nodes, 2 * hidden)],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(nodes, 2 * hidden)],
                    inputs: vec![values.positive(nodes)],
                    indices: vec![
                        indices(&batch.incidence.offsets),
                        indices(&batch.incidence.entries),
                        count(nodes),
                    ],
                    outputs: vec![unwritten(nodes)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([d_z, projected], [mut sums], parts) = arrays.stored_as::<T>().parts();
                    let ([lengths], [offsets, entries, count], [along], _) = parts;
                    let by_row = Lists { rows: counted(count, nodes), offsets, entries };
                    let d_z = Gradient::Values(Matrix::new(d_z, edges, hidden));
                    let of = Some(Lengths { lengths, projected, along });
                    edge_hidden_sum_ends(device, &mut sums, of, &d_z, by_row, hidden)
                }),
                expected: near(stored_tolerance::<T>(roundings(degree + 2 + 8 + 12)), move |host| {
                    let ([d_z, projected], [lengths]) = (host.wide_stored(), host.wide_inputs());
                    let mut sums =
                        expected_sum_ends(&d_z, &batch.edge_subject, &batch.edge_object, nodes, hidden);
                    let mut along = Vec::new();
                    let rows = sums.chunks_exact_mut(2 * hidden).zip(projected.chunks_exact(2 * hidden));
                    for ((sums, projected), length) in rows.zip(lengths) {
                        sums.iter_mut().for_each(|sum| *sum /= length);
                        let product = |(&s, p): (&f64, &f64)| f64::from(T::narrow(s as f32).widen()) * p;
                        along.push(sums.iter().zip(projected).map(product).sum::<f64>() / length);
                    }
                    vec![sums, along]
                }),
            }
        }),
    }
}

/// Of d_z by subject, and by object: of nodes, or of their types.
fn expected_sum_ends(d_z: &[f64], subject: &[u32], object: &[u32], rows: usize, hidden: usize) -> Vec<f64> {
    let mut sums = vec![0.0; 2 * rows * hidden];
    for ((d, &subject), &object) in d_z.chunks_exact(hidden).zip(subject).zip(object) {
        add_row(&mut sums, 2 * subject as usize, d);
        add_row(&mut sums, 2 * object as usize + 1, d);
    }
    sums
}

fn sum_ends_through_norm<T: StoredElement>(batch: &Rc<GraphBatch>, hidden: usize) -> Case {
    let batch = batch.clone();
    let (nodes, edges) = (batch.size().nodes, batch.size().edges);
    let degree = (0..nodes).map(|node| batch.incidence.degree(node)).max().unwrap_or(0);
    Case {
        kernel: "edge_hidden_sum_ends",
        shape: format!("[{edges}, {hidden}] -> [{nodes}, {}] through norm", 2 * hidden),
        // Reads d and z once for both ends, the norm, two rows more and the lists, writes the sums; 8 and a sum for each end.
        cost: Cost::stored::<T>(
            2 * edges * hidden + 2 * nodes * hidden,
            6 * hidden + (nodes + 1) + 2 * edges,
            (8 + 2) * edges * hidden,
        ),
        format: Format::Fp32,
        // d_z is rounded as if it were stored, and some times before.
        prepare: Box::new(move |_| {
            let batch = batch.clone();
            let mut values = Values::new(SEED);
            let (z, of_z) = decided_inputs::<T>(&mut values, edges, hidden);
            let terms = values.signed(2 * hidden);
            Prepared {
                host: Host {
                    stored: vec![z],
                    stored_outputs: vec![
                        values.matrix::<T>(edges, hidden),
                        HostMatrix::unwritten::<T>(nodes, 2 * hidden),
                    ],
                    inputs: of_z.into_iter().chain([terms]).collect(),
                    indices: vec![
                        indices(&batch.incidence.offsets),
                        indices(&batch.incidence.entries),
                        count(nodes),
                    ],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z], [d, mut sums], parts) = arrays.stored_as::<T>().parts();
                    let ([mean, rstd, scale, bias, terms], [offsets, entries, count], [], _) = parts;
                    let by_row = Lists { rows: counted(count, nodes), offsets, entries };
                    let of = NormBackward { d, z, norm: norm([mean, rstd, scale, bias]), terms };
                    let d_z = Gradient::ThroughNorm(of);
                    edge_hidden_sum_ends(device, &mut sums, None, &d_z, by_row, hidden)
                }),
                expected: near(stored_tolerance::<T>(roundings(6 + degree)) + T::ROUNDING, move |host| {
                    let ([z], [d, _]) = (host.wide_stored(), host.wide_stored_outputs());
                    let [mean, rstd, scale, bias, terms] = host.wide_inputs();
                    let d_z = norm_backward(&z, &[mean, rstd, scale, bias], &terms, &d);
                    let ends = [&batch.edge_subject, &batch.edge_object];
                    vec![d, expected_sum_ends(&d_z, ends[0], ends[1], nodes, hidden)]
                }),
            }
        }),
    }
}

fn sum_types_through_norm<T: StoredElement>(batch: &Rc<GraphBatch>, hidden: usize) -> Case {
    let batch = batch.clone();
    let edges = batch.size().edges;
    let [objects, predicates] =
        [&batch.object_occurrences, &batch.predicate_occurrences].map(|of| of.types.len());
    let most_of_predicate = (0..predicates).map(|slot| batch.predicate_occurrences.rows(slot).len()).max();
    let ends = end_types(&batch);
    let [offsets, entries] = lists_of_ends(&ends, objects);
    let most_of_object = offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max();
    let most = most_of_predicate.max(most_of_object).unwrap_or(0);
    Case {
        kernel: "edge_hidden_sum_types",
        shape: format!("[{edges}, {hidden}] -> {predicates} and {objects} types through norm"),
        // Reads d and z once for all sums, the norm, two rows more and the lists, writes the sums; 8 and three sums.
        cost: Cost::stored::<T>(
            2 * edges * hidden + predicates * hidden + 2 * objects * hidden,
            6 * hidden + (predicates + 1) + edges + (objects + 1) + 2 * edges,
            (8 + 3) * edges * hidden,
        ),
        format: Format::Fp32,
        // d_z is rounded as if it were stored, and some times before.
        prepare: Box::new(move |_| {
            let (batch, ends) = (batch.clone(), ends.clone());
            let by_predicate = &batch.predicate_occurrences;
            let mut values = Values::new(SEED);
            let (z, of_z) = decided_inputs::<T>(&mut values, edges, hidden);
            let terms = values.signed(2 * hidden);
            Prepared {
                host: Host {
                    stored: vec![z],
                    stored_outputs: vec![
                        values.matrix::<T>(edges, hidden),
                        HostMatrix::unwritten::<T>(predicates, hidden),
                        HostMatrix::unwritten::<T>(objects, 2 * hidden),
                    ],
                    inputs: of_z.into_iter().chain([terms]).collect(),
                    indices: vec![
                        indices(&by_predicate.offsets),
                        indices(&by_predicate.entries),
                        count(predicates),
                        indices(&offsets),
                        indices(&entries),
                        count(objects),
                    ],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z], [d, mut edge_sums, mut end_sums], parts) = arrays.stored_as::<T>().parts();
                    let ([mean, rstd, scale, bias, terms], lists, [], _) = parts;
                    let [offsets, entries, count, end_offsets, end_entries, end_count] = lists;
                    let by_predicate = Lists { rows: counted(count, predicates), offsets, entries };
                    let by_object = Lists {
                        rows: counted(end_count, objects),
                        offsets: end_offsets,
                        entries: end_entries,
                    };
                    let of = NormBackward { d, z, norm: norm([mean, rstd, scale, bias]), terms };
                    let (edge_sums, end_sums) = (&mut edge_sums, &mut end_sums);
                    edge_hidden_sum_types(device, edge_sums, end_sums, &of, by_predicate, by_object)
                }),
                expected: near(stored_tolerance::<T>(roundings(6 + most)) + T::ROUNDING, move |host| {
                    let ([z], [d, _, _]) = (host.wide_stored(), host.wide_stored_outputs());
                    let [mean, rstd, scale, bias, terms] = host.wide_inputs();
                    let d_z = norm_backward(&z, &[mean, rstd, scale, bias], &terms, &d);
                    let mut edge_sums = vec![0.0; predicates * hidden];
                    for (d, &slot) in d_z.chunks_exact(hidden).zip(&batch.predicate_occurrences.slot) {
                        add_row(&mut edge_sums, slot as usize, d);
                    }
                    let [subject, object] = &ends;
                    vec![d, edge_sums, expected_sum_ends(&d_z, subject, object, objects, hidden)]
                }),
            }
        }),
    }
}

fn add_row(matrix: &mut [f64], row: usize, values: &[f64]) {
    for (to, value) in matrix[row * values.len()..].iter_mut().zip(values) {
        *to += value;
    }
}
