//! GQA scene graphs: a map from image id to
//! `{width, height, objects: {id: {name, x, y, w, h, relations: [{name, object}]}}}`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ids::{self, Id};
use super::json_stream::{Shape, records};
use super::raw_box::RawBox;
use super::raw_file::RawFile;
use super::raw_graphs::{RawGraphs, RawObject, RawRelationship};
use crate::data::object_box::ImageSize;
use crate::terminal::excerpt;
use crate::{Error, Result};

#[derive(Deserialize)]
#[serde(expecting = "a scene graph")]
struct GraphRecord {
    width: Option<f64>,
    height: Option<f64>,
    objects: BTreeMap<String, ObjectRecord>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct ObjectRecord {
    name: String,
    #[serde(default)]
    relations: Vec<RelationRecord>,
    x: Option<f64>,
    y: Option<f64>,
    w: Option<f64>,
    h: Option<f64>,
}

#[derive(Deserialize)]
#[serde(expecting = "a relation")]
struct RelationRecord {
    name: String,
    #[serde(deserialize_with = "ids::text")]
    object: String,
}

/// Reads a GQA graph file; the objects of an image are ordered by their ids, as text. Calls `each` after every image.
pub(super) fn read(
    file: RawFile,
    skip_absent_objects: bool,
    mut each: impl FnMut(&mut RawGraphs) -> Result<()>,
) -> Result<RawGraphs> {
    let path = file.path().to_path_buf();
    let mut graphs = RawGraphs::default();
    let not_finite = records(file, Shape::Map, |name, record: GraphRecord| {
        // A key of a map is always a text, so this is no odd spelling.
        let image_id = name.key.parse().ok().and_then(|id: Id| id.value).ok_or_else(|| {
            let problem = "not a Visual Genome image id";
            let place = format!("image `{}`", excerpt(&name.key));
            Error::invalid(&path, place, problem, "use GQA's own scene graph files")
        })?;
        let size = ImageSize::new(record.width, record.height);
        let mut relationships = Vec::new();
        let mut objects = Vec::with_capacity(record.objects.len());
        for (id, object) in record.objects {
            relationships.extend(object.relations.into_iter().map(|relation| RawRelationship {
                subject: id.clone(),
                predicate: relation.name,
                object: relation.object,
            }));
            let ObjectRecord { name, x, y, w, h, .. } = object;
            objects.push(RawObject { id, name, place: RawBox { x, y, w, h } });
        }
        let (image, local) = graphs.add_image(&path, image_id, size, objects)?;
        graphs.set_relationships(&path, image, &local, relationships, skip_absent_objects)?;
        each(&mut graphs)
    })?;
    graphs.spellings.not_finite += not_finite;
    Ok(graphs)
}
