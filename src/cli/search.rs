//! `scenerank search`.

use std::path::{Path, PathBuf};

use clap::Args;
use scenerank::data::Split;
use scenerank::data::query_graph::read_query_graph;
use scenerank::evaluation::EmbeddingsFile;
use scenerank::files::npy::write_npy;
use scenerank::run::Run;
use scenerank::{Error, Result};
use serde::Serialize;

use super::run_arguments::RunArguments;

const EXAMPLES: &str = r#"Examples:
  scenerank search runs/paper --image 2317468 -k 8
  echo '[["man", "throwing", "frisbee"]]' > query.json
  scenerank search runs/paper --graph query.json --split all
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
    /// Query with a graph from a JSON file, such as [["man", "throwing", "frisbee"]].
    #[arg(long, value_name = "JSON")]
    graph: Option<PathBuf>,
    /// Number of images to find.
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Images to search.
    #[arg(long, value_enum, default_value_t = Split::All)]
    split: Split,
    /// Embeddings of the images to search, written by `embed` with the same --split; otherwise they are computed.
    /// The file is mapped into memory and not loaded, so it may hold millions of images.
    #[arg(long, value_name = "NPY")]
    embeddings: Option<PathBuf>,
    /// Ids of the images in --embeddings, one per line, as written by `embed --ids`. Needed if the
    /// embeddings are of other images than those of --split, such as another collection.
    #[arg(long, value_name = "TXT", requires = "embeddings", conflicts_with = "split")]
    ids: Option<PathBuf>,
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
    cosine: f32,
    /// Similarity to the captions of the query image; `None` for a graph.
    caption_similarity: Option<f32>,
    captions: Vec<&'a str>,
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
        let written = self.graph.as_deref().map(|path| read_query_graph(path, dataset)).transpose()?;
        let query = match (&written, query_image) {
            (Some(graph), _) => run.embed(&[graph.view()])?,
            (None, Some(image)) => run.embed(&[dataset.graph(image)])?,
            (None, None) => unreachable!("the argument parser requires one of the two"),
        };
        if let Some(path) = &self.query_out {
            write_npy(path, &query, run.width())?;
        }
        let Index { rows, ids } = self.index(&run)?;
        // Searches for additional rows, because the query image finds its own rows.
        let wanted = self.k as usize;
        let k = wanted + ids.iter().filter(|&&id| Some(id) == self.image).count();
        let nearest = match &rows {
            Rows::Computed(values) => run.nearest(&query, values, k)?,
            Rows::File(file) => run.nearest_stored(&query, file.rows(), k)?,
        };
        let found: Vec<Found> = nearest
            .into_iter()
            .filter(|&(row, _)| Some(ids[row]) != self.image)
            .take(wanted)
            .map(|(row, cosine)| {
                let image = dataset.find_image(ids[row]);
                Found {
                    image_id: ids[row],
                    coco_id: image.map(|image| dataset.coco_id(image)),
                    cosine,
                    caption_similarity: query_image
                        .and_then(|query| Some(run.similarity().get(query, image?))),
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
        let ids = match &self.ids {
            Some(path) => read_ids(path)?,
            None => run.dataset.split(self.split).map(|image| run.dataset.image_id(image)).collect(),
        };
        let Some(path) = &self.embeddings else {
            return Ok(Index { rows: Rows::Computed(run.embed_split(self.split)?), ids });
        };
        let file = EmbeddingsFile::open(path)?;
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

/// Reads one id per line.
fn read_ids(path: &Path) -> Result<Vec<u64>> {
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    let ids = text.lines().zip(1..).map(|(line, number)| {
        line.trim().parse().map_err(|_| {
            let place = format!("line {number}");
            Error::invalid(
                path,
                place,
                format!("{line:?} is not an image id"),
                "write one whole number per line",
            )
        })
    });
    ids.collect()
}

fn print(rank: usize, found: &Found) {
    let similarity =
        found.caption_similarity.map_or(String::new(), |s| format!(", caption similarity {s:.3}"));
    let coco = found.coco_id.map_or(String::new(), |id| format!(" (coco {id})"));
    println!("{rank}. image {}{coco}: cosine {:.4}{similarity}", found.image_id, found.cosine);
    for caption in &found.captions {
        println!("     {}", caption.trim());
    }
}
