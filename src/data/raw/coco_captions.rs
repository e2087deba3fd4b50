//! COCO caption files: `{annotations: [{id, image_id, caption}], ..}`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128;

use super::ids::{self, Id, Spellings};
use super::json_stream::{Shape, records};
use super::raw_file::RawFile;
use crate::Result;

#[derive(Deserialize)]
#[serde(expecting = "a caption record")]
struct AnnotationRecord {
    #[serde(deserialize_with = "ids::required")]
    id: Id,
    #[serde(deserialize_with = "ids::required")]
    image_id: Id,
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
    /// How the ids are spelled.
    pub spellings: Spellings,
}

/// Reads the captions of the images for which `wanted` returns true, from all files. A gzip file may unpack to
/// `most_expansion` times its size.
pub fn read(paths: &[PathBuf], most_expansion: u64, wanted: impl Fn(u64) -> bool) -> Result<Captions> {
    let mut captions = Captions::default();
    let (mut ids, mut seen) = (HashSet::new(), HashSet::new());
    for path in paths {
        let file = RawFile::open(path, most_expansion)?;
        let not_finite = records(file, Shape::Field("annotations"), |_, record: AnnotationRecord| {
            captions.read += 1;
            let id = captions.spellings.count_required(record.id);
            let image_id = captions.spellings.count_required(record.image_id);
            if !wanted(image_id) {
                return Ok(());
            }
            let caption = record.caption.trim().to_string();
            if !seen.insert((id, image_id, xxh3_128(caption.as_bytes()))) {
                captions.repeated += 1;
                return Ok(());
            }
            captions.clashing += u64::from(!ids.insert(id));
            captions.by_image.entry(image_id).or_default().push(caption);
            Ok(())
        })?;
        captions.spellings.not_finite += not_finite;
    }
    Ok(captions)
}
