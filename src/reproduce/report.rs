//! The report as one value: the content of `report.json`, from which all other files are written.

use std::path::Path;

use serde::Serialize;

use super::expectations::Expectation;
use super::figures::Figure;
use super::gallery::Gallery;
use super::plan::Plan;
pub use super::tables::Table;
pub use super::training::MissingRun;
use super::training::Trained;
use crate::data::{Dataset, Split};
use crate::evaluation::Agreement;
use crate::train::config::TrainConfig;

/// Complete results.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Provenance of the report.
    pub about: About,
    /// Runs without a result.
    pub missing: Vec<MissingRun>,
    /// Claims of the paper about the order of its models, and whether they hold here.
    pub expectations: Vec<Expectation>,
    /// Agreement with the captions.
    pub table_2: Table,
    /// Retrieval, with edges removed from all edges and from the relationships.
    pub table_3: [Table; 2],
    /// Results of the ablations.
    pub ablations: Option<Table>,
    /// Every finished run.
    pub runs: Vec<RunSummary>,
    /// Figures of the report.
    pub figures: Vec<Figure>,
    /// Queries and their neighbours.
    pub gallery: Gallery,
}

/// Provenance of a report.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// Title of the page.
    pub title: String,
    /// Version of the program.
    pub version: String,
    /// Command as it was typed.
    pub command: String,
    /// Date of the report.
    pub date: String,
    /// Duration of this command, without runs that were finished before.
    pub seconds: f64,
    /// Number of CPU threads.
    pub threads: usize,
    /// Number of runs of each model.
    pub seeds: u64,
    /// Settings shared by all runs.
    pub settings: TrainConfig,
    /// Data used by all runs.
    pub data: DataCounts,
}

/// Sizes of the data.
#[derive(Clone, Debug, Serialize)]
pub struct DataCounts {
    /// Name of the given file.
    pub file: String,
    /// [`Dataset::fingerprint`], in hexadecimal.
    pub fingerprint: String,
    /// Whether it is a subset of the given file.
    pub subset: bool,
    /// Number of training images.
    pub train: usize,
    /// Number of validation images, which select the epoch.
    pub validation: usize,
    /// Number of test images, which are evaluated.
    pub test: usize,
    /// Number of object types without `image`.
    pub object_types: usize,
    /// Number of predicate types without `in image`.
    pub predicate_types: usize,
}

/// One finished run.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    /// Name of the folder.
    pub name: String,
    /// Seed of the run.
    pub seed: u64,
    /// Number of epochs trained.
    pub epochs: usize,
    /// Epoch that was measured.
    pub best_epoch: Option<usize>,
    /// Row-wise tau of the validation images at that epoch.
    pub validation_kendall: Option<f64>,
    /// Row-wise tau of the test images.
    pub kendall: f64,
    /// Tau over all pairs of the test images.
    pub kendall_all_pairs: f64,
    /// Mean reciprocal rank with 12 edges removed from all edges.
    pub mrr: Option<f64>,
    /// Mean reciprocal rank with 12 edges removed from the relationships.
    pub mrr_relationships: Option<f64>,
    /// Number of rows of the similarity matrix without a correlation, which count as 0.
    pub undefined_rows: usize,
}

impl DataCounts {
    pub(super) fn of(dataset: &Dataset, given: &Path, subset: bool) -> Self {
        let images = |split| dataset.split(split).len();
        let file = given.file_name().unwrap_or_default();
        DataCounts {
            file: file.to_string_lossy().into_owned(),
            fingerprint: dataset.fingerprint_digits(),
            subset,
            train: images(Split::Train),
            validation: images(Split::Validation),
            test: images(Split::Test),
            object_types: dataset.object_count() - 1,
            predicate_types: dataset.predicate_count() - 1,
        }
    }
}

pub(super) fn run_summaries(plan: &Plan, trained: &[Trained]) -> Vec<RunSummary> {
    let summary = |(run, trained): (&super::plan::PlannedRun, &Trained)| {
        let result = trained.result()?;
        let Agreement { per_image, all_pairs, undefined_rows, .. } = result.measurement.agreement;
        let retrieval = result.measurement.retrieval.as_ref();
        Some(RunSummary {
            name: run.name.clone(),
            seed: run.config.seed,
            epochs: result.outcome.epochs,
            best_epoch: result.outcome.best.map(|(epoch, _)| epoch),
            validation_kendall: result.outcome.best.map(|(_, tau)| tau),
            kendall: per_image.kendall,
            kendall_all_pairs: all_pairs.kendall,
            mrr: retrieval.map(|retrieval| retrieval.augmented.mrr),
            mrr_relationships: retrieval.map(|retrieval| retrieval.relationships.mrr),
            undefined_rows: undefined_rows.kendall,
        })
    };
    plan.runs.iter().zip(trained).filter_map(summary).collect()
}

impl Report {
    /// All tables in the order of the page, with their JSON pointers.
    pub fn tables(&self) -> Vec<(String, &Table)> {
        let mut tables = vec![("/table_2".to_owned(), &self.table_2)];
        tables.extend((0..).zip(&self.table_3).map(|(index, table)| (format!("/table_3/{index}"), table)));
        tables.extend(self.ablations.iter().map(|table| ("/ablations".to_owned(), table)));
        tables
    }
}
