//! batch_norm: statistics, relu(norm(z)) and their backward (`kernels/batch_norm.cu`).

use bytemuck::Zeroable;
use half::bf16;

use super::norm_arguments::{
    NormArguments, NormBackwardArguments, NormGradientArguments, NormStatisticsArguments, StatisticsArguments,
};
use super::stored::{StoredElement, stored_kernel};
use crate::backend::cuda::device::buffer::{Buffer, Element, Slice, SliceMut};
use crate::backend::cuda::device::kernel::{
    Blocks, Kernel, KernelFile, Pointer, PointerMut, int, kernel_arguments,
};
use crate::backend::cuda::device::rows::Rows;
use crate::backend::cuda::device::{Device, check_len};
use crate::error::Result;

kernel_arguments! {
    struct BatchNormRunningStatistics {
        norm: NormStatisticsArguments,
        /// `[columns]` running mean.
        running_mean: Pointer<f32>,
        running_var: Pointer<f32>,
        columns: i32,
        reserved: i32,
    }

    struct BatchNormNoStatistics {
        norm: NormStatisticsArguments,
        columns: i32,
        reserved: i32,
    }

    struct BatchNormRelu<T> {
        /// `[R, columns]` relu(norm(z)), overwritten.
        y: PointerMut<T>,
        /// `[R, columns]` input of the batch norm.
        z: Pointer<T>,
        norm: NormArguments,
        /// `[1]` number of rows R.
        row_count: Pointer<i32>,
        columns: i32,
        y_stride: i32,
        z_stride: i32,
        reserved: i32,
    }

    struct BatchNormMask<T> {
        /// `[rows, columns]` without padding, written.
        mask: PointerMut<u8>,
        /// `[rows, columns]` input of the batch norm.
        z: Pointer<T>,
        norm: NormArguments,
        rows: i32,
        columns: i32,
        stride: i32,
        reserved: i32,
    }

    struct BatchNormBackwardSums<T> {
        /// `[R, columns]` gradient with respect to relu(norm(z)).
        d_y: Pointer<T>,
        /// `[R, columns]` input of the batch norm.
        z: Pointer<T>,
        norm: NormArguments,
        gradient: NormGradientArguments,
        /// `[1]` number of rows R.
        row_count: Pointer<i32>,
        columns: i32,
        stride: i32,
    }

    struct BatchNormBackward<T> {
        /// `[R, columns]`: overwritten; gradient with respect to relu(norm(z)), then with respect to z.
        d: PointerMut<T>,
        through: NormBackwardArguments<T>,
        /// `[1]` number of rows R.
        row_count: Pointer<i32>,
        columns: i32,
        stride: i32,
    }
}

/// Fewest columns that a kernel's block sums; tickets have room for strips of so many.
const LEAST_STRIP: usize = 32;
/// Rows and threads of blocks, as in the kernels.
const ROW_LANES: u32 = 8;
const COLUMN_THREADS: u32 = 128;
const THREADS: u32 = 256;
/// Threads of a block that sums columns (`kernels/strip_sums.cuh`), and those that share a row: four columns each.
pub(crate) const STRIP_THREADS: [u32; 3] = [STRIP_LANES as u32 * ROW_LANES, 1, 1];
const STRIP_LANES: usize = 32;

const RUNNING_STATISTICS: Kernel<BatchNormRunningStatistics> =
    Kernel::new("batch_norm_running_statistics", [COLUMN_THREADS, 1, 1]);
const NO_STATISTICS: Kernel<BatchNormNoStatistics> =
    Kernel::new("batch_norm_no_statistics", [COLUMN_THREADS, 1, 1]);

impl<T: StoredElement> BatchNormRelu<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("batch_norm_relu", T), [THREADS, 1, 1]);
}

impl<T: StoredElement> BatchNormMask<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("batch_norm_mask", T), [THREADS, 1, 1]);
}

impl<T: StoredElement> BatchNormBackwardSums<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("batch_norm_backward_sums", T), STRIP_THREADS);
}

impl<T: StoredElement> BatchNormBackward<T> {
    const KERNEL: Kernel<Self> = Kernel::new(stored_kernel!("batch_norm_backward", T), [THREADS, 1, 1]);
}

/// Kernels of `kernels/batch_norm.cu`.
pub(crate) const FILE: KernelFile = KernelFile {
    name: "batch_norm",
    kernels: &[
        RUNNING_STATISTICS.info(),
        NO_STATISTICS.info(),
        BatchNormRelu::<f32>::KERNEL.info(),
        BatchNormRelu::<bf16>::KERNEL.info(),
        BatchNormMask::<f32>::KERNEL.info(),
        BatchNormMask::<bf16>::KERNEL.info(),
        BatchNormBackwardSums::<f32>::KERNEL.info(),
        BatchNormBackwardSums::<bf16>::KERNEL.info(),
        BatchNormBackward::<f32>::KERNEL.info(),
        BatchNormBackward::<bf16>::KERNEL.info(),
    ],
};

/// Columns per thread.
pub(crate) const COLUMNS_EACH: usize = 4;

/// Rows of a chunk, and chunks of a group, as in `kernels/column_sums.cuh`.
pub const CHUNK_ROWS: usize = 64;
const GROUP_CHUNKS: usize = 32;

/// Batch norm of a block of the network, by column: norm(z) = scale z + shift.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// `[C]` mean of each column.
    pub mean: Slice<'a, f32>,
    /// `[C]` 1 / sqrt(variance + eps) of each column.
    pub rstd: Slice<'a, f32>,
    /// `[C]` scale: rstd times the weight.
    pub scale: Slice<'a, f32>,
    /// `[C]` shift: bias - scale mean.
    pub shift: Slice<'a, f32>,
}

impl<'a> Norm<'a> {
    /// Batch norm of `count` columns, starting at `start`.
    #[track_caller]
    pub fn columns(self, start: usize, count: usize) -> Self {
        let part = |slice: Slice<'a, f32>| slice.slice(start..start + count);
        Norm {
            mean: part(self.mean),
            rstd: part(self.rstd),
            scale: part(self.scale),
            shift: part(self.shift),
        }
    }

    #[track_caller]
    pub(crate) fn check(&self, columns: usize) {
        for (name, slice) in
            [("mean", self.mean), ("rstd", self.rstd), ("scale", self.scale), ("shift", self.shift)]
        {
            check_len(name, slice.len(), columns);
        }
    }
}

/// Statistics to be written, and the batch norm that follows from them and from its parameters.
#[derive(Debug)]
pub struct Statistics<'a> {
    /// `[C]` mean of each column.
    pub mean: SliceMut<'a, f32>,
    /// `[C]` 1 / sqrt(variance + eps) of each column.
    pub rstd: SliceMut<'a, f32>,
    /// `[C]` scale, as in [`Norm`].
    pub scale: SliceMut<'a, f32>,
    /// `[C]` shift, as in [`Norm`].
    pub shift: SliceMut<'a, f32>,
    /// `[C]` weight of the norm, read.
    pub weight: Slice<'a, f32>,
    /// `[C]` bias of the norm, read.
    pub bias: Slice<'a, f32>,
}

impl Statistics<'_> {
    /// Panics unless there are `columns` columns.
    #[track_caller]
    pub(super) fn arguments(&mut self, columns: usize) -> NormStatisticsArguments {
        let Statistics { mean, rstd, scale, shift, weight, bias } = self;
        let lengths = [mean.len(), rstd.len(), scale.len(), shift.len(), weight.len(), bias.len()];
        assert_eq!(lengths, [columns; 6], "batch_norm: mean, rstd, scale, shift, weight and bias");
        NormStatisticsArguments {
            mean: mean.into(),
            rstd: rstd.into(),
            scale: scale.into(),
            shift: shift.into(),
            weight: (*weight).into(),
            bias: (*bias).into(),
        }
    }
}

/// Destination of a batch's statistics, and the memory for their sums.
pub struct BatchStatistics<'a> {
    /// Statistics of the batch.
    pub to: Statistics<'a>,
    /// `[C]` running mean, updated.
    pub running_mean: SliceMut<'a, f32>,
    /// `[C]` running variance, updated.
    pub running_var: SliceMut<'a, f32>,
    /// Memory for the sums.
    pub sums: &'a mut Sums,
}

/// Destination of the gradients with respect to a norm's weight and bias. The terms that the backward
/// subtracts stay in `sums`, for [`NormBackward`].
pub struct NormGradient<'a> {
    /// `[C]` gradient with respect to the weight.
    pub weight: SliceMut<'a, f32>,
    /// `[C]` gradient with respect to the bias.
    pub bias: SliceMut<'a, f32>,
    /// Whether mean and rstd are those of the batch and depend on z, or are constants.
    pub batch_statistics: bool,
    /// Memory for the sums.
    pub sums: &'a mut Sums,
}

/// Second part of the backward of relu(norm(z)): computes the gradient d_z with respect to z from the
/// gradient with respect to the output.
pub struct NormBackward<'a, T> {
    /// `[R, C]` gradient with respect to the output; overwritten if d_z is stored.
    pub d: SliceMut<'a, T>,
    /// `[R, C]` input of the batch norm.
    pub z: Slice<'a, T>,
    /// Batch norm of z.
    pub norm: Norm<'a>,
    /// `[2, C]` terms to subtract: [`Sums::terms`] of the first part, which is [`batch_norm_backward_sums`]
    /// or the product that computed d.
    pub terms: Slice<'a, f32>,
}

impl<T: StoredElement> NormBackward<'_, T> {
    /// Number of columns C.
    pub(crate) fn columns(&self) -> usize {
        self.norm.mean.len()
    }

    /// Panics unless d and z have `rows` rows.
    #[track_caller]
    pub(crate) fn check(&self, rows: usize) {
        let columns = self.columns();
        self.norm.check(columns);
        check_len("batch_norm_backward: d", self.d.len(), rows * T::stride(columns));
        check_len("batch_norm_backward: z", self.z.len(), rows * T::stride(columns));
        check_len("batch_norm_backward: terms", self.terms.len(), 2 * columns);
    }
}

/// Memory for sums over rows (`kernels/column_sums.cuh`).
pub struct Sums {
    /// `[chunks, 2, C]` sums of each chunk.
    partials: Buffer<f32>,
    /// `[groups, 2, C]` sums of each group of chunks.
    groups: Buffer<f64>,
    /// `[groups + 1, strips]` tickets: zeros between launches.
    tickets: Buffer<i32>,
    /// `[2, C]` terms that the backward subtracts.
    terms: Buffer<f32>,
}

impl Sums {
    /// Creates an empty memory.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Sums {
            partials: device.allocate(0)?,
            groups: device.allocate(0)?,
            tickets: device.allocate(0)?,
            terms: device.allocate(0)?,
        })
    }

    /// `[2, C]` terms that the backward subtracts, as written by the first part of a norm's backward.
    pub fn terms(&self, columns: usize) -> Slice<'_, f32> {
        self.terms.slice(0..2 * columns)
    }

    /// [`Sums::terms`], to be replaced by those over the rows of all ranks.
    pub(crate) fn terms_mut(&mut self, columns: usize) -> SliceMut<'_, f32> {
        self.terms.slice_mut(0..2 * columns)
    }

    /// Grows the memory for sums over up to `rows` rows of `columns` columns.
    pub(crate) fn reserve(&mut self, device: &Device, rows: usize, columns: usize) -> Result<()> {
        let chunks = rows.div_ceil(CHUNK_ROWS);
        let groups = chunks.div_ceil(GROUP_CHUNKS);
        device.reserve(&mut self.partials, chunks * 2 * columns)?;
        device.reserve(&mut self.groups, groups * 2 * columns)?;
        device.reserve(&mut self.terms, 2 * columns)?;
        let tickets = (groups + 1) * columns.div_ceil(LEAST_STRIP);
        if self.tickets.len() < tickets {
            self.tickets = device.allocate(tickets)?;
        }
        Ok(())
    }
}

/// Address of a whole buffer.
fn whole<T: Element>(buffer: &mut Buffer<T>) -> PointerMut<T> {
    (&mut buffer.all_mut()).into()
}

impl From<Norm<'_>> for NormArguments {
    fn from(norm: Norm<'_>) -> Self {
        NormArguments { scale: norm.scale.into(), shift: norm.shift.into() }
    }
}

impl<T: StoredElement> From<&NormBackward<'_, T>> for NormBackwardArguments<T> {
    fn from(of: &NormBackward<'_, T>) -> Self {
        NormBackwardArguments { z: of.z.into(), norm: of.norm.into(), terms: of.terms.into() }
    }
}

impl StatisticsArguments {
    /// Arguments for statistics of up to `rows` rows; null if none are wanted.
    pub(crate) fn new(
        device: &Device,
        statistics: Option<BatchStatistics<'_>>,
        rows: usize,
        columns: usize,
    ) -> Result<Self> {
        let Some(BatchStatistics { mut to, mut running_mean, mut running_var, sums }) = statistics else {
            return Ok(Zeroable::zeroed());
        };
        check_len("batch_norm: running_mean", running_mean.len(), columns);
        check_len("batch_norm: running_var", running_var.len(), columns);
        sums.reserve(device, rows, columns)?;
        Ok(StatisticsArguments {
            partials: whole(&mut sums.partials),
            groups: whole(&mut sums.groups),
            tickets: whole(&mut sums.tickets),
            norm: to.arguments(columns),
            running_mean: (&mut running_mean).into(),
            running_var: (&mut running_var).into(),
        })
    }
}

impl NormGradientArguments {
    /// Arguments for the gradient of `norm`, sums over up to `rows` rows; null if none are wanted.
    pub(crate) fn new(
        device: &Device,
        gradient: Option<NormGradient<'_>>,
        norm: Norm<'_>,
        rows: usize,
    ) -> Result<Self> {
        let columns = norm.mean.len();
        let Some(NormGradient { mut weight, mut bias, batch_statistics, sums }) = gradient else {
            return Ok(Zeroable::zeroed());
        };
        check_len("batch_norm: d_weight", weight.len(), columns);
        check_len("batch_norm: d_bias", bias.len(), columns);
        sums.reserve(device, rows, columns)?;
        Ok(NormGradientArguments {
            partials: whole(&mut sums.partials),
            groups: whole(&mut sums.groups),
            tickets: whole(&mut sums.tickets),
            d_weight: (&mut weight).into(),
            d_bias: (&mut bias).into(),
            terms: (&mut sums.terms.slice_mut(0..2 * columns)).into(),
            mean: norm.mean.into(),
            rstd: norm.rstd.into(),
            batch_statistics: batch_statistics.into(),
            reserved: 0,
        })
    }
}

/// Grid of strips of 128 columns by chunks of rows, for rows of `fours` times four columns. At least one block per strip,
/// since the sums must be written even without rows.
pub(crate) fn strips(rows: usize, fours: usize) -> Blocks {
    Blocks::new(fours.div_ceil(STRIP_LANES), rows.div_ceil(CHUNK_ROWS).max(1), 1)
}

/// Grid with one thread per four columns of each row.
fn by_fours<A>(rows: usize, columns: usize, kernel: &Kernel<A>) -> Blocks {
    let threads = rows * columns.div_ceil(COLUMNS_EACH);
    assert!(u32::try_from(threads).is_ok(), "kernels count their threads in 32 bits");
    Blocks::cover(threads, kernel)
}

/// Writes the running statistics and their norm to `to`.
pub fn batch_norm_running_statistics(
    device: &Device,
    to: &mut Statistics<'_>,
    running_mean: Slice<'_, f32>,
    running_var: Slice<'_, f32>,
) -> Result<()> {
    let columns = to.mean.len();
    check_len("batch_norm: running_mean", running_mean.len(), columns);
    check_len("batch_norm: running_var", running_var.len(), columns);
    let arguments = BatchNormRunningStatistics {
        norm: to.arguments(columns),
        running_mean: running_mean.into(),
        running_var: running_var.into(),
        columns: int(columns),
        reserved: 0,
    };
    let blocks = Blocks::cover(columns, &RUNNING_STATISTICS);
    // SAFETY: lengths were checked; only `to` is written, which is borrowed mutably.
    unsafe { device.launch(&RUNNING_STATISTICS, blocks, &arguments) }
}

/// Writes the identity statistics of a block without batch norm, 0 and 1, and their norm to `to`.
pub fn batch_norm_no_statistics(device: &Device, to: &mut Statistics<'_>) -> Result<()> {
    let columns = to.mean.len();
    let arguments = BatchNormNoStatistics { norm: to.arguments(columns), columns: int(columns), reserved: 0 };
    // SAFETY: lengths were checked; only `to` is written, which is borrowed mutably.
    unsafe { device.launch(&NO_STATISTICS, Blocks::cover(columns, &NO_STATISTICS), &arguments) }
}

/// Writes `y [R, C] = relu(norm(z))`; rows of z are `z_stride` apart.
pub fn batch_norm_relu<T: StoredElement>(
    device: &Device,
    y: &mut SliceMut<'_, T>,
    z: Slice<'_, T>,
    norm: Norm<'_>,
    z_stride: usize,
    rows: Rows<'_>,
) -> Result<()> {
    let columns = norm.mean.len();
    if rows.bound * columns == 0 {
        return Ok(());
    }
    norm.check(columns);
    check_len("batch_norm_relu: y", y.len(), rows.bound * T::stride(columns));
    check_len("batch_norm_relu: z", z.len(), (rows.bound - 1) * z_stride + columns);
    let arguments = BatchNormRelu {
        y: y.into(),
        z: z.into(),
        norm: norm.into(),
        row_count: rows.into(),
        columns: int(columns),
        y_stride: int(T::stride(columns)),
        z_stride: int(z_stride),
        reserved: 0,
    };
    let kernel = BatchNormRelu::KERNEL;
    // SAFETY: lengths were checked; only y is written, which is borrowed mutably.
    unsafe { device.launch(&kernel, by_fours(rows.bound, columns, &kernel), &arguments) }
}

/// Writes `mask [R, C]`: 1 where the ReLU passes norm(z), 0 elsewhere.
pub fn batch_norm_mask<T: StoredElement>(
    device: &Device,
    mask: &mut SliceMut<'_, u8>,
    z: Slice<'_, T>,
    norm: Norm<'_>,
    rows: usize,
) -> Result<()> {
    let columns = norm.mean.len();
    if rows * columns == 0 {
        return Ok(());
    }
    norm.check(columns);
    check_len("batch_norm_mask: mask", mask.len(), rows * columns);
    check_len("batch_norm_mask: z", z.len(), rows * T::stride(columns));
    let arguments = BatchNormMask {
        mask: mask.into(),
        z: z.into(),
        norm: norm.into(),
        rows: int(rows),
        columns: int(columns),
        stride: int(T::stride(columns)),
        reserved: 0,
    };
    let kernel = BatchNormMask::KERNEL;
    // SAFETY: lengths were checked; only the mask is written, which is borrowed mutably.
    unsafe { device.launch(&kernel, Blocks::cover(rows * columns, &kernel), &arguments) }
}

/// First part of the backward of relu(norm(z)), given the gradient `d [R, C]` with respect to its output.
/// Computes the gradients with respect to weight and bias, and the terms that the second part subtracts, in
/// one pass over d and z.
pub fn batch_norm_backward_sums<T: StoredElement>(
    device: &Device,
    gradient: NormGradient<'_>,
    d: Slice<'_, T>,
    z: Slice<'_, T>,
    norm: Norm<'_>,
    rows: Rows<'_>,
) -> Result<()> {
    let columns = norm.mean.len();
    norm.check(columns);
    check_len("batch_norm_backward: d", d.len(), rows.bound * T::stride(columns));
    check_len("batch_norm_backward: z", z.len(), rows.bound * T::stride(columns));
    let arguments = BatchNormBackwardSums {
        d_y: d.into(),
        z: z.into(),
        norm: norm.into(),
        gradient: NormGradientArguments::new(device, Some(gradient), norm, rows.bound)?,
        row_count: rows.into(),
        columns: int(columns),
        stride: int(T::stride(columns)),
    };
    // SAFETY: lengths were checked, and the sums have room; all that is written is borrowed mutably.
    unsafe {
        device.launch(
            &BatchNormBackwardSums::KERNEL,
            strips(rows.bound, columns.div_ceil(COLUMNS_EACH)),
            &arguments,
        )
    }
}

/// Second part in a separate launch: overwrites d with d_z.
pub fn batch_norm_backward<T: StoredElement>(
    device: &Device,
    of: &mut NormBackward<'_, T>,
    rows: Rows<'_>,
) -> Result<()> {
    of.check(rows.bound);
    if rows.bound == 0 {
        return Ok(());
    }
    let columns = of.columns();
    let through = NormBackwardArguments::from(&*of);
    let arguments = BatchNormBackward {
        d: (&mut of.d).into(),
        through,
        row_count: rows.into(),
        columns: int(columns),
        stride: int(T::stride(columns)),
    };
    let kernel = BatchNormBackward::KERNEL;
    // SAFETY: lengths were checked; only d is written, which is borrowed mutably.
    unsafe { device.launch(&kernel, by_fours(rows.bound, columns, &kernel), &arguments) }
}
