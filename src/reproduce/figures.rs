//! Figures 2 and 4 of the paper, training curves, and a projection of the test images.

use std::path::Path;

use serde::Serialize;

use super::measure::{Method, NOISE, Retrieval, Sweep};
use super::paper::Paper;
use super::plan::{LOSSES, Model, PROPOSED, Plan, model_name, word};
use super::tables::Table;
use super::training::{RunResult, Trained, folder, method_of};
use super::{Reproduction, Unchanging};
use crate::data::statistics::{quantile, sample};
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::evaluation::Embeddings;
use crate::evaluation::projection::principal_plane;
use crate::files::atomic_file::write_atomically;
use crate::files::text::read_json;
use crate::report::panels::{self, Panel, Series, Shape};
use crate::report::plots::{
    NoiseCurve, RecallCurve, TrainingCurve, noise_panels, recall_panel, training_panels,
};
use crate::report::similarity_curves;
use crate::run::{Run, Which};

/// Seed for the anchors and samples of Figure 2.
const SIMILARITY_SEED: u64 = 0;
/// File name of a run's noise sweep.
const SWEEP: &str = "sweep.json";
/// Number of object types with their own colour in the projection.
const COLOURED_TYPES: usize = 6;
/// Largest share of images with a type for which the type still says something about their position.
const COMMON: f64 = 0.3;

/// Panels with a caption.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Anchor in the page, and name of the file.
    pub id: String,
    /// Title above the figure.
    pub title: String,
    /// Caption below the figure.
    pub caption: String,
    /// Number of panels side by side.
    #[serde(skip)]
    pub columns: usize,
    /// Panels of the figure.
    pub panels: Vec<Panel>,
    /// SVG of each panel, with a mark at each point.
    #[serde(skip)]
    pub svgs: Vec<String>,
}

/// A finished run, opened for use.
pub(super) struct ChosenRun {
    pub name: String,
    pub run: Run,
}

/// A model of Figure 4: its name, and the result and the sweep of each of its runs.
type DrawnModel = (String, Vec<(RunResult, Sweep)>);

/// Runs shown in the figures.
pub(super) struct Chosen {
    /// For each interpretation of "edges", the strategy of each loss that Table 3 marks: its name, and its runs.
    by_loss: [Vec<DrawnModel>; 2],
    /// The paper's model, or the one with the best row-wise tau if that is missing.
    pub best: Option<ChosenRun>,
    /// Curves of all finished runs.
    training: Vec<(Model, TrainingCurve)>,
}

impl Chosen {
    /// Opens the runs with their data file at `data`, and measures what the figures need.
    pub fn new(
        plan: &Plan,
        trained: &[Trained],
        reproduction: &Reproduction,
        data: &Path,
        table_3: &[Table; 2],
    ) -> Result<Self> {
        let place = |run: usize| folder(&reproduction.out, &plan.runs[run]);
        let open = |model: &Model, run: usize| -> Result<ChosenRun> {
            let base = &reproduction.base;
            Ok(ChosenRun {
                name: model_name(model.loss, model.sampling),
                run: Run::open(&place(run), Which::Best, Some(data), base.device, base.arithmetic())?,
            })
        };
        let mut by_loss = [Vec::new(), Vec::new()];
        for (models, table) in by_loss.iter_mut().zip(table_3) {
            for model in plan.models.iter().filter(|model| is_marked(table, model)) {
                let mut runs = Vec::new();
                for (run, result) in finished(model, trained) {
                    runs.push((result.clone(), sweep(&place(run), || open(model, run))?));
                }
                models.push((model_name(model.loss, model.sampling), runs));
            }
        }
        // The first run of each model that has one.
        let models = plan.models.iter();
        let firsts: Vec<_> =
            models.filter_map(|model| Some((model, finished(model, trained).next()?))).collect();
        let tau = |result: &RunResult| result.measurement.agreement.per_image.kendall;
        let proposed = firsts.iter().find(|(model, _)| (model.loss, model.sampling) == PROPOSED);
        let best = proposed.or_else(|| firsts.iter().max_by(|(_, a), (_, b)| tau(a.1).total_cmp(&tau(b.1))));
        let mut training = Vec::new();
        for model in &plan.models {
            for (run, _) in finished(model, trained) {
                training.push((model.clone(), TrainingCurve::read(&place(run), word(&model.sampling))?));
            }
        }
        let best = best.map(|&(model, (run, _))| open(model, run)).transpose()?;
        Ok(Chosen { by_loss, best, training })
    }
}

/// Finished runs of a model, as indices of [`Plan::runs`], with their results.
fn finished<'a>(model: &'a Model, trained: &'a [Trained]) -> impl Iterator<Item = (usize, &'a RunResult)> {
    model.runs.iter().filter_map(|&run| Some((run, trained[run].result()?)))
}

/// Whether Table 3 marks the model's MRR as the best of its loss.
fn is_marked(table_3: &Table, model: &Model) -> bool {
    let row = table_3.row(&model_name(model.loss, model.sampling));
    row.and_then(|row| row.cells.first()).is_some_and(|mrr| mrr.best_of_loss)
}

/// Sweep of a run over levels of noise, measured once.
fn sweep(folder: &Path, open: impl FnOnce() -> Result<ChosenRun>) -> Result<Sweep> {
    let path = folder.join(SWEEP);
    if path.exists() {
        return read_json(&path, "remove the file: it is measured again");
    }
    let chosen = open()?;
    let sweep = method_of(&chosen.run, chosen.name.clone()).sweep(&chosen.run.dataset)?;
    let json = serde_json::to_string_pretty(&sweep).expect("plain fields");
    write_atomically(&path, |file| file.write_all(json.as_bytes()))?;
    Ok(sweep)
}

/// All figures, before drawing.
pub(super) fn figures(chosen: &Chosen, unchanging: &Unchanging) -> Result<Vec<Figure>> {
    let mut figures = vec![unchanging.similarities.clone()];
    let (mut recall, mut noise) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut add = |reading: usize, label: &str, metrics: &Retrieval, sweep: &Sweep| {
        let metrics = [&metrics.augmented, &metrics.relationships][reading];
        let points = [&sweep.augmented, &sweep.relationships][reading].clone();
        recall[reading].push(RecallCurve { label: label.into(), recall: metrics.recall.clone() });
        noise[reading].push(NoiseCurve { label: label.into(), points });
    };
    for (reading, models) in chosen.by_loss.iter().enumerate() {
        for (name, runs) in models {
            for (result, sweep) in runs {
                if let Some(metrics) = &result.measurement.retrieval {
                    add(reading, name, metrics, sweep);
                }
            }
        }
        if let Some(metrics) = unchanging.bag_of_objects() {
            add(reading, Method::BAG_OF_OBJECTS, metrics, &unchanging.bag_sweep);
        }
    }
    let readings = ["all edges", "relationships"];
    let titled = |title: &str, reading: &str| format!("{title}, {reading}");
    figures.push(Figure {
        id: "figure-4a".into(),
        title: format!("Figure 4a: recall@k with {NOISE} edges removed"),
        caption: "For each loss the strategy that Table 3 marks, mean over the seeds, and the bag of objects. Edges are removed \
                  from all edges (first) and from the relationships alone (second). Bands reach from the lowest to the highest \
                  seed."
            .into(),
        columns: 2,
        panels: readings
            .iter()
            .zip(&recall)
            .map(|(reading, curves)| recall_panel(titled("Recall@k", reading), curves))
            .collect(),
        svgs: Vec::new(),
    });
    figures.push(Figure {
        id: "figure-4b".into(),
        title: "Figure 4b: retrieval as more edges are removed".into(),
        caption: "The same models; 1 to 20 edges removed from all edges (first three) and from the relationships alone."
            .into(),
        columns: 3,
        panels: readings
            .iter()
            .zip(&noise)
            .flat_map(|(reading, curves)| {
                let panels = noise_panels(curves).into_iter();
                panels.map(move |panel| Panel { title: titled(&panel.title, reading), ..panel })
            })
            .collect(),
        svgs: Vec::new(),
    });
    figures.push(training(&chosen.training));
    if let Some(best) = &chosen.best {
        figures.extend(projection(best)?);
    }
    Ok(figures)
}

/// Draws the figures.
pub(super) fn draw(figures: &mut [Figure]) -> Result<()> {
    for (index, figure) in figures.iter_mut().enumerate() {
        for (place, panel) in figure.panels.iter().enumerate() {
            let pointer = format!("/figures/{index}/panels/{place}");
            let svg = panels::marked_svg(panel, &pointer).map_err(Error::file("draw", &figure.id))?;
            figure.svgs.push(svg);
        }
    }
    Ok(())
}

/// Figure 2.
pub(super) fn similarities(dataset: &Dataset) -> Figure {
    let similarity = dataset.similarity();
    let (_, mut differences) = sample(similarity, SIMILARITY_SEED);
    differences.sort_by(f32::total_cmp);
    let percentile = quantile(&differences, 0.99);
    let paper = Paper::get().figure_2.difference_99th_percentile;
    Figure {
        id: "figure-2".into(),
        title: "Figure 2: how similar captions are".into(),
        caption: format!(
            "First: similarities to 20 anchors, each sorted, and their mean. Second: differences of two similarities to one \
             anchor; 99 of 100 are below {percentile:.3} (paper: {paper})."
        ),
        columns: 2,
        panels: vec![
            similarity_curves::curves(similarity, SIMILARITY_SEED),
            similarity_curves::differences(similarity, SIMILARITY_SEED),
        ],
        svgs: Vec::new(),
    }
}

fn training(curves: &[(Model, TrainingCurve)]) -> Figure {
    let panels = LOSSES.iter().flat_map(|loss| {
        let of_loss: Vec<TrainingCurve> =
            curves.iter().filter(|(model, _)| model.loss == *loss).map(|(_, curve)| curve.clone()).collect();
        training_panels(&format!(", {}", word(loss)), &of_loss)
    });
    Figure {
        id: "training".into(),
        title: "Training curves".into(),
        caption: "For each loss: the mean loss over an epoch's triples, and agreement with the captions on the validation images; \
                  means over the seeds, with a band from the lowest to the highest. Values of different losses, or of one loss \
                  on different triples, are not comparable."
            .into(),
        columns: 2,
        panels: panels.collect(),
        svgs: Vec::new(),
    }
}

fn projection(best: &ChosenRun) -> Result<Option<Figure>> {
    let dataset = &best.run.dataset;
    let values = best.run.embed_split(Split::Test)?;
    let Some(plane) = principal_plane(Embeddings::new(&values, best.run.width())?) else { return Ok(None) };
    let coloured = telling_types(dataset);
    let mut series: Vec<Series> = coloured
        .iter()
        .map(|&object| Series::new(format!("with {}", dataset.object_name(object as usize)), []))
        .collect();
    series.push(Series { quiet: true, ..Series::new("others", []) });
    for (image, &point) in dataset.split(Split::Test).zip(&plane.points) {
        let graph = dataset.graph(image);
        let of = coloured.iter().position(|object| graph.node_object.contains(object));
        let series = &mut series[of.unwrap_or(coloured.len())];
        series.points.push(point);
        let caption = dataset.captions(image).next().unwrap_or_default().trim();
        series.notes.push(format!("image {}: {caption}", dataset.image_id(image)));
    }
    series.retain(|series| !series.points.is_empty());
    let (first, second) = plane.explained;
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    Ok(Some(Figure {
        id: "projection".into(),
        title: "Projection of the test images".into(),
        caption: format!(
            "The first two principal components of the embeddings of {}: {} and {} of their variance. Colours: frequent \
             objects, the rarer one where an image has several.",
            best.name,
            percent(first),
            percent(second)
        ),
        columns: 1,
        panels: vec![Panel {
            title: format!("Test images, {}", best.name),
            x_name: "first component".into(),
            y_name: "second component".into(),
            shape: Shape::Points,
            whole_x: false,
            y: None,
            series,
        }],
        svgs: Vec::new(),
    }))
}

/// Object types of many but not most test images, in order of increasing frequency.
fn telling_types(dataset: &Dataset) -> Vec<u32> {
    let images = dataset.split(Split::Test);
    let mut images_with = vec![0usize; dataset.object_count()];
    for image in images.clone() {
        let graph = dataset.graph(image);
        let mut types = graph.node_object.to_vec();
        types.sort_unstable();
        types.dedup();
        types.iter().for_each(|&object| images_with[object as usize] += 1);
    }
    let most = (COMMON * images.len() as f64) as usize;
    let mut types: Vec<u32> = (0..images_with.len() as u32)
        .filter(|&object| (2..=most).contains(&images_with[object as usize]))
        .collect();
    types.sort_by_key(|&object| std::cmp::Reverse(images_with[object as usize]));
    types.truncate(COLOURED_TYPES);
    types.reverse();
    types
}
