//! Features of the same images from another source, such as a classifier, evaluated like embeddings.

use std::ops::Range;
use std::path::Path;

use super::measure::Measure;
use crate::data::{Dataset, Split};
use crate::files::npy::read_npy;
use crate::files::origin::Origin;
use crate::{Error, Result};

/// Features `[images of the split, width]`.
pub struct Features {
    /// Values, row-major.
    pub values: Vec<f32>,
    /// Number of values per image.
    pub width: usize,
}

/// Reads the `.npy` file at `path`: one row per image of `split`, or one row per image of the data. Only rows of the
/// split are kept. Inner products of the returned rows are the `measure`.
///
/// If `embed` wrote the file, its images are known and must be these, in this order.
pub fn read_features(path: &Path, dataset: &Dataset, split: Split, measure: Measure) -> Result<Features> {
    let matrix = read_npy(path)?;
    let (images, width) = (dataset.split(split), matrix.width);
    if let Some(origin) = Origin::read_beside(path)? {
        let is_of = |images: Range<usize>| {
            origin.image_ids.iter().copied().eq(images.map(|image| dataset.image_id(image)))
        };
        if !is_of(images.clone()) && !is_of(0..dataset.image_count()) {
            return Err(Error::invalid(
                Origin::beside(path),
                "image-ids",
                format!("are not those of the split {split}, nor of the whole data"),
                "write the file with `scenerank embed` from this data, or choose another --split",
            ));
        }
    }
    let mut values = if matrix.rows == images.len() {
        matrix.values
    } else if matrix.rows == dataset.image_count() {
        matrix.values[images.start * width..images.end * width].to_vec()
    } else {
        let all = dataset.image_count();
        return Err(Error::invalid(
            path,
            "shape",
            format!("{} rows, where the split has {} images and the data {all}", matrix.rows, images.len()),
            "give one row per image, in the order of `scenerank embed --ids`",
        ));
    };
    measure.prepare(&mut values, width);
    Ok(Features { values, width })
}
