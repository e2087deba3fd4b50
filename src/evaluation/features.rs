//! Features of the same images from elsewhere, such as a classifier's, to be measured like embeddings.

use std::path::Path;

use crate::data::{Dataset, Split};
use crate::files::npy::read_npy;
use crate::{Error, Result};

/// `[images of the split, width]` features.
pub struct Features {
    /// Row after row.
    pub values: Vec<f32>,
    /// Values per image.
    pub width: usize,
}

/// Reads the `.npy` file at `path`: one row per image of `split`, or of the whole data, of which the split's are kept.
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
