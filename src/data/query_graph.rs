//! Hand-written query graphs, by names: a JSON list of `[subject, predicate, object]`.
//!
//! ```json
//! [["man", "throwing", "frisbee"],
//!  ["man", "wearing", "hat"],
//!  ["man#2", "watching", "man"]]
//! ```
//!
//! Each name is one object; `#` and a number distinguish objects of the same type. A list with a single name,
//! `["tree"]`, is an object without a relationship. Objects are numbered in the order of their first mention.
//! A repeated statement counts once, as in the data. A list has at most [`MOST_STATEMENTS`] statements; the time to read it is
//! proportional to its length.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use crate::data::scene_graph::{SceneGraph, SceneGraphBuf};
use crate::data::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::files::text::{for_each_line, read_text, read_text_from};
use crate::terminal::{cut, excerpt};

/// Largest number of statements of a query. The largest image of the paper's data has some 400.
pub const MOST_STATEMENTS: usize = 100_000;

/// Longest line of a file of queries.
const MOST_LINE_BYTES: usize = 1 << 20;

/// Largest number of unknown names in one message.
const MOST_UNKNOWN: usize = 20;

/// Either one name (an object), or three: subject, predicate, object.
pub type Statement = Vec<String>;

/// A graph by names, with the corresponding types of a vocabulary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryGraph {
    /// `[objects]` names in lower case, including `#` and number.
    pub names: Vec<String>,
    /// `[objects] -> object type` type of each object.
    pub objects: Vec<u32>,
    /// Relationships: subject (`-> objects`), predicate type, object (`-> objects`).
    pub relationships: Vec<(u32, u32, u32)>,
}

/// A problem with a list of statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryProblem {
    /// Index of the statement, from 0; `None` if the problem concerns the whole list.
    pub statement: Option<usize>,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
    /// Names in the vocabulary that are closest to an unknown name.
    pub suggestions: Vec<String>,
}

impl QueryProblem {
    fn new(statement: Option<usize>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        QueryProblem { statement, problem: problem.into(), remedy: remedy.into(), suggestions: Vec::new() }
    }

    /// Reports an unknown name, with the closest known ones.
    fn unknown(statement: usize, kind: &str, name: &str, known: &[String]) -> Self {
        const SUGGESTIONS: usize = 5;
        // The comparison takes the product of the lengths.
        let start = excerpt(name);
        let mut scored: Vec<(f64, &String)> =
            known.iter().map(|other| (strsim::jaro_winkler(&start, &excerpt(other)), other)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let suggestions: Vec<String> =
            scored.iter().take(SUGGESTIONS).map(|(_, other)| other.to_string()).collect();
        QueryProblem {
            statement: Some(statement),
            problem: format!("the data has no {kind} \"{start}\""),
            remedy: format!("use a name of its vocabulary, such as {}", cut(&suggestions.join(", "), 80)),
            suggestions,
        }
    }

    /// One problem for all of them; the first one's position and suggestions.
    fn all(problems: Vec<QueryProblem>) -> Option<Self> {
        const EACH: usize = 2;
        let several = problems.len() > 1;
        let words = problems.iter().map(|one| {
            let place = one.statement.map_or(0, |index| index + 1);
            let names =
                one.suggestions.iter().take(EACH).map(String::as_str).collect::<Vec<_>>().join(" or ");
            format!("{} ({} in statement {place}?)", one.problem.trim_start_matches("the data has "), names)
        });
        let words = words.collect::<Vec<_>>().join(", ");
        let first = problems.into_iter().next()?;
        Some(match several {
            true => QueryProblem {
                problem: format!("the data has {words}"),
                remedy: "use names of its vocabulary".into(),
                ..first
            },
            false => first,
        })
    }

    /// Describes the position in words.
    pub fn place(&self) -> String {
        self.statement.map_or("list".into(), |index| format!("statement {}", index + 1))
    }
}

impl fmt::Display for QueryProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place(), self.problem, self.remedy)
    }
}

impl QueryGraph {
    /// Builds the graph described by `statements`, with the types of `vocabulary`.
    pub fn new(statements: &[Statement], vocabulary: &Vocabulary) -> std::result::Result<Self, QueryProblem> {
        if statements.len() > MOST_STATEMENTS {
            let problem = format!("has {} statements", statements.len());
            let remedy = format!("write at most {MOST_STATEMENTS}");
            return Err(QueryProblem::new(None, problem, remedy));
        }
        let mut graph = QueryGraph::default();
        let mut nodes = HashMap::new();
        let mut stated = HashSet::new();
        // All misspelt names are reported at once, each the first time.
        let mut unknown = Vec::new();
        let (mut names, mut misspelt) = (HashSet::new(), 0);
        for (index, statement) in statements.iter().enumerate() {
            // Suggestions for a name take time in proportion to the vocabulary.
            if misspelt >= MOST_UNKNOWN {
                break;
            }
            let mut report = |problem: QueryProblem| {
                misspelt += 1;
                if names.insert(problem.problem.clone()) {
                    unknown.push(problem);
                }
            };
            let mut node = |name| graph.node(&mut nodes, index, name, vocabulary).map_err(&mut report).ok();
            match statement.as_slice() {
                [object] => {
                    node(object);
                }
                [subject, predicate, object] => {
                    let (subject, object) = (node(subject), node(object));
                    let name = vocabulary.normalised(predicate);
                    let found = vocabulary.find_predicate(&name);
                    if found.is_none() {
                        report(QueryProblem::unknown(index, "predicate", &name, vocabulary.predicates()));
                    }
                    if let (Some(subject), Some(predicate), Some(object)) = (subject, found, object)
                        && stated.insert((subject, predicate, object))
                    {
                        graph.relationships.push((subject, predicate, object));
                    }
                }
                other => {
                    return Err(QueryProblem::new(
                        Some(index),
                        format!("has {} names", other.len()),
                        "write subject, predicate and object, or a single object",
                    ));
                }
            }
        }
        if let Some(problem) = QueryProblem::all(unknown) {
            return Err(problem);
        }
        match graph.names.is_empty() {
            true => Err(QueryProblem::new(None, "is empty", "name at least one object")),
            false => Ok(graph),
        }
    }

    /// Index of the object with this name, which is added if it is new. `nodes` are the indices of the known names.
    fn node(
        &mut self,
        nodes: &mut HashMap<String, u32>,
        statement: usize,
        name: &str,
        vocabulary: &Vocabulary,
    ) -> std::result::Result<u32, QueryProblem> {
        let name = vocabulary.normalised(name);
        if let Some(&node) = nodes.get(&name) {
            return Ok(node);
        }
        let type_name = name.split('#').next().unwrap_or_default().trim();
        let object = vocabulary.find_object(&name).or_else(|| vocabulary.find_object(type_name));
        let object = object
            .ok_or_else(|| QueryProblem::unknown(statement, "object", type_name, vocabulary.objects()))?;
        let node = self.names.len() as u32;
        nodes.insert(name.clone(), node);
        self.names.push(name);
        self.objects.push(object);
        Ok(node)
    }

    /// Adds an object and returns its index. Its name is that of its type, with a number from the second one on. `counts` has
    /// the number of objects of each type so far.
    pub(super) fn add_object(
        &mut self,
        object: u32,
        counts: &mut HashMap<u32, u32>,
        vocabulary: &Vocabulary,
    ) -> u32 {
        let count = counts.entry(object).or_insert(0);
        *count += 1;
        let name = &vocabulary.objects()[object as usize];
        self.names.push(if *count == 1 { name.clone() } else { format!("{name}#{count}") });
        self.objects.push(object);
        self.objects.len() as u32 - 1
    }

    /// The augmented graph.
    pub fn augmented(&self, vocabulary: &Vocabulary) -> SceneGraphBuf {
        let (image, in_image) = (vocabulary.image_type(), vocabulary.in_image_type());
        SceneGraphBuf::augmented(&self.objects, &self.relationships, image, in_image)
    }

    /// The augmented graph without the `in image` edges of the objects called `without`. Nodes without any
    /// edge are removed, as [`incomplete_query`](crate::evaluation::incomplete_query()) does for its
    /// augmented queries.
    pub fn partly_augmented(
        &self,
        without: &[String],
        vocabulary: &Vocabulary,
    ) -> std::result::Result<SceneGraphBuf, QueryProblem> {
        let nodes: HashMap<&str, usize> = self.names.iter().map(String::as_str).zip(0..).collect();
        let mut in_image = vec![true; self.objects.len()];
        for name in without {
            let name = name.trim().to_lowercase();
            let &node = nodes.get(name.as_str()).ok_or_else(|| {
                let problem =
                    format!("no statement names the object {name:?} that is to be without its edge");
                QueryProblem::new(None, problem, "name objects of the graph")
            })?;
            in_image[node] = false;
        }
        let mut related = vec![false; self.objects.len()];
        for &(subject, _, object) in &self.relationships {
            related[subject as usize] = true;
            related[object as usize] = true;
        }
        let (image_type, in_image_type) = (vocabulary.image_type(), vocabulary.in_image_type());
        let mut graph = SceneGraphBuf::default();
        let mut place = vec![0; self.objects.len()];
        for (node, &object) in self.objects.iter().enumerate() {
            if in_image[node] || related[node] {
                place[node] = graph.node_object.len() as u32;
                graph.node_object.push(object);
            }
        }
        for &(subject, predicate, object) in &self.relationships {
            graph.push_edge(place[subject as usize], predicate, place[object as usize]);
        }
        if in_image.contains(&true) {
            let image = graph.node_object.len() as u32;
            graph.node_object.push(image_type);
            for (node, _) in in_image.iter().enumerate().filter(|&(_, &kept)| kept) {
                graph.push_edge(place[node], in_image_type, image);
            }
        }
        match graph.edge_subject.is_empty() {
            true => Err(QueryProblem::new(None, "has no edge left", "keep one edge at least")),
            false => Ok(graph),
        }
    }

    /// Names of a graph of `vocabulary`'s types, fully or partly augmented, and the objects that lack their `in image`
    /// edge. [`partly_augmented`](Self::partly_augmented) reverses this.
    pub fn naming(graph: SceneGraph<'_>, vocabulary: &Vocabulary) -> (Self, Vec<String>) {
        let (image, in_image) = (vocabulary.image_type(), vocabulary.in_image_type());
        let mut named = QueryGraph::default();
        let mut counts = HashMap::new();
        for &object in graph.node_object.iter().filter(|&&object| object != image) {
            named.add_object(object, &mut counts, vocabulary);
        }
        let mut without = vec![true; named.objects.len()];
        for edge in 0..graph.edge_count() {
            let (subject, predicate, object) =
                (graph.edge_subject[edge], graph.edge_predicate[edge], graph.edge_object[edge]);
            match predicate == in_image {
                true => without[subject as usize] = false,
                false => named.relationships.push((subject, predicate, object)),
            }
        }
        let without = named.names.iter().zip(without).filter(|(_, without)| *without);
        let without = without.map(|(name, _)| name.clone()).collect();
        (named, without)
    }

    /// Statements that describe the graph: its objects in order, then its relationships.
    pub fn statements(&self, vocabulary: &Vocabulary) -> Vec<Statement> {
        let objects = self.names.iter().map(|name| vec![name.clone()]);
        let relationships = self.relationships.iter().map(|&(subject, predicate, object)| {
            let name = |node: u32| self.names[node as usize].clone();
            vec![name(subject), vocabulary.predicates()[predicate as usize].clone(), name(object)]
        });
        objects.chain(relationships).collect()
    }
}

/// Reads the query graph in `path`, with the types of `vocabulary`, and augments it.
pub fn read_query_graph(path: &Path, vocabulary: &Vocabulary) -> Result<SceneGraphBuf> {
    parse(path, &read_text(path)?, vocabulary)
}

/// The file that a graph given on the command line names; `None` for JSON itself and for `-`.
pub fn graph_file(given: &str) -> Option<&Path> {
    let is_json = given.trim_start().starts_with(['[', '{', '"']);
    (given != "-" && !is_json).then(|| Path::new(given))
}

/// The query graph given on the command line, as [`read_query_graph`] reads it: JSON itself, a file that holds it, or `-`
/// for standard input.
pub fn query_graph(given: &str, vocabulary: &Vocabulary) -> Result<SceneGraphBuf> {
    match graph_file(given) {
        Some(path) => read_query_graph(path, vocabulary),
        None if given == "-" => {
            let name = Path::new("standard input");
            parse(name, &read_text_from(name, std::io::stdin())?, vocabulary)
        }
        None => parse(Path::new("--graph"), given, vocabulary),
    }
}

/// Reads a file with one query graph in each line, as [`read_query_graph`] reads one. Blank lines are left out.
pub fn read_query_graphs(path: &Path, vocabulary: &Vocabulary) -> Result<Vec<SceneGraphBuf>> {
    let mut graphs = Vec::new();
    for_each_line(path, MOST_LINE_BYTES, |number, line| {
        if line.trim().is_empty() {
            return Ok(());
        }
        graphs.push(parse_at(path, Some(number), line, vocabulary)?);
        Ok(())
    })?;
    if graphs.is_empty() {
        let remedy = r#"write one list such as [["man", "throwing", "frisbee"]] in each line"#;
        return Err(Error::invalid(path, "queries", "there are none", remedy));
    }
    Ok(graphs)
}

/// The graph that `text` describes; `source` is named in messages.
fn parse(source: &Path, text: &str, vocabulary: &Vocabulary) -> Result<SceneGraphBuf> {
    parse_at(source, None, text, vocabulary)
}

/// Like [`parse`], for a text that is this line of `source`.
fn parse_at(source: &Path, line: Option<u64>, text: &str, vocabulary: &Vocabulary) -> Result<SceneGraphBuf> {
    let statements: Vec<Statement> = serde_json::from_str(text).map_err(|error| {
        let (mut problem, column) = (error.to_string(), error.column());
        let place = match line {
            Some(line) => {
                // The JSON reader counts from the line that it was given.
                problem.truncate(problem.find(" at line ").unwrap_or(problem.len()));
                format!("line {line}, column {column}")
            }
            None => format!("line {}, column {column}", error.line()),
        };
        Error::invalid(source, place, problem, r#"write a list such as [["man", "throwing", "frisbee"]]"#)
    })?;
    let graph = QueryGraph::new(&statements, vocabulary).map_err(|wrong| {
        let place = line.map_or(wrong.place(), |line| format!("line {line}, {}", wrong.place()));
        Error::invalid(source, place, wrong.problem, wrong.remedy)
    })?;
    Ok(graph.augmented(vocabulary))
}
