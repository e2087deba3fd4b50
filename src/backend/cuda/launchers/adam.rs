//! adam: one step over flat arrays, the norm of the gradient, and the bf16 copy of the weights (`kernels/adam.cu`,
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
use crate::network::parameters::Layout;
use crate::optimizer::schedule::RATE_STEPS;
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
        /// `[RATE_STEPS]` learning rates; null if all steps have the same.
        learning_rates: Pointer<f64>,
        /// `[1]` norm of the whole gradient; null if it is not clipped.
        norm: Pointer<f64>,
        /// `[end / 32 words]` one bit per parameter, set if it decays; null without decay.
        decaying: Pointer<u32>,
        /// `[1]` number of steps taken.
        steps: PointerMut<u64>,
        /// `[1]` number of blocks that have read `steps`; null if this is not the last part of the step.
        ticket: PointerMut<i32>,
        copy: CopyArguments,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        clip_norm: f64,
        begin: i32,
        end: i32,
        epsilon: f32,
        reserved: i32,
    }

    struct GradientNorm {
        /// `[count]` gradient.
        gradients: Pointer<f32>,
        /// `[chunks]` sums of the squares of each chunk, overwritten.
        sums: PointerMut<f64>,
        /// `[1]` norm, overwritten.
        norm: PointerMut<f64>,
        /// `[1]` number of blocks that have written their sum.
        ticket: PointerMut<i32>,
        count: i32,
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
/// Loads of four values in flight at once in a thread of `gradient_norm`; the same in `kernels/adam.cu`.
const NORM_LOADS: usize = 8;
/// Values of a gradient that a block of `gradient_norm` sums.
const NORM_CHUNK: usize = THREADS as usize * VALUES_EACH * NORM_LOADS;

const ADAM_STEP: Kernel<AdamStep> = Kernel::new("adam_step", [THREADS, 1, 1]);
const GRADIENT_NORM: Kernel<GradientNorm> = Kernel::new("gradient_norm", [THREADS, 1, 1]);
const WEIGHT_COPY: Kernel<CopyWeights> = Kernel::new("weight_copy", [THREADS, 1, 1]);

/// Kernels of `kernels/adam.cu`.
pub(crate) const FILE: KernelFile =
    KernelFile { name: "adam", kernels: &[ADAM_STEP.info(), GRADIENT_NORM.info(), WEIGHT_COPY.info()] };

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

/// Number of steps taken, learning rates of the next steps and norm of the gradient, in device memory, where kernels
/// read and write them.
pub struct Steps {
    /// `[1]` number of steps taken.
    done: Buffer<u64>,
    /// `[1]` ticket of the kernel; 0 between launches.
    ticket: Buffer<i32>,
    /// `[RATE_STEPS]` learning rates of the current steps k R + 1 to (k + 1) R; unused if all steps have the same.
    rates: Buffer<f64>,
    /// `[1]` norm of the gradient, as last computed.
    norm: Buffer<f64>,
    /// Scratch memory of the norm.
    pub norm_scratch: NormScratch,
    /// `[parameters / 32 words]` one bit per parameter, set if it decays.
    decaying: Buffer<u32>,
}

/// Scratch memory of [`gradient_norm`].
pub struct NormScratch {
    /// `[chunks]` sum of the squares of each chunk.
    sums: Buffer<f64>,
    /// `[1]` ticket of the kernel; 0 between launches.
    ticket: Buffer<i32>,
}

/// Number of chunks of a gradient of `count` values; at least one block writes the norm.
fn chunks(count: usize) -> usize {
    count.div_ceil(NORM_CHUNK).max(1)
}

impl Steps {
    /// Creates the counter for parameters of this layout; no steps taken.
    pub fn new(device: &Device, layout: &Layout) -> Result<Self> {
        let count = layout.parameter_count;
        let mut decaying = vec![u32::MAX; count.div_ceil(32)];
        for (range, _) in layout.by_decay(0..count).into_iter().filter(|(_, decays)| !decays) {
            range.for_each(|place| decaying[place / 32] &= !(1 << (place % 32)));
        }
        Ok(Steps { decaying: device.allocate_copy(&decaying)?, ..Steps::of_count(device, count)? })
    }

    /// Creates the counter for `count` parameters, none of which may decay.
    pub fn of_count(device: &Device, count: usize) -> Result<Self> {
        Ok(Steps {
            done: device.allocate(1)?,
            ticket: device.allocate(1)?,
            rates: device.allocate(RATE_STEPS)?,
            norm: device.allocate(1)?,
            norm_scratch: NormScratch { sums: device.allocate(chunks(count))?, ticket: device.allocate(1)? },
            decaying: device.allocate(0)?,
        })
    }

    /// Loads the learning rates of the steps k R + 1 to (k + 1) R, where R is [`RATE_STEPS`].
    pub fn load_rates(&mut self, device: &Device, rates: &[f64]) -> Result<()> {
        check_len("learning rates", rates.len(), RATE_STEPS);
        device.upload(rates, self.rates.all_mut())
    }

    /// Computes the norm of a whole gradient, for the next [`adam_step`].
    pub fn compute_norm(&mut self, device: &Device, gradients: Slice<'_, f32>) -> Result<()> {
        gradient_norm(device, &mut self.norm.all_mut(), gradients, &mut self.norm_scratch)
    }

    /// Norm of the gradient, as last computed; waits for it.
    pub fn norm(&self, device: &Device) -> Result<f64> {
        Ok(device.download(&self.norm, 0..1)?[0])
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
    let decays = adam.weight_decay != 0.0;
    if decays {
        check_len("adam_step: decaying", steps.decaying.len(), count.div_ceil(32));
    }
    let (mut done, mut ticket) = (steps.done.slice_mut(0..1), steps.ticket.slice_mut(0..1));
    let arguments = AdamStep {
        values: (&mut values).into(),
        first: (&mut first).into(),
        second: (&mut second).into(),
        gradients: gradients.into(),
        learning_rates: (!adam.schedule.is_constant()).then(|| steps.rates.all()).into(),
        norm: adam.clip_norm.map(|_| steps.norm.all()).into(),
        decaying: decays.then(|| steps.decaying.all()).into(),
        steps: (&mut done).into(),
        ticket: ends_step.then_some(&mut ticket).into(),
        copy: copy.map_or_else(CopyArguments::none, |copy| CopyArguments::new(copy, count)),
        learning_rate: adam.learning_rate,
        beta1: adam.beta1,
        beta2: adam.beta2,
        weight_decay: adam.weight_decay,
        clip_norm: adam.clip_norm.unwrap_or(0.0),
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

/// `norm [1]`: Euclidean norm of a whole gradient.
pub fn gradient_norm(
    device: &Device,
    norm: &mut SliceMut<'_, f64>,
    gradients: Slice<'_, f32>,
    scratch: &mut NormScratch,
) -> Result<()> {
    let chunks = chunks(gradients.len());
    check_len("gradient_norm: norm", norm.len(), 1);
    check_len("gradient_norm: sums", scratch.sums.len(), chunks);
    let (mut sums, mut ticket) = (scratch.sums.all_mut(), scratch.ticket.all_mut());
    let arguments = GradientNorm {
        count: int(gradients.len()),
        gradients: gradients.into(),
        sums: (&mut sums).into(),
        norm: norm.into(),
        ticket: (&mut ticket).into(),
        reserved: 0,
    };
    // SAFETY: there is room for the sum of every block; all that is written is borrowed mutably.
    unsafe { device.launch(&GRADIENT_NORM, Blocks::rows(chunks), &arguments) }
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
