//! pair_correlations: keys, counts and sums of all pairs are the reference's, which are the definition's.

use crate::support::cases::{check, no_device, seeds};
use crate::support::scores::{Kind, draw, kind};
use crate::support::{Values, all, devices, same_bits, to_device};
use proptest::prelude::*;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::pair_correlations::{
    COUNTS, KEYS, MOMENTS, TILE, correlation_sums, pair_correlations, pair_count, pair_keys, summing_blocks,
};
use scenerank::backend::cuda::launchers::strips::Strips;
use scenerank::backend::reference::pair_correlations::{key, rank_products, round};
use scenerank::backend::reference::row_correlations as definition;

/// Counts and moments of pairs (x, y).
fn sums(device: &Device, pairs: &[(f64, f64)]) -> (Vec<i64>, Vec<f64>) {
    let keys: Vec<i64> = pairs.iter().flat_map(|&(x, y)| [key(x), key(y)]).collect();
    let mut pairs = to_device(device, &keys);
    let mut scratch = to_device(device, &vec![i64::MIN; keys.len()]);
    let mut counts = to_device(device, &[i64::MIN; COUNTS]);
    let blocks = summing_blocks(keys.len() / KEYS);
    let mut moments = to_device(device, &vec![f64::NAN; blocks * MOMENTS]);
    let len = keys.len();
    pair_correlations(
        device,
        &mut counts.slice_mut(0..COUNTS),
        &mut moments.slice_mut(0..blocks * MOMENTS),
        pairs.slice_mut(0..len),
        scratch.slice_mut(0..len),
    )
    .expect("launches");
    let counts = device.download(&counts, 0..COUNTS).expect("a download");
    (counts, device.download(&moments, 0..blocks * MOMENTS).expect("a download"))
}

/// Compares with the reference.
fn compare(pairs: &[(f64, f64)], counts: &[i64], moments: &[f64]) {
    let n = pairs.len();
    let mut keys: Vec<(i64, i64)> = pairs.iter().map(|&(x, y)| (key(x), key(y))).collect();
    for (by, counts) in ["x", "y"].into_iter().zip(counts.chunks_exact(3)) {
        let want = round(&mut keys);
        let want = [want.inversions, want.tied, want.tied_both].map(|count| count as i64);
        assert_eq!(counts, want, "inversions, tied, tied in both of {n} pairs by {by}");
    }
    let got = correlation_sums(n, counts, moments);
    assert_eq!(got.rank_products, rank_products(&keys), "rank products of {n} pairs");
    // Each of n terms is at most 4 m m of the largest magnitudes m; its factors are off by the mean's roundings, a chain of
    // a thread's terms and of adding up threads and blocks, and the sum's chain is as long.
    let largest =
        |of: fn(&(f64, f64)) -> f64| pairs.iter().fold(0.0f64, |most, pair| most.max(of(pair).abs()));
    let (mx, my) = (largest(|pair| pair.0), largest(|pair| pair.1));
    let chain = (n.div_ceil(256 * summing_blocks(n).max(1)) + 16 + 1024) as f64;
    let want = definition_deviations(pairs);
    for (moment, scale) in [mx * mx, my * my, mx * my].into_iter().enumerate() {
        let (got, want) = (got.deviation_products[moment], want[moment]);
        let limit = 16.0 * n as f64 * (2.0 * chain + 4.0) * (f64::EPSILON / 2.0) * scale;
        let off = (got - want).abs();
        assert!(off <= limit, "{n} pairs, moment {moment}: {got}, not {want}: off by {off:e} > {limit:e}");
    }
}

/// With compensated sums, so that their own roundings count as one.
fn definition_deviations(pairs: &[(f64, f64)]) -> [f64; 3] {
    let sum = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let (mut sum, mut lost) = (0.0, 0.0);
        for term in pairs.iter().map(of) {
            let next: f64 = sum + (term - lost);
            lost = (next - sum) - (term - lost);
            sum = next;
        }
        sum
    };
    let n = pairs.len().max(1) as f64;
    let (x, y) = (sum(&|pair| pair.0) / n, sum(&|pair| pair.1) / n);
    [
        sum(&|pair| (pair.0 - x).powi(2)),
        sum(&|pair| (pair.1 - y).powi(2)),
        sum(&|pair| (pair.0 - x) * (pair.1 - y)),
    ]
}

fn pairs_of(values: &mut Values, [of_x, of_y]: [Kind; 2], count: usize) -> Vec<(f64, f64)> {
    draw(values, of_x, count).into_iter().zip(draw(values, of_y, count)).collect()
}

/// Within a tile, around its edge, an odd number of tiles, and a last one of few entries.
#[test]
fn counts_are_the_references_and_sums_within_rounding() {
    let edges = vec![TILE - 1, TILE, TILE + 1, 2 * TILE, 2 * TILE + 1, 3 * TILE, 4 * TILE + 7];
    let counts = prop_oneof![6 => 0..=300usize, 1 => prop::sample::select(edges)];
    check(40, (counts, kind(), kind(), seeds()), |(count, of_x, of_y, seed)| {
        let pairs = pairs_of(&mut Values::new(seed), [of_x, of_y], count);
        let [counts, moments] = same_bits(seed, |device, _| {
            let (counts, moments) = sums(device, &pairs);
            [bytemuck::pod_collect_to_vec(&counts), bytemuck::pod_collect_to_vec(&moments)]
        });
        let (counts, moments): (Vec<i64>, Vec<f64>) =
            (bytemuck::pod_collect_to_vec(&counts), bytemuck::pod_collect_to_vec(&moments));
        compare(&pairs, &counts, &moments);
    });
}

/// Every number of tiles up to five, among many ties and without.
#[test]
fn runs_of_tiles_merge() {
    if no_device() {
        return;
    }
    let device = &devices()[0];
    for tiles in 1..=5 {
        for (kinds, seed) in [([Kind::Distinct; 2], 1), ([Kind::Few; 2], 2), ([Kind::Reversed, Kind::Few], 3)]
        {
            let pairs = pairs_of(&mut Values::new(seed), kinds, tiles * TILE - 5);
            let (counts, moments) = sums(device, &pairs);
            compare(&pairs, &counts, &moments);
        }
    }
}

/// Squares of ranks pass 2^32, so that both halves of the products count.
#[test]
fn many_pairs() {
    if no_device() {
        return;
    }
    let pairs = pairs_of(&mut Values::new(5), [Kind::Distinct, Kind::Distinct], (1 << 16) + 4465);
    let (counts, moments) = sums(&devices()[0], &pairs);
    assert!(counts[6] > 0 && counts[10] != 0, "{counts:?}");
    compare(&pairs, &counts, &moments);
}

/// Two rounds of sorting count what comparing every two entries does.
#[test]
fn the_reference_follows_the_definition() {
    let mut values = Values::new(4);
    for count in [0, 1, 2, 3, 10, 77] {
        for kinds in
            [[Kind::Distinct; 2], [Kind::Few; 2], [Kind::Constant, Kind::Few], [Kind::Few, Kind::Sorted]]
        {
            let pairs = pairs_of(&mut values, kinds, count);
            let mut keys: Vec<(i64, i64)> = pairs.iter().map(|&(x, y)| (key(x), key(y))).collect();
            let (by_x, by_y) = (round(&mut keys), round(&mut keys));
            let counts = [by_x, by_y].map(|by| [by.inversions, by.tied, by.tied_both]).concat();
            let mut counts: Vec<i64> = counts.into_iter().map(|count| count as i64).collect();
            counts
                .extend(rank_products(&keys).iter().flat_map(|sum| [(sum >> 32) as i64, *sum as u32 as i64]));
            let (got, want) = (correlation_sums(count, &counts, &[]), definition::correlation_sums(&pairs));
            assert_eq!(got.concordant_minus_discordant, want.concordant_minus_discordant);
            assert_eq!((got.tied_x, got.tied_y), (want.tied_x, want.tied_y));
            assert_eq!(got.rank_products, want.rank_products);
        }
    }
}

/// As many pairs as a device holds: their sums need more than 64 bits.
#[test]
fn counts_of_two_billion_pairs() {
    let n = (1u64 << 31) - 1;
    // All different and in the same order: u = v = 2 i + 1 - n, whose squares add up to (n^3 - n) / 3.
    let squares = (i128::from(n).pow(3) - i128::from(n)) / 3;
    let halves = [(squares >> 32) as i64, (squares & 0xffff_ffff) as i64];
    let counts = [[0; 6].as_slice(), &halves, &halves, &halves].concat();
    let sums = correlation_sums(n as usize, &counts, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
    assert_eq!(sums.rank_products, [squares; 3]);
    assert_eq!(sums.concordant_minus_discordant as u64, n * (n - 1) / 2);
    assert_eq!(sums.deviation_products, [11.0, 13.0, 15.0]);
}

/// The keys of `rows` rows from `first` on of `columns` columns; what is not written stays.
fn keys(device: &Device, x: &[f64], y: &[f64], columns: usize, first: usize) -> Vec<i64> {
    let (x, y) = (to_device(device, x), to_device(device, y));
    let len = KEYS * pair_count(columns);
    let mut pairs = to_device(device, &vec![i64::MIN; len]);
    let of = Strips { scores: all(&x), similarities: all(&y), columns, first_row: first };
    pair_keys(device, &mut pairs.slice_mut(0..len), of).expect("a launch");
    device.download(&pairs, 0..len).expect("a download")
}

#[test]
fn keys_lie_row_after_row_above_the_diagonal() {
    let columns = prop_oneof![4 => 1..=40usize, 1 => prop::sample::select(vec![256, 257, 258, 300])];
    let shapes = columns
        .prop_flat_map(|columns| (Just(columns), 0..columns))
        .prop_flat_map(|(columns, first)| (Just(columns), Just(first), 0..=(columns - first).min(5)));
    check(60, (shapes, kind(), kind(), seeds()), |((columns, first, rows), of_x, of_y, seed)| {
        let mut values = Values::new(seed);
        let (x, y) = (draw(&mut values, of_x, rows * columns), draw(&mut values, of_y, rows * columns));
        let [got] = same_bits(seed, |device, _| {
            [bytemuck::pod_collect_to_vec::<i64, f32>(&keys(device, &x, &y, columns, first))]
        });
        let got: Vec<i64> = bytemuck::pod_collect_to_vec(&got);
        let mut at = 0;
        for row in 0..columns {
            for column in row + 1..columns {
                let of_strip = (first..first + rows).contains(&row);
                let entry = of_strip.then(|| (row - first) * columns + column);
                let want =
                    entry.map_or([i64::MIN; 2], |entry| [key(x[entry]), key(y[entry].clamp(0.0, 1.0))]);
                assert_eq!(got[at..at + 2], want, "row {row}, column {column} of {columns}");
                at += 2;
            }
        }
        assert_eq!(at, got.len());
    });
}

/// Ascending with the value, the smallest and the largest among them.
#[test]
fn keys_ascend_with_their_values() {
    let ascending = [f64::MIN, -2.0, -1.0, -1e-300, 0.0, 1e-300, 0.5, 1.0, f64::MAX];
    assert!(ascending.windows(2).all(|two| key(two[0]) < key(two[1])));
    assert_eq!(key(-0.0), key(0.0));
    for device in devices() {
        // Of 0.3 with itself nothing is read; -3 and 1.5 are clamped.
        let (x, y) = ([f64::NAN, f64::MIN, -0.0, f64::MAX], [f64::NAN, -3.0, 0.75, 1.5]);
        let want = [key(f64::MIN), key(0.0), key(0.0), key(0.75), key(f64::MAX), key(1.0)];
        assert_eq!(keys(&device, &x, &y, 4, 0)[..6], want);
    }
}

#[test]
fn known_pairs() {
    for device in devices() {
        // x 1 1 2 3 against y 2 2 4 1: two concordant pairs and three discordant, one tied in both.
        let pairs = [(2.0, 4.0), (1.0, 2.0), (3.0, 1.0), (1.0, 2.0)];
        let (counts, moments) = sums(&device, &pairs);
        // Out of order as given: (2, 4) before both (1, 2), (3, 1) before one.
        assert_eq!(counts[..6], [3, 1, 1, 3, 1, 1]);
        let got = correlation_sums(4, &counts, &moments);
        // u -2 -2 1 3, v 0 0 3 -3.
        assert_eq!((got.concordant_minus_discordant, got.rank_products), (-1, [18, 18, -6]));
        assert_eq!(got.deviation_products, [2.75, 4.75, -0.75]);
        assert_eq!(sums(&device, &[]), (vec![0; COUNTS], vec![]));
        let (counts, moments) = sums(&device, &[(0.25, 0.5)]);
        assert_eq!((counts, moments), (vec![0; COUNTS], vec![0.25, 0.5, 0.0, 0.0, 0.0]));
    }
}
