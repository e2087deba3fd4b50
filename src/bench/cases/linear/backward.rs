//! The products of a layer's backward.

use super::super::batch_norm::{decided_inputs, expected_backward, norm_backward, norm_gradient};
use super::super::{SEED, count, counted, near, norm, reference_norm, roundings};
use super::{Operands, Part, Product, matrix, product_of, rounded, tolerance, with_sums};
use crate::backend::cuda::launchers::batch_norm::NormBackward;
use crate::backend::cuda::launchers::linear::{
    Backward, Gradient, Input, LinearGradients, Matrix, MatrixMut, Unit, is_large, linear_backward,
    linear_backward_states, linear_backward_unit,
};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::bench::case::{Case, Cost, Host, Prepared, unwritten};
use crate::bench::matrix::HostMatrix;
use crate::bench::values::Values;

/// `d_x = d_y W` and `d_W = d_y^T x`.
pub(super) fn backward<T: StoredElement>(product: Product) -> Case {
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
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
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
                        x: MatrixMut::new(d_x, rows, inputs),
                        weight: MatrixMut::new(d_weight, outputs, inputs),
                        norm: None,
                    };
                    let d_y = Gradient::Values(Matrix::new(d_y, rows, outputs));
                    let x = Input::Values(Matrix::new(x, rows, inputs));
                    let (rows, weight) = (counted(count, rows), Matrix::new(weight, outputs, inputs));
                    let of = Backward { rows, to, d_y, x, weight };
                    linear_backward(device, format, of, &mut others.parts)
                }),
                expected: near(tolerance::<T>(format, rows.max(outputs), Operands::Stored), move |host| {
                    let [d_y, x, weight] = host.wide_stored();
                    let (d_y, x) = (matrix(&d_y, rows, outputs), matrix(&x, rows, inputs));
                    let weight = matrix(&weight, outputs, inputs);
                    vec![product_of(d_y, weight), product_of(d_y.transpose(), x)]
                }),
            }
        }),
    }
}

/// d_x = d_y W and d_W = d_y^T x of x = relu(norm(z)), and the gradients of the norm's weight and bias.
pub(super) fn backward_activated<T: StoredElement>(product: Product) -> Case {
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
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
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
                        x: MatrixMut::new(d_x, rows, inputs),
                        weight: MatrixMut::new(d_weight, outputs, inputs),
                        norm: Some(norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums)),
                    };
                    let d_y = Gradient::Values(Matrix::new(d_y, rows, outputs));
                    let x = Input::Activated(Matrix::new(z, rows, inputs), norm(of_norm));
                    let (rows, weight) = (counted(count, rows), Matrix::new(weight, outputs, inputs));
                    let of = Backward { rows, to, d_y, x, weight };
                    linear_backward(device, format, of, &mut others.parts)
                }),
                expected: near(
                    with_sums(tolerance::<T>(format, rows.max(outputs), Operands::Activated)),
                    move |host| {
                        let ([z, d_y, weight], of) = (host.wide_stored(), host.wide_inputs());
                        let x = reference_norm(&of).relu_rows(&z);
                        let d_y = matrix(&d_y, rows, outputs);
                        let d_x = product_of(d_y, matrix(&weight, outputs, inputs));
                        let d_weight = product_of(d_y.transpose(), matrix(&x, rows, inputs));
                        let [_, d_norm_weight, d_norm_bias] =
                            expected_backward(&z, &of, rounded::<T>(&d_x), true);
                        vec![d_x, d_weight, d_norm_weight, d_norm_bias]
                    },
                ),
            }
        }),
    }
}

/// d_x and d_W where d_y is what batch norm's backward makes of d and the output's z.
pub(super) fn backward_through_norm<T: StoredElement>(product: Product) -> Case {
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
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
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
                        x: MatrixMut::new(d_x, rows, inputs),
                        weight: MatrixMut::new(d_weight, outputs, inputs),
                        norm: None,
                    };
                    let norm_of_z = norm([mean, rstd, scale, bias]);
                    let d_y = Gradient::ThroughNorm(NormBackward { d, z, norm: norm_of_z, terms });
                    let x = Input::Values(Matrix::new(x, rows, inputs));
                    let (rows, weight) = (counted(count, rows), Matrix::new(weight, outputs, inputs));
                    let of = Backward { rows, to, d_y, x, weight };
                    linear_backward(device, format, of, &mut others.parts)
                }),
                expected: near(
                    tolerance::<T>(format, rows.max(outputs), Operands::Activated) + roundings(6),
                    move |host| {
                        let ([z, x, weight], [d, _]) = (host.wide_stored(), host.wide_stored_outputs());
                        let [mean, rstd, scale, bias, terms] = host.wide_inputs();
                        let d_z = rounded::<T>(&norm_backward(&z, &[mean, rstd, scale, bias], &terms, &d));
                        let d_y = matrix(&d_z, rows, outputs);
                        let d_x = product_of(d_y, matrix(&weight, outputs, inputs));
                        // Where it is large, d_z was written in its place.
                        let d = if is_large(rows, inputs) { d_z.clone() } else { d };
                        let d_weight = product_of(d_y.transpose(), matrix(&x, rows, inputs));
                        vec![d, d_x, d_weight]
                    },
                ),
            }
        }),
    }
}

/// [`backward_through_norm`] of x = relu(norm(x)), and the gradients of this norm's weight and bias.
pub(super) fn backward_activated_through_norm<T: StoredElement>(product: Product) -> Case {
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
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
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
                        x: MatrixMut::new(d_x, rows, inputs),
                        weight: MatrixMut::new(d_weight, outputs, inputs),
                        norm: Some(norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums)),
                    };
                    let norm_of_z = norm([mean, rstd, scale, bias]);
                    let d_y = Gradient::ThroughNorm(NormBackward { d, z, norm: norm_of_z, terms });
                    let x = Input::Activated(
                        Matrix::new(x, rows, inputs),
                        norm([mean_x, rstd_x, scale_x, bias_x]),
                    );
                    let (rows, weight) = (counted(count, rows), Matrix::new(weight, outputs, inputs));
                    let of = Backward { rows, to, d_y, x, weight };
                    linear_backward(device, format, of, &mut others.parts)
                }),
                expected: near(
                    with_sums(tolerance::<T>(format, rows.max(outputs), Operands::Activated)) + roundings(6),
                    move |host| {
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
                        let [_, d_norm_weight, d_norm_bias] =
                            expected_backward(&x, &of_x, rounded::<T>(&d_x), true);
                        vec![d, d_x, d_weight, d_norm_weight, d_norm_bias]
                    },
                ),
            }
        }),
    }
}

/// d_u = d_y W - t u and d_W = d_y^T u of u = relu(norm(z)), and the gradients of the norm's weight and bias.
pub(super) fn backward_unit<T: StoredElement>(product: Product) -> Case {
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
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
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
                        x: MatrixMut::new(d_u, rows, inputs),
                        weight: MatrixMut::new(d_weight, outputs, inputs),
                        norm: Some(norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums)),
                    };
                    let (d_y, norm) = (Matrix::new(d_y, rows, outputs), norm([mean, rstd, scale, bias]));
                    let x = Unit { z: Matrix::new(z, rows, inputs), norm, along: Some(along) };
                    let (rows, weight) = (counted(count, rows), Matrix::new(weight, outputs, inputs));
                    let of = Backward { rows, to, d_y, x, weight };
                    linear_backward_unit(device, format, of, &mut others.parts)
                }),
                expected: near(
                    with_sums(tolerance::<T>(format, rows.max(outputs), Operands::Activated)) + roundings(2),
                    move |host| {
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
                        let [_, d_norm_weight, d_norm_bias] =
                            expected_backward(&z, &of, rounded::<T>(&d_u), true);
                        vec![d_u, d_weight, d_norm_weight, d_norm_bias]
                    },
                ),
            }
        }),
    }
}

/// [`backward_unit`] of nodes and [`backward_activated_through_norm`] of edges, without the sums of their norm, in one launch:
/// of a weight `[H, 3 D]`, whose outer parts are the nodes' and whose middle one is the edges'.
pub(super) fn backward_states<T: StoredElement>(of_nodes: Product, of_edges: Product) -> Case {
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
        prepare: Box::new(move |_| {
            let mut values = Values::new(SEED);
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
                    let [outer, middle] = d_weight.outer_and_middle(width);
                    let of_nodes = Backward {
                        rows: counted(nodes_count, nodes),
                        to: LinearGradients {
                            x: MatrixMut::new(d_u, nodes, width),
                            weight: outer,
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
                            x: MatrixMut::new(d_e, edges, width),
                            weight: middle,
                            norm: None,
                        },
                        d_y: Gradient::ThroughNorm(of_z).for_input(device, rows, width)?,
                        x: (Matrix::new(e, edges, width), norm([m_e, r_e, w_e, b_e])),
                        weight: weight.columns(part, width),
                    };
                    linear_backward_states(device, format, of_nodes, of_edges, &mut others.parts)
                }),
                expected: near(
                    with_sums(tolerance::<T>(format, nodes.max(edges).max(2 * hidden), Operands::Activated))
                        + roundings(6),
                    move |host| {
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
                        let [_, d_norm_weight, d_norm_bias] =
                            expected_backward(&u, &of_u, rounded::<T>(&d_u), true);
                        let d_z = rounded::<T>(&norm_backward(&z, &[m_z, r_z, w_z, b_z], &terms, &d));
                        let d_y = matrix(&d_z, edges, hidden);
                        let d_e = product_of(d_y, matrix(&part_of(part), hidden, width));
                        let activated = reference_norm(&[m_e, r_e, w_e, b_e]).relu_rows(&e);
                        let d_middle = product_of(d_y.transpose(), matrix(&activated, edges, width));
                        let row = |of: &[f64], row: usize| of[row * width..(row + 1) * width].to_vec();
                        let d_weight = (0..hidden)
                            .flat_map(|h| {
                                [row(&d_ends, h), row(&d_middle, h), row(&d_ends, hidden + h)].concat()
                            })
                            .collect();
                        // Where it is large, d_z was written in its place.
                        let d = if is_large(edges, width) { d_z.clone() } else { d };
                        vec![d, d_u, d_e, d_weight, d_norm_weight, d_norm_bias]
                    },
                ),
            }
        }),
    }
}
