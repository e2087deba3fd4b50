//! draw_triples: an epoch of the paper's training images.

use super::{SEED as VALUES_SEED, near};
use crate::backend::cuda::launchers::draw_triples::{Anchors, Triples, draw_triples};
use crate::backend::cuda::launchers::linear::Format;
use crate::batch::triples::{Sampling, TripleSampler};
use crate::bench::case::{Case, Cost, Host, OtherLengths, Prepared, all_mut, unwritten};
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::data::similarity::Similarity;
use crate::network::config::ModelConfig;

/// The paper's training images, and fewer for a smaller network.
const IMAGES: usize = 31_750;
const FEW_IMAGES: usize = 200;
/// The mean similarity of two images, as the paper's captions have it.
const MEAN: f64 = 0.7;
const SEED: u64 = 5;
const EPOCH: u32 = 3;

pub(super) fn cases(sizes: &Sizes) -> Vec<Case> {
    let width = sizes.config.state_width;
    let images = if width < ModelConfig::PAPER.state_width { FEW_IMAGES } else { IMAGES };
    // Similarities of a draw: one is accepted in 1 / mean trials, the other in 1 / (1 - mean); half of all pairs are in
    // order.
    let independent = 1.0 / MEAN + 1.0 / (1.0 - MEAN);
    [
        (Sampling::Random, "random", 2.0),
        (Sampling::Probability, "probability", independent),
        (Sampling::Reject, "reject", 2.0 * independent),
    ]
    .map(|(sampling, name, similarities)| Case {
        kernel: "draw_triples",
        shape: format!("{name}, {images} anchors, width {width}"),
        // Reads caption vectors and anchors, writes triples; a multiply-add for each value of a similarity.
        cost: Cost::of(
            images * width + 5 * images,
            (images as f64 * similarities * 2.0 * width as f64).round() as usize,
        ),
        format: Format::Fp32,
        // Sums run in the CPU's order.
        prepare: Box::new(move |_| Prepared {
            host: Host {
                inputs: vec![caption_vectors(images, width)],
                indices: vec![(0..images as i32).collect()],
                outputs: vec![unwritten(images), unwritten(images)],
                others: OtherLengths { found: 2 * images, ..Default::default() },
                ..Default::default()
            },
            launch: Box::new(move |device, arrays| {
                let ([caption_vectors], [anchors], [similarity_positive, similarity_negative], others) =
                    arrays.parts();
                let (positive, negative) = all_mut(&mut others.found).split_at(images);
                let mut triples = Triples { positive, negative, similarity_positive, similarity_negative };
                let of = Anchors { anchors, caption_vectors, width, images: 0..images };
                draw_triples(device, &mut triples, of, sampling, SEED, EPOCH)
            }),
            expected: near(0.0, move |host| {
                let similarity = Similarity::Factored { vectors: &host.inputs[0], width };
                let sampler = TripleSampler::new(similarity, 0..images, sampling, SEED);
                let sampler = sampler.expect("similarities of all images");
                let triples: Vec<_> = (0..images as u32)
                    .map(|anchor| sampler.draw(EPOCH, anchor).expect("similarities far from 0 and 1"))
                    .collect();
                let images = triples.iter().map(|triple| triple.positive);
                let images = images.chain(triples.iter().map(|triple| triple.negative));
                vec![
                    triples.iter().map(|triple| f64::from(triple.similarity_positive)).collect(),
                    triples.iter().map(|triple| f64::from(triple.similarity_negative)).collect(),
                    images.map(f64::from).collect(),
                ]
            }),
        }),
    })
    .into()
}

/// `[images, width]`: what all share gives two of them their mean similarity, and what each has for itself the rest.
fn caption_vectors(images: usize, width: usize) -> Vec<f32> {
    let mut vectors = Values::new(VALUES_SEED).signed(images * width);
    // The variance of a uniform value in -1..1 is a third.
    let own = (3.0 * (1.0 - MEAN) / (width - 1) as f64).sqrt() as f32;
    for vector in vectors.chunks_exact_mut(width) {
        vector.iter_mut().for_each(|value| *value *= own);
        vector[0] = MEAN.sqrt() as f32;
    }
    vectors
}
