//! Products of a layer's forward.

use super::super::batch_norm::{
    batch_statistics, decided_inputs, parameters, statistics, statistics_outputs, unchanged_statistics,
};
use super::super::{count, counted, indices, norm, with_spare};
use super::{Error, Launches, Part, Product, magnitudes, normed, parts_of_weight, product, relu, sums_error};
use crate::backend::cuda::launchers::linear::{
    Format, Forward, ForwardGather, Input, Matrix, MatrixMut, StoredFormat, linear_forward,
    linear_forward_gather, linear_forward_two,
};
use crate::backend::cuda::launchers::lists;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::bench::case::{Case, Cost, Grows, Host, Prepared};
use crate::bench::chain::Chain;
use crate::bench::matrix::HostMatrix;
use crate::bench::values::Values;

/// One product of the forward.
#[derive(Clone, Debug)]
pub struct ForwardProduct {
    /// Sizes of the product.
    pub product: Product,
    /// Whether x is relu(norm(z)) of the stored z, or the stored values.
    pub activated: bool,
    /// Whether the statistics of the product are computed too.
    pub with_statistics: bool,
    /// Columns of x within its rows.
    pub part: Part,
    /// Rows to add to the product.
    pub ends: Option<Ends>,
}

/// The two rows of a matrix `[nodes, 2 outputs]` to add to each row of a product.
#[derive(Clone, Debug)]
pub struct Ends {
    /// `[rows] -> node` of the subjects, and of the objects.
    pub of: [Vec<u32>; 2],
    /// Number of nodes.
    pub nodes: usize,
}

impl ForwardProduct {
    /// Product of the stored x.
    pub fn plain(product: Product) -> Self {
        let (activated, with_statistics, part) = (false, false, product.whole());
        ForwardProduct { product, activated, with_statistics, part, ends: None }
    }

    /// Product of relu(norm(x)), with its statistics.
    pub fn activated(product: Product) -> Self {
        ForwardProduct { activated: true, with_statistics: true, ..ForwardProduct::plain(product) }
    }
}

/// `y = x W^T`.
pub fn forward(of: ForwardProduct) -> Case {
    match of.product.format {
        Format::Bf16 => forward_as(of, StoredFormat::BF16),
        Format::Bf16Warpgroup => forward_as(of, StoredFormat::BF16_WARPGROUP),
        Format::Fp32 => forward_as(of, StoredFormat::FP32),
        Format::Bf16x3 => forward_as(of, StoredFormat::BF16X3),
        Format::Bf16x3Warpgroup => forward_as(of, StoredFormat::BF16X3_WARPGROUP),
    }
}

fn forward_as<T: StoredElement>(of: ForwardProduct, stored: StoredFormat<T>) -> Case {
    let ForwardProduct { product: sizes, activated, with_statistics, part, ref ends } = of;
    let Product { what, rows, inputs, outputs, format, seed } = sizes;
    let gathers = ends.is_some();
    let nodes = ends.as_ref().map_or(0, |ends| ends.nodes);
    let wide = if part.of == inputs { String::new() } else { format!(" of {}", part.of) };
    let x_shape = format!("[{rows}, {inputs}{wide}]");
    let x_shape = if activated { format!("relu(norm({x_shape}))") } else { x_shape };
    let added = if gathers { format!(" + [{nodes}, {}]", 2 * outputs) } else { String::new() };
    let (made, gathered) = (usize::from(activated), usize::from(gathers));
    Case {
        kernel: if gathers { "linear_forward_gather" } else { "linear_forward" },
        shape: format!("{x_shape} -> {outputs}{added}, {what}"),
        // Reads x, its norm, W, two rows per node and the ends; writes y. Beside the product, norm and ReLU take 4
        // operations, and two sums.
        cost: Cost::stored::<T>(
            rows * inputs + outputs * inputs + rows * outputs + 2 * nodes * outputs,
            made * 4 * inputs + gathered * 2 * rows,
            2 * rows * inputs * outputs + made * 4 * rows * inputs + gathered * 2 * rows * outputs,
        ),
        chain: Chain::product(inputs).with_tail_if(with_statistics) + Chain::loads(2 * gathered),
        grows: Grows::Nothing,
        format,
        prepare: Box::new(move |spare| {
            let of = of.clone();
            let bound = rows + spare;
            let mut values = Values::new(seed);
            let (x_values, of_norm) = decided_inputs::<T>(&mut values, rows, part.of);
            let weight = values.matrix::<T>(outputs, inputs);
            let projected = values.matrix::<T>(nodes, 2 * outputs);
            let lists = of.ends.clone().map_or_else(|| [Vec::new(), Vec::new()], |ends| ends.of);
            let lists = lists.map(|list| with_spare(indices(&list), gathered * spare));
            Prepared {
                host: Host {
                    stored: vec![part.alone::<T>(&x_values, inputs).with_room(spare), weight, projected],
                    stored_outputs: vec![HostMatrix::unwritten::<T>(bound, outputs)],
                    inputs: of_norm.into_iter().chain(parameters(&mut values, outputs)).collect(),
                    indices: lists.into_iter().chain([count(rows)]).collect(),
                    outputs: statistics(&mut values, outputs),
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([x, weight, projected], [y], parts) = arrays.stored_as::<T>().parts();
                    let ([mean, rstd, scale, shift, weight_of, bias_of], lists, to, others) = parts;
                    let (of_norm, [subject, object, count]) = ([mean, rstd, scale, shift], lists);
                    let x = Matrix::new(x, bound, part.of).columns(part.start, inputs);
                    let x = if activated {
                        Input::Activated(x, norm(of_norm).columns(part.start, inputs))
                    } else {
                        Input::Values(x)
                    };
                    let weight = Matrix::new(weight, outputs, inputs);
                    let (rows, y) = (counted(count, bound), MatrixMut::new(y, bound, outputs));
                    let to =
                        with_statistics.then(|| batch_statistics([weight_of, bias_of], to, &mut others.sums));
                    if gathers {
                        let ends = lists::Ends { edges: rows, subject, object };
                        let of = ForwardGather { ends, projected, y, x, weight };
                        return linear_forward_gather(device, stored, of, to);
                    }
                    linear_forward(device, stored, Forward { rows, y, x, weight }, to)
                }),
                expected: Box::new(move |host, written| {
                    let [x, weight, projected] = host.wide_stored();
                    let x = if activated { relu(&normed(&x, &host.inputs)) } else { x };
                    let x = part.take(&x, inputs);
                    let mut y = product(&x, &weight, inputs);
                    let mut sizes = product(&magnitudes(&x), &magnitudes(&weight), inputs);
                    let mut terms = inputs;
                    if let Some(Ends { of: [subject, object], .. }) = &of.ends {
                        terms += 2;
                        for (i, (y, size)) in y.iter_mut().zip(&mut sizes).enumerate() {
                            let (row, column) = (i / outputs, i % outputs);
                            let subject = projected[subject[row] as usize * 2 * outputs + column];
                            let object = projected[object[row] as usize * 2 * outputs + outputs + column];
                            *y += subject + object;
                            *size += subject.abs() + object.abs();
                        }
                    }
                    let y = Error::new(format, terms, i32::from(activated)).output("y", y, &sizes);
                    let [_, _, _, _, running_mean, running_var] = host.wide_outputs();
                    let [_, _, _, _, weight_of, bias_of] = host.wide_inputs();
                    let mut outputs_of = vec![y.stored::<T>()];
                    if with_statistics {
                        let y = &written[0].values[..rows * outputs];
                        let before = [&running_mean[..], &running_var[..]];
                        let parameters = [&weight_of[..], &bias_of[..]];
                        let error = sums_error();
                        outputs_of.extend(statistics_outputs(y, before, parameters, error, f64::INFINITY));
                    } else {
                        outputs_of.extend(unchanged_statistics([running_mean, running_var]));
                    }
                    outputs_of
                }),
            }
        }),
    }
}

/// Two products, as in layer 0: objects times the first and the last part of a weight, stacked, and predicates times
/// the middle part.
#[derive(Clone, Copy, Debug)]
pub struct Types {
    /// Number of rows of objects, and of predicates.
    pub rows: [usize; 2],
    /// Number of additional rows that each grid has room for.
    pub room: [usize; 2],
    /// Number of columns of both inputs.
    pub inputs: usize,
    /// H: number of columns of the second product, and half of that of the first.
    pub hidden: usize,
    /// Format of the operands.
    pub format: Format,
    /// Seed of the values.
    pub seed: u64,
}

/// Both products `y = x W^T`. One launch and two launches give the same bits.
pub fn forward_two(of: Types, launches: Launches) -> Case {
    match of.format {
        Format::Bf16 => forward_two_as(of, launches, StoredFormat::BF16),
        Format::Bf16Warpgroup => forward_two_as(of, launches, StoredFormat::BF16_WARPGROUP),
        Format::Fp32 => forward_two_as(of, launches, StoredFormat::FP32),
        Format::Bf16x3 => forward_two_as(of, launches, StoredFormat::BF16X3),
        Format::Bf16x3Warpgroup => forward_two_as(of, launches, StoredFormat::BF16X3_WARPGROUP),
    }
}

fn forward_two_as<T: StoredElement>(of: Types, launches: Launches, stored: StoredFormat<T>) -> Case {
    let Types { rows: [objects, predicates], room, inputs, hidden, format, seed } = of;
    let part = T::stride(inputs);
    let (rows, products) = (objects + predicates, (2 * objects + predicates) * hidden);
    Case {
        kernel: "linear_forward_two",
        shape: format!(
            "[{objects}, {inputs}] -> {}, [{predicates}, {inputs}] -> {hidden}, types",
            2 * hidden
        ),
        cost: Cost::stored::<T>((rows + 3 * hidden) * inputs + products, 0, 2 * products * inputs),
        chain: Chain::product(inputs),
        grows: Grows::Nothing,
        format,
        prepare: Box::new(move |spare| {
            let mut values = Values::new(seed);
            let bounds = [objects + room[0] + spare, predicates + room[1] + spare];
            let matrices = [objects, predicates].map(|rows| values.matrix::<T>(rows, inputs));
            let [x, e] = matrices;
            let weight = values.matrix::<T>(hidden, 3 * part);
            Prepared {
                host: Host {
                    stored: vec![x.with_room(room[0] + spare), e.with_room(room[1] + spare), weight],
                    stored_outputs: vec![
                        HostMatrix::unwritten::<T>(bounds[0], 2 * hidden),
                        HostMatrix::unwritten::<T>(bounds[1], hidden),
                    ],
                    indices: vec![count(objects), count(predicates)],
                    ..Default::default()
                },
                launch: Box::new(move |device, arrays| {
                    let ([x, e, weight], [y, z], parts) = arrays.stored_as::<T>().parts();
                    let ([], [object_count, predicate_count], [], _) = parts;
                    let weight = Matrix::new(weight, hidden, 3 * part);
                    let of_objects = Forward {
                        rows: counted(object_count, bounds[0]),
                        y: MatrixMut::new(y, bounds[0], 2 * hidden),
                        x: Matrix::new(x, bounds[0], inputs),
                        weight: weight.stacked(0, 2 * part, inputs),
                    };
                    let of_predicates = Forward {
                        rows: counted(predicate_count, bounds[1]),
                        y: MatrixMut::new(z, bounds[1], hidden),
                        x: Matrix::new(e, bounds[1], inputs),
                        weight: weight.columns(part, inputs),
                    };
                    let both = [of_objects, of_predicates];
                    if launches == Launches::One {
                        return linear_forward_two(device, stored, both);
                    }
                    both.into_iter().try_for_each(|Forward { rows, y, x, weight }| {
                        let x = Input::Values(x);
                        linear_forward(device, stored, Forward { rows, y, x, weight }, None)
                    })
                }),
                expected: Box::new(move |host, _| {
                    let [x, e, weight] = host.wide_stored();
                    let [outer, middle] = parts_of_weight(&weight, part, inputs);
                    let output = |name, x: &[f64], weight: &[f64]| {
                        let sizes = product(&magnitudes(x), &magnitudes(weight), inputs);
                        let product = product(x, weight, inputs);
                        Error::new(format, inputs, 0).output(name, product, &sizes).stored::<T>()
                    };
                    vec![output("objects", &x, &outer), output("predicates", &e, &middle)]
                }),
            }
        }),
    }
}
