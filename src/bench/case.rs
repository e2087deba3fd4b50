//! A case: one launcher at one shape, with what it costs, how to run it, and what it must give.

use std::marker::PhantomData;

use half::bf16;

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Slice, SliceMut};
use crate::backend::cuda::launchers::adam::Steps;
use crate::backend::cuda::launchers::batch_norm::Sums;
use crate::backend::cuda::launchers::edge_hidden::ChunkSums;
use crate::backend::cuda::launchers::linear::{Format, WeightParts};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::cuda::launchers::top_k::UNBOUNDED;
use crate::backend::cuda::launchers::weight_copy::WeightCopy;
use crate::bench::check::{Output, Worst, Written, worst};
use crate::bench::matrix::{DeviceMatrix, HostMatrix, to_device};
use crate::error::Result;
use crate::network::parameters::Layout;

/// What a launch needs at least, from its formula: each input read once, each output written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read and written.
    pub bytes: u64,
    /// Floating-point operations; a multiply-add is two.
    pub flops: u64,
}

impl Cost {
    /// Cost of `values` of four bytes each, and operations.
    pub fn of(values: usize, flops: usize) -> Self {
        Cost { bytes: 4 * values as u64, flops: flops as u64 }
    }

    /// Cost of matrices with `stored` values of type `T` together (row padding is not counted), of other `values` of four
    /// bytes each, and operations.
    pub fn stored<T: StoredElement>(stored: usize, values: usize, flops: usize) -> Self {
        let of_others = Cost::of(values, flops);
        Cost { bytes: (size_of::<T>() * stored) as u64 + of_others.bytes, ..of_others }
    }
}

/// One launcher at one shape.
pub struct Case {
    /// The launcher's name.
    pub kernel: &'static str,
    /// Sizes, and what they are in the model.
    pub shape: String,
    /// What it needs at least.
    pub cost: Cost,
    /// What computes it: the format of a product's operands, and single precision for all else.
    pub format: Format,
    /// Draws the values, with room for the given number of spare rows. Values are large, so they are drawn when the case
    /// runs.
    pub prepare: Box<dyn Fn(usize) -> Prepared>,
}

/// A case's values and functions.
pub struct Prepared {
    /// What the launcher reads and writes.
    pub host: Host,
    /// Calls the launcher.
    pub launch: Launch,
    /// What each output must be, by the reference in double precision, and how far it may be off.
    pub expected: Expected,
}

impl Prepared {
    /// Runs the case once, on outputs that begin as NaN, and compares what it wrote with what is expected.
    pub fn check(&self, device: &Device) -> Result<Option<Worst>> {
        let mut arrays = Arrays::upload(device, &self.host)?;
        (self.launch)(device, &mut arrays)?;
        let written = arrays.written(device)?;
        Ok(worst(&(self.expected)(&self.host, &written), &written))
    }
}

/// Calls a launcher.
pub type Launch = Box<dyn Fn(&Device, &mut Arrays) -> Result<()>>;
/// Gives the outputs that a launcher must write, in the order of [`Arrays::written`]. An output that the kernel computes from
/// another output is expected of the values that were written there, the second argument.
pub type Expected = Box<dyn Fn(&Host, &[Written]) -> Vec<Output>>;

/// A case's arrays on the host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Matrices that are read.
    pub stored: Vec<HostMatrix>,
    /// Matrices that are written: NaN, or what the kernel replaces.
    pub stored_outputs: Vec<HostMatrix>,
    /// What else is read.
    pub inputs: Vec<Vec<f32>>,
    /// Lists of indices.
    pub indices: Vec<Vec<i32>>,
    /// What is read in double precision.
    pub doubles: Vec<Vec<f64>>,
    /// What else is written: NaN, or the values that the kernel adds to or moves.
    pub outputs: Vec<Vec<f32>>,
    /// Lengths of arrays of other types.
    pub others: OtherLengths,
    /// Optimizer steps that are done before.
    pub steps_done: u64,
    /// The parameters whose weights are copied in bf16.
    pub copied: Option<Layout>,
}

/// Numbers of values of other types.
#[derive(Clone, Copy, Debug, Default)]
pub struct OtherLengths {
    /// Values of a mask.
    pub mask: usize,
    /// Rows that were found.
    pub found: usize,
    /// Bounds of a search, which begin unbounded and are moved.
    pub bounds: usize,
    /// Scratch memory of a search.
    pub keys: usize,
    /// Other scratch memory.
    pub scratch: usize,
    /// Integers of 64 bits.
    pub counts: usize,
    /// Sums in double precision.
    pub sums: usize,
}

/// `count` values that a kernel must write.
pub fn unwritten(count: usize) -> Vec<f32> {
    vec![f32::NAN; count]
}

impl Host {
    /// Bytes of one copy on a device.
    pub fn bytes(&self) -> usize {
        let floats = self.inputs.iter().chain(&self.outputs).map(Vec::len).sum::<usize>();
        let OtherLengths { mask, found, bounds, keys, scratch, counts, sums: wide_sums } = self.others;
        let doubles = self.doubles.iter().map(Vec::len).sum::<usize>() + wide_sums;
        let stored = self.stored.iter().chain(&self.stored_outputs).map(HostMatrix::bytes).sum::<usize>();
        stored
            + 4 * (floats + self.indices.iter().map(Vec::len).sum::<usize>() + found + scratch)
            + 8 * (bounds + keys + counts + doubles)
            + mask
    }

    /// All matrices that are read, row by row and in double precision.
    pub fn wide_stored<const S: usize>(&self) -> [Vec<f64>; S] {
        exactly(wide_matrices(&self.stored), "stored matrices")
    }

    /// All matrices that are written, as they are before.
    pub fn wide_stored_outputs<const W: usize>(&self) -> [Vec<f64>; W] {
        exactly(wide_matrices(&self.stored_outputs), "stored outputs")
    }

    /// All inputs in double precision.
    pub fn wide_inputs<const I: usize>(&self) -> [Vec<f64>; I] {
        exactly(wide_all(&self.inputs), "inputs")
    }

    /// All outputs in double precision, as they are before.
    pub fn wide_outputs<const O: usize>(&self) -> [Vec<f64>; O] {
        exactly(wide_all(&self.outputs), "outputs")
    }
}

fn wide_all(arrays: &[Vec<f32>]) -> Vec<Vec<f64>> {
    arrays.iter().map(|values| wide(values)).collect()
}

fn wide_matrices(matrices: &[HostMatrix]) -> Vec<Vec<f64>> {
    matrices.iter().map(HostMatrix::wide).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// One copy of a case's arrays on a device.
pub struct Arrays {
    stored: Vec<DeviceMatrix>,
    stored_outputs: Vec<DeviceMatrix>,
    inputs: Vec<Buffer<f32>>,
    indices: Vec<Buffer<i32>>,
    outputs: Vec<Buffer<f32>>,
    others: Others,
}

/// Arrays of other types, and memory that launchers grow as they need it.
pub struct Others {
    /// What is read in double precision.
    pub doubles: Vec<Buffer<f64>>,
    /// Memory of batch norm's sums.
    pub sums: Sums,
    /// Memory of the parts of a weight's gradient.
    pub parts: WeightParts,
    /// Memory of the sums of chunks of a list.
    pub chunk_sums: ChunkSums,
    /// A written mask.
    pub mask: Buffer<u8>,
    /// Written indices of rows.
    pub found: Buffer<i32>,
    /// Bounds of a search.
    pub bounds: Buffer<u64>,
    /// Memory of a search.
    pub keys: Buffer<u64>,
    /// Other memory.
    pub scratch: Buffer<i32>,
    /// Written integers of 64 bits.
    pub counts: Buffer<i64>,
    /// Written in double precision.
    pub wide_sums: Buffer<f64>,
    /// The optimizer's steps.
    pub steps: Steps,
    /// The weights' copy.
    pub copy: Option<WeightCopy>,
}

/// Optimizer steps that are done when a case of the bench begins.
pub const STEPS_DONE: u64 = 9;

impl Arrays {
    /// A copy of `host` on the device.
    pub fn upload(device: &Device, host: &Host) -> Result<Self> {
        let mut steps = Steps::new(device)?;
        steps.set(device, host.steps_done)?;
        let upload = |matrices: &[HostMatrix]| -> Result<Vec<DeviceMatrix>> {
            matrices.iter().map(|matrix| matrix.upload(device)).collect()
        };
        Ok(Arrays {
            stored: upload(&host.stored)?,
            stored_outputs: upload(&host.stored_outputs)?,
            inputs: host.inputs.iter().map(|values| to_device(device, values)).collect::<Result<_>>()?,
            indices: host.indices.iter().map(|values| to_device(device, values)).collect::<Result<_>>()?,
            outputs: host.outputs.iter().map(|values| to_device(device, values)).collect::<Result<_>>()?,
            others: Others {
                doubles: host
                    .doubles
                    .iter()
                    .map(|values| to_device(device, values))
                    .collect::<Result<_>>()?,
                sums: Sums::new(device)?,
                parts: WeightParts::new(device)?,
                chunk_sums: ChunkSums::new(device)?,
                mask: to_device(device, &vec![u8::MAX; host.others.mask])?,
                found: to_device(device, &vec![i32::MIN; host.others.found])?,
                bounds: to_device(device, &vec![UNBOUNDED; host.others.bounds])?,
                // Before any other key: a key that no kernel wrote would be found first.
                keys: to_device(device, &vec![u64::MAX; host.others.keys])?,
                scratch: device.allocate_unwritten(host.others.scratch)?,
                counts: to_device(device, &vec![i64::MIN; host.others.counts])?,
                wide_sums: to_device(device, &vec![f64::NAN; host.others.sums])?,
                steps,
                copy: host.copied.as_ref().map(|layout| WeightCopy::new(device, layout)).transpose()?,
            },
        })
    }

    /// All inputs, all lists of indices, all outputs, and the rest, of a case without stored matrices.
    pub fn parts<const I: usize, const X: usize, const O: usize>(&mut self) -> Parts<'_, I, X, O> {
        let ([], [], parts) = self.stored_as::<f32>().parts();
        parts
    }

    /// The arrays of a case whose stored matrices are of `T`.
    pub fn stored_as<T: StoredElement>(&mut self) -> StoredArrays<'_, T> {
        StoredArrays { arrays: self, element: PhantomData }
    }

    /// Number of values of the memory for parts of a weight's gradient.
    pub fn weight_parts_len(&self) -> usize {
        self.others.parts.len()
    }

    /// What was written: stored matrices row by row, the outputs, and the weights' copy, mask, rows found, integers and
    /// double precision, if there are any.
    pub fn written(&self, device: &Device) -> Result<Vec<Written>> {
        let mut written = Vec::new();
        for matrix in &self.stored_outputs {
            written.push(Written { values: matrix.download(device)?, unwritten: f64::NAN });
        }
        for output in &self.outputs {
            let values = device.download(output, 0..output.len())?;
            written.push(Written { values: wide(&values), unwritten: f64::NAN });
        }
        let Others { mask, found, counts, wide_sums, copy, .. } = &self.others;
        if let Some(copy) = copy {
            let values = copy.download(device)?.into_iter().map(bf16::to_f64).collect();
            written.push(Written { values, unwritten: 0.0 });
        }
        if !mask.is_empty() {
            let values = device.download(mask, 0..mask.len())?.into_iter().map(f64::from).collect();
            written.push(Written { values, unwritten: f64::from(u8::MAX) });
        }
        if !found.is_empty() {
            let values = device.download(found, 0..found.len())?.into_iter().map(f64::from).collect();
            written.push(Written { values, unwritten: f64::from(i32::MIN) });
        }
        if !counts.is_empty() {
            // Counts lie far below 2^53, where doubles are exact.
            let values = device.download(counts, 0..counts.len())?.into_iter().map(|count| count as f64);
            written.push(Written { values: values.collect(), unwritten: i64::MIN as f64 });
        }
        if !wide_sums.is_empty() {
            let values = device.download(wide_sums, 0..wide_sums.len())?;
            written.push(Written { values, unwritten: f64::NAN });
        }
        Ok(written)
    }
}

/// All inputs, all lists of indices, all outputs, and the rest.
pub type Parts<'a, const I: usize, const X: usize, const O: usize> =
    ([Slice<'a, f32>; I], [Slice<'a, i32>; X], [SliceMut<'a, f32>; O], &'a mut Others);

/// The arrays of a case whose stored matrices are of `T`.
pub struct StoredArrays<'a, T> {
    arrays: &'a mut Arrays,
    element: PhantomData<T>,
}

impl<'a, T: StoredElement> StoredArrays<'a, T> {
    /// All matrices that are read, all that are written, and the other arrays.
    #[allow(clippy::type_complexity)] // taken apart where it is given
    pub fn parts<const S: usize, const W: usize, const I: usize, const X: usize, const O: usize>(
        self,
    ) -> ([Slice<'a, T>; S], [SliceMut<'a, T>; W], Parts<'a, I, X, O>) {
        let Arrays { stored, stored_outputs, inputs, indices, outputs, others } = self.arrays;
        (
            exactly(slices(stored.iter().map(DeviceMatrix::buffer)), "stored matrices"),
            exactly(slices_mut(stored_outputs.iter_mut().map(DeviceMatrix::buffer_mut)), "stored outputs"),
            (
                exactly(slices(inputs.iter()), "inputs"),
                exactly(slices(indices.iter()), "indices"),
                exactly(slices_mut(outputs.iter_mut()), "outputs"),
                others,
            ),
        )
    }
}

/// The `N` values of `values`. Closures for each number of arrays would be a twentieth of the crate's code.
fn exactly<T, const N: usize>(values: Vec<T>, what: &str) -> [T; N] {
    let count = values.len();
    values.try_into().unwrap_or_else(|_| panic!("{what}: the case has {count}, its launch takes {N}"))
}

/// The whole of each buffer.
fn slices<'a, T: 'a>(buffers: impl IntoIterator<Item = &'a Buffer<T>>) -> Vec<Slice<'a, T>> {
    buffers.into_iter().map(all).collect()
}

/// The whole of each buffer, to write.
fn slices_mut<'a, T: 'a>(buffers: impl IntoIterator<Item = &'a mut Buffer<T>>) -> Vec<SliceMut<'a, T>> {
    buffers.into_iter().map(all_mut).collect()
}

/// The whole of a buffer.
pub fn all<T>(buffer: &Buffer<T>) -> Slice<'_, T> {
    buffer.slice(0..buffer.len())
}

/// The whole of a buffer, to write.
pub fn all_mut<T>(buffer: &mut Buffer<T>) -> SliceMut<'_, T> {
    let len = buffer.len();
    buffer.slice_mut(0..len)
}
