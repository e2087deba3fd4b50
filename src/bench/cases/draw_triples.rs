//! draw_triples: an epoch of the paper's training images.

use std::ops::Range;

use super::indices;
use crate::backend::cuda::launchers::draw_triples::{Anchors, Triples, draw_triples};
use crate::backend::cuda::launchers::linear::Format;
use crate::batch::triples::{Sampling, Triple, TripleSampler};
use crate::bench::case::{Case, Cost, Grows, Host, OtherLengths, Prepared, all_mut, unwritten};
use crate::bench::chain::Chain;
use crate::bench::check::Output;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::data::similarity::Similarity;
use crate::network::config::ModelConfig;

/// Number of training images in the paper; fewer for a smaller network.
const IMAGES: usize = 31_750;
const FEW_IMAGES: usize = 200;
/// Mean similarity of two images, as in the paper's captions.
const MEAN: f64 = 0.7;
/// Rounds of four trials until the unluckiest of some thousand anchors has its triple.
const ROUNDS: usize = 8;
const SEED: u64 = 5;
const EPOCH: u32 = 3;

/// Anchors of an epoch, and the strategy for their triples.
#[derive(Clone, Debug)]
pub struct Draws {
    /// Number of images that triples are drawn from.
    pub images: Range<usize>,
    /// Anchors; one triple is drawn for each.
    pub anchors: Vec<u32>,
    /// Width of the caption vectors.
    pub width: usize,
    /// Sampling strategy.
    pub sampling: Sampling,
    /// Seed of the sampler.
    pub seed: u64,
    /// Number of the epoch.
    pub epoch: u32,
}

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let (width, seed) = (sizes.config.state_width, sizes.seed);
    let images = if width < ModelConfig::PAPER.state_width { FEW_IMAGES } else { IMAGES };
    let of = |sampling| Draws {
        images: 0..images,
        anchors: (0..images as u32).collect(),
        width,
        sampling,
        seed: SEED,
        epoch: EPOCH,
    };
    [Sampling::Random, Sampling::Probability, Sampling::Reject]
        .map(|sampling| triples(of(sampling), move || caption_vectors(images, width, seed)))
        .into()
}

/// Triples of the CPU's sampler; -1 and NaN where it finds none. `draw` returns the caption vectors of all images.
pub fn triples(of: Draws, draw: impl Fn() -> Vec<f32> + 'static) -> Case {
    // Expected number of similarities per draw: a positive is accepted after 1 / mean trials, a negative after 1 / (1 -
    // mean), and half of all pairs are in order.
    let independent = 1.0 / MEAN + 1.0 / (1.0 - MEAN);
    let (name, similarities) = match of.sampling {
        Sampling::Random => ("random", 2.0),
        Sampling::Extreme => ("extreme", 0.0),
        Sampling::Probability => ("probability", independent),
        Sampling::Reject => ("reject", 2.0 * independent),
    };
    let (count, width) = (of.anchors.len(), of.width);
    Case {
        kernel: "draw_triples",
        shape: format!("{name}, {count} anchors, width {width}"),
        // Reads caption vectors and anchors, writes triples. Each similarity takes one multiply-add per value.
        cost: Cost::of(
            of.images.len() * width + 5 * count,
            (count as f64 * similarities * 2.0 * width as f64).round() as usize,
        ),
        chain: Chain::loads(2 * ROUNDS),
        grows: Grows::Nothing,
        format: Format::Fp32,
        prepare: Box::new(move |spare| {
            let (launched, expected) = (of.clone(), of.clone());
            Prepared {
                host: Host {
                    inputs: vec![draw()],
                    indices: vec![indices(&of.anchors)],
                    outputs: vec![unwritten(count + spare), unwritten(count + spare)],
                    others: OtherLengths {
                        found: if count == 0 { 0 } else { 2 * count + spare },
                        ..Default::default()
                    },
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([caption_vectors], [anchors], to, others) = arrays.parts();
                    let [similarity_positive, similarity_negative] = to;
                    let Draws { images, sampling, seed, epoch, .. } = launched.clone();
                    let (positive, negative) = all_mut(&mut others.found).split_at(count);
                    let mut triples =
                        Triples { positive, negative, similarity_positive, similarity_negative };
                    let of = Anchors { anchors, caption_vectors, width, images };
                    draw_triples(device, &mut triples, of, sampling, seed, epoch)
                }),
                expected: Box::new(move |host, _| {
                    let similarity = Similarity::Factored { vectors: &host.inputs[0], width };
                    let Draws { images, sampling, seed, epoch, .. } = expected.clone();
                    let sampler = TripleSampler::new(similarity, images, sampling, seed);
                    let sampler = sampler.expect("similarities of all images");
                    let triples: Vec<_> =
                        expected.anchors.iter().map(|&anchor| sampler.draw(epoch, anchor)).collect();
                    let similarities = |of: fn(&Triple) -> f32| -> Vec<f64> {
                        let of = |triple: &Option<Triple>| triple.as_ref().map_or(f32::NAN, of);
                        triples.iter().map(|triple| f64::from(of(triple))).collect()
                    };
                    let images = |of: fn(&Triple) -> u32| {
                        triples.iter().map(move |triple| triple.as_ref().map_or(-1.0, |t| f64::from(of(t))))
                    };
                    // Sums have the order of the CPU's sampler, so they are equal.
                    let mut outputs = vec![
                        Output::exact("similarity_positive", similarities(|t| t.similarity_positive))
                            .with_nan(),
                        Output::exact("similarity_negative", similarities(|t| t.similarity_negative))
                            .with_nan(),
                    ];
                    // Without anchors there is no output of images.
                    if count > 0 {
                        let images = images(|t| t.positive).chain(images(|t| t.negative)).collect();
                        outputs.push(Output::exact("images", images));
                    }
                    outputs
                }),
            }
        }),
    }
}

/// `[images, width]` caption vectors. A shared component sets the mean similarity of two images; each also has a
/// component of its own.
fn caption_vectors(images: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut vectors = Values::new(seed).signed(images * width);
    // The variance of a uniform value in -1..1 is 1/3.
    let own = (3.0 * (1.0 - MEAN) / (width - 1) as f64).sqrt() as f32;
    for vector in vectors.chunks_exact_mut(width) {
        vector.iter_mut().for_each(|value| *value *= own);
        vector[0] = MEAN.sqrt() as f32;
    }
    vectors
}
