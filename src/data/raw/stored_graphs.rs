//! Graphs of a raw file in temporary files, for files of any length.

use std::path::Path;

use bytemuck::{Pod, Zeroable};

use super::raw_graphs::{GraphView, RawGraphs};
use crate::Result;
use crate::data::object_box::{Corners, ImageSize};
use crate::files::spill::{Spill, Spilled};

/// An image. Its objects begin where those of the image before it end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Image {
    image_id: u64,
    objects_end: u64,
    /// Range of the relationships, which may be stored in another order than the images.
    relationships_start: u64,
    relationships_end: u64,
    /// Width and height; zeros if they are not known.
    size: [u16; 2],
    unused: u32,
}

/// Graphs that are stored, image by image.
#[derive(Debug)]
pub(in crate::data) struct GraphStore {
    images: Spill<Image>,
    objects: Spill<u32>,
    boxes: Spill<Corners>,
    relationships: Spill<[u32; 3]>,
}

impl GraphStore {
    /// A store whose files lie in the folder of `target`.
    pub fn beside(target: &Path) -> Self {
        GraphStore {
            images: Spill::beside(target),
            objects: Spill::beside(target),
            boxes: Spill::beside(target),
            relationships: Spill::beside(target),
        }
    }

    /// Stores the images of `graphs`, which forgets them.
    pub fn take(&mut self, graphs: &mut RawGraphs) -> Result<()> {
        for image in &graphs.images {
            let GraphView { image_id, size, objects, boxes, relationships } = graphs.view(image);
            let relationships_start = self.relationships.len() as u64;
            self.objects.extend(objects)?;
            self.boxes.extend(boxes)?;
            self.relationships.extend(relationships)?;
            self.images.push(Image {
                image_id,
                objects_end: self.objects.len() as u64,
                relationships_start,
                relationships_end: self.relationships.len() as u64,
                size: size.map_or([0; 2], |size| [size.width, size.height]),
                unused: 0,
            })?;
        }
        graphs.forget_images();
        Ok(())
    }

    /// The stored graphs, for reading.
    pub fn finish(self) -> Result<StoredGraphs> {
        self.end_objects()?.finish()
    }

    /// The stored graphs. From here on relationships can be stored in any order of the images.
    pub fn end_objects(self) -> Result<RelationshipStore> {
        Ok(RelationshipStore {
            images: self.images.finish()?,
            objects: self.objects.finish()?,
            boxes: self.boxes.finish()?,
            relationships: self.relationships,
        })
    }
}

/// Graphs whose objects are stored, and whose relationships follow.
#[derive(Debug)]
pub(in crate::data) struct RelationshipStore {
    images: Spilled<Image>,
    objects: Spilled<u32>,
    boxes: Spilled<Corners>,
    relationships: Spill<[u32; 3]>,
}

impl RelationshipStore {
    /// Number of images.
    pub fn image_count(&self) -> usize {
        self.images.len()
    }

    /// Stores the relationships that `graphs` has, as those of image `number`, and forgets them.
    pub fn take(&mut self, number: usize, graphs: &mut RawGraphs) -> Result<()> {
        let start = self.relationships.len() as u64;
        self.relationships.extend(&graphs.relationships)?;
        graphs.forget_images();
        let image = &mut self.images[number];
        (image.relationships_start, image.relationships_end) = (start, self.relationships.len() as u64);
        Ok(())
    }

    /// The stored graphs, for reading.
    pub fn finish(self) -> Result<StoredGraphs> {
        let RelationshipStore { images, objects, boxes, relationships } = self;
        Ok(StoredGraphs { images, objects, boxes, relationships: relationships.finish()? })
    }
}

/// Graphs that were stored.
#[derive(Debug)]
pub(in crate::data) struct StoredGraphs {
    images: Spilled<Image>,
    objects: Spilled<u32>,
    boxes: Spilled<Corners>,
    relationships: Spilled<[u32; 3]>,
}

impl StoredGraphs {
    /// The graphs in the order of the raw file.
    pub fn iter(&self) -> impl Iterator<Item = GraphView<'_>> {
        self.images.iter().scan(0, |object, image| {
            let objects = *object..image.objects_end as usize;
            *object = objects.end;
            let [width, height] = image.size;
            Some(GraphView {
                image_id: image.image_id,
                size: (width > 0).then_some(ImageSize { width, height }),
                objects: &self.objects[objects.clone()],
                boxes: &self.boxes[objects],
                relationships: &self.relationships
                    [image.relationships_start as usize..image.relationships_end as usize],
            })
        })
    }
}
