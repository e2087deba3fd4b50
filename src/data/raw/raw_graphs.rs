//! Scene graphs of all formats in one compact form: interned names, flat arrays, local node indices.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::ops::Range;
use std::path::Path;

use super::ids::Spellings;
use super::oddities::Oddities;
use super::raw_box::RawBox;
use crate::data::object_box::{Corners, ImageSize};
use crate::terminal::excerpt;
use crate::{Error, Result};

/// Graphs of a raw file: about 12 bytes per object, 8 of them for its box, and 12 per relationship.
#[derive(Debug, Default)]
pub struct RawGraphs {
    /// Names of objects; the first is empty and stands for "no name".
    pub object_names: Names,
    /// Predicates; the first is empty and stands for "no predicate".
    pub predicates: Names,
    /// Images in the order of the file.
    pub images: Vec<RawImage>,
    /// `-> object_names` objects of all images.
    pub objects: Vec<u32>,
    /// Box of each object; [`NO_CORNERS`](crate::data::object_box::NO_CORNERS) if it has none.
    pub boxes: Vec<Corners>,
    /// Relationships of all images: subject (local object), `-> predicates`, object (local object).
    pub relationships: Vec<[u32; 3]>,
    /// Oddities of the file.
    pub oddities: Oddities,
    /// How the ids are spelled.
    pub spellings: Spellings,
    /// Number of each image in the file, from 0, by its Visual Genome id.
    numbers: HashMap<u64, usize>,
}

/// An image, as ranges of the flat arrays.
#[derive(Clone, Debug)]
pub struct RawImage {
    /// Visual Genome id.
    pub image_id: u64,
    /// Size of the image, if the graph file contains it (as in GQA).
    pub size: Option<ImageSize>,
    /// Range of [`RawGraphs::objects`].
    pub objects: Range<usize>,
    /// Range of [`RawGraphs::relationships`].
    pub relationships: Range<usize>,
}

/// The graph of an image.
#[derive(Clone, Copy, Debug)]
pub(in crate::data) struct GraphView<'a> {
    pub image_id: u64,
    /// Size of the image, if the graph file contains it.
    pub size: Option<ImageSize>,
    /// `[objects] -> object_names`
    pub objects: &'a [u32],
    /// `[objects]` annotated boxes.
    pub boxes: &'a [Corners],
    /// `[relationships]` subject (local object), `-> predicates`, object (local object).
    pub relationships: &'a [[u32; 3]],
}

/// A name as it is compared: in lower case, without blanks around it.
pub(super) fn normalised(name: &str) -> String {
    name.trim().to_lowercase()
}

/// Distinct names, in lower case and trimmed, numbered in the order of their first occurrence.
#[derive(Debug)]
pub struct Names {
    texts: Vec<String>,
    index: HashMap<String, u32>,
}

impl Default for Names {
    fn default() -> Self {
        Names { texts: vec![String::new()], index: HashMap::from([(String::new(), 0)]) }
    }
}

impl Names {
    fn intern(&mut self, name: &str) -> u32 {
        let name = normalised(name);
        if let Some(&id) = self.index.get(&name) {
            return id;
        }
        let id = self.texts.len() as u32;
        self.texts.push(name.clone());
        self.index.insert(name, id);
        id
    }

    /// Number of distinct names, including the empty one.
    pub fn count(&self) -> usize {
        self.texts.len()
    }

    /// Name with this number.
    pub fn text(&self, id: usize) -> &str {
        &self.texts[id]
    }
}

/// An object as given in a file.
pub(super) struct RawObject<K> {
    pub id: K,
    pub name: String,
    pub place: RawBox,
}

/// A relationship as given in a file.
pub(super) struct RawRelationship<K> {
    pub subject: K,
    pub predicate: String,
    pub object: K,
}

impl RawGraphs {
    /// Number in the file, from 0, of the image with this id; also of a forgotten one.
    pub(super) fn number(&self, image_id: u64) -> Option<usize> {
        self.numbers.get(&image_id).copied()
    }

    /// The graph of an image.
    pub(in crate::data) fn view(&self, image: &RawImage) -> GraphView<'_> {
        GraphView {
            image_id: image.image_id,
            size: image.size,
            objects: &self.objects[image.objects.clone()],
            boxes: &self.boxes[image.objects.clone()],
            relationships: &self.relationships[image.relationships.clone()],
        }
    }

    /// Forgets the images, so that a file of any length can be read. Names, and which ids the file had, are kept.
    pub(in crate::data) fn forget_images(&mut self) {
        self.images.clear();
        self.objects.clear();
        self.boxes.clear();
        self.relationships.clear();
    }

    /// Forgets which ids the file had, and frees their memory.
    pub(in crate::data) fn forget_ids(&mut self) {
        self.numbers = HashMap::new();
    }

    /// Adds an image with its objects. Returns its index and the local index of each object id.
    pub(super) fn add_image<K: Eq + Hash>(
        &mut self,
        path: &Path,
        image_id: u64,
        size: Option<ImageSize>,
        objects: impl IntoIterator<Item = RawObject<K>>,
    ) -> Result<(usize, HashMap<K, u32>)> {
        let image = self.images.len();
        if self.numbers.insert(image_id, self.numbers.len()).is_some() {
            let problem = "it appears twice in the file";
            return Err(Error::invalid(path, format!("image {image_id}"), problem, "remove one of the two"));
        }
        let start = self.objects.len();
        let mut local = HashMap::new();
        for RawObject { id, name, place } in objects {
            let node = (self.objects.len() - start) as u32;
            if local.contains_key(&id) {
                self.oddities.repeated_objects += 1;
                continue;
            }
            local.insert(id, node);
            let name = self.object_names.intern(&name);
            self.oddities.objects_without_name += u64::from(name == 0);
            self.objects.push(name);
            self.boxes.push(place.corners(&mut self.oddities));
        }
        let relationships = self.relationships.len();
        self.images.push(RawImage {
            image_id,
            size,
            objects: start..self.objects.len(),
            relationships: relationships..relationships,
        });
        Ok((image, local))
    }

    /// Sets the relationships of `image`, as [`RawGraphs::add_relationships`] does.
    pub(super) fn set_relationships<K: Eq + Hash + Display>(
        &mut self,
        path: &Path,
        image: usize,
        local: &HashMap<K, u32>,
        relationships: impl IntoIterator<Item = RawRelationship<K>>,
        skip_absent_objects: bool,
    ) -> Result<()> {
        let start = self.relationships.len();
        let image_id = self.images[image].image_id;
        self.add_relationships(path, image_id, local, relationships, skip_absent_objects)?;
        self.images[image].relationships = start..self.relationships.len();
        Ok(())
    }

    /// Appends the relationships of an image, which may be forgotten. A relationship with an object that is not in `local` is an
    /// error, or with `skip_absent_objects` it is dropped and counted.
    pub(super) fn add_relationships<K: Eq + Hash + Display>(
        &mut self,
        path: &Path,
        image_id: u64,
        local: &HashMap<K, u32>,
        relationships: impl IntoIterator<Item = RawRelationship<K>>,
        skip_absent_objects: bool,
    ) -> Result<()> {
        for (number, RawRelationship { subject, predicate, object }) in relationships.into_iter().enumerate()
        {
            let (Some(&subject_node), Some(&object_node)) = (local.get(&subject), local.get(&object)) else {
                if skip_absent_objects {
                    self.oddities.relationships_without_object += 1;
                    continue;
                }
                let (end, id) =
                    if local.contains_key(&subject) { ("object", object) } else { ("subject", subject) };
                let id = excerpt(&id.to_string());
                let place = format!("image {image_id}, relationship {}", number + 1);
                let problem = format!("its {end}, object {id}, is not among the image's objects");
                let remedy = "correct it, or drop such relationships with --skip-absent-objects";
                return Err(Error::invalid(path, place, problem, remedy));
            };
            let predicate = self.predicates.intern(&predicate);
            self.oddities.relationships_without_predicate += u64::from(predicate == 0);
            self.relationships.push([subject_node, predicate, object_node]);
        }
        Ok(())
    }
}
