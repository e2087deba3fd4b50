//! Panels with curves, points or bars, side by side in one SVG. On request every point gets a transparent
//! mark on top with its exact value, which a page can show.

use std::io;
use std::ops::Range;

use askama::Template;
use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Serialize;

/// Palette of Okabe and Ito, distinguishable with any colour vision; its yellow is too light for lines.
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
/// Largest number of points for which a line marks each of them.
const MARKED: usize = 25;
/// Numbers of lines that get a legend. Panels with more lines than the palette show lines of one kind.
const LEGEND: Range<usize> = 2..PALETTE.len() + 1;

/// One pair of axes.
#[derive(Clone, Debug, Serialize)]
pub struct Panel {
    /// Title above the axes.
    pub title: String,
    /// Label of the x axis.
    pub x_name: String,
    /// Label of the y axis.
    pub y_name: String,
    /// Style of the points.
    pub shape: Shape,
    /// Displayed range of y; derived from the data if `None`.
    #[serde(skip)]
    pub y: Option<Range<f64>>,
    /// Corner of the legend, chosen to be free of data.
    #[serde(skip)]
    pub legend: Corner,
    /// Curves, points or bars to draw.
    pub series: Vec<Series>,
}

/// Style of the points in a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Joined by a line.
    Line,
    /// Separate points.
    Points,
    /// Bars that start at x and extend to the next x.
    Bars,
}

/// A corner of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corner {
    /// Bottom left.
    LowerLeft,
    /// Bottom right.
    LowerRight,
    /// Top right.
    UpperRight,
}

/// Points of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Series {
    /// Name in the legend.
    pub label: String,
    /// Points (x, y).
    pub points: Vec<(f64, f64)>,
    /// Notes on each point, if any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Series {
    /// Creates a series without notes.
    pub fn new(label: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Series { label: label.into(), points: points.into_iter().collect(), notes: Vec::new() }
    }
}

/// Transparent marks on top of a plot.
#[derive(Template)]
#[template(path = "marks.svg", escape = "html")]
struct Marks {
    marks: Vec<Mark>,
}

struct Mark {
    /// Position in pixels.
    at: (i32, i32),
    label: String,
    x_name: String,
    x: f64,
    y: f64,
    /// JSON pointer to y in the report.
    pointer: String,
}

/// Result type of plotters.
type Drawn<E> = std::result::Result<(), DrawingAreaErrorKind<E>>;

/// Draws the panels as an SVG document, at most `columns` side by side. With `pointer`, the JSON pointer to
/// `panels` in the report, every point gets a mark.
pub fn svg(panels: &[Panel], columns: usize, pointer: Option<&str>) -> io::Result<String> {
    let columns = columns.clamp(1, panels.len().max(1));
    let rows = panels.len().div_ceil(columns).max(1);
    let mut svg = String::new();
    let mut marks = Vec::new();
    draw(&mut svg, panels, (rows, columns), &mut marks)
        .map_err(|error| io::Error::other(error.to_string()))?;
    if let Some(pointer) = pointer {
        marks.iter_mut().for_each(|mark| mark.pointer.insert_str(0, pointer));
        let overlay = Marks { marks }.render().map_err(io::Error::other)?;
        let end = svg.rfind("</svg>").unwrap_or(svg.len());
        svg.insert_str(end, &overlay);
    }
    Ok(svg)
}

fn draw(
    svg: &mut String,
    panels: &[Panel],
    (rows, columns): (usize, usize),
    marks: &mut Vec<Mark>,
) -> Drawn<io::Error> {
    let size = (PANEL.0 * columns as u32, PANEL.1 * rows as u32);
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (index, (area, panel)) in root.split_evenly((rows, columns)).iter().zip(panels).enumerate() {
        draw_panel(area, panel, index, marks)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    panel: &Panel,
    index: usize,
    marks: &mut Vec<Mark>,
) -> Drawn<B::ErrorType> {
    // The loss of a diverged run cannot be drawn.
    let finite = |series: &Series| -> Vec<(f64, f64)> {
        series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let points: Vec<(f64, f64)> = panel.series.iter().flat_map(finite).collect();
    let bars = panel.shape == Shape::Bars;
    let spread = if panel.shape == Shape::Points { 0.05 } else { 0.0 };
    let bar = bar_width(&points);
    let x = range(points.iter().map(|point| point.0), spread);
    let x = if bars { x.start..x.end + bar } else { x };
    let y = panel.y.clone().unwrap_or_else(|| range(points.iter().map(|point| point.1), 0.05));
    let y = if bars { 0.0..y.end } else { y };
    let (x_decimals, y_decimals) = (tick_decimals(&x), tick_decimals(&y));
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, (FONT, 20))
        .margin(14)
        // Space for half of the last label on the x axis.
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
        .x_desc(&panel.x_name)
        .y_desc(&panel.y_name)
        .draw()?;
    for (number, (series, &colour)) in panel.series.iter().zip(PALETTE.iter().cycle()).enumerate() {
        let points = finite(series);
        let dots = |size| points.iter().map(move |&point| Circle::new(point, size, colour.filled()));
        let drawn = match panel.shape {
            Shape::Line => {
                if points.len() <= MARKED {
                    chart.draw_series(dots(3))?;
                }
                let style = colour.stroke_width(2);
                chart
                    .draw_series(LineSeries::new(points.iter().copied(), style))?
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style))
            }
            Shape::Points => {
                chart.draw_series(dots(4))?.legend(move |at| Circle::new(at, 5, colour.filled()))
            }
            Shape::Bars => chart.draw_series(
                points
                    .iter()
                    .map(|&(x, y)| Rectangle::new([(x, 0.0), (x + bar, y)], colour.mix(0.6).filled())),
            )?,
        };
        drawn.label(&series.label);
        for (place, &(x, y)) in series.points.iter().enumerate() {
            if x.is_finite() && y.is_finite() {
                let middle = if bars { (x + bar / 2.0, y) } else { (x, y) };
                marks.push(Mark {
                    at: chart.backend_coord(&middle),
                    label: series.notes.get(place).unwrap_or(&series.label).clone(),
                    x_name: panel.x_name.clone(),
                    x,
                    y,
                    pointer: format!("/{index}/series/{number}/points/{place}"),
                });
            }
        }
    }
    if LEGEND.contains(&panel.series.len()) {
        chart
            .configure_series_labels()
            .position(match panel.legend {
                Corner::LowerLeft => SeriesLabelPosition::LowerLeft,
                Corner::LowerRight => SeriesLabelPosition::LowerRight,
                Corner::UpperRight => SeriesLabelPosition::UpperRight,
            })
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font((FONT, 15))
            .legend_area_size(28)
            .margin(8)
            .draw()?;
    }
    Ok(())
}

/// Distance between bars; arbitrary for a single bar.
fn bar_width(points: &[(f64, f64)]) -> f64 {
    match points {
        [first, second, ..] => second.0 - first.0,
        _ => 1.0,
    }
}

/// Smallest range of the values, widened by the fraction `margin`; never empty.
fn range(values: impl Iterator<Item = f64> + Clone, margin: f64) -> Range<f64> {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return 0.0..1.0;
    }
    let extent = if high > low { (high - low) * margin } else { low.abs().max(1.0) * 0.5 };
    low - extent..high + extent
}

/// Number of decimals that distinguish an axis' ticks.
fn tick_decimals(axis: &Range<f64>) -> usize {
    (2.0 - (axis.end - axis.start).log10()).ceil().clamp(0.0, 12.0) as usize
}

/// Value of a tick without trailing zeros.
fn tick(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}
