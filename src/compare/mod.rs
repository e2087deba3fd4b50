//! Runs side by side: the options in which they differ, their results, and their curves.
//!
//! Options come from `last.safetensors`, results from `metrics.jsonl` and from what `evaluate`, `retrieve` and
//! `reproduce` left in the folder ([`results`]). Nothing is computed again.

mod page;
pub mod results;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::atomic_file::write_atomically;
use crate::files::tensor_file::TensorFile;
use crate::report::panels;
use crate::report::plots::{TrainingCurve, training_panels};
use crate::train::checkpoint::{LAST, RunConfig};

use results::Results;

/// File names of a comparison.
pub const SVG: &str = "compare.svg";
/// See [`SVG`].
pub const HTML: &str = "compare.html";
/// See [`SVG`].
pub const JSON: &str = "compare.json";

/// Runs side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// `[runs]` names of the runs.
    pub runs: Vec<String>,
    /// Options with different values, `[runs]` values each.
    pub differences: Vec<Column<Value>>,
    /// Results, `[runs]` values each; `None` where a run has none.
    pub results: Vec<Column<Option<f64>>>,
    #[serde(skip)]
    curves: Vec<TrainingCurve>,
}

/// A value of each run.
#[derive(Clone, Debug, Serialize)]
pub struct Column<T> {
    /// Name of the option or of the result.
    pub name: String,
    /// `[runs]` values.
    pub values: Vec<T>,
}

impl Comparison {
    /// Compares the runs in `folders`.
    pub fn read(folders: &[PathBuf]) -> Result<Self> {
        let runs = names(folders);
        let mut configs = Vec::new();
        let mut results = Vec::new();
        let mut curves = Vec::new();
        for (folder, name) in folders.iter().zip(&runs) {
            let last = folder.join(LAST);
            if !last.exists() {
                return Err(Error::invalid(
                    folder,
                    "run folder",
                    "holds no checkpoint",
                    "name folders of trained runs",
                ));
            }
            let RunConfig { train, fingerprint, .. } = TensorFile::read_metadata(&last, "config")?;
            let mut options = serde_json::to_value(train).expect("plain fields");
            options["data"] = Value::String(fingerprint);
            configs.push(options);
            results.push(Results::read(folder)?);
            curves.push(TrainingCurve::read(folder, name)?);
        }
        Ok(Comparison {
            runs,
            differences: differences(&configs),
            results: results::columns(&results),
            curves,
        })
    }

    /// Writes the curves as SVG, all as one HTML page, and the numbers as JSON.
    pub fn write(&self, out: &Path) -> Result<()> {
        std::fs::create_dir_all(out).map_err(Error::file("create", out))?;
        let svg = self.svg().map_err(Error::file("draw", out.join(SVG)))?;
        let html = page::html(self, &svg)?;
        let json = serde_json::to_string_pretty(self).expect("plain fields");
        for (name, text) in [(SVG, svg), (HTML, html), (JSON, json)] {
            write_atomically(out.join(name), |file| file.write_all(text.as_bytes()))?;
        }
        Ok(())
    }

    fn svg(&self) -> std::io::Result<String> {
        panels::svg(&training_panels("", &self.curves), 2)
    }
}

/// Options whose values differ between runs.
fn differences(configs: &[Value]) -> Vec<Column<Value>> {
    let names = configs.first().and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name);
    let column = |name: &String| {
        let values = configs.iter().map(|config| config.get(name).cloned().unwrap_or(Value::Null)).collect();
        Column { name: name.clone(), values }
    };
    let columns = names.map(column);
    columns.filter(|column| column.values.iter().any(|value| *value != column.values[0])).collect()
}

/// The shortest ends of the folders' paths that tell them apart.
fn names(folders: &[PathBuf]) -> Vec<String> {
    let paths: Vec<Vec<String>> = folders
        .iter()
        .map(|folder| {
            let whole = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            whole.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
        })
        .collect();
    let most = paths.iter().map(Vec::len).max().unwrap_or(1);
    let end = |path: &[String], parts: usize| path[path.len().saturating_sub(parts)..].join("/");
    let distinct = |parts: usize| {
        let names: Vec<String> = paths.iter().map(|path| end(path, parts)).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        (sorted.len() == names.len()).then_some(names)
    };
    (1..=most).find_map(distinct).unwrap_or_else(|| paths.iter().map(|path| end(path, most)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_differing_options_are_listed() {
        let configs = [json!({"a": 1, "b": "x", "c": null}), json!({"a": 1, "b": "y", "c": null})];
        let found = differences(&configs);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), &found[0].values), ("b", &vec![json!("x"), json!("y")]));
    }

    #[test]
    fn names_are_as_short_as_they_can_be() {
        let names = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["none/a", "none/b"]), ["a", "b"]);
        assert_eq!(names(&["none/a/run", "none/b/run"]), ["a/run", "b/run"]);
    }
}
