//! Visual Genome graphs: `scene_graphs.json`, or `objects.json` with `relationships.json`.
//!
//! The name of an object is the first of `names: [..]`, or `name`. Relationships refer to their objects by
//! `subject_id` and `object_id`, or contain them as `subject: {object_id, ..}` and `object: {..}`. Objects
//! merged by the annotators are also found by their `merged_object_ids`. Boxes are `x`, `y`, `w`, `h`.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::ids::{Id, Spellings};
use super::json_stream::{Shape, records};
use super::raw_box::RawBox;
use super::raw_file::RawFile;
use super::raw_graphs::{RawGraphs, RawObject, RawRelationship};
use super::stored_graphs::{GraphStore, StoredGraphs};
use super::{gqa, ids};
use crate::files::spill::Spill;
use crate::terminal::shorten;
use crate::{Error, Result};

#[derive(Deserialize)]
#[serde(expecting = "a scene graph")]
struct SceneGraphRecord {
    #[serde(default)]
    image_id: Id,
    /// Name of `image_id` in older files.
    #[serde(default)]
    id: Id,
    objects: Vec<ObjectRecord>,
    relationships: Vec<RelationshipRecord>,
}

#[derive(Deserialize)]
#[serde(expecting = "the objects of an image")]
struct ObjectsRecord {
    #[serde(default)]
    image_id: Id,
    /// Name of `image_id` in older files.
    #[serde(default)]
    id: Id,
    objects: Vec<ObjectRecord>,
}

#[derive(Deserialize)]
#[serde(expecting = "the relationships of an image")]
struct RelationshipsRecord {
    #[serde(default)]
    image_id: Id,
    /// Name of `image_id` in older files.
    #[serde(default)]
    id: Id,
    relationships: Vec<RelationshipRecord>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct ObjectRecord {
    #[serde(deserialize_with = "ids::required")]
    object_id: Id,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    merged_object_ids: Vec<Id>,
    x: Option<f64>,
    y: Option<f64>,
    w: Option<f64>,
    h: Option<f64>,
}

#[derive(Deserialize)]
#[serde(try_from = "RelationshipFields")]
struct RelationshipRecord {
    subject: Id,
    predicate: String,
    object: Id,
}

#[derive(Deserialize)]
#[serde(expecting = "a relationship")]
struct RelationshipFields {
    predicate: String,
    #[serde(default)]
    subject_id: Id,
    #[serde(default)]
    object_id: Id,
    subject: Option<EndRecord>,
    object: Option<EndRecord>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object of a relationship")]
struct EndRecord {
    #[serde(deserialize_with = "ids::required")]
    object_id: Id,
}

impl TryFrom<RelationshipFields> for RelationshipRecord {
    type Error = &'static str;

    fn try_from(fields: RelationshipFields) -> std::result::Result<Self, Self::Error> {
        let end =
            |id: Id, end: Option<EndRecord>| id.value.map_or(end.map(|end| end.object_id), |_| Some(id));
        match (end(fields.subject_id, fields.subject), end(fields.object_id, fields.object)) {
            (Some(subject), Some(object)) => {
                Ok(RelationshipRecord { subject, predicate: fields.predicate, object })
            }
            _ => Err("a relationship needs `subject_id` and `object_id`, or `subject` and `object`"),
        }
    }
}

impl RelationshipRecord {
    fn into_raw(self, spellings: &mut Spellings) -> RawRelationship<u64> {
        let (subject, object) =
            (spellings.count_required(self.subject), spellings.count_required(self.object));
        RawRelationship { subject, predicate: self.predicate, object }
    }
}

/// Objects of an image, and the pairs of a merged id and the id that it was merged into.
#[derive(Default)]
struct Objects {
    raw: Vec<RawObject<u64>>,
    merged: Vec<(u64, u64)>,
}

impl Objects {
    fn new(records: Vec<ObjectRecord>, spellings: &mut Spellings) -> Self {
        let mut objects = Objects::default();
        for ObjectRecord { object_id, names, name, merged_object_ids, x, y, w, h } in records {
            let id = spellings.count_required(object_id);
            let merged = merged_object_ids.into_iter().filter_map(|merged| spellings.count(merged));
            objects.merged.extend(merged.map(|merged| (merged, id)));
            let name = names.into_iter().next().unwrap_or(name);
            objects.raw.push(RawObject { id, name, place: RawBox { x, y, w, h } });
        }
        objects
    }

    /// Adds the image with these objects. Returns its index and the local index of each id, also of the merged ones.
    fn add_to(
        self,
        graphs: &mut RawGraphs,
        path: &Path,
        image_id: u64,
    ) -> Result<(usize, HashMap<u64, u32>)> {
        let (image, mut local) = graphs.add_image(path, image_id, None, self.raw)?;
        for (merged, id) in self.merged {
            let node = local[&id];
            local.entry(merged).or_insert(node);
        }
        Ok((image, local))
    }
}

/// Reads a graph file: Visual Genome's list or GQA's map, distinguished by the first character. Calls `each` after every image.
pub(in crate::data) fn read_scene_graphs(
    mut file: RawFile,
    skip_absent_objects: bool,
    mut each: impl FnMut(&mut RawGraphs) -> Result<()>,
) -> Result<RawGraphs> {
    if file.first_character()? == Some(b'{') {
        return gqa::read(file, skip_absent_objects, each);
    }
    let path = &file.path().to_path_buf();
    let mut graphs = RawGraphs::default();
    let mut spellings = Spellings::default();
    spellings.not_finite = records(file, Shape::Array, |name, record: SceneGraphRecord| {
        let image_id = ids::of_image(path, name.number, [record.image_id, record.id], &mut spellings)?;
        let objects = Objects::new(record.objects, &mut spellings);
        let (image, local) = objects.add_to(&mut graphs, path, image_id)?;
        let relationships = record.relationships.into_iter().map(|record| record.into_raw(&mut spellings));
        graphs.set_relationships(path, image, &local, relationships, skip_absent_objects)?;
        each(&mut graphs)
    })?;
    graphs.spellings = spellings;
    Ok(graphs)
}

/// Local nodes of the objects that relationships can name, for all images of an objects file, in temporary files.
struct Nodes {
    /// Object id and local node, image by image.
    nodes: Spill<[u64; 2]>,
    /// End of each image's part of `nodes`, which begins where the part before it ends.
    ends: Spill<u64>,
}

impl Nodes {
    fn push(&mut self, local: HashMap<u64, u32>) -> Result<()> {
        local.into_iter().try_for_each(|(id, node)| self.nodes.push([id, node.into()]))?;
        self.ends.push(self.nodes.len() as u64)
    }
}

/// Reads objects and relationships from two files, whose images may be in different orders, into temporary files in the folder of
/// `target`. Also returns what is known of all of them.
///
/// Memory holds the ids of the images, and which of them the second file had.
pub(in crate::data) fn read_objects_and_relationships(
    [objects_path, relationships_path]: [&Path; 2],
    most_expansion: u64,
    skip_absent_objects: bool,
    target: &Path,
) -> Result<(RawGraphs, StoredGraphs)> {
    let mut graphs = RawGraphs::default();
    let mut store = GraphStore::beside(target);
    let mut spellings = Spellings::default();
    let mut nodes = Nodes { nodes: Spill::beside(target), ends: Spill::beside(target) };
    let file = RawFile::open(objects_path, most_expansion)?;
    let not_finite = records(file, Shape::Array, |name, record: ObjectsRecord| {
        let image_id =
            ids::of_image(objects_path, name.number, [record.image_id, record.id], &mut spellings)?;
        let objects = Objects::new(record.objects, &mut spellings);
        let (_, local) = objects.add_to(&mut graphs, objects_path, image_id)?;
        store.take(&mut graphs)?;
        nodes.push(local)
    })?;
    spellings.not_finite += not_finite;
    let mut store = store.end_objects()?;
    let (nodes, ends) = (nodes.nodes.finish()?, nodes.ends.finish()?);
    let mut seen = vec![false; store.image_count()];
    let file = RawFile::open(relationships_path, most_expansion)?;
    let not_finite = records(file, Shape::Array, |name, record: RelationshipsRecord| {
        let given = [record.image_id, record.id];
        let image_id = ids::of_image(relationships_path, name.number, given, &mut spellings)?;
        let place = || format!("image {image_id}");
        let Some(number) = graphs.number(image_id) else {
            if record.relationships.is_empty() {
                return Ok(());
            }
            let objects = shorten(&objects_path.display().to_string(), 80);
            let problem = format!("it has relationships, but {objects} does not have it");
            let remedy = "use the two files of one release";
            return Err(Error::invalid(relationships_path, place(), problem, remedy));
        };
        if std::mem::replace(&mut seen[number], true) {
            let problem = "it appears twice in the file";
            return Err(Error::invalid(relationships_path, place(), problem, "remove one of the two"));
        }
        let start = number.checked_sub(1).map_or(0, |before| ends[before]);
        let of_image = &nodes[start as usize..ends[number] as usize];
        let local: HashMap<u64, u32> = of_image.iter().map(|&[id, node]| (id, node as u32)).collect();
        let relationships = record.relationships.into_iter().map(|record| record.into_raw(&mut spellings));
        graphs.add_relationships(relationships_path, image_id, &local, relationships, skip_absent_objects)?;
        store.take(number, &mut graphs)
    })?;
    spellings.not_finite += not_finite;
    graphs.spellings = spellings;
    Ok((graphs, store.finish()?))
}
