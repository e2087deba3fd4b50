//! Visual Genome graphs: `scene_graphs.json`, or `objects.json` with `relationships.json`.
//!
//! The name of an object is the first of `names: [..]`, or `name`. Relationships refer to their objects by
//! `subject_id` and `object_id`, or contain them as `subject: {object_id, ..}` and `object: {..}`. Objects
//! merged by the annotators are also found by their `merged_object_ids`. Boxes are `x`, `y`, `w`, `h`.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::json_stream::{Shape, records};
use super::raw_box::RawBox;
use super::raw_file::RawFile;
use super::raw_graphs::{RawGraphs, RawObject, RawRelationship};
use super::{gqa, ids};
use crate::{Error, Result};

#[derive(Deserialize)]
struct SceneGraphRecord {
    #[serde(default, deserialize_with = "ids::optional")]
    image_id: Option<u64>,
    /// Name of `image_id` in older files.
    #[serde(default, deserialize_with = "ids::optional")]
    id: Option<u64>,
    objects: Vec<ObjectRecord>,
    relationships: Vec<RelationshipRecord>,
}

#[derive(Deserialize)]
struct ObjectsRecord {
    #[serde(default, deserialize_with = "ids::optional")]
    image_id: Option<u64>,
    /// Name of `image_id` in older files.
    #[serde(default, deserialize_with = "ids::optional")]
    id: Option<u64>,
    objects: Vec<ObjectRecord>,
}

#[derive(Deserialize)]
struct RelationshipsRecord {
    #[serde(default, deserialize_with = "ids::optional")]
    image_id: Option<u64>,
    /// Name of `image_id` in older files.
    #[serde(default, deserialize_with = "ids::optional")]
    id: Option<u64>,
    relationships: Vec<RelationshipRecord>,
}

#[derive(Deserialize)]
struct ObjectRecord {
    #[serde(deserialize_with = "ids::required")]
    object_id: u64,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    merged_object_ids: Vec<u64>,
    x: Option<f64>,
    y: Option<f64>,
    w: Option<f64>,
    h: Option<f64>,
}

#[derive(Deserialize)]
#[serde(try_from = "RelationshipFields")]
struct RelationshipRecord(RawRelationship<u64>);

#[derive(Deserialize)]
struct RelationshipFields {
    predicate: String,
    #[serde(default, deserialize_with = "ids::optional")]
    subject_id: Option<u64>,
    #[serde(default, deserialize_with = "ids::optional")]
    object_id: Option<u64>,
    subject: Option<EndRecord>,
    object: Option<EndRecord>,
}

#[derive(Deserialize)]
struct EndRecord {
    #[serde(deserialize_with = "ids::required")]
    object_id: u64,
}

impl TryFrom<RelationshipFields> for RelationshipRecord {
    type Error = &'static str;

    fn try_from(fields: RelationshipFields) -> std::result::Result<Self, Self::Error> {
        let subject = fields.subject_id.or(fields.subject.map(|end| end.object_id));
        let object = fields.object_id.or(fields.object.map(|end| end.object_id));
        match (subject, object) {
            (Some(subject), Some(object)) => {
                Ok(RelationshipRecord(RawRelationship { subject, predicate: fields.predicate, object }))
            }
            _ => Err("a relationship needs `subject_id` and `object_id`, or `subject` and `object`"),
        }
    }
}

impl ObjectRecord {
    fn into_raw(self) -> RawObject<u64> {
        let ObjectRecord { object_id: id, x, y, w, h, .. } = self;
        let name = self.names.into_iter().next().unwrap_or(self.name);
        RawObject { id, name, place: RawBox { x, y, w, h } }
    }
}

/// Reads a graph file: Visual Genome's list or GQA's map, distinguished by the first character.
pub fn read_scene_graphs(path: &Path, skip_absent_objects: bool) -> Result<RawGraphs> {
    let mut file = RawFile::open(path)?;
    if file.first_character()? == Some(b'{') {
        return gqa::read(file, skip_absent_objects);
    }
    let mut graphs = RawGraphs::default();
    records(file, Shape::Array, |_, record: SceneGraphRecord| {
        let merged = merged_ids(&record.objects);
        let objects = record.objects.into_iter().map(ObjectRecord::into_raw);
        let (image, mut local) =
            graphs.add_image(path, ids::of_image(path, record.image_id, record.id)?, None, objects)?;
        add_merged(&mut local, &merged);
        let relationships = record.relationships.into_iter().map(|relationship| relationship.0);
        graphs.set_relationships(path, image, &local, relationships, skip_absent_objects)
    })?;
    Ok(graphs)
}

/// Reads objects and relationships from two files, whose images may be in different orders.
pub fn read_objects_and_relationships(
    objects_path: &Path,
    relationships_path: &Path,
    skip_absent_objects: bool,
) -> Result<RawGraphs> {
    let mut graphs = RawGraphs::default();
    // Object ids of all images, concatenated, each with its local node.
    let mut ids: Vec<(u64, u32)> = Vec::new();
    let mut ranges = Vec::new();
    records(RawFile::open(objects_path)?, Shape::Array, |_, record: ObjectsRecord| {
        let merged = merged_ids(&record.objects);
        let objects = record.objects.into_iter().map(ObjectRecord::into_raw);
        let (_, mut local) = graphs.add_image(
            objects_path,
            ids::of_image(objects_path, record.image_id, record.id)?,
            None,
            objects,
        )?;
        add_merged(&mut local, &merged);
        let start = ids.len();
        ids.extend(local);
        ranges.push(start..ids.len());
        Ok(())
    })?;
    let mut seen = vec![false; ranges.len()];
    records(RawFile::open(relationships_path)?, Shape::Array, |_, record: RelationshipsRecord| {
        let image_id = ids::of_image(relationships_path, record.image_id, record.id)?;
        let place = || format!("image {image_id}");
        let Some(image) = graphs.find(image_id) else {
            if record.relationships.is_empty() {
                return Ok(());
            }
            let problem = format!("it has relationships, but {} does not have it", objects_path.display());
            let remedy = "use the two files of one release";
            return Err(Error::invalid(relationships_path, place(), problem, remedy));
        };
        if std::mem::replace(&mut seen[image], true) {
            let problem = "it appears twice in the file";
            return Err(Error::invalid(relationships_path, place(), problem, "remove one of the two"));
        }
        let local: HashMap<u64, u32> = ids[ranges[image].clone()].iter().copied().collect();
        let relationships = record.relationships.into_iter().map(|relationship| relationship.0);
        graphs.set_relationships(relationships_path, image, &local, relationships, skip_absent_objects)
    })?;
    Ok(graphs)
}

/// Pairs of a merged id and the id that it was merged into.
fn merged_ids(objects: &[ObjectRecord]) -> Vec<(u64, u64)> {
    let merged = |object: &ObjectRecord| {
        let id = object.object_id;
        object.merged_object_ids.iter().map(move |&merged| (merged, id)).collect::<Vec<_>>()
    };
    objects.iter().flat_map(merged).collect()
}

fn add_merged(local: &mut HashMap<u64, u32>, merged: &[(u64, u64)]) {
    for (merged, id) in merged {
        let node = local[id];
        local.entry(*merged).or_insert(node);
    }
}
