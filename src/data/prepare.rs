//! Converts raw files to one data file: join and filter ([`select`]), caption vectors, split, write.
//!
//! The vector of a caption is the mean of the vectors of its known words, l2-normalised. The vector of an
//! image is the mean of its captions' vectors (docs/model.md, "Supervision"). A caption without a known word, or
//! whose words' vectors are zero, has the zero vector.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::json;

use super::contents::{DatasetContents, IMAGE, IN_IMAGE, ImageContents, TypeContents};
use super::format;
use super::raw::glove::WordVectors;
use super::raw::raw_file::{EXPANSION, RawFile};
use super::scene_graph::SceneGraphBuf;
use super::selection::{Filter, KeptImage, KeptType, Selection, Sources, select};
use super::split::{Ids, SplitBy, SplitRatio, Twins, divide};
use super::stages::Stages;
use super::words::{TOKENISER, Tokeniser};
use crate::files::outputs::{Output, check_outputs};
use crate::{Error, Result};

/// An anchor needs two other images for a triple.
const MIN_TRAIN_IMAGES: usize = 3;

/// How the raw files are read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Division of captions and names into words.
    pub tokeniser: Tokeniser,
    /// Largest ratio of the size of a gzip file's content to that of the file. A gzip bomb has a larger one.
    pub most_expansion: u64,
}

impl Default for Reading {
    fn default() -> Self {
        Reading { tokeniser: Tokeniser::default(), most_expansion: EXPANSION }
    }
}

/// Everything that determines the content of the data file.
#[derive(Clone, Debug)]
pub struct Preparation {
    /// Graphs and captions.
    pub sources: Sources,
    /// Word vectors in GloVe's text format.
    pub glove: PathBuf,
    /// Criteria for keeping types and images.
    pub filter: Filter,
    /// Ratio of train, validation and test.
    pub split: SplitRatio,
    /// What is assigned to a split as a whole.
    pub split_by: SplitBy,
    /// Seed that assigns images to splits.
    pub seed: u64,
    /// How the raw files are read.
    pub reading: Reading,
}

impl Preparation {
    /// Every file that is read.
    fn inputs(&self) -> Vec<&Path> {
        let Sources { graphs, image_data, captions } = &self.sources;
        graphs
            .paths()
            .into_iter()
            .chain([image_data, &self.glove])
            .chain(captions)
            .map(PathBuf::as_path)
            .collect()
    }
}

/// Prepares the data file `out` and returns the counts of each stage.
pub fn prepare(preparation: &Preparation, out: impl AsRef<Path>) -> Result<Stages> {
    let output = Output { option: "--out", path: out.as_ref(), kind: format::KIND };
    check_outputs(&[output], &preparation.inputs())?;
    let Reading { tokeniser, most_expansion } = preparation.reading;
    // The last file is checked before minutes are spent on the first.
    preparation.inputs().into_iter().try_for_each(|path| RawFile::check(path, most_expansion))?;
    let Selection { objects, predicates, images, mut captions, mut stages } =
        select(&preparation.sources, most_expansion, &preparation.filter)?;
    let coco_ids: HashSet<u64> = images.iter().map(|image| image.coco_id).collect();
    captions.retain(|coco_id, _| coco_ids.contains(coco_id));
    let names = objects.iter().chain(&predicates).map(|kept| kept.name.as_str()).chain([IMAGE, IN_IMAGE]);
    let texts = captions.values().flatten().map(String::as_str).chain(names);
    let wanted: HashSet<String> = texts.flat_map(|text| tokeniser.words(text)).collect();
    let glove = WordVectors::read(&preparation.glove, most_expansion, &wanted)?;
    stages.words = wanted.len() as u64;
    stages.words_known = glove.found() as u64;
    stages.word_width = glove.width() as u64;

    let (image_type, in_image) = (objects.len() as u32, predicates.len() as u32);
    let embedded: Vec<(ImageContents, usize)> = images
        .into_par_iter()
        .map(|image| {
            let captions = captions[&image.coco_id].clone();
            let (caption_vector, unknown) = caption_vector(&captions, tokeniser, &glove);
            let graph = SceneGraphBuf::augmented(&image.objects, &image.relationships, image_type, in_image);
            let KeptImage { image_id, coco_id, size, boxes, url, .. } = image;
            (ImageContents { image_id, coco_id, captions, caption_vector, graph, size, boxes, url }, unknown)
        })
        .collect();
    let mut kept = Vec::with_capacity(embedded.len());
    for (image, unknown) in embedded {
        stages.captions += image.captions.len() as u64;
        stages.captions_without_known_word += unknown as u64;
        if unknown == image.captions.len() {
            stages.images_without_known_word += 1;
            continue;
        }
        let objects = image.graph.node_object.len() - 1;
        stages.kept.add(objects, image.graph.edge_subject.len() - objects);
        kept.push(image);
    }
    if kept.is_empty() {
        let problem = format!(
            "no caption of the {} images has a word with a vector: of {} words in captions and names {} have one",
            stages.filtered.images, stages.words, stages.words_known
        );
        let remedy = match tokeniser {
            Tokeniser::Unicode => "give vectors of words in the language of the captions, in lower case",
            Tokeniser::Ascii => {
                "give vectors of the captions' language; --tokeniser ascii takes ASCII words only"
            }
        };
        return Err(Error::invalid(&preparation.glove, "words", problem, remedy));
    }

    let Preparation { split, split_by, seed, .. } = *preparation;
    let ids = |image: &ImageContents| Ids { image_id: image.image_id, coco_id: image.coco_id };
    let parts = divide(kept, split, split_by, seed, ids);
    let counts = parts.each_ref().map(Vec::len);
    stages.splits = counts.map(|count| count as u64);
    stages.twins = Twins::count(
        parts
            .iter()
            .enumerate()
            .flat_map(|(part, images)| images.iter().map(move |image| (image.coco_id, part))),
    );
    if counts[0] < MIN_TRAIN_IMAGES {
        let problem = format!(
            "{} images for train, at least {MIN_TRAIN_IMAGES} are needed: {} images pass the filter, and {} of them \
             have no caption with a known word",
            counts[0], stages.filtered.images, stages.images_without_known_word
        );
        let remedy = "lower --min-occurrences, or raise train's share in --split";
        return Err(Error::invalid(preparation.sources.graphs.path(), "split", problem, remedy));
    }
    let mut contents = DatasetContents {
        word_width: glove.width(),
        objects: types(&objects, IMAGE, tokeniser, &glove),
        predicates: types(&predicates, IN_IMAGE, tokeniser, &glove),
        images: parts,
        metadata: metadata(preparation, &stages),
    };
    contents.write(out)?;
    Ok(stages)
}

/// Mean of the captions' unit vectors, and the number of captions without a known word.
fn caption_vector(captions: &[String], tokeniser: Tokeniser, glove: &WordVectors) -> (Vec<f32>, usize) {
    let mut mean = vec![0.0f32; glove.width()];
    let mut unknown = 0;
    for caption in captions {
        let Some(vector) = glove.mean(tokeniser.words(caption)) else {
            unknown += 1;
            continue;
        };
        let norm = vector.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        if norm == 0.0 {
            unknown += 1;
            continue;
        }
        let scale = (1.0 / (norm * captions.len() as f64)) as f32;
        mean.iter_mut().zip(&vector).for_each(|(total, value)| *total += value * scale);
    }
    (mean, unknown)
}

/// The kept types, followed by the type of the image node or of its edges.
fn types(kept: &[KeptType], last: &str, tokeniser: Tokeniser, glove: &WordVectors) -> Vec<TypeContents> {
    let last = KeptType { name: last.to_string(), occurrences: 0 };
    kept.iter()
        .chain([&last])
        .map(|kept| TypeContents {
            name: kept.name.clone(),
            vector: glove.mean(tokeniser.words(&kept.name)),
            occurrences: kept.occurrences,
        })
        .collect()
}

/// Provenance of the data. Files are named without their folders, which are no property of the data.
fn metadata(preparation: &Preparation, stages: &Stages) -> serde_json::Value {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sources = &preparation.sources;
    let graphs: Vec<String> = sources.graphs.paths().into_iter().map(name).collect();
    json!({
        "options": {
            "filter": preparation.filter,
            "split": preparation.split,
            "split_by": preparation.split_by,
            "seed": preparation.seed,
            (TOKENISER): preparation.reading.tokeniser,
        },
        "sources": {
            "graphs": graphs,
            "image_data": name(&sources.image_data),
            "captions": sources.captions.iter().map(name).collect::<Vec<_>>(),
            "glove": name(&preparation.glove),
        },
        "stages": stages,
    })
}
