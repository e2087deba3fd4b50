//! Panels with curves, points or bars, side by side in one SVG, each with its legend below. On request every point of a
//! panel gets a transparent mark on top with its exact value, which a page can show.

use std::io;
use std::ops::Range;

use askama::Template;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
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
/// Colour of a background series.
const QUIET: RGBColor = RGBColor(176, 176, 176);
const FONT: &str = "sans-serif";
const GRID: RGBColor = RGBColor(225, 225, 225);
/// Width and height of a panel without its legend.
const PANEL: (u32, u32) = (560, 440);
/// Largest number of points for which a line marks each of them.
const MARKED: usize = 25;
/// Number of ticks on an axis, at most.
const TICKS: usize = 8;
/// Average width of a letter in a legend and in a tick's label.
const LETTER: u32 = 8;
/// Space beside the axes: of the right margin, where half of the last label lies, and of the y axis without its labels.
const RIGHT: u32 = 24;
const LEFT: u32 = 44;
/// Height of a row of the legend, width of a sample with its gaps, and distance to the next entry.
const LEGEND_ROW: u32 = 24;
const SAMPLE: u32 = 30;
const ENTRY_GAP: u32 = 18;

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
    /// Whether x counts something, so that its ticks are whole numbers.
    #[serde(skip)]
    pub whole_x: bool,
    /// Displayed range of y; derived from the data if `None`.
    #[serde(skip)]
    pub y: Option<Range<f64>>,
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

/// Points (x, y) of one run.
pub type Curve = Vec<(f64, f64)>;

/// Points of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Series {
    /// Name in the legend, which series may share.
    pub label: String,
    /// Points (x, y).
    pub points: Vec<(f64, f64)>,
    /// Lowest and highest y of several runs at each point; empty for one run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub band: Vec<(f64, f64)>,
    /// Notes on each point, if any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether the series is background: grey, and below the others.
    #[serde(skip)]
    pub quiet: bool,
}

impl Series {
    /// Creates a series without notes.
    pub fn new(label: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Series { label: label.into(), points: points.into_iter().collect(), ..Default::default() }
    }

    /// One series per label, in order of first appearance. Curves with the same label are runs of one model: their mean, with
    /// a band from the lowest to the highest, at each x that all of them have.
    pub fn by_label<'a>(curves: impl IntoIterator<Item = (&'a str, Curve)>) -> Vec<Self> {
        let mut groups: Vec<(&str, Vec<Curve>)> = Vec::new();
        for (label, curve) in curves {
            match groups.iter_mut().find(|(other, _)| *other == label) {
                Some((_, runs)) => runs.push(curve),
                None => groups.push((label, vec![curve])),
            }
        }
        groups.into_iter().map(|(label, runs)| Series::of_runs(label, &runs)).collect()
    }

    fn of_runs(label: &str, runs: &[Curve]) -> Self {
        let [first, others @ ..] = runs else { return Series::new(label, []) };
        let mut series = Series::new(label, []);
        for &(x, y) in first {
            let same_x = |run: &Curve| run.iter().find(|point| point.0 == x).map(|point| point.1);
            let Some(mut values) = others.iter().map(same_x).collect::<Option<Vec<f64>>>() else { continue };
            values.push(y);
            series.points.push((x, values.iter().sum::<f64>() / values.len() as f64));
            if !others.is_empty() {
                let low = values.iter().copied().fold(f64::INFINITY, f64::min);
                let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                series.band.push((low, high));
            }
        }
        series
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

/// Draws the panels as an SVG document, at most `columns` side by side.
pub fn svg(panels: &[Panel], columns: usize) -> io::Result<String> {
    let columns = columns.clamp(1, panels.len().max(1));
    Ok(draw(panels, columns)?.0)
}

/// Draws a panel as an SVG document with a mark at every point. `pointer` is the JSON pointer to the panel in the report.
pub fn marked_svg(panel: &Panel, pointer: &str) -> io::Result<String> {
    let (mut svg, mut marks) = draw(std::slice::from_ref(panel), 1)?;
    marks.iter_mut().for_each(|mark| mark.pointer.insert_str(0, pointer));
    let overlay = Marks { marks }.render().map_err(io::Error::other)?;
    let end = svg.rfind("</svg>").unwrap_or(svg.len());
    svg.insert_str(end, &overlay);
    Ok(svg)
}

fn draw(panels: &[Panel], columns: usize) -> io::Result<(String, Vec<Mark>)> {
    let (mut svg, mut marks) = (String::new(), Vec::new());
    draw_all(&mut svg, panels, columns, &mut marks).map_err(|error| io::Error::other(error.to_string()))?;
    Ok((svg, marks))
}

fn draw_all(svg: &mut String, panels: &[Panel], columns: usize, marks: &mut Vec<Mark>) -> Drawn<io::Error> {
    let rows = panels.len().div_ceil(columns).max(1);
    let legend_rows = panels.iter().map(|panel| legend(panel).last().map_or(0, |entry| entry.row + 1)).max();
    let height = PANEL.1 + LEGEND_ROW * legend_rows.unwrap_or(0);
    let root = SVGBackend::with_string(svg, (PANEL.0 * columns as u32, height * rows as u32));
    let root = root.into_drawing_area();
    root.fill(&WHITE)?;
    for (area, panel) in root.split_evenly((rows, columns)).iter().zip(panels) {
        let (axes, below) = area.split_vertically(PANEL.1);
        draw_panel(&axes, panel, marks)?;
        draw_legend(&below, panel)?;
    }
    root.present()?;
    Ok(())
}

/// An entry of a legend, below the axes.
struct Entry<'a> {
    label: &'a str,
    colour: RGBColor,
    row: u32,
    x: u32,
}

/// Entries of a panel's legend, from left to right in rows. A panel with one series has none.
fn legend(panel: &Panel) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let (mut row, mut x) = (0, LEFT);
    for (series, colour) in panel.series.iter().zip(colours(panel)) {
        if entries.iter().any(|entry| entry.label == series.label) {
            continue;
        }
        let width = SAMPLE + series.label.chars().count() as u32 * LETTER;
        if x > LEFT && x + width > PANEL.0 - RIGHT {
            (row, x) = (row + 1, LEFT);
        }
        entries.push(Entry { label: &series.label, colour, row, x });
        x += width + ENTRY_GAP;
    }
    if entries.len() < 2 {
        entries.clear();
    }
    entries
}

/// Colour of each series.
fn colours(panel: &Panel) -> impl Iterator<Item = RGBColor> {
    let mut palette = PALETTE.iter().cycle();
    panel.series.iter().map(move |series| match series.quiet {
        true => QUIET,
        false => *palette.next().expect("the palette is cycled"),
    })
}

fn draw_legend<B: DrawingBackend>(area: &DrawingArea<B, Shift>, panel: &Panel) -> Drawn<B::ErrorType> {
    for Entry { label, colour, row, x } in legend(panel) {
        let (x, y) = (x as i32, (row * LEGEND_ROW + LEGEND_ROW / 2) as i32);
        match panel.shape {
            Shape::Points => area.draw(&Circle::new((x + 11, y), 5, colour.filled()))?,
            Shape::Line | Shape::Bars => {
                area.draw(&PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(3)))?;
            }
        }
        area.draw(&Text::new(label.to_owned(), (x + SAMPLE as i32, y - 7), (FONT, 15)))?;
    }
    Ok(())
}

fn draw_panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    panel: &Panel,
    marks: &mut Vec<Mark>,
) -> Drawn<B::ErrorType> {
    // The loss of a diverged run cannot be drawn.
    let finite = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let points: Vec<(f64, f64)> = panel.series.iter().flat_map(|series| finite(&series.points)).collect();
    let bars = panel.shape == Shape::Bars;
    let spread = if panel.shape == Shape::Points { 0.05 } else { 0.0 };
    let bar = bar_width(&points);
    let x = range(points.iter().map(|point| point.0), spread);
    let x = if bars { x.start..x.end + bar } else { x };
    let y = panel.y.clone().unwrap_or_else(|| {
        let bands =
            panel.series.iter().flat_map(|series| series.band.iter().flat_map(|band| [band.0, band.1]));
        range(points.iter().map(|point| point.1).chain(bands.filter(|value| value.is_finite())), 0.05)
    });
    let y = if bars { 0.0..y.end } else { y };
    let (x, y) = (Axis::new(x, panel.whole_x), Axis::new(y, false));
    let longest = y.ticks.iter().map(|&value| tick(value).chars().count()).max().unwrap_or(0);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, (FONT, 20))
        .margin(14)
        .margin_right(RIGHT)
        .x_label_area_size(48)
        .y_label_area_size(LEFT + LETTER * longest as u32)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(BLACK.mix(0.6))
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| tick(*value))
        .label_style((FONT, 15))
        .axis_desc_style((FONT, 17))
        .x_desc(&panel.x_name)
        .y_desc(&panel.y_name)
        .draw()?;
    let mut drawn: Vec<(usize, &Series, RGBColor)> =
        panel.series.iter().zip(colours(panel)).enumerate().map(|(i, (series, c))| (i, series, c)).collect();
    drawn.sort_by_key(|(_, series, _)| !series.quiet);
    for (_, series, colour) in &drawn {
        let upper = series.points.iter().zip(&series.band).map(|(point, band)| (point.0, band.1));
        let lower = series.points.iter().zip(&series.band).map(|(point, band)| (point.0, band.0)).rev();
        let outline = finite(&upper.chain(lower).collect::<Vec<_>>());
        if !outline.is_empty() {
            chart.draw_series([Polygon::new(outline, colour.mix(0.18))])?;
        }
    }
    for (number, series, colour) in drawn {
        let points = finite(&series.points);
        let size = if series.quiet { 3 } else { 4 };
        let dots = |size| points.iter().map(move |&point| Circle::new(point, size, colour.filled()));
        match panel.shape {
            Shape::Line => {
                if points.len() <= MARKED && !series.quiet {
                    chart.draw_series(dots(3))?;
                }
                let style = colour.stroke_width(if series.quiet { 1 } else { 2 });
                chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            }
            Shape::Points => {
                chart.draw_series(dots(size))?;
            }
            Shape::Bars => {
                let fill = colour.mix(0.6).filled();
                let bars = points.iter().map(|&(x, y)| Rectangle::new([(x, 0.0), (x + bar, y)], fill));
                chart.draw_series(bars)?;
            }
        }
        for (place, &(x, y)) in series.points.iter().enumerate() {
            if x.is_finite() && y.is_finite() {
                let middle = if bars { (x + bar / 2.0, y) } else { (x, y) };
                marks.push(Mark {
                    at: chart.backend_coord(&middle),
                    label: series.notes.get(place).unwrap_or(&series.label).clone(),
                    x_name: panel.x_name.clone(),
                    x,
                    y,
                    pointer: format!("/series/{number}/points/{place}"),
                });
            }
        }
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

/// An axis with its ticks.
struct Axis {
    values: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Axis {
    fn new(values: Range<f64>, whole: bool) -> Self {
        Axis { ticks: ticks(&values, whole), values: values.into() }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.values.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.values.range()
    }
}

/// Positions of an axis' ticks: multiples of 1, 2 or 5 times a power of ten, whole numbers if `whole`.
fn ticks(axis: &Range<f64>, whole: bool) -> Vec<f64> {
    let least = (axis.end - axis.start) / TICKS as f64;
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= least);
    let step = step.unwrap_or(10.0 * power).max(if whole { 1.0 } else { 0.0 });
    let first = (axis.start / step).ceil();
    let count = ((axis.end / step).floor() - first).max(0.0) as usize;
    (0..=count).map(|index| rounded((first + index as f64) * step)).collect()
}

/// The value without the last digits of its binary form, which multiples of a step may have.
fn rounded(value: f64) -> f64 {
    format!("{value:.9e}").parse().expect("a number was printed")
}

/// Label of a tick.
fn tick(value: f64) -> String {
    let value = rounded(value);
    let text = format!("{value}");
    if text == "-0" { "0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_whole_where_they_count() {
        assert_eq!(ticks(&(0.0..1.02), false), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        assert_eq!(ticks(&(1.0..2.0), true), [1.0, 2.0]);
        assert_eq!(ticks(&(1.0..3.0), true), [1.0, 2.0, 3.0]);
        assert_eq!(ticks(&(1.0..100.0), true), [20.0, 40.0, 60.0, 80.0, 100.0]);
        let small = ticks(&(0.69305..0.69322), false);
        assert!((3..=TICKS + 1).contains(&small.len()), "{small:?}");
        let labels: Vec<String> = small.iter().map(|&value| tick(value)).collect();
        assert!(labels.iter().all(|label| label.len() <= 7), "{labels:?}");
        assert_eq!(ticks(&(-0.5..0.5), false).len(), 5);
        assert_eq!(tick(-0.0), "0");
    }

    #[test]
    fn runs_of_one_model_are_a_mean_with_a_band() {
        let curves = [
            ("a", vec![(1.0, 0.2), (2.0, 0.4), (3.0, 0.5)]),
            ("b", vec![(1.0, 0.7)]),
            ("a", vec![(1.0, 0.4), (2.0, 0.2)]),
        ];
        let [a, b] = &Series::by_label(curves)[..] else { panic!("two labels") };
        let near = |value: f64, other: f64| (value - other).abs() < 1e-12;
        assert!(near(a.points[0].1, 0.3) && near(a.points[1].1, 0.3), "{a:?}");
        assert_eq!((a.points.len(), &a.band), (2, &vec![(0.2, 0.4), (0.2, 0.4)]));
        assert_eq!((&b.points, b.band.len()), (&vec![(1.0, 0.7)], 0));
    }

    #[test]
    fn a_legend_lists_each_label_once_within_the_panel() {
        let series = |label: &str| Series::new(label, [(0.0, 0.0), (1.0, 1.0)]);
        let quiet = |label: &str| Series { quiet: true, ..series(label) };
        let panel = |series| Panel {
            title: String::new(),
            x_name: String::new(),
            y_name: String::new(),
            shape: Shape::Line,
            whole_x: false,
            y: None,
            series,
        };
        assert!(legend(&panel(vec![series("one")])).is_empty());
        let mixed = panel(vec![quiet("anchors"), quiet("anchors"), series("mean")]);
        let entries: Vec<_> = legend(&mixed).iter().map(|entry| (entry.label, entry.colour)).collect();
        assert_eq!(entries, [("anchors", QUIET), ("mean", PALETTE[0])]);
        let long = panel((0..8).map(|index| series(&format!("ranking + probability {index}"))).collect());
        let entries = legend(&long);
        assert!(entries.iter().all(|entry| entry.x + SAMPLE < PANEL.0) && entries.last().unwrap().row > 1);
    }
}
