//! Runs the stages of a case on both backends, and compares them within limits derived from the arithmetic.

use super::*;

/// Checks that cells which a stage must not write are still NaN.
pub fn assert_untouched(case: &Case, output: &Output) {
    let untouched = |at: &usize| !output.written.iter().any(|range| range.contains(at));
    let wrong = (0..output.values.len()).filter(untouched).find(|&at| !output.values[at].is_nan());
    assert_eq!(wrong, None, "{}: {} was written beyond the batch", case.name, output.name);
}

/// Compares the outputs of a stage on both backends; `limit` returns the absolute tolerance of each.
pub fn compare(
    stage: &str,
    case: &Case,
    margins: &mut Margins,
    got: &[Output],
    want: &[Output],
    limit: impl Fn(&str) -> f64,
) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        let quantity = format!("{stage}: {}", got.name);
        assert_untouched(case, got);
        assert_untouched(case, want);
        // The expected value is itself rounded to single precision.
        let tolerance = Tolerance { absolute: limit(&got.name), relative: EPS };
        margins.assert_close(&quantity, &case.name, &got.written(), &want.written(), tolerance);
        // The slope of a loss may be a difference of nearly equal numbers.
        if case.well_conditioned && got.name != "d_node_state" {
            margins.assert_norm_close(
                &format!("{quantity}, in norm"),
                &case.name,
                &got.written(),
                &want.written(),
                8.0 * EPS,
            );
        }
    }
}

pub fn abs(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v).abs()).collect()
}

/// Largest Euclidean norm of a column: independent errors add up like this in a product with it.
pub fn largest_column(values: &[f32], columns: usize) -> f64 {
    let mut sums = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v).powi(2));
    }
    largest(&sums).sqrt()
}

/// Limits for a forward block on the rows `x`.
pub fn block_limits(
    case: &Case,
    kind: BlockKind,
    x: &[f32],
    want: &[Output],
) -> impl Fn(&str) -> f64 + use<> {
    let layout = case.layout(kind);
    let inputs = layout.inputs as f64;
    let magnitude = largest(&linear(&abs(x), &abs(&case.weight(kind)), layout.inputs, layout.outputs));
    let z = EPS * (2.0 + inputs.sqrt()) / 2.0 * magnitude;
    let of = |name: &str| want.iter().find(|o| o.name == name).expect("an output").written();
    let (linear, mean, rstd) = (of("linear"), of("mean"), of("rstd"));
    let columns = layout.outputs;
    let xhat = (0..linear.len())
        .map(|at| (f64::from(linear[at] - mean[at % columns]) * f64::from(rstd[at % columns])).abs())
        .fold(0.0, f64::max);
    let (weight, bias) =
        (largest(&case.values[layout.norm_weight.clone()]), largest(&case.values[layout.norm_bias.clone()]));
    let (largest_rstd, largest_z) = (largest(&rstd), largest(&linear));
    // The relative error of the variance is twice that of z over the deviation, plus some roundings. Squares are taken
    // around the first row, which may be |xhat| deviations away.
    let rstd_error = largest_rstd * z + EPS * (2.0 + xhat * xhat);
    let y = weight * (largest_rstd * (2.0 * z + EPS * largest_z) + xhat * rstd_error)
        + 2.0 * EPS * (weight * xhat + bias);
    let variance = 1.0 / f64::from(rstd.iter().copied().fold(f32::INFINITY, f32::min)).powi(2);
    let (z, mean) = (z + EPS * largest_z, z + EPS * largest_z);
    move |name| match name {
        "linear" => z,
        "mean" => mean,
        "rstd" => largest_rstd * rstd_error,
        // A tenth of the batch's values.
        "running_mean" => 0.1 * mean,
        "running_var" => 0.2 * variance * 2.0 * rstd_error,
        "output" | "node_state" => y,
        _ => unreachable!("{name}"),
    }
}

pub fn check_forward(case: &Case, mode: Mode, margins: &mut Margins) {
    // Every stage gets a new pair of backends, so that only its own running statistics have been updated.
    let fresh = || {
        (
            On::new(Cpu::new(), case.config, &case.batch, &case.tensors),
            On::new(Reference::<f64>::new(), case.config, &case.batch, &case.tensors),
        )
    };
    let stage = |name: &str| format!("{name}, {mode:?}");

    let x = edge_gather(&case.batch, &case.nodes, &case.edges, case.config.state_width);
    let (mut cpu, mut reference) = fresh();
    let (got, want) = (edge_hidden(&mut cpu, case, mode), edge_hidden(&mut reference, case, mode));
    let limits = block_limits(case, BlockKind::EdgeHidden, &x, &want);
    compare(&stage("edge_hidden"), case, margins, &got, &want, limits);

    let (mut cpu, mut reference) = fresh();
    let (got, want) = (edge_heads(&mut cpu, case, mode), edge_heads(&mut reference, case, mode));
    let limits = block_limits(case, BlockKind::EdgeHeads, &case.saved.edge_hidden_output, &want);
    compare(&stage("edge_heads"), case, margins, &got, &want, limits);

    let (mut cpu, mut reference) = fresh();
    let (got, want) = (node_hidden(&mut cpu, case, mode), node_hidden(&mut reference, case, mode));
    let limits = block_limits(case, BlockKind::NodeHidden, &case.saved.pooled, &want);
    compare(&stage("node_hidden"), case, margins, &got, &want, limits);

    let (mut cpu, mut reference) = fresh();
    let (mut got, mut want) = (node_output(&mut cpu, case, mode), node_output(&mut reference, case, mode));
    let limits = block_limits(case, BlockKind::NodeOutput, &case.saved.node_hidden_output, &want);
    if !case.config.l2_norm {
        return compare(&stage("node_output"), case, margins, &got, &want, limits);
    }
    let (got_state, want_state) = (got.pop().expect("states"), want.pop().expect("states"));
    compare(&stage("node_output"), case, margins, &got, &want, &limits);
    // The error of a row grows as its length before normalisation shrinks; close to zero its direction is
    // arbitrary.
    let of = |name: &str| want.iter().find(|o| o.name == name).expect("an output").written();
    let block = BlockActivations { linear: of("linear"), mean: of("mean"), rstd: of("rstd") };
    let y = case.relu(BlockKind::NodeOutput, &block);
    let (width, y_limit) = (case.config.state_width, limits("node_state"));
    let lengths: Vec<f64> = y
        .chunks_exact(width)
        .map(|row| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt())
        .collect();
    let (got_rows, want_rows) = (got_state.written(), want_state.written());
    for ((got, want), length) in got_rows.chunks(width).zip(want_rows.chunks(width)).zip(lengths) {
        if length > 100.0 * y_limit {
            let tolerance = Tolerance::absolute(2.0 * y_limit / length + 4.0 * EPS);
            margins.assert_close(&stage("node_output: node_state"), &case.name, got, want, tolerance);
        } else {
            let norm = got.iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!(norm == 0.0 || (norm - 1.0).abs() < 1e-6, "{}: a state of length {norm}", case.name);
        }
    }
    assert_untouched(case, &got_state);
}

pub fn check_pool_and_readout(case: &Case, margins: &mut Margins) {
    let mut cpu = On::new(Cpu::new(), case.config, &case.batch, &case.tensors);
    let mut reference = On::new(Reference::<f64>::new(), case.config, &case.batch, &case.tensors);

    let degree = (0..case.size.nodes).map(|n| case.batch.incidence.degree(n)).max().unwrap_or(0) as f64;
    let messages = case.relu(BlockKind::EdgeHeads, &case.saved.edge_heads);
    let message = 4.0 * EPS * (largest(&messages) + 1.0);
    let (got, want) = (edge_pool(&mut cpu, case), edge_pool(&mut reference, case));
    compare("edge_pool", case, margins, &got, &want, |_| {
        message + EPS * degree.sqrt() / 2.0 * largest(&messages)
    });

    let (on_cpu, on_reference) = (cpu.saved(case), reference.saved(case));
    for kind in BlockKind::ALL {
        let rows = case.saved.block(kind).linear.len() / case.layout(kind).outputs;
        let (got, want) =
            (cpu.mask(case, kind, rows, &on_cpu), reference.mask(case, kind, rows, &on_reference));
        assert_eq!(got, want, "{}: mask of {kind:?}", case.name);
    }

    // Rounding relative to a graph's mean state grows as the mean shrinks. A graph of zero states has length
    // 0, which 1e-12 replaces.
    let width = case.config.state_width;
    let states: Vec<f64> = case.saved.node_state.iter().map(|&v| f64::from(v)).collect();
    let graphs: Vec<_> = case.batch.graph_offsets.windows(2).map(|n| n[0] as usize..n[1] as usize).collect();
    let means = (0..graphs.len()).map(|graph| case.batch.mean_nodes(graph, case.config.image_node_in_mean));
    let lengths: Vec<f64> = means
        .map(|nodes| {
            let rows = &states[nodes.start * width..nodes.end * width];
            let mean = |c: usize| rows.iter().skip(c).step_by(width).sum::<f64>() / nodes.len() as f64;
            (0..width).map(|c| mean(c).powi(2)).sum::<f64>().sqrt().max(L2_EPSILON)
        })
        .collect();
    let roundings = EPS * (4.0 + (width as f64).sqrt() / 2.0);
    let rows = |output: &Output, range: Range<usize>| {
        let values = output.written()[range.start * width..range.end * width].to_vec();
        // Values of one graph, to be compared separately.
        Output { name: output.name.clone(), written: std::iter::once(0..values.len()).collect(), values }
    };
    let compare_graphs = |margins: &mut Margins,
                          got: &Output,
                          want: &Output,
                          of: &dyn Fn(usize) -> Range<usize>,
                          slope: f64| {
        assert_untouched(case, got);
        for (graph, &length) in lengths.iter().enumerate() {
            let (got, want) = (rows(got, of(graph)), rows(want, of(graph)));
            let limit =
                if slope == 0.0 { roundings / length.min(1.0) } else { slope * roundings / length.powi(2) };
            // A state of zeros stays zero, and its gradient is a multiple of the embedding's, which is exact
            // to `roundings`.
            let limit = if length == L2_EPSILON { slope * roundings / length } else { limit };
            compare("readout_loss", case, margins, &[got], &[want], |_| limit);
        }
    };
    let (got, want) = (readout(&mut cpu, case), readout(&mut reference, case));
    compare_graphs(margins, &got[0], &want[0], &|graph| graph..graph + 1, 0.0);
    if case.batch.similarity_positive.is_empty() {
        return;
    }
    let triples = case.batch.similarity_positive.len() as f64;
    for kind in [LossKind::Ranking, LossKind::Triplet, LossKind::InfoNce] {
        let loss = Loss { kind, temperature: 0.7, margin: 0.31 };
        let (got, want) = (readout_loss(&mut cpu, case, &loss), readout_loss(&mut reference, case, &loss));
        compare_graphs(margins, &got[0], &want[0], &|graph| graph..graph + 1, 0.0);
        // Slopes of up to 1 / 0.7 times differences of unit vectors, divided by the number of triples.
        compare_graphs(
            margins,
            &got[2],
            &want[2],
            &|graph| graphs[graph].clone(),
            4.0 / 0.7f64.powi(2) / triples,
        );
        // Cosines divided by the temperature, with the error of the embeddings; the loss adds numbers around
        // 1.
        let shortest = lengths.iter().copied().filter(|&l| l > L2_EPSILON).fold(1.0, f64::min);
        let losses = 2.0 / 0.7 * roundings / shortest + 2.0 * EPS;
        compare(&format!("{kind:?}"), case, margins, &got[1..2], &want[1..2], |_| losses);
    }
}

/// Limits for the backward of batch norm and of the linear layer below it.
pub struct BackwardLimits {
    pub weight: f64,
    pub bias: f64,
    pub z: f64,
    /// Largest gradient with respect to z.
    pub largest_z: f64,
}

/// `d_y` is at most `largest_d`, and each value has an error of `roundings` roundings.
pub fn backward_limits(case: &Case, kind: BlockKind, largest_d: f64, roundings: f64) -> BackwardLimits {
    let (block, layout) = (case.saved.block(kind), case.layout(kind));
    let columns = layout.outputs;
    let rows = (block.linear.len() / columns) as f64;
    let xhat = (0..block.linear.len())
        .map(|at| {
            f64::from(block.linear[at] - block.mean[at % columns]) * f64::from(block.rstd[at % columns])
        })
        .fold(0.0, |most: f64, x| most.max(x.abs()));
    let norm_weight = &case.values[layout.norm_weight];
    let scale = largest(&block.rstd.iter().zip(norm_weight).map(|(r, w)| r * w).collect::<Vec<_>>());
    // sqrt(R) roundings for a sum of R terms; chunks of 64 rows are summed in single precision.
    let sum = EPS * (2.0 + roundings + rows.sqrt().min(8.0));
    let largest_z = scale * largest_d * (1.0 + 1.0 + xhat);
    BackwardLimits {
        weight: sum * rows * largest_d * xhat.max(1.0) / 2.0,
        bias: sum * rows * largest_d / 2.0,
        z: EPS * (4.0 + roundings + rows.sqrt().min(8.0)) / 2.0 * largest_z,
        largest_z,
    }
}

/// Limits for `d_weight = d_z^T x` and `d_x = d_z W`, where d_z has an error of `z` and is at most
/// `largest_z`.
pub fn product_limits(case: &Case, kind: BlockKind, x: &[f32], z: f64, largest_z: f64) -> (f64, f64) {
    let layout = case.layout(kind);
    let rows = (x.len() / layout.inputs) as f64;
    let each = |terms: f64| z + EPS * (2.0 + terms.sqrt()) / 2.0 * largest_z;
    (
        each(rows) * largest_column(x, layout.inputs),
        each(layout.outputs as f64) * largest_column(&case.weight(kind), layout.inputs),
    )
}

pub fn check_backward(case: &Case, margins: &mut Margins) {
    let mut cpu = On::new(Cpu::new(), case.config, &case.batch, &case.tensors);
    let mut reference = On::new(Reference::<f64>::new(), case.config, &case.batch, &case.tensors);
    let ModelConfig { state_width, hidden_width, .. } = case.config;
    let BatchSize { nodes, edges, .. } = case.size;

    // node_output: the gradient first passes the normalisation of rows, which divides it by their length.
    let d = case.random(1, nodes * state_width);
    let y = case.relu(BlockKind::NodeOutput, &case.saved.node_output);
    let largest_d = y.chunks_exact(state_width).zip(d.chunks_exact(state_width)).map(|(y, d)| {
        let length = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        // A row of zeros passes no ReLU.
        match case.config.l2_norm {
            true if length(y) == 0.0 => 0.0,
            true => (largest(d) + length(d)) / length(y),
            false => largest(d),
        }
    });
    let largest_d = largest_d.fold(0.0, f64::max);
    let kind = BlockKind::NodeOutput;
    let limits = backward_limits(case, kind, largest_d, 4.0 + (state_width as f64).sqrt());
    let products = product_limits(case, kind, &case.saved.node_hidden_output, limits.z, limits.largest_z);
    let (got, want) =
        (node_output_backward(&mut cpu, case, &d), node_output_backward(&mut reference, case, &d));
    let all = |name: &str, limits: &BackwardLimits, (weight, x): (f64, f64)| match name {
        "d_norm_weight" => limits.weight,
        "d_norm_bias" => limits.bias,
        "d_z" => limits.z,
        "d_weight" => weight,
        "d_x" => x,
        _ => unreachable!("{name}"),
    };
    compare("node_output_backward", case, margins, &got, &want, |name| all(name, &limits, products));

    let d = case.random(2, nodes * hidden_width);
    let kind = BlockKind::NodeHidden;
    let limits = backward_limits(case, kind, largest(&d), 0.0);
    let products = product_limits(case, kind, &case.saved.pooled, limits.z, limits.largest_z);
    let (got, want) =
        (node_hidden_backward(&mut cpu, case, &d), node_hidden_backward(&mut reference, case, &d));
    compare("node_hidden_backward", case, margins, &got, &want, |name| all(name, &limits, products));

    let d_pooled = case.random(3, nodes * hidden_width);
    let d_edges = case.random(4, edges * case.config.edge_state_width(case.layer));
    let kind = BlockKind::EdgeHeads;
    let limits = backward_limits(case, kind, largest(&d_pooled).max(largest(&d_edges)), 1.0);
    let (got, want) = (
        edge_pool_backward(&mut cpu, case, &d_pooled, &d_edges),
        edge_pool_backward(&mut reference, case, &d_pooled, &d_edges),
    );
    compare("edge_pool_backward", case, margins, &got, &want, |name| all(name, &limits, (0.0, 0.0)));

    let d = case.random(5, edges * case.config.heads_width(case.layer));
    let products = product_limits(case, kind, &case.saved.edge_hidden_output, 0.0, largest(&d));
    let (got, want) =
        (edge_heads_backward(&mut cpu, case, &d), edge_heads_backward(&mut reference, case, &d));
    compare("edge_heads_backward", case, margins, &got, &want, |name| all(name, &limits, products));

    let d = case.random(6, edges * hidden_width);
    let kind = BlockKind::EdgeHidden;
    let limits = backward_limits(case, kind, largest(&d), 0.0);
    let x = edge_gather(&case.batch, &case.nodes, &case.edges, state_width);
    let products = product_limits(case, kind, &x, limits.z, limits.largest_z);
    let most = case.most_summed();
    let (got, want) =
        (edge_hidden_backward(&mut cpu, case, &d), edge_hidden_backward(&mut reference, case, &d));
    compare("edge_hidden_backward", case, margins, &got, &want, |name| match name {
        // Sums of the gradients of up to `most` edges.
        "d_nodes" | "d_edges" => most.sqrt() * products.1,
        _ => all(name, &limits, products),
    });
}

pub fn check(case: &Case, margins: &mut Margins) {
    for mode in [Mode::Train, Mode::Evaluate] {
        check_forward(case, mode, margins);
    }
    check_pool_and_readout(case, margins);
    check_backward(case, margins);
}
