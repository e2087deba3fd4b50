//! Runs cases of [`scenerank::bench::cases`] at random shapes. Every run must write the same bits, within the limits
//! around the reference.

use std::sync::OnceLock;

use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::device::rows::Rows;
use scenerank::backend::cuda::launchers::batch_norm::{Norm, NormBackward, batch_norm_backward};
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::bench::case::{Arrays, Case, Prepared};
use scenerank::bench::check::{Output, Worst, Written, worst};

use super::{TestDevice, all, all_mut, devices, open, spare, test_device, to_device};

/// Results of two runs, and of a third with a grid for more rows than exist (the second argument). Except on a GPU,
/// `order` also shuffles the threads and blocks of the third.
pub fn three_runs<R>(order: u64, run: impl Fn(&Device, usize) -> R) -> [R; 3] {
    static GPU: OnceLock<Device> = OnceLock::new();
    let opened = |seed| open(seed).expect("a device, which was there before");
    if test_device() == TestDevice::Gpu {
        let gpu = GPU.get_or_init(|| opened(None));
        return [run(gpu, 0), run(gpu, 0), run(gpu, spare(order))];
    }
    let in_order = opened(None);
    [run(&in_order, 0), run(&in_order, 0), run(&opened(Some(order)), spare(order))]
}

/// Expected and written outputs of a case. Each output has the same bits in all of [`three_runs`], and nothing is
/// written beyond it.
#[track_caller]
fn same_bits(order: u64, name: &str, prepare: impl Fn(usize) -> Prepared) -> (Vec<Output>, Vec<Written>) {
    let [(prepared, first), (_, again), (_, shuffled)] = three_runs(order, |device, spare| {
        let prepared = prepare(spare);
        let mut arrays = Arrays::upload(device, &prepared.host).expect("memory");
        (prepared.launch)(device, &mut arrays).expect("a launch");
        let written = arrays.written(device).expect("a download");
        (prepared, written)
    });
    let expected = (prepared.expected)(&prepared.host, &first);
    assert_eq!(expected.len(), first.len(), "{name}: outputs, expected and written");
    let others =
        [(again, "a second run"), (shuffled, "another order of threads and blocks, with a larger grid")];
    for (other, run) in others {
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
    let (expected, written) = same_bits(order, name, prepare);
    within_outputs(&expected, written)
}

/// Outputs of a case, with the same bits in every run and each value within its limit.
#[track_caller]
pub fn agree(order: u64, case: &Case) -> Vec<Vec<f64>> {
    let name = format!("{} {}, order {order}", case.kernel, case.shape);
    let (expected, written) = same_bits(order, &name, &case.prepare);
    assert_within_limits(&name, worst(&expected, &written));
    within_outputs(&expected, written)
}

/// [`agree`] in two orders of threads and blocks, for special cases: one with a grid for exactly the existing rows, one
/// with a grid for more.
#[track_caller]
pub fn agree_in_two_orders(case: &Case) -> Vec<Vec<f64>> {
    let [_, outputs] = [1, 2].map(|order| agree(order, case));
    outputs
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

/// The case without tolerance, for values with which every operation is exact.
pub fn exactly(case: Case) -> Case {
    with(case, |_, prepared| {
        let expected = std::mem::replace(&mut prepared.expected, Box::new(|_, _| Vec::new()));
        prepared.expected = Box::new(move |host, written| {
            let outputs = expected(host, written).into_iter();
            outputs.map(|output| Output { limits: vec![0.0; output.values.len()], ..output }).collect()
        });
    })
}

fn within_outputs(expected: &[Output], written: Vec<Written>) -> Vec<Vec<f64>> {
    let outputs = expected.iter().zip(written);
    outputs.map(|(output, written)| written.values[..output.values.len()].to_vec()).collect()
}

/// Gradient d_z of a case that computes it through a norm, as batch norm's backward stores it. z is the first matrix
/// that the case reads, and d the first that it may write. Norm and terms are its first inputs.
pub fn stored_gradient<T: StoredElement>(case: &Case, rows: usize) -> Vec<f32> {
    let (host, device) = ((case.prepare)(0).host, devices().remove(0));
    let z = host.stored[0].upload(&device).expect("memory");
    let mut d = host.stored_outputs[0].upload(&device).expect("memory");
    let of = [0, 1, 2, 3, 4].map(|i| to_device(&device, &host.inputs[i]));
    let [mean, rstd, weight, bias, terms] = of.each_ref().map(all);
    let norm = Norm { mean, rstd, weight, bias };
    let (d_there, z_there) = (all_mut(d.buffer_mut::<T>()), all(z.buffer::<T>()));
    let mut of = NormBackward { d: d_there, z: z_there, norm, terms };
    let count = to_device(&device, &[rows as i32]);
    batch_norm_backward(&device, &mut of, Rows { count: all(&count), bound: rows }).expect("a launch");
    let values = d.download(&device).expect("a download");
    values[..rows * host.inputs[0].len()].iter().map(|&d| d as f32).collect()
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
