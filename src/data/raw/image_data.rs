//! Visual Genome's `image_data.json`: which images are COCO images too, how large they are and where they can be seen.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::json_stream::{Shape, records};
use super::raw_file::RawFile;
use crate::data::object_box::ImageSize;
use crate::data::web_address::is_web_address;
use crate::{Error, Result};

#[derive(Deserialize)]
struct ImageRecord {
    image_id: u64,
    coco_id: Option<u64>,
    width: Option<f64>,
    height: Option<f64>,
    url: Option<String>,
}

/// What the file says of an image.
#[derive(Debug)]
pub struct ImageData {
    /// Its COCO id.
    pub coco_id: u64,
    /// Its size, where it is given.
    pub size: Option<ImageSize>,
    /// Its address, if there is one.
    pub url: Option<Address>,
}

/// The `url` of an image.
#[derive(Debug)]
pub enum Address {
    /// Of http or https.
    Web(Box<str>),
    /// Of another kind, which no page should name.
    Other,
}

/// The images that have a COCO id, by Visual Genome id.
pub fn read(path: &Path) -> Result<HashMap<u64, ImageData>> {
    let mut images = HashMap::new();
    records(RawFile::open(path)?, Shape::Array, |_, record: ImageRecord| {
        let ImageRecord { image_id, coco_id: Some(coco_id), width, height, url } = record else {
            return Ok(());
        };
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
