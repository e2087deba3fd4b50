//! draw_triples: the kernels draw what the CPU's sampler draws, to the bit.

use crate::support::cases::{check, seeds};
use crate::support::{Values, all, all_mut, devices, poisoned, to_device, to_host};
use proptest::sample::select;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::draw_triples::{Anchors, Triples, draw_triples};
use scenerank::batch::triples::{Sampling, TripleSampler};
use scenerank::data::similarity::Similarity;

const STRATEGIES: [Sampling; 3] = [Sampling::Random, Sampling::Probability, Sampling::Reject];

/// Image, image, bits of both similarities.
type Drawn = (i32, i32, u32, u32);

/// What the kernel of this sampler's strategy draws for `anchors`.
fn drawn(device: &Device, sampler: &TripleSampler<'_>, anchors: &[u32], epoch: u32) -> Vec<Drawn> {
    let Similarity::Factored { vectors, width } = sampler.similarity() else { panic!("no vectors") };
    let (count, images) = (anchors.len(), sampler.images());
    // A value more, which must stay.
    let mut positive = to_device(device, &vec![-7; count + 1]);
    let mut negative = to_device(device, &vec![-7; count + 1]);
    let mut similarity_positive = poisoned(device, count + 1);
    let mut similarity_negative = poisoned(device, count + 1);
    let anchors = crate::support::indices_to_device(device, anchors);
    let vectors = to_device(device, vectors);
    let mut triples = Triples {
        positive: all_mut(&mut positive),
        negative: all_mut(&mut negative),
        similarity_positive: all_mut(&mut similarity_positive),
        similarity_negative: all_mut(&mut similarity_negative),
    };
    let of = Anchors { anchors: all(&anchors), caption_vectors: all(&vectors), width, images };
    draw_triples(device, &mut triples, of, sampler.sampling(), sampler.seed(), epoch).expect("a launch");
    let [positive, negative] =
        [positive, negative].map(|buffer| device.download(&buffer, 0..count + 1).expect("a download"));
    assert_eq!((positive[count], negative[count]), (-7, -7), "beyond the anchors");
    let [similarity_positive, similarity_negative] =
        [similarity_positive, similarity_negative].map(|buffer| to_host(device, &buffer));
    assert!(similarity_positive[count].is_nan() && similarity_negative[count].is_nan());
    (0..count)
        .map(|i| {
            let bits = [similarity_positive[i], similarity_negative[i]].map(f32::to_bits);
            (positive[i], negative[i], bits[0], bits[1])
        })
        .collect()
}

/// What the sampler draws for `anchors`.
fn expected(sampler: &TripleSampler<'_>, anchors: &[u32], epoch: u32) -> Vec<Option<Drawn>> {
    let bits = |triple: scenerank::batch::triples::Triple| {
        let s = [triple.similarity_positive, triple.similarity_negative].map(f32::to_bits);
        (triple.positive as i32, triple.negative as i32, s[0], s[1])
    };
    anchors.iter().map(|&anchor| sampler.draw(epoch, anchor).map(bits)).collect()
}

/// Vectors whose similarities are 0.45 on average; the fewer values, the more of them are clamped.
fn vectors(values: &mut Values, images: usize, width: usize) -> Vec<f32> {
    let scale = (1.25 / width as f32).sqrt();
    values.signed(images * width).iter().map(|v| (v + 0.6) * scale).collect()
}

/// Whether 1024 trials of any strategy fail less often than once in 10^12: those accept a positive, a negative, and an
/// ordered pair, of those that are accepted, with at least these probabilities.
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

#[test]
fn every_strategy_draws_what_the_cpu_draws() {
    let cases = (3..=70usize, 0..=5usize, select(vec![1, 3, 7, 8, 9, 50, 96, 300]), 0..3usize, seeds());
    let compared = std::cell::Cell::new(0);
    check(60, cases, |(count, first, width, strategy, seed)| {
        let mut values = Values::new(seed);
        let sampling = STRATEGIES[strategy];
        let vectors = vectors(&mut values, first + count, width);
        let images = first..first + count;
        let similarity = Similarity::Factored { vectors: &vectors, width };
        let sampler = TripleSampler::new(similarity, images.clone(), sampling, seed).expect("a sampler");
        let epoch = (seed % 1000) as u32;
        let anchors = sampler.anchor_order(epoch);
        let want = expected(&sampler, &anchors, epoch);
        for device in devices() {
            let got = drawn(&device, &sampler, &anchors, epoch);
            for ((&anchor, got), &want) in anchors.iter().zip(got).zip(&want) {
                let others = images.clone().filter(|&image| image != anchor as usize);
                let row: Vec<f64> =
                    others.map(|image| f64::from(similarity.get(anchor as usize, image))).collect();
                if rejection_ends(&row) || got.0 >= 0 {
                    assert_eq!(Some(got), want, "{sampling:?}, anchor {anchor}");
                    compared.set(compared.get() + 1);
                }
            }
        }
    });
    assert!(
        crate::support::cases::no_device() || compared.get() > 500,
        "{} anchors compared",
        compared.get()
    );
}

/// A large key and epoch, so that no word of the generator's input is lost.
#[test]
fn all_bits_of_seed_and_epoch_count() {
    let (count, width) = (200, 20);
    let vectors = vectors(&mut Values::new(3), count, width);
    let similarity = Similarity::Factored { vectors: &vectors, width };
    for device in devices() {
        let mut seen = Vec::new();
        for (seed, epoch) in [(0, 0), (u64::MAX, u32::MAX), (1 << 63, 0), (1 << 31, 0), (0, 1 << 31), (1, 1)]
        {
            let sampler =
                TripleSampler::new(similarity, 0..count, Sampling::Reject, seed).expect("a sampler");
            let anchors: Vec<u32> = (0..count as u32).collect();
            let got = drawn(&device, &sampler, &anchors, epoch);
            let want: Vec<Drawn> = expected(&sampler, &anchors, epoch).into_iter().flatten().collect();
            assert_eq!(got, want);
            assert!(!seen.contains(&got), "seed {seed}, epoch {epoch} draw as others do");
            seen.push(got);
        }
    }
}

/// Where next to nothing is accepted, the kernel says so and leaves the row to the host; what it does draw is right.
#[test]
fn what_rejection_does_not_find_is_left_to_the_host() {
    let count = 40;
    // Orthogonal but for images 0 and 1: every other row is all zeros.
    let width = count;
    let mut unit = vec![0.0; count * width];
    (0..count).for_each(|image| unit[image * width + image] = 1.0);
    unit[width] = 1.0;
    let similarity = Similarity::Factored { vectors: &unit, width };
    let anchors: Vec<u32> = (0..count as u32).collect();
    for device in devices() {
        for sampling in STRATEGIES {
            let sampler = TripleSampler::new(similarity, 0..count, sampling, 5).expect("a sampler");
            let got = drawn(&device, &sampler, &anchors, 2);
            let want = expected(&sampler, &anchors, 2);
            let mut left = 0;
            for (anchor, (got, want)) in got.into_iter().zip(want).enumerate() {
                if got.0 < 0 {
                    assert_eq!((got.0, got.1), (-1, -1), "anchor {anchor}");
                    assert!(f32::from_bits(got.2).is_nan() && f32::from_bits(got.3).is_nan());
                    left += 1;
                } else {
                    assert_eq!(Some(got), want, "{sampling:?}, anchor {anchor}");
                }
            }
            // Rows of zeros have no positive under any strategy.
            assert_eq!(left, count - 2, "{sampling:?}");
        }
    }
}

#[test]
fn no_anchors_are_no_launch() {
    let vectors = vectors(&mut Values::new(1), 3, 4);
    let similarity = Similarity::Factored { vectors: &vectors, width: 4 };
    let sampler = TripleSampler::new(similarity, 0..3, Sampling::Random, 1).expect("a sampler");
    for device in devices() {
        assert!(drawn(&device, &sampler, &[], 0).is_empty());
    }
}
