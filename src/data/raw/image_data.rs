//! Visual Genome's `image_data.json`: COCO ids, sizes and addresses of the images.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::ids::{self, Id, Spellings};
use super::json_stream::{Shape, records};
use super::raw_file::RawFile;
use crate::data::object_box::ImageSize;
use crate::data::web_address::is_web_address;
use crate::files::spill::{Spill, Spilled};
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
#[derive(Clone, Copy, Debug)]
pub struct ImageData<'a> {
    /// COCO id.
    pub coco_id: u64,
    /// Size of the image, if given.
    pub size: Option<ImageSize>,
    /// Address of the image, if given.
    pub url: Option<Address<'a>>,
}

/// The `url` field of an image.
#[derive(Clone, Copy, Debug)]
pub enum Address<'a> {
    /// An http or https address.
    Web(&'a str),
    /// Any other address, which no page should link to.
    Other,
}

/// Entry of an image in memory, of 24 bytes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    coco_id: u64,
    url_start: u64,
    /// 0 without an address, [`OTHER`] for one that is not http or https.
    url_bytes: u32,
    /// Width and height; zeros if they are not known.
    size: [u16; 2],
}

/// Stands for an address that is left out.
const OTHER: u32 = u32::MAX;

/// Images with a COCO id.
#[derive(Debug)]
pub struct Images {
    /// Images by Visual Genome id.
    by_id: HashMap<u64, Entry>,
    urls: Spilled<u8>,
    /// How the ids are spelled.
    pub spellings: Spellings,
}

impl Images {
    /// The image with this Visual Genome id.
    pub fn get(&self, image_id: u64) -> Option<ImageData<'_>> {
        let &Entry { coco_id, url_start, url_bytes, size: [width, height] } = self.by_id.get(&image_id)?;
        let url = match url_bytes {
            0 => None,
            OTHER => Some(Address::Other),
            bytes => {
                let bytes = &self.urls[url_start as usize..][..bytes as usize];
                Some(Address::Web(std::str::from_utf8(bytes).expect("written from a text")))
            }
        };
        Some(ImageData { coco_id, size: (width > 0).then_some(ImageSize { width, height }), url })
    }
}

/// Reads the images with a COCO id. A gzip file may unpack to `most_expansion` times its size. A temporary file with the addresses
/// lies in the folder of `target`.
pub fn read(path: &Path, most_expansion: u64, target: &Path) -> Result<Images> {
    let mut by_id: HashMap<u64, Entry> = HashMap::new();
    let (mut urls, mut spellings) = (Spill::beside(target), Spellings::default());
    let file = RawFile::open(path, most_expansion)?;
    let not_finite = records(file, Shape::Array, |name, record: ImageRecord| {
        let ImageRecord { image_id, id, coco_id, width, height, url } = record;
        let image_id = ids::of_image(path, name.number, [image_id, id], &mut spellings)?;
        let Some(coco_id) = spellings.count(coco_id) else { return Ok(()) };
        let url = url.unwrap_or_default();
        let url_start = urls.len() as u64;
        // A record of a JSON file is much shorter than 4 GiB.
        let url_bytes = match url.is_empty() || is_web_address(&url) {
            true => url.len() as u32,
            false => OTHER,
        };
        if url_bytes != OTHER {
            urls.extend(url.as_bytes())?;
        }
        let size = ImageSize::new(width, height).map_or([0; 2], |size| [size.width, size.height]);
        match by_id.insert(image_id, Entry { coco_id, url_start, url_bytes, size }) {
            Some(other) if other.coco_id != coco_id => {
                let place = format!("image {image_id}");
                let problem = format!("it has two COCO ids, {} and {coco_id}", other.coco_id);
                Err(Error::invalid(path, place, problem, "remove one of the two records"))
            }
            _ => Ok(()),
        }
    })?;
    spellings.not_finite += not_finite;
    Ok(Images { by_id, urls: urls.finish()?, spellings })
}
