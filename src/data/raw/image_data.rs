//! Visual Genome's `image_data.json`: COCO ids, sizes and addresses of the images.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::ids;
use super::json_stream::{Shape, records};
use super::raw_file::RawFile;
use crate::data::object_box::ImageSize;
use crate::data::web_address::is_web_address;
use crate::{Error, Result};

#[derive(Deserialize)]
struct ImageRecord {
    #[serde(default, deserialize_with = "ids::optional")]
    image_id: Option<u64>,
    /// Name of `image_id` in older files.
    #[serde(default, deserialize_with = "ids::optional")]
    id: Option<u64>,
    #[serde(default, deserialize_with = "ids::optional")]
    coco_id: Option<u64>,
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

/// Reads the images with a COCO id, by Visual Genome id.
pub fn read(path: &Path) -> Result<HashMap<u64, ImageData>> {
    let mut images = HashMap::new();
    records(RawFile::open(path)?, Shape::Array, |_, record: ImageRecord| {
        let ImageRecord { image_id, id, coco_id, width, height, url } = record;
        let image_id = ids::of_image(path, image_id, id)?;
        let Some(coco_id) = coco_id else { return Ok(()) };
        let url = url.filter(|url| !url.is_empty()).map(|url| match is_web_address(&url) {
            true => Address::Web(url.into()),
            false => Address::Other,
        });
        match images.insert(image_id, ImageData { coco_id, size: ImageSize::new(width, height), url }) {
            Some(other) if other.coco_id != coco_id => {
                let place = format!("image {image_id}");
                let problem = format!("it has two COCO ids, {} and {coco_id}", other.coco_id);
                Err(Error::invalid(path, place, problem, "remove one of the two records"))
            }
            _ => Ok(()),
        }
    })?;
    Ok(images)
}
