//! Gradients of the reference in `f64`, compared with central differences, away from the kinks of ReLU and
//! hinge.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::backend::reference::batch_norm::{self, Norm, batch_norm_backward};
use scenerank::backend::reference::edge_gather::{
    edge_gather, edge_gather_backward, embedding_lookup, embedding_lookup_backward,
};
use scenerank::backend::reference::edge_pool::{edge_pool, edge_pool_backward};
use scenerank::backend::reference::l2_normalise::{l2_normalise, l2_normalise_backward};
use scenerank::backend::reference::linear::{linear, linear_backward_input, linear_backward_weight};
use scenerank::backend::reference::readout_loss::{readout, readout_backward, triple_losses};
use scenerank::backend::reference::{Reference, adam};
use scenerank::batch::graph_batch::GraphBatch;
use scenerank::loss::{Loss, LossKind};
use scenerank::model::{Model, TrainingState};
use scenerank::network::config::ModelConfig;
use scenerank::network::parameters::{BlockKind, Parameters, Storage};
use scenerank::optimizer::Adam;

use crate::support::{
    BatchShape, Margins, SMALL, Tolerance, largest, random_batch, random_parameters, sized_batch,
    switched_off,
};

const LOSSES: [LossKind; 3] = [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce];

/// Step of the differences. The error of [`slope`] is the fourth power of the step times a fifth derivative,
/// plus the rounding of f, about 1e-16, divided by the step: 3e-11. A plain difference of two values is not
/// enough: batch norm divides by small deviations, so third derivatives reach 1e5 and the error 1e-5.
const STEP: f64 = 3e-6;

/// Slope at 0 by the central difference of fourth order.
fn slope(step: f64, mut f: impl FnMut(f64) -> f64) -> f64 {
    (8.0 * (f(step) - f(-step)) - (f(2.0 * step) - f(-2.0 * step))) / (12.0 * step)
}

/// The network as specified in docs/model.md, in `f64`, and every decision of a ReLU or hinge.
struct Forward {
    loss: f64,
    decisions: Vec<bool>,
}

fn forward(
    config: ModelConfig,
    parameters: &Parameters<Vec<f64>>,
    batch: &GraphBatch,
    loss: &Loss,
) -> Forward {
    let Parameters { layout, values, .. } = parameters;
    let width = config.state_width;
    let mut decisions = Vec::new();
    let mut block = |layer: usize, kind: BlockKind, x: &[f64]| {
        let block = layout.block(layer, kind);
        let columns = block.outputs;
        let z = linear(x, &values[block.weight.clone()], block.inputs, columns);
        let (mut mean, mut rstd) = (vec![0.0; columns], vec![0.0; columns]);
        let mut running = (vec![0.0; columns], vec![0.0; columns]);
        match config.batch_norm {
            true => batch_norm::train_statistics(&z, &mut mean, &mut rstd, &mut running.0, &mut running.1),
            false => rstd.fill(1.0),
        }
        let (weight, bias) = (&values[block.norm_weight.clone()], &values[block.norm_bias.clone()]);
        let y = Norm { weight, bias, mean: &mean, rstd: &rstd }.relu_rows(&z);
        decisions.extend(y.iter().map(|&y| y > 0.0));
        y
    };
    let mut nodes = embedding_lookup(&values[layout.object_embedding.clone()], &batch.node_object, width);
    let mut edges =
        embedding_lookup(&values[layout.predicate_embedding.clone()], &batch.edge_predicate, width);
    for layer in 0..config.layers {
        let hidden = block(layer, BlockKind::EdgeHidden, &edge_gather(batch, &nodes, &edges, width));
        let heads = block(layer, BlockKind::EdgeHeads, &hidden);
        let (heads_width, object) = (config.heads_width(layer), config.object_head_start(layer));
        let pooled = edge_pool(batch, &heads, heads_width, config.hidden_width, object);
        edges = heads
            .chunks_exact(heads_width)
            .flat_map(|row| row[config.hidden_width..object].to_vec())
            .collect();
        let hidden = block(layer, BlockKind::NodeHidden, &pooled);
        nodes = block(layer, BlockKind::NodeOutput, &hidden);
        if config.l2_norm {
            l2_normalise(&mut nodes, width);
        }
    }
    let embedding = readout(batch, &nodes, width, config.image_node_in_mean);
    let (losses, _) = triple_losses(loss, batch, &embedding, width, batch.similarity_positive.len());
    decisions.extend(losses.iter().map(|&loss| loss > 0.0));
    Forward { loss: losses.iter().sum::<f64>() / losses.len() as f64, decisions }
}

/// Compares the gradient of every parameter tensor with differences, for some of its entries.
fn check_network(config: ModelConfig, batch: &GraphBatch, loss: &Loss, seed: u64, margins: &mut Margins) {
    let case = format!("{config:?}, {:?}, {:?}, seed {seed}", batch.size(), loss.kind);
    let tensors = random_parameters(config, true, seed);
    let mut model = Model::new(Reference::<f64>::new(), config, &tensors, batch.size()).unwrap();
    let mut state = TrainingState::new(&model).unwrap();
    model.load_batch(batch).unwrap();
    model.forward_backward(loss, &mut state).unwrap();
    let gradients = model.gradients(&state).unwrap();

    let mut parameters = crate::support::parameters_on(&mut Reference::<f64>::new(), config, &tensors);
    let here = forward(config, &parameters, batch, loss);
    let mean_loss = f64::from(model.mean_loss(&state).unwrap());
    margins.assert_close("loss", &case, &[mean_loss], &[here.loss], Tolerance::relative(crate::support::EPS));

    let mut rng = StdRng::seed_from_u64(seed);
    let (mut compared, mut skipped) = (0, 0);
    let layouts = parameters.layout.tensors();
    for layout in layouts.into_iter().filter(|layout| layout.storage == Storage::Parameters) {
        let gradient = &gradients[&layout.name].values;
        let mut entries: Vec<usize> = (0..4).map(|_| rng.random_range(0..gradient.len())).collect();
        // Random entries of a table mostly belong to types that do not occur; the largest gradient belongs to
        // one that does.
        entries.push(
            (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap(),
        );
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for entry in entries {
            let at = layout.range.start + entry;
            let value = parameters.values[at];
            let mut kink = false;
            let expected = slope(STEP, |offset| {
                parameters.values[at] = value + offset;
                let there = forward(config, &parameters, batch, loss);
                kink |= there.decisions != here.decisions;
                there.loss
            });
            parameters.values[at] = value;
            if kink {
                skipped += 1;
                continue;
            }
            got.push(f64::from(gradient[entry]));
            want.push(expected);
        }
        compared += got.len();
        // The error of the difference (see STEP), and the gradient's rounding to single precision, 6e-8.
        let tolerance = Tolerance::absolute(2e-10 + 1e-7 * largest(gradient));
        margins.assert_close("gradients", &format!("{case}: {}", layout.name), &got, &want, tolerance);
    }
    assert!(compared >= 9 * skipped, "{case}: {skipped} entries were next to a kink, {compared} compared");
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let mut margins = Margins::default();
    let tiny = ModelConfig {
        object_types: 5,
        predicate_types: 3,
        layers: 1,
        state_width: 3,
        hidden_width: 4,
        ..SMALL
    };
    for kind in LOSSES {
        for layers in 1..=3 {
            for (sizes, seed) in [(SMALL, 1), (SMALL, 2), (tiny, 3), (tiny, 4)] {
                let shape = BatchShape { triples: 2, objects: 5, relationships: 4, oddities: true };
                let batch = random_batch(sizes, shape, seed);
                // A margin that some triples violate and others do not.
                let loss = Loss { kind, temperature: 0.7, margin: 0.05 };
                check_network(
                    ModelConfig { layers, ..sizes },
                    &batch,
                    &loss,
                    10 * seed + layers as u64,
                    &mut margins,
                );
            }
        }
    }
}

#[test]
fn gradients_are_the_slopes_without_any_edge_or_with_parallel_ones() {
    let mut margins = Margins::default();
    let loss = Loss { kind: LossKind::Ranking, temperature: 1.0, margin: 0.5 };
    // Two nodes per graph and 30 edges: every edge is parallel to another, and many are self loops.
    for (nodes, edges) in [(7, 0), (7, 1), (5, 30)] {
        let config = ModelConfig { layers: 2, ..SMALL };
        check_network(config, &sized_batch(config, nodes, edges, 5), &loss, 6, &mut margins);
    }
}

#[test]
fn gradients_are_the_slopes_of_networks_with_something_switched_off() {
    let mut margins = Margins::default();
    for (seed, kind) in (30..).zip(LOSSES) {
        for layers in 1..=3 {
            for config in switched_off(ModelConfig { layers, ..SMALL }) {
                // Few graphs, so that few ReLUs are close to a kink by chance.
                let shape = BatchShape { triples: 1, objects: 4, relationships: 3, oddities: true };
                let loss = Loss { kind, temperature: 0.7, margin: 0.05 };
                check_network(config, &random_batch(config, shape, seed), &loss, seed, &mut margins);
            }
        }
    }
}

/// Compares `gradient` with the slopes of `f` at `x`.
fn check_slopes(name: &str, margins: &mut Margins, x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    let mut x = x.to_vec();
    let slopes: Vec<f64> = (0..x.len())
        .map(|i| {
            let value = x[i];
            let slope = slope(STEP, |offset| {
                x[i] = value + offset;
                f(&x)
            });
            x[i] = value;
            slope
        })
        .collect();
    // Sums of up to a hundred terms round to 1e-15, divided by the step 3e-10.
    margins.assert_close(name, name, gradient, &slopes, Tolerance { absolute: 3e-10, relative: 1e-10 });
}

fn uniform(rng: &mut StdRng, count: usize) -> Vec<f64> {
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[test]
fn batch_norm_backward_is_the_slope() {
    let mut margins = Margins::default();
    for (rows, columns, seed) in [(1usize, 3usize, 1u64), (2, 1, 2), (5, 4, 3), (33, 3, 4)] {
        let mut rng = StdRng::seed_from_u64(seed);
        let weight = uniform(&mut rng, columns);
        let bias = uniform(&mut rng, columns);
        let d_y = uniform(&mut rng, rows * columns);
        let value = |z: &[f64], weight: &[f64], bias: &[f64]| {
            let (mut mean, mut rstd) = (vec![0.0; columns], vec![0.0; columns]);
            let mut running = (vec![0.0; columns], vec![0.0; columns]);
            batch_norm::train_statistics(z, &mut mean, &mut rstd, &mut running.0, &mut running.1);
            let y = Norm { weight, bias, mean: &mean, rstd: &rstd }.relu_rows(z);
            (dot(&y, &d_y), mean, rstd, y)
        };
        // Redrawn until no value is close to a kink.
        let (z, mean, rstd) = loop {
            let z = uniform(&mut rng, rows * columns);
            let (_, mean, rstd, _) = value(&z, &weight, &bias);
            let norm = Norm { weight: &weight, bias: &bias, mean: &mean, rstd: &rstd };
            if z.iter().enumerate().all(|(i, &z)| norm.apply(z, i % columns).abs() > 1e-3) {
                break (z, mean, rstd);
            }
        };
        let norm = Norm { weight: &weight, bias: &bias, mean: &mean, rstd: &rstd };
        let mut d_z = d_y.clone();
        let (mut d_weight, mut d_bias) = (vec![f64::NAN; columns], vec![f64::NAN; columns]);
        batch_norm_backward(&z, norm, true, &mut d_z, &mut d_weight, &mut d_bias);
        check_slopes("batch norm by z", &mut margins, &z, &d_z, |z| value(z, &weight, &bias).0);
        check_slopes("by weight", &mut margins, &weight, &d_weight, |weight| value(&z, weight, &bias).0);
        check_slopes("by bias", &mut margins, &bias, &d_bias, |bias| value(&z, &weight, bias).0);

        // The same statistics as constants.
        let held = |z: &[f64], weight: &[f64], bias: &[f64]| {
            dot(&Norm { weight, bias, mean: &mean, rstd: &rstd }.relu_rows(z), &d_y)
        };
        let mut d_z = d_y.clone();
        batch_norm_backward(&z, norm, false, &mut d_z, &mut d_weight, &mut d_bias);
        check_slopes("constants by z", &mut margins, &z, &d_z, |z| held(z, &weight, &bias));
        check_slopes("constants by weight", &mut margins, &weight, &d_weight, |w| held(&z, w, &bias));
        check_slopes("constants by bias", &mut margins, &bias, &d_bias, |bias| held(&z, &weight, bias));
    }
}

#[test]
fn l2_normalise_backward_is_the_slope_also_where_the_length_is_clamped() {
    let mut margins = Margins::default();
    for (rows, width, seed) in [(4usize, 1usize, 1u64), (3, 5, 2), (2, 13, 3)] {
        let mut rng = StdRng::seed_from_u64(seed);
        let (y, d_x) = (uniform(&mut rng, rows * width), uniform(&mut rng, rows * width));
        let value = |y: &[f64]| {
            let mut x = y.to_vec();
            l2_normalise(&mut x, width);
            dot(&x, &d_x)
        };
        check_slopes("l2_normalise", &mut margins, &y, &l2_normalise_backward(&y, &d_x, width), value);
        // Lengths below 1e-12, where the function is a plain multiple; in units of 1e-12 to keep the step
        // sensible.
        let small: Vec<f64> = y.iter().map(|v| v * 0.1).collect();
        let scaled = |y: &[f64]| value(&y.iter().map(|v| v * 1e-12).collect::<Vec<_>>());
        let tiny: Vec<f64> = small.iter().map(|v| v * 1e-12).collect();
        let d_small: Vec<f64> = l2_normalise_backward(&tiny, &d_x, width).iter().map(|d| d * 1e-12).collect();
        check_slopes("l2_normalise, clamped", &mut margins, &small, &d_small, scaled);
    }
    let zero = l2_normalise_backward(&[0.0, 0.0], &[1.0, -2.0], 2);
    assert_eq!(zero, [1e12, -2e12], "at the origin");
}

#[test]
fn linear_and_its_inputs_backward_are_the_slopes() {
    let mut margins = Margins::default();
    let (rows, inputs, outputs) = (5, 4, 3);
    let mut rng = StdRng::seed_from_u64(1);
    let (x, weight) = (uniform(&mut rng, rows * inputs), uniform(&mut rng, outputs * inputs));
    let d_y = uniform(&mut rng, rows * outputs);
    let mut d_weight = vec![f64::NAN; weight.len()];
    linear_backward_weight(&d_y, &x, inputs, outputs, &mut d_weight);
    let d_x = linear_backward_input(&d_y, &weight, inputs, outputs);
    let value = |x: &[f64], weight: &[f64]| dot(&linear(x, weight, inputs, outputs), &d_y);
    check_slopes("linear by x", &mut margins, &x, &d_x, |x| value(x, &weight));
    check_slopes("linear by weight", &mut margins, &weight, &d_weight, |weight| value(&x, weight));

    for (nodes, edges) in [(3, 1), (6, 11), (7, 0)] {
        let width = 3;
        let batch = sized_batch(SMALL, nodes, edges, 2);
        let (x, e) = (uniform(&mut rng, nodes * width), uniform(&mut rng, edges * width));
        let d = uniform(&mut rng, edges * 3 * width);
        let (mut d_x, mut d_e) = (vec![f64::NAN; x.len()], vec![f64::NAN; e.len()]);
        edge_gather_backward(&batch, &d, width, &mut d_x, &mut d_e);
        let value = |x: &[f64], e: &[f64]| dot(&edge_gather(&batch, x, e, width), &d);
        check_slopes("edge_gather by nodes", &mut margins, &x, &d_x, |x| value(x, &e));
        check_slopes("edge_gather by edges", &mut margins, &e, &d_e, |e| value(&x, e));

        let (table, d) = (uniform(&mut rng, SMALL.object_types * width), uniform(&mut rng, nodes * width));
        let mut d_table = vec![f64::NAN; table.len()];
        embedding_lookup_backward(&d, &batch.node_object, width, &mut d_table);
        let value = |table: &[f64]| dot(&embedding_lookup(table, &batch.node_object, width), &d);
        check_slopes("embedding_lookup", &mut margins, &table, &d_table, value);
    }
}

#[test]
fn edge_pool_backward_is_the_slope() {
    let mut margins = Margins::default();
    for (state, edges, seed) in [(3usize, 0usize, 1u64), (3, 1, 2), (0, 9, 3), (2, 25, 4)] {
        let (hidden, nodes) = (4, 7);
        let width = 2 * hidden + state;
        let batch = sized_batch(SMALL, nodes, edges, seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let heads = uniform(&mut rng, edges * width);
        let (d_pooled, d_edges) = (uniform(&mut rng, nodes * hidden), uniform(&mut rng, edges * state));
        let value = |heads: &[f64]| {
            let states: Vec<f64> =
                heads.chunks_exact(width).flat_map(|row| row[hidden..hidden + state].to_vec()).collect();
            dot(&edge_pool(&batch, heads, width, hidden, hidden + state), &d_pooled) + dot(&states, &d_edges)
        };
        let d_heads = edge_pool_backward(&batch, &d_pooled, &d_edges, width, hidden, hidden + state);
        check_slopes("edge_pool", &mut margins, &heads, &d_heads, value);
    }
}

#[test]
fn readout_and_losses_backward_are_the_slopes() {
    let mut margins = Margins::default();
    let (width, triples) = (5, 8);
    let shape = BatchShape { triples, objects: 4, relationships: 3, oddities: true };
    let batch = random_batch(SMALL, shape, 1);
    let mut rng = StdRng::seed_from_u64(1);
    let nodes = uniform(&mut rng, batch.size().nodes * width);
    let d_embedding = uniform(&mut rng, 3 * triples * width);
    for image_node_in_mean in [true, false] {
        let d_nodes = readout_backward(&batch, &nodes, &d_embedding, width, image_node_in_mean);
        let value = |nodes: &[f64]| dot(&readout(&batch, nodes, width, image_node_in_mean), &d_embedding);
        check_slopes("readout", &mut margins, &nodes, &d_nodes, value);
    }

    let embedding = readout(&batch, &nodes, width, true);
    for kind in LOSSES {
        let loss = Loss { kind, temperature: 0.7, margin: 0.0 };
        let (losses, d) = triple_losses(&loss, &batch, &embedding, width, triples);
        let active = losses.iter().filter(|&&loss| loss > 0.0).count();
        assert!(
            kind != LossKind::Triplet || (1..triples).contains(&active),
            "{active} of {triples} violate the margin"
        );
        let value = |embedding: &[f64]| {
            triple_losses(&loss, &batch, embedding, width, triples).0.iter().sum::<f64>() / triples as f64
        };
        check_slopes(&format!("{kind:?}"), &mut margins, &embedding, &d, value);
    }
}

/// Adam's formula as in the paper, with the moments unrolled into sums over all steps.
#[test]
fn adam_follows_its_formula() {
    let settings = Adam::new(0.01);
    let gradients = [0.3f64, -2.0, 0.0, 1e-9, 5.0];
    let (mut value, mut first, mut second) = ([1.0f64], [0.0], [0.0]);
    let mut expected = 1.0;
    for t in 1..=gradients.len() {
        adam::adam_step(
            &settings.at_step(t as u64, 0.0),
            &mut value,
            &gradients[t - 1..t],
            &mut first,
            &mut second,
        );
        let moment = |beta: f64, power: i32| {
            let terms = gradients[..t].iter().enumerate();
            let sum: f64 = terms.map(|(i, g)| beta.powi((t - 1 - i) as i32) * g.powi(power)).sum();
            (1.0 - beta) * sum / (1.0 - beta.powi(t as i32))
        };
        expected -= 0.01 * moment(0.9, 1) / (moment(0.999, 2).sqrt() + 1e-8);
        assert!((value[0] - expected).abs() < 1e-14, "step {t}: {} where {expected} is expected", value[0]);
    }
}
