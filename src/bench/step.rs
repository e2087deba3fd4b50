//! Times of a whole training step on any device, by the host's clock. Reading the losses waits for the device.

use std::time::{Duration, Instant};

use scenerank_ptx::timing::LaunchTime;
use serde::Serialize;

use crate::backend::cuda::device::Observer;
use crate::backend::cuda::device::interpreter::Interpretation;
use crate::backend::cuda::launchers;
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::device::{BackendTask, run_kernels};
use crate::backend::{Backend, Mode};
use crate::bench::sizes::Sizes;
use crate::bench::timing::Times;
use crate::error::Result;
use crate::loss::{Loss, LossKind};
use crate::model::{Model, TrainingState};
use crate::network::parameters::{TypeVectors, initial_parameters};
use crate::optimizer::Adam;

pub(super) const LOSS: Loss = Loss { kind: LossKind::Ranking, temperature: 1.0, margin: 0.5 };
pub(super) const LEARNING_RATE: f64 = 1e-4;
pub(super) const WARM_UP: usize = 2;
/// Minimum and maximum number of samples.
const LEAST: usize = 3;
const MOST: usize = 200;

/// Times a step.
pub struct StepTask<'a> {
    /// Network and batch.
    pub sizes: &'a Sizes,
    /// Approximate time to spend.
    pub budget: Duration,
    /// Number of steps before the losses are read; training also reads them only now and then.
    pub steps_per_wait: usize,
}

/// Result of timing a step.
pub struct StepTimes {
    /// Times of a step on a loaded batch, captured and replayed where the backend can. Training also assembles the next batch
    /// beside it; that kernel has its own case.
    pub step: Times,
    /// Times of the phases, each waited for.
    pub phases: Phases,
    /// Whether the loss is finite.
    pub finite: bool,
}

/// Median times in milliseconds. The host waits for each phase, so on a GPU they add up to more than a step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Phases {
    /// Copy of the batch to the device; not part of the step's time.
    pub load_batch: f64,
    /// Forward of all layers.
    pub forward: f64,
    /// Embeddings, losses and their gradient with respect to the node states.
    pub loss: f64,
    /// Backward of all layers.
    pub backward: f64,
    /// Adam.
    pub update: f64,
}

impl BackendTask for StepTask<'_> {
    type Output = StepTimes;

    fn run<B: Backend>(self, backend: B) -> Result<StepTimes> {
        let batch = &self.sizes.batch;
        let (mut model, mut state) = model_of(self.sizes, backend)?;
        let adam = Adam::new(LEARNING_RATE);
        for _ in 0..WARM_UP {
            model.train_step(&LOSS, &adam, &mut state)?;
        }
        model.mean_loss(&state)?;

        let step = repeat(self.budget / 2, || {
            let started = Instant::now();
            for _ in 0..self.steps_per_wait {
                model.train_step(&LOSS, &adam, &mut state)?;
            }
            model.mean_loss(&state)?;
            Ok(started.elapsed() / self.steps_per_wait as u32)
        })?;
        let mut phases: [Vec<f64>; 5] = Default::default();
        repeat(self.budget / 2, || {
            let started = Instant::now();
            let mut last = started;
            let mut phase = |index: usize, model: &mut Model<B>, state: &TrainingState<B>| -> Result<()> {
                model.mean_loss(state)?;
                phases[index].push(last.elapsed().as_secs_f64() * 1e3);
                last = Instant::now();
                Ok(())
            };
            model.load_batch(batch)?;
            phase(0, &mut model, &state)?;
            model.forward(Mode::Train)?;
            phase(1, &mut model, &state)?;
            let d = model.loss(&LOSS, &mut state)?;
            phase(2, &mut model, &state)?;
            model.backward(&mut state, d, None)?;
            phase(3, &mut model, &state)?;
            model.update(&adam, &mut state)?;
            phase(4, &mut model, &state)?;
            Ok(started.elapsed())
        })?;
        let [load_batch, forward, loss, backward, update] = phases.map(|samples| Times::of(samples).ms);
        Ok(StepTimes {
            step,
            phases: Phases { load_batch, forward, loss, backward, update },
            finite: model.mean_loss(&state)?.is_finite(),
        })
    }
}

/// Modelled launches of a training step on a loaded batch, and whether its loss is a number.
pub fn modelled_step(
    sizes: &Sizes,
    format: Format,
    interpretation: Interpretation,
) -> Result<(Vec<LaunchTime>, bool)> {
    let device = launchers::interpreted(interpretation)?;
    let observer = device.observer();
    run_kernels(device, format, ModelledStep { sizes, observer })
}

/// One step, of which the PTX interpreter models the launches.
struct ModelledStep<'a> {
    sizes: &'a Sizes,
    observer: Observer,
}

impl BackendTask for ModelledStep<'_> {
    type Output = (Vec<LaunchTime>, bool);

    fn run<B: Backend>(self, backend: B) -> Result<Self::Output> {
        let (mut model, mut state) = model_of(self.sizes, backend)?;
        self.observer.take();
        model.train_step(&LOSS, &Adam::new(LEARNING_RATE), &mut state)?;
        let launches = self.observer.take().times;
        Ok((launches, model.mean_loss(&state)?.is_finite()))
    }
}

/// A model with the batch of `sizes` loaded.
pub(super) fn model_of<B: Backend>(sizes: &Sizes, backend: B) -> Result<(Model<B>, TrainingState<B>)> {
    let Sizes { config, batch, capacity, .. } = sizes;
    let unknown = TypeVectors { vectors: &[], width: 0, known: &|_| false };
    let tensors = initial_parameters(*config, unknown, unknown, 1);
    let mut model = Model::new(backend, *config, &tensors, *capacity)?;
    let state = TrainingState::new(&model)?;
    model.load_batch(batch)?;
    Ok((model, state))
}

/// Times of `work` until the budget is used up.
pub(super) fn repeat(budget: Duration, mut work: impl FnMut() -> Result<Duration>) -> Result<Times> {
    let (started, mut samples) = (Instant::now(), Vec::new());
    while samples.len() < LEAST || (samples.len() < MOST && started.elapsed() < budget) {
        samples.push(work()?.as_secs_f64() * 1e3);
    }
    Ok(Times::of(samples))
}

/// Number of floating-point operations in the products of a step: forward, and the gradient with respect to each
/// operand.
pub fn step_flops(sizes: &Sizes) -> u64 {
    3 * forward_flops(sizes)
}

/// Number of floating-point operations in the products of a forward pass. The first product of a layer is split by
/// operand. Layer 0 computes it once per type that occurs.
pub(super) fn forward_flops(sizes: &Sizes) -> u64 {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (state, hidden) = (config.state_width, config.hidden_width);
    let forward = |layer: usize| {
        let (node_rows, edge_rows) = match layer {
            0 => (sizes.batch.object_occurrences.types.len(), sizes.batch.predicate_occurrences.types.len()),
            _ => (nodes, edges),
        };
        let edge_hidden = (2 * node_rows + edge_rows) * state * hidden;
        let edge_heads = edges * hidden * config.heads_width(layer);
        2 * (edge_hidden + edge_heads + nodes * hidden * (hidden + state))
    };
    (0..config.layers).map(forward).sum::<usize>() as u64
}

#[cfg(test)]
mod tests {
    use super::step_flops;
    use crate::bench::sizes::Sizes;
    use crate::network::config::ModelConfig;

    #[test]
    fn a_step_of_sixteen_triples_costs_what_was_counted() {
        let sizes = Sizes::new(ModelConfig::PAPER, 16);
        let types = &sizes.batch.object_occurrences.types;
        let predicates = &sizes.batch.predicate_occurrences.types;
        // 64.4 GFLOP with layer 0 on nodes and edges, by hand; less what the types save.
        let saved = 6 * (2 * (1056 - types.len()) + 1728 - predicates.len()) * 300 * 512;
        assert_eq!(step_flops(&sizes) + saved as u64, 64_414_679_040);
    }
}
