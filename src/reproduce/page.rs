//! The report as an HTML page and as Markdown. Templates are in `src/report/page`. They escape everything
//! that they insert, except SVG and tables from other templates.

use askama::Template;

use super::plan::{PROPOSED, model_name, word};
use super::report::{Report, RunSummary};
use super::tables::{Cell, Table};
use crate::error::{Error, Result};
use crate::train::config::TrainConfig;

/// Columns of the table of runs: the name, then [`RunSummary::numbers`].
const RUN_COLUMNS: [&str; 10] = [
    "run",
    "seed",
    "epochs",
    "best epoch",
    "validation τ",
    "test τ, per image",
    "τ, all pairs",
    "MRR, all edges",
    "MRR, relationships",
    "undefined rows",
];

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    headlines: Vec<Headline<'a>>,
    tables: Vec<TableView<'a>>,
    settings: String,
    verdict_rule: &'static str,
    /// Secret of this page, which its own style and script know.
    nonce: String,
    run_columns: [&'static str; 10],
    /// Whether there are photographs.
    photographs: bool,
    /// Whether photographs are loaded from their addresses.
    linked: bool,
    /// Whether any scene is drawn with boxes.
    boxes: bool,
}

/// The paper's model in the first column of a table.
struct Headline<'a> {
    title: String,
    cell: &'a Cell,
    /// JSON pointer to the cell.
    place: String,
}

#[derive(Template)]
#[template(path = "table.html")]
struct TableView<'a> {
    table: &'a Table,
    /// JSON pointer to the table.
    pointer: String,
    /// Whether the paper has such a table.
    has_paper: bool,
}

impl TableView<'_> {
    /// JSON pointer to a cell.
    fn place(&self, row: &usize, column: &usize) -> String {
        format!("{}/rows/{row}/cells/{column}", self.pointer)
    }
}

#[derive(Template)]
#[template(path = "report.md", escape = "none")]
struct MarkdownPage<'a> {
    report: &'a Report,
    settings: String,
    verdict_rule: &'static str,
}

/// Renders the HTML page.
pub(super) fn html<'a>(report: &'a Report) -> Result<String> {
    let view = |(pointer, table): (String, &'a Table)| {
        let has_paper = table.rows.iter().any(|row| row.cells.iter().any(|cell| cell.paper.is_some()));
        TableView { table, pointer, has_paper }
    };
    let (loss, sampling) = PROPOSED;
    let proposed = model_name(loss, sampling);
    let headline = |(pointer, table): (String, &'a Table)| {
        let row = table.rows.iter().position(|row| row.name == proposed)?;
        let (metric, group) = (table.metrics.first()?, &table.groups.first()?.0);
        let detail = if table.id == "table-2" { group } else { &table.title };
        Some(Headline {
            title: format!("{metric} of {proposed}: {detail}"),
            cell: table.rows[row].cells.first()?,
            place: format!("{pointer}/rows/{row}/cells/0"),
        })
    };
    let linked = report.gallery.scenes.iter().any(|scene| scene.photograph_url.is_some());
    let page = Page {
        report,
        headlines: report.tables().into_iter().filter_map(headline).collect(),
        tables: report.tables().into_iter().map(view).collect(),
        settings: settings_line(&report.about.settings),
        verdict_rule: verdict_rule(report.about.seeds),
        nonce: format!("{:032x}", rand::random::<u128>()),
        run_columns: RUN_COLUMNS,
        photographs: linked || report.gallery.scenes.iter().any(|scene| scene.photograph.is_some()),
        linked,
        boxes: report.gallery.scenes.iter().any(|scene| scene.boxes.iter().any(Option::is_some)),
    };
    page.render().map_err(|error| Error::file("write", "report.html")(std::io::Error::other(error)))
}

/// Renders the Markdown page: tables, and references to the figures' files.
pub(super) fn markdown(report: &Report) -> Result<String> {
    let page = MarkdownPage {
        report,
        settings: settings_line(&report.about.settings),
        verdict_rule: verdict_rule(report.about.seeds),
    };
    page.render().map_err(|error| Error::file("write", "report.md")(std::io::Error::other(error)))
}

/// How the claims are judged.
fn verdict_rule(seeds: u64) -> &'static str {
    match seeds {
        1 => {
            "With one seed the spread is unknown: the verdicts compare single runs. With several seeds they would follow from \
             Welch's test of the means."
        }
        _ => {
            "Models are compared by Welch's test of their means over the seeds, two-sided at 5 %. A difference that is not \
             significant is within the spread of the seeds."
        }
    }
}

/// Settings shared by all runs, in one line.
fn settings_line(settings: &TrainConfig) -> String {
    format!(
        "{} epochs, {} layers of {} and {}, batches of {}, learning rate {}, temperature {}, margin {}, {} on device {}",
        settings.epochs,
        settings.layers,
        settings.state_width,
        settings.hidden_width,
        settings.batch_size,
        settings.learning_rate,
        settings.temperature,
        settings.margin,
        word(&settings.precision),
        settings.device,
    )
}

impl RunSummary {
    /// Numbers of a run: name in the JSON, value, and whether it is a fraction.
    fn numbers(&self) -> [(&'static str, Option<f64>, bool); 9] {
        let count = |count: usize| Some(count as f64);
        [
            ("seed", Some(self.seed as f64), false),
            ("epochs", count(self.epochs), false),
            ("best_epoch", self.best_epoch.map(|epoch| epoch as f64), false),
            ("validation_kendall", self.validation_kendall, true),
            ("kendall", Some(self.kendall), true),
            ("kendall_all_pairs", Some(self.kendall_all_pairs), true),
            ("mrr", self.mrr, true),
            ("mrr_relationships", self.mrr_relationships, true),
            ("undefined_rows", count(self.undefined_rows), false),
        ]
    }
}

/// Template filters.
mod filters {
    /// Escapes the special characters of Markdown.
    #[askama::filter_fn]
    pub fn markdown(text: impl std::fmt::Display, _: &dyn askama::Values) -> askama::Result<String> {
        let mut escaped = String::new();
        for letter in text.to_string().chars() {
            if matches!(letter, '\\' | '|' | '*' | '_' | '`' | '<' | '>' | '[' | ']' | '#') {
                escaped.push('\\');
            }
            escaped.push(letter);
        }
        Ok(escaped)
    }
}
