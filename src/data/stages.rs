//! Counts after every stage of the preparation.

use std::fmt;

use serde::Serialize;

use super::raw::ids::Spellings;
use super::raw::oddities::Oddities;
use super::split::Twins;
use crate::terminal::wrap;

/// Counts of every stage, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stages {
    /// The graph file before any stage.
    pub graph_file: Counts,
    /// Distinct object names in the graph file, in lower case.
    pub object_names: u64,
    /// Distinct predicates in the graph file, in lower case.
    pub predicate_names: u64,
    /// Oddities of the graph file.
    #[serde(flatten)]
    pub oddities: Oddities,
    /// How ids are spelled in all raw files.
    #[serde(flatten)]
    pub spellings: Spellings,
    /// Images that have a COCO id.
    pub with_coco_id: u64,
    /// Those of them that have captions.
    pub joined: Counts,
    /// Object types that occur often enough, without `image`.
    pub object_types: u64,
    /// Predicate types that occur often enough, without `in image`.
    pub predicate_types: u64,
    /// The graph file after the filter, without the join.
    pub filtered_graph_file: Counts,
    /// Joined images dropped because too few of their objects have a kept type.
    pub too_few_objects: u64,
    /// Joined images dropped because too many of their objects have a kept type.
    pub too_many_objects: u64,
    /// Joined images dropped because too few relationships remain.
    pub too_few_relationships: u64,
    /// Joined images that pass the filter.
    pub filtered: Counts,
    /// Exact duplicates of relationships dropped in the filtered images.
    pub duplicate_relationships: u64,
    /// Boxes and addresses of photographs of the filtered images.
    #[serde(flatten)]
    pub pictures: Pictures,
    /// Captions in the caption files.
    pub captions_read: u64,
    /// Captions left out because an earlier one has the same annotation id, image and text.
    pub captions_repeated: u64,
    /// Captions kept although an earlier one of another image or text has the same annotation id.
    pub captions_clashing: u64,
    /// Captions of the filtered images.
    pub captions: u64,
    /// Those of them without any known word; their vector is zero.
    pub captions_without_known_word: u64,
    /// Filtered images dropped because no caption has a known word.
    pub images_without_known_word: u64,
    /// Width of the word vectors.
    pub word_width: u64,
    /// Distinct words in captions and names.
    pub words: u64,
    /// Those of them that have a vector.
    pub words_known: u64,
    /// Content of the data file.
    pub kept: Counts,
    /// Number of images in train, validation and test.
    pub splits: [u64; 3],
    /// Images of the data file that show one photograph.
    pub twins: Twins,
}

/// Photographs of the images that pass the filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pictures {
    /// Images with known size.
    pub images_with_size: u64,
    /// Boxes kept, for objects of kept types.
    pub boxes: u64,
    /// Those of them that were clipped at the border of the image.
    pub boxes_cut: u64,
    /// Boxes dropped because they lie completely outside of the image.
    pub boxes_outside: u64,
    /// Boxes dropped because the size of their image is unknown.
    pub boxes_without_image_size: u64,
    /// Addresses kept.
    pub urls: u64,
    /// Addresses dropped because they are not http or https.
    pub urls_refused: u64,
}

/// Number of images, objects and relationships.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Number of images.
    pub images: u64,
    /// Number of objects, without image nodes.
    pub objects: u64,
    /// Number of relationships, without `in image` edges.
    pub relationships: u64,
}

impl Counts {
    /// Adds one image.
    pub fn add(&mut self, objects: usize, relationships: usize) {
        self.images += 1;
        self.objects += objects as u64;
        self.relationships += relationships as u64;
    }

    /// Mean number of objects per image.
    pub fn mean_objects(&self) -> f64 {
        self.objects as f64 / self.images.max(1) as f64
    }

    /// Mean number of relationships per image.
    pub fn mean_relationships(&self) -> f64 {
        self.relationships as f64 / self.images.max(1) as f64
    }
}

impl Stages {
    /// Describes the stages up to the filter in one short sentence, for errors.
    pub fn summary(&self) -> String {
        format!(
            "{} images in the graph file, {} with a COCO id, {} with captions; {} object and {} predicate types \
             kept; {} have too few objects, {} too many, {} too few relationships",
            self.graph_file.images,
            self.with_coco_id,
            self.joined.images,
            self.object_types,
            self.predicate_types,
            self.too_few_objects,
            self.too_many_objects,
            self.too_few_relationships,
        )
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<28}{:>9}{:>11}{:>15}{:>11}{:>15}",
            "", "images", "objects", "relationships", "obj./image", "rel./image"
        )?;
        let mut counts = |label: &str, counts: &Counts| {
            let Counts { images, objects, relationships } = counts;
            let (per_image, edges_per_image) = (counts.mean_objects(), counts.mean_relationships());
            writeln!(
                f,
                "{label:<28}{images:>9}{objects:>11}{relationships:>15}{per_image:>11.2}{edges_per_image:>15.2}"
            )
        };
        counts("graph file", &self.graph_file)?;
        counts("  joined with captions", &self.joined)?;
        counts("  filtered without join", &self.filtered_graph_file)?;
        counts("joined and filtered", &self.filtered)?;
        counts("written", &self.kept)?;
        let [train, validation, test] = self.splits;
        let (oddities, spellings, pictures) = (&self.oddities, &self.spellings, &self.pictures);
        let lines = [
            ("images with a COCO id", self.with_coco_id.to_string()),
            (
                "types before the filter",
                format!("{} objects, {} predicates", self.object_names, self.predicate_names),
            ),
            ("types kept", format!("{} objects, {} predicates", self.object_types, self.predicate_types)),
            (
                "joined images dropped",
                format!(
                    "{} too few objects, {} too many, {} too few relationships, {} no known word",
                    self.too_few_objects,
                    self.too_many_objects,
                    self.too_few_relationships,
                    self.images_without_known_word
                ),
            ),
            ("relationships dropped", format!("{} duplicates", self.duplicate_relationships)),
            (
                "oddities of the graph file",
                format!(
                    "{} objects without name, {} repeated objects, {} relationships without predicate, {} without \
                     an object",
                    oddities.objects_without_name,
                    oddities.repeated_objects,
                    oddities.relationships_without_predicate,
                    oddities.relationships_without_object
                ),
            ),
            (
                "spellings of all files",
                format!(
                    "{} ids as text or with a fraction, {} negative or empty ids read as none, {} NaN or infinite \
                     values read as none",
                    spellings.respelled_ids, spellings.placeholder_ids, spellings.not_finite
                ),
            ),
            (
                "boxes of filtered images",
                format!(
                    "{} kept, {} of them cut at the border; {} outside, {} in images of unknown size; in the graph \
                     file {} objects without a box, {} boxes without area",
                    pictures.boxes,
                    pictures.boxes_cut,
                    pictures.boxes_outside,
                    pictures.boxes_without_image_size,
                    oddities.objects_without_box,
                    oddities.boxes_without_area
                ),
            ),
            (
                "addresses of photographs",
                format!("{} kept, {} not http or https", pictures.urls, pictures.urls_refused),
            ),
            (
                "captions",
                format!(
                    "{} read, {} repeated, {} of filtered images, {} without known word, {} with the id of another",
                    self.captions_read,
                    self.captions_repeated,
                    self.captions,
                    self.captions_without_known_word,
                    self.captions_clashing
                ),
            ),
            (
                "words",
                format!(
                    "{} of {} known, vectors of {} numbers",
                    self.words_known, self.words, self.word_width
                ),
            ),
            ("split", format!("{train} train, {validation} validation, {test} test")),
            ("images of one photograph", self.twins.to_string()),
        ];
        for (label, text) in lines {
            writeln!(f, "{label:<28}{}", wrap(&text, 28, 28))?;
        }
        Ok(())
    }
}
