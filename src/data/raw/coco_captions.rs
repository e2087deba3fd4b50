//! COCO caption files: `{annotations: [{id, image_id, caption}], ..}`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128;

use super::ids;
use super::json_stream::{Shape, records};
use super::raw_file::RawFile;
use crate::Result;

#[derive(Deserialize)]
struct AnnotationRecord {
    #[serde(deserialize_with = "ids::required")]
    id: u64,
    #[serde(deserialize_with = "ids::required")]
    image_id: u64,
    caption: String,
}

/// Captions of the selected images.
#[derive(Debug, Default)]
pub struct Captions {
    /// Captions by COCO id, in the order of the files.
    pub by_image: HashMap<u64, Vec<String>>,
    /// Number of captions in all files.
    pub read: u64,
    /// Number of captions left out because an earlier one has the same annotation id, image and text, as with the
    /// files of two releases.
    pub repeated: u64,
    /// Number of captions with the annotation id of an earlier one of another image or text, as in files that are
    /// numbered by themselves. They are kept.
    pub clashing: u64,
}

/// Reads the captions of the images for which `wanted` returns true, from all files.
pub fn read(paths: &[PathBuf], wanted: impl Fn(u64) -> bool) -> Result<Captions> {
    let mut captions = Captions::default();
    let (mut ids, mut seen) = (HashSet::new(), HashSet::new());
    for path in paths {
        records(RawFile::open(path)?, Shape::Field("annotations"), |_, record: AnnotationRecord| {
            captions.read += 1;
            if !wanted(record.image_id) {
                return Ok(());
            }
            let caption = record.caption.trim().to_string();
            if !seen.insert((record.id, record.image_id, xxh3_128(caption.as_bytes()))) {
                captions.repeated += 1;
                return Ok(());
            }
            captions.clashing += u64::from(!ids.insert(record.id));
            captions.by_image.entry(record.image_id).or_default().push(caption);
            Ok(())
        })?;
    }
    Ok(captions)
}
