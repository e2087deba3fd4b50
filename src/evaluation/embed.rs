//! Embeddings of many scene graphs with a trained model.

use crate::backend::Backend;
use crate::backend::device::{Arithmetic, BackendTask, Device};
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::data::scene_graph::SceneGraph;
use crate::error::Result;
use crate::model::Model;
use crate::network::config::ModelConfig;
use crate::network::tensors::NamedTensors;
use crate::progress::Progress;

/// Graphs per batch: enough rows for products to run at full speed, few enough that a layer stays in the
/// cache.
pub const BATCH_GRAPHS: usize = 64;

/// Embeddings `[graphs, D]` of `graphs`, computed in the largest batches that fit `model`.
pub fn embed_with<'a, B: Backend>(
    model: &mut Model<B>,
    graphs: impl Iterator<Item = SceneGraph<'a>>,
    embedded: impl FnMut(usize),
) -> Result<Vec<f32>> {
    let mut embeddings = Vec::new();
    for_each_batch(model, graphs, embedded, |model, batch| {
        embeddings.extend(model.embed(batch)?);
        Ok(())
    })?;
    Ok(embeddings)
}

/// Like [`embed_with`], with the result in the backend's memory.
pub fn embed_on_device<'a, B: Backend>(
    model: &mut Model<B>,
    graphs: impl ExactSizeIterator<Item = SceneGraph<'a>>,
    embedded: impl FnMut(usize),
) -> Result<B::Buffer> {
    let width = model.config().state_width;
    let mut embeddings = model.backend().allocate(graphs.len() * width)?;
    let mut at = 0;
    for_each_batch(model, graphs, embedded, |model, batch| {
        model.embed_into(batch, &mut embeddings, at)?;
        at += batch.size().graphs * width;
        Ok(())
    })?;
    Ok(embeddings)
}

/// Calls `embed` for batches of all `graphs`, and `embedded` with the number of graphs after each.
fn for_each_batch<'a, B: Backend>(
    model: &mut Model<B>,
    graphs: impl Iterator<Item = SceneGraph<'a>>,
    mut embedded: impl FnMut(usize),
    mut embed: impl FnMut(&mut Model<B>, &GraphBatch) -> Result<()>,
) -> Result<()> {
    let (config, most) = (model.config(), model.capacity().graphs);
    let mut graphs = graphs.peekable();
    let mut batch = GraphBatch::default();
    while graphs.peek().is_some() {
        batch.clear();
        let mut count = 0;
        for graph in graphs.by_ref().take(most) {
            batch.push_graph(graph);
            count += 1;
        }
        batch.index(config.object_types, config.predicate_types);
        embed(model, &batch)?;
        embedded(count);
    }
    Ok(())
}

/// Embeddings `[graphs, D]` of `graphs`, with the model that has these parameters. `progress` counts the graphs.
pub fn embed_graphs(
    (device, arithmetic): (Device, Arithmetic),
    config: ModelConfig,
    tensors: &NamedTensors,
    graphs: &[SceneGraph<'_>],
    progress: Option<&Progress>,
) -> Result<Vec<f32>> {
    device.run(arithmetic, EmbedTask { config, tensors, graphs, progress })
}

struct EmbedTask<'a> {
    config: ModelConfig,
    tensors: &'a NamedTensors,
    graphs: &'a [SceneGraph<'a>],
    progress: Option<&'a Progress>,
}

impl BackendTask for EmbedTask<'_> {
    type Output = Vec<f32>;

    fn run<B: Backend>(self, backend: B) -> Result<Vec<f32>> {
        let graphs = self.graphs.iter().copied();
        let capacity = BatchSize::bound(graphs.clone(), BATCH_GRAPHS.min(self.graphs.len()));
        let mut model = Model::new(backend, self.config, self.tensors, capacity)?;
        embed_with(&mut model, graphs, |count| {
            if let Some(progress) = self.progress {
                progress.advance(count as u64);
            }
        })
    }
}
