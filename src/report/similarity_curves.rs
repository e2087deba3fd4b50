//! Figure 2 of the paper for a data file: the distribution of the similarities.

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index;

use super::panels::{self, Panel, Series, Shape};
use crate::data::similarity::Similarity;
use crate::data::statistics::sample;
use crate::files::atomic_file::write_atomically;
use crate::{Error, Result};

/// Number of anchors whose curves are drawn, as in the paper.
const ANCHORS: usize = 20;
/// Points per curve. More would not be visible, and a curve of 45,358 points takes megabytes.
const CURVE_POINTS: usize = 100;
const BINS: usize = 60;

/// Draws `similarity_curves.svg` ([`curves`]) and `similarity_differences.svg` ([`differences`]) into
/// `folder`; `seed` selects anchors and samples. Returns the two paths.
pub fn draw(similarity: Similarity<'_>, seed: u64, folder: &Path) -> Result<[PathBuf; 2]> {
    std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let save = |name: &str, panel: Panel| -> Result<PathBuf> {
        let path = folder.join(name);
        let svg = panels::svg(&[panel], 1).map_err(Error::file("draw", &path))?;
        write_atomically(&path, |file| file.write_all(svg.as_bytes()))?;
        Ok(path)
    };
    Ok([
        save("similarity_curves.svg", curves(similarity, seed))?,
        save("similarity_differences.svg", differences(similarity, seed))?,
    ])
}

/// Sorted similarities s_AX for 20 anchors A, and their mean.
pub fn curves(similarity: Similarity<'_>, seed: u64) -> Panel {
    let images = similarity.len();
    let anchors = ANCHORS.min(images);
    let mut random = StdRng::seed_from_u64(seed);
    let mut series: Vec<Series> = index::sample(&mut random, images, anchors)
        .into_iter()
        .map(|anchor| {
            let mut row: Vec<f32> = (0..images)
                .filter(|&image| image != anchor)
                .map(|image| similarity.get(anchor, image))
                .collect();
            row.sort_by(f32::total_cmp);
            let last = row.len().saturating_sub(1);
            let points = last.min(CURVE_POINTS);
            let curve = (0..=points).filter_map(|point| {
                let share = point as f64 / points.max(1) as f64;
                let value = row.get((share * last as f64).round() as usize)?;
                Some((share, f64::from(*value)))
            });
            let curve = Series::new("one anchor each", curve);
            Series { notes: vec![format!("anchor {anchor}"); curve.points.len()], quiet: true, ..curve }
        })
        .collect();
    let of_all = series.iter().map(|anchor| ("mean of the anchors", anchor.points.clone()));
    let mean = Series::by_label(of_all.collect::<Vec<_>>());
    series.extend(mean.into_iter().map(|mean| Series { band: Vec::new(), ..mean }));
    Panel {
        title: format!("Sorted similarities to {anchors} anchors"),
        x_name: "share of the images X".into(),
        y_name: "s_AX".into(),
        shape: Shape::Line,
        whole_x: false,
        y: None,
        series,
    }
}

/// Histogram of |s_AX - s_AY|.
pub fn differences(similarity: Similarity<'_>, seed: u64) -> Panel {
    let (_, differences) = sample(similarity, seed);
    let widest = differences.iter().copied().fold(1e-3f32, f32::max);
    let bin_width = f64::from(widest) / BINS as f64;
    let mut counts = [0u64; BINS];
    for difference in &differences {
        let bin = (f64::from(*difference) / bin_width) as usize;
        counts[bin.min(BINS - 1)] += 1;
    }
    let total = differences.len().max(1) as f64;
    let bars = counts.iter().enumerate().map(|(bin, &count)| (bin as f64 * bin_width, count as f64 / total));
    Panel {
        title: "Absolute differences in similarity".into(),
        x_name: "|s_AX - s_AY|".into(),
        y_name: "relative frequency".into(),
        shape: Shape::Bars,
        whole_x: false,
        y: None,
        series: vec![Series::new("differences", bars)],
    }
}
