//! Features of the same images from another source, such as a classifier, evaluated like embeddings.

use std::path::Path;

use crate::data::{Dataset, Split};
use crate::files::npy::read_npy;
use crate::{Error, Result};

/// Features `[images of the split, width]`.
pub struct Features {
    /// Values, row-major.
    pub values: Vec<f32>,
    /// Number of values per image.
    pub width: usize,
}

/// Reads the `.npy` file at `path`: one row per image of `split`, or one row per image of the data. Only rows of the
/// split are kept.
pub fn read_features(path: &Path, dataset: &Dataset, split: Split) -> Result<Features> {
    let matrix = read_npy(path)?;
    let (images, width) = (dataset.split(split), matrix.width);
    let values = if matrix.rows == images.len() {
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
    Ok(Features { values, width })
}
