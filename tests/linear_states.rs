//! linear: the backward of node states and of edge states in one launch, which must have the bits of two.

mod kernel_support;

use half::bf16;
use kernel_support::cases::{check, rows, seeds};
use kernel_support::products::{FORMATS, matrix, matrix_mut};
use kernel_support::stored::{rounded, stored, stored_to_host, unwritten};
use kernel_support::{
    Counted, ROWS, Values, all, all_mut, devices, poisoned, spare, to_device, to_host, with_room,
};
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::device::buffer::Buffer;
use scenerank::backend::cuda::launchers::batch_norm::{Norm, NormBackward, NormGradient, Sums};
use scenerank::backend::cuda::launchers::linear::{
    Backward, Format, Gradient, Input, LinearGradients, Unit, WeightParts, linear_backward,
    linear_backward_states, linear_backward_unit,
};
use scenerank::backend::cuda::launchers::stored::StoredElement;

/// Whether both are in one launch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Launches {
    One,
    Two,
}

/// Random values of a layer's first product, as a format stores them.
struct Case {
    format: Format,
    nodes: usize,
    edges: usize,
    width: usize,
    hidden: usize,
    /// `[N, D]`, `[N, 2 H]`, and of the edges `[E, D]`, `[E, H]` and the layer's own z `[E, H]`.
    stored: [Vec<f32>; 5],
    /// `[H, 3 D]`.
    weight: Vec<f32>,
    /// Of nodes, of edges, and of the layer's own z: mean, rstd, weight and bias.
    norms: [[Vec<f32>; 4]; 3],
    /// `[2, H]`: what is subtracted of d_z.
    terms: Vec<f32>,
    /// `[N]`.
    along: Vec<f32>,
}

/// d_u, d_e, the weight's gradient, and those of the nodes' norm.
type Outcome = Vec<Vec<f32>>;

impl Case {
    fn new(format: Format, [nodes, edges, width, hidden]: [usize; 4], seed: u64) -> Self {
        let mut values = Values::new(seed);
        let mut stored = |count: usize| match format {
            Format::Bf16 => rounded::<bf16>(values.signed(count)),
            _ => values.signed(count),
        };
        let of = [nodes * width, nodes * 2 * hidden, edges * width, edges * hidden, edges * hidden];
        let (of, weight) = (of.map(&mut stored), stored(hidden * 3 * width));
        let norms = [width, width, hidden]
            .map(|n| [values.signed(n), values.positive(n), values.signed(n), values.signed(n)]);
        let (terms, along) = (values.signed(2 * hidden), values.signed(nodes));
        Case { format, nodes, edges, width, hidden, stored: of, weight, norms, terms, along }
    }

    fn compute(&self, launches: Launches, through_norm: bool, device: &Device, spare: usize) -> Outcome {
        match self.format {
            Format::Bf16 => self.compute_as::<bf16>(launches, through_norm, device, spare),
            _ => self.compute_as::<f32>(launches, through_norm, device, spare),
        }
    }

    fn compute_as<T: StoredElement>(
        &self,
        launches: Launches,
        through_norm: bool,
        device: &Device,
        spare: usize,
    ) -> Outcome {
        let Case { format, nodes, edges, width, hidden, .. } = *self;
        let counted = [nodes, edges].map(|rows| Counted::new(device, rows, spare));
        let [node_rows, edge_rows] = counted.each_ref().map(Counted::rows);
        let [node_bound, edge_bound] = [nodes, edges].map(|rows| rows + spare);
        let columns = [width, 2 * hidden, width, hidden, hidden];
        let of = [0, 1, 2, 3, 4].map(|i| stored::<T>(device, &self.stored[i], columns[i], spare));
        let [u, sums, e, mut d, z] = of;
        let part = T::stride(width);
        let mut weight = vec![T::narrow(f32::NAN); hidden * 3 * part];
        for (i, &value) in self.weight.iter().enumerate() {
            let (row, column) = (i / (3 * width), i % (3 * width));
            weight[row * 3 * part + column / width * part + column % width] = T::narrow(value);
        }
        let weight = to_device(device, &weight);
        let weight = matrix(&weight, hidden, 3 * part);
        let norms = self.norms.each_ref().map(|norm| norm.each_ref().map(|of| to_device(device, of)));
        let [norm_u, norm_e, norm_z] = norms.each_ref().map(norm);
        let (terms, along) = (to_device(device, &self.terms), with_room(device, &self.along, spare));
        let mut d_u = unwritten::<T>(device, node_bound, width);
        let mut d_e = unwritten::<T>(device, edge_bound, width);
        let mut d_weight = poisoned(device, hidden * 3 * width);
        let mut d_norm = [0; 2].map(|_| poisoned(device, width));
        let [d_norm_weight, d_norm_bias] = &mut d_norm;
        let memory = &mut Sums::new(device).expect("memory");
        let parts = &mut WeightParts::new(device).expect("memory");
        let d_z = if through_norm {
            Gradient::ThroughNorm(NormBackward {
                d: all_mut(&mut d),
                z: all(&z),
                norm: norm_z,
                terms: all(&terms),
            })
        } else {
            Gradient::Values(matrix(&d, edge_bound, hidden))
        };
        let mut whole = matrix_mut(&mut d_weight, hidden, 3 * width);
        let [outer, middle] = whole.outer_and_middle(width);
        let of_nodes = Backward {
            rows: node_rows,
            to: LinearGradients {
                x: matrix_mut(&mut d_u, node_bound, width),
                weight: outer,
                norm: Some(NormGradient {
                    weight: all_mut(d_norm_weight),
                    bias: all_mut(d_norm_bias),
                    batch_statistics: true,
                    sums: memory,
                }),
            },
            d_y: matrix(&sums, node_bound, 2 * hidden),
            x: Unit { z: matrix(&u, node_bound, width), norm: norm_u, along: Some(all(&along)) },
            weight: weight.stacked(0, 2 * part, width),
        };
        let to = LinearGradients { x: matrix_mut(&mut d_e, edge_bound, width), weight: middle, norm: None };
        let (e, weight) = (matrix(&e, edge_bound, width), weight.columns(part, width));
        match launches {
            Launches::One => {
                let of_edges = Backward { rows: edge_rows, to, d_y: d_z, x: (e, norm_e), weight };
                linear_backward_states(device, format, of_nodes, of_edges, parts)
            }
            Launches::Two => linear_backward_unit(device, format, of_nodes, parts).and_then(|()| {
                let x = Input::Activated(e, norm_e);
                linear_backward(device, format, Backward { rows: edge_rows, to, d_y: d_z, x, weight }, parts)
            }),
        }
        .expect("a launch");
        let mut outcome = vec![
            stored_to_host(device, &d_u, nodes, width),
            stored_to_host(device, &d_e, edges, width),
            to_host(device, &d_weight),
        ];
        outcome.extend(d_norm.iter().map(|buffer| to_host(device, buffer)));
        assert!(outcome.iter().flatten().all(|value| !value.is_nan()), "all is written");
        outcome
    }

    fn check(&self, devices: &[Device]) {
        let Case { format, nodes, edges, width, hidden, .. } = *self;
        let Some(first) = devices.first() else { return };
        for through_norm in [true, false] {
            let two = self.compute(Launches::Two, through_norm, first, 0);
            for (i, device) in devices.iter().enumerate() {
                let spare = if i == 0 { 0 } else { spare((i + nodes + edges + width) as u64) };
                let one = self.compute(Launches::One, through_norm, device, spare);
                assert!(
                    one == two,
                    "{format:?}, {nodes} and {edges} rows, {width} -> {hidden}, {through_norm}"
                );
            }
        }
    }
}

fn norm(of: &[Buffer<f32>; 4]) -> Norm<'_> {
    let [mean, rstd, weight, bias] = of.each_ref().map(all);
    Norm { mean, rstd, weight, bias }
}

#[test]
fn one_launch_has_the_bits_of_two() {
    let devices = devices();
    let sizes = ROWS.iter().flat_map(|&rows| [(13, 9), (64, 32), (65, 67)].map(|of| (rows, of)));
    for (seed, (rows, (width, hidden))) in (0..).zip(sizes) {
        // Edges without nodes there are not, but a kernel need not know.
        let edges = ROWS[(seed as usize * 5 + 3) % ROWS.len()];
        for format in FORMATS {
            Case::new(format, [rows, edges, width, hidden], seed).check(&devices);
        }
    }
    check(5, (rows(), rows(), 1..=150usize, 1..=100usize, seeds()), |(nodes, edges, width, hidden, seed)| {
        for format in FORMATS {
            Case::new(format, [nodes, edges, width, hidden], seed).check(&devices);
        }
    });
}

/// Parts of both weights' gradients at once, each in its own memory.
#[test]
fn gradients_in_many_parts_do_not_meet() {
    let devices = devices();
    for format in FORMATS {
        Case::new(format, [700, 900, 40, 30], 1).check(&devices);
    }
}
