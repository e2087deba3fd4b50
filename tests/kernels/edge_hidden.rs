//! edge_hidden: the kernels against plain loops in double precision, and their sums against finite differences.

use crate::support::calculus::{central_differences, weighted_sum};
use crate::support::cases::{
    Edge, Graphs, TYPES, check, columns, graphs, no_device, rows, seeds, small_graphs,
};
use crate::support::stored::{assert_stored_within, rounded, stored, stored_to_host, unwritten};
use crate::support::{
    Counted, Values, all, all_mut, assert_within, indices_with_room, poisoned, same_bits, scale, to_device,
    to_host, to_host_within, wide, with_room,
};
use half::bf16;
use scenerank::backend::cuda::launchers::batch_norm::{
    BatchStatistics, Norm, NormBackward, Statistics, Sums, batch_norm_backward,
};
use scenerank::backend::cuda::launchers::edge_hidden::{
    Lengths, Terms, edge_hidden_lookup, edge_hidden_sum_ends, edge_hidden_sum_types,
};
use scenerank::backend::cuda::launchers::linear::{Gradient, Matrix};
use scenerank::backend::cuda::launchers::lists::{Ends, Lists};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::batch_norm as reference;
use scenerank::batch::graph_batch::GraphBatch;

/// What the kernels read: predicates are all types, used or not.
struct Inputs {
    batch: GraphBatch,
    hidden: usize,
    /// `[N, 2 H]`.
    projected: Vec<f32>,
    /// `[TYPES, H]`.
    edge_projected: Vec<f32>,
    /// `[E, H]`: the gradient by relu(norm(z)), of which that by z is made and summed.
    d: Vec<f32>,
    /// `[E, H]`.
    z: Vec<f32>,
    /// Mean, rstd, weight and bias.
    norm: [Vec<f32>; 4],
    /// `[2, H]`: what is subtracted.
    terms: Vec<f32>,
    /// Running mean and variance.
    running: [Vec<f32>; 2],
    /// `[N]`: what x was divided by.
    lengths: Vec<f32>,
}

/// That of an l2 normalisation.
const LEAST_LENGTH: f32 = 1e-12;

/// What the sums write.
struct Outcome {
    /// What is summed.
    d_z: Vec<f32>,
    /// Sums by end.
    by_end: Vec<f32>,
    /// Sums by predicate.
    by_edge: Vec<f32>,
    /// Sums by end over lengths.
    over_length: Vec<f32>,
    /// And their products with `projected`, over these once more.
    along: Vec<f32>,
}

impl Inputs {
    fn new<T: StoredElement>(graphs: &Graphs, hidden: usize, seed: u64) -> Self {
        let (batch, mut values) = (graphs.batch(), Values::new(seed));
        let (nodes, edges) = (batch.node_object.len(), batch.edge_subject.len());
        let projected = rounded::<T>(values.signed(nodes * 2 * hidden));
        let edge_projected = rounded::<T>(values.signed(TYPES * hidden));
        let [d, z] = [0; 2].map(|_| rounded::<T>(values.signed(edges * hidden)));
        let norm =
            [values.signed(hidden), values.positive(hidden), values.signed(hidden), values.signed(hidden)];
        // Small, as the shares of sums over many rows are: else the sums drift, and round to more than those of either sign.
        let terms = values.signed(2 * hidden).iter().map(|term| term / 32.0).collect();
        let running = [values.signed(hidden), values.positive(hidden)];
        let mut lengths = values.positive(nodes);
        lengths.iter_mut().step_by(5).for_each(|length| *length = LEAST_LENGTH);
        Inputs { batch, hidden, projected, edge_projected, d, z, norm, terms, running, lengths }
    }

    /// `projected[subject, ..H] + projected[object, H..]`, `[E, H]`.
    fn of_ends(&self, projected: &[f64]) -> Vec<f64> {
        let (batch, hidden) = (&self.batch, self.hidden);
        let ends = batch.edge_subject.iter().zip(&batch.edge_object);
        ends.flat_map(|(&s, &o)| {
            (0..hidden).map(move |c| {
                projected[s as usize * 2 * hidden + c] + projected[o as usize * 2 * hidden + hidden + c]
            })
        })
        .collect()
    }

    /// `edge_projected[predicate]`, `[E, H]`.
    fn of_edges(&self, edge_projected: &[f64]) -> Vec<f64> {
        let row = |&p: &u32| &edge_projected[p as usize * self.hidden..][..self.hidden];
        self.batch.edge_predicate.iter().flat_map(row).copied().collect()
    }

    /// Edges by predicate, every type a row: offsets and entries.
    fn by_predicate(&self) -> [Vec<u32>; 2] {
        let (mut offsets, mut entries) = (vec![0], Vec::new());
        for row in 0..TYPES as u32 {
            let keys = (0u32..).zip(&self.batch.edge_predicate);
            entries.extend(keys.filter(|(_, key)| **key == row).map(|(edge, _)| edge));
            offsets.push(entries.len() as u32);
        }
        [offsets, entries]
    }

    /// The lookup, with its statistics and without, which changes no bit: z, mean, rstd and the running ones.
    fn look_up<T: StoredElement>(&self, order: u64) -> [Vec<f32>; 5] {
        let (batch, hidden) = (&self.batch, self.hidden);
        let edge_count = batch.edge_subject.len();
        let [z, alone, statistics @ ..] = same_bits::<6>(order, |device, spare| {
            let edges = Counted::new(device, edge_count, spare);
            let [subject, object, edge_row] =
                [&batch.edge_subject, &batch.edge_object, &batch.edge_predicate]
                    .map(|indices| indices_with_room(device, indices, spare));
            let ends = Ends { edges: edges.rows(), subject: all(&subject), object: all(&object) };
            let [projected, edge_projected] = [(&self.projected, 2 * hidden), (&self.edge_projected, hidden)]
                .map(|(values, columns)| stored::<T>(device, values, columns, spare));
            let look_up = |statistics: Option<BatchStatistics<'_>>| {
                let mut z = unwritten::<T>(device, edge_count + spare, hidden);
                let terms = Terms {
                    edge_projected: all(&edge_projected),
                    projected: all(&projected),
                    edge_row: all(&edge_row),
                    ends,
                };
                edge_hidden_lookup(device, &mut all_mut(&mut z), terms, hidden, statistics)
                    .expect("a launch");
                stored_to_host(device, &z, edge_count, hidden)
            };
            let [mut mean, mut rstd] = [(); 2].map(|()| poisoned(device, hidden));
            let [mut running_mean, mut running_var] =
                self.running.each_ref().map(|values| to_device(device, values));
            let mut sums = Sums::new(device).expect("memory");
            let z = look_up(Some(BatchStatistics {
                to: Statistics { mean: all_mut(&mut mean), rstd: all_mut(&mut rstd) },
                running_mean: all_mut(&mut running_mean),
                running_var: all_mut(&mut running_var),
                sums: &mut sums,
            }));
            let [mean, rstd, running_mean, running_var] =
                [mean, rstd, running_mean, running_var].map(|buffer| to_host(device, &buffer));
            [z, look_up(None), mean, rstd, running_mean, running_var]
        });
        assert_eq!(bits(&alone), bits(&z), "without statistics");
        let [mean, rstd, running_mean, running_var] = statistics;
        [z, mean, rstd, running_mean, running_var]
    }

    /// Sums by end have the same bits whether d_z is stored or made as it is read, in a launch with those by predicate or
    /// alone.
    fn kernels<T: StoredElement>(&self, order: u64) -> Outcome {
        let (batch, hidden) = (&self.batch, self.hidden);
        let [d_z, by_end, in_one_launch, by_edge, over_length, along] = same_bits(order, |device, spare| {
            let counts = [batch.node_object.len(), batch.edge_subject.len(), TYPES];
            let [nodes, edges, predicates] = counts.map(|rows| Counted::new(device, rows, spare));
            let [node_count, edge_count, predicate_count] = counts;
            let projected = stored::<T>(device, &self.projected, 2 * hidden, spare);
            let z = stored::<T>(device, &self.z, hidden, spare);
            let [mut d, mut d_z] = [0; 2].map(|_| stored::<T>(device, &self.d, hidden, spare));
            let (norm, terms) =
                (self.norm.each_ref().map(|of| to_device(device, of)), to_device(device, &self.terms));
            let [mean, rstd, weight, bias] = norm.each_ref().map(all);
            let norm = Norm { mean, rstd, weight, bias };
            let mut of = NormBackward { d: all_mut(&mut d_z), z: all(&z), norm, terms: all(&terms) };
            batch_norm_backward(device, &mut of, edges.rows()).expect("a launch");
            let of = NormBackward { d: all_mut(&mut d), z: all(&z), norm, terms: all(&terms) };

            let [offsets, entries] = [&batch.incidence.offsets, &batch.incidence.entries]
                .map(|indices| indices_with_room(device, indices, spare));
            let by_node = Lists { rows: nodes.rows(), offsets: all(&offsets), entries: all(&entries) };
            let [predicate_offsets, predicate_entries] =
                self.by_predicate().map(|indices| indices_with_room(device, &indices, spare));
            let (offsets, entries) = (all(&predicate_offsets), all(&predicate_entries));
            let by_predicate = Lists { rows: predicates.rows(), offsets, entries };
            let mut by_edge = unwritten::<T>(device, predicate_count + spare, hidden);
            let mut in_one_launch = unwritten::<T>(device, node_count + spare, 2 * hidden);
            let (edge_sums, end_sums) = (&mut all_mut(&mut by_edge), &mut all_mut(&mut in_one_launch));
            edge_hidden_sum_types(device, edge_sums, end_sums, &of, by_predicate, by_node).expect("a launch");

            let d_z_stored = Gradient::Values(Matrix::new(all(&d_z), edge_count + spare, hidden));
            let lengths = with_room(device, &self.lengths, spare);
            let by_ends = [d_z_stored, Gradient::ThroughNorm(of)].map(|d_z| {
                let [mut by_end, mut over_length] =
                    [0; 2].map(|_| unwritten::<T>(device, node_count + spare, 2 * hidden));
                let mut along = poisoned(device, node_count + spare);
                edge_hidden_sum_ends(device, &mut all_mut(&mut by_end), None, &d_z, by_node, hidden)
                    .expect("a launch");
                let of = Lengths {
                    lengths: all(&lengths),
                    projected: all(&projected),
                    along: all_mut(&mut along),
                };
                edge_hidden_sum_ends(device, &mut all_mut(&mut over_length), Some(of), &d_z, by_node, hidden)
                    .expect("a launch");
                [by_end, over_length]
                    .map(|buffer| stored_to_host(device, &buffer, node_count, 2 * hidden))
                    .into_iter()
                    .chain([to_host_within(device, &along, node_count)])
                    .collect::<Vec<_>>()
            });
            assert_eq!(stored_to_host(device, &d, edge_count, hidden), self.d, "only read");
            let [stored_d_z, through_norm] = by_ends;
            for (one, other) in stored_d_z.iter().zip(&through_norm) {
                assert_eq!(bits(one), bits(other), "sums through batch norm's backward");
            }
            let [by_end, over_length, along] = stored_d_z.try_into().expect("three");
            let [d_z, in_one_launch, by_edge] = [
                (d_z, edge_count, hidden),
                (in_one_launch, node_count, 2 * hidden),
                (by_edge, predicate_count, hidden),
            ]
            .map(|(buffer, rows, columns)| stored_to_host(device, &buffer, rows, columns));
            [d_z, by_end, in_one_launch, by_edge, over_length, along]
        });
        assert_eq!(bits(&in_one_launch), bits(&by_end), "sums in one launch with those by predicate");
        Outcome { d_z, by_end, by_edge, over_length, along }
    }

    /// Sums over lengths, given them as they are, up to `limit`; and of what was stored of them the products with P, over
    /// lengths.
    fn check_lengths<T: StoredElement>(&self, sums: &[f64], limit: f64, over_length: &[f32], along: &[f32]) {
        let (ends, projected) = (2 * self.hidden, wide(&self.projected));
        for (node, &length) in self.lengths.iter().enumerate() {
            let (row, divisor) = (node * ends..(node + 1) * ends, f64::from(length));
            let want: Vec<f64> = sums[row.clone()].iter().map(|sum| sum / divisor).collect();
            let stored = &over_length[row.clone()];
            let roundings = 2e-7 * want.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
            assert_stored_within::<T>("sums over lengths", stored, &want, limit / divisor + roundings);
            let terms = || stored.iter().zip(&projected[row.clone()]).map(|(&s, p)| f64::from(s) * p);
            let most = terms().map(f64::abs).sum::<f64>() / divisor;
            let want = if length == LEAST_LENGTH { 0.0 } else { terms().sum::<f64>() / divisor };
            // A thread adds up to eight columns of every 512, then 128 threads.
            let rounding = f64::from(f32::EPSILON) / 2.0 * (10.0 + ends as f64 / 64.0 + 12.0);
            assert_within("along", &along[node..=node], &[want], most * rounding);
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Sums of up to `edges` numbers below 2, and what is subtracted, one after another.
fn sum_limit(edges: usize) -> f64 {
    2.1 * (5e-7 + 1e-7 * edges as f64)
}

fn agrees_with_plain_loops((graphs, hidden, seed): (Graphs, usize, u64)) {
    agrees_in::<f32>(&graphs, hidden, seed);
    agrees_in::<bf16>(&graphs, hidden, seed);
}

fn agrees_in<T: StoredElement>(graphs: &Graphs, hidden: usize, seed: u64) {
    let inputs = Inputs::new::<T>(graphs, hidden, seed);
    let batch = &inputs.batch;
    let Outcome { d_z, by_end, by_edge, over_length, along } = inputs.kernels::<T>(seed);
    let [looked_up, ..] = inputs.look_up::<T>(seed);
    let of_ends = inputs.of_ends(&wide(&inputs.projected));
    let sum = |one: &[f64]| -> Vec<f64> { one.iter().zip(&of_ends).map(|(one, ends)| one + ends).collect() };
    // Three numbers below 1.
    let want = sum(&inputs.of_edges(&wide(&inputs.edge_projected)));
    assert_stored_within::<T>("looked up", &looked_up, &want, 5e-7);

    let mut want_ends = vec![0.0; by_end.len()];
    let mut want_edges = vec![0.0; by_edge.len()];
    for (edge, row) in wide(&d_z).chunks_exact(hidden).enumerate() {
        let (s, o, p) = (batch.edge_subject[edge], batch.edge_object[edge], batch.edge_predicate[edge]);
        for (c, value) in row.iter().enumerate() {
            want_ends[s as usize * 2 * hidden + c] += value;
            want_ends[o as usize * 2 * hidden + hidden + c] += value;
            want_edges[p as usize * hidden + c] += value;
        }
    }
    let limit = sum_limit(batch.edge_subject.len());
    assert_stored_within::<T>("sums by end", &by_end, &want_ends, limit);
    assert_stored_within::<T>("sums by predicate", &by_edge, &want_edges, limit);
    inputs.check_lengths::<T>(&want_ends, limit, &over_length, &along);
}

/// Results of about 1, through some ten roundings and a sum whose chunks have 64 rows.
const STATISTICS_LIMIT: f64 = 4e-6;

/// Of `rows` edges, of the values that are stored.
fn statistics_agree<T: StoredElement>(rows: usize, hidden: usize, seed: u64) {
    let nodes = 5u32;
    let edges = Values::new(seed).indices(rows, (nodes * nodes) as usize);
    let edge = |(at, pair): (usize, u32)| Edge {
        subject: pair % nodes,
        predicate: at as u32 % TYPES as u32,
        object: pair / nodes,
        copies: 1,
    };
    let edges = edges.into_iter().enumerate().map(edge).collect();
    let mut inputs = Inputs::new::<T>(&Graphs { sizes: vec![nodes as usize], edges }, hidden, seed);
    // Far from zero, where a plain sum of squares would cancel.
    inputs.edge_projected = rounded::<T>(inputs.edge_projected.iter().map(|value| 100.0 + value).collect());
    let [z, got @ ..] = inputs.look_up::<T>(seed);
    let [running_mean, running_var] = inputs.running.each_ref().map(|values| wide(values));
    let mut want = [vec![0.0; hidden], vec![0.0; hidden], running_mean, running_var];
    let [mean, rstd, running_mean, running_var] = &mut want;
    reference::train_statistics(&wide(&z), mean, rstd, running_mean, running_var);
    for ((name, got), want) in ["mean", "rstd", "running_mean", "running_var"].iter().zip(got).zip(&want) {
        assert_within(name, &got, want, STATISTICS_LIMIT * scale(want));
    }
}

#[test]
fn statistics_agree_with_the_reference() {
    check(200, (rows(), columns(), seeds()), |(rows, hidden, seed)| {
        statistics_agree::<f32>(rows, hidden, seed);
        statistics_agree::<bf16>(rows, hidden, seed);
    });
}

/// Groups of 32 chunks of 64 rows, and what is left of them.
#[test]
fn statistics_of_several_groups_agree_with_the_reference() {
    if no_device() {
        return;
    }
    for rows in [2047, 2048, 2049, 4096, 6500] {
        statistics_agree::<f32>(rows, 35, rows as u64);
        statistics_agree::<bf16>(rows, 35, rows as u64);
    }
}

#[test]
fn sums_and_their_backward_agree_with_plain_loops() {
    check(100, (graphs(), columns(), seeds()), agrees_with_plain_loops);
}

#[test]
fn one_node_takes_all_ends_of_600_edges() {
    if no_device() {
        return;
    }
    let edge = Edge { subject: 0, predicate: 2, object: 0, copies: 600 };
    agrees_with_plain_loops((Graphs { sizes: vec![1], edges: vec![edge] }, 130, 1));
}

#[test]
fn the_backward_agrees_with_finite_differences() {
    check(200, (small_graphs(), 1..=3usize, seeds()), |(graphs, hidden, seed)| {
        let inputs = Inputs::new::<f32>(&graphs, hidden, seed);
        let Outcome { d_z, by_end, by_edge, .. } = inputs.kernels::<f32>(seed);
        let (d_z, limit) = (wide(&d_z), sum_limit(inputs.batch.edge_subject.len()));
        let want = central_differences(&wide(&inputs.projected), |projected| {
            weighted_sum(&d_z, &inputs.of_ends(projected))
        });
        assert_within("sums by end", &by_end, &want, limit);
        let want = central_differences(&wide(&inputs.edge_projected), |edge_projected| {
            weighted_sum(&d_z, &inputs.of_edges(edge_projected))
        });
        assert_within("sums by predicate", &by_edge, &want, limit);
    });
}
