//! A comparison as one HTML page. The template is in `src/report/page`; it escapes everything but the SVG.

use askama::Template;
use serde_json::Value;

use super::Comparison;
use super::results::number;
use crate::error::{Error, Result};

#[derive(Template)]
#[template(path = "compare.html")]
struct Page<'a> {
    tables: [Table<'a>; 2],
    count: usize,
    svg: &'a str,
}

/// A table with a row for each run.
struct Table<'a> {
    title: &'static str,
    names: Vec<&'a str>,
    /// Name of the run, and its cells.
    rows: Vec<(&'a str, Vec<String>)>,
}

/// Renders the page.
pub(super) fn html(of: &Comparison, svg: &str) -> Result<String> {
    let [options, results] = of.cells().map(|cells| of.runs.iter().map(String::as_str).zip(cells).collect());
    let options = Table {
        title: "Options that differ",
        names: of.differences.iter().map(|column| column.name.as_str()).collect(),
        rows: options,
    };
    let results = Table {
        title: "Results",
        names: of.results.iter().map(|column| column.name.as_str()).collect(),
        rows: results,
    };
    let page = Page { tables: [options, results], count: of.runs.len(), svg };
    page.render().map_err(|error| Error::file("write", "compare.html")(std::io::Error::other(error)))
}

/// Value of an option as typed.
fn option(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".into(),
        other => other.to_string(),
    }
}

/// A result, or a dash.
fn result(value: Option<f64>) -> String {
    value.map_or("–".into(), number)
}

impl Comparison {
    /// Cells of the options that differ and of the results, one row for each run.
    pub fn cells(&self) -> [Vec<Vec<String>>; 2] {
        let rows = 0..self.runs.len();
        [
            rows.clone()
                .map(|run| self.differences.iter().map(|column| option(&column.values[run])).collect())
                .collect(),
            rows.map(|run| self.results.iter().map(|column| result(column.values[run])).collect()).collect(),
        ]
    }
}
