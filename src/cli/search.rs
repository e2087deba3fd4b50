//! `scenerank search`.

use std::path::PathBuf;

use clap::Args;
use scenerank::data::Split;
use scenerank::data::query_graph::read_query_graph;
use scenerank::npy::read_npy;
use scenerank::run::Run;
use scenerank::{Error, Result};
use serde::Serialize;

use super::run_arguments::RunArguments;

const EXAMPLES: &str = r#"Examples:
  scenerank search runs/paper --image 2317468 -k 8
  echo '[["man", "throwing", "frisbee"]]' > query.json
  scenerank search runs/paper --graph query.json --split all"#;

/// Find the images nearest to an image or to a scene graph.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct SearchArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Query with this image, by its Visual Genome id; it is left out of the answer.
    #[arg(long, value_name = "ID", required_unless_present = "graph", conflicts_with = "graph")]
    image: Option<u64>,
    /// Query with a graph by names: a JSON list of [subject, predicate, object].
    #[arg(long, value_name = "JSON")]
    graph: Option<PathBuf>,
    /// How many images.
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Which images to search.
    #[arg(long, value_enum, default_value_t = Split::All)]
    split: Split,
    /// The embeddings of those images, as `embed` wrote them with the same --split; saves computing them.
    #[arg(long, value_name = "NPY")]
    embeddings: Option<PathBuf>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Found<'a> {
    image_id: u64,
    coco_id: u64,
    cosine: f32,
    /// With the query image; none for a graph.
    caption_similarity: Option<f32>,
    captions: Vec<&'a str>,
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
        let images = dataset.split(self.split);
        let index = self.index(&run)?;
        // One more, since the query image finds itself.
        let wanted = self.k as usize;
        let k = wanted + usize::from(query_image.is_some());
        let found: Vec<Found> = run
            .nearest(&query, &index, k)?
            .into_iter()
            .map(|(row, cosine)| (images.start + row, cosine))
            .filter(|(image, _)| Some(*image) != query_image)
            .take(wanted)
            .map(|(image, cosine)| Found {
                image_id: dataset.image_id(image),
                coco_id: dataset.coco_id(image),
                cosine,
                caption_similarity: query_image.map(|query| run.similarity().get(query, image)),
                captions: dataset.captions(image).collect(),
            })
            .collect();
        if self.json {
            println!("{}", serde_json::to_string_pretty(&found).expect("plain fields"));
        } else {
            found.iter().enumerate().for_each(|(rank, found)| print(rank + 1, found));
        }
        Ok(())
    }

    fn index(&self, run: &Run) -> Result<Vec<f32>> {
        let Some(path) = &self.embeddings else { return run.embed_split(self.split) };
        let matrix = read_npy(path)?;
        let expected = (run.dataset.split(self.split).len(), run.width());
        if (matrix.rows, matrix.width) != expected {
            return Err(Error::invalid(
                path,
                "shape",
                format!("[{}, {}], expected {expected:?}", matrix.rows, matrix.width),
                "write it with `scenerank embed` and the same --split",
            ));
        }
        Ok(matrix.values)
    }
}

fn print(rank: usize, found: &Found) {
    let similarity =
        found.caption_similarity.map_or(String::new(), |s| format!(", caption similarity {s:.3}"));
    println!(
        "{rank}. image {} (coco {}): cosine {:.4}{similarity}",
        found.image_id, found.coco_id, found.cosine
    );
    for caption in &found.captions {
        println!("     {}", caption.trim());
    }
}
