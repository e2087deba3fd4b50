//! `scenerank inspect`: shows the content of a data file.

use std::path::{Path, PathBuf};

use clap::Args;
use scenerank::data::split::Twins;
use scenerank::data::statistics::{QUANTILES, Statistics, statistics};
use scenerank::data::{Dataset, Split};
use scenerank::files::atomic_file::write_atomically;
use scenerank::files::outputs::{Kind, Output, check_outputs};
use scenerank::report::similarity_curves;
use scenerank::terminal::visible;
use scenerank::{Error, Result};
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Examples:
  scenerank inspect vg.data
  scenerank inspect vg.data --image 2405110
  scenerank inspect vg.data --plots figures
  scenerank inspect vg.data --captions captions.jsonl
  scenerank inspect vg.data --json --vocabulary > vg.json";

/// Show the statistics of a data file and those of the paper, one of its images, or everything as JSON.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct InspectArguments {
    /// Data file written by `prepare`.
    data: PathBuf,
    /// Print the scene graph and the captions of the image with this Visual Genome id.
    #[arg(long, value_name = "ID")]
    image: Option<u64>,
    /// Draw Figure 2 of the paper into this folder: similarity_curves.svg and similarity_differences.svg.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Write every image's captions to this file in the order of the data, as one line of JSON each. Another
    /// sentence encoder can read it to make a file for `train --caption-vectors`.
    #[arg(long, value_name = "JSONL")]
    captions: Option<PathBuf>,
    /// List all types with their numbers of occurrences in the raw graph file.
    #[arg(long)]
    vocabulary: bool,
    /// Print everything as JSON, including the fingerprint and the counts of each preparation stage.
    #[arg(long)]
    json: bool,
    /// Seed for the anchors of the plot and the sampled similarities.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl InspectArguments {
    pub fn run(self) -> Result<()> {
        let data = Dataset::map(&self.data)?;
        let image = self.image.map(|id| find_image(&data, id)).transpose()?;
        // One image alone is printed without the others.
        let of_image = image.filter(|_| self.plots.is_none() && self.captions.is_none() && !self.json);
        data.verify(of_image.map_or(0..data.image_count(), |image| image..image + 1))?;
        if let Some(folder) = &self.plots {
            for path in similarity_curves::draw(data.similarity(), self.seed, folder)? {
                eprintln!("wrote {}", path.display());
            }
        }
        if let Some(path) = &self.captions {
            write_captions(&data, path)?;
        }
        if self.json {
            println!("{:#}", self.facts(&data, image));
            return Ok(());
        }
        match image {
            Some(image) => print_image(&data, image),
            None => print_statistics(&data, &statistics(&data, self.seed)),
        }
        if self.vocabulary {
            print_vocabulary(&data);
        }
        Ok(())
    }

    fn facts(&self, data: &Dataset, image: Option<usize>) -> Value {
        let mut facts = json!({
            "fingerprint": data.fingerprint_digits(),
            "statistics": statistics(data, self.seed),
            "images_of_one_photograph": twins(data),
            "prepared": data.metadata(),
        });
        if let Some(image) = image {
            facts["image"] = json!({
                "image_id": data.image_id(image),
                "coco_id": data.coco_id(image),
                "split": split_of(data, image),
                "objects": objects(data, image),
                "relationships": relationships(data, image),
                "captions": data.captions(image).collect::<Vec<_>>(),
            });
        }
        if self.vocabulary {
            let objects = (0..data.object_count()).map(|t| {
                json!({ "name": data.object_name(t), "occurrences": data.object_occurrences(t),
                        "known": data.object_known(t) })
            });
            let predicates = (0..data.predicate_count()).map(|t| {
                json!({ "name": data.predicate_name(t), "occurrences": data.predicate_occurrences(t),
                        "known": data.predicate_known(t) })
            });
            let (objects, predicates): (Vec<Value>, Vec<Value>) = (objects.collect(), predicates.collect());
            facts["vocabulary"] = json!({ "objects": objects, "predicates": predicates });
        }
        facts
    }
}

fn write_captions(data: &Dataset, path: &Path) -> Result<()> {
    let output = Output { option: "--captions", path, kind: Kind::JSON };
    check_outputs(&[output], &[data.path()])?;
    write_atomically(path, |writer| {
        (0..data.image_count()).try_for_each(|image| {
            let line = json!({
                "image_id": data.image_id(image),
                "split": split_of(data, image),
                "captions": data.captions(image).collect::<Vec<_>>(),
            });
            writeln!(writer, "{line}")
        })
    })
}

fn find_image(data: &Dataset, id: u64) -> Result<usize> {
    data.find_image(id).ok_or_else(|| {
        let example = data.image_id(0);
        let problem = format!("{} has no image {id}", data.path().display());
        Error::argument(
            "--image",
            problem,
            format!("use the Visual Genome id of one it has, such as {example}"),
        )
    })
}

fn split_of(data: &Dataset, image: usize) -> Split {
    Split::PARTS.into_iter().find(|&split| data.split(split).contains(&image)).unwrap_or(Split::All)
}

/// Names of the annotated objects, without the image node.
fn objects(data: &Dataset, image: usize) -> Vec<&str> {
    let graph = data.graph(image);
    let objects = graph.node_count() - 1;
    graph.node_object[..objects].iter().map(|&object| data.object_name(object as usize)).collect()
}

/// Annotated relationships as `man - throwing -> frisbee`.
fn relationships(data: &Dataset, image: usize) -> Vec<String> {
    let graph = data.graph(image);
    let name = |node: u32| data.object_name(graph.node_object[node as usize] as usize);
    (0..graph.edge_count() + 1 - graph.node_count())
        .map(|edge| {
            let predicate = data.predicate_name(graph.edge_predicate[edge] as usize);
            format!("{} - {predicate} -> {}", name(graph.edge_subject[edge]), name(graph.edge_object[edge]))
        })
        .collect()
}

fn print_image(data: &Dataset, image: usize) {
    let (image_id, coco_id) = (data.image_id(image), data.coco_id(image));
    println!("image {image_id} (COCO {coco_id}), {}", split_of(data, image));
    println!("objects: {}", visible(&objects(data, image).join(", ")));
    println!("relationships:");
    relationships(data, image).iter().for_each(|relationship| println!("  {}", visible(relationship)));
    println!("captions:");
    data.captions(image).for_each(|caption| println!("  {}", visible(caption)));
}

/// Prints the statistics. The column of the paper has `-` if the paper gives no value.
fn print_statistics(data: &Dataset, found: &Statistics) {
    let row = |label: &str, here: String, paper: &str| println!("{label:<36}{here:>12}{paper:>12}");
    row("", "this data".into(), "paper");
    row("images", found.images.to_string(), "45358");
    row("  train", found.train.to_string(), "-");
    row("  validation", found.validation.to_string(), "-");
    row("  test", found.test.to_string(), "4537");
    let twins = twins(data);
    row("pairs of images of one photograph", twins.pairs.to_string(), "-");
    row("  in different splits", twins.in_different_splits.to_string(), "-");
    row("object types", found.object_types.to_string(), "2416");
    row("predicate types", found.predicate_types.to_string(), "478");
    row("objects per image, mean", format!("{:.2}", found.mean_objects), "21");
    row("relationships per image, mean", format!("{:.2}", found.mean_relationships), "15");
    row("relationships, median", found.median_relationships.to_string(), "12");
    row("relationships, third quartile", found.third_quartile_relationships.to_string(), "20");
    row("captions", found.captions.to_string(), "-");
    for (q, value) in QUANTILES.iter().zip(found.similarity_quantiles) {
        row(&format!("similarity, quantile {q}"), format!("{value:.4}"), "-");
    }
    row("|s_AX - s_AY|, 99th percentile", format!("{:.4}", found.difference_99th_percentile), "0.16");
    println!("fingerprint {}", data.fingerprint_digits());
}

/// Pairs of images of one photograph.
fn twins(data: &Dataset) -> Twins {
    let parts = Split::PARTS.iter().enumerate();
    Twins::count(
        parts.flat_map(|(part, &split)| data.split(split).map(move |image| (data.coco_id(image), part))),
    )
}

fn print_vocabulary(data: &Dataset) {
    println!("object types, occurrences in the graph file:");
    (0..data.object_count())
        .for_each(|t| println!("{:>9}  {}", data.object_occurrences(t), visible(data.object_name(t))));
    println!("predicate types, occurrences in the graph file:");
    (0..data.predicate_count())
        .for_each(|t| println!("{:>9}  {}", data.predicate_occurrences(t), visible(data.predicate_name(t))));
}
