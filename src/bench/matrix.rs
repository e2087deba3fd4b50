//! Matrices of cases in the layout that kernels exchange ([`StoredElement`]): single precision, or bf16 with padded
//! rows.

use std::any::Any;

use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Element};
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::error::Result;

/// A matrix on the host.
#[derive(Clone, Debug)]
pub struct HostMatrix {
    /// Values row by row, rounded to the element type, so that the reference reads what the kernel reads.
    values: Vec<f32>,
    columns: usize,
    /// Number of spare rows, filled with NaN, after the last row.
    spare: usize,
    bytes: usize,
    upload: fn(&Device, &HostMatrix) -> Result<DeviceMatrix>,
}

impl HostMatrix {
    /// Matrix with rows of `columns` values, to be stored as `T`.
    pub fn new<T: StoredElement>(values: Vec<f32>, columns: usize) -> Self {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        HostMatrix {
            values: values.into_iter().map(|value| T::narrow(value).widen()).collect(),
            columns,
            spare: 0,
            bytes: rows * T::stride(columns) * size_of::<T>(),
            upload: DeviceMatrix::upload::<T>,
        }
    }

    /// The same matrix with `spare` more rows of NaN.
    pub fn with_room(self, spare: usize) -> Self {
        HostMatrix { spare, ..self }
    }

    /// Matrix that a kernel must write, filled with NaN.
    pub fn unwritten<T: StoredElement>(rows: usize, columns: usize) -> Self {
        HostMatrix::new::<T>(vec![f32::NAN; rows * columns], columns)
    }

    /// Values row by row, in double precision.
    pub fn wide(&self) -> Vec<f64> {
        self.values.iter().map(|&value| f64::from(value)).collect()
    }

    /// Size in bytes of one copy on a device.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies the matrix to a device.
    pub fn upload(&self, device: &Device) -> Result<DeviceMatrix> {
        (self.upload)(device, self)
    }
}

/// A matrix on a device.
pub struct DeviceMatrix {
    /// `Buffer` of the element type.
    buffer: Box<dyn Any>,
    columns: usize,
    download: fn(&Device, &DeviceMatrix) -> Result<Vec<f64>>,
}

impl DeviceMatrix {
    /// Copies a matrix to the device. Spare rows and row padding hold NaN: no kernel may use either.
    fn upload<T: StoredElement>(device: &Device, of: &HostMatrix) -> Result<Self> {
        let (columns, stride) = (of.columns, T::stride(of.columns));
        let rows = of.values.len().checked_div(columns).unwrap_or(0);
        let mut stored = vec![T::narrow(f32::NAN); (rows + of.spare) * stride];
        let places = stored.chunks_exact_mut(stride.max(1));
        for (place, row) in places.zip(of.values.chunks_exact(columns.max(1))) {
            place.iter_mut().zip(row).for_each(|(place, &value)| *place = T::narrow(value));
        }
        Ok(DeviceMatrix {
            buffer: Box::new(to_device(device, &stored)?),
            columns,
            download: |device, matrix| {
                let buffer = matrix.buffer::<T>();
                let stored = device.download(buffer, 0..buffer.len())?;
                let rows = || stored.chunks_exact(T::stride(matrix.columns).max(1));
                let values = rows().flat_map(|row| &row[..matrix.columns]);
                let padding = rows().flat_map(|row| &row[matrix.columns..]);
                Ok(values.chain(padding).map(|value| f64::from(value.widen())).collect())
            },
        })
    }

    /// Values row by row, spare rows included, followed by the padding of all rows.
    pub fn download(&self, device: &Device) -> Result<Vec<f64>> {
        (self.download)(device, self)
    }

    /// Memory of the matrix.
    #[track_caller]
    pub fn buffer<T: StoredElement>(&self) -> &Buffer<T> {
        self.buffer.downcast_ref().expect("a matrix of the type that the case asks for")
    }

    /// Memory of the matrix, writable.
    #[track_caller]
    pub fn buffer_mut<T: StoredElement>(&mut self) -> &mut Buffer<T> {
        self.buffer.downcast_mut().expect("a matrix of the type that the case asks for")
    }
}

/// Copies `values` to the device.
pub fn to_device<T: Element>(device: &Device, values: &[T]) -> Result<Buffer<T>> {
    let mut buffer = device.allocate_unwritten(values.len())?;
    device.upload(values, buffer.slice_mut(0..values.len()))?;
    Ok(buffer)
}
