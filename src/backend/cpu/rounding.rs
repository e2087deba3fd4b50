//! Rounding on the CPU backend: none, or to bf16 wherever the CUDA kernels store bf16. Sums, statistics,
//! losses, parameters and their gradients stay in single precision in both cases. Training with it shows how
//! much accuracy bf16 costs.

use half::bf16;
use rayon::prelude::*;

use super::FLAT_CHUNK;
use super::rows::vectorised;

/// Rounding mode; no rounding by default.
#[derive(Debug, Default)]
pub(super) struct Rounding {
    /// Rounded copy of the parameters, read by the products; `None` without rounding.
    parameters: Option<Vec<f32>>,
}

impl Rounding {
    /// Rounds to bf16.
    pub(super) fn to_bf16() -> Self {
        Rounding { parameters: Some(Vec::new()) }
    }

    /// Whether values are rounded to bf16.
    pub(super) fn is_to_bf16(&self) -> bool {
        self.parameters.is_some()
    }

    /// Updates the rounded copy after the parameters have changed.
    pub(super) fn keep_parameters(&mut self, values: &[f32]) {
        if let Some(parameters) = &mut self.parameters {
            parameters.clear();
            parameters.extend_from_slice(values);
            round_all(parameters);
        }
    }

    /// Parameters as read by the products and by layer 0.
    pub(super) fn parameters<'a>(&'a self, values: &'a [f32]) -> &'a [f32] {
        self.parameters.as_deref().unwrap_or(values)
    }

    /// Rounds values to the storage format, on the calling thread.
    pub(super) fn store(&self, values: &mut [f32]) {
        if self.parameters.is_some() {
            round(values);
        }
    }

    /// Like [`Rounding::store`], on all threads.
    pub(super) fn store_all(&self, values: &mut [f32]) {
        if self.parameters.is_some() {
            round_all(values);
        }
    }
}

fn round_all(values: &mut [f32]) {
    values.par_chunks_mut(FLAT_CHUNK).for_each(round);
}

fn round(values: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32()),
    );
}
