//! Verification of images: intact bytes, and the ranges of all indices.

use std::ops::Range;

use super::{Check, Dataset, GROUP, Texts};
use crate::Result;
use crate::data::format::{Element, Section};
use crate::data::object_box::ObjectBox;
use crate::data::web_address::is_web_address;

impl Dataset {
    /// Verifies a range of images, and those that share a group of 64 with them, unless they were verified before. Reads their
    /// bytes, in blocks of 256 KiB.
    pub fn verify(&self, images: Range<usize>) -> Result<()> {
        assert!(images.end <= self.image_count(), "images of the file");
        let mut groups = images.start / GROUP..images.end.div_ceil(GROUP);
        // Neighbouring groups are verified in one go.
        while let Some(first) = groups.find(|&group| !self.verified.get(group)) {
            let rest = groups.clone().take_while(|&group| !self.verified.get(group)).count();
            let last = first + 1 + rest;
            let of_groups = first * GROUP..self.image_count().min(last * GROUP);
            self.check_texts(&of_groups)?;
            self.check_graphs(&of_groups)?;
            self.check_pictures(&of_groups)?;
            (first..last).for_each(|group| self.verified.set(group));
            groups.start = last;
        }
        Ok(())
    }

    /// Checks the lengths of the sections with an entry for each image, node, edge or caption.
    pub(super) fn check_lengths(&self) -> Result<()> {
        let check = Check { file: &self.file };
        let (images, edges) = (self.image_count(), self.edge_subject.len());
        check.that("coco_id", self.coco_id.len() == images, "not one entry per image")?;
        let captions = self.captions.offsets.len().checked_sub(1);
        check.that("caption_text_offsets", captions.is_some(), "no entry")?;
        for (name, section, total) in [
            ("node_offsets", &self.node_offsets, self.node_object.len()),
            ("edge_offsets", &self.edge_offsets, edges),
            ("caption_offsets", &self.caption_offsets, captions.unwrap_or(0)),
        ] {
            let problem = format!("not {images} ascending ranges of 0..{total}");
            check.that(name, section.len() == images + 1, &problem)?;
        }
        for (name, section) in [("edge_predicate", &self.edge_predicate), ("edge_object", &self.edge_object)]
        {
            check.that(name, section.len() == edges, "not one entry per edge")?;
        }
        if let Some(sizes) = &self.image_size {
            check.that("image_size", sizes.len() == 2 * images, "not a width and a height per image")?;
        }
        if let Some(boxes) = &self.object_box {
            let objects = self.node_object.len().checked_sub(images);
            let holds = objects.is_some_and(|objects| boxes.len() == ObjectBox::NUMBERS * objects);
            check.that("object_box", holds, "not a box per object")?;
        }
        if let Some(urls) = &self.urls {
            check.that("url_text_offsets", urls.offsets.len() == images + 1, "not one entry per image")?;
        }
        Ok(())
    }

    /// Checks the captions and their vectors, and addresses.
    fn check_texts(&self, images: &Range<usize>) -> Result<()> {
        let check = Check { file: &self.file };
        let values = images.start * self.word_width..images.end * self.word_width;
        let finite = check.part(&self.caption_vectors, values)?.iter().all(|value| value.is_finite());
        check.that("caption_vectors", finite, "a value is not finite")?;
        check.part(&self.coco_id, images.clone())?;
        let captions = self.captions.offsets.len() - 1;
        let captions = check.ranges("caption_offsets", &self.caption_offsets, images, captions)?;
        check.some_texts("caption", &self.captions, &captions)?;
        if let Some(urls) = &self.urls {
            check.some_texts("url", urls, images)?;
            let url = |image| Some(self.text(urls, image)).filter(|url| !url.is_empty());
            let holds = images.clone().filter_map(url).all(is_web_address);
            check.that("url_text", holds, "an address is not http or https")?;
        }
        Ok(())
    }

    /// Checks image sizes and boxes. Requires checked graphs.
    fn check_pictures(&self, images: &Range<usize>) -> Result<()> {
        let check = Check { file: &self.file };
        if let Some(sizes) = &self.image_size {
            let sizes = check.part(sizes, 2 * images.start..2 * images.end)?;
            let holds = sizes.chunks_exact(2).all(|size| (size[0] == 0) == (size[1] == 0));
            check.that("image_size", holds, "not a width and a height per image")?;
        }
        let Some(boxes) = &self.object_box else { return Ok(()) };
        // Each preceding image has one node without a box.
        let offsets = self.file.slice(&self.node_offsets);
        let objects = [images.start, images.end].map(|image| (offsets[image] as usize).checked_sub(image));
        let [Some(first), Some(last)] = objects else {
            return check.that("object_box", false, "not a box per object");
        };
        check.part(boxes, first * ObjectBox::NUMBERS..last * ObjectBox::NUMBERS)?;
        for image in images.clone() {
            let size = self.image_size_at(image);
            let fits = |object: &ObjectBox| size.is_some_and(|size| object.fits(size));
            if !self.boxes_at(image).flatten().all(|object| fits(&object)) {
                let place = format!("boxes of image {}", self.image_id(image));
                return Err(check.invalid(place, "a box is not within the image".into()));
            }
        }
        Ok(())
    }

    /// Checks index ranges, and the positions of the image node and the `in image` edges.
    fn check_graphs(&self, images: &Range<usize>) -> Result<()> {
        let check = Check { file: &self.file };
        let nodes = check.ranges("node_offsets", &self.node_offsets, images, self.node_object.len())?;
        let edges = check.ranges("edge_offsets", &self.edge_offsets, images, self.edge_subject.len())?;
        check.part(&self.node_object, nodes)?;
        for section in [&self.edge_subject, &self.edge_predicate, &self.edge_object] {
            check.part(section, edges.clone())?;
        }
        let (image_type, in_image) = (self.object_count() as u32 - 1, self.predicate_count() as u32 - 1);
        for image in images.clone() {
            let graph = self.graph_at(image);
            let place = || format!("graph of image {}", self.image_id(image));
            let below = |values: &[u32], limit: usize| values.iter().all(|&value| (value as usize) < limit);
            let in_range = below(graph.node_object, self.object_count())
                && below(graph.edge_predicate, self.predicate_count())
                && below(graph.edge_subject, graph.node_count())
                && below(graph.edge_object, graph.node_count());
            if !in_range {
                return Err(check.invalid(place(), "a type or node is out of range".into()));
            }
            let objects = graph.node_count().saturating_sub(1);
            let relationships = graph.edge_count().checked_sub(objects);
            let augmented = graph.node_object.last() == Some(&image_type)
                && graph.node_object.iter().filter(|&&object| object == image_type).count() == 1
                && relationships.is_some_and(|first| {
                    (first..graph.edge_count()).zip(0u32..).all(|(edge, node)| {
                        graph.edge_subject[edge] == node
                            && graph.edge_predicate[edge] == in_image
                            && graph.edge_object[edge] as usize == objects
                    }) && !graph.edge_predicate[..first].contains(&in_image)
                });
            if !augmented {
                return Err(check.invalid(place(), "its image node or `in image` edges are missing".into()));
            }
        }
        Ok(())
    }
}

impl Check<'_> {
    /// Elements of a section whose bytes are intact.
    fn part<T: Element>(&self, section: &Section<T>, elements: Range<usize>) -> Result<&[T]> {
        self.file.verify(section, elements.clone())?;
        Ok(&self.file.slice(section)[elements])
    }

    /// Checks the offsets of some parts of `0..total`: ascending, and from 0 to the total at the ends. Returns what they cover.
    fn ranges(
        &self,
        name: &str,
        section: &Section<u64>,
        parts: &Range<usize>,
        total: usize,
    ) -> Result<Range<usize>> {
        let offsets = self.part(section, parts.start..parts.end + 1)?;
        let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
        let all = section.len() - 1;
        let holds = offsets.is_sorted()
            && last <= total as u64
            && (parts.start > 0 || first == 0)
            && (parts.end < all || last == total as u64);
        self.that(name, holds, &format!("not {all} ascending ranges of 0..{total}"))?;
        Ok(first as usize..last as usize)
    }

    /// Checks some of the texts.
    fn some_texts(&self, name: &str, texts: &Texts, some: &Range<usize>) -> Result<()> {
        let bytes = self.ranges(&format!("{name}_text_offsets"), &texts.offsets, some, texts.text.len())?;
        let text = std::str::from_utf8(self.part(&texts.text, bytes.clone())?).ok();
        let offsets = &self.file.slice(&texts.offsets)[some.start..=some.end];
        let boundary =
            |text: &str| offsets.iter().all(|&at| text.is_char_boundary(at as usize - bytes.start));
        self.that(&format!("{name}_text"), text.is_some_and(boundary), "not UTF-8")
    }
}
