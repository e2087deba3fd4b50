//! What the tests of single kernels share: the device, random values, outputs that begin as NaN, and tolerances.
//!
//! They run on the emulator, or with `SCENERANK_TEST_DEVICE=cuda` on a GPU, where a missing one fails them.
#![allow(dead_code)] // each test binary uses its part

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::backend::cuda::buffer::{Buffer, Element};
use scenerank::backend::cuda::device::Device;

/// Row counts at the edges of warps, tiles and chunks.
pub const ROWS: [usize; 8] = [0, 1, 31, 32, 33, 65, 300, 513];

/// The devices to test: in order and, on the emulator, in two shuffled orders; none (said so) where none can be built.
pub fn devices() -> Vec<Device> {
    if std::env::var("SCENERANK_TEST_DEVICE").is_ok_and(|device| device == "cuda") {
        return vec![Device::gpu(0).expect("a GPU, which SCENERANK_TEST_DEVICE asks for")];
    }
    match Device::emulated(None) {
        Ok(device) => {
            vec![
                device,
                Device::emulated(Some(1)).expect("as before"),
                Device::emulated(Some(2)).expect("as before"),
            ]
        }
        Err(error) => {
            println!("skipped: {error}");
            Vec::new()
        }
    }
}

/// Random numbers of a test case.
pub struct Values(StdRng);

impl Values {
    pub fn new(seed: u64) -> Self {
        Values(StdRng::seed_from_u64(seed))
    }

    /// Uniform in -1..1.
    pub fn signed(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.random_range(-1.0..1.0)).collect()
    }

    /// Uniform in 0.5..2.
    pub fn positive(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.random_range(0.5..2.0)).collect()
    }

    /// Indices below `end`.
    pub fn indices(&mut self, count: usize, end: usize) -> Vec<u32> {
        (0..count).map(|_| self.0.random_range(0..end as u32)).collect()
    }
}

/// `values` on the device.
pub fn to_device<T: Element>(device: &Device, values: &[T]) -> Buffer<T> {
    let mut buffer = device.allocate_unwritten(values.len()).expect("memory");
    device.upload(values, buffer.slice_mut(0..values.len())).expect("an upload");
    buffer
}

/// Indices on the device.
pub fn indices_to_device(device: &Device, values: &[u32]) -> Buffer<i32> {
    to_device(device, &values.iter().map(|&value| value as i32).collect::<Vec<_>>())
}

/// `count` NaN on the device: a cell that no kernel writes stays one.
pub fn poisoned(device: &Device, count: usize) -> Buffer<f32> {
    to_device(device, &vec![f32::NAN; count])
}

/// All of a buffer.
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
pub fn assert_within(name: &str, got: &[f32], want: &[f64], limit: f64) {
    assert_eq!(got.len(), want.len(), "{name}: length");
    let off = |i: usize| (f64::from(got[i]) - want[i]).abs();
    let worst = (0..got.len()).max_by(|&i, &j| rank(off(i)).total_cmp(&rank(off(j))));
    if let Some(worst) = worst {
        assert!(
            off(worst) <= limit,
            "{name}[{worst}]: {} where {} is expected: off by {:.3e}, limit {limit:.3e}",
            got[worst],
            want[worst],
            off(worst)
        );
    }
}

/// NaN is the worst.
fn rank(difference: f64) -> f64 {
    if difference.is_nan() { f64::INFINITY } else { difference }
}
