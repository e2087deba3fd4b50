//! Reads and writes embeddings as NumPy `.npy` files: two dimensions, one row per image.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;

use half::f16;
use rayon::prelude::*;

use crate::files::atomic_file::write_atomically;
use crate::files::mapped_file::MappedFile;
use crate::files::npy_header::{MAGIC, NpyHeader};
use crate::files::recognise::not_expected;
use crate::files::text::open_file;
use crate::terminal::excerpt;
use crate::{Error, Result};

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
    let header = NpyHeader::read(&mut reader).map_err(|error| {
        Error::invalid(path, "header", error.to_string(), "give a .npy file written by numpy.save")
    })?;

    let [rows, width] = header.shape[..] else {
        return Err(Error::invalid(
            path,
            "header",
            format!("an array of {} dimensions, expected two", header.shape.len()),
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
    // The description ends in the kind and size of a value, as in '<f4'.
    let bytes_per_value = match header.kind() {
        "f2" => 2,
        "f4" => 4,
        "f8" => 8,
        _ => {
            return Err(Error::invalid(
                path,
                "header",
                format!("values of type {}", excerpt(&header.descr)),
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
    let plain = !header.fortran_order && !header.is_swapped() && offset.is_multiple_of(size_of::<f32>());
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
    let count = rows * width;
    let swapped = header.is_swapped();
    let read = |bytes: &mut [u8]| read_values(reader, bytes, bytes_per_value as usize, swapped);
    let read_error = Error::file("read", path);
    let stored = match bytes_per_value {
        2 => {
            let mut halves = vec![f16::ZERO; count];
            read(bytemuck::cast_slice_mut(&mut halves)).map_err(read_error)?;
            halves.into_iter().map(f16::to_f32).collect()
        }
        4 => {
            let mut singles = vec![0.0f32; count];
            read(bytemuck::cast_slice_mut(&mut singles)).map_err(read_error)?;
            singles
        }
        _ => {
            let mut doubles = vec![0.0f64; count];
            read(bytemuck::cast_slice_mut(&mut doubles)).map_err(read_error)?;
            check_not_lost(path, &doubles, (rows, width), header.fortran_order)?;
            doubles.into_iter().map(|value| value as f32).collect()
        }
    };
    let values = match header.fortran_order {
        false => stored,
        true => (0..count).map(|i| stored[i % width * rows + i / width]).collect(),
    };
    if let Some((at, value)) = StoredValues::Single(&values).find_not_finite() {
        return Err(Error::invalid(
            path,
            format!("row {}, column {}", at / width, at % width),
            format!("the value is {value} in single precision"),
            "every value must be finite; check how the file was made",
        ));
    }
    Ok(NpyMatrix { values, rows, width })
}

/// Checks that no row with values other than zero would be all but zeros in single precision. Single small values among larger
/// ones may be rounded to zero.
fn check_not_lost(
    path: &Path,
    values: &[f64],
    (rows, width): (usize, usize),
    fortran_order: bool,
) -> Result<()> {
    for row in 0..rows {
        let at = |column: usize| match fortran_order {
            false => row * width + column,
            true => column * rows + row,
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

/// Reads values of `width` bytes, which are stored in the other byte order if `swapped`.
fn read_values(mut reader: impl Read, bytes: &mut [u8], width: usize, swapped: bool) -> std::io::Result<()> {
    reader.read_exact(bytes)?;
    if swapped {
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
    Ok(())
}

/// Writes `[rows, width]` values in single precision. The file appears complete or not at all.
pub fn write_npy(path: &Path, values: &[f32], width: usize) -> Result<()> {
    write_values(path, values, width, 4, |values| {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    })
}

/// Like [`write_npy`], rounded to half precision.
pub fn write_npy_half(path: &Path, values: &[f32], width: usize) -> Result<()> {
    let encode =
        |values: &[f32]| values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    write_values(path, values, width, 2, encode)
}

fn write_values(
    path: &Path,
    values: &[f32],
    width: usize,
    bytes_per_value: usize,
    encode: impl Fn(&[f32]) -> Vec<u8>,
) -> Result<()> {
    const VALUES_PER_WRITE: usize = 1 << 16;
    assert!(width > 0 && values.len().is_multiple_of(width), "npy: whole rows of {width}");
    let descr = format!("'<f{bytes_per_value}'");
    let shape = vec![(values.len() / width) as u64, width as u64];
    let header = NpyHeader { descr, fortran_order: false, shape };
    write_atomically(path, |file| {
        file.write_all(&header.to_bytes())?;
        values.chunks(VALUES_PER_WRITE).try_for_each(|values| file.write_all(&encode(values)))?;
        file.flush()
    })
}
