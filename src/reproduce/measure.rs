//! Evaluation of a trained model or another method: agreement with the captions (Table 2), and retrieval with
//! incomplete queries (Table 3, Figure 4).

use serde::{Deserialize, Serialize};

use super::Reproduction;
use super::material::Material;
use crate::backend::device::{Arithmetic, Device};
use crate::data::scene_graph::SceneGraph;
use crate::data::{Dataset, Split};
use crate::error::Result;
use crate::evaluation::embed::embed_graphs;
use crate::evaluation::noise::{QueryNoise, noise_level};
use crate::evaluation::{
    Agreement, BagOfObjects, Embeddings, QueryEdges, RetrievalMetrics, agreement, mean_name_vectors,
    normal_features,
};
use crate::progress::Progress;
use crate::report::plots::NoisePoint;
use crate::train::first_parameters;

/// Number of edges removed for Table 3 and Figure 4a.
pub(super) const NOISE: usize = 12;
/// Largest number of edges removed for Figure 4b.
pub(super) const MOST_NOISE: usize = 20;
/// Seed for the removed edges, the same for every method.
const QUERY_SEED: u64 = 1;

/// Results of a method in the tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Agreement (Table 2).
    pub agreement: Agreement,
    /// Retrieval (Table 3); `None` if the method cannot embed a query.
    pub retrieval: Option<Retrieval>,
}

/// Table 3, for both interpretations of "edges".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// With edges removed from all edges.
    pub augmented: RetrievalMetrics,
    /// With edges removed from the relationships.
    pub relationships: RetrievalMetrics,
}

/// Figure 4b, for both interpretations of "edges".
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sweep {
    pub augmented: Vec<NoisePoint>,
    pub relationships: Vec<NoisePoint>,
}

/// Function that embeds graphs as `[graphs, width]`.
type Embed<'a> = dyn Fn(&[SceneGraph<'_>]) -> Result<Vec<f32>> + 'a;

/// Device of a computation, and how it computes.
pub(super) type Place = (Device, Arithmetic);
/// Place of computations for which no device was requested.
const ON_CPU: Place = (Device::Cpu, Arithmetic::FP32);

/// A method that embeds any scene graph.
pub(super) struct Method<'a> {
    pub name: String,
    /// Number of values per image.
    pub width: usize,
    /// Device that compares the embeddings, the same as computes them.
    pub place: Place,
    pub embed: Box<Embed<'a>>,
}

impl Method<'_> {
    /// Names of the baselines in tables and legends.
    pub const BAG_OF_OBJECTS: &'static str = "bag of objects";
    pub const NAME_VECTORS: &'static str = "mean of GloVe vectors of object names";
    pub const UNTRAINED: &'static str = "untrained network";
    pub const NORMAL: &'static str = "normal features";

    /// Embeddings of the test images.
    pub fn index(&self, dataset: &Dataset) -> Result<Vec<f32>> {
        let graphs: Vec<_> = dataset.split(Split::Test).map(|image| dataset.graph(image)).collect();
        (self.embed)(&graphs)
    }

    /// Measures the numbers of both tables.
    pub fn measure(&self, dataset: &Dataset) -> Result<Measurement> {
        let index = self.index(dataset)?;
        let at = |edges| self.level(dataset, &index, NOISE, edges);
        Ok(Measurement {
            agreement: agreement_of(dataset, self.place, &index, self.width)?,
            retrieval: Some(Retrieval {
                augmented: at(QueryEdges::Augmented)?,
                relationships: at(QueryEdges::Relationships)?,
            }),
        })
    }

    /// Measures the numbers of Figure 4b.
    pub fn sweep(&self, dataset: &Dataset) -> Result<Sweep> {
        let index = self.index(dataset)?;
        let progress = Progress::new(format!("{}, noise", self.name), Some(2 * MOST_NOISE as u64), "levels");
        let points = |edges| {
            (1..=MOST_NOISE)
                .map(|removed| {
                    let metrics = self.level(dataset, &index, removed, edges)?;
                    progress.advance(1);
                    let RetrievalMetrics { mrr, recall_at_1, recall_at_5, .. } = metrics;
                    Ok(NoisePoint { removed, mrr, recall_at_1, recall_at_5 })
                })
                .collect::<Result<Vec<_>>>()
        };
        let sweep = Sweep {
            augmented: points(QueryEdges::Augmented)?,
            relationships: points(QueryEdges::Relationships)?,
        };
        progress.finish();
        Ok(sweep)
    }

    fn level(
        &self,
        dataset: &Dataset,
        index: &[f32],
        removed: usize,
        edges: QueryEdges,
    ) -> Result<RetrievalMetrics> {
        let noise = QueryNoise { split: Split::Test, removed, edges, seed: QUERY_SEED };
        let ((device, arithmetic), index) = (self.place, Embeddings::new(index, self.width)?);
        Ok(noise_level(device, arithmetic, dataset, index, noise, &self.embed)?.metrics)
    }
}

/// Agreement of the test images' embeddings, for Table 2.
fn agreement_of(
    dataset: &Dataset,
    (device, arithmetic): Place,
    values: &[f32],
    width: usize,
) -> Result<Agreement> {
    let embeddings = Embeddings::new(values, width)?;
    agreement(device, arithmetic, embeddings, dataset.similarity(), dataset.split(Split::Test), None)
}

/// The bag of objects, with weights from the training images.
pub(super) fn bag_of_objects(dataset: &Dataset) -> Method<'_> {
    let bag = BagOfObjects::fit(dataset, dataset.split(Split::Train));
    Method {
        name: Method::BAG_OF_OBJECTS.into(),
        width: bag.width(),
        place: ON_CPU,
        embed: Box::new(move |graphs| Ok(bag.embed(graphs))),
    }
}

/// A row of the tables without training, with one measurement or one per seed.
pub(super) struct Untrained {
    pub name: String,
    pub measurements: Vec<Measurement>,
}

/// Measures the baselines.
pub(super) fn measure_baselines(material: &Material, reproduction: &Reproduction) -> Result<Vec<Untrained>> {
    let dataset = &material.dataset;
    let name_vectors = Method {
        name: Method::NAME_VECTORS.into(),
        width: dataset.word_width(),
        place: ON_CPU,
        embed: Box::new(|graphs| Ok(mean_name_vectors(dataset, graphs))),
    };
    let mut rows = Vec::new();
    for method in [bag_of_objects(dataset), name_vectors] {
        let measurements = vec![method.measure(dataset)?];
        rows.push(Untrained { name: method.name, measurements });
    }
    let base = &reproduction.base;
    let model = base.model(dataset.object_count(), dataset.predicate_count());
    let by_seed = |measure: &dyn Fn(u64) -> Result<Measurement>| {
        (1..=reproduction.seeds).map(measure).collect::<Result<Vec<_>>>()
    };
    let untrained = by_seed(&|seed| {
        let tensors = first_parameters(dataset, model, seed);
        let method = Method {
            name: Method::UNTRAINED.into(),
            width: model.state_width,
            place: (base.device, base.arithmetic()),
            embed: Box::new(|graphs| {
                let progress = Progress::new("embed", Some(graphs.len() as u64), "graphs");
                let place = (base.device, base.arithmetic());
                embed_graphs(place, model, &tensors, graphs, Some(&progress))
            }),
        };
        method.measure(dataset)
    })?;
    rows.push(Untrained { name: Method::UNTRAINED.into(), measurements: untrained });
    let images = dataset.split(Split::Test).len();
    let normal = by_seed(&|seed| {
        let values = normal_features(images, model.state_width, seed);
        let agreement = agreement_of(dataset, ON_CPU, &values, model.state_width)?;
        Ok(Measurement { agreement, retrieval: None })
    })?;
    rows.push(Untrained { name: Method::NORMAL.into(), measurements: normal });
    Ok(rows)
}

/// Agreement of the features supplied by the user.
pub(super) fn measure_features(material: &Material) -> Result<Option<Measurement>> {
    let features = material.features.as_ref();
    features
        .map(|features| {
            let agreement = agreement_of(&material.dataset, ON_CPU, &features.values, features.width)?;
            Ok(Measurement { agreement, retrieval: None })
        })
        .transpose()
}
