//! `scenerank search`.

use std::path::{Path, PathBuf};

use clap::Args;
use scenerank::data::Split;
use scenerank::data::query_graph::{graph_file, query_graph};
use scenerank::evaluation::EmbeddingsFile;
use scenerank::evaluation::measure::Measure;
use scenerank::files::npy::write_npy;
use scenerank::files::origin::Origin;
use scenerank::files::outputs::{Kind, Output, check_outputs};
use scenerank::files::text::for_each_line;
use scenerank::run::Run;
use scenerank::terminal::{excerpt, visible};
use scenerank::{Error, Result};
use serde::Serialize;

use super::run_arguments::RunArguments;

const EXAMPLES: &str = r#"Examples:
  scenerank search runs/paper --image 2317468 -k 8
  scenerank search runs/paper --graph '[["man", "throwing", "frisbee"]]'
  generate | scenerank search runs/paper --graph - --split all
  scenerank embed runs/paper --out all.npy --format npy-f16
  scenerank search runs/paper --graph query.json --embeddings all.npy"#;

/// Find the images nearest to an image or to a scene graph.
///
/// Images are ranked by the cosine of their embedding and that of the query. A query graph is a JSON list of
/// relationships, each a list of three names: subject, predicate, object. Names come from the data
/// (`inspect --vocabulary`). The same name means the same object; man and man#2 are two men.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct SearchArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Query with the image that has this Visual Genome id. The image itself is left out of the result.
    #[arg(long, value_name = "ID", required_unless_present = "graph", conflicts_with = "graph")]
    image: Option<u64>,
    /// Query with a graph: the JSON itself, such as '[["man", "throwing", "frisbee"]]', a file with it, or - for standard
    /// input. Each list is subject, predicate and object, or one object alone.
    #[arg(long, value_name = "JSON")]
    graph: Option<String>,
    /// Number of images to find.
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Images to search [default: all, or those of --embeddings].
    #[arg(long, value_enum)]
    split: Option<Split>,
    /// Embeddings of the images to search, written by `embed`; otherwise they are computed. A second file beside
    /// it names its model, its data and its images. The file is mapped into memory and not loaded, so it may
    /// hold millions of images.
    #[arg(long, value_name = "NPY")]
    embeddings: Option<PathBuf>,
    /// Search --embeddings of unknown origin, or of another model or data. Its rows are those of --split or of --ids.
    #[arg(long, requires = "embeddings")]
    any_origin: bool,
    /// Ids of the images in --embeddings, one per line, as written by `embed --ids`. Needed with --any-origin if
    /// they are not those of --split, such as another collection embedded by this model.
    #[arg(long, value_name = "TXT", requires = "embeddings", conflicts_with = "split")]
    ids: Option<PathBuf>,
    /// Comparison of the query and the rows of --any-origin.
    #[arg(long, value_enum, default_value_t, requires = "any_origin")]
    measure: Measure,
    /// Write the embedding of the query to this .npy file, [1, width], to search with another program.
    #[arg(long, value_name = "NPY")]
    query_out: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Found<'a> {
    image_id: u64,
    /// `None`, and no captions, for an image that is not in the run's data.
    coco_id: Option<u64>,
    #[serde(flatten)]
    score: Score,
    /// Similarity to the captions of the query image; `None` for a graph.
    caption_similarity: Option<f32>,
    captions: Vec<&'a str>,
}

/// Comparison of the query with the image.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Score {
    Cosine(f32),
    InnerProduct(f32),
}

/// Rows to search.
struct Index {
    rows: Rows,
    /// Image id of each row.
    ids: Vec<u64>,
}

enum Rows {
    Computed(Vec<f32>),
    File(EmbeddingsFile),
}

impl SearchArguments {
    pub fn run(self) -> Result<()> {
        let run = self.run.open()?;
        let dataset = &run.dataset;
        let query_image = self.image.map(|id| {
            dataset.find_image(id).ok_or_else(|| {
                let problem = format!("{}: there is no image {id}", dataset.path().display());
                Error::argument("--image", problem, "use an id that `scenerank embed --ids` lists")
            })
        });
        let query_image = query_image.transpose()?;
        let written = self.graph.as_deref().map(|given| query_graph(given, dataset)).transpose()?;
        let query = match (&written, query_image) {
            (Some(graph), _) => run.embed(&[graph.view()])?,
            (None, Some(image)) => run.embed(&[dataset.graph(image)])?,
            (None, None) => unreachable!("the argument parser requires one of the two"),
        };
        if let Some(path) = &self.query_out {
            let given = [&self.embeddings, &self.ids].into_iter().flatten().map(PathBuf::as_path);
            let graph = self.graph.as_deref().and_then(graph_file);
            let inputs: Vec<&Path> = run.inputs().into_iter().chain(given).chain(graph).collect();
            check_outputs(&[Output { option: "--query-out", path, kind: Kind::NPY }], &inputs)?;
            write_npy(path, &query, run.width())?;
        }
        let Index { rows, ids } = self.index(&run)?;
        // Searches for additional rows, because the query image finds its own rows.
        let wanted = self.k as usize;
        let k = wanted + ids.iter().filter(|&&id| Some(id) == self.image).count();
        let nearest = match &rows {
            Rows::Computed(values) => run.nearest(&query, values, k)?,
            Rows::File(file) => {
                let nearest = run.nearest_stored(&query, file.rows(), k)?;
                file.check_unchanged()?;
                nearest
            }
        };
        // Only an image as query has captions to compare with.
        let similarity = match query_image {
            Some(query) => Some((query, run.similarity()?)),
            None => None,
        };
        let found: Vec<Found> = nearest
            .into_iter()
            .filter(|&(row, _)| Some(ids[row]) != self.image)
            .take(wanted)
            .map(|(row, score)| {
                let image = dataset.find_image(ids[row]);
                Found {
                    image_id: ids[row],
                    coco_id: image.map(|image| dataset.coco_id(image)),
                    score: match self.measure {
                        Measure::Cosine => Score::Cosine(score),
                        Measure::InnerProduct => Score::InnerProduct(score),
                    },
                    caption_similarity: similarity
                        .and_then(|(query, similarity)| Some(similarity.get(query, image?))),
                    captions: image.map_or(Vec::new(), |image| dataset.captions(image).collect()),
                }
            })
            .collect();
        if self.json {
            println!("{}", serde_json::to_string_pretty(&found).expect("plain fields"));
        } else {
            found.iter().enumerate().for_each(|(rank, found)| print(rank + 1, found));
        }
        Ok(())
    }

    fn index(&self, run: &Run) -> Result<Index> {
        let split = self.split.unwrap_or(Split::All);
        let of_split = || run.dataset.split(split).map(|image| run.dataset.image_id(image)).collect();
        let Some(path) = &self.embeddings else {
            return Ok(Index { rows: Rows::Computed(run.embed_split(split)?), ids: of_split() });
        };
        let given = self.ids.as_deref().map(read_ids).transpose()?;
        let (file, ids) = if self.any_origin {
            let file = EmbeddingsFile::open(path)?.prepared(self.measure);
            (file, given.unwrap_or_else(of_split))
        } else {
            let expected = given.or_else(|| self.split.map(|_| of_split()));
            let ids = known_ids(path, run, expected)?;
            (EmbeddingsFile::open(path)?, ids)
        };
        let (shape, expected) = ((file.rows().len(), file.rows().width()), (ids.len(), run.width()));
        if shape != expected {
            return Err(Error::invalid(
                path,
                "shape",
                format!("[{}, {}], expected {expected:?}", shape.0, shape.1),
                match self.ids {
                    Some(_) => "give the ids that `scenerank embed --ids` wrote with it",
                    None => "write it with `scenerank embed` and the same --split, or give its --ids",
                },
            ));
        }
        Ok(Index { rows: Rows::File(file), ids })
    }
}

/// Ids of the rows of a file that `embed` wrote, which must be of this model, this data and the `expected` images, if these are
/// given.
fn known_ids(path: &Path, run: &Run, expected: Option<Vec<u64>>) -> Result<Vec<u64>> {
    let remedy = "write it with `scenerank embed` from this run, or search it as it is with --any-origin";
    let Some(origin) = Origin::read_beside(path)? else {
        let problem =
            format!("{} is missing, which tells its model and its images", Origin::beside(path).display());
        return Err(Error::invalid(path, "origin", problem, remedy));
    };
    let own = run.origin(0..0);
    let problem = if origin.model != own.model {
        "is of another model, or of another checkpoint of this run"
    } else if origin.data != own.data {
        "is of other data"
    } else if expected.is_some_and(|expected| expected != origin.image_ids) {
        "is of other images than those of --split or --ids"
    } else {
        return Ok(origin.image_ids);
    };
    Err(Error::invalid(path, "origin", problem, remedy))
}

/// Reads one id per line.
fn read_ids(path: &Path) -> Result<Vec<u64>> {
    const MOST_LINE_BYTES: usize = 256;
    let mut ids = Vec::new();
    for_each_line(path, MOST_LINE_BYTES, |number, line| {
        let id = line.trim().parse().map_err(|_| {
            let problem = format!("\"{}\" is not an image id", excerpt(line));
            Error::invalid(path, format!("line {number}"), problem, "write one whole number per line")
        })?;
        ids.push(id);
        Ok(())
    })?;
    Ok(ids)
}

fn print(rank: usize, found: &Found) {
    let similarity =
        found.caption_similarity.map_or(String::new(), |s| format!(", caption similarity {s:.3}"));
    let coco = found.coco_id.map_or(String::new(), |id| format!(" (coco {id})"));
    let score = match found.score {
        Score::Cosine(cosine) => format!("cosine {cosine:.4}"),
        Score::InnerProduct(product) => format!("inner product {product:.4}"),
    };
    println!("{rank}. image {}{coco}: {score}{similarity}", found.image_id);
    for caption in &found.captions {
        println!("     {}", visible(caption.trim()));
    }
}
