//! Reads and writes embeddings as NumPy `.npy` files: two dimensions, one row per image.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use half::f16;
use npyz::{AutoSerialize, Deserialize, NpyFile, NpyHeader, Order, WriterBuilder};
use rayon::prelude::*;

use crate::files::atomic_file::write_atomically;
use crate::files::mapped_file::MappedFile;
use crate::files::recognise::not_expected;
use crate::files::text::open_file;
use crate::terminal::excerpt;
use crate::{Error, Result};

/// First bytes of a `.npy` file.
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

/// Largest header in bytes; numpy rejects longer ones by default.
const MOST_HEADER_BYTES: usize = 10_000;

/// Largest number of brackets in a header, enough for any array of plain numbers.
const MOST_BRACKETS: usize = 4;

/// A matrix read from a file; every value is finite.
#[derive(Clone, Debug, PartialEq)]
pub struct NpyMatrix {
    /// `[rows, width]` values, row-major.
    pub values: Vec<f32>,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub width: usize,
}

/// Values in their stored precision.
#[derive(Clone, Copy, Debug)]
pub enum StoredValues<'a> {
    /// Single precision.
    Single(&'a [f32]),
    /// Half precision.
    Half(&'a [f16]),
}

impl StoredValues<'_> {
    /// Number of values in all rows.
    pub fn len(&self) -> usize {
        match self {
            StoredValues::Single(values) => values.len(),
            StoredValues::Half(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Finds the first value that is not finite, with its position. One pass on all threads.
    pub fn find_not_finite(&self) -> Option<(usize, f32)> {
        const VALUES_PER_TASK: usize = 1 << 18;
        fn find<T: Copy + Sync>(values: &[T], finite: impl Fn(T) -> bool + Sync) -> Option<usize> {
            let task = |(task, values): (usize, &[T])| {
                // Branch-free, so that it vectorises; the position is only searched for if there is such a
                // value.
                let all = values.iter().fold(true, |all, &value| all & finite(value));
                let start = task * VALUES_PER_TASK;
                (!all).then(|| start + values.iter().position(|&value| !finite(value)).unwrap_or(0))
            };
            values.par_chunks(VALUES_PER_TASK).enumerate().find_map_first(task)
        }
        match self {
            StoredValues::Single(values) => find(values, f32::is_finite).map(|at| (at, values[at])),
            StoredValues::Half(values) => find(values, f16::is_finite).map(|at| (at, values[at].to_f32())),
        }
    }
}

/// A two-dimensional array of numbers; its header was read and agrees with the file's length.
struct MatrixFile {
    header: NpyHeader,
    /// Positioned at the first value.
    reader: BufReader<File>,
    rows: usize,
    width: usize,
    bytes_per_value: u64,
}

fn open_matrix(path: &Path) -> Result<MatrixFile> {
    let file = open_file(path)?;
    let file_bytes = file.metadata().map_err(Error::file("read", path))?.len();
    let mut reader = BufReader::new(file);
    let first = reader.fill_buf().map_err(Error::file("read", path))?;
    if !first.starts_with(MAGIC) {
        return Err(not_expected(path, first, "a .npy file", "give a .npy file written by numpy.save"));
    }
    let header = read_header(&mut reader).map_err(|error| {
        Error::invalid(path, "header", error.to_string(), "give a .npy file written by numpy.save")
    })?;

    let &[rows, width] = header.shape() else {
        return Err(Error::invalid(
            path,
            "header",
            format!("an array of {} dimensions, expected two", header.shape().len()),
            "save an array of one row per image, such as x.reshape(len(x), -1)",
        ));
    };
    if rows == 0 || width == 0 {
        return Err(Error::invalid(
            path,
            "header",
            format!("an array of shape {rows} x {width} is empty"),
            "save one row per image",
        ));
    }
    let dtype = header.dtype().descr();
    // The descriptor ends in the kind and size of a value, as in '<f4'.
    let bytes_per_value = match dtype.trim_matches('\'').trim_start_matches(['<', '>', '=', '|']) {
        "f2" => 2,
        "f4" => 4,
        "f8" => 8,
        _ => {
            return Err(Error::invalid(
                path,
                "header",
                format!("values of type {}", excerpt(&dtype)),
                "save half, single or double precision, such as x.astype('float32')",
            ));
        }
    };
    let wanted = rows.checked_mul(width).and_then(|values| values.checked_mul(bytes_per_value));
    let data_bytes = file_bytes.saturating_sub(reader.stream_position().map_err(Error::file("read", path))?);
    if wanted != Some(data_bytes) {
        return Err(Error::invalid(
            path,
            "data",
            format!(
                "{rows} x {width} values of {bytes_per_value} bytes announced, the file holds {data_bytes} bytes"
            ),
            "the file is cut short or was not written by numpy.save; write it again",
        ));
    }
    Ok(MatrixFile { header, reader, rows: rows as usize, width: width as usize, bytes_per_value })
}

/// A file whose layout equals that in memory: half or single precision, row-major.
pub(crate) struct MappedMatrix {
    map: MappedFile,
    /// Offset of the first value, in bytes.
    offset: usize,
    rows: usize,
    width: usize,
    half: bool,
}

/// Maps a file that [`read_npy`] can read. Returns `None` if its values must be converted. Does not check the
/// values.
pub(crate) fn map_npy(path: &Path) -> Result<Option<MappedMatrix>> {
    let MatrixFile { header, mut reader, rows, width, bytes_per_value } = open_matrix(path)?;
    let offset = reader.stream_position().map_err(Error::file("read", path))? as usize;
    let dtype = header.dtype().descr();
    let native = if cfg!(target_endian = "little") { '<' } else { '>' };
    let plain = header.order() == Order::C
        && dtype.trim_matches('\'').starts_with(native)
        && offset.is_multiple_of(size_of::<f32>());
    if !plain || bytes_per_value > 4 {
        return Ok(None);
    }
    let map = MappedFile::of_file(reader.into_inner(), path)?;
    Ok(Some(MappedMatrix { map, offset, rows, width, half: bytes_per_value == 2 }))
}

impl MappedMatrix {
    /// Values `[rows, width]`.
    pub(crate) fn values(&self) -> StoredValues<'_> {
        let bytes_per_value = if self.half { 2 } else { 4 };
        let bytes = &self.map[self.offset..][..self.rows * self.width * bytes_per_value];
        match self.half {
            false => StoredValues::Single(bytemuck::cast_slice(bytes)),
            true => StoredValues::Half(bytemuck::cast_slice(bytes)),
        }
    }

    /// Number of columns.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// An error if another process has written to the file since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        self.map.check_unchanged()
    }
}

/// Reads a two-dimensional array of half, single or double precision, in row-major or column-major order.
pub fn read_npy(path: &Path) -> Result<NpyMatrix> {
    let MatrixFile { header, reader, rows, width, bytes_per_value } = open_matrix(path)?;
    let order = header.order();
    let npy = NpyFile::with_header(header, reader);
    let stored = match bytes_per_value {
        2 => read_values(npy, path, f16::to_f32)?,
        4 => read_values(npy, path, |value: f32| value)?,
        _ => {
            let doubles: Vec<f64> = read_values(npy, path, |value: f64| value)?;
            check_not_lost(path, &doubles, (rows, width), order)?;
            doubles.into_iter().map(|value| value as f32).collect()
        }
    };
    let values = match order {
        Order::C => stored,
        Order::Fortran => (0..rows * width).map(|i| stored[i % width * rows + i / width]).collect(),
    };
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(Error::invalid(
            path,
            format!("row {}, column {}", at / width, at % width),
            format!("the value is {} in single precision", values[at]),
            "every value must be finite; check how the file was made",
        ));
    }
    Ok(NpyMatrix { values, rows, width })
}

/// Reads the header of a `.npy` file.
///
/// npyz multiplies the sizes of the shape without a check. A shape that no file can hold is therefore
/// rejected before npyz reads the header.
pub(crate) fn read_header(reader: impl Read) -> io::Result<NpyHeader> {
    parse_header(reader).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other("the file ends within its header"),
        _ => error,
    })
}

fn parse_header(mut reader: impl Read) -> io::Result<NpyHeader> {
    // Magic string, two bytes of version, and the length of the header: two bytes in version 1, four in later
    // versions.
    let mut bytes = vec![0; 10];
    reader.read_exact(&mut bytes)?;
    let mut length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    if bytes[6] > 1 {
        bytes.resize(12, 0);
        reader.read_exact(&mut bytes[10..])?;
        length |= usize::from(u16::from_le_bytes([bytes[10], bytes[11]])) << 16;
    }
    if length > MOST_HEADER_BYTES {
        return Err(io::Error::other(format!("a header of {length} bytes")));
    }
    let start = bytes.len();
    bytes.resize(start + length, 0);
    reader.read_exact(&mut bytes[start..])?;
    // An array of numbers has two brackets: dictionary and shape. The time npyz takes doubles with every
    // nested one.
    if bytes[start..].iter().filter(|byte| b"([{".contains(byte)).count() > MOST_BRACKETS {
        return Err(io::Error::other("a header with too many brackets"));
    }
    // Python 2 wrote long integers, as in (4L, 3L).
    for at in start + 1..bytes.len() {
        if bytes[at] == b'L' && bytes[at - 1].is_ascii_digit() {
            bytes[at] = b' ';
        }
    }
    match shape_is_possible(&String::from_utf8_lossy(&bytes[start..])) {
        // The parser's own message has several lines.
        true => {
            NpyHeader::from_reader(bytes.as_slice()).map_err(|error| match error.to_string().contains('\n') {
                true => io::Error::other("it is not a header that numpy.save writes"),
                false => error,
            })
        }
        false => Err(io::Error::other("a shape that no file can hold")),
    }
}

/// Whether the product of the nonzero sizes in the header's `shape` fits. npyz reports any other fault.
fn shape_is_possible(header: &str) -> bool {
    let shape = header.split_once("shape").and_then(|(_, rest)| rest.split_once('(')?.1.split_once(')'));
    let Some((sizes, _)) = shape else { return true };
    let sizes = sizes.split(',').filter(|size| !size.trim().is_empty());
    let product = sizes
        .map(|size| size.trim().trim_end_matches('L').parse::<u64>().ok())
        .try_fold(1u64, |product, size| product.checked_mul(size?.max(1)));
    product.is_some()
}

/// Checks that no row with values other than zero would be all but zeros in single precision. Single small values among larger
/// ones may be rounded to zero.
fn check_not_lost(path: &Path, values: &[f64], (rows, width): (usize, usize), order: Order) -> Result<()> {
    for row in 0..rows {
        let at = |column: usize| match order {
            Order::C => row * width + column,
            Order::Fortran => column * rows + row,
        };
        let largest = (0..width).fold(0.0f64, |most, column| most.max(values[at(column)].abs()));
        if largest > 0.0 && largest < f64::from(f32::MIN_POSITIVE) {
            return Err(Error::invalid(
                path,
                format!("row {row}"),
                format!("the largest value is {largest:e}, too small for single precision"),
                "scale the values, such as to rows of length 1",
            ));
        }
    }
    Ok(())
}

fn read_values<T: Deserialize, V>(
    npy: NpyFile<BufReader<File>>,
    path: &Path,
    convert: impl Fn(T) -> V,
) -> Result<Vec<V>> {
    let values = npy.data::<T>().map_err(|error| {
        Error::invalid(path, "header", error.to_string(), "write the file with numpy.save")
    })?;
    values.map(|value| value.map(&convert)).collect::<std::io::Result<_>>().map_err(Error::file("read", path))
}

/// Writes `[rows, width]` values in single precision. The file appears complete or not at all.
pub fn write_npy(path: &Path, values: &[f32], width: usize) -> Result<()> {
    write_values(path, values, width, |value| value)
}

/// Like [`write_npy`], rounded to half precision.
pub fn write_npy_half(path: &Path, values: &[f32], width: usize) -> Result<()> {
    write_values(path, values, width, f16::from_f32)
}

fn write_values<T: AutoSerialize>(
    path: &Path,
    values: &[f32],
    width: usize,
    convert: impl Fn(f32) -> T,
) -> Result<()> {
    assert!(width > 0 && values.len().is_multiple_of(width), "npy: whole rows of {width}");
    write_atomically(path, |file| {
        let mut npy = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&[(values.len() / width) as u64, width as u64])
            .writer(&mut *file)
            .begin_nd()?;
        npy.extend(values.iter().map(|&value| convert(value)))?;
        npy.finish()?;
        file.flush()
    })
}
