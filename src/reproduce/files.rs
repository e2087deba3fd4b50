//! Files in the folder of a report.

use std::path::Path;

use super::page;
use super::report::Report;
use super::tables::Table;
use crate::error::{Error, Result};
use crate::files::atomic_file::write_atomically;
use crate::report::panels;
use crate::report::plots::write_csv;

/// Writes `report.json`, `report.html`, `report.md`, a CSV per table and an SVG and a CSV per figure.
pub(super) fn write(report: &Report, out: &Path) -> Result<()> {
    let figures = out.join("figures");
    std::fs::create_dir_all(&figures).map_err(Error::file("create", &figures))?;
    let json = serde_json::to_string_pretty(report).expect("plain fields");
    let mut files = vec![
        (out.join("report.json"), json),
        (out.join("report.html"), page::html(report)?),
        (out.join("report.md"), page::markdown(report)?),
    ];
    for figure in &report.figures {
        let path = figures.join(format!("{}.svg", figure.id));
        // Without the marks, which only the page can show.
        let svg = panels::svg(&figure.panels, figure.columns).map_err(Error::file("draw", &path))?;
        files.push((path, svg));
        let points = figure.panels.iter().flat_map(|panel| {
            panel.series.iter().flat_map(move |series| {
                series.points.iter().enumerate().map(move |(place, point)| {
                    let band = series.band.get(place);
                    let (low, high) = (band.map(|band| band.0), band.map(|band| band.1));
                    (&panel.title, &series.label, point.0, point.1, low, high)
                })
            })
        });
        let header = ["panel", "series", "x", "y", "lowest", "highest"];
        write_csv(&figures.join(format!("{}.csv", figure.id)), &header, points)?;
    }
    for (_, table) in report.tables() {
        write_table(table, &out.join(format!("{}.csv", table.id)))?;
    }
    for (path, text) in files {
        write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}

/// Writes a table as CSV, one line per number.
fn write_table(table: &Table, path: &Path) -> Result<()> {
    let groups = table.groups.iter().flat_map(|(group, columns)| vec![group; *columns]);
    let columns: Vec<(&String, &String)> = groups.zip(&table.metrics).collect();
    let lines = table.rows.iter().flat_map(|row| {
        row.cells.iter().zip(&columns).map(move |(cell, (group, metric))| {
            let ours = cell.ours.as_ref();
            (
                &row.name,
                group,
                metric,
                ours.map(|ours| ours.mean),
                ours.and_then(|ours| ours.spread),
                ours.map_or(0, |ours| ours.values.len()),
                cell.paper,
                cell.difference,
            )
        })
    });
    let header = ["row", "group", "metric", "ours", "spread", "runs", "paper", "difference"];
    write_csv(path, &header, lines)
}
