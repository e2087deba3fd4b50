//! Graphs in the format of queries ([`query_graph`](crate::data::query_graph)): one list of statements, or a list of such lists.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use super::json_stream::{Shape, records};
use super::raw_box::RawBox;
use super::raw_file::RawFile;
use super::raw_graphs::{RawGraphs, RawObject, RawRelationship};
use crate::data::vocabulary::Vocabulary;
use crate::{Error, Result};

/// An element of the list.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a statement, which is a list of names, or a graph, which is a list of statements"
)]
enum Element {
    Statement(Vec<String>),
    Graph(Vec<Vec<String>>),
}

const REMEDY: &str = r#"write a list of graphs such as [["man", "throwing", "frisbee"], ["tree"]]"#;

/// Reads a file of graphs, which get the ids 0, 1, 2 and so on. Calls `each` after every graph.
pub(in crate::data) fn read(
    file: RawFile,
    vocabulary: &Vocabulary,
    mut each: impl FnMut(&mut RawGraphs) -> Result<()>,
) -> Result<RawGraphs> {
    let path = file.path().to_path_buf();
    let mut graphs = RawGraphs::default();
    let mut statements = Vec::new();
    let mut count = 0;
    records(file, Shape::Array, |name, element: Element| {
        let graph = match element {
            // An empty list is a graph without objects.
            Element::Statement(names) if names.is_empty() && statements.is_empty() => Vec::new(),
            Element::Statement(statement) if count == 0 => {
                statements.push(statement);
                return Ok(());
            }
            Element::Graph(graph) if statements.is_empty() => graph,
            _ => {
                let place = format!("record {}", name.number);
                return Err(Error::invalid(&path, place, "graphs and statements in one list", REMEDY));
            }
        };
        add(&mut graphs, &path, count, (graph, vocabulary))?;
        count += 1;
        each(&mut graphs)
    })?;
    if !statements.is_empty() {
        add(&mut graphs, &path, 0, (statements, vocabulary))?;
        each(&mut graphs)?;
    }
    Ok(graphs)
}

/// Adds the graph of `statements`, whose names are looked up in `vocabulary`.
pub(in crate::data) fn add(
    graphs: &mut RawGraphs,
    path: &Path,
    id: u64,
    (statements, vocabulary): (Vec<Vec<String>>, &Vocabulary),
) -> Result<()> {
    let mut objects: Vec<RawObject<String>> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut relationships = Vec::new();
    let mut object = |written: &str| {
        let key = vocabulary.normalised(written);
        if seen.insert(key.clone()) {
            // The number behind `#` distinguishes objects of one type, unless a type has this very name.
            let type_name = key.split('#').next().unwrap_or_default();
            let name = if vocabulary.find_object(&key).is_some() { &key } else { type_name }.to_string();
            objects.push(RawObject { id: key.clone(), name, place: RawBox::NONE });
        }
        key
    };
    for (index, statement) in statements.iter().enumerate() {
        match statement.as_slice() {
            [name] => {
                object(name);
            }
            [subject, predicate, name] => {
                let (subject, name) = (object(subject), object(name));
                relationships.push(RawRelationship { subject, predicate: predicate.clone(), object: name });
            }
            other => {
                let place = format!("graph {}, statement {}", id + 1, index + 1);
                let problem = format!("has {} names", other.len());
                let remedy = "write subject, predicate and object, or a single object";
                return Err(Error::invalid(path, place, problem, remedy));
            }
        }
    }
    let (image, local) = graphs.add_image(path, id, None, objects)?;
    graphs.set_relationships(path, image, &local, relationships, false)
}
