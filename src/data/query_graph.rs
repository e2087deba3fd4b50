//! Query graphs written by hand, by names: a JSON list of `[subject, predicate, object]`.
//!
//! ```json
//! [["man", "throwing", "frisbee"],
//!  ["man", "wearing", "hat"],
//!  ["man#2", "watching", "man"]]
//! ```
//!
//! One name is one object; `#` and a number tell objects of one type apart. A list of a single name, `["tree"]`, is an
//! object without a relationship.

use std::path::Path;

use crate::data::Dataset;
use crate::data::scene_graph::SceneGraphBuf;
use crate::error::{Error, Result};

/// Reads the query graph in `path`, with the types of `dataset`, augmented.
pub fn read_query_graph(path: &Path, dataset: &Dataset) -> Result<SceneGraphBuf> {
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    let statements: Vec<Vec<String>> = serde_json::from_str(&text).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Error::invalid(
            path,
            place,
            error.to_string(),
            r#"write a list such as [["man", "throwing", "frisbee"]]"#,
        )
    })?;
    let mut nodes: Vec<(String, u32)> = Vec::new();
    let mut relationships = Vec::new();
    for (index, statement) in statements.iter().enumerate() {
        let place = || format!("statement {}", index + 1);
        let mut node = |name: &str| -> Result<u32> {
            let name = name.trim().to_lowercase();
            if let Some(node) = nodes.iter().position(|(known, _)| *known == name) {
                return Ok(node as u32);
            }
            let type_name = name.split('#').next().unwrap_or_default().trim();
            let object = dataset
                .find_object(type_name)
                .ok_or_else(|| unknown(path, place(), "object", type_name, names_of_objects(dataset)))?;
            nodes.push((name, object));
            Ok(nodes.len() as u32 - 1)
        };
        match statement.as_slice() {
            [object] => {
                node(object)?;
            }
            [subject, predicate, object] => {
                let name = predicate.trim().to_lowercase();
                let predicate = dataset.find_predicate(&name).ok_or_else(|| {
                    unknown(path, place(), "predicate", &name, names_of_predicates(dataset))
                })?;
                relationships.push((node(subject)?, predicate, node(object)?));
            }
            other => {
                return Err(Error::invalid(
                    path,
                    place(),
                    format!("has {} names", other.len()),
                    "write subject, predicate and object, or a single object",
                ));
            }
        }
    }
    if nodes.is_empty() {
        return Err(Error::invalid(path, "list", "is empty", "name at least one object"));
    }
    let objects: Vec<u32> = nodes.into_iter().map(|(_, object)| object).collect();
    let (image, in_image) = (dataset.object_count() as u32 - 1, dataset.predicate_count() as u32 - 1);
    Ok(SceneGraphBuf::augmented(&objects, &relationships, image, in_image))
}

fn names_of_objects(dataset: &Dataset) -> impl Iterator<Item = &str> {
    (0..dataset.object_count()).map(|t| dataset.object_name(t))
}

fn names_of_predicates(dataset: &Dataset) -> impl Iterator<Item = &str> {
    (0..dataset.predicate_count()).map(|t| dataset.predicate_name(t))
}

/// An error that names the closest known names.
fn unknown<'a>(
    path: &Path,
    place: String,
    kind: &str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> Error {
    const SUGGESTIONS: usize = 5;
    let mut scored: Vec<(f64, &str)> =
        known.map(|other| (strsim::jaro_winkler(name, other), other)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let closest: Vec<&str> = scored.iter().take(SUGGESTIONS).map(|(_, other)| *other).collect();
    Error::invalid(
        path,
        place,
        format!("the data has no {kind} {name:?}"),
        format!("use a name of its vocabulary, such as {}", closest.join(", ")),
    )
}
