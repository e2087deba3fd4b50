//! draw_triples: the case of the bench with random vectors, with seeds of all 64 bits, and with rows in which rejection
//! finds nothing.

use std::cell::Cell;
use std::rc::Rc;

use crate::support::Values;
use crate::support::agreement::{agree, agree_in_two_orders, with};
use crate::support::cases::{check, no_device, seeds};
use proptest::sample::select;
use scenerank::batch::triples::{Sampling, TripleSampler};
use scenerank::bench::case::Case;
use scenerank::bench::cases::draw_triples::{Draws, triples};
use scenerank::data::similarity::Similarity;

const STRATEGIES: [Sampling; 3] = [Sampling::Random, Sampling::Probability, Sampling::Reject];

/// Vectors with a mean similarity of 0.45. The smaller the width, the more similarities are clamped.
fn vectors(values: &mut Values, images: usize, width: usize) -> Vec<f32> {
    let scale = (1.25 / width as f32).sqrt();
    values.signed(images * width).iter().map(|v| (v + 0.6) * scale).collect()
}

/// Whether 1024 trials of any strategy fail less often than once in 10^12. That holds if a positive and a negative are
/// each accepted with a probability of at least 0.15. An accepted pair must be ordered with a probability of at least
/// 0.3.
fn rejection_ends(row: &[f64]) -> bool {
    let (mut accepted, mut ordered) = (0.0, 0.0);
    for (i, p) in row.iter().enumerate() {
        for (j, n) in row.iter().enumerate() {
            accepted += p * (1.0 - n);
            ordered += if p > n && i != j { p * (1.0 - n) } else { 0.0 };
        }
    }
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    (0.15..=0.85).contains(&mean) && ordered >= 0.3 * accepted
}

/// Outputs of the case, in the order of `agree`: similarities, then positive and negative images. The kernel may leave
/// anchors of `may_be_left` to the host, even if the CPU's sampler finds a triple.
fn drawn(
    agree: impl Fn(&Case) -> Vec<Vec<f64>>,
    of: Draws,
    vectors: Rc<Vec<f32>>,
    may_be_left: impl Fn(u32) -> bool + 'static,
) -> Vec<Vec<f64>> {
    let (anchors, may_be_left) = (of.anchors.clone(), Rc::new(may_be_left));
    let case = with(triples(of, move || vectors.to_vec()), move |_, prepared| {
        let expected = std::mem::replace(&mut prepared.expected, Box::new(|_, _| Vec::new()));
        let (anchors, may_be_left) = (anchors.clone(), may_be_left.clone());
        prepared.expected = Box::new(move |host, written| {
            let mut outputs = expected(host, written);
            for (at, &anchor) in anchors.iter().enumerate() {
                if written[2].values[at] < 0.0 && may_be_left(anchor) {
                    (outputs[0].values[at], outputs[1].values[at]) = (f64::NAN, f64::NAN);
                    (outputs[2].values[at], outputs[2].values[anchors.len() + at]) = (-1.0, -1.0);
                }
            }
            // Bit for bit, the signs of zeros too.
            for (want, got) in
                outputs.iter().zip(written).flat_map(|(want, got)| want.values.iter().zip(&got.values))
            {
                assert!(*want != 0.0 || got.to_bits() == want.to_bits(), "{got} where {want} is expected");
            }
            outputs
        });
    });
    agree(&case)
}

#[test]
fn every_strategy_draws_what_the_cpu_draws() {
    let cases = (3..=70usize, 0..=5usize, select(vec![1, 3, 7, 8, 9, 50, 96, 300]), 0..3usize, seeds());
    // Anchors that drew a triple, and all of them.
    let (compared, all) = (Cell::new(0), Cell::new(0));
    check(80, cases, |(count, first, width, strategy, seed)| {
        let (images, sampling, epoch) = (first..first + count, STRATEGIES[strategy], (seed % 1000) as u32);
        let vectors = Rc::new(vectors(&mut Values::new(seed), images.end, width));
        let similarity = Similarity::Factored { vectors: &vectors, width };
        let sampler = TripleSampler::new(similarity, images.clone(), sampling, seed).expect("a sampler");
        let anchors = sampler.anchor_order(epoch);
        let of = Draws { images: images.clone(), anchors, width, sampling, seed, epoch };
        let of_rows = vectors.clone();
        let written = drawn(
            |case| agree(seed, case),
            of,
            vectors.clone(),
            move |anchor| {
                let similarity = Similarity::Factored { vectors: &of_rows, width };
                let others = images.clone().filter(|&image| image != anchor as usize);
                let row: Vec<f64> =
                    others.map(|image| f64::from(similarity.get(anchor as usize, image))).collect();
                !rejection_ends(&row)
            },
        );
        compared.set(compared.get() + written[2][..count].iter().filter(|&&image| image >= 0.0).count());
        all.set(all.get() + count);
    });
    let (compared, all) = (compared.get(), all.get());
    assert!(no_device() || 2 * compared > all, "{compared} of {all} anchors compared");
}

/// Large seed and epoch, so that a lost word of the generator's input would show.
#[test]
fn all_bits_of_seed_and_epoch_count() {
    if no_device() {
        return;
    }
    let (count, width) = (200, 20);
    let vectors = Rc::new(vectors(&mut Values::new(3), count, width));
    let mut seen = Vec::new();
    for (seed, epoch) in [(0, 0), (u64::MAX, u32::MAX), (1 << 63, 0), (1 << 31, 0), (0, 1 << 31), (1, 1)] {
        let (anchors, sampling) = ((0..count as u32).collect(), Sampling::Reject);
        let of = Draws { images: 0..count, anchors, width, sampling, seed, epoch };
        let written = drawn(agree_in_two_orders, of, vectors.clone(), |_| false);
        assert!(written[2].iter().all(|&image| image >= 0.0), "a triple for every anchor");
        assert!(!seen.contains(&written), "seed {seed}, epoch {epoch} draw as others do");
        seen.push(written);
    }
}

/// Where almost nothing is accepted, the kernel leaves the row to the host. The triples that it does draw are correct.
#[test]
fn what_rejection_does_not_find_is_left_to_the_host() {
    if no_device() {
        return;
    }
    let count = 40;
    // All vectors are orthogonal except those of images 0 and 1, so every other row of similarities is zero.
    let width = count;
    let mut unit = vec![0.0; count * width];
    (0..count).for_each(|image| unit[image * width + image] = 1.0);
    unit[width] = 1.0;
    let unit = Rc::new(unit);
    for sampling in STRATEGIES {
        let anchors = (0..count as u32).collect();
        let of = Draws { images: 0..count, anchors, width, sampling, seed: 5, epoch: 2 };
        let written = drawn(agree_in_two_orders, of, unit.clone(), |_| true);
        // A row of zeros has no positive for any strategy.
        let left = written[2][..count].iter().filter(|&&image| image == -1.0).count();
        assert_eq!(left, count - 2, "{sampling:?}");
    }
}

#[test]
fn no_anchors_are_no_launch() {
    if no_device() {
        return;
    }
    let vectors = Rc::new(vectors(&mut Values::new(1), 3, 4));
    let (anchors, sampling) = (Vec::new(), Sampling::Random);
    let of = Draws { images: 0..3, anchors, width: 4, sampling, seed: 1, epoch: 0 };
    assert!(drawn(agree_in_two_orders, of, vectors, |_| false).concat().is_empty());
}
