//! Batches of the CUDA backend, and capture and replay of its steps.

use super::Cuda;
use super::device::graph::Graph;
use super::device::nvtx;
use super::launchers::batch_places::check_capacity;
use super::launchers::linear::WeightGradient;
use super::launchers::stored::StoredElement;
use super::step::batch::{Batch, SOURCES};
use super::step::training_set::TrainingSet;
use crate::backend::Batches;
use crate::batch::graph_batch::{BatchSize, GraphBatch};
use crate::batch::triples::TripleSampler;
use crate::data::scene_graph::SceneGraph;
use crate::error::Result;
use crate::network::config::ModelConfig;
use crate::network::parameters::{BlockKind, Layout};

/// A captured step.
pub struct Captured {
    graph: Graph,
    /// Size of the largest batch that the grids cover.
    covers: BatchSize,
    /// Number of anchors of an epoch, by which its last batch ends.
    anchors: usize,
}

/// Captured steps, one per source of batches.
pub type Graphs = [Option<Captured>; SOURCES];

impl<T: StoredElement> Batches for Cuda<T> {
    type Batch = Batch;
    type Graphs = Graphs;

    fn plan(&mut self, config: ModelConfig, capacity: BatchSize) -> Result<Batch> {
        check_capacity(config, capacity)?;
        let BatchSize { nodes, edges, .. } = capacity;
        let Cuda { device, format, sums, layer_input, weight_parts, d_node_output, .. } = self;
        let layout = Layout::new(config);
        for (layer, kind) in (0..config.layers).flat_map(|layer| BlockKind::ALL.map(|kind| (layer, kind))) {
            let block = layout.block(layer, kind);
            let (rows, inputs) = match kind {
                // Split by operand, the product has three parts: node states, edge states, node states.
                BlockKind::EdgeHidden => (nodes.max(edges), config.state_width),
                BlockKind::EdgeHeads => (edges, block.inputs),
                BlockKind::NodeHidden | BlockKind::NodeOutput => (nodes, block.inputs),
            };
            sums.of(kind).0.reserve(device, rows, block.outputs)?;
            let of_block = WeightGradient { outputs: block.outputs, inputs, rows };
            weight_parts.reserve(device, format.format, [of_block])?;
        }
        // Two thirds of the gradient of the first weight come from nodes; they share one launch with the
        // rest.
        let (hidden, inputs) = (config.hidden_width, config.state_width);
        let ends = WeightGradient { outputs: 2 * hidden, inputs, rows: nodes };
        weight_parts.reserve(
            device,
            format.format,
            [ends, WeightGradient { outputs: hidden, inputs, rows: edges }],
        )?;
        layer_input.plan(device, config, capacity)?;
        device.reserve(d_node_output, nodes * T::stride(config.state_width))?;
        Batch::new(device, config, capacity)
    }

    fn load_batch(&mut self, from: &GraphBatch, to: &mut Batch) -> Result<()> {
        to.load(&self.device, from)
    }

    fn load_training_set(
        &mut self,
        graphs: &mut dyn Iterator<Item = SceneGraph<'_>>,
        config: ModelConfig,
        sampler: &TripleSampler<'_>,
        batch: &mut Batch,
    ) -> Result<bool> {
        let set = TrainingSet::new(&self.device, graphs, config, sampler, batch.places())?;
        batch.keep_training_set(set);
        Ok(true)
    }

    fn begin_epoch(
        &mut self,
        sampler: &TripleSampler<'_>,
        epoch: u32,
        order: &[u32],
        position: usize,
        batch: &mut Batch,
    ) -> Result<Vec<bool>> {
        batch.begin_epoch(&self.device, sampler, epoch, order, position)
    }

    fn take_from_training_set(&mut self, batch: &mut Batch) -> Result<()> {
        batch.take_from_training_set();
        Ok(())
    }

    fn assemble_next_batch(&mut self, batch: &mut Batch) -> Result<()> {
        batch.assemble_next(&self.device)
    }

    fn end_step(&mut self, batch: &mut Batch) {
        batch.end_step();
    }

    fn begin_capture(&mut self, batch: &mut Batch) -> Result<()> {
        // The exchanges of several ranks are not captured.
        if !self.rank_sums.is_one() {
            return Ok(());
        }
        self.device.begin_capture()?;
        batch.launch_for_most(true);
        Ok(())
    }

    fn end_capture(&mut self, batch: &mut Batch, graphs: &mut Graphs) -> Result<()> {
        if !self.rank_sums.is_one() {
            return Ok(());
        }
        batch.launch_for_most(false);
        let graph = self.device.end_capture()?;
        graphs[batch.source()] =
            Some(Captured { graph, covers: batch.captured_size(), anchors: batch.anchors() });
        Ok(())
    }

    fn launch_in_series(&mut self) -> bool {
        // A step that failed is not taken again: the other ranks would not join in.
        self.rank_sums.is_one() && self.device.launch_in_series()
    }

    unsafe fn replay(&mut self, batch: &Batch, graphs: &Graphs) -> Result<bool> {
        let fits = |captured: &&Captured| {
            batch.captured_size().fits(captured.covers) && batch.anchors() == captured.anchors
        };
        let Some(Captured { graph, .. }) = graphs[batch.source()].as_ref().filter(fits) else {
            return Ok(false);
        };
        let _range = nvtx::range(format_args!("step"));
        // SAFETY: the caller guarantees its buffers. The stages also used the batch's slot and training set,
        // which stay with the batch, and this backend's buffers, which were planned and do not grow any more.
        unsafe { self.device.replay(graph) }?;
        Ok(true)
    }
}
