//! Plots as SVG: retrieval with incomplete queries (paper, Figure 4) and training curves. Every retrieval
//! plot has a CSV file with the same numbers.

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::panels::{self, Panel, Series, Shape};
use super::run_log::{METRICS, Record, read_records};
use crate::files::atomic_file::write_atomically;
use crate::{Error, Result};

/// Range of an axis for shares: slightly above 1, so that a perfect line is not hidden by the frame.
const SHARES: Range<f64> = 0.0..1.02;

/// Recall@k of one model, `recall[k - 1]`.
#[derive(Clone, Debug)]
pub struct RecallCurve {
    /// Name in the legend.
    pub label: String,
    /// Shares from 0 to 1, for k = 1, 2, ...
    pub recall: Vec<f64>,
}

/// Retrieval metrics at one level of noise.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct NoisePoint {
    /// Number of edges removed from each query, M.
    pub removed: usize,
    /// Mean reciprocal rank.
    pub mrr: f64,
    /// recall@1.
    pub recall_at_1: f64,
    /// recall@5.
    pub recall_at_5: f64,
}

/// The noise sweep of one model.
#[derive(Clone, Debug)]
pub struct NoiseCurve {
    /// Name in the legend.
    pub label: String,
    /// Points in order of increasing M.
    pub points: Vec<NoisePoint>,
}

/// Training curve of one run; points are (epoch, value), where the epoch may be fractional.
#[derive(Clone, Debug)]
pub struct TrainingCurve {
    /// Name in the legend.
    pub label: String,
    /// Mean training loss.
    pub loss: Vec<(f64, f64)>,
    /// Row-wise Kendall's tau of the validation split.
    pub validation_kendall: Vec<(f64, f64)>,
}

impl TrainingCurve {
    /// Reads the curve of the run in `folder` from its records.
    pub fn read(folder: &Path, label: impl Into<String>) -> Result<Self> {
        let mut curve =
            TrainingCurve { label: label.into(), loss: Vec::new(), validation_kendall: Vec::new() };
        for record in read_records(&folder.join(METRICS))? {
            if let Record::Epoch { epoch, loss, validation_kendall, .. } = record {
                curve.loss.push((epoch as f64, loss));
                curve.validation_kendall.extend(validation_kendall.map(|tau| (epoch as f64, tau)));
            }
        }
        Ok(curve)
    }
}

/// Figure 4a: recall@k over k. Curves with the same label are runs of one model.
pub fn recall_panel(title: impl Into<String>, curves: &[RecallCurve]) -> Panel {
    let points = |curve: &RecallCurve| {
        curve.recall.iter().zip(1..).map(|(&recall, k)| (f64::from(k), recall)).collect()
    };
    Panel {
        title: title.into(),
        x_name: "k".into(),
        y_name: "Recall@k".into(),
        shape: Shape::Line,
        whole_x: true,
        y: Some(SHARES),
        series: Series::by_label(curves.iter().map(|curve| (curve.label.as_str(), points(curve)))),
    }
}

/// [`recall_panel`] as an SVG file.
pub fn recall_plot(path: &Path, curves: &[RecallCurve]) -> Result<()> {
    save(path, &[recall_panel("Retrieval with incomplete queries", curves)])
}

/// Writes the numbers of [`recall_plot`]: `model,k,recall`.
pub fn recall_csv(path: &Path, curves: &[RecallCurve]) -> Result<()> {
    let rows = curves
        .iter()
        .flat_map(|curve| curve.recall.iter().zip(1u32..).map(|(recall, k)| (&curve.label, k, recall)));
    write_csv(path, &["model", "k", "recall"], rows)
}

/// Figure 4b: MRR, recall@1 and recall@5 over the number of removed edges, one panel each. Curves with the same label are
/// runs of one model.
pub fn noise_panels(curves: &[NoiseCurve]) -> Vec<Panel> {
    let panel = |title: &str, metric: fn(&NoisePoint) -> f64| {
        let points = |curve: &NoiseCurve| {
            curve.points.iter().map(|point| (point.removed as f64, metric(point))).collect()
        };
        Panel {
            title: title.into(),
            x_name: "removed edges M".into(),
            y_name: title.into(),
            shape: Shape::Line,
            whole_x: true,
            y: Some(SHARES),
            series: Series::by_label(curves.iter().map(|curve| (curve.label.as_str(), points(curve)))),
        }
    };
    vec![
        panel("MRR", |point| point.mrr),
        panel("Recall@1", |point| point.recall_at_1),
        panel("Recall@5", |point| point.recall_at_5),
    ]
}

/// [`noise_panels`] as an SVG file.
pub fn noise_plot(path: &Path, curves: &[NoiseCurve]) -> Result<()> {
    save(path, &noise_panels(curves))
}

/// Writes the numbers of [`noise_plot`]: `model,removed,mrr,recall_at_1,recall_at_5`.
pub fn noise_csv(path: &Path, curves: &[NoiseCurve]) -> Result<()> {
    let rows = curves.iter().flat_map(|curve| {
        let point = |point: &NoisePoint| {
            (curve.label.clone(), point.removed, point.mrr, point.recall_at_1, point.recall_at_5)
        };
        curve.points.iter().map(point)
    });
    write_csv(path, &["model", "removed", "mrr", "recall_at_1", "recall_at_5"], rows)
}

/// Writes the numbers of a plot as comma-separated values.
pub fn write_csv(path: &Path, header: &[&str], rows: impl Iterator<Item = impl Serialize>) -> Result<()> {
    write_atomically(path, |file| {
        let mut csv = csv::Writer::from_writer(file);
        csv.write_record(header)?;
        for row in rows {
            csv.serialize(row)?;
        }
        csv.flush()
    })
}

/// Training loss and validation tau by epoch, one panel each; `of` names the model in the titles. Curves with the same label
/// are runs of one model.
pub fn training_panels(of: &str, curves: &[TrainingCurve]) -> [Panel; 2] {
    let panel = |title: &str, y_name: &str, points: fn(&TrainingCurve) -> &[(f64, f64)]| Panel {
        title: format!("{title}{of}"),
        x_name: "epoch".into(),
        y_name: y_name.into(),
        shape: Shape::Line,
        whole_x: true,
        y: None,
        series: Series::by_label(curves.iter().map(|curve| (curve.label.as_str(), points(curve).to_vec()))),
    };
    [
        panel("Training loss", "loss", |curve| &curve.loss),
        panel("Validation, row-wise", "Kendall tau-b", |curve| &curve.validation_kendall),
    ]
}

/// [`training_panels`] as an SVG file.
pub fn training_plot(path: &Path, curves: &[TrainingCurve]) -> Result<()> {
    save(path, &training_panels("", curves))
}

/// Saves panels side by side in one file.
fn save(path: &Path, panels: &[Panel]) -> Result<()> {
    let svg = panels::svg(panels, panels.len()).map_err(Error::file("draw", path))?;
    write_atomically(path, |file| file.write_all(svg.as_bytes()))
}
