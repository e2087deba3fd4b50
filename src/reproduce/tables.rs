//! Tables with our numbers, those of the paper, and the differences; the best are bold.

use serde::Serialize;

use super::measure::{Measurement, Method, Untrained};
use super::paper::Paper;
use super::plan::{Plan, model_name, word};
use super::training::Trained;
use crate::evaluation::measure::Measure;
use crate::evaluation::{Agreement, RetrievalMetrics};

/// A table of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Anchor in the page, and name of the file.
    pub id: String,
    /// Title above the table.
    pub title: String,
    /// Note below the title.
    pub note: String,
    /// Groups of columns: their name and number of columns.
    pub groups: Vec<(String, usize)>,
    /// Names of the columns.
    pub metrics: Vec<String>,
    /// Models and baselines.
    pub rows: Vec<Row>,
}

/// A model or a baseline.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the model or baseline.
    pub name: String,
    /// Loss, if it is one of the 12 models.
    pub loss: Option<String>,
    /// Sampling strategy, if it is one of the 12 models.
    pub sampling: Option<String>,
    /// One cell per metric.
    pub cells: Vec<Cell>,
}

/// One metric of one row.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cell {
    /// Value measured here.
    pub ours: Option<Measured>,
    /// Value in the paper.
    pub paper: Option<f64>,
    /// Our value minus that of the paper.
    pub difference: Option<f64>,
    /// Whether our value is the best in its column.
    pub best: bool,
    /// Whether our value is that of the best strategy for its loss.
    pub best_of_loss: bool,
    /// Whether the paper's value is the best in its column.
    pub best_in_paper: bool,
}

/// A value over several seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Mean over the runs.
    pub mean: f64,
    /// Sample standard deviation; `None` for a single run.
    pub spread: Option<f64>,
    /// Value of each run.
    pub values: Vec<f64>,
}

impl Measured {
    /// Summarises the values; `None` if there are none.
    pub fn new(values: Vec<f64>) -> Option<Self> {
        let count = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let spread = (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        Some(Measured { mean, spread, values })
    }
}

/// Function that extracts the columns of a table from a measurement; `None` if it has no such numbers.
type Columns<const N: usize> = fn(&Measurement) -> Option<[f64; N]>;

fn agreement_columns(measurement: &Measurement) -> Option<[f64; 6]> {
    let Agreement { per_image: row, all_pairs: all, .. } = measurement.agreement;
    Some([row.kendall, row.spearman, row.pearson, all.kendall, all.spearman, all.pearson])
}

fn retrieval_columns(metrics: &RetrievalMetrics) -> [f64; 3] {
    [metrics.mrr, metrics.recall_at_1, metrics.recall_at_5]
}

fn augmented_columns(measurement: &Measurement) -> Option<[f64; 3]> {
    measurement.retrieval.as_ref().map(|retrieval| retrieval_columns(&retrieval.augmented))
}

fn relationships_columns(measurement: &Measurement) -> Option<[f64; 3]> {
    measurement.retrieval.as_ref().map(|retrieval| retrieval_columns(&retrieval.relationships))
}

fn cells<'a, const N: usize>(
    measurements: impl Iterator<Item = &'a Measurement>,
    columns: Columns<N>,
    paper: Option<[f64; N]>,
) -> Vec<Cell> {
    let runs: Vec<[f64; N]> = measurements.filter_map(columns).collect();
    (0..N)
        .map(|column| {
            let ours = Measured::new(runs.iter().map(|run| run[column]).collect());
            let paper = paper.map(|row| row[column]);
            let difference = ours.as_ref().zip(paper).map(|(ours, paper)| ours.mean - paper);
            Cell { ours, paper, difference, ..Default::default() }
        })
        .collect()
}

/// Measurements of the finished runs among these.
fn measurements<'a>(runs: &'a [usize], trained: &'a [Trained]) -> impl Iterator<Item = &'a Measurement> {
    runs.iter().filter_map(|&run| Some(&trained[run].result()?.measurement))
}

fn model_rows<const N: usize>(
    plan: &Plan,
    trained: &[Trained],
    columns: Columns<N>,
    paper: impl Fn(&super::plan::Model) -> [f64; N],
) -> Vec<Row> {
    let row = |model: &super::plan::Model| Row {
        name: model_name(model.loss, model.sampling),
        loss: Some(word(&model.loss)),
        sampling: Some(word(&model.sampling)),
        cells: cells(measurements(&model.runs, trained), columns, Some(paper(model))),
    };
    plan.models.iter().map(row).collect()
}

fn baseline<'a, const N: usize>(
    name: &str,
    measurements: impl IntoIterator<Item = &'a Measurement>,
    columns: Columns<N>,
    paper: Option<[f64; N]>,
) -> Row {
    let cells = cells(measurements.into_iter(), columns, paper);
    Row { name: name.into(), loss: None, sampling: None, cells }
}

/// Builds Table 2.
pub(super) fn agreement_table(
    plan: &Plan,
    trained: &[Trained],
    untrained: &[Untrained],
    features: Option<&Measurement>,
    measure: Measure,
) -> Table {
    let paper = Paper::get();
    let mut rows = model_rows(plan, trained, agreement_columns, |m| paper.agreement(m.loss, m.sampling));
    for Untrained { name, measurements } in untrained {
        let theirs = (name == Method::NORMAL).then_some(paper.table_2_features.normal);
        rows.push(baseline(name, measurements, agreement_columns, theirs));
    }
    let name = match features {
        None => "classification features",
        Some(_) => "features from a file (paper: of a classifier)",
    };
    let theirs = Some(paper.table_2_features.classification);
    rows.push(baseline(name, features, agreement_columns, theirs));
    let mut note = "Correlation of the embeddings' cosines with the similarity of the captions, over the test images. The mean \
                    of GloVe vectors is close to this similarity, which is itself computed from GloVe vectors."
        .to_owned();
    if features.is_some() {
        note += &format!(" Features from a file are compared by their {}.", measure.plural());
    }
    let mut table = Table {
        id: "table-2".into(),
        title: "Table 2: agreement with caption similarity".into(),
        note,
        groups: vec![("per image (row-wise)".into(), 3), ("all pairs".into(), 3)],
        metrics: ["Kendall τ", "Spearman ρ", "Pearson r"].repeat(2).into_iter().map(String::from).collect(),
        rows,
    };
    table.mark_best();
    table
}

/// Builds Table 3, once for each interpretation of "edges".
pub(super) fn retrieval_tables(plan: &Plan, trained: &[Trained], untrained: &[Untrained]) -> [Table; 2] {
    let paper = Paper::get();
    let readings: [(&str, &str, &str, Columns<3>); 2] = [
        (
            "table-3-augmented",
            "edges of all kinds",
            "all edges, including those to the image node",
            augmented_columns,
        ),
        ("table-3-relationships", "relationships", "the relationships alone", relationships_columns),
    ];
    readings.map(|(id, title, from, columns)| {
        let mut rows = model_rows(plan, trained, columns, |m| paper.retrieval(m.loss, m.sampling));
        for Untrained { name, measurements } in untrained {
            // A method that cannot embed a query has no row.
            if measurements.iter().any(|measurement| measurement.retrieval.is_some()) {
                rows.push(baseline(name, measurements, columns, None));
            }
        }
        let mut table = Table {
            id: id.into(),
            title: format!("Table 3: retrieval with incomplete queries, {title}"),
            note: format!("12 edges are removed at random from each test image's graph, drawn from {from}."),
            groups: vec![("retrieval".into(), 3)],
            metrics: ["MRR", "R@1", "R@5"].map(String::from).into(),
            rows,
        };
        table.mark_best();
        table
    })
}

/// Builds the table of ablations: agreement by row and over all pairs, retrieval for both interpretations.
/// `None` if none was requested.
pub(super) fn ablation_table(plan: &Plan, trained: &[Trained]) -> Option<Table> {
    fn columns(measurement: &Measurement) -> Option<[f64; 4]> {
        let retrieval = measurement.retrieval.as_ref()?;
        let Agreement { per_image, all_pairs, .. } = measurement.agreement;
        let (augmented, relationships) = (retrieval.augmented.mrr, retrieval.relationships.mrr);
        Some([per_image.kendall, all_pairs.kendall, augmented, relationships])
    }
    if plan.variants.is_empty() {
        return None;
    }
    let rows = plan.variants.iter().map(|variant| Row {
        name: format!("{} = {}", variant.what, variant.value),
        loss: None,
        sampling: None,
        cells: cells(measurements(&variant.runs, trained), columns, None),
    });
    Some(Table {
        id: "ablations".into(),
        title: "Ablations of ranking + probability".into(),
        note: "One setting is changed at a time. Agreement is always measured with the similarity of the data's captions."
            .into(),
        groups: vec![("Kendall τ".into(), 2), ("MRR at 12 removed".into(), 2)],
        metrics: ["per image", "all pairs", "all edges", "relationships"].map(String::from).into(),
        rows: rows.collect(),
    })
}

impl Table {
    /// Row with this name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    fn mark_best(&mut self) {
        let ours = |cell: &Cell| cell.ours.as_ref().map(|ours| ours.mean);
        for column in 0..self.metrics.len() {
            let all = |_: &Row| true;
            let best = self.best(column, &all, &ours);
            let best_in_paper = self.best(column, &all, &|cell| cell.paper);
            let of_loss: Vec<Option<f64>> = self
                .rows
                .iter()
                .map(|row| {
                    let loss = row.loss.as_ref()?;
                    self.best(column, &|other| other.loss.as_ref() == Some(loss), &ours)
                })
                .collect();
            for (row, of_loss) in self.rows.iter_mut().zip(of_loss) {
                let cell = &mut row.cells[column];
                let mean = ours(cell);
                cell.best = mean.is_some() && mean == best;
                cell.best_of_loss = mean.is_some() && mean == of_loss;
                cell.best_in_paper = cell.paper.is_some() && cell.paper == best_in_paper;
            }
        }
    }

    fn best(
        &self,
        column: usize,
        of: &dyn Fn(&Row) -> bool,
        value: &dyn Fn(&Cell) -> Option<f64>,
    ) -> Option<f64> {
        self.rows
            .iter()
            .filter(|row| of(row))
            .filter_map(|row| value(&row.cells[column]))
            .max_by(f64::total_cmp)
    }
}
