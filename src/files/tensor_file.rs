//! Reads and writes safetensors files.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{Error, Result};
use crate::network::tensors::Tensor;

/// A safetensors file in memory: its tensors as bytes, and its metadata.
pub struct TensorFile {
    path: std::path::PathBuf,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Reads and checks `path`.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let bytes = std::fs::read(&path).map_err(Error::file("read", &path))?;
        let broken = |error| {
            Error::invalid(
                &path,
                "header",
                format!("not a readable safetensors file ({error})"),
                "the file is damaged or has another format; write it again",
            )
        };
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        SafeTensors::deserialize(&bytes).map_err(broken)?;
        Ok(TensorFile { path, bytes, metadata })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Entry of the metadata, as JSON of type `T`.
    pub fn metadata<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        let place = format!("metadata \"{key}\"");
        let Some(text) = self.metadata.get(key) else {
            return Err(self.invalid(
                place,
                "is missing",
                "write the file with the program that this command expects",
            ));
        };
        serde_json::from_str(text).map_err(|error| {
            self.invalid(place, format!("is not as expected ({error})"), "write the file again")
        })
    }

    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.tensors().names().into_iter().map(str::to_string).collect()
    }

    /// Tensor in single precision, or `None` if there is none with this name.
    pub fn find(&self, name: &str) -> Result<Option<Tensor>> {
        let tensors = self.tensors();
        let Ok(view) = tensors.tensor(name) else { return Ok(None) };
        if view.dtype() != Dtype::F32 {
            return Err(self.wrong_type(name, &view, "F32"));
        }
        let values = bytemuck::allocation::pod_collect_to_vec(view.data());
        Ok(Some(Tensor { shape: view.shape().to_vec(), values }))
    }

    /// Tensor in single precision.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.find(name)?.ok_or_else(|| self.missing(name))
    }

    /// Tensor of the given shape.
    pub fn tensor_of_shape(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.tensor(name)?;
        if tensor.shape != shape {
            return Err(self.invalid(
                format!("tensor {name}"),
                format!("has the shape {:?} where the configuration needs {shape:?}", tensor.shape),
                "use a file that was written for this configuration and data",
            ));
        }
        Ok(tensor)
    }

    /// Vector of indices, stored as 32- or 64-bit integers, each from 0 to `below - 1`.
    pub fn indices(&self, name: &str, below: usize) -> Result<Vec<u32>> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).map_err(|_| self.missing(name))?;
        let values: Vec<i64> = match view.dtype() {
            Dtype::I32 => bytemuck::allocation::pod_collect_to_vec::<u8, i32>(view.data())
                .into_iter()
                .map(i64::from)
                .collect(),
            Dtype::I64 => bytemuck::allocation::pod_collect_to_vec(view.data()),
            _ => return Err(self.wrong_type(name, &view, "I32 or I64")),
        };
        if let Some(at) = values.iter().position(|&value| value < 0 || value >= below as i64) {
            return Err(self.invalid(
                format!("tensor {name}[{at}]"),
                format!("is {}, outside 0..{below}", values[at]),
                "correct the indices",
            ));
        }
        Ok(values.into_iter().map(|value| value as u32).collect())
    }

    /// Creates an [`Error::Invalid`] about this file.
    pub fn invalid(
        &self,
        place: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Error {
        Error::invalid(&self.path, place, problem, remedy)
    }

    fn missing(&self, name: &str) -> Error {
        self.invalid(
            format!("tensor {name}"),
            "is missing",
            "use a file that was written for this configuration",
        )
    }

    fn wrong_type(&self, name: &str, view: &TensorView<'_>, expected: &str) -> Error {
        let problem = format!("has the type {:?} where {expected} is expected", view.dtype());
        self.invalid(format!("tensor {name}"), problem, "convert it")
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("checked when it was read")
    }
}

/// Values of a tensor to be written.
pub enum TensorData {
    /// Single precision.
    F32(Vec<f32>),
    /// Indices.
    I32(Vec<i32>),
    /// Bytes.
    U8(Vec<u8>),
}

/// Serialises tensors `(name, shape, values)` and metadata as a safetensors file.
pub fn to_safetensors(
    tensors: &[(String, Vec<usize>, TensorData)],
    metadata: HashMap<String, String>,
) -> Vec<u8> {
    let views = tensors.iter().map(|(name, shape, data)| {
        let (dtype, bytes) = match data {
            TensorData::F32(values) => (Dtype::F32, bytemuck::cast_slice(values)),
            TensorData::I32(values) => (Dtype::I32, bytemuck::cast_slice(values)),
            TensorData::U8(values) => (Dtype::U8, values.as_slice()),
        };
        (name, TensorView::new(dtype, shape.clone(), bytes).expect("shape and values agree"))
    });
    safetensors::serialize(views, Some(metadata)).expect("tensors that were just viewed")
}
