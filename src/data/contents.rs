//! Content of a data file, and writing it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::format::{Element, METADATA, Writer};
use super::object_box::{ImageSize, ObjectBox};
use super::scene_graph::SceneGraphBuf;
use crate::Result;
use crate::files::spill::Spill;

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
        let mut writer = DatasetWriter::beside(path.as_ref(), self.word_width)?;
        for part in &mut self.images {
            part.sort_by_key(|image| image.image_id);
            part.iter().try_for_each(|image| writer.push(image))?;
            writer.end_split()?;
        }
        writer.finish(&self.objects, &self.predicates, &self.metadata)
    }
}

/// Writes a data file image by image, in the order of the file. The sections with entries of images grow in temporary files.
pub struct DatasetWriter {
    target: PathBuf,
    /// Width of caption and name vectors.
    width: usize,
    split_offsets: Spill<u64>,
    image_id: Spill<u64>,
    coco_id: Spill<u64>,
    node_offsets: Spill<u64>,
    edge_offsets: Spill<u64>,
    node_object: Spill<u32>,
    /// Subjects, predicates and objects of the edges.
    edges: [Spill<u32>; 3],
    caption_offsets: Spill<u64>,
    captions: Texts,
    caption_vectors: Spill<f32>,
    image_size: Optional<u16>,
    object_box: Optional<ObjectBox>,
    urls: Texts,
    has_urls: bool,
}

/// Texts, concatenated.
struct Texts {
    offsets: Spill<u64>,
    text: Spill<u8>,
}

/// A section that is left out if no entry of it is known.
struct Optional<T> {
    values: Spill<T>,
    known: bool,
}

impl DatasetWriter {
    /// Starts a data file at `target` with vectors of `width` values.
    pub fn beside(target: &Path, width: usize) -> Result<Self> {
        Ok(DatasetWriter {
            target: target.to_path_buf(),
            width,
            split_offsets: offsets(target)?,
            image_id: Spill::beside(target),
            coco_id: Spill::beside(target),
            node_offsets: offsets(target)?,
            edge_offsets: offsets(target)?,
            node_object: Spill::beside(target),
            edges: [Spill::beside(target), Spill::beside(target), Spill::beside(target)],
            caption_offsets: offsets(target)?,
            captions: Texts::beside(target)?,
            caption_vectors: Spill::beside(target),
            image_size: Optional { values: Spill::beside(target), known: false },
            object_box: Optional { values: Spill::beside(target), known: false },
            urls: Texts::beside(target)?,
            has_urls: false,
        })
    }

    /// Appends an image to the current split. Images of a split come by ascending id.
    pub fn push(&mut self, image: &ImageContents) -> Result<()> {
        assert_eq!(image.caption_vector.len(), self.width, "caption vectors' width");
        self.image_id.push(image.image_id)?;
        self.coco_id.push(image.coco_id)?;
        let graph = &image.graph;
        self.node_object.extend(&graph.node_object)?;
        let [subject, predicate, object] = &mut self.edges;
        subject.extend(&graph.edge_subject)?;
        predicate.extend(&graph.edge_predicate)?;
        object.extend(&graph.edge_object)?;
        self.node_offsets.push(self.node_object.len() as u64)?;
        self.edge_offsets.push(self.edges[0].len() as u64)?;
        image.captions.iter().try_for_each(|caption| self.captions.push(caption))?;
        self.caption_offsets.push(self.captions.offsets.len() as u64 - 1)?;
        self.caption_vectors.extend(&image.caption_vector)?;
        self.image_size.known |= image.size.is_some();
        self.image_size.values.extend(&image.size.map_or([0; 2], |size| [size.width, size.height]))?;
        self.object_box.known |= !image.boxes.is_empty();
        match image.boxes.is_empty() {
            true => {
                let objects = graph.node_object.len() - 1;
                (0..objects).try_for_each(|_| self.object_box.values.push(ObjectBox::NONE))?;
            }
            false => self.object_box.values.extend(&image.boxes)?,
        }
        self.has_urls |= !image.url.is_empty();
        self.urls.push(&image.url)
    }

    /// Ends train, validation or test.
    pub fn end_split(&mut self) -> Result<()> {
        self.split_offsets.push(self.image_id.len() as u64)
    }

    /// Writes the data file, with the provenance in `metadata`. Panics if the last types are not [`IMAGE`] and [`IN_IMAGE`].
    pub fn finish(
        self,
        objects: &[TypeContents],
        predicates: &[TypeContents],
        metadata: &Value,
    ) -> Result<()> {
        for (types, name) in [(objects, IMAGE), (predicates, IN_IMAGE)] {
            assert_eq!(types.last().map(|last| last.name.as_str()), Some(name), "last type");
        }
        let mut writer = Writer::create(&self.target)?;
        let metadata = serde_json::to_vec(metadata).expect("a JSON value can be written");
        writer.section(METADATA, [metadata])?;
        spilled(&mut writer, "split_offsets", self.split_offsets)?;
        spilled(&mut writer, "image_id", self.image_id)?;
        spilled(&mut writer, "coco_id", self.coco_id)?;
        spilled(&mut writer, "node_offsets", self.node_offsets)?;
        spilled(&mut writer, "edge_offsets", self.edge_offsets)?;
        spilled(&mut writer, "node_object", self.node_object)?;
        for (name, values) in ["edge_subject", "edge_predicate", "edge_object"].into_iter().zip(self.edges) {
            spilled(&mut writer, name, values)?;
        }
        spilled(&mut writer, "caption_offsets", self.caption_offsets)?;
        self.captions.write(&mut writer, "caption")?;
        spilled(&mut writer, "caption_vectors", self.caption_vectors)?;
        if self.image_size.known {
            spilled(&mut writer, "image_size", self.image_size.values)?;
        }
        if self.object_box.known {
            let boxes = self.object_box.values.finish()?;
            writer.section::<u16, _>("object_box", boxes.chunks(CHUNK).map(bytemuck::cast_slice))?;
        }
        if self.has_urls {
            self.urls.write(&mut writer, "url")?;
        }
        types(&mut writer, "object", objects, self.width)?;
        types(&mut writer, "predicate", predicates, self.width)?;
        writer.block_checksums()?;
        writer.finish()
    }
}

/// Values of a section that are written together.
const CHUNK: usize = 1 << 14;

fn spilled<T: Element>(writer: &mut Writer, name: &str, values: Spill<T>) -> Result<()> {
    writer.section::<T, _>(name, values.finish()?.chunks(CHUNK))
}

/// Cumulative sums, of which only the first, 0, is there.
fn offsets(target: &Path) -> Result<Spill<u64>> {
    let mut offsets = Spill::beside(target);
    offsets.push(0)?;
    Ok(offsets)
}

impl Texts {
    fn beside(target: &Path) -> Result<Self> {
        Ok(Texts { offsets: offsets(target)?, text: Spill::beside(target) })
    }

    fn push(&mut self, text: &str) -> Result<()> {
        self.text.extend(text.as_bytes())?;
        self.offsets.push(self.text.len() as u64)
    }

    fn write(self, writer: &mut Writer, name: &str) -> Result<()> {
        spilled(writer, &format!("{name}_text_offsets"), self.offsets)?;
        spilled(writer, &format!("{name}_text"), self.text)
    }
}

fn types(writer: &mut Writer, kind: &str, types: &[TypeContents], width: usize) -> Result<()> {
    let name = format!("{kind}_name");
    let ends = types.iter().scan(0, |end, entry| {
        *end += entry.name.len() as u64;
        Some(*end)
    });
    writer.section(&format!("{name}_text_offsets"), [[0].into_iter().chain(ends).collect::<Vec<u64>>()])?;
    writer.section::<u8, _>(&format!("{name}_text"), types.iter().map(|entry| entry.name.as_bytes()))?;
    scalars(writer, &format!("{kind}_occurrences"), types.iter().map(|entry| entry.occurrences))?;
    scalars(writer, &format!("{kind}_known"), types.iter().map(|entry| u8::from(entry.vector.is_some())))?;
    let unknown = vec![0.0; width];
    let vectors = types.iter().map(|entry| entry.vector.as_ref().unwrap_or(&unknown));
    let vectors = vectors.inspect(|vector| assert_eq!(vector.len(), width, "type vectors' width"));
    writer.section::<f32, _>(&format!("{kind}_vectors"), vectors)
}

fn scalars<T: Element>(writer: &mut Writer, name: &str, values: impl Iterator<Item = T>) -> Result<()> {
    writer.section(name, [values.collect::<Vec<T>>()])
}
