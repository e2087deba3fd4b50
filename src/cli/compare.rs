//! `scenerank compare`.

use std::path::PathBuf;

use clap::Args;
use scenerank::Result;
use scenerank::compare::{Comparison, HTML};
use scenerank::report::table::plain_table;

const EXAMPLES: &str = "\
Examples:
  scenerank compare runs/paper runs/triplet
  scenerank compare runs/* --out comparison
  scenerank compare runs/* --json";

/// Compare runs: the options in which they differ, and their results side by side.
///
/// Results are those of the training, and those that `evaluate`, `retrieve` and `reproduce` left in the folders of the
/// runs. Nothing is computed. With --out, writes compare.html, with the curves, compare.svg and compare.json.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct CompareArguments {
    /// Folders of trained runs.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Folder for the page and the curves.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl CompareArguments {
    pub fn run(self) -> Result<()> {
        let comparison = Comparison::read(&self.runs)?;
        if let Some(out) = &self.out {
            comparison.write(out)?;
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&comparison).expect("plain fields"));
            return Ok(());
        }
        print_comparison(&comparison);
        if let Some(out) = &self.out {
            println!("{}", out.join(HTML).display());
        }
        Ok(())
    }
}

/// Prints both tables, one row for each run.
pub fn print_comparison(comparison: &Comparison) {
    let [options, results] = comparison.cells();
    let names = comparison.differences.iter().map(|column| &column.name);
    print_table(&comparison.runs, "options that differ", names.collect(), options);
    let names = comparison.results.iter().map(|column| &column.name);
    print_table(&comparison.runs, "results", names.collect(), results);
}

/// Prints a table; the title heads the column of the runs.
fn print_table(runs: &[String], title: &str, names: Vec<&String>, rows: Vec<Vec<String>>) {
    if names.is_empty() {
        println!("{title}: none\n");
        return;
    }
    let header = std::iter::once(title.to_string()).chain(names.into_iter().cloned());
    let mut table = plain_table(header);
    for (run, cells) in runs.iter().zip(rows) {
        table.add_row(std::iter::once(run.clone()).chain(cells));
    }
    println!("{table}\n");
}
