//! Long query graphs: time in proportion to their length, and a limit.

use std::time::{Duration, Instant};

use crate::raw_files::RawFiles;
use scenerank::data::Dataset;
use scenerank::data::prepare::prepare;
use scenerank::data::query_graph::{MOST_STATEMENTS, QueryGraph, Statement, read_query_graph};
use serde_json::json;

fn statements(count: usize) -> Vec<Statement> {
    (0..count).map(|at| [format!("man#{at}"), "throws".into(), format!("ball#{}", at / 2)].to_vec()).collect()
}

#[test]
fn the_longest_query_takes_no_time() {
    let files = RawFiles::new();
    prepare(&files.preparation(), files.path("out.data")).unwrap();
    let data = Dataset::open(files.path("out.data")).unwrap();
    let most = statements(MOST_STATEMENTS);
    let began = Instant::now();
    let graph = QueryGraph::new(&most, data.vocabulary()).unwrap();
    assert_eq!(graph.names.len(), MOST_STATEMENTS + MOST_STATEMENTS / 2);
    assert_eq!(graph.relationships.len(), MOST_STATEMENTS);
    let without: Vec<String> = (0..MOST_STATEMENTS).map(|at| format!("man#{at}")).collect();
    let partly = graph.partly_augmented(&without, data.vocabulary()).unwrap();
    assert_eq!(partly.edge_subject.len(), MOST_STATEMENTS + MOST_STATEMENTS / 2);
    let (again, left_out) = QueryGraph::naming(partly.view(), data.vocabulary());
    assert_eq!((again.names.len(), left_out.len()), (graph.names.len(), MOST_STATEMENTS));
    // A comparison of each with all others would take minutes.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    let path = files.write("query.json", &json!(statements(MOST_STATEMENTS + 1)).to_string());
    let error = read_query_graph(&path, data.vocabulary()).unwrap_err().to_string();
    assert!(error.ends_with("query.json: list: has 100001 statements; write at most 100000"), "{error}");
}

#[test]
fn repeated_statements_and_names_count_once() {
    let files = RawFiles::new();
    prepare(&files.preparation(), files.path("out.data")).unwrap();
    let data = Dataset::open(files.path("out.data")).unwrap();
    let list = |text: &[&[&str]]| -> Vec<Statement> {
        text.iter().map(|names| names.iter().map(ToString::to_string).collect()).collect()
    };
    let once = list(&[&["man", "throws", "ball"], &["man#2"], &["ball", "throws", "man#2"]]);
    let often = list(&[
        &["man", "throws", "ball"],
        &["MAN#2"],
        &[" man ", "Throws", "ball"],
        &["ball", "throws", "man#2"],
        &["ball"],
    ]);
    let graph = QueryGraph::new(&once, data.vocabulary()).unwrap();
    assert_eq!(graph.names, ["man", "ball", "man#2"]);
    assert_eq!(QueryGraph::new(&often, data.vocabulary()).unwrap(), graph);
}
