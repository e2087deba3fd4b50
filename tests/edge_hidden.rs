//! edge_hidden: the kernels against plain loops in double precision.

mod kernel_support;

use kernel_support::{Values, assert_within, devices, indices_to_device, poisoned, to_device, to_host, wide};
use scenerank::backend::cuda::edge_hidden::{
    Ends, Lists, edge_hidden_add, edge_hidden_lookup, edge_hidden_sum_edges, edge_hidden_sum_ends,
};

/// Rows n, edges, H. One row takes all ends of 600 edges.
const CASES: [(usize, usize, usize); 6] =
    [(1, 0, 5), (1, 600, 3), (2, 1, 1), (7, 31, 130), (40, 33, 19), (33, 513, 64)];

/// The positions of `keys` by key, compressed.
fn lists(keys: &[u32], rows: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut offsets, mut entries) = (vec![0], Vec::new());
    for row in 0..rows as u32 {
        entries.extend((0u32..).zip(keys).filter(|(_, key)| **key == row).map(|(position, _)| position));
        offsets.push(entries.len() as u32);
    }
    (offsets, entries)
}

#[test]
fn sums_and_their_backward_agree_with_plain_loops() {
    for device in devices() {
        for (case, (rows, edges, hidden)) in CASES.into_iter().enumerate() {
            let name = |what: &str| format!("{what}, {rows} rows, {edges} edges, width {hidden}");
            let mut values = Values::new(case as u64);
            let (subject, object) = (values.indices(edges, rows), values.indices(edges, rows));
            let edge_row = values.indices(edges, rows);
            let [subject_there, object_there, edge_row_there] =
                [&subject, &object, &edge_row].map(|v| indices_to_device(&device, v));
            let ends = Ends { subject: subject_there.slice(0..edges), object: object_there.slice(0..edges) };
            let (projected, edge_projected) =
                (values.signed(rows * 2 * hidden), values.signed(rows * hidden));
            let z = values.signed(edges * hidden);
            let (projected_there, edge_there) =
                (to_device(&device, &projected), to_device(&device, &edge_projected));
            let from = |e: usize, c: usize| {
                f64::from(projected[subject[e] as usize * 2 * hidden + c])
                    + f64::from(projected[object[e] as usize * 2 * hidden + hidden + c])
            };
            let cells = || (0..edges).flat_map(|e| (0..hidden).map(move |c| (e, c)));
            // Three numbers below 1.
            let limit = 5e-7;

            let mut added = to_device(&device, &z);
            let mut target = added.slice_mut(0..edges * hidden);
            let projected_part = projected_there.slice(0..rows * 2 * hidden);
            edge_hidden_add(&device, &mut target, projected_part, ends, hidden).expect("a launch");
            let want: Vec<f64> = cells().map(|(e, c)| f64::from(z[e * hidden + c]) + from(e, c)).collect();
            assert_within(&name("added"), &to_host(&device, &added), &want, limit);

            let mut looked_up = poisoned(&device, edges * hidden);
            edge_hidden_lookup(
                &device,
                &mut looked_up.slice_mut(0..edges * hidden),
                edge_there.slice(0..rows * hidden),
                projected_part,
                edge_row_there.slice(0..edges),
                ends,
                hidden,
            )
            .expect("a launch");
            let of_edge = |e: usize, c: usize| f64::from(edge_projected[edge_row[e] as usize * hidden + c]);
            let want: Vec<f64> = cells().map(|(e, c)| of_edge(e, c) + from(e, c)).collect();
            assert_within(&name("looked up"), &to_host(&device, &looked_up), &want, limit);

            let d_z = to_device(&device, &z);
            let both: Vec<u32> = subject.iter().zip(&object).flat_map(|(&s, &o)| [s, o]).collect();
            let mut want_ends = vec![0.0; rows * 2 * hidden];
            let mut want_edges = vec![0.0; rows * hidden];
            let wide_z = wide(&z);
            for (e, c) in cells() {
                want_ends[subject[e] as usize * 2 * hidden + c] += wide_z[e * hidden + c];
                want_ends[object[e] as usize * 2 * hidden + hidden + c] += wide_z[e * hidden + c];
                want_edges[edge_row[e] as usize * hidden + c] += wide_z[e * hidden + c];
            }
            // Up to `edges` numbers below 1, one after another.
            let limit = 5e-7 + 1e-7 * edges as f64;
            for (what, keys, columns, want) in
                [("ends", &both, 2 * hidden, &want_ends), ("edges", &edge_row, hidden, &want_edges)]
            {
                let (offsets, entries) = lists(keys, rows);
                let (offsets, entries) =
                    (indices_to_device(&device, &offsets), indices_to_device(&device, &entries));
                let by_row =
                    Lists { offsets: offsets.slice(0..rows + 1), entries: entries.slice(0..entries.len()) };
                let mut sums = poisoned(&device, rows * columns);
                let (target, d_z) = (&mut sums.slice_mut(0..rows * columns), d_z.slice(0..edges * hidden));
                match what {
                    "ends" => edge_hidden_sum_ends(&device, target, d_z, by_row, hidden),
                    _ => edge_hidden_sum_edges(&device, target, d_z, by_row, hidden),
                }
                .expect("a launch");
                assert_within(&name(what), &to_host(&device, &sums), want, limit);
            }
        }
    }
}
