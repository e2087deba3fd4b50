//! Content of a data file, and writing it.

use std::path::Path;

use serde_json::Value;

use super::format::{Element, METADATA, Writer};
use super::object_box::{ImageSize, ObjectBox};
use super::scene_graph::SceneGraphBuf;
use crate::Result;

/// Name of the last object type, the type of every graph's image node.
///
/// An annotated object may have the same name; it has a separate type.
pub const IMAGE: &str = "image";
/// Name of the last predicate type, the type of the edges to the image node.
pub const IN_IMAGE: &str = "in image";

/// Complete content of a data file.
#[derive(Clone, Debug, Default)]
pub struct DatasetContents {
    /// Width of caption and name vectors.
    pub word_width: usize,
    /// Object types; the last is [`IMAGE`].
    pub objects: Vec<TypeContents>,
    /// Predicate types; the last is [`IN_IMAGE`].
    pub predicates: Vec<TypeContents>,
    /// Images of train, validation and test, in any order.
    pub images: [Vec<ImageContents>; 3],
    /// Provenance of the data, for readers and for comparison.
    pub metadata: Value,
}

/// An object or predicate type.
#[derive(Clone, Debug, Default)]
pub struct TypeContents {
    /// Name of the type.
    pub name: String,
    /// `[word_width]` mean word vector of the name; `None` if no word is known.
    pub vector: Option<Vec<f32>>,
    /// Number of occurrences in the raw file.
    pub occurrences: u64,
}

/// An image.
#[derive(Clone, Debug, Default)]
pub struct ImageContents {
    /// Visual Genome id.
    pub image_id: u64,
    /// COCO id.
    pub coco_id: u64,
    /// Captions as written.
    pub captions: Vec<String>,
    /// `[word_width]` mean of the captions' unit vectors.
    pub caption_vector: Vec<f32>,
    /// Augmented scene graph.
    pub graph: SceneGraphBuf,
    /// Size of the image, if known.
    pub size: Option<ImageSize>,
    /// `[objects]` boxes, or empty if no object has one; [`ObjectBox::NONE`] for an object without a box.
    pub boxes: Vec<ObjectBox>,
    /// Address of the photograph; empty if unknown.
    pub url: String,
}

impl TypeContents {
    /// Creates a type with the given word vector.
    pub fn new(name: impl Into<String>, vector: Option<Vec<f32>>) -> Self {
        TypeContents { name: name.into(), vector, occurrences: 0 }
    }
}

impl DatasetContents {
    /// Writes a data file at `path`; images are sorted by id within their split.
    ///
    /// Panics if the content is inconsistent: a vector has another width, or the last types are not [`IMAGE`]
    /// and [`IN_IMAGE`]. Graphs are checked when the file is opened.
    pub fn write(&mut self, path: impl AsRef<Path>) -> Result<()> {
        assert_eq!(self.objects.last().map(|last| last.name.as_str()), Some(IMAGE), "last object type");
        assert_eq!(
            self.predicates.last().map(|last| last.name.as_str()),
            Some(IN_IMAGE),
            "last predicate type"
        );
        for part in &mut self.images {
            part.sort_by_key(|image| image.image_id);
        }
        let images: Vec<&ImageContents> = self.images.iter().flatten().collect();
        let width = self.word_width;
        assert!(images.iter().all(|image| image.caption_vector.len() == width), "caption vectors' width");

        let mut writer = Writer::create(path)?;
        let metadata = serde_json::to_vec(&self.metadata).expect("a JSON value can be written");
        writer.section(METADATA, [metadata])?;
        writer.section("split_offsets", [offsets(self.images.iter().map(Vec::len))])?;
        scalars(&mut writer, "image_id", images.iter().map(|image| image.image_id))?;
        scalars(&mut writer, "coco_id", images.iter().map(|image| image.coco_id))?;

        let graphs = || images.iter().map(|image| &image.graph);
        writer.section("node_offsets", [offsets(graphs().map(|graph| graph.node_object.len()))])?;
        writer.section("edge_offsets", [offsets(graphs().map(|graph| graph.edge_subject.len()))])?;
        writer.section::<u32, _>("node_object", graphs().map(|graph| &graph.node_object))?;
        writer.section::<u32, _>("edge_subject", graphs().map(|graph| &graph.edge_subject))?;
        writer.section::<u32, _>("edge_predicate", graphs().map(|graph| &graph.edge_predicate))?;
        writer.section::<u32, _>("edge_object", graphs().map(|graph| &graph.edge_object))?;

        writer.section("caption_offsets", [offsets(images.iter().map(|image| image.captions.len()))])?;
        let captions: Vec<&str> =
            images.iter().flat_map(|image| &image.captions).map(String::as_str).collect();
        texts(&mut writer, "caption", &captions)?;
        writer.section::<f32, _>("caption_vectors", images.iter().map(|image| &image.caption_vector))?;
        pictures(&mut writer, &images)?;
        types(&mut writer, "object", &self.objects, width)?;
        types(&mut writer, "predicate", &self.predicates, width)?;
        writer.block_checksums()?;
        writer.finish()
    }
}

/// Writes the optional sections, if they are not empty.
fn pictures(writer: &mut Writer, images: &[&ImageContents]) -> Result<()> {
    if images.iter().any(|image| image.size.is_some()) {
        let sizes = images.iter().map(|image| image.size.map_or([0; 2], |size| [size.width, size.height]));
        writer.section::<u16, _>("image_size", sizes)?;
    }
    if images.iter().any(|image| !image.boxes.is_empty()) {
        let objects = |image: &ImageContents| image.graph.node_object.len() - 1;
        let boxes = images.iter().map(|image| match image.boxes.is_empty() {
            true => vec![0; ObjectBox::NUMBERS * objects(image)],
            false => bytemuck::cast_slice(&image.boxes).to_vec(),
        });
        writer.section::<u16, _>("object_box", boxes)?;
    }
    if images.iter().any(|image| !image.url.is_empty()) {
        let urls: Vec<&str> = images.iter().map(|image| image.url.as_str()).collect();
        texts(writer, "url", &urls)?;
    }
    Ok(())
}

fn types(writer: &mut Writer, kind: &str, types: &[TypeContents], width: usize) -> Result<()> {
    let names: Vec<&str> = types.iter().map(|entry| entry.name.as_str()).collect();
    texts(writer, &format!("{kind}_name"), &names)?;
    scalars(writer, &format!("{kind}_occurrences"), types.iter().map(|entry| entry.occurrences))?;
    scalars(writer, &format!("{kind}_known"), types.iter().map(|entry| u8::from(entry.vector.is_some())))?;
    let unknown = vec![0.0; width];
    let vectors = types.iter().map(|entry| entry.vector.as_ref().unwrap_or(&unknown));
    let vectors = vectors.inspect(|vector| assert_eq!(vector.len(), width, "type vectors' width"));
    writer.section::<f32, _>(&format!("{kind}_vectors"), vectors)
}

fn texts(writer: &mut Writer, name: &str, texts: &[&str]) -> Result<()> {
    writer.section(&format!("{name}_text_offsets"), [offsets(texts.iter().map(|text| text.len()))])?;
    writer.section::<u8, _>(&format!("{name}_text"), texts)
}

fn scalars<T: Element>(writer: &mut Writer, name: &str, values: impl Iterator<Item = T>) -> Result<()> {
    writer.section(name, [values.collect::<Vec<T>>()])
}

/// Cumulative sums, from 0 to the total.
fn offsets(lengths: impl Iterator<Item = usize>) -> Vec<u64> {
    let mut sum = 0;
    let sums = lengths.map(|length| {
        sum += length as u64;
        sum
    });
    std::iter::once(0).chain(sums).collect()
}
