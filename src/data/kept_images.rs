//! Images that are kept, not yet augmented, in temporary files.

use std::path::Path;

use bytemuck::{Pod, Zeroable};

use super::object_box::{ImageSize, ObjectBox};
use super::split::Ids;
use crate::Result;
use crate::files::spill::{Spill, Spilled};

/// An image that is kept.
#[derive(Clone, Copy, Debug)]
pub struct KeptImage<'a> {
    /// Visual Genome id.
    pub image_id: u64,
    /// COCO id.
    pub coco_id: u64,
    /// Size of the image, if known.
    pub size: Option<ImageSize>,
    /// `[objects]` boxes, or empty if there are none.
    pub boxes: &'a [ObjectBox],
    /// Address of the photograph, or empty.
    pub url: &'a str,
    /// `[objects] -> object type` type of each object.
    pub objects: &'a [u32],
    /// `[relationships]` subject (`-> objects`), predicate type, object (`-> objects`), without duplicates.
    pub relationships: &'a [[u32; 3]],
}

/// An image, and where its lists end. They begin where those of the image before it end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Record {
    image_id: u64,
    coco_id: u64,
    objects_end: u64,
    boxes_end: u64,
    relationships_end: u64,
    url_end: u64,
    /// Width and height; zeros if they are not known.
    size: [u16; 2],
    unused: u32,
}

/// Images that are written.
#[derive(Debug)]
pub struct KeptWriter {
    records: Spill<Record>,
    objects: Spill<u32>,
    boxes: Spill<ObjectBox>,
    relationships: Spill<[u32; 3]>,
    urls: Spill<u8>,
}

impl KeptWriter {
    /// No images. Their files will lie in the folder of `target`.
    pub fn beside(target: &Path) -> Self {
        KeptWriter {
            records: Spill::beside(target),
            objects: Spill::beside(target),
            boxes: Spill::beside(target),
            relationships: Spill::beside(target),
            urls: Spill::beside(target),
        }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Appends an image.
    pub fn push(&mut self, image: KeptImage<'_>) -> Result<()> {
        self.objects.extend(image.objects)?;
        self.boxes.extend(image.boxes)?;
        self.relationships.extend(image.relationships)?;
        self.urls.extend(image.url.as_bytes())?;
        self.records.push(Record {
            image_id: image.image_id,
            coco_id: image.coco_id,
            objects_end: self.objects.len() as u64,
            boxes_end: self.boxes.len() as u64,
            relationships_end: self.relationships.len() as u64,
            url_end: self.urls.len() as u64,
            size: image.size.map_or([0; 2], |size| [size.width, size.height]),
            unused: 0,
        })
    }

    /// The images, for reading.
    pub fn finish(self) -> Result<KeptImages> {
        Ok(KeptImages {
            records: self.records.finish()?,
            objects: self.objects.finish()?,
            boxes: self.boxes.finish()?,
            relationships: self.relationships.finish()?,
            urls: self.urls.finish()?,
        })
    }
}

/// Images that were kept, by the order in which they were written.
#[derive(Debug)]
pub struct KeptImages {
    records: Spilled<Record>,
    objects: Spilled<u32>,
    boxes: Spilled<ObjectBox>,
    relationships: Spilled<[u32; 3]>,
    urls: Spilled<u8>,
}

impl KeptImages {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Ids of an image.
    pub fn ids(&self, image: usize) -> Ids {
        let Record { image_id, coco_id, .. } = self.records[image];
        Ids { image_id, coco_id }
    }

    /// An image.
    pub fn image(&self, image: usize) -> KeptImage<'_> {
        let before = image.checked_sub(1).map_or(Record::default(), |before| self.records[before]);
        let record = self.records[image];
        let range = |end: fn(&Record) -> u64| end(&before) as usize..end(&record) as usize;
        let [width, height] = record.size;
        let url = &self.urls[range(|record| record.url_end)];
        KeptImage {
            image_id: record.image_id,
            coco_id: record.coco_id,
            size: (width > 0).then_some(ImageSize { width, height }),
            boxes: &self.boxes[range(|record| record.boxes_end)],
            url: std::str::from_utf8(url).expect("written from a text"),
            objects: &self.objects[range(|record| record.objects_end)],
            relationships: &self.relationships[range(|record| record.relationships_end)],
        }
    }
}
