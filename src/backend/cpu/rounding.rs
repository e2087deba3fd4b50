//! What the CPU backend rounds: nothing, or to bf16 all that the CUDA kernels store in it. Sums, statistics, losses,
//! parameters and their gradients stay in single precision in both, so that training here shows what training there
//! loses to bf16.

use half::bf16;
use rayon::prelude::*;

use super::FLAT_CHUNK;
use super::rows::vectorised;

/// Nothing by default.
#[derive(Debug, Default)]
pub(super) struct Rounding {
    /// Of rounding to bf16, a rounded copy of the parameters, which products read.
    parameters: Option<Vec<f32>>,
}

impl Rounding {
    /// To bf16.
    pub(super) fn to_bf16() -> Self {
        Rounding { parameters: Some(Vec::new()) }
    }

    /// Whether to bf16.
    pub(super) fn is_to_bf16(&self) -> bool {
        self.parameters.is_some()
    }

    /// Parameters have changed.
    pub(super) fn keep_parameters(&mut self, values: &[f32]) {
        if let Some(parameters) = &mut self.parameters {
            parameters.clear();
            parameters.extend_from_slice(values);
            round_all(parameters);
        }
    }

    /// The parameters as products, and layer 0, read them.
    pub(super) fn parameters<'a>(&'a self, values: &'a [f32]) -> &'a [f32] {
        self.parameters.as_deref().unwrap_or(values)
    }

    /// Values of a thread's own, as they are stored.
    pub(super) fn store(&self, values: &mut [f32]) {
        if self.parameters.is_some() {
            round(values);
        }
    }

    /// [`Rounding::store`] on all threads.
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
