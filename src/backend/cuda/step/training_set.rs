//! The training set on the device, so that a step needs nothing from the host but its launch.
//!
//! ```text
//!   once         upload graphs and caption vectors
//!   each epoch   upload the order of the anchors; draw_triples; download which anchors have a triple; the host draws
//!                the triples that rejection did not find, or all of them if the kernels cannot draw (`extreme`, or a
//!                matrix of similarities)
//!   each step    assemble_graph_batch, the first stage of the captured step: builds the batch of the next anchors
//! ```

use rayon::prelude::*;

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Element, SliceMut};
use crate::backend::cuda::launchers::batch_places::Places;
use crate::backend::cuda::launchers::draw_triples::{Anchors, Triples, draw_triples};
use crate::backend::cuda::launchers::graph_batch::{
    BatchSlot, Collection, CollectionPlaces, EpochTriples, assemble_graph_batch,
};
use crate::batch::triples::{Sampling, TripleSampler};
use crate::data::scene_graph::SceneGraph;
use crate::data::similarity::Similarity;
use crate::error::{Error, Result};
use crate::network::config::ModelConfig;

/// Graphs, the triples of an epoch, and the position of the next step.
pub(crate) struct TrainingSet {
    collection: Buffer<i32>,
    places: CollectionPlaces,
    /// Caption vectors; `None` if the host draws.
    caption_vectors: Option<CaptionVectors>,
    triples: TripleLists,
    /// Number of anchors of this epoch: all training images, or the share of this rank.
    drawn: usize,
    /// `[1]` first anchor of the next step.
    position: Buffer<i32>,
    scratch: Buffer<i32>,
}

/// Vectors whose inner products are the similarities.
struct CaptionVectors {
    /// `[images, W]` caption vectors.
    values: Buffer<f32>,
    width: usize,
}

/// Triples of an epoch in the order of their steps, `[A]` each.
struct TripleLists {
    anchors: Buffer<i32>,
    positive: Buffer<i32>,
    negative: Buffer<i32>,
    similarity_positive: Buffer<f32>,
    similarity_negative: Buffer<f32>,
}

impl TrainingSet {
    /// Uploads `graphs`, numbered like the images of the sampler, and the data for drawing triples. Batches
    /// will have the layout `slot`.
    pub(crate) fn new(
        device: &Device,
        graphs: &mut dyn Iterator<Item = SceneGraph<'_>>,
        config: ModelConfig,
        sampler: &TripleSampler<'_>,
        slot: &Places,
    ) -> Result<Self> {
        let (collection, places) =
            CollectionPlaces::pack(graphs, config.object_types, config.predicate_types);
        let scratch = places.scratch_len(slot);
        Self::allocate(device, &collection, places, scratch, sampler).map_err(|error| match error {
            Error::Device { device, problem, .. } => Error::Device {
                device,
                problem: format!("keep the graphs and captions of {} training images: {problem}", sampler.images().len()),
                remedy: "use a GPU with more free memory, a smaller --batch-size, fewer training images, or --device cpu"
                    .into(),
            },
            other => other,
        })
    }

    fn allocate(
        device: &Device,
        collection: &[i32],
        places: CollectionPlaces,
        scratch: usize,
        sampler: &TripleSampler<'_>,
    ) -> Result<Self> {
        let images = sampler.images();
        let anchors = images.len();
        let caption_vectors = match (sampler.sampling(), sampler.similarity()) {
            (Sampling::Extreme, _) | (_, Similarity::MatrixF32 { .. } | Similarity::MatrixF16 { .. }) => None,
            (_, Similarity::Factored { vectors, width }) => {
                Some(CaptionVectors { values: uploaded(device, &vectors[..images.end * width])?, width })
            }
        };
        Ok(TrainingSet {
            collection: uploaded(device, collection)?,
            places,
            caption_vectors,
            triples: TripleLists {
                anchors: device.allocate(anchors)?,
                positive: device.allocate(anchors)?,
                negative: device.allocate(anchors)?,
                similarity_positive: device.allocate(anchors)?,
                similarity_negative: device.allocate(anchors)?,
            },
            drawn: 0,
            position: device.allocate(1)?,
            scratch: device.allocate_unwritten(scratch)?,
        })
    }

    /// Draws the triples of `order` and returns which of its anchors have one. Steps begin at anchor
    /// `position`.
    pub(crate) fn begin_epoch(
        &mut self,
        device: &Device,
        sampler: &TripleSampler<'_>,
        epoch: u32,
        order: &[u32],
        position: usize,
    ) -> Result<Vec<bool>> {
        let TripleLists { anchors, positive, negative, similarity_positive, similarity_negative } =
            &mut self.triples;
        assert!(order.len() <= anchors.len(), "a training image is an anchor at most once");
        self.drawn = order.len();
        device.upload(bytemuck::cast_slice(order), all_mut(anchors))?;
        device.upload(&[i32::try_from(position).expect("an anchor")], all_mut(&mut self.position))?;
        let mut positives = match &self.caption_vectors {
            None => vec![-1; order.len()],
            Some(CaptionVectors { values, width }) => {
                let mut triples = Triples {
                    positive: all_mut(positive),
                    negative: all_mut(negative),
                    similarity_positive: all_mut(similarity_positive),
                    similarity_negative: all_mut(similarity_negative),
                };
                let of = Anchors {
                    anchors: anchors.slice(0..order.len()),
                    caption_vectors: values.slice(0..values.len()),
                    width: *width,
                    images: sampler.images(),
                };
                draw_triples(device, &mut triples, of, sampler.sampling(), sampler.seed(), epoch)?;
                device.download(positive, 0..order.len())?
            }
        };
        let left: Vec<usize> = (0..order.len()).filter(|&at| positives[at] < 0).collect();
        if !left.is_empty() {
            let drawn: Vec<_> = left.par_iter().map(|&at| sampler.draw(epoch, order[at])).collect();
            let drawn =
                || left.iter().zip(&drawn).filter_map(|(&at, drawn)| drawn.map(|triple| (at, triple)));
            for (at, triple) in drawn() {
                positives[at] = triple.positive as i32;
            }
            device.upload(&positives, all_mut(positive))?;
            let negatives = drawn().map(|(at, triple)| (at, triple.negative as i32));
            replace(device, negative, negatives)?;
            replace(
                device,
                similarity_positive,
                drawn().map(|(at, triple)| (at, triple.similarity_positive)),
            )?;
            replace(
                device,
                similarity_negative,
                drawn().map(|(at, triple)| (at, triple.similarity_negative)),
            )?;
        }
        Ok(positives.into_iter().map(|positive| positive >= 0).collect())
    }

    /// Assembles the batch of the next anchors in the slot.
    pub(crate) fn assemble(
        &mut self,
        device: &Device,
        slot: SliceMut<'_, i32>,
        places: &Places,
    ) -> Result<()> {
        let TripleLists { anchors, positive, negative, similarity_positive, similarity_negative } =
            &self.triples;
        let triples = EpochTriples {
            anchors: anchors.slice(0..self.drawn),
            positive: positive.slice(0..self.drawn),
            negative: negative.slice(0..self.drawn),
            similarity_positive: similarity_positive.slice(0..self.drawn),
            similarity_negative: similarity_negative.slice(0..self.drawn),
        };
        let of = Collection { array: self.collection.slice(0..self.collection.len()), places: &self.places };
        let slot = BatchSlot { lists: slot, places, scratch: all_mut(&mut self.scratch) };
        assemble_graph_batch(device, slot, &mut all_mut(&mut self.position), triples, of)
    }
}

fn uploaded<T: Element>(device: &Device, values: &[T]) -> Result<Buffer<T>> {
    let mut buffer = device.allocate_unwritten(values.len())?;
    device.upload(values, all_mut(&mut buffer))?;
    Ok(buffer)
}

/// Replaces some values of a list.
fn replace<T: Element>(
    device: &Device,
    list: &mut Buffer<T>,
    values: impl Iterator<Item = (usize, T)>,
) -> Result<()> {
    let mut all = device.download(list, 0..list.len())?;
    values.for_each(|(at, value)| all[at] = value);
    device.upload(&all, all_mut(list))
}

fn all_mut<T>(buffer: &mut Buffer<T>) -> SliceMut<'_, T> {
    let len = buffer.len();
    buffer.slice_mut(0..len)
}
