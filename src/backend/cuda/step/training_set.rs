//! The training set on the device, so that a step needs nothing from the host but its launch.
//!
//! ```text
//!   once         upload graphs and caption vectors
//!   each epoch   upload the order of the anchors; draw_triples; download the images of the triples; the host draws
//!                the triples that rejection did not find, or all of them if the kernels cannot draw (`extreme`, or a
//!                matrix of similarities), and adds up the sizes of the batches; assemble_graph_batch: the first batch
//!   each step    assemble_graph_batch, beside the stages of the step: builds the batch of the next one
//! ```
//!
//! There are two slots. A step reads the batch in one and assembles the next batch in the other, on the branch. So there
//! are two captured steps, which alternate. The step that ends an epoch assembles a batch without graphs, which no step reads.
//!
//! Grids cover the largest batch that was drawn (`TrainingSet::largest`). A batch of the largest graphs would be two to three
//! times as large: sums over many graphs hardly differ.

use rayon::prelude::*;

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Element};
use crate::backend::cuda::launchers::batch_places::Places;
use crate::backend::cuda::launchers::draw_triples::{Anchors, Triples, draw_triples};
use crate::backend::cuda::launchers::graph_batch::{
    BatchSlot, Collection, CollectionPlaces, EpochTriples, assemble_graph_batch,
};
use crate::batch::graph_batch::BatchSize;
use crate::batch::triples::{Sampling, TripleSampler};
use crate::data::scene_graph::SceneGraph;
use crate::data::similarity::Similarity;
use crate::error::{Error, Result};
use crate::network::config::ModelConfig;

/// Graphs, the triples of an epoch, and the position of the next step.
pub(crate) struct TrainingSet {
    collection: Buffer<i32>,
    places: CollectionPlaces,
    /// Numbers of nodes and of edges of each graph.
    sizes: Vec<[usize; 2]>,
    /// Largest sizes of the batches drawn so far.
    largest: BatchSize,
    /// Caption vectors; `None` if the host draws.
    caption_vectors: Option<CaptionVectors>,
    triples: TripleLists,
    /// Number of anchors of this epoch: all training images, or the share of this rank.
    drawn: usize,
    /// `[1]` first anchor of the batch that is assembled next.
    position: Buffer<i32>,
    scratch: Buffer<i32>,
    /// Batch of the step, and of the next one.
    slots: [Buffer<i32>; 2],
    /// Slot of the step's batch.
    current: usize,
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
        let mut sizes = Vec::new();
        let graphs = graphs.inspect(|graph| sizes.push([graph.node_count(), graph.edge_count()]));
        let (collection, places) =
            CollectionPlaces::pack(graphs, config.object_types, config.predicate_types);
        Self::allocate(device, (&collection, places, sizes), slot, sampler).map_err(|error| match error {
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
        (collection, places, sizes): (&[i32], CollectionPlaces, Vec<[usize; 2]>),
        slot: &Places,
        sampler: &TripleSampler<'_>,
    ) -> Result<Self> {
        let images = sampler.images();
        let anchors = images.len();
        let caption_vectors = match (sampler.sampling(), sampler.similarity()) {
            (Sampling::Extreme, _) | (_, Similarity::MatrixF32 { .. } | Similarity::MatrixF16 { .. }) => None,
            (_, Similarity::Factored { vectors, width }) => {
                Some(CaptionVectors { values: device.allocate_copy(&vectors[..images.end * width])?, width })
            }
        };
        let assembled = || device.allocate_unwritten(slot.slot_len());
        Ok(TrainingSet {
            collection: device.allocate_copy(collection)?,
            scratch: device.allocate_unwritten(places.scratch_len(slot))?,
            slots: [assembled()?, assembled()?],
            current: 0,
            places,
            sizes,
            largest: BatchSize::default(),
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
        })
    }

    /// Draws the triples of `order`, assembles the first batch, and returns which of the anchors have a triple. Steps begin
    /// at anchor `position`.
    pub(crate) fn begin_epoch(
        &mut self,
        device: &Device,
        sampler: &TripleSampler<'_>,
        epoch: u32,
        order: &[u32],
        (position, places): (usize, &Places),
    ) -> Result<Vec<bool>> {
        let TripleLists { anchors, positive, negative, similarity_positive, similarity_negative } =
            &mut self.triples;
        assert!(order.len() <= anchors.len(), "a training image is an anchor at most once");
        self.drawn = order.len();
        device.upload(bytemuck::cast_slice(order), anchors.all_mut())?;
        device.upload(&[i32::try_from(position).expect("an anchor")], self.position.all_mut())?;
        let [mut positives, mut negatives] = match &self.caption_vectors {
            None => [(); 2].map(|()| vec![-1; order.len()]),
            Some(CaptionVectors { values, width }) => {
                let mut triples = Triples {
                    positive: positive.all_mut(),
                    negative: negative.all_mut(),
                    similarity_positive: similarity_positive.all_mut(),
                    similarity_negative: similarity_negative.all_mut(),
                };
                let of = Anchors {
                    anchors: anchors.slice(0..order.len()),
                    caption_vectors: values.slice(0..values.len()),
                    width: *width,
                    images: sampler.images(),
                };
                draw_triples(device, &mut triples, of, sampler.sampling(), sampler.seed(), epoch)?;
                [device.download(positive, 0..order.len())?, device.download(negative, 0..order.len())?]
            }
        };
        let left: Vec<usize> = (0..order.len()).filter(|&at| positives[at] < 0).collect();
        if !left.is_empty() {
            let drawn: Vec<_> = left.par_iter().map(|&at| sampler.draw(epoch, order[at])).collect();
            let drawn =
                || left.iter().zip(&drawn).filter_map(|(&at, drawn)| drawn.map(|triple| (at, triple)));
            for (at, triple) in drawn() {
                (positives[at], negatives[at]) = (triple.positive as i32, triple.negative as i32);
            }
            device.upload(&positives, positive.all_mut())?;
            device.upload(&negatives, negative.all_mut())?;
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
        let triples = order.iter().zip(positives.iter().zip(&negatives)).skip(position);
        let triples: Vec<Option<[u32; 3]>> = triples
            .map(|(&anchor, (&positive, &negative))| {
                (positive >= 0).then_some([anchor, positive as u32, negative as u32])
            })
            .collect();
        self.largest = largest_batch(self.largest, &triples, places.most.triples, &self.sizes);
        // In series: where overlapping launches fail, only captured steps are tried again without.
        device.without_overlap(|| self.assemble(device, self.current, places))?;
        Ok(positives.into_iter().map(|positive| positive >= 0).collect())
    }

    /// Sizes that no batch of the epochs begun so far exceeds.
    pub(crate) fn largest(&self) -> BatchSize {
        self.largest
    }

    /// Number of anchors of the epoch.
    pub(crate) fn anchors(&self) -> usize {
        self.drawn
    }

    /// Slot of the step's batch, below 2.
    pub(crate) fn current(&self) -> usize {
        self.current
    }

    /// The step's batch.
    pub(crate) fn batch(&self) -> &Buffer<i32> {
        &self.slots[self.current]
    }

    /// Assembles the batch of the next step.
    pub(crate) fn assemble_next(&mut self, device: &Device, places: &Places) -> Result<()> {
        self.assemble(device, 1 - self.current, places)
    }

    /// Makes the batch that was assembled last the step's.
    pub(crate) fn take_next(&mut self) {
        self.current = 1 - self.current;
    }

    /// Assembles the batch of the next anchors in a slot.
    fn assemble(&mut self, device: &Device, slot: usize, places: &Places) -> Result<()> {
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
        let slot = BatchSlot { lists: self.slots[slot].all_mut(), places, scratch: self.scratch.all_mut() };
        assemble_graph_batch(device, slot, &mut self.position.all_mut(), triples, of)
    }
}

/// The largest sizes of `before` and of batches of up to `batch_size` triples, some of which are missing. Graphs have these
/// numbers of nodes and edges.
fn largest_batch(
    before: BatchSize,
    triples: &[Option<[u32; 3]>],
    batch_size: usize,
    sizes: &[[usize; 2]],
) -> BatchSize {
    triples.chunks(batch_size).fold(before, |most, batch| {
        let mut of_batch = BatchSize::default();
        for &image in batch.iter().flatten().flatten() {
            let [nodes, edges] = sizes[image as usize];
            of_batch.graphs += 1;
            of_batch.nodes += nodes;
            of_batch.edges += edges;
        }
        most.max_of_each(of_batch)
    })
}

/// Replaces some values of a list.
fn replace<T: Element>(
    device: &Device,
    list: &mut Buffer<T>,
    values: impl Iterator<Item = (usize, T)>,
) -> Result<()> {
    let mut all = device.download(list, 0..list.len())?;
    values.for_each(|(at, value)| all[at] = value);
    device.upload(&all, list.all_mut())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes and edges are largest in different batches, and the smallest batch has the most triples.
    #[test]
    fn sizes_are_those_of_the_largest_batches() {
        let sizes = [[1, 0], [2, 9], [30, 3], [4, 4]];
        let triples = [Some([0, 0, 0]), Some([0, 0, 0]), None, Some([1, 1, 3]), Some([2, 0, 3]), None];
        let size = |graphs, nodes, edges| BatchSize { graphs, nodes, edges };
        let largest = |before, batch_size| largest_batch(before, &triples, batch_size, &sizes);
        assert_eq!(largest(BatchSize::default(), 2), size(6, 35, 22));
        assert_eq!(largest(BatchSize::default(), 5), size(12, 49, 29));
        assert_eq!(largest(size(7, 30, 100), 2), size(7, 35, 100));
        assert_eq!(largest_batch(size(1, 2, 3), &[], 2, &sizes), size(1, 2, 3));
    }
}
