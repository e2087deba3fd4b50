//! Visual Genome's `image_data.json`: COCO ids, sizes and addresses of the images.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::ids::{self, Id, Spellings};
use super::json_stream::{Shape, records};
use super::raw_file::RawFile;
use crate::data::object_box::ImageSize;
use crate::data::web_address::is_web_address;
use crate::{Error, Result};

#[derive(Deserialize)]
#[serde(expecting = "an image record")]
struct ImageRecord {
    #[serde(default)]
    image_id: Id,
    /// Name of `image_id` in older files.
    #[serde(default)]
    id: Id,
    #[serde(default)]
    coco_id: Id,
    width: Option<f64>,
    height: Option<f64>,
    url: Option<String>,
}

/// Entry of an image.
#[derive(Debug)]
pub struct ImageData {
    /// COCO id.
    pub coco_id: u64,
    /// Size of the image, if given.
    pub size: Option<ImageSize>,
    /// Address of the image, if given.
    pub url: Option<Address>,
}

/// The `url` field of an image.
#[derive(Debug)]
pub enum Address {
    /// An http or https address.
    Web(Box<str>),
    /// Any other address, which no page should link to.
    Other,
}

/// Images with a COCO id.
#[derive(Debug, Default)]
pub struct Images {
    /// Images by Visual Genome id.
    pub by_id: HashMap<u64, ImageData>,
    /// How the ids are spelled.
    pub spellings: Spellings,
}

/// Reads the images with a COCO id. A gzip file may unpack to `most_expansion` times its size.
pub fn read(path: &Path, most_expansion: u64) -> Result<Images> {
    let mut images = Images::default();
    let file = RawFile::open(path, most_expansion)?;
    let not_finite = records(file, Shape::Array, |name, record: ImageRecord| {
        let ImageRecord { image_id, id, coco_id, width, height, url } = record;
        let image_id = ids::of_image(path, name.number, [image_id, id], &mut images.spellings)?;
        let Some(coco_id) = images.spellings.count(coco_id) else { return Ok(()) };
        let url = url.filter(|url| !url.is_empty()).map(|url| match is_web_address(&url) {
            true => Address::Web(url.into()),
            false => Address::Other,
        });
        match images.by_id.insert(image_id, ImageData { coco_id, size: ImageSize::new(width, height), url }) {
            Some(other) if other.coco_id != coco_id => {
                let place = format!("image {image_id}");
                let problem = format!("it has two COCO ids, {} and {coco_id}", other.coco_id);
                Err(Error::invalid(path, place, problem, "remove one of the two records"))
            }
            _ => Ok(()),
        }
    })?;
    images.spellings.not_finite += not_finite;
    Ok(images)
}
