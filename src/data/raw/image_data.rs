//! Visual Genome's `image_data.json`: which images are COCO images too.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::json_stream::{Shape, records};
use super::raw_file::RawFile;
use crate::{Error, Result};

#[derive(Deserialize)]
struct ImageRecord {
    image_id: u64,
    coco_id: Option<u64>,
}

/// COCO ids by Visual Genome id, of the images that have one.
pub fn read(path: &Path) -> Result<HashMap<u64, u64>> {
    let mut coco_ids = HashMap::new();
    records(RawFile::open(path)?, Shape::Array, |_, record: ImageRecord| {
        let Some(coco_id) = record.coco_id else { return Ok(()) };
        match coco_ids.insert(record.image_id, coco_id) {
            Some(other) if other != coco_id => {
                let place = format!("image {}", record.image_id);
                let problem = format!("it has two COCO ids, {other} and {coco_id}");
                Err(Error::invalid(path, place, problem, "remove one of the two records"))
            }
            _ => Ok(()),
        }
    })?;
    Ok(coco_ids)
}
