//! Matrices of cases as they lie between kernels ([`StoredElement`]): in single precision, or in bf16 with padded rows.

use std::any::Any;

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Element};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;

/// A matrix on the host.
#[derive(Clone, Debug)]
pub struct HostMatrix {
    /// Row by row, rounded to the element type, so that the reference reads what the kernel reads.
    values: Vec<f32>,
    columns: usize,
    bytes: usize,
    upload: fn(&Device, &HostMatrix) -> Result<DeviceMatrix>,
}

impl HostMatrix {
    /// Rows of `columns` values, to be stored as `T`.
    pub fn new<T: StoredElement>(values: Vec<f32>, columns: usize) -> Self {
        let rows = values.len() / columns;
        HostMatrix {
            values: values.into_iter().map(|value| T::narrow(value).widen()).collect(),
            columns,
            bytes: rows * T::stride(columns) * size_of::<T>(),
            upload: DeviceMatrix::upload::<T>,
        }
    }

    /// One that a kernel must write.
    pub fn unwritten<T: StoredElement>(rows: usize, columns: usize) -> Self {
        HostMatrix::new::<T>(vec![f32::NAN; rows * columns], columns)
    }

    /// Row by row, in double precision.
    pub fn wide(&self) -> Vec<f64> {
        self.values.iter().map(|&value| f64::from(value)).collect()
    }

    /// Of a copy on a device.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A copy on a device.
    pub fn upload(&self, device: &Device) -> Result<DeviceMatrix> {
        (self.upload)(device, self)
    }
}

/// A matrix on a device.
pub struct DeviceMatrix {
    /// A `Buffer` of the element type.
    buffer: Box<dyn Any>,
    columns: usize,
    download: fn(&Device, &DeviceMatrix) -> Result<Vec<f32>>,
}

impl DeviceMatrix {
    fn upload<T: StoredElement>(device: &Device, of: &HostMatrix) -> Result<Self> {
        Ok(DeviceMatrix {
            buffer: Box::new(to_device(device, &T::padded(&of.values, of.columns))?),
            columns: of.columns,
            download: |device, matrix| {
                let buffer = matrix.buffer::<T>();
                Ok(T::dense(&device.download(buffer, 0..buffer.len())?, matrix.columns))
            },
        })
    }

    /// The values, row by row.
    pub fn download(&self, device: &Device) -> Result<Vec<f32>> {
        (self.download)(device, self)
    }

    /// Its memory.
    #[track_caller]
    pub fn buffer<T: StoredElement>(&self) -> &Buffer<T> {
        self.buffer.downcast_ref().expect("a matrix of the type that the case asks for")
    }

    /// Its memory, to write.
    #[track_caller]
    pub fn buffer_mut<T: StoredElement>(&mut self) -> &mut Buffer<T> {
        self.buffer.downcast_mut().expect("a matrix of the type that the case asks for")
    }
}

/// A copy of `values` on the device.
pub(super) fn to_device<T: Element>(device: &Device, values: &[T]) -> Result<Buffer<T>> {
    let mut buffer = device.allocate_unwritten(values.len())?;
    device.upload(values, buffer.slice_mut(0..values.len()))?;
    Ok(buffer)
}
