//! The paper's figure 2 of a data file: how similarities are distributed.

use std::path::{Path, PathBuf};

use plotters::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index;

use crate::data::similarity::Similarity;
use crate::data::statistics::sample;
use crate::{Error, Result};

const SIZE: (u32, u32) = (800, 500);
/// Anchors whose curves are drawn, as in the paper.
const ANCHORS: usize = 20;
/// Points per curve: more would not be seen, but a curve of 45,358 points fills megabytes.
const CURVE_POINTS: usize = 400;
const BINS: usize = 60;

/// Draws `similarity_curves.svg` (s_AX sorted, for 20 anchors A) and `similarity_differences.svg` (histogram of
/// |s_AX - s_AY|) into `folder`; `seed` decides anchors and samples. Returns the two paths.
pub fn draw(similarity: Similarity<'_>, seed: u64, folder: &Path) -> Result<[PathBuf; 2]> {
    std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let curves = folder.join("similarity_curves.svg");
    let differences = folder.join("similarity_differences.svg");
    save(&curves, |svg| draw_curves(svg, similarity, seed))?;
    save(&differences, |svg| draw_differences(svg, similarity, seed))?;
    Ok([curves, differences])
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Draws to memory and then writes, so that a failing disk gives a plain file error.
fn save(path: &Path, plot: impl FnOnce(&mut String) -> Drawn) -> Result<()> {
    let mut svg = String::new();
    plot(&mut svg).map_err(|error| Error::file("draw", path)(std::io::Error::other(error.to_string())))?;
    std::fs::write(path, svg).map_err(Error::file("write", path))
}

fn draw_curves(svg: &mut String, similarity: Similarity<'_>, seed: u64) -> Drawn {
    let images = similarity.len();
    let anchors = ANCHORS.min(images);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .caption(format!("Sorted similarities to {anchors} anchors"), ("sans-serif", 20))
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..1.0f64, 0.0..1.0f64)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("share of the images X").y_desc("s_AX").draw()?;
    let mut random = StdRng::seed_from_u64(seed);
    for (number, anchor) in index::sample(&mut random, images, anchors).into_iter().enumerate() {
        let mut row: Vec<f32> =
            (0..images).filter(|&image| image != anchor).map(|image| similarity.get(anchor, image)).collect();
        row.sort_by(f32::total_cmp);
        let last = row.len().saturating_sub(1);
        let points = last.min(CURVE_POINTS);
        let curve = (0..=points).filter_map(|point| {
            let share = point as f64 / points.max(1) as f64;
            let value = row.get((share * last as f64).round() as usize)?;
            Some((share, f64::from(*value)))
        });
        chart.draw_series(LineSeries::new(curve, Palette99::pick(number).mix(0.8)))?;
    }
    Ok(area.present()?)
}

fn draw_differences(svg: &mut String, similarity: Similarity<'_>, seed: u64) -> Drawn {
    let (_, differences) = sample(similarity, seed);
    let widest = differences.iter().copied().fold(1e-3f32, f32::max);
    let bin_width = f64::from(widest) / BINS as f64;
    let mut shares = [0.0f64; BINS];
    for difference in &differences {
        let bin = (f64::from(*difference) / bin_width) as usize;
        shares[bin.min(BINS - 1)] += 1.0 / differences.len() as f64;
    }
    let highest = shares.iter().copied().fold(1e-3, f64::max);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .caption("Absolute differences in similarity", ("sans-serif", 20))
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..f64::from(widest), 0.0..highest * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("|s_AX - s_AY|")
        .y_desc("relative frequency")
        .draw()?;
    chart.draw_series(shares.iter().enumerate().map(|(bin, &share)| {
        let corners = [(bin as f64 * bin_width, 0.0), ((bin + 1) as f64 * bin_width, share)];
        Rectangle::new(corners, BLUE.mix(0.6).filled())
    }))?;
    Ok(area.present()?)
}
