//! linear: the products of an x whose rows are at unit length, x = u / |u| with u = relu(norm(z)), and their backward, whose
//! part along u the sums by end have found: against the reference in double precision.

mod kernel_support;

use half::bf16;
use kernel_support::cases::{check, rows, seeds};
use kernel_support::products::{
    FORMATS, addition_error, assert_near, magnitudes, matrix, matrix_mut, operand_error, stored_error,
};
use kernel_support::stored::{rounded, stored, stored_to_host, unwritten};
use kernel_support::{
    Counted, ROWS, Values, all, all_mut, devices, poisoned, spare, to_device, to_host, to_host_within, wide,
    with_room,
};
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::batch_norm::{Norm, NormGradient, Sums};
use scenerank::backend::cuda::launchers::edge_hidden::{Lengths, edge_hidden_sum_ends};
use scenerank::backend::cuda::launchers::linear::{
    Backward, Format, Forward as Product, Gradient, LinearGradients, Unit, WeightParts, linear_backward_unit,
    linear_forward_unit,
};
use scenerank::backend::cuda::launchers::lists::Lists;
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::{l2_normalise as reference_unit, linear as reference};

const EPS: f64 = f32::EPSILON as f64;
const LEAST_LENGTH: f32 = 1e-12;

/// Inputs and half of the outputs, where the weight is split: below, at and above a tile, no multiple of anything, one.
const WIDTHS: [(usize, usize); 5] = [(13, 9), (64, 32), (65, 1), (1, 33), (100, 67)];

/// A layer's random values, as a format stores them.
struct Case {
    format: Format,
    rows: usize,
    inputs: usize,
    outputs: usize,
    z: Vec<f32>,
    /// Mean, rstd, weight and bias.
    norm: [Vec<f32>; 4],
    /// `[O, I]`.
    weight: Vec<f32>,
    /// `[R, O]`.
    d_y: Vec<f32>,
    /// `[R]`.
    along: Vec<f32>,
}

#[derive(PartialEq)]
struct Forward {
    y: Vec<f32>,
    lengths: Vec<f32>,
}

#[derive(PartialEq)]
struct Gradients {
    d_u: Vec<f32>,
    d_weight: Vec<f32>,
    /// Gradients of the norm's weight and bias.
    columns: [Vec<f32>; 2],
}

/// Runs `$run::<T>` of the type that the format stores in.
macro_rules! as_stored {
    ($case:expr, $run:ident, $($argument:expr),*) => {
        match $case.format {
            Format::Bf16 => $case.$run::<bf16>($($argument),*),
            _ => $case.$run::<f32>($($argument),*),
        }
    };
}

impl Case {
    fn new(format: Format, (rows, inputs, half): (usize, usize, usize), seed: u64) -> Self {
        let (mut values, outputs) = (Values::new(seed), 2 * half);
        let mut stored = |count: usize| as_format(format, values.signed(count));
        let (z, weight, d_y) = (stored(rows * inputs), stored(outputs * inputs), stored(rows * outputs));
        let norm =
            [values.signed(inputs), values.positive(inputs), values.scales(inputs), values.signed(inputs)];
        Case { format, rows, inputs, outputs, z, norm, weight, d_y, along: values.signed(rows) }
    }

    /// norm(z) as the kernels round it.
    fn normed(&self) -> Vec<f32> {
        let [mean, rstd, weight, bias] = &self.norm;
        let value = |(i, z): (usize, &f32)| {
            let c = i % self.inputs;
            (z - mean[c]) * (rstd[c] * weight[c]) + bias[c]
        };
        self.z.iter().enumerate().map(value).collect()
    }

    /// u as the products take it, which is as it would be stored.
    fn u(&self) -> Vec<f64> {
        let u = self.normed().iter().map(|&y| if y <= 0.0 { 0.0 } else { y }).collect();
        wide(&as_format(self.format, u))
    }

    /// What rows are divided by.
    fn lengths(&self) -> Vec<f64> {
        let length = |row: &[f64]| row.iter().map(|u| u * u).sum::<f64>().sqrt();
        self.u().chunks_exact(self.inputs).map(|row| length(row).max(f64::from(LEAST_LENGTH))).collect()
    }

    /// What a sum of squares and its root may be off by, relatively.
    fn length_error(&self) -> f64 {
        EPS * (self.inputs as f64 + 4.0)
    }

    /// The weight in the first and the last of three parts side by side, one above the other.
    fn stored_weight<T: StoredElement>(&self) -> (Vec<T>, usize, usize) {
        let (hidden, part) = (self.outputs / 2, T::stride(self.inputs));
        let mut weight = vec![T::narrow(f32::NAN); hidden * 3 * part];
        for (i, &value) in self.weight.iter().enumerate() {
            let (row, column) = (i / self.inputs, i % self.inputs);
            weight[row % hidden * 3 * part + row / hidden * 2 * part + column] = T::narrow(value);
        }
        (weight, hidden, part)
    }

    fn forward(&self, device: &Device, with_lengths: bool, spare: usize) -> Forward {
        as_stored!(self, forward_as, device, with_lengths, spare)
    }

    fn forward_as<T: StoredElement>(&self, device: &Device, with_lengths: bool, spare: usize) -> Forward {
        let Case { rows, inputs, outputs, .. } = *self;
        let (counted, bound) = (Counted::new(device, rows, spare), rows + spare);
        let z = stored::<T>(device, &self.z, inputs, spare);
        let norm = self.norm.each_ref().map(|of| to_device(device, of));
        let [mean, rstd, weight, bias] = norm.each_ref().map(all);
        let norm = Norm { mean, rstd, weight, bias };
        let (weight, hidden, part) = self.stored_weight::<T>();
        let weight = to_device(device, &weight);
        let mut y = unwritten::<T>(device, bound, outputs);
        let mut lengths = poisoned(device, bound);
        linear_forward_unit(
            device,
            self.format,
            Product {
                rows: counted.rows(),
                y: matrix_mut(&mut y, bound, outputs),
                x: (matrix(&z, bound, inputs), norm),
                weight: matrix(&weight, hidden, 3 * part).stacked(0, 2 * part, inputs),
            },
            with_lengths.then_some(&mut all_mut(&mut lengths)),
        )
        .expect("a launch");
        let lengths = to_host_within(device, &lengths, if with_lengths { rows } else { 0 });
        Forward { y: stored_to_host(device, &y, rows, outputs), lengths }
    }

    fn backward(&self, device: &Device, with_along: bool, spare: usize) -> Gradients {
        as_stored!(self, backward_as, device, with_along, spare)
    }

    fn backward_as<T: StoredElement>(&self, device: &Device, with_along: bool, spare: usize) -> Gradients {
        let Case { rows, inputs, outputs, .. } = *self;
        let (counted, bound) = (Counted::new(device, rows, spare), rows + spare);
        let [z, d_y] = [(&self.z, inputs), (&self.d_y, outputs)]
            .map(|(v, columns)| stored::<T>(device, v, columns, spare));
        let norm = self.norm.each_ref().map(|of| to_device(device, of));
        let [mean, rstd, weight, bias] = norm.each_ref().map(all);
        let norm = Norm { mean, rstd, weight, bias };
        let (weight, hidden, part) = self.stored_weight::<T>();
        let weight = to_device(device, &weight);
        let along = with_room(device, &self.along, spare);
        let mut d_u = unwritten::<T>(device, bound, inputs);
        let mut d_weight = poisoned(device, hidden * 3 * inputs);
        let mut columns = [0; 2].map(|_| poisoned(device, inputs));
        let [first, second] = &mut columns;
        let sums = &mut Sums::new(device).expect("memory");
        let (weight_there, bias_there) = (all_mut(first), all_mut(second));
        let d_norm = NormGradient { weight: weight_there, bias: bias_there, batch_statistics: true, sums };
        let mut whole = matrix_mut(&mut d_weight, hidden, 3 * inputs);
        let of = Backward {
            rows: counted.rows(),
            to: LinearGradients {
                x: matrix_mut(&mut d_u, bound, inputs),
                weight: whole.stacked(0, 2 * inputs, inputs),
                norm: Some(d_norm),
            },
            d_y: matrix(&d_y, bound, outputs),
            x: Unit { z: matrix(&z, bound, inputs), norm, along: with_along.then_some(all(&along)) },
            weight: matrix(&weight, hidden, 3 * part).stacked(0, 2 * part, inputs),
        };
        linear_backward_unit(device, self.format, of, &mut WeightParts::new(device).expect("memory"))
            .expect("a launch");
        let wider = to_host(device, &d_weight);
        let part = |start: usize| -> Vec<f32> {
            wider.chunks_exact(3 * inputs).flat_map(|row| row[start..][..inputs].to_vec()).collect()
        };
        assert!(part(inputs).iter().all(|value| value.is_nan()), "the part between");
        Gradients {
            d_u: stored_to_host(device, &d_u, rows, inputs),
            d_weight: [part(0), part(2 * inputs)].concat(),
            columns: columns.map(|buffer| to_host(device, &buffer)),
        }
    }

    fn check_forward(&self, devices: &[Device]) {
        self.check_forward_in_grid(0, devices);
    }

    /// In grids for at least so many rows more.
    fn check_forward_in_grid(&self, least_spare: usize, devices: &[Device]) {
        let Case { format, rows, inputs, outputs, .. } = *self;
        let name = format!("forward in {format:?} [{rows}, {inputs} -> {outputs}]");
        let (u, weight, lengths) = (self.u(), wide(&self.weight), self.lengths());
        for with_lengths in [true, false] {
            let over = |mut y: Vec<f64>| {
                let rows = y.chunks_exact_mut(outputs).zip(&lengths).filter(|_| with_lengths);
                rows.for_each(|(row, length)| row.iter_mut().for_each(|y| *y /= length));
                y
            };
            let want = over(reference::linear(&u, &weight, inputs, outputs));
            let magnitude = over(reference::linear(&magnitudes(&u), &magnitudes(&weight), inputs, outputs));
            let mut seen = devices.iter().enumerate().map(|(i, device)| {
                let spare = if i == 0 { 0 } else { spare((i + rows + inputs + outputs) as u64) };
                self.forward(device, with_lengths, least_spare + spare)
            });
            let Some(first) = seen.next() else { return };
            let error = operand_error(format, 0) + addition_error(format, inputs);
            let error = (1.0 + error) * (1.0 + 2.0 * self.length_error()) - 1.0 + EPS;
            assert_near(&name, &first.y, &want, &magnitude, stored_error(format, error));
            if with_lengths {
                assert_near(&name, &first.lengths, &lengths, &lengths, self.length_error());
            }
            assert!(seen.all(|other| other == first), "{name}: orders of threads or grids change the bits");
        }
    }

    fn check_backward(&self, devices: &[Device]) {
        self.check_backward_in_grid(0, devices);
    }

    /// In grids for at least so many rows more.
    fn check_backward_in_grid(&self, least_spare: usize, devices: &[Device]) {
        let Case { format, rows, inputs, outputs, .. } = *self;
        let name = format!("backward in {format:?} [{rows}, {inputs} -> {outputs}]");
        let (u, weight, d_y) = (self.u(), wide(&self.weight), wide(&self.d_y));
        for with_along in [true, false] {
            let along = |i: usize| {
                if with_along { u[i] * f64::from(self.along[i / inputs]) } else { 0.0 }
            };
            let less =
                |d: Vec<f64>| -> Vec<f64> { d.iter().enumerate().map(|(i, d)| d - along(i)).collect() };
            let more =
                |d: Vec<f64>| -> Vec<f64> { d.iter().enumerate().map(|(i, d)| d + along(i).abs()).collect() };
            let want = less(reference::linear_backward_input(&d_y, &weight, inputs, outputs));
            let [d_y_size, weight_size, u_size] = [&d_y, &weight, &u].map(|values| magnitudes(values));
            let size = more(reference::linear_backward_input(&d_y_size, &weight_size, inputs, outputs));
            let [mut d_weight, mut weight_limit] = [0; 2].map(|_| vec![f64::NAN; outputs * inputs]);
            reference::linear_backward_weight(&d_y, &u, inputs, outputs, &mut d_weight);
            reference::linear_backward_weight(&d_y_size, &u_size, inputs, outputs, &mut weight_limit);
            let mut seen = devices.iter().enumerate().map(|(i, device)| {
                let spare = if i == 0 { 0 } else { spare((i + rows + inputs + outputs) as u64) };
                self.backward(device, with_along, least_spare + spare)
            });
            let Some(first) = seen.next() else { return };
            let error = |terms: usize| operand_error(format, 0) + addition_error(format, terms);
            assert_near(&name, &first.d_u, &want, &size, stored_error(format, error(outputs) + EPS));
            assert_near(&name, &first.d_weight, &d_weight, &weight_limit, error(rows));
            self.check_columns(&name, &first);
            assert!(seen.all(|other| other == first), "{name}: orders of threads or grids change the bits");
        }
    }

    /// The columns' sums against those of d_u as it was written.
    fn check_columns(&self, name: &str, outcome: &Gradients) {
        let (normed, [mean, rstd, ..]) = (self.normed(), self.norm.each_ref().map(|of| wide(of)));
        for column in 0..self.inputs {
            let (mut d_bias, mut d_weight, mut most) = (0.0, 0.0, 0.0);
            for at in (column..self.z.len()).step_by(self.inputs) {
                let d = if normed[at] > 0.0 { f64::from(outcome.d_u[at]) } else { 0.0 };
                let xhat = (f64::from(self.z[at]) - mean[column]) * rstd[column];
                (d_bias, d_weight) = (d_bias + d, d_weight + d * xhat);
                most += d.abs() * (1.0 + xhat.abs());
            }
            // 64 roundings within a chunk, which double precision merges.
            let limit = most * EPS * 70.0;
            for (got, want) in [(&outcome.columns[0], d_weight), (&outcome.columns[1], d_bias)] {
                let got = f64::from(got[column]);
                assert!((got - want).abs() <= limit, "{name}, column {column}: {got}, not {want}");
            }
        }
    }
}

/// The values that this format's operands are stored as.
fn as_format(format: Format, values: Vec<f32>) -> Vec<f32> {
    if format == Format::Bf16 { rounded::<bf16>(values) } else { values }
}

#[test]
fn products_of_unit_rows_agree_with_the_reference() {
    let devices = devices();
    let sizes = ROWS.iter().flat_map(|&rows| WIDTHS.map(|(inputs, half)| (rows, inputs, half)));
    for (seed, sizes) in (0..).zip(sizes) {
        for format in FORMATS {
            let case = Case::new(format, sizes, seed);
            case.check_forward(&devices);
            case.check_backward(&devices);
        }
    }
    check(10, (rows(), 1..=200usize, 1..=100usize, seeds()), |(rows, inputs, half, seed)| {
        for format in FORMATS {
            let case = Case::new(format, (rows, inputs, half), seed);
            case.check_forward(&devices);
            case.check_backward(&devices);
        }
    });
}

/// Grids for so many rows that they take the larger tile, where there are few.
#[test]
fn the_tile_that_a_bound_chooses_changes_no_bit() {
    for device in devices().iter().take(1) {
        for format in [Format::Bf16, Format::Bf16x3] {
            let case = Case::new(format, (70, 21, 511), 1);
            assert!(
                case.forward(device, true, 0) == case.forward(device, true, 4149),
                "forward in {format:?}"
            );
            let case = Case::new(format, (70, 1021, 11), 2);
            assert!(case.backward(device, true, 0) == case.backward(device, true, 4149), "{format:?}");
        }
    }
}

/// Few columns, and rows for two groups of the columns' sums, in a grid for so many that it takes the larger tile.
#[test]
fn products_of_many_tiles_agree_with_the_reference() {
    let devices: Vec<Device> = devices().into_iter().take(1).collect();
    let spare = 132 * 128;
    for format in [Format::Bf16, Format::Bf16x3] {
        Case::new(format, (2171, 21, 65), 3).check_forward_in_grid(spare, &devices);
        Case::new(format, (2171, 130, 10), 4).check_backward_in_grid(spare, &devices);
    }
}

/// Rows of zeros, of lengths below the least divisor and just above it, and with a NaN, which stays one.
#[test]
fn rows_without_length_are_divided_by_the_least() {
    let (rows, inputs, half) = (5, 7, 3);
    for (device, format) in devices().iter().flat_map(|device| FORMATS.map(|format| (device, format))) {
        let mut case = Case::new(format, (rows, inputs, half), 5);
        case.norm = [0.0, 1.0, 1.0, 0.0].map(|value| vec![value; inputs]);
        case.z[..inputs].fill(-1.0);
        case.z[inputs..3 * inputs].fill(0.0);
        case.z[inputs + 2] = as_format(format, vec![1e-13])[0];
        case.z[2 * inputs + 4] = as_format(format, vec![3e-12])[0];
        let healthy = case.forward(device, true, 0);
        assert_eq!(healthy.lengths[..2], [LEAST_LENGTH; 2], "{format:?}");
        assert!((healthy.lengths[2] / case.z[2 * inputs + 4] - 1.0).abs() < 1e-6, "{format:?}");
        case.check_forward(std::slice::from_ref(device));
        case.check_backward(std::slice::from_ref(device));
        case.z[3 * inputs + 1] = f32::NAN;
        let Forward { y, lengths } = case.forward(device, true, 0);
        let nan = |row: usize| y[row * 2 * half..][..2 * half].iter().filter(|y| y.is_nan()).count();
        assert_eq!([0, 1, 2, 3, 4].map(nan), [0, 0, 0, 2 * half, 0], "{format:?}");
        assert_eq!([0, 1, 2, 3, 4].map(|row| lengths[row].is_nan()), [false, false, false, true, false]);
        assert_eq!(y[..3 * 2 * half], healthy.y[..3 * 2 * half], "{format:?}: other rows");
    }
}

/// The whole way, forward, sums by end and backward: the gradient by u of the sum of S (x W^T), against that of the l2
/// normalisation in double precision.
///
/// With S' = S / |u| d_u is off by what the product and the stores are, and u times what t is: t = (S' . P) / |u| takes S'
/// and P as they were stored. S' is rounded once, in d_u as in t, and P once; so t is off by two roundings, and the errors of
/// P's product and the additions, of (|S'| . |P|) / |u|, where |P| is the sum of its terms' magnitudes.
#[test]
fn forward_sums_and_backward_are_the_gradient_of_the_normalisation() {
    check(40, (1..=40usize, 1..=40usize, 1..=40usize, seeds()), |(rows, inputs, half, seed)| {
        for (device, format) in devices().iter().take(1).flat_map(|one| FORMATS.map(|format| (one, format))) {
            let mut case = Case::new(format, (rows, inputs, half), seed);
            // The first row is below the least divisor: its gradient is d_x over that.
            case.norm = [0.0, 1.0, 1.0, 0.0].map(|value| vec![value; inputs]);
            case.z[..inputs].fill(as_format(format, vec![1e-14])[0]);
            as_stored!(case, check_way, device);
        }
    });
}

impl Case {
    fn check_way<T: StoredElement>(&mut self, device: &Device) {
        let Case { format, rows, inputs, outputs, .. } = *self;
        let hidden = outputs / 2;
        let forward = self.forward(device, true, 0);
        // Each row is both ends of one edge: S is d_z twice.
        let d_z: Vec<f32> = self.d_y.chunks_exact(outputs).flat_map(|row| row[..hidden].to_vec()).collect();
        let s: Vec<f64> = d_z.chunks_exact(hidden).flat_map(|row| wide(&[row, row].concat())).collect();
        let (counted, edges) = (Counted::new(device, rows, 0), stored::<T>(device, &d_z, hidden, 0));
        let offsets: Vec<i32> = (0..=rows as i32).map(|n| 2 * n).collect();
        let (offsets, entries) =
            (to_device(device, &offsets), to_device(device, &(0..2 * rows as i32).collect::<Vec<_>>()));
        let projected = stored::<T>(device, &forward.y, outputs, 0);
        let lengths = to_device(device, &forward.lengths);
        let (mut sums, mut along) = (unwritten::<T>(device, rows, outputs), poisoned(device, rows));
        edge_hidden_sum_ends(
            device,
            &mut all_mut(&mut sums),
            Some(Lengths { lengths: all(&lengths), projected: all(&projected), along: all_mut(&mut along) }),
            &Gradient::Values(matrix(&edges, rows, hidden)),
            Lists { rows: counted.rows(), offsets: all(&offsets), entries: all(&entries) },
            hidden,
        )
        .expect("a launch");
        self.d_y = stored_to_host(device, &sums, rows, outputs);
        self.along = to_host(device, &along);
        assert_eq!(self.along[0], 0.0, "{format:?}: a length below the least divisor");
        let got = self.backward(device, true, 0);

        let (u, weight, lengths) = (self.u(), wide(&self.weight), self.lengths());
        let d_x = reference::linear_backward_input(&s, &weight, inputs, outputs);
        let want = reference_unit::l2_normalise_backward(&u, &d_x, inputs);
        let (s, weight) = (magnitudes(&s), magnitudes(&weight));
        let product = reference::linear_backward_input(&s, &weight, inputs, outputs);
        let projected = reference::linear(&magnitudes(&u), &weight, inputs, outputs);
        let stored_once = T::ROUNDING;
        for (row, &length) in lengths.iter().enumerate() {
            let columns = row * outputs..(row + 1) * outputs;
            let dot: f64 = s[columns.clone()].iter().zip(&projected[columns]).map(|(s, p)| s * p).sum();
            let along = if row == 0 { 0.0 } else { dot / length / length / length };
            let error = operand_error(format, 0) + addition_error(format, inputs.max(outputs));
            let error = 2.0 * (error + 2.0 * stored_once + 4.0 * self.length_error());
            for at in row * inputs..(row + 1) * inputs {
                let limit = error * (product[at] / length + u[at] * along);
                let limit = limit + stored_once * want[at].abs() + f64::from(f32::MIN_POSITIVE);
                let off = (f64::from(got.d_u[at]) - want[at]).abs();
                assert!(
                    off <= limit,
                    "{format:?} [{rows}, {inputs} -> {outputs}], {at}: {} where {} is expected, limit {limit:.3e}",
                    got.d_u[at],
                    want[at]
                );
            }
        }
    }
}
