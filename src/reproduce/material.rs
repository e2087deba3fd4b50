//! Inputs of the runs: the data or a subset of it, and the corresponding rows of files supplied by the user.

use std::path::PathBuf;

use super::Reproduction;
use crate::data::subset::{choose, write_subset};
use crate::data::supervision::read_caption_vectors;
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::evaluation::features::{Features, read_features};
use crate::files::npy::write_npy;

/// Least number of images for a rank correlation or a triple.
const LEAST_IMAGES: usize = 3;

/// Opened input files.
pub(super) struct Material {
    /// Data used by all runs; a subset is stored in the report's folder.
    pub dataset: Dataset,
    /// Features of the test images.
    pub features: Option<Features>,
    /// Path of the caption vectors of all images.
    pub caption_vectors: Option<PathBuf>,
}

impl Material {
    /// Opens all files. A subset's data and caption vectors are written to the report's folder.
    pub fn open(reproduction: &Reproduction) -> Result<Self> {
        let whole = Dataset::open(&reproduction.data)?;
        let mut features = reproduction
            .features
            .as_deref()
            .map(|path| read_features(path, &whole, Split::Test, reproduction.measure))
            .transpose()?;
        let vectors = reproduction.caption_vectors.as_deref();
        let vectors = vectors.map(|path| read_caption_vectors(path, &whole)).transpose()?;
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(Error::file("read", path));
        let mut caption_vectors = reproduction.caption_vectors.as_ref().map(absolute).transpose()?;
        let dataset = match reproduction.subset {
            None => whole,
            Some(count) => {
                let images = choose(&whole, count)?;
                let path = reproduction.out.join("subset.data");
                write_subset(&whole, &images, &path)?;
                let test = whole.split(Split::Test);
                if let Some(Features { values, width }) = &mut features {
                    let rows = images.iter().filter(|image| test.contains(image));
                    *values = rows
                        .flat_map(|&image| &values[(image - test.start) * *width..][..*width])
                        .copied()
                        .collect();
                }
                if let Some(vectors) = &vectors {
                    let width = vectors.width;
                    let rows = images.iter().flat_map(|&image| &vectors.values[image * width..][..width]);
                    let path = absolute(&reproduction.out.join("caption-vectors.npy"))?;
                    write_npy(&path, &rows.copied().collect::<Vec<f32>>(), width)?;
                    caption_vectors = Some(path);
                }
                Dataset::open(&path)?
            }
        };
        for split in Split::PARTS {
            let images = dataset.split(split).len();
            if images < LEAST_IMAGES {
                return Err(Error::invalid(
                    dataset.path(),
                    "split",
                    format!("{split} has {images} images, at least {LEAST_IMAGES} are needed"),
                    "raise --subset, or prepare more images",
                ));
            }
        }
        Ok(Material { dataset, features, caption_vectors })
    }
}
