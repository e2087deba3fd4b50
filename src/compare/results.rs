//! Results of a run: of its training, and of the commands that measured it.
//!
//! `evaluate` and `retrieve` leave `evaluation.json` and `retrieval.json` in the run's folder, with the content of their
//! `--json`. Results for other splits than the test images, or of other checkpoints than the best, have longer names, such
//! as `evaluation-validation-last.json`. `reproduce` leaves `result.json`.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::Column;
use crate::data::Split;
use crate::error::Result;
use crate::files::atomic_file::write_atomically;
use crate::files::text::read_json;
use crate::report::run_log::{METRICS, Record, read_records};

/// Beginning of the name of the file that `evaluate` leaves.
pub const EVALUATION: &str = "evaluation";
/// Beginning of the name of the file that `retrieve` leaves.
pub const RETRIEVAL: &str = "retrieval";
/// File that `reproduce` leaves once a run is finished.
pub(crate) const RESULT: &str = "result.json";

/// Leaves a command's result in `folder`, with the name of the `checkpoint` unless it is the best one. A folder that cannot be
/// written to is a warning: the result was printed.
pub fn leave_result(
    folder: &Path,
    command: &str,
    split: Split,
    checkpoint: Option<&str>,
    result: &impl Serialize,
) {
    let json = serde_json::to_string_pretty(result).expect("plain fields");
    let split = (split != Split::Test).then(|| split.to_string());
    let words = [Some(command), split.as_deref(), checkpoint];
    let path = folder.join(format!("{}.json", words.into_iter().flatten().collect::<Vec<_>>().join("-")));
    if let Err(error) = write_atomically(&path, |file| writeln!(file, "{json}")) {
        tracing::warn!("the result is not kept: {error}");
    }
}

/// Results by name, in the order of the tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Results(Vec<(&'static str, f64)>);

/// Test results: name, pointer in `evaluation.json` or `retrieval.json`, pointer in `result.json`.
const MEASURED: [(&str, &str, &str, &str); 6] = [
    ("test tau, row", EVALUATION, "/rows/0/per_image/kendall", "/measurement/agreement/per_image/kendall"),
    ("test rho, row", EVALUATION, "/rows/0/per_image/spearman", "/measurement/agreement/per_image/spearman"),
    ("test tau, all", EVALUATION, "/rows/0/all_pairs/kendall", "/measurement/agreement/all_pairs/kendall"),
    ("MRR", RETRIEVAL, "mrr", "/measurement/retrieval/augmented/mrr"),
    ("R@1", RETRIEVAL, "recall_at_1", "/measurement/retrieval/augmented/recall_at_1"),
    ("R@5", RETRIEVAL, "recall_at_5", "/measurement/retrieval/augmented/recall_at_5"),
];

impl Results {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut found = Vec::new();
        let (mut epochs, mut steps, mut loss, mut seconds) = (0, 0, None, 0.0);
        let mut best: Option<(usize, f64)> = None;
        let mut rates = Vec::new();
        for record in read_records(&folder.join(METRICS))? {
            seconds = record.seconds();
            let tau = match record {
                Record::Step { step, .. } => {
                    steps = step;
                    None
                }
                Record::Validation { epoch, step, validation_kendall, .. } => {
                    steps = step;
                    Some((epoch, validation_kendall))
                }
                Record::Epoch {
                    epoch, step, loss: of_epoch, validation_kendall, graphs_per_second, ..
                } => {
                    (epochs, steps, loss) = (epoch, step, Some(of_epoch));
                    rates.extend(graphs_per_second);
                    validation_kendall.map(|tau| (epoch, tau))
                }
            };
            if let Some(now) = tau
                && best.is_none_or(|(_, before)| now.1 > before)
            {
                best = Some(now);
            }
        }
        found.push(("epochs", epochs as f64));
        found.push(("steps", steps as f64));
        found.extend(best.map(|(epoch, _)| ("best epoch", epoch as f64)));
        found.extend(best.map(|(_, tau)| ("validation tau", tau)));
        found.extend(loss.map(|loss| ("last loss", loss)));
        if !rates.is_empty() {
            found.push(("graphs/s", rates.iter().sum::<f64>() / rates.len() as f64));
        }
        found.push(("seconds", seconds));
        let [evaluation, retrieval] =
            [EVALUATION, RETRIEVAL].map(|command| read_if_any(&folder.join(format!("{command}.json"))));
        let (evaluation, retrieval, result) = (evaluation?, retrieval?, read_if_any(&folder.join(RESULT))?);
        let noise = retrieval["noise"].as_u64();
        let levels = retrieval["levels"].as_array().into_iter().flatten();
        let level = levels.into_iter().find(|level| level["removed"].as_u64() == noise);
        for (name, command, place, in_result) in MEASURED {
            let measured = match command {
                EVALUATION => evaluation.pointer(place),
                _ => level.and_then(|level| level.get(place)),
            };
            let value = measured.or_else(|| result.pointer(in_result)).and_then(Value::as_f64);
            found.extend(value.map(|value| (name, value)));
        }
        Ok(Results(found))
    }
}

/// A column for each result that any run has.
pub(super) fn columns(results: &[Results]) -> Vec<Column<Option<f64>>> {
    let training = ["epochs", "steps", "best epoch", "validation tau", "last loss", "graphs/s", "seconds"];
    let names = training.into_iter().chain(MEASURED.map(|(name, ..)| name));
    let column = |name: &str| {
        let value = |of: &Results| of.0.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
        Column { name: name.to_string(), values: results.iter().map(value).collect() }
    };
    names.map(column).filter(|column| column.values.iter().any(Option::is_some)).collect()
}

/// Content of a JSON file; null if there is none.
fn read_if_any(path: &Path) -> Result<Value> {
    match path.exists() {
        true => read_json(path, "remove the file, or measure the run again"),
        false => Ok(Value::Null),
    }
}

/// A number for people: three decimals, or none for whole numbers and large ones.
pub fn number(value: f64) -> String {
    match value {
        v if v.fract() == 0.0 || v.abs() >= 1000.0 => format!("{v:.0}"),
        v => format!("{v:.3}"),
    }
}
