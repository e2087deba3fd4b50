//! Shared by the tests of single kernels: the device, random values, outputs filled with NaN, and tolerances. [`cases`]
//! draws shapes, [`scores`] draws values to correlate, [`agreement`] runs the cases of the bench, and [`calculus`]
//! differentiates the reference.
//!
//! The tests run on the emulator. With `SCENERANK_TEST_DEVICE=cuda` they run on a GPU, and with
//! `SCENERANK_TEST_DEVICE=ptx` on the PTX interpreter. A missing device then fails them.

pub mod agreement;
pub mod calculus;
pub mod cases;
pub mod scores;

use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::device::buffer::{Buffer, Element};
use scenerank::backend::cuda::device::interpreter::Interpretation;
use scenerank::backend::cuda::launchers;
use scenerank::bench::check::{Output, Written, worst};

use crate::gpu::gpu;

pub use scenerank::bench::case::{all, all_mut};
pub use scenerank::bench::values::Values;

/// Row counts around the sizes of warps, tiles and chunks.
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
        TestDevice::Gpu => Some(gpu()),
        TestDevice::Ptx => {
            let interpretation = Interpretation::from_environment().expect(asked);
            Some(launchers::interpreted(Interpretation { seed, ..interpretation }).expect(asked))
        }
        TestDevice::Emulated => launchers::emulated(seed).map_err(|error| println!("skipped: {error}")).ok(),
    }
}

/// Devices to test: one that runs threads in order and, except on a GPU, two with shuffled orders. Reports a skip and
/// returns none if the emulator is not built.
pub fn devices() -> Vec<Device> {
    let seeds: &[Option<u64>] =
        if test_device() == TestDevice::Gpu { &[None] } else { &[None, Some(1), Some(2)] };
    seeds.iter().filter_map(|&seed| open(seed)).collect()
}

/// Number of rows that a grid has room for beyond the existing ones, from a case's seed: none, some, or more than a
/// tile.
pub fn spare(seed: u64) -> usize {
    [1, 0, 64, 7, 130, 63, 200, 31][seed as usize % 8]
}

/// Copies `values` to the device.
pub fn to_device<T: Element>(device: &Device, values: &[T]) -> Buffer<T> {
    scenerank::bench::matrix::to_device(device, values).expect("memory, and an upload")
}

/// `count` values of NaN on the device; a cell that no kernel writes stays NaN.
pub fn poisoned(device: &Device, count: usize) -> Buffer<f32> {
    to_device(device, &vec![f32::NAN; count])
}

/// Downloads all values of a buffer.
pub fn to_host(device: &Device, buffer: &Buffer<f32>) -> Vec<f32> {
    device.download(buffer, 0..buffer.len()).expect("a download")
}

/// Converts to double precision.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Panics unless `|got - want| <= limit` for every value (NaN fails), and names the worst index. `limit` is absolute;
/// each test derives it from the sizes of the terms.
#[track_caller]
pub fn assert_within(name: &'static str, got: &[f64], want: &[f64], limit: f64) {
    assert_eq!(got.len(), want.len(), "{name}: length");
    let written = Written { values: got.to_vec(), unwritten: f64::NAN };
    let worst = worst(&[Output::within(name, want.to_vec(), limit)], &[written]);
    agreement::assert_within_limits(name, worst);
}
