//! linear: the products in every format against the reference in double precision.
//!
//! Bounds hold for every value: with M = sum of |a| |b| over its terms, operands rounded with relative errors of up to u
//! move it by (2 u + u^2) M, and each addition by an eps of a partial sum, which is at most M. In bf16 operands are stored
//! as such, so that only activated ones are rounded on the way, and what is stored in bf16 is rounded once.

mod kernel_support;

use half::bf16;
use kernel_support::calculus::{central_differences, weighted_sum};
use kernel_support::cases::{check, rows, seeds};
use kernel_support::products::{
    FORMATS, addition_error, assert_near, magnitudes, matrix, matrix_mut, operand_error, stored_error,
};
use kernel_support::stored::{rounded, stored, stored_to_host, unwritten};
use kernel_support::{
    Counted, ROWS, Values, all, all_mut, devices, indices_with_room, poisoned, spare, to_device, to_host,
    wide,
};
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::batch_norm::{
    BatchStatistics, Norm, NormGradient, Statistics, Sums,
};
use scenerank::backend::cuda::launchers::linear::{
    Backward as LayerBackward, Format, Forward as PlainForward, ForwardGather as GatherForward, Gradient,
    Input, LinearGradients, WeightParts, linear_backward, linear_forward, linear_forward_gather,
    linear_forward_two,
};
use scenerank::backend::cuda::launchers::lists::Ends;
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::backend::reference::linear as reference;

/// Inputs and outputs: below, at and above a tile, no multiple of anything, one.
const WIDTHS: [(usize, usize); 5] = [(13, 19), (64, 64), (65, 1), (1, 65), (100, 67)];

/// Of all. A weight's gradient is not rounded where it is stored, whatever the format.
fn error(format: Format, product: Product, which: usize, terms: usize) -> f64 {
    let error = operand_error(format, i32::from(product.is_activated())) + addition_error(format, terms);
    if which == 0 { stored_error(format, error) } else { error }
}

/// Activated: of relu(norm(x)). Alone: without the sums of the norm's backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Product {
    Forward,
    ForwardActivated,
    ForwardGather,
    ForwardGatherActivated,
    Backward,
    BackwardActivated,
    BackwardActivatedAlone,
}
use Product::*;

const FORWARD: [Product; 4] = [Forward, ForwardActivated, ForwardGather, ForwardGatherActivated];
const BACKWARD: [Product; 3] = [Backward, BackwardActivated, BackwardActivatedAlone];

impl Product {
    fn is_forward(self) -> bool {
        FORWARD.contains(&self)
    }

    fn gathers(self) -> bool {
        matches!(self, ForwardGather | ForwardGatherActivated)
    }

    fn is_activated(self) -> bool {
        !matches!(self, Forward | ForwardGather | Backward)
    }
}

/// Nodes that edges gather from.
const NODES: usize = 9;

/// A layer's random values, as they are stored.
#[derive(Clone)]
struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    d_y: Vec<f32>,
    /// Mean, rstd, weight, bias of the inputs' batch norm.
    norm: [Vec<f32>; 4],
    projected: Vec<f32>,
    ends: [Vec<u32>; 2],
}

/// What a product writes: y, or d_x and d_W; and what the sums of the columns give: mean and rstd, or the gradients of the
/// norm's weight and bias.
#[derive(PartialEq)]
struct Outcome {
    values: Vec<Vec<f32>>,
    columns: [Vec<f32>; 2],
}

impl Case {
    fn new(rows: usize, inputs: usize, outputs: usize, seed: u64) -> Self {
        let mut values = Values::new(seed);
        let (x, weight) = (values.signed(rows * inputs), values.signed(outputs * inputs));
        let norm =
            [values.signed(inputs), values.positive(inputs), values.signed(inputs), values.signed(inputs)];
        let projected = values.signed(NODES * 2 * outputs);
        let ends = [0; 2].map(|_| values.indices(rows, NODES));
        Case { rows, inputs, outputs, x, weight, d_y: values.signed(rows * outputs), norm, projected, ends }
    }

    /// The values as this format stores them.
    fn stored_in(&self, format: Format) -> Self {
        if format != Format::Bf16 {
            return self.clone();
        }
        let Case { x, weight, d_y, projected, .. } = self.clone();
        let [x, weight, d_y, projected] = [x, weight, d_y, projected].map(rounded::<bf16>);
        Case { x, weight, d_y, projected, ..self.clone() }
    }

    /// norm(x) as the kernels round it, by value.
    fn normed(&self) -> Vec<f32> {
        let [mean, rstd, weight, bias] = &self.norm;
        let value = |(i, x): (usize, &f32)| {
            let c = i % self.inputs;
            (x - mean[c]) * (rstd[c] * weight[c]) + bias[c]
        };
        self.x.iter().enumerate().map(value).collect()
    }

    /// What the reference makes of the operands, or of their absolute values, and the terms of a sum.
    fn reference(&self, product: Product, absolute: bool) -> Vec<(Vec<f64>, usize)> {
        let Case { rows, inputs, outputs, .. } = *self;
        let of = |values: &[f32]| if absolute { magnitudes(&wide(values)) } else { wide(values) };
        let (weight, d_y) = (of(&self.weight), of(&self.d_y));
        let x = match product.is_activated() {
            true => of(&self.normed().iter().map(|&y| y.max(0.0)).collect::<Vec<_>>()),
            false => of(&self.x),
        };
        if product.is_forward() {
            let mut y = reference::linear(&x, &weight, inputs, outputs);
            if !product.gathers() {
                return vec![(y, inputs)];
            }
            let (projected, [subject, object]) = (of(&self.projected), &self.ends);
            for (i, y) in y.iter_mut().enumerate() {
                let (row, column) = (i / outputs, i % outputs);
                *y += projected[subject[row] as usize * 2 * outputs + column];
                *y += projected[object[row] as usize * 2 * outputs + outputs + column];
            }
            return vec![(y, inputs + 2)];
        }
        let d_x = reference::linear_backward_input(&d_y, &weight, inputs, outputs);
        let mut d_weight = vec![f64::NAN; outputs * inputs];
        reference::linear_backward_weight(&d_y, &x, inputs, outputs, &mut d_weight);
        vec![(d_x, outputs), (d_weight, rows)]
    }

    /// Where x lies in [`Case::compute_as`], among columns that nobody may read: the first of it, and the columns in all.
    fn columns_around_x<T: StoredElement>(&self) -> (usize, usize) {
        let start = self.rows % 5 * T::ROW_MULTIPLE;
        (start, start + self.inputs + self.rows % 3)
    }

    /// The product on the device, by a grid for `spare` rows more, and how many values the memory for parts has then.
    fn compute(&self, product: Product, device: &Device, format: Format, spare: usize) -> (Outcome, usize) {
        match format {
            Format::Bf16 => self.compute_as::<bf16>(product, device, format, spare),
            _ => self.compute_as::<f32>(product, device, format, spare),
        }
    }

    fn compute_as<T: StoredElement>(
        &self,
        product: Product,
        device: &Device,
        format: Format,
        spare: usize,
    ) -> (Outcome, usize) {
        let Case { rows, inputs, outputs, .. } = *self;
        let (counted, bound) = (Counted::new(device, rows, spare), rows + spare);
        let (start, around) = self.columns_around_x::<T>();
        let mut wider = vec![f32::NAN; rows * around];
        for (to, x) in wider.chunks_exact_mut(around).zip(self.x.chunks_exact(inputs)) {
            to[start..start + inputs].copy_from_slice(x);
        }
        let [x, d_y] = [(&wider, around), (&self.d_y, outputs)]
            .map(|(v, columns)| stored::<T>(device, v, columns, spare));
        let weight = stored::<T>(device, &self.weight, inputs, 0);
        let norm = [0, 1, 2, 3].map(|i| to_device(device, &self.norm[i]));
        let [mean, rstd, norm_weight, bias] = norm.each_ref().map(|buffer| all(buffer));
        let norm = Norm { mean, rstd, weight: norm_weight, bias };
        let (x, weight) = (matrix(&x, bound, around), matrix(&weight, outputs, inputs));
        let (x, d_y) = (x.columns(start, inputs), matrix(&d_y, bound, outputs));
        let width = if product.is_forward() { outputs } else { inputs };
        let (mut out, mut parts) =
            (unwritten::<T>(device, bound, width), WeightParts::new(device).expect("memory"));
        let mut d_weight = poisoned(device, outputs * inputs);
        let mut columns = [0; 2].map(|_| poisoned(device, width));
        let mut running = [0; 2].map(|_| to_device(device, &vec![0.0; width]));
        let ([first, second], [running_mean, running_var]) = (&mut columns, &mut running);
        let of = counted.rows();
        let sums = &mut Sums::new(device).expect("memory");
        let to = matrix_mut(&mut out, bound, width);
        let x = if product.is_activated() { Input::Activated(x, norm) } else { Input::Values(x) };
        if product.is_forward() {
            let statistics = Some(BatchStatistics {
                to: Statistics { mean: all_mut(first), rstd: all_mut(second) },
                running_mean: all_mut(running_mean),
                running_var: all_mut(running_var),
                sums,
            });
            if product.gathers() {
                let projected = stored::<T>(device, &self.projected, 2 * outputs, 0);
                let [subject, object] =
                    self.ends.each_ref().map(|ends| indices_with_room(device, ends, spare));
                let ends = Ends { edges: of, subject: all(&subject), object: all(&object) };
                let of = GatherForward { ends, projected: all(&projected), y: to, x, weight };
                linear_forward_gather(device, format, of, statistics)
            } else {
                linear_forward(device, format, PlainForward { rows: of, y: to, x, weight }, statistics)
            }
        } else {
            let (weight_there, batch_statistics) = (matrix_mut(&mut d_weight, outputs, inputs), true);
            let (d_norm_weight, bias) = (all_mut(first), all_mut(second));
            let gradient = NormGradient { weight: d_norm_weight, bias, batch_statistics, sums };
            let norm = (product == BackwardActivated).then_some(gradient);
            let (to, d_y) = (LinearGradients { x: to, weight: weight_there, norm }, Gradient::Values(d_y));
            linear_backward(device, format, LayerBackward { rows: of, to, d_y, x, weight }, &mut parts)
        }
        .expect("a launch");
        let mut values = vec![stored_to_host(device, &out, rows, width)];
        if !product.is_forward() {
            values.push(to_host(device, &d_weight));
        }
        let columns = match product {
            Backward | BackwardActivatedAlone => Default::default(),
            _ => columns.map(|buffer| to_host(device, &buffer)),
        };
        (Outcome { values, columns }, parts.len())
    }

    /// The columns' sums against those of the values that were written, which is what they are sums of.
    fn check_columns(&self, product: Product, name: &str, outcome: &Outcome) {
        let (rows, [first, second]) = (self.rows, &outcome.columns);
        let (values, normed) = (wide(&outcome.values[0]), self.normed());
        for column in 0..first.len() {
            let of = |row: usize| values[row * first.len() + column];
            let count = rows.max(1) as f64;
            if product == BackwardActivated {
                let (mean, rstd) = (f64::from(self.norm[0][column]), f64::from(self.norm[1][column]));
                let (mut d_bias, mut d_weight, mut most) = (0.0, 0.0, 0.0);
                for row in 0..rows {
                    let at = row * self.inputs + column;
                    let d = if normed[at] > 0.0 { of(row) } else { 0.0 };
                    let xhat = (f64::from(self.x[at]) - mean) * rstd;
                    (d_bias, d_weight) = (d_bias + d, d_weight + d * xhat);
                    most += d.abs() * (1.0 + xhat.abs());
                }
                // 64 roundings within a chunk, which double precision merges.
                let limit = most * f64::from(f32::EPSILON) * 70.0;
                for (got, want) in [(first[column], d_weight), (second[column], d_bias)] {
                    assert!(
                        (f64::from(got) - want).abs() <= limit,
                        "{name}, column {column}: {got}, not {want}"
                    );
                }
            } else {
                let mean = (0..rows).map(of).sum::<f64>() / count;
                let variance = (0..rows).map(|row| (of(row) - mean).powi(2)).sum::<f64>() / count;
                let most = (0..rows).fold(0.0, |most: f64, row| most.max(of(row).abs()));
                let rstd = 1.0 / (variance + 1e-5).sqrt();
                // Sums around a chunk's first value: their 64 roundings are of offsets from it, of up to 2 `most`.
                let eps = f64::from(f32::EPSILON);
                assert!(
                    (f64::from(first[column]) - mean).abs() <= 70.0 * eps * most,
                    "{name}: mean {column}"
                );
                let limit = rstd * (2.0 * eps + 0.5 * 70.0 * eps * 4.0 * most * most * rstd * rstd);
                assert!((f64::from(second[column]) - rstd).abs() <= limit, "{name}: rstd {column}");
            }
        }
    }

    /// The product on every device in every format: within its bound, and with the same bits everywhere, whatever number
    /// of rows the grid is for.
    fn check(&self, product: Product, devices: &[Device], formats: &[Format]) {
        self.check_in_grid(0, product, devices, formats);
    }

    /// [`Case::check`] in grids for at least so many rows more.
    fn check_in_grid(&self, least_spare: usize, product: Product, devices: &[Device], formats: &[Format]) {
        let Case { rows, inputs, outputs, .. } = *self;
        for &format in formats {
            let case = self.stored_in(format);
            let (want, magnitude) = (case.reference(product, false), case.reference(product, true));
            let name = format!("{product:?} in {format:?} [{rows}, {inputs} -> {outputs}]");
            let mut seen = devices.iter().enumerate().map(|(i, device)| {
                let spare = if i == 0 { 0 } else { spare((i + rows + inputs + outputs) as u64) };
                case.compute(product, device, format, least_spare + spare).0
            });
            let Some(first) = seen.next() else { return };
            for (which, got) in first.values.iter().enumerate() {
                let ((want, terms), (magnitude, _)) = (&want[which], &magnitude[which]);
                assert_near(&name, got, want, magnitude, error(format, product, which, *terms));
            }
            case.check_columns(product, &name, &first);
            assert!(
                seen.all(|other| other == first),
                "{name}: orders of threads, or larger grids, change the bits"
            );
        }
    }
}

#[test]
fn all_products_agree_with_the_reference() {
    let devices = devices();
    let sizes = ROWS.iter().flat_map(|&rows| WIDTHS.map(|(inputs, outputs)| (rows, inputs, outputs)));
    for (seed, (rows, inputs, outputs)) in (0..).zip(sizes) {
        let case = Case::new(rows, inputs, outputs, seed);
        for product in FORWARD.into_iter().chain(BACKWARD) {
            case.check(product, &devices, &FORMATS);
        }
    }
}

#[test]
fn products_of_any_sizes_agree_with_the_reference() {
    let devices = devices();
    check(20, (rows(), 1..=200usize, 1..=200usize, seeds()), |(rows, inputs, outputs, seed)| {
        let case = Case::new(rows, inputs, outputs, seed);
        for product in FORWARD.into_iter().chain(BACKWARD) {
            case.check(product, &devices, &FORMATS);
        }
    });
}

#[test]
fn the_backward_products_agree_with_finite_differences() {
    let devices = devices();
    check(50, (1..=4usize, 1..=4usize, 1..=4usize, seeds()), |(rows, inputs, outputs, seed)| {
        for format in FORMATS {
            let case = Case::new(rows, inputs, outputs, seed).stored_in(format);
            let [x, weight, d_y] = [&case.x, &case.weight, &case.d_y].map(|values| wide(values));
            let loss = |x: &[f64], weight: &[f64]| {
                weighted_sum(&d_y, &reference::linear(x, weight, inputs, outputs))
            };
            let d_x = central_differences(&x, |x| loss(x, &weight));
            let d_weight = central_differences(&weight, |weight| loss(&x, weight));
            let limits = case.reference(Backward, true);
            let Some(device) = devices.first() else { return };
            let (got, _) = case.compute(Backward, device, format, 0);
            for (which, want) in [d_x, d_weight].iter().enumerate() {
                let (limits, terms) = &limits[which];
                // The differences' own error, beside the products'.
                let limits: Vec<f64> = limits.iter().map(|limit| limit.max(1e-6)).collect();
                let limit = error(format, Backward, which, *terms);
                assert_near(&format!("gradients in {format:?}"), &got.values[which], want, &limits, limit);
            }
        }
    });
}

#[test]
fn products_of_many_tiles_agree_with_the_reference() {
    let devices: Vec<Device> = devices().into_iter().take(1).collect();
    // 33 x 8 tiles of 128 x 128, from where on they are taken; the last ones are partial.
    let (many, several) = (4219, 1021);
    Case::new(many, 21, several, 5).check(ForwardActivated, &devices, &[Format::Bf16]);
    Case::new(many, several, 21, 6).check(BackwardActivated, &devices, &[Format::Bf16]);
    // Few columns, and rows for two groups of the columns' sums, in a grid for so many that it takes that tile too.
    let (rows, few, spare) = (2171, 130, 132 * 128);
    let formats = [Format::Bf16, Format::Bf16x3];
    for product in FORWARD {
        Case::new(rows, 21, few, 7).check_in_grid(spare, product, &devices, &formats);
    }
    for product in BACKWARD {
        Case::new(rows, few, 21, 8).check_in_grid(spare, product, &devices, &formats);
    }
}

/// A grid for so many rows that it takes the larger tile, where there are few.
#[test]
fn the_tile_that_a_bound_chooses_changes_no_bit() {
    let same = |case: Case, product: Product, spare: usize| {
        for device in devices().iter().take(1) {
            for format in [Format::Bf16, Format::Bf16x3] {
                let case = case.stored_in(format);
                let (small, small_parts) = case.compute(product, device, format, 0);
                let (large, large_parts) = case.compute(product, device, format, spare);
                assert!(small == large, "{product:?} in {format:?}");
                assert_eq!(
                    large_parts > small_parts,
                    !product.is_forward(),
                    "{product:?}: room for more parts"
                );
            }
        }
    };
    for product in FORWARD {
        same(Case::new(70, 21, 1021, 8), product, 4149);
    }
    for product in BACKWARD {
        same(Case::new(70, 1021, 21, 9), product, 4149);
    }
}

/// Products of one term each have no error but that of their operands: the largest of many comes near its bound. So a
/// format that computed in another's place would be seen. In bf16 the operands are stored so, and the product too.
#[test]
fn every_format_has_its_own_precision() {
    let (rows, outputs) = (257, 70);
    let case = Case::new(rows, 1, outputs, 4);
    for device in devices() {
        for (format, least) in
            [(Format::Fp32, 0.0), (Format::Bf16x3, 2f64.powi(-17)), (Format::Bf16, 2f64.powi(-9))]
        {
            let case = case.stored_in(format);
            let (got, _) = case.compute(Forward, &device, format, 0);
            let worst = (0..rows * outputs).fold(0.0, |worst: f64, i| {
                let want = f64::from(case.x[i / outputs]) * f64::from(case.weight[i % outputs]);
                worst.max((f64::from(got.values[0][i]) / want - 1.0).abs())
            });
            assert!(worst >= least, "{format:?}: {worst:.3e} is more precise than the format");
            assert!(worst <= error(format, Forward, 0, 1), "{format:?}: {worst:.3e}");
        }
    }
}

/// Two parts of a wider weight, one above the other, and beside what is written nothing changes.
#[test]
fn parts_of_wider_matrices_are_read_and_written() {
    // The second at multiples of 16 bytes, where copies are wide; the last with its split inside a tile and beyond it.
    for (rows, width, hidden) in [(70, 21, 34), (70, 20, 36), (300, 8, 70)] {
        for (device, format) in devices().iter().flat_map(|device| FORMATS.map(|format| (device, format))) {
            match format {
                Format::Bf16 => check_parts::<bf16>(device, format, rows, width, hidden),
                _ => check_parts::<f32>(device, format, rows, width, hidden),
            }
        }
    }
}

fn check_parts<T: StoredElement>(device: &Device, format: Format, rows: usize, width: usize, hidden: usize) {
    let case = Case::new(rows, width, 2 * hidden, 3).stored_in(format);
    let check = |product: Product, which: usize, got: &[f32]| {
        let (want, magnitude) = (case.reference(product, false), case.reference(product, true));
        let ((want, terms), name) = (&want[which], format!("{product:?} in {format:?}"));
        assert_near(&name, got, want, &magnitude[which].0, error(format, product, which, *terms));
    };
    // [H, 3 stride]: three parts side by side, the first and the last of them above each other in the product.
    let part_stride = T::stride(width);
    let wider = 3 * part_stride;
    let mut weight = vec![T::narrow(f32::NAN); hidden * wider];
    for (i, &value) in case.weight.iter().enumerate() {
        let (row, column) = (i / width, i % width);
        weight[row % hidden * wider + row / hidden * 2 * part_stride + column] = T::narrow(value);
    }
    let weight = to_device(device, &weight);
    let weight = matrix(&weight, hidden, wider).stacked(0, 2 * part_stride, width);
    let counted = Counted::new(device, rows, 0);
    let of = counted.rows();
    let [x, d_y] =
        [(&case.x, width), (&case.d_y, 2 * hidden)].map(|(v, columns)| stored::<T>(device, v, columns, 0));
    let (x, d_y) = (Input::Values(matrix(&x, rows, width)), Gradient::Values(matrix(&d_y, rows, 2 * hidden)));

    // Into columns of a wider matrix.
    let (before, whole) = (8, 8 + 2 * hidden + 1);
    let mut y = to_device(device, &vec![T::narrow(7.0); rows * T::stride(whole)]);
    let mut target = matrix_mut(&mut y, rows, whole);
    let y_part = target.columns(before, 2 * hidden);
    linear_forward(device, format, PlainForward { rows: of, y: y_part, x, weight }, None).expect("a launch");
    let y = T::dense(&device.download(&y, 0..y.len()).expect("a download"), whole);
    let columns = |from: std::ops::Range<usize>| -> Vec<f32> {
        y.chunks_exact(whole).flat_map(|row| row[from.clone()].to_vec()).collect()
    };
    check(Forward, 0, &columns(before..whole - 1));
    assert!([0..before, whole - 1..whole].map(columns).concat().iter().all(|&v| v == 7.0), "columns beside");

    let mut d_x = unwritten::<T>(device, rows, width);
    let mut d_weight = to_device(device, &vec![7.0; hidden * 3 * width]);
    let mut parts = WeightParts::new(device).expect("memory");
    let mut whole = matrix_mut(&mut d_weight, hidden, 3 * width);
    let to = LinearGradients {
        x: matrix_mut(&mut d_x, rows, width),
        weight: whole.stacked(0, 2 * width, width),
        norm: None,
    };
    let of = LayerBackward { rows: of, to, d_y, x, weight };
    linear_backward(device, format, of, &mut parts).expect("a launch");
    check(Backward, 0, &stored_to_host(device, &d_x, rows, width));
    let d_weight = to_host(device, &d_weight);
    let part = |start: usize| -> Vec<f32> {
        d_weight.chunks_exact(3 * width).flat_map(|row| row[start..][..width].to_vec()).collect()
    };
    check(Backward, 1, &[part(0), part(2 * width)].concat());
    assert!(part(width).iter().all(|&value| value == 7.0), "the part between");
}

/// Two products as layer 0 has them, of so many rows each, in grids for so many more: by a weight's first part above its
/// last, and by the part between.
#[derive(Clone, Copy, Debug)]
struct Two {
    rows: [usize; 2],
    spare: [usize; 2],
    hidden: usize,
    inputs: usize,
}

impl Two {
    fn check(self, devices: &[Device], formats: &[Format]) {
        for device in devices {
            for &format in formats {
                match format {
                    Format::Bf16 => self.check_as::<bf16>(device, format),
                    _ => self.check_as::<f32>(device, format),
                }
            }
        }
    }

    /// Each has the bits that it has in a launch of its own.
    fn check_as<T: StoredElement>(self, device: &Device, format: Format) {
        let Two { rows, spare, hidden, inputs } = self;
        let mut values = Values::new(11);
        let part = T::stride(inputs);
        let weight = rounded::<T>(values.signed(hidden * 3 * part));
        let weight = stored::<T>(device, &weight, 3 * part, 0);
        let weight = matrix(&weight, hidden, 3 * part);
        let weights = [weight.stacked(0, 2 * part, inputs), weight.columns(part, inputs)];
        let outputs = [2 * hidden, hidden];
        let counted = [0, 1].map(|i| Counted::new(device, rows[i], spare[i]));
        let bounds = [0, 1].map(|i| rows[i] + spare[i]);
        let x = [0, 1].map(|i| {
            let values = rounded::<T>(values.signed(rows[i] * inputs));
            stored::<T>(device, &values, inputs, spare[i])
        });
        let x = [0, 1].map(|i| matrix(&x[i], bounds[i], inputs));
        let unwritten = || [0, 1].map(|i| unwritten::<T>(device, bounds[i], outputs[i]));
        let (mut alone, mut together) = (unwritten(), unwritten());
        for i in 0..2 {
            let of = PlainForward {
                rows: counted[i].rows(),
                y: matrix_mut(&mut alone[i], bounds[i], outputs[i]),
                x: Input::Values(x[i]),
                weight: weights[i],
            };
            linear_forward(device, format, of, None).expect("a launch");
        }
        let [y, z] = &mut together;
        let (y, z) = (matrix_mut(y, bounds[0], outputs[0]), matrix_mut(z, bounds[1], outputs[1]));
        let products = [(0, y), (1, z)].map(|(i, y)| PlainForward {
            rows: counted[i].rows(),
            y,
            x: x[i],
            weight: weights[i],
        });
        linear_forward_two(device, format, products).expect("a launch");
        for i in 0..2 {
            let [alone, together] =
                [&alone, &together].map(|y| stored_to_host(device, &y[i], rows[i], outputs[i]));
            let same = alone.iter().zip(&together).all(|(one, other)| one.to_bits() == other.to_bits());
            assert!(same && !alone.iter().any(|y| y.is_nan()), "product {i} of {self:?} in {format:?}");
        }
    }
}

#[test]
fn two_products_in_a_launch_have_the_bits_of_each() {
    let devices = devices();
    check(
        20,
        (rows(), rows(), 1..=80usize, 1..=100usize, seeds()),
        |(first, second, hidden, inputs, seed)| {
            let spare = [spare(seed), spare(seed / 8)];
            Two { rows: [first, second], spare, hidden, inputs }.check(&devices, &FORMATS);
        },
    );
    Two { rows: [0, 0], spare: [0, 0], hidden: 3, inputs: 5 }.check(&devices, &FORMATS);
    // Grids for so many rows that they take the larger tile, by the first product and by the second.
    let (devices, formats) = (&devices[..devices.len().min(1)], [Format::Bf16, Format::Bf16x3]);
    Two { rows: [70, 130], spare: [4149, 0], hidden: 449, inputs: 21 }.check(devices, &formats);
    Two { rows: [130, 70], spare: [0, 4149], hidden: 1021, inputs: 21 }.check(devices, &formats);
}

#[test]
fn a_gradient_in_many_parts_has_the_same_bits_each_time() {
    let case = Case::new(2000, 40, 30, 2).stored_in(Format::Bf16);
    let devices = devices();
    for device in devices.iter().take(1) {
        let (_, parts) = case.compute(Backward, device, Format::Bf16, 0);
        assert!(parts > 40 * 30, "so many rows are split");
    }
    case.check(Backward, &devices, &FORMATS);
}
