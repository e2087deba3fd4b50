//! A prepared data file: graphs, captions, supervision and vocabulary as views of mapped memory.
//!
//! Images are indexed from 0: first train, then validation, then test, each by ascending image id.
//!
//! [`Dataset::open`] verifies the whole file. [`Dataset::map`] verifies what is small: the vocabulary, the splits and the ids of
//! the images. [`Dataset::verify`] then verifies images before they are used, once each, so a command reads the images that it
//! needs and no others. An image that was not verified cannot be read: that is a panic.

mod image_checks;

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::bits::Bits;
use super::format::{Container, Element, METADATA, Section};
use super::object_box::{ImageSize, ObjectBox};
use super::scene_graph::SceneGraph;
use super::similarity::Similarity;
use super::split::Split;
use super::vocabulary::Vocabulary;
use super::words::{TOKENISER, Tokeniser};
use crate::{Error, Result};

/// An open data file. Its content is checked once; views cost nothing afterwards.
#[derive(Debug)]
pub struct Dataset {
    file: Container,
    /// Groups of [`GROUP`] images that were verified.
    verified: Bits,
    metadata: Value,
    vocabulary: Vocabulary,
    splits: [Range<usize>; 3],
    word_width: usize,
    image_id: Section<u64>,
    coco_id: Section<u64>,
    node_offsets: Section<u64>,
    edge_offsets: Section<u64>,
    node_object: Section<u32>,
    edge_subject: Section<u32>,
    edge_predicate: Section<u32>,
    edge_object: Section<u32>,
    caption_offsets: Section<u64>,
    captions: Texts,
    caption_vectors: Section<f32>,
    image_size: Option<Section<u16>>,
    object_box: Option<Section<u16>>,
    urls: Option<Texts>,
    objects: Types,
    predicates: Types,
}

/// Number of images that are verified together: a bit is kept for each group.
const GROUP: usize = 64;

/// Strings, concatenated.
#[derive(Debug)]
struct Texts {
    offsets: Section<u64>,
    text: Section<u8>,
}

/// Object or predicate types.
#[derive(Debug)]
struct Types {
    occurrences: Section<u64>,
    known: Section<u8>,
    vectors: Section<f32>,
}

/// Tokeniser that the metadata name. Files of older versions name none; their words are those of ASCII.
fn tokeniser_of(metadata: &Value) -> serde_json::Result<Tokeniser> {
    // A subset has the metadata of its whole.
    let mut described = metadata;
    while let Some(whole) = described.get("whole") {
        described = whole;
    }
    match described.pointer("/options").and_then(|options| options.get(TOKENISER)) {
        Some(name) => Tokeniser::deserialize(name),
        None => Ok(Tokeniser::Ascii),
    }
}

impl Dataset {
    /// Opens and checks the data file at `path`, in one pass over its bytes.
    pub fn open(path: impl AsRef<Path>) -> Result<Dataset> {
        let dataset = Self::of_file(Container::open(path)?)?;
        dataset.verify(0..dataset.image_count())?;
        Ok(dataset)
    }

    /// Opens the data file at `path`. Reads 8 bytes per image and the vocabulary; images are then to be verified before they are
    /// used. A file of an older version, which has no checksums of parts, is read whole.
    pub fn map(path: impl AsRef<Path>) -> Result<Dataset> {
        Self::of_file(Container::map(path)?)
    }

    fn of_file(file: Container) -> Result<Dataset> {
        let check = Check { file: &file };
        let image_id = file.section("image_id")?;
        let images = check.intact::<u64>(&image_id)?.len();
        let metadata = file.section(METADATA)?;
        check.intact::<u8>(&metadata)?;
        let metadata = serde_json::from_slice(file.slice::<u8>(&metadata))
            .map_err(|error| check.invalid(METADATA, error.to_string()))?;
        let tokeniser =
            tokeniser_of(&metadata).map_err(|error| check.invalid(METADATA, error.to_string()))?;

        let split_offsets = file.section::<u64>("split_offsets")?;
        check.intact(&split_offsets)?;
        check.offsets("split_offsets", &split_offsets, 3, images)?;
        let bounds: Vec<usize> = file.slice(&split_offsets).iter().map(|&bound| bound as usize).collect();
        let splits = [bounds[0]..bounds[1], bounds[1]..bounds[2], bounds[2]..bounds[3]];
        for split in &splits {
            let ids = &file.slice(&image_id)[split.clone()];
            check.that("image_id", ids.is_sorted_by(|a, b| a < b), "image ids are not ascending")?;
        }

        let caption_vectors: Section<f32> = file.section("caption_vectors")?;
        let values = caption_vectors.len();
        let word_width = values.checked_div(images).unwrap_or(0);
        let problem = "no images, or caption vectors of no fixed width";
        check.that("caption_vectors", word_width > 0 && values == word_width * images, problem)?;

        let (objects, object_names) = check.types("object", word_width)?;
        let (predicates, predicate_names) = check.types("predicate", word_width)?;
        let vocabulary = Vocabulary::new(object_names, predicate_names, tokeniser)
            .map_err(|problem| check.invalid("type names", problem))?;
        let dataset = Dataset {
            verified: Bits::new(images.div_ceil(GROUP)),
            metadata,
            vocabulary,
            splits,
            word_width,
            image_id,
            coco_id: file.section("coco_id")?,
            node_offsets: file.section("node_offsets")?,
            edge_offsets: file.section("edge_offsets")?,
            node_object: file.section("node_object")?,
            edge_subject: file.section("edge_subject")?,
            edge_predicate: file.section("edge_predicate")?,
            edge_object: file.section("edge_object")?,
            caption_offsets: file.section("caption_offsets")?,
            captions: Texts::of_section(&file, "caption")?,
            caption_vectors,
            image_size: file.optional_section("image_size")?,
            object_box: file.optional_section("object_box")?,
            urls: match file.optional_section::<u8>("url_text")? {
                Some(_) => Some(Texts::of_section(&file, "url")?),
                None => None,
            },
            objects,
            predicates,
            file,
        };
        dataset.check_lengths()?;
        Ok(dataset)
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Identifies the content: a checksum of the checksums of all sections. It does not cover the provenance, so raw files of
    /// other names or other compression give the same.
    pub fn fingerprint(&self) -> u64 {
        self.file.content_checksum()
    }

    /// [`Dataset::fingerprint`] in hexadecimal.
    pub fn fingerprint_digits(&self) -> String {
        format!("{:016x}", self.fingerprint())
    }

    /// Provenance of the data: `options`, `sources` and `stages`, if `prepare` wrote the file.
    pub fn metadata(&self) -> &Value {
        &self.metadata
    }

    /// Names of the types.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Division of the captions and names into words.
    pub fn tokeniser(&self) -> Tokeniser {
        self.vocabulary.tokeniser()
    }

    /// Number of images in all splits.
    pub fn image_count(&self) -> usize {
        self.image_id.len()
    }

    /// Indices of the images in `split`.
    pub fn split(&self, split: Split) -> Range<usize> {
        match split {
            Split::Train => self.splits[0].clone(),
            Split::Validation => self.splits[1].clone(),
            Split::Test => self.splits[2].clone(),
            Split::All => 0..self.image_count(),
        }
    }

    /// Visual Genome id.
    pub fn image_id(&self, image: usize) -> u64 {
        self.file.slice(&self.image_id)[image]
    }

    /// An error if another process has written to the file since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.file.check_unchanged()
    }

    /// COCO id; two images may have the same one.
    pub fn coco_id(&self, image: usize) -> u64 {
        self.require(image);
        self.file.slice(&self.coco_id)[image]
    }

    /// Index of the image with this Visual Genome id.
    pub fn find_image(&self, image_id: u64) -> Option<usize> {
        let ids = self.file.slice(&self.image_id);
        self.splits
            .iter()
            .find_map(|split| Some(split.start + ids[split.clone()].binary_search(&image_id).ok()?))
    }

    /// Augmented scene graph, with node indices local to it.
    pub fn graph(&self, image: usize) -> SceneGraph<'_> {
        self.require(image);
        self.graph_at(image)
    }

    fn graph_at(&self, image: usize) -> SceneGraph<'_> {
        let nodes = range(self.file.slice(&self.node_offsets), image);
        let edges = range(self.file.slice(&self.edge_offsets), image);
        SceneGraph {
            node_object: &self.file.slice(&self.node_object)[nodes],
            edge_subject: &self.file.slice(&self.edge_subject)[edges.clone()],
            edge_predicate: &self.file.slice(&self.edge_predicate)[edges.clone()],
            edge_object: &self.file.slice(&self.edge_object)[edges],
        }
    }

    /// Size of the image in pixels, if the raw files contain it.
    pub fn image_size(&self, image: usize) -> Option<ImageSize> {
        self.require(image);
        self.image_size_at(image)
    }

    fn image_size_at(&self, image: usize) -> Option<ImageSize> {
        let numbers = &self.file.slice(self.image_size.as_ref()?)[2 * image..][..2];
        (numbers[0] > 0).then_some(ImageSize { width: numbers[0], height: numbers[1] })
    }

    /// Box of each object, without the image node; empty if the file has no boxes.
    pub fn boxes(&self, image: usize) -> impl Iterator<Item = Option<ObjectBox>> {
        self.require(image);
        self.boxes_at(image)
    }

    fn boxes_at(&self, image: usize) -> impl Iterator<Item = Option<ObjectBox>> {
        let nodes = range(self.file.slice(&self.node_offsets), image);
        // Each preceding image has one node without a box.
        let objects = nodes.start - image..nodes.end - image - 1;
        let boxes = self.object_box.as_ref().map_or(&[][..], |section| {
            let boxes: &[ObjectBox] = bytemuck::cast_slice(self.file.slice(section));
            &boxes[objects]
        });
        boxes.iter().map(|&found| (found != ObjectBox::NONE).then_some(found))
    }

    /// Address of the photograph (http or https), if the raw files contain one.
    pub fn url(&self, image: usize) -> Option<&str> {
        self.require(image);
        let url = self.text(self.urls.as_ref()?, image);
        (!url.is_empty()).then_some(url)
    }

    /// Captions as written.
    pub fn captions(&self, image: usize) -> impl Iterator<Item = &str> {
        self.require(image);
        range(self.file.slice(&self.caption_offsets), image).map(|caption| self.text(&self.captions, caption))
    }

    /// `[images, word_width]` mean of the unit vectors of each image's captions.
    pub fn caption_vectors(&self) -> &[f32] {
        self.caption_vectors_of(0..self.image_count())
    }

    /// `[images, word_width]` caption vectors of a range of images.
    pub fn caption_vectors_of(&self, images: Range<usize>) -> &[f32] {
        (images.start / GROUP..images.end.div_ceil(GROUP)).for_each(|group| self.require(group * GROUP));
        &self.file.slice(&self.caption_vectors)[images.start * self.word_width..images.end * self.word_width]
    }

    /// Width of the word vectors.
    pub fn word_width(&self) -> usize {
        self.word_width
    }

    /// Caption similarities of all images.
    pub fn similarity(&self) -> Similarity<'_> {
        Similarity::Factored { vectors: self.caption_vectors(), width: self.word_width }
    }

    /// Caption similarities of these images, which it verifies. The view has the other images too; they may be damaged and are not
    /// to be compared.
    pub fn similarity_of(&self, images: impl IntoIterator<Item = Range<usize>>) -> Result<Similarity<'_>> {
        images.into_iter().try_for_each(|images| self.verify(images))?;
        Ok(Similarity::Factored { vectors: self.file.slice(&self.caption_vectors), width: self.word_width })
    }

    /// Number of object types, including `image` (the last).
    pub fn object_count(&self) -> usize {
        self.file.slice(&self.objects.known).len()
    }

    /// Number of predicate types, including `in image` (the last).
    pub fn predicate_count(&self) -> usize {
        self.file.slice(&self.predicates.known).len()
    }

    /// Name of an object type.
    pub fn object_name(&self, object: usize) -> &str {
        &self.vocabulary.objects()[object]
    }

    /// Name of a predicate type.
    pub fn predicate_name(&self, predicate: usize) -> &str {
        &self.vocabulary.predicates()[predicate]
    }

    /// `[object types, word_width]` mean word vector of each name; zeros if no word is known.
    pub fn object_vectors(&self) -> &[f32] {
        self.file.slice(&self.objects.vectors)
    }

    /// `[predicate types, word_width]` mean word vector of each name; zeros if no word is known.
    pub fn predicate_vectors(&self) -> &[f32] {
        self.file.slice(&self.predicates.vectors)
    }

    /// Whether any word of the object type's name has a word vector.
    pub fn object_known(&self, object: usize) -> bool {
        self.file.slice(&self.objects.known)[object] != 0
    }

    /// Whether any word of the predicate type's name has a word vector.
    pub fn predicate_known(&self, predicate: usize) -> bool {
        self.file.slice(&self.predicates.known)[predicate] != 0
    }

    /// Number of occurrences of the object type in the raw file; 0 for `image`.
    pub fn object_occurrences(&self, object: usize) -> u64 {
        self.file.slice(&self.objects.occurrences)[object]
    }

    /// Number of occurrences of the predicate type in the raw file; 0 for `in image`.
    pub fn predicate_occurrences(&self, predicate: usize) -> u64 {
        self.file.slice(&self.predicates.occurrences)[predicate]
    }

    /// Names of a graph's objects, without the image node.
    pub fn object_names(&self, graph: SceneGraph<'_>) -> Vec<String> {
        let objects = &graph.node_object[..graph.node_count() - 1];
        objects.iter().map(|&object| self.object_name(object as usize).to_owned()).collect()
    }

    /// Relationships of an image, without its `in image` edges: subject (`-> objects`), name of the
    /// predicate, object (`-> objects`).
    pub fn relationships(&self, graph: SceneGraph<'_>) -> Vec<(usize, String, usize)> {
        // The `in image` edges, one per object, come last.
        (0..graph.edge_count() + 1 - graph.node_count())
            .map(|edge| {
                let predicate = self.predicate_name(graph.edge_predicate[edge] as usize).to_owned();
                (graph.edge_subject[edge] as usize, predicate, graph.edge_object[edge] as usize)
            })
            .collect()
    }

    fn require(&self, image: usize) {
        assert!(self.verified.get(image / GROUP), "image {image} is read before it was verified");
    }

    fn text(&self, texts: &Texts, index: usize) -> &str {
        let bytes = &self.file.slice(&texts.text)[range(self.file.slice(&texts.offsets), index)];
        std::str::from_utf8(bytes).expect("texts were verified")
    }
}

impl Texts {
    fn of_section(file: &Container, name: &str) -> Result<Self> {
        Ok(Texts {
            offsets: file.section(&format!("{name}_text_offsets"))?,
            text: file.section(&format!("{name}_text"))?,
        })
    }
}

fn range(offsets: &[u64], index: usize) -> Range<usize> {
    offsets[index] as usize..offsets[index + 1] as usize
}

/// Consistency checks of a file whose bytes are intact.
struct Check<'a> {
    file: &'a Container,
}

impl Check<'_> {
    fn invalid(&self, place: impl Into<String>, problem: String) -> Error {
        Error::invalid(self.file.path(), place, problem, "prepare it again")
    }

    fn that(&self, section: &str, holds: bool, problem: &str) -> Result<()> {
        if holds { Ok(()) } else { Err(self.invalid(format!("section {section}"), problem.into())) }
    }

    /// Checks for `parts + 1` ascending offsets from 0 to `total`.
    fn offsets(&self, name: &str, section: &Section<u64>, parts: usize, total: usize) -> Result<()> {
        let offsets = self.file.slice(section);
        let holds = offsets.len() == parts + 1
            && offsets[0] == 0
            && offsets[parts] == total as u64
            && offsets.is_sorted();
        self.that(name, holds, &format!("not {parts} ascending ranges of 0..{total}"))
    }

    /// Elements of a section whose bytes are intact.
    fn intact<T: Element>(&self, section: &Section<T>) -> Result<&[T]> {
        self.file.verify(section, 0..section.len())?;
        Ok(self.file.slice(section))
    }

    fn texts(&self, name: &str) -> Result<Texts> {
        let texts = Texts::of_section(self.file, name)?;
        let (offsets, bytes) = (self.intact(&texts.offsets)?, self.intact(&texts.text)?);
        self.offsets(
            &format!("{name}_text_offsets"),
            &texts.offsets,
            offsets.len().saturating_sub(1),
            bytes.len(),
        )?;
        let text = std::str::from_utf8(bytes).ok();
        let holds = text.is_some_and(|text| offsets.iter().all(|&at| text.is_char_boundary(at as usize)));
        self.that(&format!("{name}_text"), holds, "not UTF-8")?;
        Ok(texts)
    }

    /// The types of one kind, and their names.
    fn types(&self, kind: &str, width: usize) -> Result<(Types, Vec<String>)> {
        let names = self.texts(&format!("{kind}_name"))?;
        let offsets = self.file.slice(&names.offsets);
        let count = offsets.len() - 1;
        let types = Types {
            occurrences: self.file.section(&format!("{kind}_occurrences"))?,
            known: self.file.section(&format!("{kind}_known"))?,
            vectors: self.file.section(&format!("{kind}_vectors"))?,
        };
        let lengths = (self.intact(&types.occurrences)?.len(), self.intact(&types.known)?.len());
        let place = format!("{kind}_known");
        self.that(&place, lengths == (count, count) && count > 0, "not one entry per type")?;
        let vectors = self.intact(&types.vectors)?;
        let holds = vectors.len() == count * width && vectors.iter().all(|value| value.is_finite());
        self.that(&format!("{kind}_vectors"), holds, "not one finite vector per type")?;
        let text = self.file.slice(&names.text);
        let name = |index| String::from_utf8_lossy(&text[range(offsets, index)]).into_owned();
        Ok((types, (0..count).map(name).collect()))
    }
}
