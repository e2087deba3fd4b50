//! Runs cases of [`scenerank::bench::cases`] at random shapes. Every run must write the same bits, within the limits
//! around the reference.

use std::sync::OnceLock;

use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::bench::case::{Arrays, Case, Prepared};
use scenerank::bench::check::{Output, Worst, Written, worst};
use scenerank::bench::matrix::HostMatrix;

use super::{TestDevice, devices, open, spare, test_device};

/// Results of two runs, and of one more for each of `orders` with a grid for more rows than exist (the second argument).
/// Except on a GPU, the order also shuffles the threads and blocks.
fn runs<R>(orders: &[u64], run: impl Fn(&Device, usize) -> R) -> Vec<R> {
    static GPU: OnceLock<Device> = OnceLock::new();
    let opened = |seed| open(seed).expect("a device, which was there before");
    if test_device() == TestDevice::Gpu {
        let gpu = GPU.get_or_init(|| opened(None));
        let spares = [0, 0].into_iter().chain(orders.iter().map(|&order| spare(order)));
        return spares.map(|spare| run(gpu, spare)).collect();
    }
    let in_order = opened(None);
    let mut results = vec![run(&in_order, 0), run(&in_order, 0)];
    results.extend(orders.iter().map(|&order| run(&opened(Some(order)), spare(order))));
    results
}

/// Expected and written outputs of a case. Each output has the same bits in all [`runs`], and nothing is written beyond
/// it.
#[track_caller]
fn same_bits(orders: &[u64], name: &str, prepare: impl Fn(usize) -> Prepared) -> (Vec<Output>, Vec<Written>) {
    let mut results = runs(orders, |device, spare| {
        let prepared = prepare(spare);
        let mut arrays = Arrays::upload(device, &prepared.host).expect("memory");
        (prepared.launch)(device, &mut arrays).expect("a launch");
        let written = arrays.written(device).expect("a download");
        (prepared, written)
    });
    let (prepared, first) = results.remove(0);
    let expected = (prepared.expected)(&prepared.host, &first);
    assert_eq!(expected.len(), first.len(), "{name}: outputs, expected and written");
    let names = ["a second run", "another order of threads and blocks, with a larger grid"];
    for (at, (_, other)) in results.into_iter().enumerate() {
        let run = names[at.min(1)];
        for (output, (one, two)) in expected.iter().zip(first.iter().zip(&other)) {
            let (label, count) = (output.name, output.values.len());
            assert!(one.values.len() >= count && two.values.len() >= count, "{name}: length of {label}");
            let differs = |&at: &usize| one.values[at].to_bits() != two.values[at].to_bits();
            if let Some(at) = (0..count).find(differs) {
                panic!("{name}: {label}[{at}]: {} became {} in {run}", one.values[at], two.values[at]);
            }
            let stray = |value: &f64| value.to_bits() != two.unwritten.to_bits();
            if let Some(at) = two.values[count..].iter().position(stray) {
                let value = two.values[count + at];
                panic!(
                    "{name}: {label}: {value} was written beyond its {count} values, at {}, in {run}",
                    count + at
                );
            }
        }
    }
    (expected, first)
}

/// Outputs of a case, with the same bits in every run. They are not compared with the reference.
#[track_caller]
pub fn outputs(order: u64, name: &str, prepare: impl Fn(usize) -> Prepared) -> Vec<Vec<f64>> {
    let (expected, written) = same_bits(&[order], name, prepare);
    within_outputs(&expected, written)
}

/// Outputs of a case, with the same bits in every run and each value within its limit.
#[track_caller]
pub fn agree(order: u64, case: &Case) -> Vec<Vec<f64>> {
    agree_in_orders(&[order], case)
}

/// [`agree`] in each of these orders of threads and blocks, each with a larger grid of its own.
#[track_caller]
pub fn agree_in_orders(orders: &[u64], case: &Case) -> Vec<Vec<f64>> {
    let name = format!("{} {}, orders {orders:?}", case.kernel, case.shape);
    let (expected, written) = same_bits(orders, &name, &case.prepare);
    assert_within_limits(&name, worst(&expected, &written));
    within_outputs(&expected, written)
}

/// [`agree`] in two orders of threads and blocks, for special cases: one with a grid for exactly the existing rows, one
/// with a grid for more.
#[track_caller]
pub fn agree_in_two_orders(case: &Case) -> Vec<Vec<f64>> {
    agree_in_orders(&[1, 2], case)
}

/// [`agree`] with one run, in order, with a grid for `spare` more rows.
#[track_caller]
pub fn agree_once(case: &Case, spare: usize) {
    for device in devices().into_iter().take(1) {
        let name = format!("{} {} and {spare} spare rows", case.kernel, case.shape);
        assert_within_limits(&name, (case.prepare)(spare).check(&device).expect("a launch"));
    }
}

/// Outputs of one run, in order, with a grid for `spare` more rows. Also returns the length of the memory for parts of
/// a weight gradient afterwards.
pub fn outputs_once(device: &Device, case: &Case, spare: usize) -> (Vec<Vec<f64>>, usize) {
    let prepared = (case.prepare)(spare);
    let mut arrays = Arrays::upload(device, &prepared.host).expect("memory");
    (prepared.launch)(device, &mut arrays).expect("a launch");
    let written = arrays.written(device).expect("a download");
    let expected = (prepared.expected)(&prepared.host, &written);
    (within_outputs(&expected, written), arrays.weight_parts_len())
}

/// Panics if the error of a value exceeds its limit.
#[track_caller]
pub fn assert_within_limits(name: &str, worst: Option<Worst>) {
    if let Some(worst) = worst.filter(|worst| !worst.ok()) {
        panic!(
            "{name}: {}[{}]: {} where {} is expected: off by {:.3e}, limit {:.3e}",
            worst.name, worst.index, worst.got, worst.want, worst.off, worst.limit
        );
    }
}

/// [`agree`] for several cases.
#[track_caller]
pub fn all_agree(order: u64, cases: impl IntoIterator<Item = Case>) {
    for case in cases {
        agree(order, &case);
    }
}

/// The case with its values, launch or expectation changed by a function, which gets the number of spare rows.
pub fn with(case: Case, change: impl Fn(usize, &mut Prepared) + 'static) -> Case {
    let prepare = case.prepare;
    let prepare = Box::new(move |spare| {
        let mut prepared = prepare(spare);
        change(spare, &mut prepared);
        prepared
    });
    Case { prepare, ..case }
}

/// The case with limits of at most `most` of an output.
pub fn at_most(case: Case, most: fn(&Output) -> f64) -> Case {
    with(case, move |_, prepared| {
        let expected = std::mem::replace(&mut prepared.expected, Box::new(|_, _| Vec::new()));
        prepared.expected = Box::new(move |host, written| {
            let outputs = expected(host, written).into_iter();
            let limited = |output: Output| {
                let limits = vec![most(&output); output.values.len()];
                output.at_most(limits)
            };
            outputs.map(limited).collect()
        });
    })
}

/// The case without tolerance, for values of which every operation is exact.
pub fn exactly(case: Case) -> Case {
    at_most(case, |_| 0.0)
}

/// The case with NaN in the padding of its weight: no kernel may use it. The weight is the stored matrix at this index, three
/// parts side by side with `width` columns each and padding after them.
pub fn with_poisoned_padding<T: StoredElement>(case: Case, weight: usize, width: usize) -> Case {
    let part = T::stride(width);
    with(case, move |_, prepared| {
        let weight = &mut prepared.host.stored[weight];
        let mut values: Vec<f32> = weight.wide().into_iter().map(|value| value as f32).collect();
        values.chunks_exact_mut(part).for_each(|columns| columns[width..].fill(f32::NAN));
        *weight = HostMatrix::new::<T>(values, 3 * part);
    })
}

fn within_outputs(expected: &[Output], written: Vec<Written>) -> Vec<Vec<f64>> {
    let outputs = expected.iter().zip(written);
    outputs.map(|(output, written)| written.values[..output.values.len()].to_vec()).collect()
}

/// Panics unless all values have the same bits.
#[track_caller]
pub fn assert_same_bits(what: &str, one: &[f64], other: &[f64]) {
    assert_eq!(one.len(), other.len(), "{what}: length");
    let differs = |&at: &usize| one[at].to_bits() != other[at].to_bits();
    if let Some(at) = (0..one.len()).find(differs) {
        panic!("{what}: value {at} is {} and {}", one[at], other[at]);
    }
}
