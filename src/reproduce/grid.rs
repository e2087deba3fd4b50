//! Runs of a grid: all combinations of the values that a TOML file lists for some options.
//!
//! ```toml
//! learning-rate = [1e-4, 3e-4]
//! schedule = ["constant", "cosine"]
//! epochs = 20
//! ```
//! An option with one value has it in all runs. The runs are trained like those of the paper's models, and compared
//! ([`crate::compare`]).

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use toml::{Table, Value};

use super::plan::{Plan, PlannedRun};
use super::training::{MissingRun, folder, missing, train_all};
use super::{Material, Reproduction};
use crate::compare::Comparison;
use crate::error::{Error, Result};
use crate::files::folder_lock::FolderLock;
use crate::files::text::read_toml;
use crate::train::checkpoint::LAST;
use crate::train::config::{TrainConfig, TrainOptions};

/// Far more runs than anybody trains.
const MOST_RUNS: usize = 10_000;

/// Trains the runs of the grid in `file` that are not finished, measures them, and writes their comparison to the
/// folder of the report, after each of them and at the end. Also returns the runs without a result.
pub fn reproduce_grid(
    reproduction: &Reproduction,
    file: &Path,
    stop: &AtomicBool,
) -> Result<(Comparison, Vec<MissingRun>)> {
    reproduction.check()?;
    let plan = plan(reproduction, file)?;
    std::fs::create_dir_all(&reproduction.out).map_err(Error::file("create", &reproduction.out))?;
    let _lock = FolderLock::take(&reproduction.out)?;
    let material = Material::open(reproduction)?;
    let compare = || {
        let folders = plan.runs.iter().map(|run| folder(&reproduction.out, run));
        let begun: Vec<_> = folders.filter(|folder| folder.join(LAST).exists()).collect();
        let comparison = Comparison::read(&begun)?;
        comparison.write(&reproduction.out)?;
        Ok(comparison)
    };
    let trained = train_all(reproduction, &material.dataset, &plan, stop, &|_| compare().map(drop))?;
    let comparison = compare()?;
    Ok((comparison, missing(&plan, &trained)))
}

/// Plan of the runs of the grid in `file`.
pub(super) fn plan(reproduction: &Reproduction, file: &Path) -> Result<Plan> {
    let runs = runs(&reproduction.base, reproduction.seeds, file)?;
    Ok(Plan { runs, models: Vec::new(), variants: Vec::new() })
}

/// All combinations of a grid's values, each with the seeds 1, 2, ... unless the grid has seeds of its own.
fn runs(base: &TrainConfig, seeds: u64, file: &Path) -> Result<Vec<PlannedRun>> {
    let remedy = "write lists of values, such as learning-rate = [1e-4, 3e-4]";
    let mut grid: Table = read_toml(file, remedy)?;
    if !grid.contains_key("seed") {
        grid.insert("seed".into(), Value::Array((1..=seeds as i64).map(Value::Integer).collect()));
    }
    let mut combinations = vec![(Vec::new(), Table::new())];
    for (option, values) in grid {
        let values = match values {
            Value::Array(values) => values,
            value => vec![value],
        };
        if values.is_empty() || combinations.len() * values.len() > MOST_RUNS {
            let problem = format!("has {} values: {MOST_RUNS} runs at most, and one at least", values.len());
            return Err(Error::invalid(file, option, problem, remedy));
        }
        // Checked alone, so that the message names the option.
        for value in &values {
            options(&Table::from_iter([(option.clone(), value.clone())])).map_err(|problem| {
                Error::invalid(file, &option, problem, "use the options of `train` without dashes in front")
            })?;
        }
        let named = values.len() > 1 || option == "seed";
        let mut longer = Vec::with_capacity(combinations.len() * values.len());
        for (name, table) in &combinations {
            for value in &values {
                let (mut name, mut table): (Vec<String>, Table) = (name.clone(), table.clone());
                if named {
                    name.push(format!("{option}={}", plain(value)));
                }
                table.insert(option.clone(), value.clone());
                longer.push((name, table));
            }
        }
        combinations = longer;
    }
    let mut names = HashSet::new();
    for (name, _) in &combinations {
        if !names.insert(name) {
            let problem = format!("two runs have the name {}", name.join(","));
            return Err(Error::invalid(file, "values", problem, "give each value once"));
        }
    }
    combinations
        .into_iter()
        .map(|(name, table)| {
            let config = options(&table).expect("checked above").resolve(base)?;
            Ok(PlannedRun { name: name.join(","), config })
        })
        .collect()
}

fn options(table: &Table) -> std::result::Result<TrainOptions, String> {
    table.clone().try_into().map_err(|error: toml::de::Error| error.message().to_string())
}

/// A value as part of a folder's name.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_alphanumeric() || "-._+".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(text: &str) -> Result<Vec<PlannedRun>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        runs(&TrainConfig::default(), 2, file.path())
    }

    #[test]
    fn a_grid_has_all_combinations() {
        let runs =
            grid("learning-rate = [1e-4, 3e-4]\nloss = [\"ranking\", \"triplet\"]\nepochs = 3\n").unwrap();
        assert_eq!(runs.len(), 8);
        assert_eq!(runs[1].name, "learning-rate=0.0001,loss=ranking,seed=2");
        assert!(runs.iter().all(|run| run.config.epochs == 3));
        let mut names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 8);
        assert_eq!(grid("seed = [7]\n").unwrap()[0].name, "seed=7");
    }

    #[test]
    fn a_wrong_option_is_named() {
        for (text, part) in [
            ("learning-rat = [1]\n", "learning-rat: unknown field"),
            ("loss = [\"ranking\", \"rankings\"]\n", "loss: unknown variant `rankings`"),
            ("epochs = []\n", "epochs: has 0 values"),
            ("epochs = [1\n", "line 1"),
            ("epochs = [1, 0]\n", "--epochs: is 0"),
            ("epochs = [1, 1]\n", "two runs have the name epochs=1,seed=1"),
        ] {
            let error = grid(text).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
