//! Converts raw files to one data file: join and filter ([`select`]), caption vectors, split, write.
//!
//! The vector of a caption is the mean of the vectors of its known words, l2-normalised. The vector of an
//! image is the mean of its captions' vectors (docs/model.md, "Supervision"). A caption without a known word, or
//! whose words' vectors are zero, has the zero vector.
//!
//! Memory does not hold the images: graphs, captions and the sections of the data file lie in temporary files without names beside
//! it, together about as large as the data file twice.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::json;

use super::contents::{DatasetWriter, IMAGE, IN_IMAGE, ImageContents, TypeContents};
use super::format;
use super::kept_images::{KeptImage, KeptImages};
use super::raw::coco_captions::Captions;
use super::raw::glove::WordVectors;
use super::raw::raw_file::{EXPANSION, RawFile};
use super::scene_graph::SceneGraphBuf;
use super::selection::{Filter, KeptType, Selection, Sources, select};
use super::split::{SplitBy, SplitRatio, Twins, divide};
use super::stages::Stages;
use super::words::{TOKENISER, Tokeniser};
use crate::files::outputs::{Output, check_outputs};
use crate::{Error, Result};

/// An anchor needs two other images for a triple.
const MIN_TRAIN_IMAGES: usize = 3;
/// Images whose contents are made at once, on all threads.
const IMAGES_AT_A_TIME: usize = 4096;

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
    prepare_file(preparation, out.as_ref())
}

fn prepare_file(preparation: &Preparation, out: &Path) -> Result<Stages> {
    let output = Output { option: "--out", path: out, kind: format::KIND };
    check_outputs(&[output], &preparation.inputs())?;
    let Reading { tokeniser, most_expansion } = preparation.reading;
    // The last file is checked before minutes are spent on the first.
    preparation.inputs().into_iter().try_for_each(|path| RawFile::check(path, most_expansion))?;
    let Selection { objects, predicates, images, captions, mut stages } =
        select(&preparation.sources, most_expansion, &preparation.filter, out)?;
    let names = objects.iter().chain(&predicates).map(|kept| kept.name.as_str()).chain([IMAGE, IN_IMAGE]);
    let mut wanted: HashSet<String> = names.flat_map(|text| tokeniser.words(text)).collect();
    let texts = (0..images.len()).flat_map(|image| captions.of_image(images.ids(image).coco_id));
    texts.for_each(|text| wanted.extend(tokeniser.words(text)));
    let glove = WordVectors::read(&preparation.glove, most_expansion, &wanted)?;
    stages.words = wanted.len() as u64;
    stages.words_known = glove.found() as u64;
    stages.word_width = glove.width() as u64;
    drop(wanted);

    let kept = with_known_words(&images, &captions, tokeniser, &glove, &mut stages);
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
    let mut parts = divide(kept, split, split_by, seed, |&image| images.ids(image as usize));
    let counts = parts.each_ref().map(Vec::len);
    stages.splits = counts.map(|count| count as u64);
    stages.twins = Twins::count(parts.iter().enumerate().flat_map(|(part, of_part)| {
        of_part.iter().map(|&image| images.ids(image as usize).coco_id).map(move |coco_id| (coco_id, part))
    }));
    if counts[0] < MIN_TRAIN_IMAGES {
        let problem = format!(
            "{} images for train, at least {MIN_TRAIN_IMAGES} are needed: {} images pass the filter, and {} of them \
             have no caption with a known word",
            counts[0], stages.filtered.images, stages.images_without_known_word
        );
        let remedy = "lower --min-occurrences, or raise train's share in --split";
        return Err(Error::invalid(preparation.sources.graphs.path(), "split", problem, remedy));
    }

    let (image_type, in_image) = (objects.len() as u32, predicates.len() as u32);
    let contents = |&image: &u32| {
        let KeptImage { image_id, coco_id, size, boxes, url, objects, relationships } =
            images.image(image as usize);
        let captions: Vec<String> = captions.of_image(coco_id).map(str::to_owned).collect();
        let (caption_vector, _) = caption_vector(&captions, tokeniser, &glove);
        let relationships: Vec<(u32, u32, u32)> =
            relationships.iter().map(|&[subject, predicate, object]| (subject, predicate, object)).collect();
        let graph = SceneGraphBuf::augmented(objects, &relationships, image_type, in_image);
        let (boxes, url) = (boxes.to_vec(), url.to_owned());
        ImageContents { image_id, coco_id, captions, caption_vector, graph, size, boxes, url }
    };
    let mut writer = DatasetWriter::beside(out, glove.width())?;
    for part in &mut parts {
        part.sort_by_key(|&image| images.ids(image as usize).image_id);
        for some in part.chunks(IMAGES_AT_A_TIME) {
            let some: Vec<ImageContents> = some.par_iter().map(contents).collect();
            some.iter().try_for_each(|image| writer.push(image))?;
        }
        writer.end_split()?;
    }
    let [objects, predicates] =
        [(&objects, IMAGE), (&predicates, IN_IMAGE)].map(|(kept, last)| types(kept, last, tokeniser, &glove));
    writer.finish(&objects, &predicates, &metadata(preparation, &stages))?;
    Ok(stages)
}

/// Images that have a caption with a known word. Counts captions and graphs.
///
/// The vectors of the captions are not kept: computing them again costs less than room for them.
fn with_known_words(
    images: &KeptImages,
    captions: &Captions,
    tokeniser: Tokeniser,
    glove: &WordVectors,
    stages: &mut Stages,
) -> Vec<u32> {
    let counts = |image: u32| {
        let texts: Vec<&str> = captions.of_image(images.ids(image as usize).coco_id).collect();
        (texts.len(), caption_vector(&texts, tokeniser, glove).1)
    };
    // An index of 32 bits: a graph file of more images than that has other limits.
    let all: Vec<u32> = (0..images.len()).map(|image| u32::try_from(image).expect("fewer images")).collect();
    let mut kept = Vec::with_capacity(all.len());
    for some in all.chunks(IMAGES_AT_A_TIME) {
        let counts: Vec<(usize, usize)> = some.par_iter().map(|&image| counts(image)).collect();
        for (&image, (texts, unknown)) in some.iter().zip(counts) {
            stages.captions += texts as u64;
            stages.captions_without_known_word += unknown as u64;
            if unknown == texts {
                stages.images_without_known_word += 1;
                continue;
            }
            let found = images.image(image as usize);
            stages.kept.add(found.objects.len(), found.relationships.len());
            kept.push(image);
        }
    }
    kept
}

/// Mean of the captions' unit vectors, and the number of captions without a known word.
fn caption_vector(
    captions: &[impl AsRef<str>],
    tokeniser: Tokeniser,
    glove: &WordVectors,
) -> (Vec<f32>, usize) {
    let mut mean = vec![0.0f32; glove.width()];
    let mut unknown = 0;
    for caption in captions {
        let Some(vector) = glove.mean(tokeniser.words(caption.as_ref())) else {
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
