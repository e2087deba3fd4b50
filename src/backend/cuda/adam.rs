//! adam: one step over flat arrays (`kernels/adam.cu`, [`crate::optimizer`]).

use super::buffer::{Buffer, Slice, SliceMut};
use super::device::{Argument, Device, Grid, check_len};
use crate::error::Result;
use crate::optimizer::Adam;

pub(super) const KERNELS: &[&str] = &["adam_next_step", "adam_step"];

const THREADS: u32 = 256;

/// How many steps are done, where kernels read it and move it on.
pub struct Steps {
    /// `[1]`.
    done: Buffer<u64>,
    /// `[2]`: rate and second moment's correction of the step that is being taken.
    factors: Buffer<f32>,
}

impl Steps {
    /// None done.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Steps { done: device.allocate(1)?, factors: device.allocate_unwritten(2)? })
    }

    /// So many done.
    pub fn set(&mut self, device: &Device, done: u64) -> Result<()> {
        device.upload(&[done], self.done.slice_mut(0..1))
    }

    /// `[1]`: how many are done.
    pub fn done(&self) -> Slice<'_, u64> {
        self.done.slice(0..1)
    }
}

/// Takes the next step: moves `values` along `gradients`, and both moments; arrays of one length.
pub fn adam_step(
    device: &Device,
    values: &mut SliceMut<'_, f32>,
    first: &mut SliceMut<'_, f32>,
    second: &mut SliceMut<'_, f32>,
    gradients: Slice<'_, f32>,
    adam: &Adam,
    steps: &mut Steps,
) -> Result<()> {
    let count = values.len();
    check_len("adam_step: first", first.len(), count);
    check_len("adam_step: second", second.len(), count);
    check_len("adam_step: gradients", gradients.len(), count);
    let mut factors = steps.factors.slice_mut(0..2);
    let arguments = [
        (&mut steps.done.slice_mut(0..1)).into(),
        (&mut factors).into(),
        Argument::Double(adam.learning_rate),
        Argument::Double(adam.beta1),
        Argument::Double(adam.beta2),
    ];
    // SAFETY: as in kernels/adam.cu; one number and two factors, both borrowed mutably.
    unsafe { device.launch("adam_next_step", Grid::rows(1, 1), &arguments) }?;
    if count == 0 {
        return Ok(());
    }
    let arguments = [
        values.into(),
        first.into(),
        second.into(),
        gradients.into(),
        factors.as_slice().into(),
        Argument::Long(count as i64),
        (adam.beta1 as f32).into(),
        (adam.beta2 as f32).into(),
        (adam.epsilon as f32).into(),
    ];
    // SAFETY: as in kernels/adam.cu; lengths were checked; the three that are written are borrowed mutably.
    unsafe { device.launch("adam_step", Grid::cover(count, THREADS), &arguments) }
}
