//! adam: one step over flat arrays, and the weights' copy in bf16 (`kernels/adam.cu`, [`crate::optimizer`]).

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
    /// Where new weights are copied to; null pointers for nowhere.
    struct CopyArguments {
        /// The weights in bf16.
        values: PointerMut<bf16>,
        /// `[segment_count]`, ascending: where they lie.
        segments: Pointer<WeightSegment>,
        segment_count: i32,
        reserved: i32,
    }

    struct AdamStep {
        /// `[end]`, updated from `begin` on; so are both moments.
        values: PointerMut<f32>,
        first: PointerMut<f32>,
        second: PointerMut<f32>,
        gradients: Pointer<f32>,
        /// `[1]`: number of steps done.
        steps: PointerMut<u64>,
        /// `[1]`: number of blocks that have read `steps`; null if this is not the step's last part.
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
        /// `[count]`: the parameters.
        values: Pointer<f32>,
        count: i32,
        reserved: i32,
    }
}

const THREADS: u32 = 256;
/// Values of a thread.
const VALUES_EACH: usize = 4;

const ADAM_STEP: Kernel<AdamStep> = Kernel::new("adam_step", [THREADS, 1, 1]);
const WEIGHT_COPY: Kernel<CopyWeights> = Kernel::new("weight_copy", [THREADS, 1, 1]);

/// The kernels of `kernels/adam.cu`.
pub(crate) const FILE: KernelFile =
    KernelFile { name: "adam", kernels: &[ADAM_STEP.info(), WEIGHT_COPY.info()] };

impl CopyArguments {
    /// Into `copy`, of `count` parameters.
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

    /// Into nothing.
    fn none() -> Self {
        Zeroable::zeroed()
    }
}

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
    // A step of no values is one too.
    let blocks = Blocks::cover(range.len().div_ceil(VALUES_EACH).max(1), &ADAM_STEP);
    // SAFETY: lengths were checked, and a copy's segments lie within both arrays; what is written is borrowed mutably.
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
