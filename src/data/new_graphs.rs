//! Graphs that a model never saw, in the types that it knows.
//!
//! A file is read graph by graph: Visual Genome's list, GQA's map, names in records or in Arrow batches, the format of
//! queries, or the predictions of a scene graph generator. Objects and relationships of unknown names are left out and counted by name, or refused. A graph of which
//! no object is left has nothing to be embedded by, so it is left out too.

use std::path::Path;

use serde::Serialize;
use xxhash_rust::xxh3::Xxh3Default;

use super::query_graph::Statement;
use super::raw::ids::Spellings;
use super::raw::predictions::{self, Predictions};
use super::raw::raw_file::{EXPANSION, RawFile};
use super::raw::raw_graphs::{Names, RawGraphs};
use super::raw::{graph_batches, graph_lines, query_graphs, visual_genome};
use super::scene_graph::SceneGraphBuf;
use super::selection::{Reduced, reduce};
use super::vocabulary::Vocabulary;
use crate::terminal::excerpt;
use crate::{Error, Result};

/// A graph of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGraph {
    /// Id of the image; the number of the graph in a file of queries, from 0.
    pub id: u64,
    /// File of the image, if the graphs are predictions.
    pub image_file: Option<String>,
    /// The augmented graph.
    pub graph: SceneGraphBuf,
}

/// How a file of graphs is read.
#[derive(Clone, Debug)]
pub struct GraphReading {
    /// The file is a generator's, with these names and limits.
    pub predictions: Option<Predictions>,
    /// Whether to drop relationships that refer to an absent object, instead of rejecting the file.
    pub skip_absent_objects: bool,
    /// Largest ratio of the size of a gzip file's content to that of the file.
    pub most_expansion: u64,
    /// What happens to names that the model does not know.
    pub unknown: Unknown,
}

/// What happens to names that the model does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Unknown {
    /// Objects and relationships of such names are left out and counted.
    #[default]
    Drop,
    /// The first graph with such a name ends the command with an error.
    Error,
}

impl Default for GraphReading {
    fn default() -> Self {
        GraphReading {
            predictions: None,
            skip_absent_objects: false,
            most_expansion: EXPANSION,
            unknown: Unknown::Drop,
        }
    }
}

/// What was left out of the graphs of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NewGraphCounts {
    /// Number of graphs with at least one known object.
    pub graphs: u64,
    /// Number of known objects in these graphs.
    pub objects: u64,
    /// Number of relationships in these graphs, between known objects and with a known predicate. Repeated ones count once.
    pub relationships: u64,
    /// Objects without a type, by name, the most frequent first.
    pub unknown_objects: Vec<(String, u64)>,
    /// Relationships with an unknown predicate, by name, the most frequent first.
    pub unknown_predicates: Vec<(String, u64)>,
    /// Relationships with a known predicate and an unknown object.
    pub relationships_of_unknown_objects: u64,
    /// Number of relationships that refer to an absent object, if the file is not rejected for them.
    pub relationships_of_absent_objects: u64,
    /// Ids of the graphs without any known object.
    pub left_out: Vec<u64>,
    /// How the ids are spelled.
    #[serde(flatten)]
    pub spellings: Spellings,
    /// Fingerprint of the graphs, in hexadecimal.
    pub fingerprint: String,
}

/// Types of interned names, looked up once per name, and how often names without a type occurred.
#[derive(Default)]
struct Lookup {
    types: Vec<Option<u32>>,
    unknown: Vec<u64>,
}

impl Lookup {
    /// Looks up names that are new since the last call.
    fn extend(&mut self, names: &Names, find: impl Fn(&str) -> Option<u32>) {
        (self.types.len()..names.count()).for_each(|name| self.types.push(find(names.text(name))));
        self.unknown.resize(self.types.len(), 0);
    }

    /// Names without a type that occurred, the most frequent first.
    fn unknown_names(&self, names: &Names) -> Vec<(String, u64)> {
        let mut unknown: Vec<(String, u64)> = (0..self.unknown.len())
            .filter(|&name| self.unknown[name] > 0)
            .map(|name| (names.text(name).to_string(), self.unknown[name]))
            .collect();
        unknown.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        unknown
    }
}

/// Converts graphs one at a time.
struct Conversion<'a> {
    vocabulary: &'a Vocabulary,
    objects: Lookup,
    predicates: Lookup,
    counts: NewGraphCounts,
    fingerprint: Xxh3Default,
    /// Files of the images, if the graphs are predictions.
    image_names: Option<&'a predictions::Names>,
    /// Source of the graphs, if unknown names are errors.
    strict: Option<&'a Path>,
    each: Each<'a>,
}

/// Takes one graph after the other. Not a type parameter: the readers would be compiled again for every caller.
type Each<'a> = &'a mut dyn FnMut(NewGraph) -> Result<()>;

impl<'a> Conversion<'a> {
    fn new(vocabulary: &'a Vocabulary, image_names: Option<&'a predictions::Names>, each: Each<'a>) -> Self {
        Conversion {
            vocabulary,
            objects: Lookup::default(),
            predicates: Lookup::default(),
            counts: NewGraphCounts::default(),
            fingerprint: Xxh3Default::new(),
            image_names,
            strict: None,
            each,
        }
    }

    /// The error of an unknown name in an image, if unknown names are errors.
    fn check_known(&self, image_id: u64, what: &str, name: &str) -> Result<()> {
        let Some(path) = self.strict else { return Ok(()) };
        let problem = format!("{what} \"{}\" is not a name that the model knows", excerpt(name));
        let remedy = "correct it, or leave such names out with --unknown drop";
        Err(Error::invalid(path, format!("image {image_id}"), problem, remedy))
    }

    /// Converts the one image of `raw`, and forgets it.
    fn convert(&mut self, raw: &mut RawGraphs) -> Result<()> {
        let vocabulary = self.vocabulary;
        // Only image nodes, and the edges to them, have the last types.
        self.objects.extend(&raw.object_names, |name| vocabulary.find_annotated_object(name));
        self.predicates.extend(&raw.predicates, |name| vocabulary.find_annotated_predicate(name));
        let image = raw.images[0].clone();
        let Reduced { objects, relationships, .. } =
            reduce(raw.view(&image), &self.objects.types, &self.predicates.types);
        for &name in &raw.objects[image.objects.clone()] {
            if self.objects.types[name as usize].is_none() {
                self.objects.unknown[name as usize] += 1;
                self.check_known(image.image_id, "object", raw.object_names.text(name as usize))?;
            }
        }
        for &[subject, predicate, object] in &raw.relationships[image.relationships.clone()] {
            let has_type = |node: u32| {
                let name = raw.objects[image.objects.start + node as usize];
                self.objects.types[name as usize].is_some()
            };
            match self.predicates.types[predicate as usize] {
                None => {
                    self.predicates.unknown[predicate as usize] += 1;
                    self.check_known(image.image_id, "predicate", raw.predicates.text(predicate as usize))?;
                }
                Some(_) if has_type(subject) && has_type(object) => {}
                Some(_) => self.counts.relationships_of_unknown_objects += 1,
            }
        }
        raw.forget_images();
        if objects.is_empty() {
            self.counts.left_out.push(image.image_id);
            return Ok(());
        }
        self.counts.graphs += 1;
        self.counts.objects += objects.len() as u64;
        self.counts.relationships += relationships.len() as u64;
        let (image_type, in_image) = (vocabulary.image_type(), vocabulary.in_image_type());
        let graph = SceneGraphBuf::augmented(&objects, &relationships, image_type, in_image);
        self.fingerprint.update(&image.image_id.to_le_bytes());
        for part in [&graph.node_object, &graph.edge_subject, &graph.edge_predicate, &graph.edge_object] {
            self.fingerprint.update(&(part.len() as u64).to_le_bytes());
            self.fingerprint.update(bytemuck::cast_slice(part));
        }
        let image_file = self.image_names.and_then(|names| names.file(image.image_id)).map(str::to_string);
        (self.each)(NewGraph { id: image.image_id, image_file, graph })
    }

    fn finish(mut self, raw: &RawGraphs) -> NewGraphCounts {
        self.counts.unknown_objects = self.objects.unknown_names(&raw.object_names);
        self.counts.unknown_predicates = self.predicates.unknown_names(&raw.predicates);
        self.counts.relationships_of_absent_objects = raw.oddities.relationships_without_object;
        self.counts.spellings = raw.spellings;
        self.counts.fingerprint = format!("{:016x}", self.fingerprint.digest());
        self.counts
    }
}

/// Like [`read_new_graphs`], for graphs in memory, each a list of statements as in a query. Their ids are 0, 1, 2 and so on.
pub fn named_graphs(
    graphs: Vec<Vec<Statement>>,
    vocabulary: &Vocabulary,
    mut each: impl FnMut(NewGraph) -> Result<()>,
) -> Result<NewGraphCounts> {
    let mut conversion = Conversion::new(vocabulary, None, &mut each);
    let mut raw = RawGraphs::default();
    for (statements, id) in graphs.into_iter().zip(0..) {
        query_graphs::add(&mut raw, Path::new("graphs"), id, (statements, vocabulary))?;
        conversion.convert(&mut raw)?;
    }
    Ok(conversion.finish(&raw))
}

/// Reads the graphs of `path` in the types of `vocabulary`, and calls `each` with one after the other.
pub fn read_new_graphs(
    path: &Path,
    reading: &GraphReading,
    vocabulary: &Vocabulary,
    mut each: impl FnMut(NewGraph) -> Result<()>,
) -> Result<NewGraphCounts> {
    read_graphs(path, reading, vocabulary, &mut each)
}

fn read_graphs(
    path: &Path,
    reading: &GraphReading,
    vocabulary: &Vocabulary,
    each: Each<'_>,
) -> Result<NewGraphCounts> {
    let names =
        reading.predictions.as_ref().map(|given| predictions::Names::read(&given.info)).transpose()?;
    let mut file = match reading.predictions {
        Some(_) => RawFile::open(path, reading.most_expansion)?,
        None => RawFile::open_text_or_arrow(path, reading.most_expansion)?,
    };
    let source = file.path().to_path_buf();
    let mut conversion = Conversion::new(vocabulary, names.as_ref(), each);
    conversion.strict = (reading.unknown == Unknown::Error).then_some(&source);
    let convert = |raw: &mut RawGraphs| conversion.convert(raw);
    let raw = match (&names, &reading.predictions) {
        (Some(names), Some(given)) => predictions::read(file, names, given.limits, convert)?,
        _ if file.is_arrow()? => graph_batches::read(file, reading.skip_absent_objects, convert)?,
        _ if file.first_two_characters()? == b"[[" => query_graphs::read(file, vocabulary, convert)?,
        _ if file.begins_with_a_record()? => graph_lines::read(file, reading.skip_absent_objects, convert)?,
        _ => visual_genome::read_scene_graphs(file, reading.skip_absent_objects, convert)?,
    };
    Ok(conversion.finish(&raw))
}
