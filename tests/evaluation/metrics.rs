//! Rank correlations, agreement, retrieval and nearest images, compared with their definitions, with numbers
//! computed by SciPy, and with SciPy itself if a Python with SciPy is available.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::f16;
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use scenerank::Result;
use scenerank::backend::cpu::Cpu;
use scenerank::backend::cuda::launchers;
use scenerank::backend::device::{Device, Precision};
use scenerank::data::similarity::Similarity;
use scenerank::evaluation::pearson::pearson;
use scenerank::evaluation::rank_correlations::Ranks;
use scenerank::evaluation::{self, Agreement, Embeddings, RetrievalMetrics, nearest, normal_features};
use scenerank::files::npy::write_npy;

/// Devices with their own code for ranking. Without the emulator, reports a skip.
fn devices() -> Vec<Device> {
    match launchers::emulated(None) {
        Ok(_) => vec![Device::Cpu, Device::Reference, Device::Emulated],
        Err(error) => {
            println!("without the emulator: {error}");
            vec![Device::Cpu, Device::Reference]
        }
    }
}

/// Agreement on the CPU.
fn agreement(
    embeddings: Embeddings<'_>,
    similarity: Similarity<'_>,
    images: Range<usize>,
) -> Result<Agreement> {
    evaluation::agreement(Device::Cpu, Precision::Fp32, embeddings, similarity, images, None)
}

/// Ranks on the CPU.
fn ranks(queries: Embeddings<'_>, index: Embeddings<'_>, targets: &[u32]) -> Result<Vec<u32>> {
    evaluation::ranks(Device::Cpu, Precision::Fp32, queries, index, targets)
}

/// Row-wise Kendall tau on the CPU.
fn row_kendall(embeddings: Embeddings<'_>, similarity: Similarity<'_>, images: Range<usize>) -> Result<f64> {
    evaluation::row_kendall(&mut Cpu::new(), embeddings, &embeddings.values().to_vec(), similarity, images)
}

fn close(name: &str, got: f64, want: f64, limit: f64) {
    // Written so that NaN fails.
    let agrees = (got - want).abs() <= limit;
    assert!(agrees, "{name}: got {got}, want {want}, differ by {:e}, limit {limit:e}", (got - want).abs());
}

/// Tau-b from its definition, over all pairs.
fn kendall_by_definition(x: &[f64], y: &[f64]) -> Option<f64> {
    let (mut difference, mut untied_x, mut untied_y) = (0i64, 0i64, 0i64);
    for i in 0..x.len() {
        for j in 0..i {
            let sign = |a: f64, b: f64| i64::from(a > b) - i64::from(a < b);
            let (sx, sy) = (sign(x[i], x[j]), sign(y[i], y[j]));
            difference += sx * sy;
            untied_x += sx.abs();
            untied_y += sy.abs();
        }
    }
    let tau = difference as f64 / (untied_x as f64).sqrt() / (untied_y as f64).sqrt();
    (untied_x > 0 && untied_y > 0).then(|| tau.clamp(-1.0, 1.0))
}

/// Pearson's r of mean ranks, which are found by counting.
fn spearman_by_definition(x: &[f64], y: &[f64]) -> Option<f64> {
    let ranks = |values: &[f64]| -> Vec<f64> {
        values
            .iter()
            .map(|&value| {
                let below = values.iter().filter(|&&other| other < value).count() as f64;
                let equal = values.iter().filter(|&&other| other == value).count() as f64;
                below + (equal + 1.0) / 2.0
            })
            .collect()
    };
    pearson(&ranks(x), &ranks(y))
}

fn observations(values: impl Strategy<Value = f64> + Clone) -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    (0usize..130).prop_flat_map(move |n| {
        (prop::collection::vec(values.clone(), n), prop::collection::vec(values.clone(), n))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rank_correlations_follow_their_definitions_with_many_ties(
        (x, y) in observations((-3i32..4).prop_map(|v| f64::from(v) * 0.5))
    ) {
        let expected = kendall_by_definition(&x, &y);
        prop_assert_eq!(Ranks::parallel().correlate(&x, &y).tau, expected);
        prop_assert_eq!(Ranks::new().correlate(&x, &y).tau, expected);
        match (Ranks::new().correlate(&x, &y).rho, spearman_by_definition(&x, &y)) {
            (Some(got), Some(want)) => prop_assert!((got - want).abs() < 1e-12, "{got} {want}"),
            (got, want) => prop_assert_eq!(got, want),
        }
        prop_assert_eq!(Ranks::parallel().correlate(&x, &y).rho, Ranks::new().correlate(&x, &y).rho);
    }

    #[test]
    fn rank_correlations_follow_their_definitions_without_ties((x, y) in observations(-1e3f64..1e3)) {
        prop_assert_eq!(Ranks::new().correlate(&x, &y).tau, kendall_by_definition(&x, &y));
    }
}

/// Neighbouring doubles, which differ in their lowest bits alone, and with many ties.
#[test]
fn values_that_differ_in_their_last_bits_are_told_apart() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
    let mut draw = || -> Vec<f64> {
        (0..1000).map(|_| f64::from_bits(0.7f64.to_bits() + rng.random_range(0..300u64))).collect()
    };
    let (x, y) = (draw(), draw());
    for ranks in [&mut Ranks::new(), &mut Ranks::parallel()] {
        // The memory held another problem.
        ranks.correlate(&[2.0; 1500], &[1.0; 1500]);
        let got = ranks.correlate(&x, &y);
        assert_eq!(got.tau, kendall_by_definition(&x, &y));
        close("spearman", got.rho.unwrap(), spearman_by_definition(&x, &y).unwrap(), 1e-12);
    }
}

#[test]
fn correlations_equal_known_values() {
    let x = [1.0, 2.0, 2.0, 3.0, 5.0, 5.0, 5.0, -1.0, 0.0, 4.0];
    let y = [2.0, 2.0, 1.0, 3.0, 3.0, 3.0, 6.0, 0.0, 0.0, -2.0];
    // scipy.stats kendalltau, spearmanr, pearsonr
    close("kendall", Ranks::new().correlate(&x, &y).tau.unwrap(), 0.567944518073514, 1e-14);
    close("spearman", Ranks::new().correlate(&x, &y).rho.unwrap(), 0.6677148795536598, 1e-14);
    close("pearson", pearson(&x, &y).unwrap(), 0.516329336833362, 1e-14);
    // By hand: ranks 1 2 3 against 1 3 2, so 2 concordant and 1 discordant pairs, and 1 - 6 * 2 / (3 * 8).
    let (x, y) = ([1.0, 2.0, 3.0], [10.0, 30.0, 20.0]);
    close("kendall", Ranks::new().correlate(&x, &y).tau.unwrap(), 1.0 / 3.0, 1e-15);
    close("spearman", Ranks::new().correlate(&x, &y).rho.unwrap(), 0.5, 1e-15);
    close("pearson", pearson(&x, &y).unwrap(), 0.5, 1e-15);
}

#[test]
fn correlations_of_constant_or_missing_values_are_undefined() {
    for (x, y) in
        [(vec![], vec![]), (vec![1.0], vec![2.0]), (vec![0.1; 7], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])]
    {
        assert_eq!(Ranks::new().correlate(&x, &y).tau, None);
        assert_eq!(Ranks::new().correlate(&x, &y).rho, None);
        assert_eq!(pearson(&x, &y), None);
        assert_eq!(pearson(&y, &x), None);
    }
    // A negative zero counts as zero.
    assert_eq!(Ranks::new().correlate(&[0.0, -0.0], &[1.0, 2.0]).tau, None);
}

#[test]
fn pearson_keeps_its_digits_far_from_zero_and_near_it() {
    let x: Vec<f64> = (0..10_000).map(|i| f64::from(i * 7919 % 10_007)).collect();
    let y: Vec<f64> = (0..10_000).map(|i| f64::from(i * 7919 % 10_007 + i % 1000)).collect();
    let r = pearson(&x, &y).unwrap();
    let shifted: Vec<f64> = x.iter().map(|x| 1e9 + x).collect();
    close("shifted", pearson(&shifted, &y).unwrap(), r, 1e-12);
    let tiny: Vec<f64> = x.iter().map(|x| x * 1e-150).collect();
    close("tiny", pearson(&tiny, &tiny).unwrap(), 1.0, 1e-12);
}

#[test]
fn a_large_problem_gives_the_same_bits_on_one_thread_and_many() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let x: Vec<f64> = (0..300_001).map(|_| f64::from(rng.random_range(0..50_000u32))).collect();
    let y: Vec<f64> = x.iter().map(|x| x + f64::from(rng.random_range(0..50_000u32))).collect();
    let tau = Ranks::new().correlate(&x, &y).tau.unwrap();
    let rho = Ranks::new().correlate(&x, &y).rho.unwrap();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| Ranks::parallel().correlate(&x, &y).tau), Some(tau));
        assert_eq!(pool.install(|| Ranks::parallel().correlate(&x, &y).rho), Some(rho));
    }
    // Two values in the wrong order in an ascending list, across every merge.
    let n = 200_000u64;
    let ascending: Vec<f64> = (0..n).map(|i| i as f64).collect();
    let mut swapped = ascending.clone();
    swapped.swap(0, n as usize - 1);
    let pairs = (n * (n - 1) / 2) as f64;
    let want = (pairs - 2.0 * (2 * n - 3) as f64) / pairs;
    close("swapped", Ranks::parallel().correlate(&ascending, &swapped).tau.unwrap(), want, 1e-15);
}

/// `count` small integers, the same in any language: upper bits of a linear congruential generator.
fn integers(count: usize, seed: u64, modulus: u64) -> impl Iterator<Item = f32> {
    let mut state = seed;
    (0..count).map(move |_| {
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        ((state >> 16) % modulus) as f32
    })
}

const IMAGES: usize = 37;

/// Embeddings and caption vectors of [`IMAGES`] images whose inner products are exact, so that the many ties
/// do not depend on rounding. Image 4 has the embedding 0.
fn exact_images() -> (Vec<f32>, Vec<f32>) {
    let mut embeddings: Vec<f32> = integers(IMAGES * 5, 7, 5).map(|v| v - 2.0).collect();
    embeddings[4 * 5..5 * 5].fill(0.0);
    (embeddings, integers(IMAGES * 4, 11, 4).map(|v| v / 8.0).collect())
}

fn assert_agreement(got: &Agreement, per_image: [f64; 3], all_pairs: [f64; 3], limit: f64) {
    close("per image, kendall", got.per_image.kendall, per_image[0], limit);
    close("per image, spearman", got.per_image.spearman, per_image[1], limit);
    close("per image, pearson", got.per_image.pearson, per_image[2], limit);
    close("all pairs, kendall", got.all_pairs.kendall, all_pairs[0], limit);
    close("all pairs, spearman", got.all_pairs.spearman, all_pairs[1], limit);
    close("all pairs, pearson", got.all_pairs.pearson, all_pairs[2], limit);
}

#[test]
fn agreement_equals_scipy_for_known_images() {
    let (embeddings, captions) = exact_images();
    let embeddings = Embeddings::new(&embeddings, 5).unwrap();
    let similarity = Similarity::Factored { vectors: &captions, width: 4 };
    let got = agreement(embeddings, similarity, 0..IMAGES).unwrap();
    // Values of SciPy, from the same vectors.
    let per_image = [0.00898006142096462, 0.015038651909523774, 0.013467281938196827];
    let all_pairs = [-0.017052448044359583, -0.023364318168557094, -0.01806499065341589];
    assert_agreement(&got, per_image, all_pairs, 1e-13);
    let undefined = got.undefined_rows;
    assert_eq!([undefined.kendall, undefined.spearman, undefined.pearson], [1, 1, 1]);
    assert_eq!(row_kendall(embeddings, similarity, 0..IMAGES).unwrap(), got.per_image.kendall);
}

#[test]
fn agreement_is_the_same_for_every_form_of_the_similarity_and_inside_a_larger_dataset() {
    let (embeddings, captions) = exact_images();
    let embeddings = Embeddings::new(&embeddings, 5).unwrap();
    let want =
        agreement(embeddings, Similarity::Factored { vectors: &captions, width: 4 }, 0..IMAGES).unwrap();

    // Ten other images before, three after.
    let (before, after) = (10, 3);
    let all = before + IMAGES + after;
    let mut vectors: Vec<f32> = integers(before * 4, 1, 4).collect();
    vectors.extend(&captions);
    vectors.extend(integers(after * 4, 2, 4));
    let similarity = Similarity::Factored { vectors: &vectors, width: 4 };
    let range = before..before + IMAGES;
    assert_eq!(agreement(embeddings, similarity, range.clone()).unwrap(), want);

    // Multiples of 1/64 below 1 are also exact in half precision.
    let matrix: Vec<f32> = (0..all * all).map(|at| similarity.get(at / all, at % all)).collect();
    let half: Vec<f16> = matrix.iter().map(|&s| f16::from_f32(s)).collect();
    let single = Similarity::MatrixF32 { values: &matrix, images: all };
    assert_eq!(agreement(embeddings, single, range.clone()).unwrap(), want);
    let half = Similarity::MatrixF16 { values: &half, images: all };
    assert_eq!(agreement(embeddings, half, range.clone()).unwrap(), want);

    // All pairs use only the upper triangle.
    let mut upper = matrix.clone();
    for (at, s) in upper.iter_mut().enumerate() {
        if at % all < at / all {
            *s = 0.5;
        }
    }
    let upper = Similarity::MatrixF32 { values: &upper, images: all };
    let got = agreement(embeddings, upper, range).unwrap();
    assert_eq!(got.all_pairs, want.all_pairs);
    assert_ne!(got.per_image, want.per_image);
}

#[test]
fn agreement_gives_the_same_bits_on_one_thread_and_many() {
    let images = 257;
    let embeddings = normal_features(images, 33, 1);
    let captions: Vec<f32> = normal_features(images, 30, 2).iter().map(|v| v.abs()).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let similarity = Similarity::Factored { vectors: &captions, width: 30 };
            agreement(Embeddings::new(&embeddings, 33).unwrap(), similarity, 0..images).unwrap()
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn perfect_reversed_and_constant_embeddings() {
    let (_, captions) = exact_images();
    let similarity = Similarity::Factored { vectors: &captions, width: 4 };
    let perfect = agreement(Embeddings::new(&captions, 4).unwrap(), similarity, 0..IMAGES).unwrap();
    assert_agreement(&perfect, [1.0; 3], [1.0; 3], 1e-12);

    let constant = vec![0.3; IMAGES * 7];
    let constant = agreement(Embeddings::new(&constant, 7).unwrap(), similarity, 0..IMAGES).unwrap();
    assert_agreement(&constant, [0.0; 3], [0.0; 3], 0.0);
    assert_eq!(constant.undefined_rows.kendall, IMAGES);
    assert_eq!(constant.undefined_rows.pearson, IMAGES);
}

/// Compares rows and pairs of `device` with the CPU: the counts, and therefore their bits, are equal; sums
/// differ by rounding.
#[test]
fn every_device_correlates_as_the_cpu_does() {
    let (exact, exact_captions) = exact_images();
    let constant = vec![0.3; IMAGES * 5];
    // More rows than a tile of products, and similarities that are clamped at both ends.
    let (many, many_captions) = (normal_features(150, 7, 1), normal_features(150, 3, 2));
    let longer: Vec<f32> = many_captions.iter().map(|value| 2.0 * value).collect();
    for device in devices() {
        for (values, width, captions, captions_width) in [
            (&exact, 5, &exact_captions, 4),
            (&constant, 5, &exact_captions, 4),
            (&many, 7, &longer, 3),
            (&exact[..10].to_vec(), 5, &exact_captions[..8].to_vec(), 4),
        ] {
            let embeddings = Embeddings::new(values, width).unwrap();
            let images = embeddings.len();
            // Five other images before, three after.
            let (before, after) = (integers(5 * captions_width, 1, 4), integers(3 * captions_width, 2, 4));
            let vectors: Vec<f32> = before.chain(captions.iter().copied()).chain(after).collect();
            let factored = Similarity::Factored { vectors: &vectors, width: captions_width };
            let matrix: Vec<f32> = (0..factored.len() * factored.len())
                .map(|at| 1.5 * factored.get(at / factored.len(), at % factored.len()) - 0.2)
                .collect();
            let half: Vec<f16> = matrix.iter().map(|&s| f16::from_f32(s)).collect();
            for similarity in [
                factored,
                Similarity::MatrixF32 { values: &matrix, images: factored.len() },
                Similarity::MatrixF16 { values: &half, images: factored.len() },
            ] {
                let range = 5..5 + images;
                let want = agreement(embeddings, similarity, range.clone()).unwrap();
                let on = (device, Precision::Fp32);
                let got = evaluation::agreement(on.0, on.1, embeddings, similarity, range, None).unwrap();
                assert_eq!(got.undefined_rows, want.undefined_rows, "{device}");
                // The CPU correlates all pairs on every device.
                assert_eq!(got.all_pairs, want.all_pairs, "{device}");
                assert_eq!(got.per_image.kendall, want.per_image.kendall, "{device}");
                assert_eq!(got.per_image.spearman, want.per_image.spearman, "{device}");
                close("pearson", got.per_image.pearson, want.per_image.pearson, 1e-13);
            }
        }
    }
}

#[test]
fn every_device_refuses_a_similarity_that_is_no_number() {
    let embeddings = Embeddings::new(&[1.0, 2.0, 3.0], 1).unwrap();
    let matrix = [f32::NAN, 0.5, 0.5, 1.0, f32::NAN, f32::NAN, 0.0, 0.0, f32::NAN];
    let similarity = Similarity::MatrixF32 { values: &matrix, images: 3 };
    for device in devices() {
        let result = evaluation::agreement(device, Precision::Fp32, embeddings, similarity, 0..3, None);
        let error = result.unwrap_err().to_string();
        assert!(error.contains("images 1 and 2 is NaN"), "{device}: {error}");
        for (at, images) in [(0, "0 and 1"), (2, "0 and 1"), (5, "0 and 2")] {
            let mut vectors = [0.5f32; 6];
            vectors[at] = f32::NAN;
            let similarity = Similarity::Factored { vectors: &vectors, width: 2 };
            let result = evaluation::agreement(device, Precision::Fp32, embeddings, similarity, 0..3, None);
            let error = result.unwrap_err().to_string();
            assert!(error.contains(&format!("images {images} is NaN")), "{device}: {error}");
        }
    }
}

#[test]
fn agreement_refuses_what_it_cannot_compare() {
    let vectors = [0.5f32; 12];
    let similarity = Similarity::Factored { vectors: &vectors, width: 4 };
    let error = |values: &[f32], width, images| {
        Embeddings::new(values, width)
            .and_then(|embeddings| agreement(embeddings, similarity, images))
            .unwrap_err()
            .to_string()
    };
    assert!(error(&[1.0; 7], 3, 0..2).contains("7 values cannot be divided into rows of 3"));
    assert!(error(&[1.0, 1.0, 1.0, f32::NAN], 2, 0..2).contains("row 1, column 1 is NaN"));
    assert!(error(&[1.0; 4], 2, 0..3).contains("2 rows for images 0..3 of 3"));
    assert!(error(&[1.0; 4], 2, 2..4).contains("2 rows for images 2..4 of 3"));
    assert!(error(&[1.0; 2], 2, 0..1).contains("at least two images"));

    let matrix = [1.0, 0.5, 0.5, 1.0, 1.0, f32::NAN, 0.0, 0.0, 1.0];
    let similarity = Similarity::MatrixF32 { values: &matrix, images: 3 };
    let embeddings = Embeddings::new(&[1.0, 2.0, 3.0], 1).unwrap();
    let error = row_kendall(embeddings, similarity, 0..3).unwrap_err().to_string();
    assert!(error.contains("images 1 and 2 is NaN"), "{error}");
}

#[test]
fn ranks_and_metrics_equal_scipy_reference_with_ties_against_the_query() {
    let (index, _) = exact_images();
    let mut queries: Vec<f32> = integers(IMAGES * 5, 13, 5).map(|v| v - 2.0).collect();
    for image in (0..IMAGES).step_by(3) {
        queries[image * 5..][..5].copy_from_slice(&index[image * 5..][..5]);
    }
    let targets: Vec<u32> = (0..IMAGES as u32).collect();
    let (queries, index) = (Embeddings::new(&queries, 5).unwrap(), Embeddings::new(&index, 5).unwrap());
    let ranks = ranks(queries, index, &targets).unwrap();
    for device in devices() {
        let on_device = evaluation::ranks(device, Precision::Fp32, queries, index, &targets).unwrap();
        assert_eq!(on_device, ranks, "{device}");
    }
    for (query, &rank) in ranks.iter().enumerate() {
        let score =
            |image: usize| queries.row(query).iter().zip(index.row(image)).map(|(a, b)| a * b).sum::<f32>();
        let worst = (0..IMAGES).filter(|&image| score(image) >= score(query)).count();
        assert_eq!(rank as usize, worst, "query {query}");
    }
    let metrics = RetrievalMetrics::new(&ranks);
    close("mrr", metrics.mrr, 0.35626845602163093, 1e-15);
    close("recall@1", metrics.recall_at_1, 0.2702702702702703, 1e-15);
    close("recall@5", metrics.recall_at_5, 0.43243243243243246, 1e-15);
    assert_eq!(metrics.recall.len(), 100);
    assert_eq!((metrics.recall[0], metrics.recall[4]), (metrics.recall_at_1, metrics.recall_at_5));
    assert!(metrics.recall.windows(2).all(|pair| pair[0] <= pair[1]));
    assert_eq!(metrics.recall[IMAGES - 1], 1.0);
}

#[test]
fn identical_images_all_rank_last_and_other_targets_are_found() {
    let same = vec![0.1f32; 65 * 300];
    let same = Embeddings::new(&same, 300).unwrap();
    let targets: Vec<u32> = (0..65).rev().collect();
    for device in devices() {
        assert_eq!(evaluation::ranks(device, Precision::Fp32, same, same, &targets).unwrap(), [65; 65]);
    }

    let basis = Embeddings::new(&[1.0, 0.0, 0.0, 1.0], 2).unwrap();
    assert_eq!(ranks(basis, basis, &[1, 1]).unwrap(), [2, 1]);
    assert!(ranks(basis, basis, &[0]).unwrap_err().to_string().contains("1 targets for 2 queries"));
    assert!(ranks(basis, basis, &[0, 2]).unwrap_err().to_string().contains("query 1 looks for image 2"));
}

#[test]
fn nearest_equals_a_full_sort() {
    let (width, images) = (3, 2500);
    // Coarse values, so that many images tie.
    let values: Vec<f32> = integers(images * width, 5, 7).map(|v| v - 3.0).collect();
    let embeddings = Embeddings::new(&values, width).unwrap();
    let search = |query: Embeddings<'_>, k| nearest(Device::Cpu, Precision::Fp32, query, embeddings, k);
    for query in [[1.0, -1.0, 2.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]] {
        let mut all: Vec<(usize, f32)> = (0..images)
            .map(|image| {
                (image, query.iter().zip(embeddings.row(image)).map(|(a, b)| a * b).sum::<f32>() + 0.0)
            })
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for k in [0, 1, 10, 1500, images, images + 5] {
            let got = search(Embeddings::new(&query, width).unwrap(), k).unwrap();
            assert_eq!(got, all[..k.min(images)], "k = {k}");
        }
    }
    assert!(search(embeddings, 3).is_err());
}

#[test]
fn normal_features_are_unit_vectors_and_depend_on_the_seed_alone() {
    let features = normal_features(50, 300, 9);
    for row in features.chunks_exact(300) {
        close("norm", row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>(), 1.0, 1e-6);
    }
    assert_eq!(features, normal_features(50, 300, 9));
    assert_ne!(features, normal_features(50, 300, 10));
    // The features of an image are the same in a larger set.
    assert_eq!(features[..], normal_features(51, 300, 9)[..50 * 300]);
}

/// Runs the independent implementation on two random sets of images and compares every number to 1e-6.
#[test]
fn agreement_and_retrieval_equal_the_scipy_reference() {
    let Some(python) = std::env::var_os("SCENERANK_PEER_PYTHON") else {
        println!("skipped: SCENERANK_PEER_PYTHON names no Python with SciPy");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/peer/metrics.py");
    if !script.exists() {
        println!("skipped: {} does not exist", script.display());
        return;
    }
    for (images, width, captions_width, coarse, seed) in
        [(200usize, 24usize, 50usize, Some(4.0), 1), (131, 300, 300, None, 2), (65, 1, 2, Some(2.0), 3)]
    {
        let round = |value: f32| coarse.map_or(value, |parts: f32| (value * parts).round() / parts);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut uniform =
            |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(0.0..1.0)).collect() };
        // Values between 0 and 1 / width, so that no similarity is clamped. They are divided by a power of
        // two, so that coarse values have exact inner products and the ties are the same.
        let scale = captions_width.next_power_of_two() as f32;
        let captions: Vec<f32> = uniform(images * captions_width).iter().map(|&v| round(v) / scale).collect();
        // The first columns follow the captions, so that the correlations are not only noise.
        let mut embeddings: Vec<f32> =
            uniform(images * width).iter().map(|&v| round(2.0 * v - 1.0)).collect();
        for image in 0..images {
            for column in 0..width.min(captions_width).div_ceil(2) {
                embeddings[image * width + column] =
                    round(4.0 * captions[image * captions_width + column] * scale);
            }
        }
        let queries: Vec<f32> =
            uniform(images * width).iter().zip(&embeddings).map(|(&v, &e)| e + round(3.0 * v)).collect();

        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, values: &[f32], width: usize| -> PathBuf {
            let path = folder.path().join(name);
            write_npy(&path, values, width).unwrap();
            path
        };
        let output = Command::new(&python)
            .arg(&script)
            .arg("--embeddings")
            .arg(write("embeddings.npy", &embeddings, width))
            .arg("--captions")
            .arg(write("captions.npy", &captions, captions_width))
            .arg("--queries")
            .arg(write("queries.npy", &queries, width))
            .output()
            .expect("SCENERANK_PEER_PYTHON runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let want: serde_json::Value = serde_json::from_slice(&output.stdout).expect("metrics.py prints JSON");
        let number =
            |path: &str| want.pointer(path).and_then(|v| v.as_f64()).unwrap_or_else(|| panic!("{path}"));
        let three = |level: &str| {
            ["kendall", "spearman", "pearson"].map(|name| number(&format!("/correlations/{level}/{name}")))
        };

        let index = Embeddings::new(&embeddings, width).unwrap();
        let similarity = Similarity::Factored { vectors: &captions, width: captions_width };
        let targets: Vec<u32> = (0..images as u32).collect();
        let queries = Embeddings::new(&queries, width).unwrap();
        println!("{images} images, scipy: {:?} {:?}", three("per_image"), three("all_pairs"));
        for device in devices() {
            let got =
                evaluation::agreement(device, Precision::Fp32, index, similarity, 0..images, None).unwrap();
            println!("{device}: {got:?}");
            assert_agreement(&got, three("per_image"), three("all_pairs"), 1e-6);
            assert_eq!(got.undefined_rows.kendall as f64, number("/correlations/undefined_rows/kendall"));

            let ranks = evaluation::ranks(device, Precision::Fp32, queries, index, &targets).unwrap();
            let metrics = RetrievalMetrics::new(&ranks);
            close("mrr", metrics.mrr, number("/retrieval/worst/mrr"), 1e-6);
            close("recall@1", metrics.recall_at_1, number("/retrieval/worst/r@1"), 1e-6);
            close("recall@5", metrics.recall_at_5, number("/retrieval/worst/r@5"), 1e-6);
        }
    }
}
