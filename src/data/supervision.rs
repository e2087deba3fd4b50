//! Source of the similarities of a run: the captions, or data supplied by the user.

use std::path::Path;

use super::Dataset;
use super::similarity::Similarity;
use super::similarity_matrix::SimilarityMatrix;
use crate::files::npy::{NpyMatrix, read_npy};
use crate::{Error, Result};

/// Supervision of a run.
pub enum Supervision {
    /// Inner products of the caption vectors in the data file.
    Captions,
    /// A similarity for every pair of images.
    Matrix(SimilarityMatrix),
    /// Vectors `[images, d]` of another encoder; similarities are their inner products.
    Vectors(NpyMatrix),
}

/// Tolerance for norms above 1, which rounding may cause, also in half precision.
const NORM_SLACK: f64 = 1e-2;

impl Supervision {
    /// Opens a matrix `[images, images]` or vectors `[images, d]` from a `.npy` file, if one is given.
    pub fn open(matrix: Option<&Path>, vectors: Option<&Path>, dataset: &Dataset) -> Result<Self> {
        match (matrix, vectors) {
            (Some(_), Some(_)) => Err(Error::argument(
                "--caption-vectors",
                "is given together with --similarity",
                "give one of them: either is all of the supervision",
            )),
            (Some(path), None) => {
                Ok(Supervision::Matrix(SimilarityMatrix::open(path, dataset.image_count())?))
            }
            (None, Some(path)) => Ok(Supervision::Vectors(read_caption_vectors(path, dataset)?)),
            (None, None) => Ok(Supervision::Captions),
        }
    }

    /// An error if another process has written to a mapped matrix since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        match self {
            Supervision::Matrix(matrix) => matrix.check_unchanged(),
            Supervision::Captions | Supervision::Vectors(_) => Ok(()),
        }
    }

    /// Similarities of all images of `dataset`.
    pub fn view<'a>(&'a self, dataset: &'a Dataset) -> Similarity<'a> {
        match self {
            Supervision::Captions => dataset.similarity(),
            Supervision::Matrix(matrix) => matrix.view(),
            Supervision::Vectors(vectors) => {
                Similarity::Factored { vectors: &vectors.values, width: vectors.width }
            }
        }
    }
}

/// Reads one vector per image of `dataset`. The vector of an image is the mean of its captions' unit vectors,
/// so its norm is at most 1; with longer vectors, similarities would be clamped at 1.
pub fn read_caption_vectors(path: &Path, dataset: &Dataset) -> Result<NpyMatrix> {
    let vectors = read_npy(path)?;
    if vectors.rows != dataset.image_count() || vectors.width == 0 {
        return Err(Error::invalid(
            path,
            "shape",
            format!(
                "[{}, {}], where the data has {} images",
                vectors.rows,
                vectors.width,
                dataset.image_count()
            ),
            "give one row per image of the data file, in the order of `scenerank embed --ids`",
        ));
    }
    let norm = |row: &[f32]| row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    let mut norms = vectors.values.chunks_exact(vectors.width).map(norm).enumerate();
    if let Some((row, norm)) = norms.find(|&(_, norm)| norm.is_nan() || norm > 1.0 + NORM_SLACK) {
        return Err(Error::invalid(
            path,
            format!("row {row}"),
            format!("has the norm {norm}"),
            "divide each caption's vector by its norm and give each image the mean of its captions'",
        ));
    }
    Ok(vectors)
}
