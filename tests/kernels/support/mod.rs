//! What the tests of single kernels share: the device, random values, outputs that begin as NaN, and tolerances;
//! [`cases`] draws shapes and [`scores`] what is correlated, [`agreement`] runs the cases of the bench, [`calculus`]
//! differentiates the reference.
//!
//! They run on the emulator. With `SCENERANK_TEST_DEVICE=cuda` they run on a GPU, and with `SCENERANK_TEST_DEVICE=ptx` on the
//! PTX interpreter; a missing device then fails them.

pub mod agreement;
pub mod calculus;
pub mod cases;
pub mod scores;

use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::device::buffer::{Buffer, Element};
use scenerank::backend::cuda::device::interpreter::Interpretation;
use scenerank::backend::cuda::launchers;
use scenerank::bench::check::{Output, Written, worst};

pub use scenerank::bench::case::{all, all_mut};
pub use scenerank::bench::values::Values;

/// Row counts at the edges of warps, tiles and chunks.
pub const ROWS: [usize; 8] = [0, 1, 31, 32, 33, 65, 300, 513];

/// Device that the tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestDevice {
    Emulated,
    Gpu,
    Ptx,
}

/// The device that `SCENERANK_TEST_DEVICE` names.
pub fn test_device() -> TestDevice {
    match std::env::var("SCENERANK_TEST_DEVICE").as_deref() {
        Ok("cuda") => TestDevice::Gpu,
        Ok("ptx") => TestDevice::Ptx,
        _ => TestDevice::Emulated,
    }
}

/// Opens a device whose order of threads and blocks a seed shuffles, or reports a skip where the emulator is not built.
fn open(seed: Option<u64>) -> Option<Device> {
    let asked = "a device, which SCENERANK_TEST_DEVICE asks for";
    match test_device() {
        TestDevice::Gpu => Some(launchers::gpu(0).expect(asked)),
        TestDevice::Ptx => {
            let interpretation = Interpretation::from_environment().expect(asked);
            Some(launchers::interpreted(Interpretation { seed, ..interpretation }).expect(asked))
        }
        TestDevice::Emulated => launchers::emulated(seed).map_err(|error| println!("skipped: {error}")).ok(),
    }
}

/// The devices to test: in order and, except on a GPU, in two shuffled orders; none, with a word, where none can be built.
pub fn devices() -> Vec<Device> {
    let seeds: &[Option<u64>] =
        if test_device() == TestDevice::Gpu { &[None] } else { &[None, Some(1), Some(2)] };
    seeds.iter().filter_map(|&seed| open(seed)).collect()
}

/// Rows for which a grid has room beyond those that there are, by a case's seed: none, some, more than a tile.
pub fn spare(seed: u64) -> usize {
    [1, 0, 64, 7, 130, 63, 200, 31][seed as usize % 8]
}

/// `values` on the device.
pub fn to_device<T: Element>(device: &Device, values: &[T]) -> Buffer<T> {
    scenerank::bench::matrix::to_device(device, values).expect("memory, and an upload")
}

/// `count` NaN on the device: a cell that no kernel writes stays one.
pub fn poisoned(device: &Device, count: usize) -> Buffer<f32> {
    to_device(device, &vec![f32::NAN; count])
}

/// All of a buffer's values.
pub fn to_host(device: &Device, buffer: &Buffer<f32>) -> Vec<f32> {
    device.download(buffer, 0..buffer.len()).expect("a download")
}

/// In double precision.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Panics where `|got - want| <= limit` fails (NaN does), naming the worst place. `limit` is absolute: each test says
/// how it follows from the sizes of what is added up.
#[track_caller]
pub fn assert_within(name: &'static str, got: &[f64], want: &[f64], limit: f64) {
    assert_eq!(got.len(), want.len(), "{name}: length");
    let written = Written { values: got.to_vec(), unwritten: f64::NAN };
    let worst = worst(&[Output::within(name, want.to_vec(), limit)], &[written]);
    agreement::assert_within_limits(name, worst);
}
