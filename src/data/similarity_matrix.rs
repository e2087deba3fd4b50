//! User-supplied similarity matrix: a memory-mapped NumPy `.npy` file.

use std::path::{Path, PathBuf};

use half::f16;
use rayon::prelude::*;

use super::similarity::Similarity;
use crate::files::mapped_file::MappedFile;
use crate::files::npy_header::{MAGIC, NpyHeader};
use crate::files::recognise::{FIRST_BYTES, not_expected};
use crate::files::text::open_file;
use crate::terminal::excerpt;
use crate::{Error, Result};

const REMEDY: &str = "save a square array with numpy.save, one row and column per image of the data file, as little-endian float16 \
     or float32 in C order";

const RANGE_REMEDY: &str = "save similarities from 0 to 1: divide percentages by 100, and clip or rescale cosines below 0 and logits";

/// Accepted rounding error at the ends of the range: half precision has steps of 1e-3 above 1.
const SLACK: f32 = 1e-3;

/// Whether a value is a similarity: from 0 to 1, up to a rounding error.
pub(crate) fn is_similarity(value: f32) -> bool {
    (-SLACK..=1.0 + SLACK).contains(&value)
}

/// A mapped `[images, images]` matrix whose row X holds s_X. Rows follow the image order of the data file.
#[derive(Debug)]
pub struct SimilarityMatrix {
    map: MappedFile,
    start: usize,
    images: usize,
    half: bool,
}

impl SimilarityMatrix {
    /// Maps the matrix at `path` for a dataset of `images` images.
    ///
    /// Checks the header, the length, and in one parallel pass over the file that every entry is from 0 to 1. Entries up to
    /// `SLACK` beyond are rounding errors, and are clamped when read.
    pub fn open(path: impl AsRef<Path>, images: usize) -> Result<Self> {
        let path: PathBuf = path.as_ref().to_path_buf();
        let invalid = |place: &str, problem: String| Error::invalid(&path, place, problem, REMEDY);
        let file = open_file(&path)?;
        let metadata = file.metadata().map_err(Error::file("read", &path))?;
        if !metadata.is_file() {
            return Err(invalid("path", "not a file".into()));
        }
        let map = MappedFile::of_file(file, &path)?;
        if !map.starts_with(MAGIC) {
            return Err(not_expected(&path, &map[..map.len().min(FIRST_BYTES)], "a .npy file", REMEDY));
        }
        let mut rest = &map[..];
        let header = NpyHeader::read(&mut rest)
            .map_err(|error| invalid("header", format!("not a .npy file: {error}")))?;
        let start = map.len() - rest.len();

        let half = match header.descr.trim_matches(['\'', '"']) {
            "<f2" => true,
            "<f4" => false,
            _ => {
                let problem = format!("{}, expected '<f2' or '<f4'", excerpt(&header.descr));
                return Err(invalid("dtype", problem));
            }
        };
        if header.shape != [images as u64; 2] {
            let problem = format!("{:?}, expected [{images}, {images}]", header.shape);
            return Err(invalid("shape", problem));
        }
        if header.fortran_order {
            return Err(invalid("order", "Fortran order, expected C order".into()));
        }
        let bytes = images * images * if half { 2 } else { 4 };
        if rest.len() != bytes {
            let kind = if rest.len() < bytes { "truncated" } else { "too long" };
            return Err(invalid("data", format!("{kind}: {bytes} bytes expected, {} found", rest.len())));
        }
        // numpy pads its header so that the data is aligned; other writers may not.
        if start % 4 != 0 {
            return Err(invalid("header", format!("the data begins at byte {start}, not a multiple of 4")));
        }
        let matrix = SimilarityMatrix { map, start, images, half };
        let outside = match matrix.view() {
            Similarity::MatrixF16 { values, .. } => {
                let found = values.par_iter().position_first(|value| !is_similarity(value.to_f32()));
                found.map(|at| (at, values[at].to_f32()))
            }
            Similarity::MatrixF32 { values, .. } => {
                let found = values.par_iter().position_first(|&value| !is_similarity(value));
                found.map(|at| (at, values[at]))
            }
            Similarity::Factored { .. } => None,
        };
        let Some((at, value)) = outside else { return Ok(matrix) };
        let place = format!("row {}, column {}", at / images, at % images);
        Err(match value.is_finite() {
            true => Error::invalid(&path, place, format!("{value} is outside 0 to 1"), RANGE_REMEDY),
            false => invalid(&place, format!("{value}")),
        })
    }

    /// An error if another process has written to the file since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.map.check_unchanged()
    }

    /// View of the similarities.
    pub fn view(&self) -> Similarity<'_> {
        let bytes = &self.map[self.start..];
        let images = self.images;
        if self.half {
            Similarity::MatrixF16 { values: bytemuck::cast_slice::<u8, f16>(bytes), images }
        } else {
            Similarity::MatrixF32 { values: bytemuck::cast_slice::<u8, f32>(bytes), images }
        }
    }
}
