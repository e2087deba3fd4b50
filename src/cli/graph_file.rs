//! Arguments about a file of graphs, and what is said about it.

use std::path::PathBuf;

use clap::Args;
use scenerank::data::new_graphs::{GraphReading, NewGraphCounts, Unknown};
use scenerank::data::raw::predictions::{Limits, Predictions};
use scenerank::terminal::{cut, excerpt, wrap};

/// Files of a scene graph generator.
#[derive(Args, Clone)]
pub struct PredictionArguments {
    /// Read the graphs as predictions in the format of Scene-Graph-Benchmark.pytorch (custom_prediction.json). FILE is their
    /// custom_data_info.json.
    #[arg(long, value_name = "FILE", conflicts_with = "skip_absent_objects")]
    data_info: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
}

impl PredictionArguments {
    /// How predictions are read, if the file has predictions.
    pub fn predictions(&self) -> Option<Predictions> {
        self.data_info.clone().map(|info| Predictions { info, limits: self.limits })
    }
}

/// How a file of graphs is read.
#[derive(Args)]
pub struct GraphFileArguments {
    #[command(flatten)]
    predictions: PredictionArguments,
    /// Drop relationships of --graphs that refer to an absent object. Without this option such a file is rejected.
    #[arg(long, requires = "graphs")]
    skip_absent_objects: bool,
    /// What to do with names of --graphs that the model does not know.
    #[arg(long, value_enum, default_value_t, requires = "graphs")]
    unknown: Unknown,
    /// Refuse gzip-compressed --graphs whose content is more than this number of times larger.
    #[arg(long, value_name = "FACTOR", default_value_t = GraphReading::default().most_expansion)]
    max_expansion: u64,
}

impl GraphFileArguments {
    pub fn reading(&self) -> GraphReading {
        GraphReading {
            predictions: self.predictions.predictions(),
            skip_absent_objects: self.skip_absent_objects,
            most_expansion: self.max_expansion,
            unknown: self.unknown,
        }
    }
}

/// Number of names in a line.
const NAMED: usize = 8;
/// Columns of the labels.
const INDENT: usize = 2;

/// Lines about what was left out of the graphs; empty if nothing was.
pub fn left_out(counts: &NewGraphCounts) -> String {
    let mut lines = String::new();
    let mut line = |text: String| lines.push_str(&format!("{}\n", wrap(&text, 0, INDENT)));
    for (what, unknown) in
        [("objects", &counts.unknown_objects), ("relationships", &counts.unknown_predicates)]
    {
        if unknown.is_empty() {
            continue;
        }
        let total: u64 = unknown.iter().map(|(_, count)| count).sum();
        let label = |(name, count): &(String, u64)| match name.is_empty() {
            true => format!("(no name) {count}"),
            false => format!("{} {count}", excerpt(name)),
        };
        let mut names: Vec<String> = unknown.iter().take(NAMED).map(label).collect();
        names.extend((unknown.len() > NAMED).then(|| "...".to_string()));
        line(format!(
            "left out: {total} {what} of {} names that the model does not know: {}",
            unknown.len(),
            names.join(", ")
        ));
    }
    if counts.relationships_of_unknown_objects > 0 {
        line(format!("left out: {} relationships of these objects", counts.relationships_of_unknown_objects));
    }
    if counts.relationships_of_absent_objects > 0 {
        let count = counts.relationships_of_absent_objects;
        line(format!("left out: {count} relationships with an absent object"));
    }
    if !counts.left_out.is_empty() {
        let ids: Vec<String> = counts.left_out.iter().map(u64::to_string).collect();
        line(format!("left out: {} graphs without a known object: {}", ids.len(), cut(&ids.join(", "), 60)));
    }
    lines
}
