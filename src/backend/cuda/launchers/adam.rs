//! adam: one step over flat arrays, and the weights' copy in bf16 (`kernels/adam.cu`, [`crate::optimizer`]).

use super::weight_copy::WeightCopy;
use crate::backend::cuda::device::buffer::{Buffer, Slice, SliceMut};
use crate::backend::cuda::device::{Argument, Arguments, Device, Grid, check_len};
use crate::error::Result;
use crate::optimizer::{Adam, Part};

pub(crate) const KERNELS: &[&str] = &["adam_step", "weight_copy"];

const THREADS: u32 = 256;
/// Values of a thread.
const VALUES_EACH: usize = 4;

/// How many steps are done, where kernels read it and move it on.
pub struct Steps {
    /// `[1]`.
    done: Buffer<u64>,
    /// `[1]`: 0 between launches.
    ticket: Buffer<i32>,
}

impl Steps {
    /// None done.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Steps { done: device.allocate(1)?, ticket: device.allocate(1)? })
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

/// What a step moves: arrays of one length, in the parameters' layout, and which part of them.
pub struct Update<'a> {
    /// The parameters, moved.
    pub values: SliceMut<'a, f32>,
    /// Their first moments, moved.
    pub first: SliceMut<'a, f32>,
    /// Their second moments, moved.
    pub second: SliceMut<'a, f32>,
    /// Their gradients.
    pub gradients: Slice<'a, f32>,
    /// Which part; the one that ends the step must be launched behind all others.
    pub part: Part,
}

/// Takes the next step, or a part of it; its last part counts it. The new weights also go into `copy`, where there is one, of
/// parameters laid out alike.
pub fn adam_step(
    device: &Device,
    update: Update<'_>,
    adam: &Adam,
    steps: &mut Steps,
    copy: Option<&mut WeightCopy>,
) -> Result<()> {
    let Update { mut values, mut first, mut second, gradients, part } = update;
    let Part { parameters: range, ends_step } = part;
    let count = values.len();
    check_len("adam_step: first", first.len(), count);
    check_len("adam_step: second", second.len(), count);
    check_len("adam_step: gradients", gradients.len(), count);
    check_len("adam_step: parameters", count, range.end);
    let (mut done, mut ticket) = (steps.done.slice_mut(0..1), steps.ticket.slice_mut(0..1));
    let arguments = Arguments::default().add(&mut values).add(&mut first).add(&mut second).add(gradients);
    let arguments = arguments.add(&mut done);
    let arguments = match ends_step {
        true => arguments.add(&mut ticket),
        false => arguments.add(Argument::Address(0)),
    };
    let arguments = arguments.add(range.start).add(range.end);
    let rates = [adam.learning_rate, adam.beta1, adam.beta2];
    let arguments =
        rates.into_iter().fold(arguments, |arguments, rate| arguments.add(Argument::Double(rate)));
    let arguments = arguments.add(adam.epsilon as f32);
    let arguments = match copy {
        Some(copy) => {
            copy.check(count);
            let (mut values, segments, segment_count) = copy.parts();
            arguments.add(&mut values).add(segments).add(segment_count)
        }
        None => arguments.add(Argument::Address(0)).add(Argument::Address(0)).add(0usize),
    };
    // A step of no values is one too.
    let grid = Grid::cover(range.len().div_ceil(VALUES_EACH).max(1), THREADS);
    // SAFETY: as in kernels/adam.cu; lengths were checked, and a copy's segments lie within both arrays; what is written is
    // borrowed mutably.
    unsafe { device.launch("adam_step", grid, &arguments) }
}

/// The whole of `copy`, from the parameters `values` as they are.
pub fn weight_copy(device: &Device, copy: &mut WeightCopy, values: Slice<'_, f32>) -> Result<()> {
    let count = values.len();
    copy.check(count);
    if count == 0 {
        return Ok(());
    }
    let (mut to, segments, segment_count) = copy.parts();
    let arguments = [(&mut to).into(), values.into(), segments.into(), segment_count.into(), count.into()];
    // SAFETY: as in kernels/adam.cu; the segments lie within both arrays; the copy is borrowed mutably.
    unsafe { device.launch("weight_copy", Grid::cover(count.div_ceil(VALUES_EACH), THREADS), &arguments) }
}
