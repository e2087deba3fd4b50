//! `scenerank prepare`: raw public files to one data file.

use std::path::PathBuf;

use clap::Args;
use scenerank::Result;
use scenerank::data::prepare::{Preparation, prepare};
use scenerank::data::selection::{CountOver, Filter, GraphSource, Sources};
use scenerank::data::split::SplitRatio;

const EXAMPLES: &str = "\
Examples:
  scenerank prepare --scene-graphs scene_graphs.json --image-data image_data.json \\
      --captions captions_train2014.json captions_val2014.json --glove glove.6B.300d.txt --out vg.data
  scenerank prepare --objects objects.json.gz --relationships relationships.json.gz \\
      --image-data image_data.json.gz --captions captions.json.gz --glove glove.txt.gz --out vg.data
  scenerank prepare --scene-graphs small.json --image-data image_data.json --captions captions.json \\
      --glove glove.txt --min-occurrences 5 --split 80:10:10 --seed 7 --json --out small.data";

/// Prepare a data file from Visual Genome or GQA graphs, COCO captions and GloVe vectors.
///
/// Every input may be plain or gzip'd. Images are joined with their captions by COCO id, rare types and
/// images of unusual size are dropped, and the rest is split into train, validation and test. What each stage left is
/// printed at the end.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct PrepareArguments {
    /// Scene graphs: Visual Genome's scene_graphs.json, or a GQA file such as train_sceneGraphs.json.
    #[arg(long, value_name = "FILE", required_unless_present = "objects", conflicts_with = "objects")]
    scene_graphs: Option<PathBuf>,
    /// Visual Genome's objects.json, in place of --scene-graphs.
    #[arg(long, value_name = "FILE", requires = "relationships")]
    objects: Option<PathBuf>,
    /// Visual Genome's relationships.json, with --objects.
    #[arg(long, value_name = "FILE", requires = "objects")]
    relationships: Option<PathBuf>,
    /// Visual Genome's image_data.json: the COCO id of each image.
    #[arg(long, value_name = "FILE")]
    image_data: PathBuf,
    /// COCO caption files. A caption whose annotation id came before is left out.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    captions: Vec<PathBuf>,
    /// Word vectors: GloVe's text format, or word2vec's with its header line.
    #[arg(long, value_name = "FILE")]
    glove: PathBuf,
    /// The data file to write. An older one is replaced, and only once the new one is complete.
    #[arg(long, value_name = "DATA")]
    out: PathBuf,
    /// Keep object and predicate types that occur at least this often.
    #[arg(long, value_name = "COUNT", default_value_t = 25)]
    min_occurrences: u64,
    /// The same for object types alone.
    #[arg(long, value_name = "COUNT")]
    min_object_occurrences: Option<u64>,
    /// The same for predicate types alone.
    #[arg(long, value_name = "COUNT")]
    min_predicate_occurrences: Option<u64>,
    /// Count occurrences over the whole graph file, or over its images that have captions. The paper does not
    /// say which; the whole file keeps more types. Duplicate relationships are counted.
    #[arg(long, value_enum, default_value_t)]
    count_over: CountOver,
    /// Keep images with at least this many objects of kept types.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    min_objects: usize,
    /// Keep images with at most this many objects of kept types.
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    max_objects: usize,
    /// Keep images with at least this many relationships of kept types.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    min_relationships: usize,
    /// Drop and count relationships that name an object which the image does not have; without this the file is
    /// refused.
    #[arg(long)]
    skip_absent_objects: bool,
    /// Shares of train, validation and test. Train and validation are rounded down, test gets the rest.
    #[arg(long, value_name = "TRAIN:VALIDATION:TEST", default_value_t)]
    split: SplitRatio,
    /// Decides which image goes to which split.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print the counts as JSON.
    #[arg(long)]
    json: bool,
}

impl PrepareArguments {
    pub fn run(self) -> Result<()> {
        let graphs = match (self.scene_graphs, self.objects, self.relationships) {
            (Some(graphs), _, _) => GraphSource::SceneGraphs(graphs),
            (None, Some(objects), Some(relationships)) => {
                GraphSource::ObjectsAndRelationships(objects, relationships)
            }
            _ => unreachable!("the argument parser requires one of the two sources"),
        };
        let preparation = Preparation {
            sources: Sources { graphs, image_data: self.image_data, captions: self.captions },
            glove: self.glove,
            filter: Filter {
                min_object_occurrences: self.min_object_occurrences.unwrap_or(self.min_occurrences),
                min_predicate_occurrences: self.min_predicate_occurrences.unwrap_or(self.min_occurrences),
                count_over: self.count_over,
                min_objects: self.min_objects,
                max_objects: self.max_objects,
                min_relationships: self.min_relationships,
                skip_absent_objects: self.skip_absent_objects,
            },
            split: self.split,
            seed: self.seed,
        };
        let stages = prepare(&preparation, &self.out)?;
        if self.json {
            println!("{:#}", serde_json::to_value(&stages).expect("counts can be written as JSON"));
        } else {
            print!("{stages}");
        }
        Ok(())
    }
}
