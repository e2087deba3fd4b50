//! COCO caption files: `{annotations: [{id, image_id, caption}], ..}`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};
use serde::Deserialize;

use super::ids::{self, Id, Spellings};
use super::json_stream::{Shape, records};
use super::raw_file::RawFile;
use crate::Result;
use crate::files::spill::{Spill, Spilled};

#[derive(Deserialize)]
#[serde(expecting = "a caption record")]
struct AnnotationRecord {
    #[serde(deserialize_with = "ids::required")]
    id: Id,
    #[serde(deserialize_with = "ids::required")]
    image_id: Id,
    caption: String,
}

/// A caption of a selected image.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Caption {
    coco_id: u64,
    /// Id of the annotation.
    id: u64,
    /// Place of the text. Later captions have later places.
    start: u64,
    bytes: u32,
    /// 1 if an earlier caption is the same.
    repeated: u32,
}

impl Caption {
    fn text<'a>(&self, texts: &'a [u8]) -> &'a str {
        let bytes = &texts[self.start as usize..][..self.bytes as usize];
        std::str::from_utf8(bytes).expect("written from a text")
    }
}

/// Captions of the selected images, in temporary files.
#[derive(Debug)]
pub struct Captions {
    /// By COCO id, then in the order of the files.
    captions: Spilled<Caption>,
    texts: Spilled<u8>,
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
/// `most_expansion` times its size. Temporary files lie in the folder of `target`.
pub fn read(
    paths: &[PathBuf],
    most_expansion: u64,
    wanted: impl Fn(u64) -> bool,
    target: &Path,
) -> Result<Captions> {
    let mut spellings = Spellings::default();
    let (mut captions, mut texts) = (Spill::beside(target), Spill::beside(target));
    let mut read = 0;
    for path in paths {
        let file = RawFile::open(path, most_expansion)?;
        let not_finite = records(file, Shape::Field("annotations"), |_, record: AnnotationRecord| {
            read += 1;
            let id = spellings.count_required(record.id);
            let coco_id = spellings.count_required(record.image_id);
            if !wanted(coco_id) {
                return Ok(());
            }
            let text = record.caption.trim();
            // A record of a JSON file is much shorter than 4 GiB.
            captions.push(Caption {
                coco_id,
                id,
                start: texts.len() as u64,
                bytes: text.len() as u32,
                repeated: 0,
            })?;
            texts.extend(text.as_bytes())
        })?;
        spellings.not_finite += not_finite;
    }
    let (mut captions, texts) = (captions.finish()?, texts.finish()?);
    let (repeated, clashing) = mark_repeated(&mut captions, &texts);
    captions.sort_unstable_by_key(|caption| (caption.coco_id, caption.start, caption.bytes));
    Ok(Captions { captions, texts, read, repeated, clashing, spellings })
}

/// Marks captions that have the annotation id, image and text of an earlier one. Returns their number, and that of others that have
/// the annotation id of an earlier one.
fn mark_repeated(captions: &mut [Caption], texts: &[u8]) -> (u64, u64) {
    // Empty texts share their place with the text after them.
    captions.sort_unstable_by_key(|caption| (caption.id, caption.coco_id, caption.start, caption.bytes));
    let (mut repeated, mut clashing) = (0, 0);
    for of_id in captions.chunk_by_mut(|a, b| a.id == b.id) {
        let mut kept = 0;
        for of_image in of_id.chunk_by_mut(|a, b| a.coco_id == b.coco_id) {
            if of_image.len() == 1 {
                kept += 1;
                continue;
            }
            let mut seen = HashSet::new();
            for caption in of_image {
                caption.repeated = u32::from(!seen.insert(caption.text(texts)));
                repeated += u64::from(caption.repeated);
                kept += u64::from(caption.repeated == 0);
            }
        }
        clashing += kept.max(1) - 1;
    }
    (repeated, clashing)
}

impl Captions {
    /// Captions of the image with this COCO id, in the order of the files.
    pub fn of_image(&self, coco_id: u64) -> impl Iterator<Item = &str> {
        let first = self.captions.partition_point(|caption| caption.coco_id < coco_id);
        let of_image = self.captions[first..].iter().take_while(move |caption| caption.coco_id == coco_id);
        of_image.filter(|caption| caption.repeated == 0).map(|caption| caption.text(&self.texts))
    }
}
