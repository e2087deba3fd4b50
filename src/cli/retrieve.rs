//! `scenerank retrieve`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use scenerank::compare::results::RETRIEVAL;
use scenerank::data::Split;
use scenerank::evaluation::caption_queries::{CaptionLevel, caption_level};
use scenerank::evaluation::noise::{NoiseLevel, QueryNoise, noise_level};
use scenerank::evaluation::{Embeddings, QueryEdges};
use scenerank::files::npy::write_npy;
use scenerank::files::outputs::{Kind, Output, check_outputs};
use scenerank::report::plots::{
    NoiseCurve, NoisePoint, RecallCurve, noise_csv, noise_plot, recall_csv, recall_plot,
};
use scenerank::report::table::plain_table;
use scenerank::run::Run;
use scenerank::{Error, Result};
use serde::Serialize;

use super::run_arguments::RunArguments;

const EXAMPLES: &str = "\
Examples:
  scenerank retrieve runs/paper
  scenerank retrieve runs/paper --sweep 20 --edges relationships --json
  scenerank retrieve runs/paper --queries captions";

/// Retrieve images with incomplete scene graphs (the paper's Table 3 and Figure 4).
///
/// Random edges, and the objects that this isolates, are removed from each image's graph. The result queries
/// the whole split by cosine similarity. Writes recall@k at --noise (recall.csv, recall.svg), and with
/// --sweep the metrics by noise (noise.csv, noise.svg).
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct RetrieveArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Number of edges to remove from each image's graph before it is the query, M. At least one edge stays, so 1000 leaves
    /// one edge of most graphs; 0 searches with the whole graphs.
    #[arg(long, default_value_t = 12)]
    noise: usize,
    /// Also measure with 1, 2, ... up to this number of edges removed, for the curves over noise (noise.csv, noise.svg).
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u16).range(1..=1000))]
    sweep: Option<u16>,
    /// Edges that may be removed: all, or only relationships.
    #[arg(long, value_enum, default_value_t)]
    edges: QueryEdges,
    /// Images to retrieve.
    #[arg(long, value_enum, default_value_t = Split::Test)]
    split: Split,
    /// Number from which the edges to remove are drawn; the same seed removes the same edges from every model's queries.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for the CSV and SVG files [default: the run's folder].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Queries: incomplete graphs alone, or also the captions of the images, read as sentences like those of `search --text`.
    #[arg(long, value_enum, default_value_t)]
    queries: Queries,
    /// Write the embeddings of the incomplete graphs at --noise to this .npy file.
    #[arg(long, value_name = "NPY")]
    queries_out: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Levels of noise to measure.
#[derive(Clone, Copy, Serialize)]
pub struct Levels {
    /// Number of edges removed from each query, M.
    pub noise: usize,
    /// Largest M of the sweep, which starts at 1.
    pub sweep: Option<usize>,
    /// Edges that may be removed.
    pub edges: QueryEdges,
    /// Seed for the removed edges.
    pub seed: u64,
}

/// Kinds of queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Queries {
    /// Incomplete graphs.
    #[default]
    Graphs,
    /// Incomplete graphs, and each caption of each image.
    Captions,
}

#[derive(Serialize)]
pub struct Retrieval {
    split: Split,
    images: usize,
    #[serde(flatten)]
    requested: Levels,
    /// The requested level and those of the sweep, each once, by the number of removed edges.
    levels: Vec<NoiseLevel>,
    /// Captions as queries, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    captions: Option<CaptionLevel>,
}

impl RetrieveArguments {
    pub fn run(self) -> Result<()> {
        let run = self.run.open()?;
        let queries =
            self.queries_out.iter().map(|path| Output { option: "--queries-out", path, kind: Kind::NPY });
        check_outputs(&queries.collect::<Vec<_>>(), &run.inputs())?;
        let sweep = self.sweep.map(usize::from);
        let levels = Levels { noise: self.noise, sweep, edges: self.edges, seed: self.seed };
        if self.out.is_none() && !run.has_own_data() {
            let problem = "is not given, and the curves of the run's own data would be replaced";
            return Err(Error::argument("--out", problem, "name a folder for this collection"));
        }
        let retrieval = retrieve_by(&run, &levels, self.split, self.queries)?;
        let out = self.out.as_deref().unwrap_or(self.run.folder());
        std::fs::create_dir_all(out).map_err(Error::file("create", out))?;
        retrieval.write_curves(out)?;
        self.run.leave_result(&run, RETRIEVAL, self.split, &retrieval);
        if let Some(path) = &self.queries_out {
            write_npy(path, &retrieval.at_noise().queries, run.width())?;
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&retrieval).expect("plain fields"));
        } else {
            println!("{}", retrieval.text());
        }
        Ok(())
    }
}

/// Evaluates the requested level of noise, and the levels of a sweep.
pub fn retrieve(run: &Run, requested: &Levels, split: Split) -> Result<Retrieval> {
    retrieve_by(run, requested, split, Queries::Graphs)
}

fn retrieve_by(run: &Run, requested: &Levels, split: Split, queries: Queries) -> Result<Retrieval> {
    let Levels { noise, sweep, edges, seed } = *requested;
    let images = run.dataset.split(split).len();
    if images == 0 {
        let remedy = "choose another split or prepare more images";
        return Err(Error::argument("--split", format!("{split} has no images"), remedy));
    }
    let index = run.embed_split(split)?;
    let index = Embeddings::new(&index, run.width())?;
    let level = |removed| {
        let noise = QueryNoise { split, removed, edges, seed };
        let (device, arithmetic) = run.place();
        noise_level(device, arithmetic, &run.dataset, index, noise, |graphs| run.embed(graphs))
    };
    let wanted: BTreeSet<usize> = (1..=sweep.unwrap_or(0)).chain([noise]).collect();
    let levels = wanted.into_iter().map(level).collect::<Result<_>>()?;
    let captions = match queries {
        Queries::Graphs => None,
        Queries::Captions => {
            Some(caption_level(run.place(), &run.dataset, split, index, |graphs| run.embed(graphs))?)
        }
    };
    Ok(Retrieval { split, images, requested: *requested, levels, captions })
}

impl Retrieval {
    /// The requested level.
    fn at_noise(&self) -> &NoiseLevel {
        let requested = self.levels.iter().find(|level| level.removed == self.requested.noise);
        requested.expect("the requested level is measured")
    }

    /// Writes recall@k of the requested level, and the metrics by noise if there was a sweep.
    pub fn write_curves(&self, out: &Path) -> Result<()> {
        let label = || "model".to_string();
        let recall = [RecallCurve { label: label(), recall: self.at_noise().metrics.recall.clone() }];
        recall_csv(&out.join("recall.csv"), &recall)?;
        recall_plot(&out.join("recall.svg"), &recall)?;
        let Some(most) = self.requested.sweep else {
            return Ok(());
        };
        let sweep = self.levels.iter().filter(|level| (1..=most).contains(&level.removed));
        let point = |level: &NoiseLevel| NoisePoint {
            removed: level.removed,
            mrr: level.metrics.mrr,
            recall_at_1: level.metrics.recall_at_1,
            recall_at_5: level.metrics.recall_at_5,
        };
        let noise = [NoiseCurve { label: label(), points: sweep.map(point).collect() }];
        noise_csv(&out.join("noise.csv"), &noise)?;
        noise_plot(&out.join("noise.svg"), &noise)
    }

    /// Formats the result like Table 3 of the paper, one row for each number of removed edges.
    pub fn text(&self) -> String {
        let (images, split) = (self.images, self.split);
        let (edges, least) = match self.requested.edges {
            QueryEdges::Augmented => ("edges of any kind", "edge"),
            QueryEdges::Relationships => ("relationships", "relationship"),
        };
        // Captions are measured at 10 too, as in other work.
        let columns = if self.captions.is_some() { 4 } else { 3 };
        let names = ["MRR", "R@1", "R@5", "R@10"].map(String::from);
        let first = format!("M ({images} {split} images)");
        let mut table = plain_table(std::iter::once(first).chain(names.into_iter().take(columns)));
        let rows = self.levels.iter().map(|level| (level.removed.to_string(), &level.metrics));
        let captions = self.captions.iter().map(|level| ("captions".to_string(), &level.metrics));
        for (name, metrics) in rows.chain(captions) {
            let numbers = [metrics.mrr, metrics.recall_at_1, metrics.recall_at_5, metrics.recall_at_10];
            table.add_row(
                std::iter::once(name).chain(numbers.iter().take(columns).map(|value| format!("{value:.3}"))),
            );
        }
        let mut text =
            format!("M random {edges} are removed from each query; at least one {least} stays.\n{table}");
        if let Some(CaptionLevel { queries, not_understood, .. }) = self.captions {
            text.push_str(&format!(
                "\n{queries} captions are queries for their own image; {not_understood} of them name no known object and count \
                 as not found."
            ));
        }
        text
    }
}
