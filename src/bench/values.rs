//! Random values for cases.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::backend::cuda::launchers::stored::StoredElement;
use crate::bench::matrix::HostMatrix;

/// Number of values that are drawn. Longer arrays repeat them, since those of 1,024 triples would take minutes to draw. The number
/// is prime, so that no row of a matrix begins where another did within the first `DRAWN` rows.
const DRAWN: usize = 1_299_709;

/// Draws the values of a case.
pub struct Values(StdRng);

impl Values {
    /// Starts a generator; the same seed gives the same values.
    pub fn new(seed: u64) -> Self {
        Values(StdRng::seed_from_u64(seed))
    }

    /// Uniform values in -1..1.
    pub fn signed(&mut self, count: usize) -> Vec<f32> {
        self.uniform(count, -1.0, 1.0)
    }

    /// Matrix of type `T` with uniform values in -1..1.
    pub fn matrix<T: StoredElement>(&mut self, rows: usize, columns: usize) -> HostMatrix {
        HostMatrix::new::<T>(self.signed(rows * columns), columns)
    }

    /// Uniform values in 0.5..2.
    pub fn positive(&mut self, count: usize) -> Vec<f32> {
        self.uniform(count, 0.5, 2.0)
    }

    /// Values of either sign with a magnitude in 0.5..2.
    pub fn scales(&mut self, count: usize) -> Vec<f32> {
        let mut scales = self.positive(count);
        scales.iter_mut().filter(|_| self.0.random()).for_each(|scale| *scale = -*scale);
        scales
    }

    /// Indices below `end`.
    pub fn indices(&mut self, count: usize, end: usize) -> Vec<u32> {
        (0..count).map(|_| self.0.random_range(0..end as u32)).collect()
    }

    /// Uniform values, drawn in double precision so that all bits vary. Draws in single precision are multiples of one
    /// number, and their sums would be exact.
    fn uniform(&mut self, count: usize, low: f64, high: f64) -> Vec<f32> {
        let mut values = Vec::with_capacity(count);
        values.extend((0..count.min(DRAWN)).map(|_| self.0.random_range(low..high) as f32));
        while values.len() < count {
            let more = DRAWN.min(count - values.len());
            values.extend_from_within(..more);
        }
        values
    }
}
