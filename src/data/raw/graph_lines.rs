//! Graphs by name as records, one per line or one after the other:
//! `{"image_id": 7, "objects": ["man", "horse"], "relationships": [[0, "riding", 1]]}`. Relationships refer to objects by their
//! position from 0.

use serde::Deserialize;

use super::ids::{self, Id};
use super::json_stream::{Shape, records};
use super::raw_box::RawBox;
use super::raw_file::RawFile;
use super::raw_graphs::{RawGraphs, RawObject, RawRelationship};
use crate::Result;

/// The graph of an image.
#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    image_id: Id,
    /// Name of `image_id` in older files.
    #[serde(default)]
    id: Id,
    /// Names.
    objects: Vec<String>,
    /// Subject, predicate, object.
    #[serde(default)]
    relationships: Vec<(u64, String, u64)>,
}

/// Reads the records of a file and calls `each` after every one. Memory does not grow with the file, so images may have the same
/// id.
pub(in crate::data) fn read(
    file: RawFile,
    skip_absent_objects: bool,
    mut each: impl FnMut(&mut RawGraphs) -> Result<()>,
) -> Result<RawGraphs> {
    let path = file.path().to_path_buf();
    let mut graphs = RawGraphs::default();
    let not_finite =
        records(file, Shape::Lines, |name, record: Record| {
            let Record { image_id, id, objects, relationships } = record;
            let image_id = ids::of_image(&path, name.number, [image_id, id], &mut graphs.spellings)?;
            let objects = (0..).zip(objects).map(|(id, name)| RawObject { id, name, place: RawBox::NONE });
            let (image, local) = graphs.add_image(&path, image_id, None, objects)?;
            let relationships = relationships
                .into_iter()
                .map(|(subject, predicate, object)| RawRelationship { subject, predicate, object });
            graphs.set_relationships(&path, image, &local, relationships, skip_absent_objects)?;
            each(&mut graphs)?;
            graphs.forget_ids();
            Ok(())
        })?;
    graphs.spellings.not_finite = not_finite;
    Ok(graphs)
}
