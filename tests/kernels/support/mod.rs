//! What the tests of single kernels share: the device, random values, outputs that begin as NaN, and tolerances;
//! [`cases`] draws shapes and [`scores`] what is correlated, [`agreement`] runs the cases of the bench, [`calculus`]
//! differentiates the reference.
//!
//! They run on the emulator, or with `SCENERANK_TEST_DEVICE=cuda` on a GPU, where a missing one fails them.

pub mod agreement;
pub mod calculus;
pub mod cases;
pub mod scores;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::device::buffer::{Buffer, Element, Slice, SliceMut};
use scenerank::backend::cuda::device::rows::Rows;
use scenerank::backend::cuda::launchers;

/// Row counts at the edges of warps, tiles and chunks.
pub const ROWS: [usize; 8] = [0, 1, 31, 32, 33, 65, 300, 513];

/// Whether the tests run on a GPU.
pub fn on_gpu() -> bool {
    std::env::var("SCENERANK_TEST_DEVICE").is_ok_and(|device| device == "cuda")
}

/// The devices to test: in order and, on the emulator, in two shuffled orders; none (said so) where none can be built.
pub fn devices() -> Vec<Device> {
    if on_gpu() {
        return vec![open_gpu()];
    }
    match launchers::emulated(None) {
        Ok(device) => {
            vec![
                device,
                launchers::emulated(Some(1)).expect("as before"),
                launchers::emulated(Some(2)).expect("as before"),
            ]
        }
        Err(error) => {
            println!("skipped: {error}");
            Vec::new()
        }
    }
}

fn open_gpu() -> Device {
    launchers::gpu(0).expect("a GPU, which SCENERANK_TEST_DEVICE asks for")
}

/// Rows for which a grid has room beyond those that there are, by a case's seed: none, some, more than a tile.
pub fn spare(seed: u64) -> usize {
    [1, 0, 64, 7, 130, 63, 200, 31][seed as usize % 8]
}

/// A number of rows on the device, and room for `spare` more.
pub struct Counted {
    count: Buffer<i32>,
    bound: usize,
}

impl Counted {
    pub fn new(device: &Device, rows: usize, spare: usize) -> Self {
        Counted { count: to_device(device, &[rows as i32]), bound: rows + spare }
    }

    pub fn rows(&self) -> Rows<'_> {
        Rows { count: all(&self.count), bound: self.bound }
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

    /// Of a magnitude in 0.5..2 and either sign.
    pub fn scales(&mut self, count: usize) -> Vec<f32> {
        let mut scales = self.positive(count);
        scales.iter_mut().filter(|_| self.0.random()).for_each(|scale| *scale = -*scale);
        scales
    }

    /// Indices below `end`.
    pub fn indices(&mut self, count: usize, end: usize) -> Vec<u32> {
        (0..count).map(|_| self.0.random_range(0..end as u32)).collect()
    }
}

/// All of a buffer.
pub fn all<T>(buffer: &Buffer<T>) -> Slice<'_, T> {
    buffer.slice(0..buffer.len())
}

/// All of a buffer, to write.
pub fn all_mut<T>(buffer: &mut Buffer<T>) -> SliceMut<'_, T> {
    let len = buffer.len();
    buffer.slice_mut(0..len)
}

/// `values` on the device.
pub fn to_device<T: Element>(device: &Device, values: &[T]) -> Buffer<T> {
    let mut buffer = device.allocate_unwritten(values.len()).expect("memory");
    device.upload(values, buffer.slice_mut(0..values.len())).expect("an upload");
    buffer
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
pub fn assert_within(name: &str, got: &[f32], want: &[f64], limit: f64) {
    assert_each_within(name, got, want, |_| limit);
}

/// [`assert_within`] of what a case wrote.
#[track_caller]
pub fn assert_wide_within(name: &str, got: &[f64], want: &[f64], limit: f64) {
    assert_within(name, &got.iter().map(|&value| value as f32).collect::<Vec<f32>>(), want, limit);
}

/// [`assert_within`] with a limit for each wanted value.
#[track_caller]
pub fn assert_each_within(name: &str, got: &[f32], want: &[f64], limit: impl Fn(f64) -> f64) {
    assert_eq!(got.len(), want.len(), "{name}: length");
    let off = |i: usize| (f64::from(got[i]) - want[i]).abs();
    let over = |i: usize| rank(off(i) - limit(want[i]));
    if let Some(worst) = (0..got.len()).max_by(|&i, &j| over(i).total_cmp(&over(j))) {
        assert!(
            off(worst) <= limit(want[worst]),
            "{name}[{worst}]: {} where {} is expected: off by {:.3e}, limit {:.3e}",
            got[worst],
            want[worst],
            off(worst),
            limit(want[worst])
        );
    }
}

/// NaN is the worst.
fn rank(difference: f64) -> f64 {
    if difference.is_nan() { f64::INFINITY } else { difference }
}
