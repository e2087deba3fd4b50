//! adam: one step over flat arrays (`kernels/adam.cu`, [`crate::optimizer`]).

use super::buffer::{Slice, SliceMut};
use super::device::{Argument, Device, Grid, check_len};
use crate::error::Result;
use crate::optimizer::AdamStep;

pub(super) const KERNELS: &[&str] = &["adam_step"];

const THREADS: u32 = 256;

/// Moves `values` along `gradients`, and both moments; arrays of one length.
pub fn adam_step(
    device: &Device,
    values: &mut SliceMut<'_, f32>,
    first: &mut SliceMut<'_, f32>,
    second: &mut SliceMut<'_, f32>,
    gradients: Slice<'_, f32>,
    step: &AdamStep,
) -> Result<()> {
    let count = values.len();
    check_len("adam_step: first", first.len(), count);
    check_len("adam_step: second", second.len(), count);
    check_len("adam_step: gradients", gradients.len(), count);
    if count == 0 {
        return Ok(());
    }
    let arguments = [
        values.into(),
        first.into(),
        second.into(),
        gradients.into(),
        Argument::Long(count as i64),
        (step.beta1 as f32).into(),
        (step.beta2 as f32).into(),
        (step.rate as f32).into(),
        (step.second_moment_correction as f32).into(),
        (step.epsilon as f32).into(),
    ];
    // SAFETY: as in kernels/adam.cu; lengths were checked; the three that are written are borrowed mutably.
    unsafe { device.launch("adam_step", Grid::cover(count, THREADS), &arguments) }
}
