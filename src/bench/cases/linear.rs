//! linear: the products of a layer, each with its gradients, plain and with what is fused with them.

use std::rc::Rc;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::batch_norm::{
    batch_statistics, decided_inputs, expected_backward, expected_statistics, norm_backward, norm_gradient,
};
use super::{ROUNDING, count, counted, indices, norm, reference_norm, roundings, stored_tolerance};
use crate::backend::L2_EPSILON;
use crate::backend::cuda::batch_norm::NormBackward;
use crate::backend::cuda::edge_hidden::Ends;
use crate::backend::cuda::linear::{
    Backward, Format, Forward, Gradient, Input, LinearGradients, Matrix, MatrixMut, Unit, is_large,
    linear_backward, linear_backward_states, linear_backward_unit, linear_forward, linear_forward_gather,
    linear_forward_two, linear_forward_unit,
};
use crate::backend::cuda::stored::StoredElement;
use crate::batch::graph_batch::GraphBatch;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;

/// Columns of wider rows, from one on.
#[derive(Clone, Copy)]
struct Part {
    start: usize,
    of: usize,
}

impl Part {
    /// `count` columns of each of the rows.
    fn take(self, rows: &[f64], count: usize) -> Vec<f64> {
        rows.chunks_exact(self.of).flat_map(|row| row[self.start..][..count].to_vec()).collect()
    }
}

/// A product `[rows, inputs] x [outputs, inputs]^T`.
#[derive(Clone, Copy)]
struct Product {
    what: &'static str,
    rows: usize,
    inputs: usize,
    outputs: usize,
    format: Format,
}

pub(super) fn cases<T: StoredElement>(sizes: &Sizes, format: Format) -> Vec<Case> {
    let (nodes, edges, config) = (sizes.nodes(), sizes.edges(), sizes.config);
    let (state, hidden, heads) = (config.state_width, config.hidden_width, config.heads_width(0));
    let plain = [
        ("nodes of edge.hidden", nodes, state, hidden),
        ("edges of edge.hidden", edges, state, hidden),
        ("heads", edges, hidden, heads),
        ("node.hidden", nodes, hidden, hidden),
        ("node.output", nodes, hidden, state),
    ]
    .into_iter()
    .map(|(what, rows, inputs, outputs)| Product { what, rows, inputs, outputs, format })
    .flat_map(|product| [forward::<T>(product), backward::<T>(product)]);
    let edge_hidden = Product { what: "edge.hidden", rows: edges, inputs: state, outputs: hidden, format };
    let heads = Product { what: "heads", rows: edges, inputs: hidden, outputs: heads, format };
    let node_hidden = Product { what: "node.hidden", rows: nodes, inputs: hidden, outputs: hidden, format };
    let node_output = Product { what: "node.output", rows: nodes, inputs: hidden, outputs: state, format };
    let ends =
        Product { what: "nodes of edge.hidden", rows: nodes, inputs: state, outputs: 2 * hidden, format };
    let edge_states = Part { start: hidden, of: heads.outputs };
    let [objects, predicates] =
        [&sizes.batch.object_occurrences, &sizes.batch.predicate_occurrences].map(|of| of.types.len());
    let fused = [
        forward_two::<T>([objects, predicates], state, hidden, format),
        forward_gather::<T>(edge_hidden, edge_states, &sizes.batch),
        forward_activated::<T>(heads),
        backward_activated::<T>(heads),
        backward_through_norm::<T>(node_hidden),
        backward_activated_through_norm::<T>(node_output),
        forward_unit::<T>(ends),
        backward_unit::<T>(ends),
        backward_states::<T>(ends, edge_hidden),
    ];
    plain.chain(fused).collect()
}

/// The error of sums of this many products of numbers in -1..1, of the largest of them, as they are stored.
///
/// Partial sums grow as the root of their length and a rounding may go either way, so those of n additions add up to
/// about sqrt(n) / 2 of the largest sum's: 2 sqrt(n) leaves room for the worst of millions of sums, and for tensor cores,
/// which may truncate where they add. A product's operands are off by u each, mostly less, and either way: sums by
/// about 0.6 u, of which 2 u is the worst. Values that are stored in bf16 are operands as they are, but one that a norm
/// makes of them is rounded once more.
fn tolerance<T: StoredElement>(format: Format, terms: usize, operands: Operands) -> f64 {
    let operands = match format {
        Format::Fp32 => 0.0,
        Format::Tf32 => 2.0 * 2f64.powi(-11),
        Format::Bf16 if operands == Operands::Stored => 0.0,
        Format::Bf16 => 2f64.powi(-8),
        // Rests of 2^-17 each, and the product of two low halves that is left out.
        Format::Bf16x3 => 2.0 * 2f64.powi(-17) + 2f64.powi(-16),
    };
    stored_tolerance::<T>(operands + 2.0 * (terms as f64).sqrt() * ROUNDING)
}

/// What a product multiplies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operands {
    /// Values as they are stored.
    Stored,
    /// One of them is relu(norm(values)).
    Activated,
}

/// `y = x W^T`.
fn forward<T: StoredElement>(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_forward",
        shape: format!("[{rows}, {inputs}] -> {outputs}, {what}"),
        cost: Cost::stored::<T>(
            rows * inputs + outputs * inputs + rows * outputs,
            0,
            2 * rows * inputs * outputs,
        ),
        format,
        tolerance: tolerance::<T>(format, inputs, Operands::Stored),
        prepare: Box::new(move || {
            let mut values = Values::new();
            Prepared {
                host: Host {
                    stored: vec![values.matrix::<T>(rows, inputs), values.matrix::<T>(outputs, inputs)],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows, outputs)],
                    indices: vec![count(rows)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([x, weight], [y], ([], [count], [], _)) = arrays.stored_as::<T>().parts();
                    let (x, weight) = (Matrix::new(x, rows, inputs), Matrix::new(weight, outputs, inputs));
                    let (of, mut y) = (counted(count, rows), MatrixMut::new(y, rows, outputs));
                    linear_forward(device, format, of, &mut y, Input::Values(x), weight, None)
                }),
                expected: Box::new(move |host| {
                    let [x, weight] = host.wide_stored();
                    let (x, weight) = (matrix(&x, rows, inputs), matrix(&weight, outputs, inputs));
                    vec![product_of(x, weight.transpose())]
                }),
            }
        }),
    }
}

/// `y = x W^T` of the types' rows of both tables, as layer 0 has them: of objects by the first part of a weight above the
/// last, of predicates by the part between.
fn forward_two<T: StoredElement>(
    [objects, predicates]: [usize; 2],
    inputs: usize,
    hidden: usize,
    format: Format,
) -> Case {
    let part = T::stride(inputs);
    let (rows, products) = (objects + predicates, (2 * objects + predicates) * hidden);
    Case {
        kernel: "linear_forward_two",
        shape: format!(
            "[{objects}, {inputs}] -> {}, [{predicates}, {inputs}] -> {hidden}, types",
            2 * hidden
        ),
        cost: Cost::stored::<T>((rows + 3 * hidden) * inputs + products, 0, 2 * products * inputs),
        format,
        tolerance: tolerance::<T>(format, inputs, Operands::Stored),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let shapes = [(objects, inputs), (predicates, inputs), (hidden, 3 * part)];
            let outputs = [(objects, 2 * hidden), (predicates, hidden)];
            Prepared {
                host: Host {
                    stored: shapes.map(|(rows, columns)| values.matrix::<T>(rows, columns)).to_vec(),
                    stored_outputs: outputs
                        .map(|(rows, columns)| HostMatrix::unwritten::<T>(rows, columns))
                        .to_vec(),
                    indices: vec![count(objects), count(predicates)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([x, e, weight], [y, z], parts) = arrays.stored_as::<T>().parts();
                    let ([], [object_count, predicate_count], [], _) = parts;
                    let weight = Matrix::new(weight, hidden, 3 * part);
                    let of_objects = Forward {
                        rows: counted(object_count, objects),
                        y: &mut MatrixMut::new(y, objects, 2 * hidden),
                        x: Matrix::new(x, objects, inputs),
                        weight: weight.stacked(0, 2 * part, inputs),
                    };
                    let of_predicates = Forward {
                        rows: counted(predicate_count, predicates),
                        y: &mut MatrixMut::new(z, predicates, hidden),
                        x: Matrix::new(e, predicates, inputs),
                        weight: weight.columns(part, inputs),
                    };
                    linear_forward_two(device, format, [of_objects, of_predicates])
                }),
                expected: Box::new(move |host| {
                    let [x, e, weight] = host.wide_stored();
                    let part =
                        |index: usize| Part { start: index * part, of: 3 * part }.take(&weight, inputs);
                    let of_objects = [part(0), part(2)].concat();
                    let product = |x: &[f64], rows: usize, weight: &[f64], outputs: usize| {
                        product_of(matrix(x, rows, inputs), matrix(weight, outputs, inputs).transpose())
                    };
                    vec![
                        product(&x, objects, &of_objects, 2 * hidden),
                        product(&e, predicates, &part(1), hidden),
                    ]
                }),
            }
        }),
    }
}

/// `d_x = d_y W` and `d_W = d_y^T x`.
fn backward<T: StoredElement>(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_backward",
        shape: format!("[{rows}, {inputs}] -> {outputs}, {what}"),
        // Reads d_y, x and W, writes d_x and, in single precision, d_W.
        cost: Cost::stored::<T>(
            rows * outputs + 2 * rows * inputs + outputs * inputs,
            outputs * inputs,
            4 * rows * inputs * outputs,
        ),
        format,
        tolerance: tolerance::<T>(format, rows.max(outputs), Operands::Stored),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let shapes = [(rows, outputs), (rows, inputs), (outputs, inputs)];
            Prepared {
                host: Host {
                    stored: shapes.map(|(rows, columns)| values.matrix::<T>(rows, columns)).to_vec(),
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows, inputs)],
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(outputs * inputs)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([d_y, x, weight], [d_x], parts) = arrays.stored_as::<T>().parts();
                    let ([], [count], [d_weight], others) = parts;
                    let to = LinearGradients {
                        x: &mut MatrixMut::new(d_x, rows, inputs),
                        weight: &mut MatrixMut::new(d_weight, outputs, inputs),
                        norm: None,
                    };
                    let d_y = Gradient::Values(Matrix::new(d_y, rows, outputs));
                    let (of, x) = (counted(count, rows), Input::Values(Matrix::new(x, rows, inputs)));
                    let weight = Matrix::new(weight, outputs, inputs);
                    linear_backward(device, format, of, to, d_y, x, weight, &mut others.parts)
                }),
                expected: Box::new(move |host| {
                    let [d_y, x, weight] = host.wide_stored();
                    let (d_y, x) = (matrix(&d_y, rows, outputs), matrix(&x, rows, inputs));
                    let weight = matrix(&weight, outputs, inputs);
                    vec![product_of(d_y, weight), product_of(d_y.transpose(), x)]
                }),
            }
        }),
    }
}

/// What statistics or sums over chunks of 64 rows add to a product's tolerance; errors of the values go either way.
fn with_sums(tolerance: f64) -> f64 {
    tolerance + roundings(64)
}

/// z = e W^T of e = relu(norm(.)) of a part of the heads, and the rows of both ends added; the statistics of z.
fn forward_gather<T: StoredElement>(product: Product, part: Part, batch: &Rc<GraphBatch>) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    let (batch, nodes) = (batch.clone(), batch.size().nodes);
    let operands = rows * inputs + outputs * inputs + 2 * nodes * outputs;
    Case {
        kernel: "linear_forward_gather",
        shape: format!(
            "relu(norm([{rows}, {inputs} of {}])) -> {outputs} + [{nodes}, {}], {what}",
            part.of,
            2 * outputs
        ),
        // Reads the part of the heads, its norm, W, each node's two rows and the ends, writes z; norm and ReLU 4 and two
        // sums beside the product.
        cost: Cost::stored::<T>(
            operands + rows * outputs,
            4 * inputs + 2 * rows,
            2 * rows * inputs * outputs + 4 * rows * inputs + 2 * rows * outputs,
        ),
        format,
        tolerance: with_sums(tolerance::<T>(format, inputs + 2, Operands::Activated)),
        prepare: Box::new(move || {
            let batch = batch.clone();
            let mut values = Values::new();
            let (heads, norm_values) = decided_inputs::<T>(&mut values, rows, part.of);
            Prepared {
                host: Host {
                    stored: vec![
                        heads,
                        values.matrix::<T>(outputs, inputs),
                        values.matrix::<T>(nodes, 2 * outputs),
                    ],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows, outputs)],
                    inputs: norm_values.to_vec(),
                    indices: vec![indices(&batch.edge_subject), indices(&batch.edge_object), count(rows)],
                    outputs: statistics(&mut values, outputs),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([heads, weight, projected], [z], parts) = arrays.stored_as::<T>().parts();
                    let (of_norm, [subject, object, count], to, others) = parts;
                    let e = Matrix::new(heads, rows, part.of).columns(part.start, inputs);
                    let e = Input::Activated(e, norm(of_norm).columns(part.start, inputs));
                    let weight = Matrix::new(weight, outputs, inputs);
                    let mut z = MatrixMut::new(z, rows, outputs);
                    let ends = Ends { edges: counted(count, rows), subject, object };
                    let to = Some(batch_statistics(to, &mut others.sums));
                    linear_forward_gather(device, format, &mut z, e, weight, projected, ends, to)
                }),
                expected: Box::new(move |host| {
                    let [heads, weight, projected] = host.wide_stored();
                    let e = reference_norm(&host.wide_inputs()).relu_rows(&heads);
                    let e = part.take(&e, inputs);
                    let (e, weight) = (matrix(&e, rows, inputs), matrix(&weight, outputs, inputs));
                    let mut z = product_of(e, weight.transpose());
                    for (edge, row) in z.chunks_exact_mut(outputs).enumerate() {
                        let subject = 2 * batch.edge_subject[edge] as usize * outputs;
                        let object = (2 * batch.edge_object[edge] as usize + 1) * outputs;
                        for (c, z) in row.iter_mut().enumerate() {
                            *z += projected[subject + c] + projected[object + c];
                        }
                    }
                    followed_by_statistics::<T>(host, z)
                }),
            }
        }),
    }
}

/// y = relu(norm(z)) W^T, and the statistics of y.
fn forward_activated<T: StoredElement>(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_forward",
        shape: format!("relu(norm([{rows}, {inputs}])) -> {outputs}, {what}"),
        // Reads z, its norm and W, writes y; norm and ReLU 4 beside the product.
        cost: Cost::stored::<T>(
            rows * inputs + outputs * inputs + rows * outputs,
            4 * inputs,
            2 * rows * inputs * outputs + 4 * rows * inputs,
        ),
        format,
        tolerance: with_sums(tolerance::<T>(format, inputs, Operands::Activated)),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let (z, norm_values) = decided_inputs::<T>(&mut values, rows, inputs);
            Prepared {
                host: Host {
                    stored: vec![z, values.matrix::<T>(outputs, inputs)],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows, outputs)],
                    inputs: norm_values.to_vec(),
                    indices: vec![count(rows)],
                    outputs: statistics(&mut values, outputs),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, weight], [y], parts) = arrays.stored_as::<T>().parts();
                    let (of_norm, [count], to, others) = parts;
                    let x = Input::Activated(Matrix::new(z, rows, inputs), norm(of_norm));
                    let weight = Matrix::new(weight, outputs, inputs);
                    let to = Some(batch_statistics(to, &mut others.sums));
                    let (of, mut y) = (counted(count, rows), MatrixMut::new(y, rows, outputs));
                    linear_forward(device, format, of, &mut y, x, weight, to)
                }),
                expected: Box::new(move |host| {
                    let [z, weight] = host.wide_stored();
                    let x = reference_norm(&host.wide_inputs()).relu_rows(&z);
                    let weight = matrix(&weight, outputs, inputs);
                    let y = product_of(matrix(&x, rows, inputs), weight.transpose());
                    followed_by_statistics::<T>(host, y)
                }),
            }
        }),
    }
}

/// A product's mean and rstd, which are written, and running ones that are moved.
pub(super) fn statistics(values: &mut Values, columns: usize) -> Vec<Vec<f32>> {
    vec![unwritten(columns), unwritten(columns), values.signed(columns), values.positive(columns)]
}

/// What a product and its [`statistics`] must become; they are of the values as they are stored.
pub(super) fn followed_by_statistics<T: StoredElement>(host: &Host, product: Vec<f64>) -> Vec<Vec<f64>> {
    let [_, _, running_mean, running_var] = host.wide_outputs();
    let columns = running_mean.len();
    let of = rounded::<T>(&product);
    let statistics = expected_statistics(&of, [&running_mean, &running_var], columns);
    std::iter::once(product).chain(statistics).collect()
}

/// As they are stored.
fn rounded<T: StoredElement>(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(T::narrow(value as f32).widen())).collect()
}

/// d_x = d_y W and d_W = d_y^T x of x = relu(norm(z)), and the gradients of the norm's weight and bias.
fn backward_activated<T: StoredElement>(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_backward",
        shape: format!("relu(norm([{rows}, {inputs}])) -> {outputs}, {what}"),
        // Reads d_y, W, z and its norm, writes d_x and, in single precision, d_W and two rows; norm and ReLU 4 twice, and
        // two sums 4 beside the products.
        cost: Cost::stored::<T>(
            rows * outputs + outputs * inputs + 2 * rows * inputs,
            outputs * inputs + 6 * inputs,
            4 * rows * inputs * outputs + 12 * rows * inputs,
        ),
        format,
        tolerance: with_sums(tolerance::<T>(format, rows.max(outputs), Operands::Activated)),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let (z, norm_values) = decided_inputs::<T>(&mut values, rows, inputs);
            let (d_y, weight) = (values.matrix::<T>(rows, outputs), values.matrix::<T>(outputs, inputs));
            Prepared {
                host: Host {
                    stored: vec![z, d_y, weight],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows, inputs)],
                    inputs: norm_values.to_vec(),
                    indices: vec![count(rows)],
                    outputs: [outputs * inputs, inputs, inputs].map(unwritten).to_vec(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, d_y, weight], [d_x], parts) = arrays.stored_as::<T>().parts();
                    let (of_norm, [count], [d_weight, d_norm_weight, d_norm_bias], others) = parts;
                    let to = LinearGradients {
                        x: &mut MatrixMut::new(d_x, rows, inputs),
                        weight: &mut MatrixMut::new(d_weight, outputs, inputs),
                        norm: Some(norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums)),
                    };
                    let d_y = Gradient::Values(Matrix::new(d_y, rows, outputs));
                    let x = Input::Activated(Matrix::new(z, rows, inputs), norm(of_norm));
                    let (of, weight) = (counted(count, rows), Matrix::new(weight, outputs, inputs));
                    linear_backward(device, format, of, to, d_y, x, weight, &mut others.parts)
                }),
                expected: Box::new(move |host| {
                    let ([z, d_y, weight], of) = (host.wide_stored(), host.wide_inputs());
                    let x = reference_norm(&of).relu_rows(&z);
                    let d_y = matrix(&d_y, rows, outputs);
                    let d_x = product_of(d_y, matrix(&weight, outputs, inputs));
                    let d_weight = product_of(d_y.transpose(), matrix(&x, rows, inputs));
                    let [_, d_norm_weight, d_norm_bias] = expected_backward(&z, &of, rounded::<T>(&d_x));
                    vec![d_x, d_weight, d_norm_weight, d_norm_bias]
                }),
            }
        }),
    }
}

/// d_x and d_W where d_y is what batch norm's backward makes of d and the output's z.
fn backward_through_norm<T: StoredElement>(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_backward",
        shape: format!("[{rows}, {inputs}] -> {outputs} through norm, {what}"),
        // Reads d, z, its norm and two rows more, W and x, writes d_x and, in single precision, d_W; 8 twice for d_z beside
        // the products.
        cost: Cost::stored::<T>(
            2 * rows * outputs + outputs * inputs + 2 * rows * inputs,
            outputs * inputs + 6 * outputs,
            4 * rows * inputs * outputs + 16 * rows * outputs,
        ),
        format,
        tolerance: tolerance::<T>(format, rows.max(outputs), Operands::Activated) + roundings(6),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let (z, of_z) = decided_inputs::<T>(&mut values, rows, outputs);
            let x = values.matrix::<T>(rows, inputs);
            let (terms, d) = (values.signed(2 * outputs), values.matrix::<T>(rows, outputs));
            Prepared {
                host: Host {
                    stored: vec![z, x, values.matrix::<T>(outputs, inputs)],
                    stored_outputs: vec![d, HostMatrix::unwritten::<T>(rows, inputs)],
                    inputs: of_z.into_iter().chain([terms]).collect(),
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(outputs * inputs)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, x, weight], [d, d_x], parts) = arrays.stored_as::<T>().parts();
                    let ([mean, rstd, scale, bias, terms], [count], [d_weight], others) = parts;
                    let to = LinearGradients {
                        x: &mut MatrixMut::new(d_x, rows, inputs),
                        weight: &mut MatrixMut::new(d_weight, outputs, inputs),
                        norm: None,
                    };
                    let norm_of_z = norm([mean, rstd, scale, bias]);
                    let d_y = Gradient::ThroughNorm(NormBackward { d, z, norm: norm_of_z, terms });
                    let x = Input::Values(Matrix::new(x, rows, inputs));
                    let (of, weight) = (counted(count, rows), Matrix::new(weight, outputs, inputs));
                    linear_backward(device, format, of, to, d_y, x, weight, &mut others.parts)
                }),
                expected: Box::new(move |host| {
                    let ([z, x, weight], [d, _]) = (host.wide_stored(), host.wide_stored_outputs());
                    let [mean, rstd, scale, bias, terms] = host.wide_inputs();
                    let d_z = rounded::<T>(&norm_backward(&z, &[mean, rstd, scale, bias], &terms, &d));
                    let d_y = matrix(&d_z, rows, outputs);
                    let d_x = product_of(d_y, matrix(&weight, outputs, inputs));
                    // Where it is large, d_z was written in its place.
                    let d = if is_large(rows, inputs) { d_z.clone() } else { d };
                    let d_weight = product_of(d_y.transpose(), matrix(&x, rows, inputs));
                    vec![d, d_x, d_weight]
                }),
            }
        }),
    }
}

/// [`backward_through_norm`] of x = relu(norm(x)), and the gradients of this norm's weight and bias.
fn backward_activated_through_norm<T: StoredElement>(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_backward",
        shape: format!("relu(norm([{rows}, {inputs}])) -> {outputs} through norm, {what}"),
        // As without, and what is read of x's norm, two rows that are written, norm and ReLU 4 twice, and two sums 4.
        cost: Cost::stored::<T>(
            2 * rows * outputs + outputs * inputs + 2 * rows * inputs,
            outputs * inputs + 6 * outputs + 6 * inputs,
            4 * rows * inputs * outputs + 16 * rows * outputs + 12 * rows * inputs,
        ),
        format,
        tolerance: with_sums(tolerance::<T>(format, rows.max(outputs), Operands::Activated)) + roundings(6),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let (z, of_z) = decided_inputs::<T>(&mut values, rows, outputs);
            let (x, of_x) = decided_inputs::<T>(&mut values, rows, inputs);
            let (terms, d) = (values.signed(2 * outputs), values.matrix::<T>(rows, outputs));
            Prepared {
                host: Host {
                    stored: vec![z, x, values.matrix::<T>(outputs, inputs)],
                    stored_outputs: vec![d, HostMatrix::unwritten::<T>(rows, inputs)],
                    inputs: of_z.into_iter().chain(of_x).chain([terms]).collect(),
                    indices: vec![count(rows)],
                    outputs: [outputs * inputs, inputs, inputs].map(unwritten).to_vec(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, x, weight], [d, d_x], parts) = arrays.stored_as::<T>().parts();
                    let (
                        [mean, rstd, scale, bias, mean_x, rstd_x, scale_x, bias_x, terms],
                        [count],
                        to,
                        others,
                    ) = parts;
                    let [d_weight, d_norm_weight, d_norm_bias] = to;
                    let to = LinearGradients {
                        x: &mut MatrixMut::new(d_x, rows, inputs),
                        weight: &mut MatrixMut::new(d_weight, outputs, inputs),
                        norm: Some(norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums)),
                    };
                    let norm_of_z = norm([mean, rstd, scale, bias]);
                    let d_y = Gradient::ThroughNorm(NormBackward { d, z, norm: norm_of_z, terms });
                    let x = Input::Activated(
                        Matrix::new(x, rows, inputs),
                        norm([mean_x, rstd_x, scale_x, bias_x]),
                    );
                    let (of, weight) = (counted(count, rows), Matrix::new(weight, outputs, inputs));
                    linear_backward(device, format, of, to, d_y, x, weight, &mut others.parts)
                }),
                expected: Box::new(move |host| {
                    let ([z, x, weight], [d, _]) = (host.wide_stored(), host.wide_stored_outputs());
                    let [mean, rstd, scale, bias, mean_x, rstd_x, scale_x, bias_x, terms] =
                        host.wide_inputs();
                    let of_x = [mean_x, rstd_x, scale_x, bias_x];
                    let d_z = rounded::<T>(&norm_backward(&z, &[mean, rstd, scale, bias], &terms, &d));
                    let d_y = matrix(&d_z, rows, outputs);
                    let d_x = product_of(d_y, matrix(&weight, outputs, inputs));
                    // Where it is large, d_z was written in its place.
                    let d = if is_large(rows, inputs) { d_z.clone() } else { d };
                    let activated = reference_norm(&of_x).relu_rows(&x);
                    let d_weight = product_of(d_y.transpose(), matrix(&activated, rows, inputs));
                    let [_, d_norm_weight, d_norm_bias] = expected_backward(&x, &of_x, rounded::<T>(&d_x));
                    vec![d, d_x, d_weight, d_norm_weight, d_norm_bias]
                }),
            }
        }),
    }
}

/// y = (u W^T) / |u| of u = relu(norm(z)), and |u| by row.
fn forward_unit<T: StoredElement>(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_forward_unit",
        shape: format!("relu(norm([{rows}, {inputs}])) at unit length -> {outputs}, {what}"),
        // Reads z, its norm and W, writes y and the lengths; norm and ReLU 4, square and sum 2, and a quotient beside the
        // product.
        cost: Cost::stored::<T>(
            rows * inputs + outputs * inputs + rows * outputs,
            4 * inputs + rows,
            2 * rows * inputs * outputs + 6 * rows * inputs + rows * outputs,
        ),
        format,
        tolerance: tolerance::<T>(format, inputs, Operands::Activated) + roundings(4),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let (z, norm_values) = decided_inputs::<T>(&mut values, rows, inputs);
            Prepared {
                host: Host {
                    stored: vec![z, values.matrix::<T>(outputs, inputs)],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows, outputs)],
                    inputs: norm_values.to_vec(),
                    indices: vec![count(rows)],
                    outputs: vec![unwritten(rows)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, weight], [y], parts) = arrays.stored_as::<T>().parts();
                    let (of_norm, [count], [mut lengths], _) = parts;
                    let (x, lengths) = ((Matrix::new(z, rows, inputs), norm(of_norm)), Some(&mut lengths));
                    let weight = Matrix::new(weight, outputs, inputs);
                    let (of, mut y) = (counted(count, rows), MatrixMut::new(y, rows, outputs));
                    linear_forward_unit(device, format, of, &mut y, lengths, x, weight)
                }),
                expected: Box::new(move |host| {
                    let [z, weight] = host.wide_stored();
                    let u = reference_norm(&host.wide_inputs()).relu_rows(&z);
                    let weight = matrix(&weight, outputs, inputs);
                    let mut y = product_of(matrix(&u, rows, inputs), weight.transpose());
                    let length = |u: &[f64]| u.iter().map(|u| u * u).sum::<f64>().sqrt().max(L2_EPSILON);
                    let lengths: Vec<f64> = u.chunks_exact(inputs).map(length).collect();
                    for (row, length) in y.chunks_exact_mut(outputs).zip(&lengths) {
                        row.iter_mut().for_each(|y| *y /= length);
                    }
                    vec![y, lengths]
                }),
            }
        }),
    }
}

/// d_u = d_y W - t u and d_W = d_y^T u of u = relu(norm(z)), and the gradients of the norm's weight and bias.
fn backward_unit<T: StoredElement>(product: Product) -> Case {
    let Product { what, rows, inputs, outputs, format } = product;
    Case {
        kernel: "linear_backward_unit",
        shape: format!("relu(norm([{rows}, {inputs}])) at unit length -> {outputs}, {what}"),
        // Reads d_y, W, z, its norm and t, writes d_u and, in single precision, d_W and two rows; norm and ReLU 4 three
        // times, a product and a difference 2, and two sums 4 beside the products.
        cost: Cost::stored::<T>(
            rows * outputs + outputs * inputs + 2 * rows * inputs,
            outputs * inputs + 6 * inputs + rows,
            4 * rows * inputs * outputs + 18 * rows * inputs,
        ),
        format,
        tolerance: with_sums(tolerance::<T>(format, rows.max(outputs), Operands::Activated)) + roundings(2),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let (z, norm_values) = decided_inputs::<T>(&mut values, rows, inputs);
            let (d_y, weight) = (values.matrix::<T>(rows, outputs), values.matrix::<T>(outputs, inputs));
            Prepared {
                host: Host {
                    stored: vec![z, d_y, weight],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(rows, inputs)],
                    inputs: norm_values.into_iter().chain([values.signed(rows)]).collect(),
                    indices: vec![count(rows)],
                    outputs: [outputs * inputs, inputs, inputs].map(unwritten).to_vec(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([z, d_y, weight], [d_u], parts) = arrays.stored_as::<T>().parts();
                    let ([mean, rstd, scale, bias, along], [count], to, others) = parts;
                    let [d_weight, d_norm_weight, d_norm_bias] = to;
                    let to = LinearGradients {
                        x: &mut MatrixMut::new(d_u, rows, inputs),
                        weight: &mut MatrixMut::new(d_weight, outputs, inputs),
                        norm: Some(norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums)),
                    };
                    let (d_y, norm) = (Matrix::new(d_y, rows, outputs), norm([mean, rstd, scale, bias]));
                    let x = Unit { z: Matrix::new(z, rows, inputs), norm, along: Some(along) };
                    let (rows, weight) = (counted(count, rows), Matrix::new(weight, outputs, inputs));
                    let of = Backward { rows, to, d_y, x, weight };
                    linear_backward_unit(device, format, of, &mut others.parts)
                }),
                expected: Box::new(move |host| {
                    let [z, d_y, weight] = host.wide_stored();
                    let [mean, rstd, scale, bias, along] = host.wide_inputs();
                    let of = [mean, rstd, scale, bias];
                    let u = reference_norm(&of).relu_rows(&z);
                    let d_y = matrix(&d_y, rows, outputs);
                    let mut d_u = product_of(d_y, matrix(&weight, outputs, inputs));
                    for (i, (d, u)) in d_u.iter_mut().zip(&u).enumerate() {
                        *d -= along[i / inputs] * u;
                    }
                    let d_weight = product_of(d_y.transpose(), matrix(&u, rows, inputs));
                    let [_, d_norm_weight, d_norm_bias] = expected_backward(&z, &of, rounded::<T>(&d_u));
                    vec![d_u, d_weight, d_norm_weight, d_norm_bias]
                }),
            }
        }),
    }
}

/// [`backward_unit`] of nodes and [`backward_activated_through_norm`] of edges, without the sums of their norm, in one launch:
/// of a weight `[H, 3 D]`, whose outer parts are the nodes' and whose middle one is the edges'.
fn backward_states<T: StoredElement>(of_nodes: Product, of_edges: Product) -> Case {
    let Product { rows: nodes, inputs: width, format, .. } = of_nodes;
    let Product { rows: edges, outputs: hidden, .. } = of_edges;
    let part = T::stride(width);
    Case {
        kernel: "linear_backward_states",
        shape: format!(
            "relu(norm([{nodes}, {width}])) at unit length -> {}, relu(norm([{edges}, {width}])) -> {hidden} through \
             norm, edge.hidden",
            2 * hidden
        ),
        // What either takes of its own launch.
        cost: Cost::stored::<T>(
            2 * nodes * hidden + 2 * edges * hidden + 3 * hidden * width + 2 * (nodes + edges) * width,
            3 * hidden * width + 10 * width + 6 * hidden + nodes,
            4 * (2 * nodes + edges) * width * hidden
                + 18 * nodes * width
                + 16 * edges * hidden
                + 8 * edges * width,
        ),
        format,
        tolerance: with_sums(tolerance::<T>(format, nodes.max(edges).max(2 * hidden), Operands::Activated))
            + roundings(6),
        prepare: Box::new(move || {
            let mut values = Values::new();
            let (u, of_u) = decided_inputs::<T>(&mut values, nodes, width);
            let (e, of_e) = decided_inputs::<T>(&mut values, edges, width);
            let (z, of_z) = decided_inputs::<T>(&mut values, edges, hidden);
            let (sums, d) = (values.matrix::<T>(nodes, 2 * hidden), values.matrix::<T>(edges, hidden));
            let others = [values.signed(2 * hidden), values.signed(nodes)];
            Prepared {
                host: Host {
                    stored: vec![u, sums, e, z, values.matrix::<T>(hidden, 3 * part)],
                    stored_outputs: vec![
                        d,
                        HostMatrix::unwritten::<T>(nodes, width),
                        HostMatrix::unwritten::<T>(edges, width),
                    ],
                    inputs: of_u.into_iter().chain(of_e).chain(of_z).chain(others).collect(),
                    indices: vec![count(nodes), count(edges)],
                    outputs: [hidden * 3 * width, width, width].map(unwritten).to_vec(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([u, sums, e, z, weight], [d, d_u, d_e], parts) = arrays.stored_as::<T>().parts();
                    let (of, [nodes_count, edges_count], to, others) = parts;
                    let [m_u, r_u, w_u, b_u, m_e, r_e, w_e, b_e, m_z, r_z, w_z, b_z, terms, along] = of;
                    let [d_weight, d_norm_weight, d_norm_bias] = to;
                    let (rows, weight) = (counted(edges_count, edges), Matrix::new(weight, hidden, 3 * part));
                    let mut d_weight = MatrixMut::new(d_weight, hidden, 3 * width);
                    let [mut outer, mut middle] = d_weight.outer_and_middle(width);
                    let of_nodes = Backward {
                        rows: counted(nodes_count, nodes),
                        to: LinearGradients {
                            x: &mut MatrixMut::new(d_u, nodes, width),
                            weight: &mut outer,
                            norm: Some(norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums)),
                        },
                        d_y: Matrix::new(sums, nodes, 2 * hidden),
                        x: Unit {
                            z: Matrix::new(u, nodes, width),
                            norm: norm([m_u, r_u, w_u, b_u]),
                            along: Some(along),
                        },
                        weight: weight.stacked(0, 2 * part, width),
                    };
                    let of_z = NormBackward { d, z, norm: norm([m_z, r_z, w_z, b_z]), terms };
                    let of_edges = Backward {
                        rows,
                        to: LinearGradients {
                            x: &mut MatrixMut::new(d_e, edges, width),
                            weight: &mut middle,
                            norm: None,
                        },
                        d_y: Gradient::ThroughNorm(of_z).for_input(device, rows, width)?,
                        x: (Matrix::new(e, edges, width), norm([m_e, r_e, w_e, b_e])),
                        weight: weight.columns(part, width),
                    };
                    linear_backward_states(device, format, of_nodes, of_edges, &mut others.parts)
                }),
                expected: Box::new(move |host| {
                    let ([u, sums, e, z, weight], [d, _, _]) =
                        (host.wide_stored(), host.wide_stored_outputs());
                    let of = host.wide_inputs();
                    let [m_u, r_u, w_u, b_u, m_e, r_e, w_e, b_e, m_z, r_z, w_z, b_z, terms, along] = of;
                    let of_u = [m_u, r_u, w_u, b_u];
                    let part_of = |start: usize| Part { start, of: 3 * part }.take(&weight, width);
                    let ends = [part_of(0), part_of(2 * part)].concat();
                    let activated = reference_norm(&of_u).relu_rows(&u);
                    let sums = matrix(&sums, nodes, 2 * hidden);
                    let mut d_u = product_of(sums, matrix(&ends, 2 * hidden, width));
                    for (i, (d, u)) in d_u.iter_mut().zip(&activated).enumerate() {
                        *d -= along[i / width] * u;
                    }
                    let d_ends = product_of(sums.transpose(), matrix(&activated, nodes, width));
                    let [_, d_norm_weight, d_norm_bias] = expected_backward(&u, &of_u, rounded::<T>(&d_u));
                    let d_z = rounded::<T>(&norm_backward(&z, &[m_z, r_z, w_z, b_z], &terms, &d));
                    let d_y = matrix(&d_z, edges, hidden);
                    let d_e = product_of(d_y, matrix(&part_of(part), hidden, width));
                    let activated = reference_norm(&[m_e, r_e, w_e, b_e]).relu_rows(&e);
                    let d_middle = product_of(d_y.transpose(), matrix(&activated, edges, width));
                    let row = |of: &[f64], row: usize| of[row * width..(row + 1) * width].to_vec();
                    let d_weight = (0..hidden)
                        .flat_map(|h| [row(&d_ends, h), row(&d_middle, h), row(&d_ends, hidden + h)].concat())
                        .collect();
                    // Where it is large, d_z was written in its place.
                    let d = if is_large(edges, width) { d_z.clone() } else { d };
                    vec![d, d_u, d_e, d_weight, d_norm_weight, d_norm_bias]
                }),
            }
        }),
    }
}

fn matrix(values: &[f64], rows: usize, columns: usize) -> MatRef<'_, f64> {
    MatRef::from_row_major_slice(values, rows, columns)
}

/// `a b`: the reference's product, by `faer`, since its plain loops would take minutes at these sizes.
fn product_of(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Vec<f64> {
    let mut product = vec![0.0; a.nrows() * b.ncols()];
    let to = MatMut::from_row_major_slice_mut(&mut product, a.nrows(), b.ncols());
    matmul(to, Accum::Replace, a, b, 1.0, Par::rayon(0));
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::reference::linear as reference;

    #[test]
    fn the_fast_product_is_the_reference() {
        let (rows, inputs, outputs) = (7, 5, 3);
        let wide = |values: Vec<f32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
        let mut values = Values::new();
        let (x, weight) = (wide(values.signed(rows * inputs)), wide(values.signed(outputs * inputs)));
        let got = product_of(matrix(&x, rows, inputs), matrix(&weight, outputs, inputs).transpose());
        let want = reference::linear(&x, &weight, inputs, outputs);
        assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-14), "{got:?} {want:?}");
    }
}
