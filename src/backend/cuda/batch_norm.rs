//! batch_norm: statistics, relu(norm(z)) and their backward (`kernels/batch_norm.cu`).

use super::buffer::{Buffer, Slice, SliceMut};
use super::device::{Arguments, Device, Grid, check_len, dimension};
use super::rows::Rows;
use crate::error::Result;

pub(super) const KERNELS: &[&str] = &[
    "batch_norm_partial_statistics",
    "batch_norm_merge_statistics",
    "batch_norm_running_statistics",
    "batch_norm_no_statistics",
    "batch_norm_relu",
    "batch_norm_mask",
    "batch_norm_backward_partials",
    "batch_norm_backward_merge",
    "batch_norm_backward",
];

/// As in the kernel: columns and rows of a block.
const STRIP: usize = 32;
const ROW_LANES: u32 = 8;
/// Rows that [`Sums`] are of.
pub const CHUNK_ROWS: usize = 64;
const MERGE_THREADS: u32 = 128;
const THREADS: u32 = 256;

/// A block's normalisation, by column.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// `[C]`.
    pub mean: Slice<'a, f32>,
    /// `[C]`.
    pub rstd: Slice<'a, f32>,
    /// `[C]`.
    pub weight: Slice<'a, f32>,
    /// `[C]`.
    pub bias: Slice<'a, f32>,
}

impl<'a> Norm<'a> {
    /// Some of its columns.
    #[track_caller]
    pub fn columns(self, start: usize, count: usize) -> Self {
        let part = |slice: Slice<'a, f32>| slice.slice(start..start + count);
        Norm {
            mean: part(self.mean),
            rstd: part(self.rstd),
            weight: part(self.weight),
            bias: part(self.bias),
        }
    }

    #[track_caller]
    pub(super) fn check(&self, columns: usize) {
        for (name, slice) in
            [("mean", self.mean), ("rstd", self.rstd), ("norm.weight", self.weight), ("norm.bias", self.bias)]
        {
            check_len(name, slice.len(), columns);
        }
    }
}

impl Arguments {
    /// The four columns of a normalisation, in the order in which every kernel takes them.
    pub(super) fn add_norm(self, norm: Norm<'_>) -> Self {
        self.add(norm.mean).add(norm.rstd).add(norm.weight).add(norm.bias)
    }
}

/// Where statistics go.
#[derive(Debug)]
pub struct Statistics<'a> {
    /// `[C]`.
    pub mean: SliceMut<'a, f32>,
    /// `[C]`.
    pub rstd: SliceMut<'a, f32>,
}

/// Memory of the sums over rows.
pub struct Sums {
    /// `[chunks, 2, C]`.
    partials: Buffer<f32>,
    /// `[2, C]`: what backward subtracts.
    terms: Buffer<f32>,
}

impl Sums {
    /// None yet.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Sums { partials: device.allocate(0)?, terms: device.allocate(0)? })
    }

    /// Room for sums over up to `rows` rows of `columns` columns, if there is not yet.
    pub(super) fn reserve(&mut self, device: &Device, rows: usize, columns: usize) -> Result<()> {
        device.reserve(&mut self.partials, rows.div_ceil(CHUNK_ROWS) * 2 * columns)?;
        device.reserve(&mut self.terms, 2 * columns)
    }

    /// `[R / 64, 2, C]`: two values of each 64 rows and column.
    pub fn partials(&mut self, device: &Device, rows: usize, columns: usize) -> Result<SliceMut<'_, f32>> {
        self.reserve(device, rows, columns)?;
        Ok(self.partials.slice_mut(0..rows.div_ceil(CHUNK_ROWS) * 2 * columns))
    }

    /// The same, read back.
    pub fn download(&self, device: &Device, rows: usize, columns: usize) -> Result<Vec<f32>> {
        device.download(&self.partials, 0..rows.div_ceil(CHUNK_ROWS) * 2 * columns)
    }
}

fn strips(rows: usize, columns: usize) -> Grid {
    let blocks = [columns.div_ceil(STRIP), rows.div_ceil(CHUNK_ROWS), 1].map(dimension);
    Grid { blocks, threads: [STRIP as u32, ROW_LANES, 1] }
}

/// The statistics of `z [R, C]`, in a pass over it; moves the running ones.
pub fn batch_norm_statistics(
    device: &Device,
    to: &mut Statistics<'_>,
    running_mean: &mut SliceMut<'_, f32>,
    running_var: &mut SliceMut<'_, f32>,
    z: Slice<'_, f32>,
    rows: Rows<'_>,
    sums: &mut Sums,
) -> Result<()> {
    let columns = to.mean.len();
    check_len("batch_norm: z", z.len(), rows.bound * columns);
    batch_norm_partial_statistics(device, z, rows, columns, sums)?;
    batch_norm_merge_statistics(device, to, running_mean, running_var, rows, sums)
}

/// Each chunk's statistics of `z [R, C]` into `sums`.
pub fn batch_norm_partial_statistics(
    device: &Device,
    z: Slice<'_, f32>,
    rows: Rows<'_>,
    columns: usize,
    sums: &mut Sums,
) -> Result<()> {
    check_len("batch_norm: z", z.len(), rows.bound * columns);
    let mut partials = sums.partials(device, rows.bound, columns)?;
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments = [(&mut partials).into(), z.into(), rows.into(), columns.into()];
    // SAFETY: as in kernels/batch_norm.cu; lengths were checked; partials has 2 C values for each chunk.
    unsafe { device.launch("batch_norm_partial_statistics", strips(rows.bound, columns), &arguments) }
}

/// The statistics of R rows, of which `sums` has each chunk's; moves the running ones.
pub fn batch_norm_merge_statistics(
    device: &Device,
    to: &mut Statistics<'_>,
    running_mean: &mut SliceMut<'_, f32>,
    running_var: &mut SliceMut<'_, f32>,
    rows: Rows<'_>,
    sums: &mut Sums,
) -> Result<()> {
    let columns = to.mean.len();
    check_len("batch_norm: rstd", to.rstd.len(), columns);
    check_len("batch_norm: running_mean", running_mean.len(), columns);
    check_len("batch_norm: running_var", running_var.len(), columns);
    let partials = sums.partials(device, rows.bound, columns)?;
    let arguments = [
        (&mut to.mean).into(),
        (&mut to.rstd).into(),
        running_mean.into(),
        running_var.into(),
        partials.as_slice().into(),
        rows.into(),
        columns.into(),
    ];
    // SAFETY: as in kernels/batch_norm.cu; lengths were checked; all that is written is borrowed mutably.
    unsafe { device.launch("batch_norm_merge_statistics", Grid::cover(columns, MERGE_THREADS), &arguments) }
}

/// The running statistics into `to`.
pub fn batch_norm_running_statistics(
    device: &Device,
    to: &mut Statistics<'_>,
    running_mean: Slice<'_, f32>,
    running_var: Slice<'_, f32>,
) -> Result<()> {
    let columns = to.mean.len();
    check_len("batch_norm: rstd", to.rstd.len(), columns);
    check_len("batch_norm: running_mean", running_mean.len(), columns);
    check_len("batch_norm: running_var", running_var.len(), columns);
    let arguments = [
        (&mut to.mean).into(),
        (&mut to.rstd).into(),
        running_mean.into(),
        running_var.into(),
        columns.into(),
    ];
    // SAFETY: as in kernels/batch_norm.cu; lengths were checked; `to` is borrowed mutably.
    unsafe { device.launch("batch_norm_running_statistics", Grid::cover(columns, MERGE_THREADS), &arguments) }
}

/// Without batch norm: 0 and 1 into `to`.
pub fn batch_norm_no_statistics(device: &Device, to: &mut Statistics<'_>) -> Result<()> {
    let columns = to.mean.len();
    check_len("batch_norm: rstd", to.rstd.len(), columns);
    let arguments = [(&mut to.mean).into(), (&mut to.rstd).into(), columns.into()];
    // SAFETY: as in kernels/batch_norm.cu; lengths were checked; `to` is borrowed mutably.
    unsafe { device.launch("batch_norm_no_statistics", Grid::cover(columns, MERGE_THREADS), &arguments) }
}

/// `y [R, C] = relu(norm(z))`, of rows of z `z_stride` apart.
pub fn batch_norm_relu(
    device: &Device,
    y: &mut SliceMut<'_, f32>,
    z: Slice<'_, f32>,
    norm: Norm<'_>,
    z_stride: usize,
    rows: Rows<'_>,
) -> Result<()> {
    let columns = norm.mean.len();
    if rows.bound * columns == 0 {
        return Ok(());
    }
    norm.check(columns);
    check_len("batch_norm_relu: y", y.len(), rows.bound * columns);
    check_len("batch_norm_relu: z", z.len(), (rows.bound - 1) * z_stride + columns);
    let arguments = Arguments::default().add(y).add(z).add_norm(norm).add(z_stride).add(rows).add(columns);
    // SAFETY: as in kernels/batch_norm.cu; lengths were checked; y is borrowed mutably.
    unsafe { device.launch("batch_norm_relu", Grid::cover(rows.bound * columns, THREADS), &arguments) }
}

/// `mask [R, C]`: 1 where the ReLU passes norm(z).
pub fn batch_norm_mask(
    device: &Device,
    mask: &mut SliceMut<'_, u8>,
    z: Slice<'_, f32>,
    norm: Norm<'_>,
    rows: usize,
) -> Result<()> {
    let columns = norm.mean.len();
    if rows * columns == 0 {
        return Ok(());
    }
    norm.check(columns);
    check_len("batch_norm_mask: mask", mask.len(), rows * columns);
    check_len("batch_norm_mask: z", z.len(), rows * columns);
    let arguments = Arguments::default().add(mask).add(z).add_norm(norm).add(rows).add(columns);
    // SAFETY: as in kernels/batch_norm.cu; lengths were checked; mask is borrowed mutably.
    unsafe { device.launch("batch_norm_mask", Grid::cover(rows * columns, THREADS), &arguments) }
}

/// Backward of relu(norm(z)): `d [R, C]`, by its output, becomes the gradient by z; `d_weight` and `d_bias` `[C]` are
/// written. `batch_statistics` says whether mean and rstd are the batch's, and so move with z, or constants.
pub fn batch_norm_backward(
    device: &Device,
    d: &mut SliceMut<'_, f32>,
    d_weight: &mut SliceMut<'_, f32>,
    d_bias: &mut SliceMut<'_, f32>,
    z: Slice<'_, f32>,
    norm: Norm<'_>,
    batch_statistics: bool,
    rows: Rows<'_>,
    sums: &mut Sums,
) -> Result<()> {
    let columns = norm.mean.len();
    norm.check(columns);
    check_len("batch_norm_backward: d", d.len(), rows.bound * columns);
    check_len("batch_norm_backward: z", z.len(), rows.bound * columns);
    let mut partials = sums.partials(device, rows.bound, columns)?;
    if rows.bound > 0 {
        let arguments = Arguments::default()
            .add(&mut partials)
            .add(d.as_slice())
            .add(z)
            .add_norm(norm)
            .add(rows)
            .add(columns);
        // SAFETY: as in kernels/batch_norm.cu; lengths were checked; partials has 2 C values for each chunk.
        unsafe { device.launch("batch_norm_backward_partials", strips(rows.bound, columns), &arguments) }?;
    }
    batch_norm_backward_merge(device, d, d_weight, d_bias, z, norm, batch_statistics, rows, sums)
}

/// [`batch_norm_backward`] where `sums` has each chunk's sums of d and of d (z - mean).
pub fn batch_norm_backward_merge(
    device: &Device,
    d: &mut SliceMut<'_, f32>,
    d_weight: &mut SliceMut<'_, f32>,
    d_bias: &mut SliceMut<'_, f32>,
    z: Slice<'_, f32>,
    norm: Norm<'_>,
    batch_statistics: bool,
    rows: Rows<'_>,
    sums: &mut Sums,
) -> Result<()> {
    let columns = norm.mean.len();
    norm.check(columns);
    check_len("batch_norm_backward: d", d.len(), rows.bound * columns);
    check_len("batch_norm_backward: z", z.len(), rows.bound * columns);
    check_len("batch_norm_backward: d_weight", d_weight.len(), columns);
    check_len("batch_norm_backward: d_bias", d_bias.len(), columns);
    sums.reserve(device, rows.bound, columns)?;
    let partials = sums.partials.slice(0..sums.partials.len());
    let mut terms = sums.terms.slice_mut(0..2 * columns);
    let arguments = [
        d_weight.into(),
        d_bias.into(),
        (&mut terms).into(),
        partials.into(),
        norm.rstd.into(),
        norm.weight.into(),
        usize::from(batch_statistics).into(),
        rows.into(),
        columns.into(),
    ];
    // SAFETY: as in kernels/batch_norm.cu; lengths were checked; all that is written is borrowed mutably.
    unsafe { device.launch("batch_norm_backward_merge", Grid::cover(columns, MERGE_THREADS), &arguments) }?;
    if rows.bound == 0 {
        return Ok(());
    }
    let arguments =
        Arguments::default().add(d).add(z).add_norm(norm).add(terms.as_slice()).add(rows).add(columns);
    // SAFETY: as in kernels/batch_norm.cu; lengths were checked; d is borrowed mutably.
    unsafe { device.launch("batch_norm_backward", Grid::cover(rows.bound * columns, THREADS), &arguments) }
}
