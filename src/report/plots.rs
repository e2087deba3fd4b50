//! Plots as SVG: retrieval with incomplete queries (paper, Figure 4) and the course of training. Every retrieval plot
//! has a CSV twin with the same numbers.

use std::io;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use serde::Serialize;

use crate::atomic_file::write_atomically;
use crate::{Error, Result};

/// Okabe and Ito's palette, which readers with any colour vision tell apart; its yellow is too light for lines.
const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
const FONT: &str = "sans-serif";
const GRID: RGBColor = RGBColor(225, 225, 225);
const PANEL: (u32, u32) = (560, 440);
/// Of shares: a little above 1, so that a perfect line does not hide in the frame.
const SHARES: Range<f64> = 0.0..1.02;
/// Lines with at most this many points mark each of them.
const MARKED: usize = 25;

/// recall@k of one model, `recall[k - 1]`.
#[derive(Clone, Debug)]
pub struct RecallCurve {
    /// Name in the legend.
    pub label: String,
    /// Shares from 0 to 1, for k = 1, 2, ...
    pub recall: Vec<f64>,
}

/// Retrieval after the removal of some edges.
#[derive(Clone, Copy, Debug)]
pub struct NoisePoint {
    /// Edges removed from each query, M.
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
    /// By growing M.
    pub points: Vec<NoisePoint>,
}

/// One run's course; points are (epoch, value), fractions of an epoch allowed.
#[derive(Clone, Debug)]
pub struct TrainingCurve {
    /// Name in the legend.
    pub label: String,
    /// Mean training loss.
    pub loss: Vec<(f64, f64)>,
    /// Row-wise Kendall's tau of the validation set.
    pub validation_kendall: Vec<(f64, f64)>,
}

/// Figure 4a: recall@k over k, as an SVG file.
pub fn recall_plot(path: &Path, curves: &[RecallCurve]) -> Result<()> {
    let lines = curves
        .iter()
        .map(|curve| Line {
            label: &curve.label,
            points: curve.recall.iter().zip(1..).map(|(&recall, k)| (f64::from(k), recall)).collect(),
        })
        .collect();
    let title = "Retrieval with incomplete queries";
    draw(
        path,
        &[Panel {
            title,
            x_name: "k",
            y_name: "Recall@k",
            y: Some(SHARES),
            legend: SeriesLabelPosition::LowerRight,
            lines,
        }],
    )
}

/// The numbers of [`recall_plot`]: `model,k,recall`.
pub fn recall_csv(path: &Path, curves: &[RecallCurve]) -> Result<()> {
    let rows = curves
        .iter()
        .flat_map(|curve| curve.recall.iter().zip(1u32..).map(|(recall, k)| (&curve.label, k, recall)));
    write_csv(path, &["model", "k", "recall"], rows)
}

/// Figure 4b: MRR, recall@1 and recall@5 over the number of removed edges, as an SVG file of three panels.
pub fn noise_plot(path: &Path, curves: &[NoiseCurve]) -> Result<()> {
    let panel = |title, metric: fn(&NoisePoint) -> f64| Panel {
        title,
        x_name: "removed edges M",
        y_name: title,
        y: Some(SHARES),
        legend: SeriesLabelPosition::LowerLeft,
        lines: curves
            .iter()
            .map(|curve| Line {
                label: &curve.label,
                points: curve.points.iter().map(|point| (point.removed as f64, metric(point))).collect(),
            })
            .collect(),
    };
    draw(
        path,
        &[
            panel("MRR", |point| point.mrr),
            panel("Recall@1", |point| point.recall_at_1),
            panel("Recall@5", |point| point.recall_at_5),
        ],
    )
}

/// The numbers of [`noise_plot`]: `model,removed,mrr,recall_at_1,recall_at_5`.
pub fn noise_csv(path: &Path, curves: &[NoiseCurve]) -> Result<()> {
    let rows = curves.iter().flat_map(|curve| {
        let point = |point: &NoisePoint| {
            (curve.label.clone(), point.removed, point.mrr, point.recall_at_1, point.recall_at_5)
        };
        curve.points.iter().map(point)
    });
    write_csv(path, &["model", "removed", "mrr", "recall_at_1", "recall_at_5"], rows)
}

/// The numbers behind a plot as comma-separated values.
fn write_csv(path: &Path, header: &[&str], rows: impl Iterator<Item = impl Serialize>) -> Result<()> {
    write_atomically(path, |file| {
        let mut csv = csv::Writer::from_writer(file);
        csv.write_record(header)?;
        for row in rows {
            csv.serialize(row)?;
        }
        csv.flush()
    })
}

/// Training loss and validation tau by epoch, as an SVG file of two panels.
pub fn training_plot(path: &Path, curves: &[TrainingCurve]) -> Result<()> {
    let panel = |title, y_name, legend, points: fn(&TrainingCurve) -> &[(f64, f64)]| Panel {
        title,
        x_name: "epoch",
        y_name,
        y: None,
        legend,
        lines: curves
            .iter()
            .map(|curve| Line { label: &curve.label, points: points(curve).to_vec() })
            .collect(),
    };
    draw(
        path,
        &[
            panel("Training loss", "loss", SeriesLabelPosition::UpperRight, |curve| &curve.loss),
            panel("Validation, row-wise", "Kendall tau-b", SeriesLabelPosition::LowerRight, |curve| {
                &curve.validation_kendall
            }),
        ],
    )
}

struct Line<'a> {
    label: &'a str,
    points: Vec<(f64, f64)>,
}

struct Panel<'a> {
    title: &'a str,
    x_name: &'a str,
    y_name: &'a str,
    /// The range to show; by the data if `None`.
    y: Option<Range<f64>>,
    /// The corner where the curves are not.
    legend: SeriesLabelPosition,
    lines: Vec<Line<'a>>,
}

/// Plotters' result.
type Drawn<E> = std::result::Result<(), DrawingAreaErrorKind<E>>;

/// Draws panels side by side into one file.
fn draw(path: &Path, panels: &[Panel<'_>]) -> Result<()> {
    let mut svg = String::new();
    draw_svg(&mut svg, panels)
        .map_err(|error| io::Error::other(error.to_string()))
        .map_err(Error::file("draw", path))?;
    write_atomically(path, |file| file.write_all(svg.as_bytes()))
}

fn draw_svg(svg: &mut String, panels: &[Panel<'_>]) -> Drawn<io::Error> {
    let root = SVGBackend::with_string(svg, (PANEL.0 * panels.len() as u32, PANEL.1)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, panel) in root.split_evenly((1, panels.len())).iter().zip(panels) {
        draw_panel(area, panel)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel<B: DrawingBackend>(area: &DrawingArea<B, Shift>, panel: &Panel<'_>) -> Drawn<B::ErrorType> {
    // A diverged run's loss has no place on an axis.
    let finite = |line: &Line<'_>| -> Vec<(f64, f64)> {
        line.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let points: Vec<(f64, f64)> = panel.lines.iter().flat_map(finite).collect();
    let x = range(points.iter().map(|point| point.0), 0.0);
    let y = panel.y.clone().unwrap_or_else(|| range(points.iter().map(|point| point.1), 0.05));
    let (x_decimals, y_decimals) = (tick_decimals(&x), tick_decimals(&y));
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, (FONT, 20))
        .margin(14)
        // Half of the last label on the x axis.
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(BLACK.mix(0.6))
        .x_labels(8)
        .y_labels(8)
        .x_label_formatter(&|value| tick(*value, x_decimals))
        .y_label_formatter(&|value| tick(*value, y_decimals))
        .label_style((FONT, 15))
        .axis_desc_style((FONT, 17))
        .x_desc(panel.x_name)
        .y_desc(panel.y_name)
        .draw()?;
    for (line, &colour) in panel.lines.iter().zip(PALETTE.iter().cycle()) {
        let points = finite(line);
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(line.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        if points.len() <= MARKED {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
        }
    }
    if panel.lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(panel.legend.clone())
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font((FONT, 15))
            .legend_area_size(28)
            .margin(8)
            .draw()?;
    }
    Ok(())
}

/// Smallest range of the values, widened by `margin` of itself; never empty.
fn range(values: impl Iterator<Item = f64> + Clone, margin: f64) -> Range<f64> {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return 0.0..1.0;
    }
    let extent = if high > low { (high - low) * margin } else { low.abs().max(1.0) * 0.5 };
    low - extent..high + extent
}

/// Decimals that tell an axis' ticks apart.
fn tick_decimals(axis: &Range<f64>) -> usize {
    (2.0 - (axis.end - axis.start).log10()).ceil().clamp(0.0, 12.0) as usize
}

/// A tick's value without trailing zeros.
fn tick(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}
