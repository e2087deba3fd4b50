//! A case: one launcher at one shape, with its cost, its inputs, its launch and its expected outputs.

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
use crate::bench::chain::Chain;
use crate::bench::check::{Output, Worst, Written, worst};
use crate::bench::matrix::{DeviceMatrix, HostMatrix, to_device};
use crate::error::Result;
use crate::network::parameters::Layout;

/// Minimum cost of a launch, from its formula: each input is read once, and each output is written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read and written.
    pub bytes: u64,
    /// Floating-point operations; a multiply-add is two.
    pub flops: u64,
}

impl Cost {
    /// Cost of `values` values of four bytes each, and of `flops` operations.
    pub fn of(values: usize, flops: usize) -> Self {
        Cost { bytes: 4 * values as u64, flops: flops as u64 }
    }

    /// Cost of `stored` matrix values of type `T` (row padding is not counted), of `values` other values of four bytes
    /// each, and of `flops` operations.
    pub fn stored<T: StoredElement>(stored: usize, values: usize, flops: usize) -> Self {
        let of_others = Cost::of(values, flops);
        Cost { bytes: (size_of::<T>() * stored) as u64 + of_others.bytes, ..of_others }
    }
}

/// Rows that a launcher's grid covers. In training it covers those of the largest batch, and surplus blocks end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grows {
    /// The same rows in every batch.
    Nothing,
    /// Nodes of the batch.
    Nodes,
    /// Edges of the batch.
    Edges,
    /// Object types in use.
    ObjectTypes,
}

/// One launcher at one shape.
pub struct Case {
    /// Name of the launcher.
    pub kernel: &'static str,
    /// Sizes, and their meaning in the model.
    pub shape: String,
    /// Minimum cost.
    pub cost: Cost,
    /// Longest serial chain.
    pub chain: Chain,
    /// What the grid covers.
    pub grows: Grows,
    /// Number format that sets the peak rate: that of a product's operands, or single precision for all else.
    pub format: Format,
    /// Draws the values, with room for this number of spare rows. The arrays are large, so they are only drawn when the
    /// case runs.
    pub prepare: Box<dyn Fn(usize) -> Prepared>,
}

impl Case {
    /// The same case with a grid that covers these rows.
    pub fn growing_with(self, grows: Grows) -> Self {
        Case { grows, ..self }
    }
}

/// Values and functions of a case.
pub struct Prepared {
    /// Arrays that the launcher reads and writes.
    pub host: Host,
    /// Calls the launcher.
    pub launch: Launch,
    /// Computes the expected outputs with the reference in double precision, and their limits.
    pub expected: Expected,
}

impl Prepared {
    /// Runs the case once, on outputs filled with NaN, and compares them with the expected outputs.
    pub fn check(&self, device: &Device) -> Result<Option<Worst>> {
        let mut arrays = Arrays::upload(device, &self.host)?;
        (self.launch)(device, &mut arrays)?;
        let written = arrays.written(device)?;
        Ok(worst(&(self.expected)(&self.host, &written), &written))
    }
}

/// Calls a launcher.
pub type Launch = Box<dyn Fn(&Device, &mut Arrays) -> Result<()>>;
/// Computes the expected outputs, in the order of [`Arrays::written`]. The second argument holds the outputs that the
/// kernel wrote: where it computes one output from another, the expectation starts from the written one.
pub type Expected = Box<dyn Fn(&Host, &[Written]) -> Vec<Output>>;

/// Arrays of a case on the host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Matrices that are read.
    pub stored: Vec<HostMatrix>,
    /// Matrices that are written: filled with NaN, or with values that the kernel replaces.
    pub stored_outputs: Vec<HostMatrix>,
    /// Other arrays that are read.
    pub inputs: Vec<Vec<f32>>,
    /// Lists of indices.
    pub indices: Vec<Vec<i32>>,
    /// Arrays that are read, in double precision.
    pub doubles: Vec<Vec<f64>>,
    /// Other arrays that are written: filled with NaN, or with values that the kernel updates.
    pub outputs: Vec<Vec<f32>>,
    /// Lengths of arrays of other types.
    pub others: OtherLengths,
    /// Number of optimizer steps before this one.
    pub steps_done: u64,
    /// Layout of the parameters whose weights are copied in bf16.
    pub copied: Option<Layout>,
    /// Layout of the parameters, which says which of them decay.
    pub decaying: Option<Layout>,
}

/// Lengths of arrays of other types.
#[derive(Clone, Copy, Debug, Default)]
pub struct OtherLengths {
    /// Length of a mask.
    pub mask: usize,
    /// Number of rows found by a search.
    pub found: usize,
    /// Number of bounds of a search; they begin unbounded, and the kernel updates them.
    pub bounds: usize,
    /// Length of a search's scratch memory.
    pub keys: usize,
    /// Length of other scratch memory.
    pub scratch: usize,
    /// Number of 64-bit integers.
    pub counts: usize,
    /// Number of sums in double precision.
    pub sums: usize,
}

/// Array of `count` values that a kernel must write, filled with NaN.
pub fn unwritten(count: usize) -> Vec<f32> {
    vec![f32::NAN; count]
}

impl Host {
    /// Size in bytes of one copy on a device.
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

    /// Matrices that are read, row by row in double precision.
    pub fn wide_stored<const S: usize>(&self) -> [Vec<f64>; S] {
        exactly(wide_matrices(&self.stored), "stored matrices")
    }

    /// Matrices that are written, with their values before the launch.
    pub fn wide_stored_outputs<const W: usize>(&self) -> [Vec<f64>; W] {
        exactly(wide_matrices(&self.stored_outputs), "stored outputs")
    }

    /// All inputs in double precision.
    pub fn wide_inputs<const I: usize>(&self) -> [Vec<f64>; I] {
        exactly(wide_all(&self.inputs), "inputs")
    }

    /// Outputs in double precision, with their values before the launch.
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

/// Arrays of other types, and memory that launchers grow on demand.
pub struct Others {
    /// Arrays that are read, in double precision.
    pub doubles: Vec<Buffer<f64>>,
    /// Scratch memory for batch norm's sums.
    pub sums: Sums,
    /// Scratch memory for the parts of a weight gradient.
    pub parts: WeightParts,
    /// Memory of the sums of chunks of a list.
    pub chunk_sums: ChunkSums,
    /// Mask that is written.
    pub mask: Buffer<u8>,
    /// Indices of rows found; written.
    pub found: Buffer<i32>,
    /// Bounds of a search.
    pub bounds: Buffer<u64>,
    /// Scratch memory of a search.
    pub keys: Buffer<u64>,
    /// Other scratch memory.
    pub scratch: Buffer<i32>,
    /// 64-bit integers that are written.
    pub counts: Buffer<i64>,
    /// Sums in double precision that are written.
    pub wide_sums: Buffer<f64>,
    /// Step counter of the optimizer.
    pub steps: Steps,
    /// Copy of the weights in bf16.
    pub copy: Option<WeightCopy>,
}

/// Number of optimizer steps before a case of the bench.
pub const STEPS_DONE: u64 = 9;

impl Arrays {
    /// A copy of `host` on the device.
    pub fn upload(device: &Device, host: &Host) -> Result<Self> {
        let mut steps = match &host.decaying {
            Some(layout) => Steps::new(device, layout)?,
            None => Steps::of_count(device, host.inputs.first().map_or(0, Vec::len))?,
        };
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
                // First in the order of the search, so that a search would find a key that no kernel wrote.
                keys: to_device(device, &vec![u64::MAX; host.others.keys])?,
                scratch: device.allocate_unwritten(host.others.scratch)?,
                counts: to_device(device, &vec![i64::MIN; host.others.counts])?,
                wide_sums: to_device(device, &vec![f64::NAN; host.others.sums])?,
                steps,
                copy: host.copied.as_ref().map(|layout| WeightCopy::new(device, layout)).transpose()?,
            },
        })
    }

    /// Inputs, lists of indices, outputs and other arrays of a case without stored matrices.
    pub fn parts<const I: usize, const X: usize, const O: usize>(&mut self) -> Parts<'_, I, X, O> {
        let ([], [], parts) = self.stored_as::<f32>().parts();
        parts
    }

    /// Arrays of a case whose stored matrices have elements of type `T`.
    pub fn stored_as<T: StoredElement>(&mut self) -> StoredArrays<'_, T> {
        StoredArrays { arrays: self, element: PhantomData }
    }

    /// Length of the scratch memory for parts of a weight gradient.
    pub fn weight_parts_len(&self) -> usize {
        self.others.parts.len()
    }

    /// Downloads everything that was written: the matrices row by row, the outputs, and other arrays that the case has.
    /// Those are the copy of the weights, the mask, the rows found, the 64-bit integers and the sums.
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
            // Counts are far below 2^53, so a double holds them exactly.
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

/// Inputs, lists of indices, outputs and other arrays.
pub type Parts<'a, const I: usize, const X: usize, const O: usize> =
    ([Slice<'a, f32>; I], [Slice<'a, i32>; X], [SliceMut<'a, f32>; O], &'a mut Others);

/// Arrays of a case whose stored matrices have elements of type `T`.
pub struct StoredArrays<'a, T> {
    arrays: &'a mut Arrays,
    element: PhantomData<T>,
}

impl<'a, T: StoredElement> StoredArrays<'a, T> {
    /// Matrices that are read, matrices that are written, and the other arrays.
    #[allow(clippy::type_complexity)] // every caller destructures it at once
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

/// A whole buffer, readable.
pub fn all<T>(buffer: &Buffer<T>) -> Slice<'_, T> {
    buffer.slice(0..buffer.len())
}

/// A whole buffer, writable.
pub fn all_mut<T>(buffer: &mut Buffer<T>) -> SliceMut<'_, T> {
    let len = buffer.len();
    buffer.slice_mut(0..len)
}
