//! Backward of normalised node states and of edge states, with parts of one weight.

use super::super::batch_norm::{decided_inputs, norm_gradient};
use super::super::{count, counted, norm, with_room};
use super::unit::{side_by_side, unit_outputs, unit_rows};
use super::{
    Error, Launches, Product, chain_of_backward, input_gradient, magnitudes, norm_gradient_outputs, normed,
    parts_of_weight, relu, weight_gradient,
};
use crate::backend::cuda::launchers::linear::{
    Backward, Format, Input, LinearGradients, Matrix, MatrixMut, StoredFormat, Unit, linear_backward,
    linear_backward_states, linear_backward_unit,
};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::bench::case::{Case, Cost, Grows, Host, Prepared, unwritten};
use crate::bench::matrix::HostMatrix;
use crate::bench::values::Values;

/// Both products of a layer's first block, for the backward.
#[derive(Clone, Copy, Debug)]
pub struct States {
    /// Product of the nodes. Its weight consists of the two outer parts of the whole weight, stacked.
    pub nodes: Product,
    /// Product of the edges. Its weight is the middle part, with as many inputs and half as many outputs.
    pub edges: Product,
}

/// [`backward`](super::unit::backward) of nodes, and [`backward`](super::backward::backward) of edges without the sums
/// of their norm, for a weight `[H, 3 D]`. One launch and two launches give the same bits.
pub fn backward(of: States, launches: Launches) -> Case {
    match of.nodes.format {
        Format::Bf16 => backward_as(of, launches, StoredFormat::BF16),
        Format::Bf16Warpgroup => backward_as(of, launches, StoredFormat::BF16_WARPGROUP),
        Format::Fp32 => backward_as(of, launches, StoredFormat::FP32),
        Format::Bf16x3 => backward_as(of, launches, StoredFormat::BF16X3),
        Format::Bf16x3Warpgroup => backward_as(of, launches, StoredFormat::BF16X3_WARPGROUP),
    }
}

fn backward_as<T: StoredElement>(of: States, launches: Launches, stored: StoredFormat<T>) -> Case {
    let Product { rows: nodes, inputs: width, format, seed, .. } = of.nodes;
    let Product { rows: edges, outputs: hidden, .. } = of.edges;
    let part = T::stride(width);
    Case {
        kernel: "linear_backward_states",
        shape: format!(
            "relu(norm([{nodes}, {width}])) at unit length -> {}, relu(norm([{edges}, {width}])) -> {hidden}, \
             edge.hidden",
            2 * hidden
        ),
        // Costs of the two separate launches.
        cost: Cost::stored::<T>(
            2 * nodes * hidden + edges * hidden + 3 * hidden * width + 2 * (nodes + edges) * width,
            3 * hidden * width + 10 * width + nodes,
            4 * (2 * nodes + edges) * width * hidden + 18 * nodes * width + 8 * edges * width,
        ),
        chain: chain_of_backward(of.nodes, true).or(chain_of_backward(of.edges, false)),
        grows: Grows::Nothing,
        format,
        prepare: Box::new(move |spare| {
            let mut values = Values::new(seed);
            let (node_bound, edge_bound) = (nodes + spare, edges + spare);
            let (u, of_u) = decided_inputs::<T>(&mut values, nodes, width);
            let (e, of_e) = decided_inputs::<T>(&mut values, edges, width);
            let (sums, d_z) = (values.matrix::<T>(nodes, 2 * hidden), values.matrix::<T>(edges, hidden));
            let along = with_room(values.signed(nodes), spare);
            let read = [u, sums, e, d_z].map(|matrix| matrix.with_room(spare));
            Prepared {
                host: Host {
                    stored: read.into_iter().chain([values.matrix::<T>(hidden, 3 * part)]).collect(),
                    stored_outputs: vec![
                        HostMatrix::unwritten::<T>(node_bound, width),
                        HostMatrix::unwritten::<T>(edge_bound, width),
                    ],
                    inputs: of_u.into_iter().chain(of_e).chain([along]).collect(),
                    indices: vec![count(nodes), count(edges)],
                    outputs: [hidden * 3 * width, width, width].map(unwritten).to_vec(),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([u, sums, e, d_z, weight], [d_u, d_e], parts) = arrays.stored_as::<T>().parts();
                    let (of, [nodes_count, edges_count], to, others) = parts;
                    let [m_u, r_u, w_u, b_u, m_e, r_e, w_e, b_e, along] = of;
                    let [d_weight, d_norm_weight, d_norm_bias] = to;
                    let (rows, weight) =
                        (counted(edges_count, edge_bound), Matrix::new(weight, hidden, 3 * part));
                    let mut d_weight = MatrixMut::new(d_weight, hidden, 3 * width);
                    let [outer, middle] = d_weight.outer_and_middle(width);
                    let of_nodes = Backward {
                        rows: counted(nodes_count, node_bound),
                        to: LinearGradients {
                            x: MatrixMut::new(d_u, node_bound, width),
                            weight: outer,
                            norm: Some(norm_gradient([d_norm_weight, d_norm_bias], &mut others.sums)),
                        },
                        d_y: Matrix::new(sums, node_bound, 2 * hidden),
                        x: Unit {
                            z: Matrix::new(u, node_bound, width),
                            norm: norm([m_u, r_u, w_u, b_u]),
                            along: Some(along),
                        },
                        weight: weight.stacked(0, 2 * part, width),
                    };
                    let to = LinearGradients {
                        x: MatrixMut::new(d_e, edge_bound, width),
                        weight: middle,
                        norm: None,
                    };
                    let d_y = Matrix::new(d_z, edge_bound, hidden);
                    let (e, of_e) = (Matrix::new(e, edge_bound, width), norm([m_e, r_e, w_e, b_e]));
                    let weight = weight.columns(part, width);
                    if launches == Launches::One {
                        let of_edges = Backward { rows, to, d_y, x: (e, of_e), weight };
                        return linear_backward_states(device, stored, of_nodes, of_edges, &mut others.parts);
                    }
                    linear_backward_unit(device, stored, of_nodes, &mut others.parts)?;
                    let x = Input::Activated(e, of_e);
                    linear_backward(device, stored, Backward { rows, to, d_y, x, weight }, &mut others.parts)
                }),
                expected: Box::new(move |host, written| {
                    let [u, sums, e, d_z, weight] = host.wide_stored();
                    let (of_u, of_e) = (&host.inputs[..4], &host.inputs[4..8]);
                    let [ends, middle] = parts_of_weight(&weight, part, width);
                    let of_unit = [&sums[..], &ends, &unit_rows::<T>(&u, of_u)];
                    let [d_u, outer] = unit_outputs::<T>(format, of_unit, width, Some(&host.inputs[8]));
                    let sizes = magnitudes(&d_z);
                    let d_e = input_gradient(&d_z, &middle, width);
                    let d_e_sizes = input_gradient(&sizes, &magnitudes(&middle), width);
                    let e = relu(&normed(&e, of_e));
                    let d_middle = weight_gradient(&d_z, &e, [width, hidden]);
                    let d_middle_sizes = weight_gradient(&sizes, &magnitudes(&e), [width, hidden]);
                    let of_middle = Error::new(format, edges, 1);
                    let d_middle = of_middle.output("d_weight", d_middle, &d_middle_sizes);
                    let mut expected = vec![
                        d_u,
                        Error::new(format, hidden, 0).output("d_e", d_e, &d_e_sizes).stored::<T>(),
                        side_by_side(&outer, &d_middle, width),
                    ];
                    let d_u = &written[0].values[..nodes * width];
                    expected.extend(norm_gradient_outputs(&u, of_u, d_u));
                    expected
                }),
            }
        }),
    }
}
