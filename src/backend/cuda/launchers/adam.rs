//! adam: one step over flat arrays, and the bf16 copy of the weights (`kernels/adam.cu`,
//! [`crate::optimizer`]).

use bytemuck::Zeroable;
use half::bf16;

use super::weight_copy::{WeightCopy, WeightSegment};
use crate::backend::cuda::device::buffer::{Buffer, Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;
use crate::optimizer::{Adam, Part};

kernel_arguments! {
    /// Destination of the weight copy; null pointers for no copy.
    struct CopyArguments {
        /// Weights in bf16, rows at padded strides.
        values: PointerMut<bf16>,
        /// `[segment_count]` positions of the weights, ascending.
        segments: Pointer<WeightSegment>,
        segment_count: i32,
        reserved: i32,
    }

    struct AdamStep {
        /// `[end]` parameters, updated from `begin` on, like both moments.
        values: PointerMut<f32>,
        first: PointerMut<f32>,
        second: PointerMut<f32>,
        gradients: Pointer<f32>,
        /// `[1]` number of steps taken.
        steps: PointerMut<u64>,
        /// `[1]` number of blocks that have read `steps`; null if this is not the last part of the step.
        ticket: PointerMut<i32>,
        copy: CopyArguments,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        begin: i32,
        end: i32,
        epsilon: f32,
        reserved: i32,
    }

    struct CopyWeights {
        copy: CopyArguments,
        /// `[count]` parameters.
        values: Pointer<f32>,
        count: i32,
        reserved: i32,
    }
}

const THREADS: u32 = 256;
/// Values per thread.
const VALUES_EACH: usize = 4;

const ADAM_STEP: Kernel<AdamStep> = Kernel::new("adam_step", [THREADS, 1, 1]);
const WEIGHT_COPY: Kernel<CopyWeights> = Kernel::new("weight_copy", [THREADS, 1, 1]);

/// Kernels of `kernels/adam.cu`.
pub(crate) const FILE: KernelFile =
    KernelFile { name: "adam", kernels: &[ADAM_STEP.info(), WEIGHT_COPY.info()] };

impl CopyArguments {
    /// Arguments for a copy into `copy`, for `count` parameters.
    #[track_caller]
    fn new(copy: &mut WeightCopy, count: usize) -> Self {
        copy.check(count);
        let (mut values, segments) = copy.parts();
        CopyArguments {
            values: (&mut values).into(),
            segment_count: int(segments.len()),
            segments: segments.into(),
            reserved: 0,
        }
    }

    /// Arguments for no copy.
    fn none() -> Self {
        Zeroable::zeroed()
    }
}

/// Number of steps taken, in device memory, where kernels read and increment it.
pub struct Steps {
    /// `[1]` number of steps taken.
    done: Buffer<u64>,
    /// `[1]` ticket of the kernel; 0 between launches.
    ticket: Buffer<i32>,
}

impl Steps {
    /// Creates the counter; no steps taken.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Steps { done: device.allocate(1)?, ticket: device.allocate(1)? })
    }

    /// Sets the number of steps taken.
    pub fn set(&mut self, device: &Device, done: u64) -> Result<()> {
        device.upload(&[done], self.done.slice_mut(0..1))
    }

    /// `[1]` number of steps taken.
    pub fn done(&self) -> Slice<'_, u64> {
        self.done.slice(0..1)
    }
}

/// Arrays updated by a step, all of one length and in the parameters' layout, and the part of them to update.
pub struct Update<'a> {
    /// Parameters, updated.
    pub values: SliceMut<'a, f32>,
    /// First moments, updated.
    pub first: SliceMut<'a, f32>,
    /// Second moments, updated.
    pub second: SliceMut<'a, f32>,
    /// Gradients with respect to the parameters.
    pub gradients: Slice<'a, f32>,
    /// Part to update. The part that ends the step must be launched after all others.
    pub part: Part,
}

/// Takes the next step, or a part of it; the last part increments the step count. If `copy` is given, the new
/// weights are also written there; it must have the same layout.
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
    let arguments = AdamStep {
        values: (&mut values).into(),
        first: (&mut first).into(),
        second: (&mut second).into(),
        gradients: gradients.into(),
        steps: (&mut done).into(),
        ticket: ends_step.then_some(&mut ticket).into(),
        copy: copy.map_or_else(CopyArguments::none, |copy| CopyArguments::new(copy, count)),
        learning_rate: adam.learning_rate,
        beta1: adam.beta1,
        beta2: adam.beta2,
        begin: int(range.start),
        end: int(range.end),
        epsilon: adam.epsilon as f32,
        reserved: 0,
    };
    // A step over no values still counts.
    let blocks = Blocks::cover(range.len().div_ceil(VALUES_EACH).max(1), &ADAM_STEP);
    // SAFETY: lengths were checked, and the segments of a copy lie within both arrays; everything written is
    // borrowed mutably.
    unsafe { device.launch(&ADAM_STEP, blocks, &arguments) }
}

/// Fills all of `copy` from the parameters `values`.
pub fn weight_copy(device: &Device, copy: &mut WeightCopy, values: Slice<'_, f32>) -> Result<()> {
    let count = values.len();
    copy.check(count);
    if count == 0 {
        return Ok(());
    }
    let copy = CopyArguments::new(copy, count);
    let arguments = CopyWeights { copy, values: values.into(), count: int(count), reserved: 0 };
    let blocks = Blocks::cover(count.div_ceil(VALUES_EACH), &WEIGHT_COPY);
    // SAFETY: the segments lie within both arrays; the copy is borrowed mutably.
    unsafe { device.launch(&WEIGHT_COPY, blocks, &arguments) }
}
