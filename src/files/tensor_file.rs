//! Reads and writes safetensors files, with or without a checksum.
//!
//! A sealed file has an XXH3 checksum of 128 bits as the first entry of its metadata. It is computed over the whole file with
//! zeros in place of the checksum's own digits, so it covers every byte. Other readers of the format see an entry of the
//! metadata.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use xxhash_rust::xxh3::Xxh3Default;

use crate::error::{Error, Result};
use crate::files::recognise::{SAFETENSORS, not_expected, recognise};
use crate::files::text::open_file;
use crate::network::tensors::Tensor;

/// Key of the checksum in the metadata. It sorts before the keys of a checkpoint.
const CHECKSUM: &str = "checksum";
/// First bytes of a sealed file's header. The digits of the checksum follow.
const SEALED: &str = r#"{"__metadata__":{"checksum":""#;
/// Number of bytes before the header: its length.
const LENGTH_BYTES: usize = 8;
/// The digits while the checksum is computed.
const NO_DIGITS: &str = "00000000000000000000000000000000";

/// A safetensors file in memory: its tensors as bytes, and its metadata.
pub struct TensorFile {
    path: std::path::PathBuf,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

/// The part of a header that is read without the tensors.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__", default)]
    metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Reads and checks `path`.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let mut bytes = Vec::new();
        open_regular_file(&path)?.read_to_end(&mut bytes).map_err(Error::file("read", &path))?;
        let broken = |error| unreadable(&path, &bytes, &error);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let metadata = metadata.metadata().clone().unwrap_or_default();
        SafeTensors::deserialize(&bytes).map_err(broken)?;
        Ok(TensorFile { path, bytes, metadata })
    }

    /// Like [`TensorFile::read`], for a file that [`to_sealed_safetensors`] made: also checks its checksum.
    pub fn read_sealed(path: impl AsRef<Path>) -> Result<Self> {
        let file = TensorFile::read(path)?;
        let Some(digits) = sealed_digits(&file.bytes) else {
            return Err(file.invalid(
                "header",
                "has no checksum",
                "it was written by an older version or another program; train the run again",
            ));
        };
        if digits != checksum(&file.bytes).as_bytes() {
            return Err(file.invalid(
                "checksum",
                "differs from that of the content",
                "the file is damaged; restore it from a copy, or train the run again",
            ));
        }
        Ok(file)
    }

    /// Entry of the metadata of the file at `path`, whose tensors are neither read nor checked.
    pub fn read_metadata<T: DeserializeOwned>(path: &Path, key: &str) -> Result<T> {
        let mut file = open_regular_file(path)?;
        let mut length = [0; LENGTH_BYTES];
        let broken = |bytes: &[u8], error| unreadable(path, bytes, &error);
        file.read_exact(&mut length).map_err(|_| broken(&[], SafeTensorError::HeaderTooSmall))?;
        let mut header = Vec::new();
        file.take(u64::from_le_bytes(length)).read_to_end(&mut header).map_err(Error::file("read", path))?;
        let Header { metadata } = serde_json::from_slice(&header)
            .map_err(|error| broken(&length, SafeTensorError::InvalidHeaderDeserialization(error)))?;
        TensorFile { path: path.to_path_buf(), bytes: Vec::new(), metadata }.metadata(key)
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Entry of the metadata, as JSON of type `T`.
    pub fn metadata<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
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

/// Opens a file that is read as a whole, and so must not be a device without end.
fn open_regular_file(path: &Path) -> Result<File> {
    let file = open_file(path)?;
    match file.metadata().map_err(Error::file("read", path))?.is_file() {
        true => Ok(file),
        false => Err(Error::invalid(path, "path", "not a file", "give a safetensors file")),
    }
}

/// Error about a file that begins with `bytes`.
fn unreadable(path: &Path, bytes: &[u8], error: &SafeTensorError) -> Error {
    if bytes.len() < LENGTH_BYTES || recognise(bytes).is_some_and(|format| format != SAFETENSORS) {
        let remedy = "give the file that the command expects, or write it again";
        return not_expected(path, bytes, "a safetensors file", remedy);
    }
    Error::invalid(
        path,
        "header",
        format!("not a readable safetensors file ({error})"),
        "the file is damaged or has another format; write it again",
    )
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

impl TensorData {
    fn bytes(&self) -> &[u8] {
        match self {
            TensorData::F32(values) => bytemuck::cast_slice(values),
            TensorData::I32(values) => bytemuck::cast_slice(values),
            TensorData::U8(values) => values,
        }
    }

    fn value_bytes(&self) -> usize {
        match self {
            TensorData::F32(_) | TensorData::I32(_) => 4,
            TensorData::U8(_) => 1,
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            TensorData::F32(_) => "F32",
            TensorData::I32(_) => "I32",
            TensorData::U8(_) => "U8",
        }
    }
}

/// Serialises tensors `(name, shape, values)` and metadata as a safetensors file. The same content gives the same bytes, in any
/// order.
pub fn to_safetensors(
    tensors: &[(String, Vec<usize>, TensorData)],
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Vec<u8> {
    // The format demands that values follow each other without gaps. Wider types first keeps them aligned.
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|(name, _, data)| (Reverse(data.value_bytes()), name));
    let metadata: BTreeMap<String, String> = metadata.into_iter().collect();
    let mut header = serde_json::Map::from_iter([("__metadata__".to_string(), json!(metadata))]);
    let mut end = 0;
    for (name, shape, data) in &sorted {
        let (start, bytes) = (end, data.bytes().len());
        assert_eq!(bytes, shape.iter().product::<usize>() * data.value_bytes(), "{name}: shape and values");
        end += bytes;
        let entry = json!({ "dtype": data.type_name(), "shape": shape, "data_offsets": [start, end] });
        let before = header.insert(name.clone(), entry);
        assert!(before.is_none(), "{name} is given twice");
    }
    let mut header = serde_json::to_vec(&header).expect("names and numbers");
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    sorted.iter().for_each(|(_, _, data)| bytes.extend(data.bytes()));
    bytes
}

/// Like [`to_safetensors`], with a checksum of the whole file.
pub fn to_sealed_safetensors(
    tensors: &[(String, Vec<usize>, TensorData)],
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Vec<u8> {
    let unsealed = (CHECKSUM.to_string(), NO_DIGITS.to_string());
    let mut bytes = to_safetensors(tensors, metadata.into_iter().chain([unsealed]));
    assert!(sealed_digits(&bytes).is_some(), "the checksum is the first entry of the metadata");
    let digits = checksum(&bytes);
    bytes[LENGTH_BYTES + SEALED.len()..][..NO_DIGITS.len()].copy_from_slice(digits.as_bytes());
    bytes
}

/// Digits of the checksum that a file contains; `None` if it is not sealed.
fn sealed_digits(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(LENGTH_BYTES..)?.strip_prefix(SEALED.as_bytes())?.get(..NO_DIGITS.len())
}

/// Checksum of a sealed file, as digits.
fn checksum(bytes: &[u8]) -> String {
    let (before, rest) = bytes.split_at(LENGTH_BYTES + SEALED.len());
    let mut hash = Xxh3Default::new();
    [before, NO_DIGITS.as_bytes(), &rest[NO_DIGITS.len()..]].iter().for_each(|part| hash.update(part));
    format!("{:032x}", hash.digest128())
}
