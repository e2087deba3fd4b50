//! `scenerank prepare`: converts raw public files to one data file.

use std::path::PathBuf;

use clap::Args;
use scenerank::backend::device::{Device, Precision};
use scenerank::data::prepare::{Preparation, Reading, prepare};
use scenerank::data::selection::{CountOver, Filter, GraphSource, Sources};
use scenerank::data::split::{SplitBy, SplitRatio};
use scenerank::data::vocabulary::Vocabulary;
use scenerank::data::words::Tokeniser;
use scenerank::run::{TrainedModel, Which};
use scenerank::{Error, Result};

use super::graph_file::PredictionArguments;

const EXAMPLES: &str = "\
Examples:
  scenerank prepare --scene-graphs scene_graphs.json \\
      --image-data image_data.json \\
      --captions captions_train2014.json captions_val2014.json \\
      --glove glove.6B.300d.txt --out vg.data
  scenerank prepare --objects objects.json.gz \\
      --relationships relationships.json.gz \\
      --image-data image_data.json.gz --captions captions.json.gz \\
      --glove glove.txt.gz --out vg.data
  scenerank prepare --scene-graphs small.json --image-data image_data.json \\
      --captions captions.json --glove glove.txt --min-occurrences 5 \\
      --split 80:10:10 --seed 7 --json --out small.data
  scenerank prepare --scene-graphs new_graphs.json \\
      --image-data new_images.json --captions new_captions.json \\
      --glove glove.6B.300d.txt --vocabulary-from runs/paper --out new.data";

/// Prepare a data file from Visual Genome, GQA or predicted graphs, COCO captions and GloVe vectors.
///
/// Every input may be plain or gzip-compressed. Images are joined with their captions by COCO id. Rare types
/// and images with too few or too many objects are dropped, and the rest is split into train, validation and
/// test. Prints the counts of each stage at the end.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct PrepareArguments {
    /// Scene graphs: Visual Genome's scene_graphs.json, a GQA file such as train_sceneGraphs.json, or predictions with --data-info.
    #[arg(long, value_name = "FILE", required_unless_present = "objects", conflicts_with = "objects")]
    scene_graphs: Option<PathBuf>,
    /// Visual Genome's objects.json, instead of --scene-graphs.
    #[arg(long, value_name = "FILE", requires = "relationships")]
    objects: Option<PathBuf>,
    /// Visual Genome's relationships.json; requires --objects.
    #[arg(long, value_name = "FILE", requires = "objects")]
    relationships: Option<PathBuf>,
    #[command(flatten)]
    predictions: PredictionArguments,
    /// Visual Genome's image_data.json, with the COCO id of each image.
    #[arg(long, value_name = "FILE")]
    image_data: PathBuf,
    /// COCO caption files. A caption with the annotation id, image and text of an earlier one is skipped.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    captions: Vec<PathBuf>,
    /// Word vectors in GloVe's text format, or in word2vec's with its header line.
    #[arg(long, value_name = "FILE")]
    glove: PathBuf,
    /// Data file to write. An existing file is replaced once the new one is complete.
    #[arg(long, value_name = "DATA")]
    out: PathBuf,
    /// Keep the object and predicate types of this run, whatever their number of occurrences, and its division into words. The
    /// run can then evaluate, search and explore the data.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["min_occurrences", "min_object_occurrences",
        "min_predicate_occurrences", "count_over", "tokeniser"])]
    vocabulary_from: Option<PathBuf>,
    /// Keep object and predicate types that occur at least this often.
    #[arg(long, value_name = "COUNT", default_value_t = 25)]
    min_occurrences: u64,
    /// Like --min-occurrences, for object types only.
    #[arg(long, value_name = "COUNT")]
    min_object_occurrences: Option<u64>,
    /// Like --min-occurrences, for predicate types only.
    #[arg(long, value_name = "COUNT")]
    min_predicate_occurrences: Option<u64>,
    /// Count occurrences over the whole graph file, or over its images with captions. The paper does not say
    /// which; the whole file keeps more types. Duplicate relationships are counted.
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
    /// Drop and count relationships that refer to an absent object; without this option such a file is
    /// rejected.
    #[arg(long)]
    skip_absent_objects: bool,
    /// Ratio of train, validation and test. Train and validation are rounded down; test gets the rest.
    #[arg(long, value_name = "TRAIN:VALIDATION:TEST", default_value_t)]
    split: SplitRatio,
    /// Keep images of one photograph in one split, or divide images as if each were a photograph of its own. Some
    /// COCO photographs have two Visual Genome ids.
    #[arg(long, value_enum, default_value_t)]
    split_by: SplitBy,
    /// Seed that assigns images to splits.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Division of captions and names into words.
    #[arg(long, value_enum, default_value_t)]
    tokeniser: Tokeniser,
    /// Refuse a gzip file whose content is more than this number of times larger, as that of a gzip bomb.
    #[arg(long, value_name = "FACTOR", default_value_t = Reading::default().most_expansion)]
    max_expansion: u64,
    /// Print the counts as JSON.
    #[arg(long)]
    json: bool,
}

impl PrepareArguments {
    pub fn run(self) -> Result<()> {
        let predictions = self.predictions.predictions();
        let graphs = match (self.scene_graphs, self.objects, self.relationships) {
            (Some(graphs), _, _) => match predictions {
                Some(predictions) => GraphSource::Predictions(graphs, predictions),
                None => GraphSource::SceneGraphs(graphs),
            },
            (None, ..) if predictions.is_some() => {
                let problem = "names the images and classes of --scene-graphs, which is not given";
                let remedy = "give custom_prediction.json with --scene-graphs";
                return Err(Error::argument("--data-info", problem, remedy));
            }
            (None, Some(objects), Some(relationships)) => {
                GraphSource::ObjectsAndRelationships(objects, relationships)
            }
            _ => unreachable!("the argument parser requires one of the two sources"),
        };
        // The device computes nothing here.
        let (device, precision) = (Device::Cpu, Precision::default());
        let open = |run: &PathBuf| TrainedModel::open(run, Which::Best, None, device, precision);
        let model = self.vocabulary_from.as_ref().map(open).transpose()?;
        let vocabulary = model.map(|model| model.vocabulary().clone());
        let tokeniser = vocabulary.as_ref().map_or(self.tokeniser, Vocabulary::tokeniser);
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
                vocabulary,
            },
            split: self.split,
            split_by: self.split_by,
            seed: self.seed,
            reading: Reading { tokeniser, most_expansion: self.max_expansion },
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
