//! linear: the products of a layer, each with its gradients, plain and with what is fused with them.

mod backward;

use std::rc::Rc;

use super::batch_norm::{batch_statistics, decided_inputs, expected_statistics, statistics};
use super::{
    ROUNDING, SEED, count, counted, indices, near, norm, reference_norm, roundings, stored_tolerance,
};
use crate::backend::L2_EPSILON;
use crate::backend::cuda::launchers::linear::{
    Format, Forward, ForwardGather, Input, Matrix, MatrixMut, linear_forward, linear_forward_gather,
    linear_forward_two, linear_forward_unit,
};
use crate::backend::cuda::launchers::lists::Ends;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::batch::graph_batch::GraphBatch;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::matrix::HostMatrix;
use crate::bench::sizes::Sizes;
use crate::bench::values::Values;
use crate::matmul::{Accumulate, MatMut, MatRef, Packed, matmul};
use backward::{
    backward, backward_activated, backward_activated_through_norm, backward_states, backward_through_norm,
    backward_unit,
};

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
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
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
                    let (rows, y) = (counted(count, rows), MatrixMut::new(y, rows, outputs));
                    linear_forward(device, format, Forward { rows, y, x: Input::Values(x), weight }, None)
                }),
                expected: near(tolerance::<T>(format, inputs, Operands::Stored), move |host| {
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
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
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
                        y: MatrixMut::new(y, objects, 2 * hidden),
                        x: Matrix::new(x, objects, inputs),
                        weight: weight.stacked(0, 2 * part, inputs),
                    };
                    let of_predicates = Forward {
                        rows: counted(predicate_count, predicates),
                        y: MatrixMut::new(z, predicates, hidden),
                        x: Matrix::new(e, predicates, inputs),
                        weight: weight.columns(part, inputs),
                    };
                    linear_forward_two(device, format, [of_objects, of_predicates])
                }),
                expected: near(tolerance::<T>(format, inputs, Operands::Stored), move |host| {
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
        prepare: Box::new(move |_| {
            let batch = batch.clone();
            let mut values = Values::new(SEED);
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
                    let y = MatrixMut::new(z, rows, outputs);
                    let ends = Ends { edges: counted(count, rows), subject, object };
                    let to = Some(batch_statistics(to, &mut others.sums));
                    let of = ForwardGather { ends, projected, y, x: e, weight };
                    linear_forward_gather(device, format, of, to)
                }),
                expected: near(
                    with_sums(tolerance::<T>(format, inputs + 2, Operands::Activated)),
                    move |host| {
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
                    },
                ),
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
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
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
                    let (rows, y) = (counted(count, rows), MatrixMut::new(y, rows, outputs));
                    linear_forward(device, format, Forward { rows, y, x, weight }, to)
                }),
                expected: near(with_sums(tolerance::<T>(format, inputs, Operands::Activated)), move |host| {
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

/// What a product and its [`statistics`] must become; they are of the values as they are stored.
fn followed_by_statistics<T: StoredElement>(host: &Host, product: Vec<f64>) -> Vec<Vec<f64>> {
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
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
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
                    let (rows, y) = (counted(count, rows), MatrixMut::new(y, rows, outputs));
                    linear_forward_unit(device, format, Forward { rows, y, x, weight }, lengths)
                }),
                expected: near(
                    tolerance::<T>(format, inputs, Operands::Activated) + roundings(4),
                    move |host| {
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
                    },
                ),
            }
        }),
    }
}

fn matrix(values: &[f64], rows: usize, columns: usize) -> MatRef<'_, f64> {
    MatRef::new(values, rows, columns)
}

/// `a b`, by the fast product: the reference's plain loops would take minutes at these sizes.
fn product_of(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Vec<f64> {
    let mut product = vec![f64::NAN; a.rows() * b.columns()];
    let to = MatMut::new(&mut product, a.rows(), b.columns());
    matmul(&mut Packed::default(), to, Accumulate::Replace, a, b);
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
        let mut values = Values::new(SEED);
        let (x, weight) = (wide(values.signed(rows * inputs)), wide(values.signed(outputs * inputs)));
        let got = product_of(matrix(&x, rows, inputs), matrix(&weight, outputs, inputs).transpose());
        let want = reference::linear(&x, &weight, inputs, outputs);
        assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-14), "{got:?} {want:?}");
    }
}
